"""Width-dependent draft cost where a rank needs its elder siblings and may be likelier than they: no beam dominates.

The most tokens of a forest are found for every vector of nodes kept and nodes run by level, which decides its cost.
That is exact and grows fast; beyond ``MAX_SHAPES`` the best of the trees that ignore widths is answered, with the bound
of free ranks, which are a relaxation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from specsim.search.exact.best_first import Path
from specsim.search.exact.certificate import Array, Certificate, checked_costs, checked_count, checked_table, rows_of
from specsim.search.exact.ordered import ordered_trees
from specsim.search.exact.width import Convention, WidthAnswer, best_width_tree, checked_widths

MAX_SHAPES = 3000

_Shape = tuple[tuple[int, int], ...]
"""Nodes kept and nodes run, level by level from the top."""
_Forests = dict[_Shape, tuple[float, Any]]


def best_ordered_width_tree(
    accept_prob: ArrayLike,
    level_width_cost: Sequence[ArrayLike],
    verify_cost: ArrayLike,
    max_nodes: int,
    max_depth: int,
    convention: Convention = "all",
) -> WidthAnswer:
    """As ``best_width_tree``, where a child needs all better-ranked siblings.

    >>> answer = best_ordered_width_tree([[0.1, 0.8]], [[0.1]], [1.0, 1.0, 1.0], 3, 1)
    >>> answer.paths, round(answer.rate, 4)  # 1.9 / 1.1
    ([(0,), (1,)], 1.7273)
    """
    table = checked_table(accept_prob)
    checked_count("max_nodes", max_nodes, 1)
    checked_count("max_depth", max_depth, 0, len(table))
    verify = checked_costs("verify_cost", verify_cost, max_nodes, positive=True)
    costs = checked_widths(level_width_cost, table, max_nodes, max_depth)
    forests = _all_shapes(table[:max_depth], max_nodes - 1)
    if forests is None:
        return _bounded(table[:max_depth], costs, verify, convention)
    best = max((_rate(shape, value, costs, verify, convention), shape) for shape, (value, _) in forests.items())
    rate, shape = best
    value, made = forests[shape]
    return WidthAnswer(
        sorted(_unwound(made, ()), key=len), rate, 1 + value, (1 + value) / rate, Certificate("dynamic_program", rate)
    )


def _all_shapes(rows: Array, room: int) -> _Forests | None:
    below: _Forests = {(): (0.0, None)}
    for level in range(len(rows) - 1, -1, -1):
        rest: _Forests = {(): (0.0, None)}
        for rank in range(min(int(np.isfinite(rows[level]).sum()), room) - 1, -1, -1):
            grown: _Forests = {(): (0.0, None)}
            for under, (value, made) in below.items():
                head = ((1, int(bool(under))), *under)
                for shape, (others, other_made) in rest.items():
                    whole = _joined(head, shape)
                    if sum(kept for kept, _ in whole) > room - level:
                        continue
                    total = float(rows[level, rank]) * (1 + value) + others
                    if whole not in grown or total > grown[whole][0]:
                        grown[whole] = (total, (rank, made, other_made))
                if len(grown) > MAX_SHAPES:
                    return None
            rest = grown
        below = rest
    return below


def _joined(a: _Shape, b: _Shape) -> _Shape:
    if len(a) < len(b):
        a, b = b, a
    both = tuple((x[0] + y[0], x[1] + y[1]) for x, y in zip(a, b, strict=False))
    return both + a[len(b) :]


def _rate(shape: _Shape, value: float, costs: list[Array], verify: Array, convention: Convention) -> float:
    cost = float(verify[sum(kept for kept, _ in shape)])
    above = 1
    for level, (kept, _) in enumerate(shape):
        cost += float(costs[level][above - 1])
        above = kept if convention == "all" else shape[level][1]
    return (1 + value) / cost


def _bounded(rows: Array, costs: list[Array], verify: Array, convention: Convention) -> WidthAnswer:
    tokens, paths = ordered_trees(rows, len(verify))
    best: tuple[float, list[Path], float] = (1 / float(verify[0]), [], 1.0)
    for limit, row in enumerate(tokens):
        for size in np.flatnonzero(np.isfinite(row)).tolist():
            found = paths(limit, size + 1)
            shape = tuple(
                (
                    sum(len(path) == depth for path in found),
                    len({path[:depth] for path in found if len(path) == depth + 1}),
                )
                for depth in range(1, max(map(len, found), default=0) + 1)
            )
            rate = _rate(shape, float(row[size]) - 1, costs, verify, convention)
            best = max(best, (rate, found, float(row[size])))
    relaxed = best_width_tree(rows_of(rows), costs, verify, len(verify), len(rows), convention)
    rate, found, value = best
    return WidthAnswer(found, rate, value, value / rate, Certificate("branch_and_bound", relaxed.certificate.bound))


def _unwound(made: Any, above: Path) -> list[Path]:
    found: list[Path] = []
    while made is not None:
        rank, under, made = made
        found += [(*above, rank), *_unwound(under, (*above, rank))]
    return found
