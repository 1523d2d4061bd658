"""What records say, whoever wrote them: ``rounds`` of single decoding rounds, ``serving`` of requests under load."""

from specsim.metrics.rounds import (
    accepted_counts,
    spread_between_requests,
    time_per_token_s,
    tokens_per_round,
    tokens_per_s,
)

__all__ = ["accepted_counts", "spread_between_requests", "time_per_token_s", "tokens_per_round", "tokens_per_s"]
