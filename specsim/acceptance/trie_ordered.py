"""The best trees among recorded paths where a node needs its parent and all its elders: a dynamic program.

With "first child" and "next sibling" as its two branches such a tree is a top part of a binary tree, so

    F(node, m) = P(node) + max over a + b = m - 1 of F(first child, a) + F(next sibling, b).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.profile import Array
from specsim.tree import DraftTree


def best_with_elders(
    tree: DraftTree, probs: Array, limit: int, max_nodes: int
) -> tuple[Array, Callable[[int], list[int]]]:
    """Largest sums ``[nodes - 1]`` of at most ``limit`` deep trees, and the nodes (root out) of each size.

    A node whose elders were not recorded can not be in a tree, nor can what hangs on it.
    """
    first, after = _branches(tree, limit)
    best: dict[int, Array] = {-1: np.zeros(1)}
    down: dict[int, NDArray[np.int64]] = {}
    for node in _later_first(first, after):
        below, beside = best[first[node]], best[after[node]]
        size = min(len(below) + len(beside), max_nodes + 1)
        sums, split = np.full(size, -np.inf), np.zeros(size, np.int64)
        sums[0] = 0.0
        for a, value in enumerate(below[: size - 1].tolist()):
            part = probs[node] + value + beside[: size - 1 - a]
            place = slice(a + 1, a + 1 + len(part))
            better = part > sums[place]
            sums[place] = np.where(better, part, sums[place])
            split[place] = np.where(better, a, split[place])
        best[node], down[node] = sums, split

    def nodes_of(num_nodes: int) -> list[int]:
        found, pending = [], [(0, num_nodes)]
        while pending:
            node, size = pending.pop()
            if size:
                found.append(node)
                inside = int(down[node][size])
                pending += [(first[node], inside), (after[node], size - 1 - inside)]
        return sorted(found)[1:]

    return best[0][1:], nodes_of


def _branches(tree: DraftTree, limit: int) -> tuple[dict[int, int], dict[int, int]]:
    """First child and next sibling of each node that trees can hold, -1 for none."""
    first, after = {}, {0: -1}
    pending = [0]
    while pending:
        node = pending.pop()
        children = list(tree.children[node]) if tree.depths[node] < limit else []
        whole = [child for rank, child in enumerate(children) if tree.ranks[child] == rank]
        first[node] = whole[0] if whole else -1
        after |= dict(zip(whole, [*whole[1:], -1], strict=False))
        pending += whole
    return first, after


def _later_first(first: dict[int, int], after: dict[int, int]) -> list[int]:
    """Nodes so that both branches of each come before it."""
    order, pending = [], [0]
    while pending:
        node = pending.pop()
        order.append(node)
        pending += [branch for branch in (first[node], after[node]) if branch >= 0]
    return order[::-1]
