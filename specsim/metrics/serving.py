"""What users saw: latencies, percentiles with intervals, goodput, throughput, cost.

One run is one long sample of requests that wait for each other, so their spread says little about the error of their
mean. Intervals come from blocks of requests that arrived together, or from independent replications of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from specsim.errors import InputError
from specsim.workload.log import RequestLog, StepLog

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Latency = Literal["ttft_s", "tpot_s", "itl_s", "e2e_s", "queueing_s", "longest_itl_s"]
LATENCIES: Final[tuple[Latency, ...]] = ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queueing_s", "longest_itl_s")
PERCENTILES: Final = (50.0, 90.0, 95.0, 99.0)
NUM_BLOCKS: Final = 20
LEAST_FOR_QUANTILES: Final = 100
"""Values from which on a percentile gets an interval."""
LEAST_RUNS: Final = 4
"""Replications from which on their own means say how far the figures are known."""


def latency(log: RequestLog, kind: Latency) -> Floats:
    """Seconds ``[N]`` of every request; NaN where it had none.

    ``ttft_s``: arrival to first token. ``tpot_s``: time per token after the first. ``itl_s``: time between pieces of
    output as a client sees them, which carry several tokens each under speculation. ``e2e_s``: arrival to last token.
    ``queueing_s``: arrival to admission. ``longest_itl_s``: the longest wait between two pieces.
    """
    decoding = log.finished_s - log.first_token_s
    with np.errstate(invalid="ignore", divide="ignore"):
        match kind:
            case "ttft_s":
                return log.first_token_s - log.arrival_s
            case "tpot_s":
                return np.where(log.output_tokens > 1, decoding / (log.output_tokens - 1), np.nan)
            case "itl_s":
                return np.where(log.num_rounds > 0, decoding / log.num_rounds, np.nan)
            case "e2e_s":
                return log.finished_s - log.arrival_s
            case "queueing_s":
                return log.admitted_s - log.arrival_s
            case "longest_itl_s":
                return log.longest_itl_s


@dataclass(frozen=True)
class Interval:
    """A figure with its interval; the ends are NaN where there is too little to form one."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Target:
    """Latency targets; a request meets them if it meets each that is given.

    >>> Target(ttft_s=0.5).tpot_s
    inf
    """

    ttft_s: float = np.inf
    tpot_s: float = np.inf
    e2e_s: float = np.inf

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tpot_s", "e2e_s"):
            if not getattr(self, name) > 0:
                raise InputError(name, "must be > 0", getattr(self, name))

    def met(self, log: RequestLog) -> Bools:
        """Which requests met it, ``[N]``; one that did not finish met nothing."""
        met = np.isfinite(log.finished_s)
        for name in ("ttft_s", "e2e_s"):
            with np.errstate(invalid="ignore"):
                met &= latency(log, name) <= getattr(self, name)
        tpot = latency(log, "tpot_s")
        with np.errstate(invalid="ignore"):
            return met & (np.isnan(tpot) | (tpot <= self.tpot_s))


@dataclass(frozen=True)
class ServingSummary:
    """A run, warm-up removed.

    Args:
        num_requests: Finished requests that the figures are of.
        num_refused, num_unfinished: Requests left out, and why.
        window_s: Length of the time that rates are of: from the end of the warm-up to the last arrival before the
            cool-down; to the last token where that is less than two requests' time, as when all come at once.
        requests_per_s, tokens_per_s: Of the whole deployment, out of it during that time, whenever they arrived.
        tokens_per_s_per_gpu: The same of each device.
        mean: Of each latency, with its interval.
        percentiles: Of each latency and each of ``PERCENTILES``.
        goodput_per_s: Requests per second, out of it during that time, that met the targets.
        attained: Share of requests that did, of those that finished.
        tokens_per_round: Emitted per decoding round, bonus in.
        accepted_frac: Accepted over drafted tokens; NaN without drafts.
        num_preempted: Times that a request lost its cache.
        cached_frac: Share of prompt tokens found in the prefix cache.
        usd_per_million_tokens, joules_per_token: Where a price and a power are given.
    """

    num_requests: int
    num_refused: int
    num_unfinished: int
    window_s: float
    requests_per_s: float
    tokens_per_s: Interval
    tokens_per_s_per_gpu: float
    mean: dict[Latency, Interval]
    percentiles: dict[Latency, dict[float, Interval]]
    goodput_per_s: Interval
    attained: Interval
    tokens_per_round: float
    accepted_frac: float
    num_preempted: int
    cached_frac: float
    usd_per_million_tokens: float | None
    joules_per_token: float | None


