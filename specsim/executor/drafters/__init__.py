"""What proposes tokens: each drafter is a file here, its contract is ``base.Drafter``."""
