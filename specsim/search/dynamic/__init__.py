"""Trees that grow by confidence: played once, priced anywhere, tuned with intervals."""
