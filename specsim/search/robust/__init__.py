"""The choice under uncertainty: what is best how often, what it costs to be wrong, what is worth measuring."""
