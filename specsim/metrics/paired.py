"""Two runs of the same requests: how one compares with the other, where luck and load are common and cancel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specsim.errors import InputError
from specsim.metrics.serving import PERCENTILES, Floats, Interval, Latency, blocks_of, jackknife, latency
from specsim.workload.log import RequestLog

Pair = tuple[RequestLog, RequestLog]


@dataclass(frozen=True)
class Ratios:
    """The first run's figure over the second's: of the mean, and of each of ``PERCENTILES``."""

    mean: Interval
    percentiles: dict[float, Interval]


def ratios(pairs: Sequence[Pair], kind: Latency, *, warmup_s: float = 0.0, level: float = 0.9) -> Ratios:
    """Ratios of a latency over the requests that both runs of a pair finished.

    A block of requests is left out of both runs at once, so what the two share does not widen the interval.

    Args:
        pairs: Replications; within each, both runs saw the same requests.
        kind: Which latency.
        warmup_s: Requests that arrived earlier in either run are left out.
        level: Probability of the intervals.

    Raises:
        InputError: where no request is left.
    """
    kept = [_both(pair, kind, warmup_s) for pair in pairs]
    if not sum(len(first) for first, _ in kept):
        raise InputError("requests", "must leave one that both runs finished after the warm-up", 0)
    block = blocks_of([len(first) for first, _ in kept])
    first, second = (np.concatenate([one[side] for one in kept]) for side in (0, 1))
    whole = _statistics(first, second)
    left = np.array([_statistics(first[block != one], second[block != one]) for one in range(int(block[-1]) + 1)])
    found = [jackknife(float(whole[i]), left[:, i], level) for i in range(len(whole))]
    return Ratios(found[0], dict(zip(PERCENTILES, found[1:], strict=True)))


def _both(pair: Pair, kind: Latency, warmup_s: float) -> tuple[Floats, Floats]:
    """The latency of requests that have one in both, in order of their numbers."""
    first, second = pair
    _, rows, others = np.intersect1d(first.request, second.request, assume_unique=True, return_indices=True)
    values, other_values = latency(first, kind)[rows], latency(second, kind)[others]
    known = np.isfinite(values) & np.isfinite(other_values)
    known &= (first.arrival_s[rows] >= warmup_s) & (second.arrival_s[others] >= warmup_s)
    return values[known], other_values[known]


def _statistics(first: Floats, second: Floats) -> Floats:
    """Ratios ``[1 + len(PERCENTILES)]``; NaN of nothing, and of nothing by nothing."""
    if not first.size:
        return np.full(1 + len(PERCENTILES), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.array([first.mean() / second.mean()])
        spread = np.percentile(first, PERCENTILES) / np.percentile(second, PERCENTILES)
    return np.concatenate((mean, spread))
