"""Sizes that follow the context, beyond ``sizing``: drafting priced too, one threshold, one size for all.

The best rate is a price of time: each context takes the nodes that are worth it. If a node more always costs the same,
that is one threshold on path probability, whatever the context; if verification steps, sizes end where a step ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from specsim.errors import InputError
from specsim.search.exact.certificate import Array, checked_costs, checked_count, probs_or_none


@dataclass(frozen=True, eq=False)
class PricedSizes:
    """The best size of each context (nodes, root in), the mean tokens / mean cost of all, and the rounds it took."""

    num_nodes: tuple[int, ...]
    rate: float
    iterations: int


def best_priced_sizes(
    path_probs: Sequence[ArrayLike],
    depths: Sequence[Sequence[int]],
    verify_cost: ArrayLike,
    level_cost: ArrayLike,
) -> PricedSizes:
    """How many nodes to draft and verify in each context, equally likely, for the highest mean tokens / mean cost.

    Args:
        path_probs: Of each context's candidates, root left out, descending.
        depths: Of the same nodes. A level is paid once, by the first node that is so deep.
        verify_cost: ``[nodes - 1]``, root in.
        level_cost: ``[depth - 1]`` of drafting each level.

    Raises:
        InputError: for probabilities that rise, tables too short, costs that are not positive.

    Source: Dinkelbach 1967; with no level cost it is ``sizing.best_sizes``.

    >>> best_priced_sizes([[0.9, 0.8], [0.2, 0.1]], [[1, 2], [1, 1]], [1.0, 1.1, 1.2], [0.2, 0.2]).num_nodes
    (3, 1)
    """
    verify = checked_costs("verify_cost", verify_cost, positive=True)
    levels = np.concatenate(([0.0], np.cumsum(checked_costs("level_cost", level_cost))))
    checked_count("contexts", len(path_probs), 1)
    if len(depths) != len(path_probs):
        raise InputError("depths", f"must be of {len(path_probs)} contexts", len(depths))
    tokens, costs = [], []
    for number, (probs, depth) in enumerate(zip(path_probs, depths, strict=True)):
        row, level = probs_or_none(f"contexts[{number}]", probs), np.array(depth, dtype=np.int64)
        if np.any(np.diff(row) > 0):
            raise InputError(f"contexts[{number}]", "must be descending", row.tolist())
        if len(level) != len(row) or (len(level) and not 1 <= level.min() <= level.max() < len(levels)):
            raise InputError(f"depths[{number}]", f"must be {len(row)} from 1 to {len(levels) - 1}", level.tolist())
        deepest = np.concatenate(([0], np.maximum.accumulate(level)))[: len(verify)]
        tokens.append(np.concatenate(([1.0], 1.0 + np.cumsum(row)))[: len(verify)])
        costs.append(verify[: len(deepest)] + levels[deepest])
    rate, sizes = len(tokens) / float(len(tokens) * verify[0]), [0] * len(tokens)
    iterations = 0
    while True:
        iterations += 1
        sizes = [int(np.argmax(t - rate * c)) for t, c in zip(tokens, costs, strict=True)]
        found = _ratio(tokens, costs, sizes)
        if found <= rate * (1 + 1e-15):
            return PricedSizes(tuple(n + 1 for n in sizes), found, iterations)
        rate = found


def _ratio(tokens: list[Array], costs: list[Array], sizes: list[int]) -> float:
    earned = sum(float(row[n]) for row, n in zip(tokens, sizes, strict=True))
    return earned / sum(float(row[n]) for row, n in zip(costs, sizes, strict=True))


def size_threshold(rate: float, cost_per_node: float) -> float:
    """The path probability that a node must pass where every node costs the same: rate x cost.

    It is what the priced optimum comes to for ``verify_cost = t0 + t1 n``: S(n) - rate (t0 + t1 n) rises while the next
    path probability exceeds ``rate t1``.

    >>> size_threshold(rate=2.0, cost_per_node=0.01)
    0.02
    """
    if not (rate >= 0 and cost_per_node >= 0):
        raise InputError("rate, cost_per_node", "must be >= 0", [rate, cost_per_node])
    return rate * cost_per_node


@dataclass(frozen=True, eq=False)
class OneNumber:
    """The best rule with one number for all contexts, and its rate."""

    value: float
    rate: float


def best_fixed_size(path_probs: Sequence[ArrayLike], verify_cost: ArrayLike) -> OneNumber:
    """The best number of nodes, root in, that is the same in every context.

    >>> best_fixed_size([[0.9, 0.8], [0.2, 0.1]], [1.0, 1.3, 1.6]).value
    3.0
    """
    verify, rows = _contexts(path_probs, verify_cost)
    most = min(len(verify), 1 + max(len(row) for row in rows))
    rates = [
        sum(1.0 + float(row[: n - 1].sum()) for row in rows)
        / sum(float(verify[min(n, len(row) + 1) - 1]) for row in rows)
        for n in range(1, most + 1)
    ]
    best = int(np.argmax(rates))
    return OneNumber(float(best + 1), rates[best])


def best_threshold(path_probs: Sequence[ArrayLike], verify_cost: ArrayLike) -> OneNumber:
    """The best threshold on path probability that is the same in every context: nodes above it are verified.

    Every distinct probability is tried, and every context's table is cut where its costs end.

    >>> best_threshold([[0.9, 0.8], [0.2, 0.1]], [1.0, 1.3, 1.6]).value  # just below the last node taken
    0.8
    """
    verify, rows = _contexts(path_probs, verify_cost)
    rows = [row[: len(verify) - 1] for row in rows]
    best = OneNumber(1.0, 1.0 / float(verify[0]))
    for least in np.unique(np.concatenate(rows)):
        sizes = [int(np.sum(row >= least)) for row in rows]
        earned = sum(1.0 + float(row[:n].sum()) for row, n in zip(rows, sizes, strict=True))
        rate = earned / sum(float(verify[n]) for n in sizes)
        if rate > best.rate:
            best = OneNumber(float(least), rate)
    return best


def _contexts(path_probs: Sequence[ArrayLike], verify_cost: ArrayLike) -> tuple[Array, list[Array]]:
    verify = checked_costs("verify_cost", verify_cost, positive=True)
    checked_count("contexts", len(path_probs), 1)
    checked_count("verify_cost: length", len(verify), 1)
    return verify, [probs_or_none(f"contexts[{i}]", row) for i, row in enumerate(path_probs)]


def step_ends(verify_cost: ArrayLike) -> tuple[int, ...]:
    """Sizes, root in, after which a node more costs more: the only ones worth taking, and the last of the table.

    >>> step_ends([1.0, 1.0, 1.0, 1.5, 1.5])
    (3, 5)
    """
    verify = checked_costs("verify_cost", verify_cost, positive=True)
    rises = np.flatnonzero(np.diff(verify) > 0) + 1
    return (*rises.tolist(), len(verify))