def summary(
    logs: RequestLog | Sequence[RequestLog],
    *,
    warmup_s: float = 0.0,
    cooldown_s: float = 0.0,
    target: Target = Target(),
    num_gpus: int = 1,
    usd_per_s: float | None = None,
    power_w: float | None = None,
    level: float = 0.9,
) -> ServingSummary:
    """Metrics of one run, or of independent replications of it.

    Args:
        logs: Of one run or of independent replications; of less than ``LEAST_RUNS``, intervals are from ``NUM_BLOCKS``
            blocks of them all together, of more from their means.
        warmup_s: Requests that arrived earlier are left out: the server was still filling.
        cooldown_s: Requests that arrived in the last so many seconds are left out: they saw an emptying server.
        target: What counts as good.
        num_gpus: Devices of the whole deployment.
        usd_per_s, power_w: Price and electrical power of the whole deployment while it is up.
        level: Probability of the intervals.

    Raises:
        InputError: where no finished request is left, and for a count, a time or a level out of range.
    """
    runs = [logs] if isinstance(logs, RequestLog) else list(logs)
    for name, value, least in (("warmup_s", warmup_s, 0), ("cooldown_s", cooldown_s, 0), ("num_gpus", num_gpus, 1)):
        if not value >= least:
            raise InputError(name, f"must be >= {least}", value)
    if not 0 < level < 1:
        raise InputError("level", "must be between 0 and 1", level)
    kept = [steady(run, warmup_s, cooldown_s) for run in runs]
    windows = [_window(run, one, warmup_s, cooldown_s) for run, one in zip(runs, kept, strict=True)]
    whole, window = _joined(kept), sum(end_s - start_s for start_s, end_s in windows)
    block = blocks_of([len(one) for one in kept])
    left = [_left(run, target, *ends) for run, ends in zip(runs, windows, strict=True)]
    out, done, good = (np.concatenate([one[part] for one in left]) for part in range(3))
    of_left = blocks_of([len(one[0]) for one in left])
    met, rounds, drafted = target.met(whole), int(whole.num_rounds.sum()), int(whole.num_drafted.sum())
    figures = {kind: _figures(latency(whole, kind), block, level) for kind in LATENCIES}
    tokens = _rate(out, of_left, window, level)
    return ServingSummary(
        num_requests=len(whole),
        num_refused=int(sum((run.refused == 1).sum() for run in runs)),
        num_unfinished=int(sum((np.isnan(run.finished_s) & (run.refused != 1)).sum() for run in runs)),
        window_s=window,
        requests_per_s=float(done.sum()) / window,
        tokens_per_s=tokens,
        tokens_per_s_per_gpu=tokens.value / num_gpus,
        mean={kind: mean for kind, (mean, _) in figures.items()},
        percentiles={kind: percentiles for kind, (_, percentiles) in figures.items()},
        goodput_per_s=_rate(good, of_left, window, level),
        attained=_mean(met.astype(np.float64), block, level),
        tokens_per_round=1 + float(whole.num_accepted.sum()) / rounds if rounds else float("nan"),
        accepted_frac=float(whole.num_accepted.sum()) / drafted if drafted else float("nan"),
        num_preempted=int(whole.num_preempted.sum()),
        cached_frac=float(whole.cached_tokens.sum() / whole.prompt_tokens.sum()),
        usd_per_million_tokens=_over(usd_per_s, tokens.value * 1e-6),
        joules_per_token=_over(power_w, tokens.value),
    )


def steady(log: RequestLog, warmup_s: float, cooldown_s: float) -> RequestLog:
    """Finished requests that arrived between warm-up and cool-down, in order of arrival."""
    last = float(log.arrival_s.max(initial=0.0))
    inside = (log.arrival_s >= warmup_s) & (log.arrival_s <= last - cooldown_s) & np.isfinite(log.finished_s)
    rows = np.flatnonzero(inside)
    if not rows.size:
        raise InputError("requests", f"must leave a finished one after {warmup_s:g} s of warm-up", len(log))
    return _rows(log, rows[np.argsort(log.arrival_s[rows], kind="stable")])


def _window(log: RequestLog, kept: RequestLog, warmup_s: float, cooldown_s: float) -> tuple[float, float]:
    """Begin and end of the time that rates are of; ``kept`` are the requests that arrived in it."""
    last_s = float(log.arrival_s.max()) - cooldown_s
    passes = last_s - warmup_s >= 2 * float(np.median(kept.finished_s - kept.arrival_s))
    return warmup_s, last_s if passes else float(kept.finished_s.max())


def _left(log: RequestLog, target: Target, start_s: float, end_s: float) -> tuple[Floats, Floats, Floats]:
    """Of requests that finished, in order of arrival: tokens of each that came out in a window; 1 for each that
    finished in it; 1 for each of these that met the target.

    Tokens are taken as even between a request's first and last.
    """
    rows = np.flatnonzero(np.isfinite(log.finished_s))
    done = _rows(log, rows[np.argsort(log.arrival_s[rows], kind="stable")])
    took_s = done.finished_s - done.first_token_s
    inside_s = np.minimum(done.finished_s, end_s) - np.maximum(done.first_token_s, start_s)
    ended = ((done.finished_s >= start_s) & (done.finished_s <= end_s)).astype(np.float64)
    share = np.divide(np.maximum(inside_s, 0.0), took_s, out=ended.copy(), where=took_s > 0)
    return share * done.output_tokens, ended, ended * target.met(done)


