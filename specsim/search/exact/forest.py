"""Several sequences with trees of their own that share one target pass: the nodes go where they are worth most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from specsim.acceptance.profile import RankOrder
from specsim.errors import InfeasibleError, InputError
from specsim.search.exact.best_first import Path
from specsim.search.exact.certificate import Array, Certificate, checked_costs, checked_count
from specsim.search.exact.tree import trees_by_limit


@dataclass(frozen=True, eq=False)
class ForestAnswer:
    """The fastest forest: one list of paths (ranks from 0, root left out) per sequence, their order kept."""

    paths: list[list[Path]]
    rate: float
    tokens: float
    cost: float
    certificate: Certificate


def best_forest(
    sequences: Sequence[ArrayLike],
    level_cost: ArrayLike,
    verify_cost: ArrayLike,
    max_nodes_total: int,
    max_depth: int,
    rank_order: RankOrder = "free",
) -> ForestAnswer:
    """The trees with the highest summed E[tokens] / E[cost]; every sequence has its root, a level is paid for once.

    Under a depth limit each sequence's best tree of each size is known; sizes are shared out by max-plus convolution,
    which is exact whatever the shapes.

    Args:
        sequences: ``accept_prob[depth - 1, rank]`` of each.
        level_cost: ``[depth - 1]``, for all sequences together.
        verify_cost: ``[nodes - 1]``, all sequences and their roots together.
        max_nodes_total: Most nodes, roots in.
        max_depth: Of each tree.
        rank_order: As in ``best_trees_by_size``.

    Raises:
        InputError: for a wrong table, or one shorter than its limit.
        InfeasibleError: when the budget has no room for the roots.

    >>> answer = best_forest([[[0.9]], [[0.5]]], [0.1], [1.0, 1.0, 1.05, 1.2], max_nodes_total=4, max_depth=1)
    >>> answer.paths, round(answer.rate, 4)  # (2 + 0.9 + 0.5) / (0.1 + 1.2)
    ([[(0,)], [(0,)]], 2.6154)
    """
    if not sequences:
        raise InputError("sequences", "must be at least one", 0)
    num = len(sequences)
    levels = np.concatenate(([0.0], np.cumsum(checked_costs("level_cost", level_cost, max_depth))))
    verify = checked_costs("verify_cost", verify_cost, max_nodes_total, positive=True)
    if max_nodes_total < num:
        raise InfeasibleError(f"n_max_total {max_nodes_total} has no room for the roots of {num} sequences")
    checked_count("max_depth", max_depth, 0)
    sizes = max_nodes_total - num + 1
    tables = [trees_by_limit(table, sizes, max_depth, rank_order) for table in sequences]
    best: tuple[float, int, int, list[int]] = (-1.0, 0, 0, [])
    for limit in range(max_depth + 1):
        sums, shares = _shared([tokens[limit] for tokens, _ in tables], sizes)
        rate = sums / (levels[limit] + verify[num - 1 : num - 1 + len(sums)])
        extra = int(rate.argmax())
        if rate[extra] > best[0]:
            best = (float(rate[extra]), limit, extra, shares(extra))
    rate, limit, extra, nodes = best
    paths = [find(limit, size) for (_, find), size in zip(tables, nodes, strict=True)]
    cost = float(levels[limit] + verify[num - 1 + extra])
    return ForestAnswer(paths, rate, rate * cost, cost, Certificate("dynamic_program", rate))


def _shared(tokens: list[Array], sizes: int) -> tuple[Array, Callable[[int], list[int]]]:
    """Most tokens by nodes beyond the roots, ``[extra]``, and the nodes (root in) of each sequence that reach it."""
    steps, sums = [], np.zeros(1)
    for row in tokens:
        own = row[np.isfinite(row)]
        total = np.full(min(len(sums) + len(own) - 1, sizes), -np.inf)
        choice = np.zeros(len(total), np.intp)
        for extra, value in enumerate(own[: len(total)].tolist()):
            part = sums[: len(total) - extra] + value
            better = part > total[extra : extra + len(part)]
            total[extra : extra + len(part)][better] = part[better]
            choice[extra : extra + len(part)][better] = extra
        steps.append(choice)
        sums = total

    def shares(extra: int) -> list[int]:
        nodes = []
        for choice in reversed(steps):
            nodes.append(int(choice[extra]) + 1)
            extra -= nodes[-1] - 1
        return nodes[::-1]

    return sums, shares
