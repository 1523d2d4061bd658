"""What records say, whoever wrote them: the executor or the simulator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from specsim.errors import InputError
from specsim.records import RoundRecord

Records = Sequence[RoundRecord]


def tokens_per_round(records: Records) -> float:
    """Mean tokens emitted per round and sequence, bonus token in, before a limit cut the last round."""
    return sum(r.num_emitted for r in _some(records)) / len(records)


def time_per_token_s(records: Records) -> float:
    """Mean seconds between a sequence's tokens (TPOT), its rounds' time alone: no queueing, no prompts.

    A ratio of sums, since a long-run rate is E[tokens] / E[time]; rounds that emit more weigh no more.
    """
    return sum(r.time_s for r in _some(records)) / sum(r.num_emitted for r in records)


def tokens_per_s(records: Records, concurrency: int = 1) -> float:
    """Tokens per second of ``concurrency`` sequences that each go on as the recorded ones did."""
    if concurrency < 1:
        raise InputError("concurrency", "must be >= 1", concurrency)
    return concurrency / time_per_token_s(records)


def accepted_counts(records: Records) -> NDArray[np.int64]:
    """How many rounds kept exactly n draft tokens, ``[n]``, up to the longest that was kept."""
    return np.bincount([r.num_accepted for r in _some(records)]).astype(np.int64)


def spread_between_requests(records: Records) -> float:
    """Standard deviation between requests of their mean accepted tokens per round, relative to the overall mean.

    A mean over n new requests strays from one over m known ones by about this times sqrt(1 / n + 1 / m).
    """
    by_request: dict[int, list[int]] = defaultdict(list)
    for record in _some(records):
        by_request[record.request].append(record.num_accepted)
    means = np.array([np.mean(counts) for counts in by_request.values()])
    if len(means) < 2:
        raise InputError("records", "must be of at least two requests", len(means))
    return float(np.std(means, ddof=1) / np.mean(means)) if means.any() else 0.0


def _some(records: Records) -> Records:
    if not records:
        raise InputError("records", "must hold at least one round", 0)
    return records
