"""A choice for every batch size, compressed to a few tiers: the least loss for each number of tiers, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.errors import InfeasibleError, InputError
from specsim.search.exact.certificate import Array, checked_count

MAX_BATCH: Final = 2048
"""Largest table; the search takes its square in memory."""
SAME: Final = 1e-12
"""Losses that rounding tells apart."""


class Tier(NamedTuple):
    """One draft length for all batch sizes from ``first`` to ``last``."""

    first: int
    last: int
    draft_len: int


@dataclass(frozen=True)
class Tiers:
    """A compressed schedule.

    Args:
        tiers: From batch size 1 on, without gaps.
        loss: Weighted mean over the batch sizes of the share of the best rate that is given up.
        worst_loss, worst_batch: The largest such share, and where.
    """

    tiers: tuple[Tier, ...]
    loss: float
    worst_loss: float
    worst_batch: int

    def draft_len(self, batch: int) -> int:
        """The draft length at a batch size; the last tier also holds above its end.

        >>> Tiers((Tier(1, 8, 4), Tier(9, 32, 2)), 0.0, 0.0, 1).draft_len(9)
        2
        """
        return next((t.draft_len for t in self.tiers if batch <= t.last), self.tiers[-1].draft_len)


def best_tiers(
    rates: ArrayLike,
    draft_lens: Sequence[int],
    max_tiers: int,
    tolerance: float = 0.0,
    ends: Sequence[int] | None = None,
    weights: ArrayLike | None = None,
) -> Tiers:
    """The fewest tiers whose mean loss is within ``tolerance`` of what any number of tiers could reach.

    Args:
        rates: ``[batch - 1, choice]``, tokens per second; 0 where a choice can not run.
        draft_lens: Of the choices, rising; of equally good ones the first is taken.
        max_tiers: At most so many.
        tolerance: Mean loss that may be added for fewer tiers.
        ends: Batch sizes at which a tier may end, beside the last; None: all.
        weights: ``[batch - 1]``, how much each batch size counts; None: all alike.

    Raises:
        InputError: for tables that do not fit each other.
        InfeasibleError: where a batch size has no choice that runs, or no tier can hold all of its own.

    >>> rates = [[1, 3, 4], [1, 3, 4], [2, 3, 1], [4, 1, 1]]
    >>> best_tiers(rates, [0, 2, 4], max_tiers=2).tiers  # batch 3 alone would want 2
    (Tier(first=1, last=2, draft_len=4), Tier(first=3, last=4, draft_len=0))
    """
    table, weight = _checked(rates, draft_lens, weights)
    checked_count("max_tiers", max_tiers, 1)
    loss = 1 - table / table.max(axis=1, keepdims=True)
    num = len(table)
    allowed = np.ones(num, bool) if ends is None else np.isin(np.arange(1, num + 1), list(ends))
    allowed[-1] = True
    stops = np.concatenate(([0], np.flatnonzero(allowed) + 1))
    segment, choice = _segments(loss, weight, table, stops)
    reached, came = _by_count(segment, min(max_tiers, len(stops) - 1))
    if not np.isfinite(reached).any():
        raise InfeasibleError(f"no {max_tiers} tiers hold a draft length that fits at every batch size up to {num}")
    goal = np.nanmin(reached) + tolerance + SAME
    count = int(np.argmax(reached <= goal))
    places = [len(stops) - 1]
    for tiers in range(count, -1, -1):
        places.append(int(came[tiers][places[-1]]))
    cuts = places[::-1]
    found = [Tier(int(stops[a]) + 1, int(stops[b]), draft_lens[choice[a, b]]) for a, b in pairwise(cuts)]
    return _told(tuple(_merged(found)), loss, weight, list(draft_lens))


def best_cut(
    rates: ArrayLike, draft_lens: Sequence[int], tolerance: float = 0.0, weights: ArrayLike | None = None
) -> Tiers:
    """One draft length up to some batch size and none beyond, or one for all where that loses no more than
    ``tolerance``: what an engine can hold that is told a length and where to turn it off.

    Args, raises: as of ``best_tiers``. Without a draft length of 0 there is one length for all.

    >>> best_cut([[1, 3, 4], [1, 3, 4], [2, 3, 1], [4, 1, 1]], [0, 2, 4]).tiers
    (Tier(first=1, last=2, draft_len=4), Tier(first=3, last=4, draft_len=0))
    """
    table, weight = _checked(rates, draft_lens, weights)
    loss = 1 - table / table.max(axis=1, keepdims=True)
    each = np.where(table > 0, weight[:, None] * loss, np.inf)
    nothing = np.zeros((1, table.shape[1]))
    upto = np.concatenate((nothing, np.cumsum(each, axis=0)))
    alone = upto[-1]
    off = list(draft_lens).index(0) if 0 in draft_lens else None
    found = [Tier(1, len(table), draft_lens[int(alone.argmin())])]
    if off is not None:
        after = np.append(np.cumsum(each[::-1, off])[::-1], 0.0)
        both = upto + after[:, None]
        last, choice = (int(i) for i in np.unravel_index(both.argmin(), both.shape))
        if alone.min() > both[last, choice] + tolerance + SAME:
            found = [Tier(1, last, draft_lens[choice]), Tier(last + 1, len(table), 0)]
    elif not np.isfinite(alone).any():
        raise InfeasibleError(f"no draft length fits at every batch size up to {len(table)}")
    return _told(tuple(found), loss, weight, list(draft_lens))


def _segments(loss: Array, weight: Array, table: Array, stops: NDArray[np.intp]) -> tuple[Array, NDArray[np.intp]]:
    """Least weighted loss ``[from stop, to stop]`` of one choice for all batch sizes between, and which choice."""
    shape = len(stops), len(stops)
    least, choice = np.full(shape, np.inf), np.zeros(shape, np.intp)
    for index in range(table.shape[1]):
        upto = np.concatenate(([0.0], np.cumsum(weight * loss[:, index])))[stops]
        broken = np.concatenate(([0], np.cumsum(table[:, index] <= 0)))[stops]
        cost = upto[None, :] - upto[:, None] + np.where(broken[None, :] > broken[:, None], np.inf, 0.0)
        better = cost < least - SAME
        least, choice = np.where(better, cost, least), np.where(better, index, choice)
    least[np.tril_indices(len(stops))] = np.inf
    return np.asarray(least), np.asarray(choice)


def _by_count(segment: Array, most: int) -> tuple[Array, list[NDArray[np.intp]]]:
    """Least loss up to the end with 1, 2, .. tiers, and where the last of them began, by stop."""
    at = np.full(len(segment), np.inf)
    at[0] = 0.0
    reached: list[float] = []
    came: list[NDArray[np.intp]] = []
    for _ in range(most):
        through = at[:, None] + segment
        came.append(through.argmin(axis=0))
        at = through.min(axis=0)
        reached.append(float(at[-1]))
    return np.array(reached), came


def _merged(tiers: Sequence[Tier]) -> list[Tier]:
    kept: list[Tier] = []
    for tier in tiers:
        if kept and kept[-1].draft_len == tier.draft_len:
            tier = Tier(kept.pop().first, tier.last, tier.draft_len)
        kept.append(tier)
    return kept


def _told(tiers: tuple[Tier, ...], loss: Array, weight: Array, draft_lens: list[int]) -> Tiers:
    each = np.concatenate([loss[t.first - 1 : t.last, draft_lens.index(t.draft_len)] for t in tiers])
    worst = int(each.argmax())
    return Tiers(tiers, max(0.0, float(each @ weight)), max(0.0, float(each[worst])), worst + 1)


def _checked(rates: ArrayLike, draft_lens: Sequence[int], weights: ArrayLike | None) -> tuple[Array, Array]:
    table = np.array(rates, float)
    if table.ndim != 2 or table.shape[1] != len(draft_lens) or not table.size:
        raise InputError("rates", f"must be a table [batch - 1][{len(draft_lens)} draft lengths]", table.shape)
    checked_count("rates: batch sizes", len(table), 1, MAX_BATCH)
    if not (np.isfinite(table) & (table >= 0)).all():
        raise InputError("rates", "must be >= 0 and finite")
    if not (table.max(axis=1) > 0).all():
        batch = int((table.max(axis=1) > 0).argmin()) + 1
        raise InfeasibleError(f"no draft length fits at batch size {batch}")
    weight = np.ones(len(table)) if weights is None else np.array(weights, float)
    if weight.shape != table.shape[:1] or not (np.isfinite(weight) & (weight >= 0)).all() or not weight.sum() > 0:
        raise InputError("weights", f"must be {len(table)} numbers >= 0, not all 0", weight.tolist())
    return table, np.asarray(weight / weight.sum())
