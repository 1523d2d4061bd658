"""Pass times of methods whose drafters and trees differ: wide trees, heads, skipped layers, windows.

``calibrate.steps`` times one pair of models on small trees; here each drafter has passes of its own, the target's go
up to a hundred nodes, and what the host does is a time per round of each method.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from specsim.records import TimedRound
from specsim.work import BOUNDS, Cost, Float, HostWork, Pass, Work, by_bound

FEW: Final = 6
"""A token count seen less often has no time of its own, but lies on the line between its neighbours."""


@dataclass(frozen=True, eq=False)
class PassTimes:
    """Seconds of a model's pass.

    Args:
        knots: Token counts.
        seconds: Of a pass over as many, with an empty cache.
        context_s: More for each token of context.
        first_s: More for the first pass of a round, whose caches the other model has emptied.
    """

    knots: Float
    seconds: Float
    context_s: float
    first_s: float

    def time_s(self, work: Pass) -> Float:
        """Shape ``[...]`` of the passes; beyond the last two knots their line goes on."""
        tokens = work.total_new_tokens
        time = np.interp(tokens, self.knots, self.seconds)
        if len(self.knots) > 1:
            slope = (self.seconds[-1] - self.seconds[-2]) / (self.knots[-1] - self.knots[-2])
            time = time + np.maximum(tokens - self.knots[-1], 0) * max(slope, 0.0)
        context = np.sum(work.context_tokens * work.num_seqs, axis=-1)
        return np.asarray(np.maximum(time + self.context_s * context + self.first_s * _is_first(work), 0.0))


def fit_pass_times(samples: Iterable[tuple[Pass, float]]) -> PassTimes:
    """Least squares over timed passes of one model, then again without the outer hundredths.

    Token counts that were seen have a time of their own, since kernels change with the count; linear between.

    >>> passes = [Pass("target", "verify", [n], [100.0]) for n in (1, 2, 4) for _ in range(9)]
    >>> times = fit_pass_times((work, 0.01 + 0.002 * work.total_new_tokens.item()) for work in passes)
    >>> round(float(times.time_s(Pass("target", "verify", [3], [100.0]))), 4)
    0.016
    """
    works, times = zip(*samples, strict=True)
    tokens = np.array([float(work.total_new_tokens) for work in works])
    context = np.array([float(np.sum(work.context_tokens * work.num_seqs)) for work in works])
    first = np.array([_is_first(work) for work in works])
    counts, seen = np.unique(tokens, return_counts=True)
    knots = counts[(seen >= FEW) | (counts == counts[0]) | (counts == counts[-1])]
    hats = np.stack([np.interp(tokens, knots, row) for row in np.eye(len(knots))], axis=1)
    varies = [part if part.std() > 0 else np.zeros_like(part) for part in (context / 1000, first)]
    design, seconds = np.column_stack([hats, *varies]), np.array(times)
    kept = np.ones(len(seconds), dtype=bool)
    for _ in range(2):
        coef = np.linalg.lstsq(design[kept], seconds[kept], rcond=None)[0]
        ratio = seconds / np.maximum(design @ coef, 1e-9)
        low, high = np.quantile(ratio, (0.01, 0.99))
        kept = (ratio >= low) & (ratio <= high)
    return PassTimes(knots, coef[: len(knots)], float(coef[-2]) / 1000, float(coef[-1]))


def host_s(rounds: Sequence[TimedRound]) -> float:
    """Seconds of a round that no pass takes: the mean over rounds without the slowest few in a hundred."""
    times = sorted(sum(s for work, s in r.works if not isinstance(work, Pass)) for r in rounds)
    return float(np.mean(times[: max(1, round(0.97 * len(times)))]))


def passes_of(rounds: Iterable[TimedRound], role: str) -> list[tuple[Pass, float]]:
    """The timed passes of one model."""
    return [(work, s) for timed in rounds for work, s in timed.works if isinstance(work, Pass) and work.role == role]


@dataclass(frozen=True, eq=False)
class MethodCost:
    """Prices the work of one method; a ``CostModel``.

    Args:
        target: Of its passes.
        draft: None for a drafter without passes.
        host_s: Seconds of the host, per round.
        window_tokens: Tokens that ride in the target's pass beside the tree.
    """

    target: PassTimes
    draft: PassTimes | None
    host_s: float
    window_tokens: int = 0

    @property
    def log_sd(self) -> Float:
        return np.zeros(len(BOUNDS))

    def price(self, work: Work) -> Cost:
        seconds = self._seconds(work)
        return Cost(np.zeros(()), np.zeros(()), by_bound(seconds.shape, measured=seconds), np.zeros(seconds.shape))

    def _seconds(self, work: Work) -> Float:
        if isinstance(work, Pass):
            if work.role == "target":
                return self.target.time_s(_widened(work, self.window_tokens))
            assert self.draft is not None
            return self.draft.time_s(work)
        # The host's time is known by the round, not by its pieces; every round has one step.
        return np.array(self.host_s if isinstance(work, HostWork) and work.kind == "step" else 0.0)


def _widened(work: Pass, num_tokens: int) -> Pass:
    if not num_tokens:
        return work
    plain = Pass(work.role, work.kind, work.new_tokens, work.context_tokens, work.num_seqs, work.nodes)
    return replace(plain, new_tokens=plain.new_tokens + num_tokens)


def _is_first(work: Pass) -> float:
    return float(work.role == "draft" and 0 in work.nodes)
