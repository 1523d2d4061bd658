"""The best trees of all sizes and depth limits where a rank needs its elder siblings, whatever the probabilities.

When a later rank is likelier than an earlier one, as happens when a confidently wrong drafter is sampled without
replacement, the largest path probabilities are no longer a tree and best-first loses up to half the tokens. The best
sum over forests obeys a recursion over ranks and depths, exact for any table:

    F(m) = 1 + G_0(m - 1)                                   a node, its children's forest below it
    G_r(k) = max_{1 <= m <= k} p_r F(m) + G_{r + 1}(k - m)     siblings of rank r and later, k nodes in all

It takes O(depth limits * depth * ranks * nodes**2); rows that repeat down to the limit are solved once.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from specsim.search.exact.certificate import Array
from specsim.search.exact.max_plus import with_first

Path = tuple[int, ...]


def ordered_trees(accept_prob: Array, max_nodes: int) -> tuple[Array, Callable[[int, int], list[Path]]]:
    """Most tokens per round ``[depth limit, nodes - 1]``, NaN where no tree is so large, and each such tree's paths.

    Args:
        accept_prob: ``[depth - 1, rank]``, rows in draw order, monotone or not, NaN behind the last rank of a depth.
        max_nodes: Largest tree, root in.
    """
    table = accept_prob[:, : max(max_nodes - 1, 1)]  # later ranks have too many elders
    solved: dict[bytes, list[Array]] = {}
    tokens = np.full((len(table) + 1, max_nodes), np.nan)
    for limit in range(len(table) + 1):
        best = _forests(table[:limit], max_nodes - 1, solved)[0]
        tokens[limit, : len(best)] = 1 + best
    return tokens, lambda limit, num_nodes: list(_paths(table[:limit], num_nodes - 1, max_nodes - 1, solved))


def _forests(rows: Array, max_nodes: int, solved: dict[bytes, list[Array]]) -> list[Array]:
    """G_0 .. G_R for children of a node with these ``rows`` below it, each ``[nodes]`` as far as trees go."""
    key = rows.tobytes()
    if key not in solved:
        forests = [np.zeros(1)]
        if len(rows):
            subtree = 1 + _forests(rows[1:], max_nodes, solved)[0]
            for prob in rows[0, ~np.isnan(rows[0])][::-1]:
                forests.append(with_first(prob * subtree, forests[-1], max_nodes))
        solved[key] = forests[::-1]
    return solved[key]


def _paths(rows: Array, num_left: int, max_nodes: int, solved: dict[bytes, list[Array]]) -> list[Path]:
    """Retrace the choices that reach the best sum of ``num_left`` nodes."""
    paths: list[Path] = []
    forests = _forests(rows, max_nodes, solved)
    rank = 0
    while num_left:
        subtree = 1 + _forests(rows[1:], max_nodes, solved)[0]
        sizes = np.arange(max(1, num_left - len(forests[rank + 1]) + 1), min(num_left, len(subtree)) + 1)
        sums = rows[0, rank] * subtree[sizes - 1] + forests[rank + 1][num_left - sizes]
        size = int(sizes[sums.argmax()])
        paths += [(rank,), *((rank, *path) for path in _paths(rows[1:], size - 1, max_nodes, solved))]
        num_left -= size
        rank += 1
    return paths
