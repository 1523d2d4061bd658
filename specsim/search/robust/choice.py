"""The configuration to choose when rates are uncertain: how likely each is the best, and what choosing wrongly costs.

Rates come as draws, one row for each way that the world may be: all candidates in the same world, so that what they
share (a device slower than thought, drafts kept less often) does not blur their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.acceptance.profile import as_floats
from specsim.errors import InputError

Floats = NDArray[np.float64]
Kind: TypeAlias = Literal["none", "chain", "tree", "dynamic"]

SIMPLEST_FIRST: Final[tuple[Kind, ...]] = ("none", "chain", "tree", "dynamic")
"""No speculation needs no drafter; a chain no tree attention; a static tree no choice in each round."""

TIE_LEVEL: Final = 0.68
"""One standard error to either side (the rule of Breiman et al. 1984 for the size of a tree). At 90 % no speculation
would tie with any that gains less than its error, and win: bundled questions then gave up 8 % of their mean rate."""


@dataclass(frozen=True)
class Candidate:
    """One configuration.

    Args:
        label: For people.
        kind: How much machinery it needs.
        num_nodes: Verified per round, root in; the most, where it varies.
    """

    label: str
    kind: Kind
    num_nodes: int

    def __post_init__(self) -> None:
        if self.kind not in SIMPLEST_FIRST:
            raise InputError("kind", f"must be one of {', '.join(SIMPLEST_FIRST)}", self.kind)

    @property
    def simplicity(self) -> tuple[int, int]:
        """Smaller is simpler: by kind, then by nodes."""
        return SIMPLEST_FIRST.index(self.kind), self.num_nodes


@dataclass(frozen=True, eq=False)
class RobustChoice:
    """The choice, and for each candidate, arrays ``[candidate]``, what speaks for it.

    Args:
        candidates: In the order given.
        level, tie_level: Of the intervals, and of ties.
        mean_rate: Over draws.
        low, high: Central interval of the rate.
        prob_best: Share of draws in which it has the highest rate; equals share it.
        expected_regret: Mean over draws of 1 - rate / highest rate.
        max_regret: Largest 1 - rate / highest rate over the scenarios (over the draws, where none were given).
        highest: The highest mean rate, which is the least expected loss of rate.
        tied: Candidates that the draws do not tell from it at this level.
        chosen: The simplest of these.
        min_max: The least largest regret.
        perfect_information: What knowing the draw beforehand would add to the mean rate, relative to the highest.
    """

    candidates: tuple[Candidate, ...]
    level: float
    tie_level: float
    mean_rate: Floats
    low: Floats
    high: Floats
    prob_best: Floats
    expected_regret: Floats
    max_regret: Floats
    highest: int
    tied: tuple[int, ...]
    chosen: int
    min_max: int
    perfect_information: float

    @property
    def is_tie(self) -> bool:
        """Whether more than one candidate may be the best."""
        return len(self.tied) > 1

    @property
    def given_up(self) -> float:
        """Mean rate that the simpler choice gives up, relative to the highest."""
        return float(1 - self.mean_rate[self.chosen] / self.mean_rate[self.highest])


def robust_choice(
    rates: ArrayLike,
    candidates: Sequence[Candidate],
    *,
    level: float = 0.9,
    tie_level: float = TIE_LEVEL,
    scenarios: ArrayLike | None = None,
) -> RobustChoice:
    """Choose under uncertainty.

    A candidate ties with the one of the highest mean rate if the central interval of their ratio at ``tie_level`` holds
    1; of all that tie, the simplest is chosen.

    Args:
        rates: ``[draw, candidate]``, tokens per second.
        candidates: In the order of the columns.
        level, tie_level: Of the intervals, and of ties.
        scenarios: ``[scenario, candidate]`` rates whose regrets are held down. Over an interval of i.i.d. acceptance
            its two ends suffice for chains, whatever the costs (``robust.best_robust_chain``); for trees the answer
            speaks of these scenarios only.

    Raises:
        InputError: for rates that are not positive, or tables that do not fit the candidates.

    >>> plain, chain = Candidate("plain", "none", 1), Candidate("chain 4", "chain", 5)
    >>> choice = robust_choice([[10.0, 9.0], [10.0, 14.0], [10.0, 13.0], [10.0, 12.0]], [plain, chain], tie_level=0.9)
    >>> choice.prob_best.tolist(), choice.highest, choice.chosen  # a chain that may lose is no reason to speculate
    ([0.25, 0.75], 1, 0)
    """
    table = _rates("rates", rates, len(candidates))
    check_level("level", level)
    check_level("tie_level", tie_level)
    worlds = table if scenarios is None else _rates("scenarios", scenarios, len(candidates))
    means, best = table.mean(axis=0), table.max(axis=1, keepdims=True)
    wins = table == best
    order = sorted(range(len(candidates)), key=lambda i: candidates[i].simplicity)
    highest = max(order, key=lambda i: float(means[i]))  # of equals the simplest
    tails = [(1 - level) / 2, (1 + level) / 2]
    upper = np.quantile(np.log(table / table[:, [highest]]), (1 + tie_level) / 2, axis=0)
    tied = tuple(i for i in range(len(candidates)) if upper[i] >= 0)
    worst = np.max(1 - worlds / worlds.max(axis=1, keepdims=True), axis=0)
    low, high = np.quantile(table, tails, axis=0)
    return RobustChoice(
        candidates=tuple(candidates),
        level=level,
        tie_level=tie_level,
        mean_rate=means,
        low=low,
        high=high,
        prob_best=(wins / wins.sum(axis=1, keepdims=True)).mean(axis=0),
        expected_regret=np.mean(1 - table / best, axis=0),
        max_regret=worst,
        highest=highest,
        tied=tied,
        chosen=min(tied, key=lambda i: (*candidates[i].simplicity, -means[i])),
        min_max=min(order, key=lambda i: float(worst[i])),
        perfect_information=float(best.mean() / means[highest] - 1),
    )


def check_level(field: str, level: float) -> None:
    """Raise InputError unless the level of an interval is inside (0, 1)."""
    if not 0 < level < 1:
        raise InputError(field, "must be between 0 and 1", level)


def _rates(field: str, rates: ArrayLike, num_candidates: int) -> Floats:
    table = as_floats(field, rates, ndim=2)
    if table.shape[1] != num_candidates:
        raise InputError(field, f"must have a column for each of {num_candidates} candidates", table.shape)
    if not (np.isfinite(table) & (table > 0)).all():
        raise InputError(field, "must be above 0 and finite", float(table[~(np.isfinite(table) & (table > 0))][0]))
    return table