def _over(amount: float | None, rate: float) -> float | None:
    return None if amount is None or rate == 0 else amount / rate


def _rows(log: RequestLog, rows: NDArray[np.int64]) -> RequestLog:
    return RequestLog(**{name: column[rows] for name, column in vars(log).items()})


def _joined(logs: Sequence[RequestLog]) -> RequestLog:
    return RequestLog(**{name: np.concatenate([vars(log)[name] for log in logs]) for name in vars(logs[0])})


def blocks_of(num_requests: Sequence[int]) -> Ints:
    """Number of the block of each request of runs with so many, ``[N]``: a run, or a stretch of one, nearly equal.

    >>> len(set(blocks_of([100]).tolist())), len(set(blocks_of([50, 50]).tolist())), blocks_of([2, 1, 1, 1]).tolist()
    (20, 20, [0, 0, 1, 2, 3])
    """
    each = 1 if len(num_requests) >= LEAST_RUNS else -(-NUM_BLOCKS // len(num_requests))
    sizes = [len(rows) for num in num_requests if num for rows in np.array_split(np.arange(num), min(each, num))]
    return np.repeat(np.arange(len(sizes)), sizes)


def _figures(values: Floats, block: Ints, level: float) -> tuple[Interval, dict[float, Interval]]:
    """Mean and percentiles of what is known of ``values[N]``, with intervals."""
    num = int(block[-1]) + 1
    order = np.argsort(values, kind="stable")
    order = order[: len(values) - int(np.isnan(values).sum())]  # NaN sorts last
    ordered, of = values[order], block[order]
    sums, counts = np.bincount(of, ordered, num), np.bincount(of, minlength=num)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums.sum() / counts.sum()
        mean_left = (sums.sum() - sums) / (counts.sum() - counts)
    whole = quantiles(ordered)
    left = np.array([quantiles(ordered[of != one]) for one in range(num)])
    if ordered.size < LEAST_FOR_QUANTILES:
        left[:] = np.nan  # leaving out a block moves a percentile of a few values by steps, or not at all
    percentiles = {q: jackknife(whole[i], left[:, i], level) for i, q in enumerate(PERCENTILES)}
    return jackknife(float(mean), mean_left, level), percentiles


def _mean(values: Floats, block: Ints, level: float) -> Interval:
    sums, counts = np.bincount(block, values), np.bincount(block)
    left = (sums.sum() - sums) / (counts.sum() - counts) if len(sums) > 1 else np.full(1, np.nan)
    return jackknife(float(values.mean()), left, level)


def quantiles(ordered: Floats) -> Floats:
    """``PERCENTILES`` of sorted values, between neighbours in proportion, as numpy has them."""
    if not ordered.size:
        return np.full(len(PERCENTILES), np.nan)
    place = np.array(PERCENTILES) / 100 * (ordered.size - 1)
    below = np.minimum(place.astype(np.int64), max(ordered.size - 2, 0))
    above = np.minimum(below + 1, ordered.size - 1)
    found: Floats = ordered[below] + (place - below) * (ordered[above] - ordered[below])
    return found


def _rate(amounts: NDArray[Any], block: Ints, window_s: float, level: float) -> Interval:
    """Their sum per second; a block left out takes its share of the time with it."""
    sums = np.bincount(block, amounts.astype(np.float64))
    num = len(sums)
    left = (sums.sum() - sums) / (window_s * (num - 1) / num) if num > 1 else np.full(1, np.nan)
    return jackknife(float(sums.sum()) / window_s, left, level)


def jackknife(value: float, left: Floats, level: float) -> Interval:
    """A figure with the interval that it has by its values ``left[B]``, each without one block (Kunsch 1989)."""
    num = len(left)
    if num < 4 or not np.isfinite(left).all():
        return Interval(value, float("nan"), float("nan"))
    error = np.sqrt((num - 1) / num * np.sum((left - left.mean()) ** 2))
    from scipy.special import stdtrit

    reach = float(stdtrit(num - 1, (1 + level) / 2) * error)
    return Interval(value, value - reach, value + reach)


def kv_occupancy(steps: StepLog, num_blocks: int) -> tuple[float, float]:
    """Mean (over time) and largest share of ``num_blocks`` blocks of KV memory that were held.

    Raises:
        InputError: without steps, or for less than one block.
    """
    if not len(steps) or num_blocks < 1:
        raise InputError("steps, num_blocks", "must be at least one each", (len(steps), num_blocks))
    held = np.average(steps.kv_blocks, weights=np.maximum(steps.duration_s, 1e-300))
    return float(held) / num_blocks, float(steps.kv_blocks.max()) / num_blocks
