"""The best static tree on a process, exactly: what a dynamic policy has to beat.

A round's accepted path is nested events, so of all trees of a size and depth the best one holds the nodes that are
accepted most often; best first finds them, since no node is accepted more often than its parent. How often depends on
where rounds begin, that is on the tree itself; the frequencies are taken where the rounds of a chain begin, and the
trees that this gives are then judged by the law of their own rounds.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.process import NUM_NODE_TYPES, TokenProcess
from specsim.acceptance.process_rounds import NUM_OFFSETS, NodeMeans, node_means
from specsim.errors import InputError
from specsim.tree import DraftTree

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ProcessLaw:
    """Acceptance of the most probable candidates on a process, and what rounds of any static tree make of it.

    Args:
        process, temperature: The world.
        means: Acceptance by kind of request, regime, depth and rank.
        weights: Share of each kind of request among requests.
    """

    process: TokenProcess
    temperature: float
    means: NodeMeans
    weights: Floats

    @property
    def max_depth(self) -> int:
        """Deepest tree it can speak of."""
        return int(self.means.accept.shape[2])

    @property
    def max_ranks(self) -> int:
        """Ranks it can speak of."""
        return int(self.means.accept.shape[3])

    def tokens_per_round(self, tree: DraftTree) -> float:
        """Mean over rounds of texts of equal length, as ``static_rounds(...).tokens_per_round("tokens")``."""
        tokens, start = self._played(tree)
        by_request = np.einsum("xe,xe->x", start, tokens)
        return float(1 / (self.weights / by_request).sum())

    def begins(self, tree: DraftTree) -> Floats:
        """``[request, regime]`` share of rounds of this tree that begin there, over texts of equal length."""
        tokens, start = self._played(tree)
        share = self.weights / np.einsum("xe,xe->x", start, tokens)
        return np.asarray((share / share.sum())[:, None] * start)

    def _played(self, tree: DraftTree) -> tuple[Floats, Floats]:
        """Tokens of a round by request and regime at its root, and how often it begins in each, both ``[x, 2]``."""
        if tree.depth > self.max_depth or max(tree.ranks) >= self.max_ranks:
            limit = f"must be within depth {self.max_depth} and {self.max_ranks} ranks"
            raise InputError("tree", limit, tree.label)
        steps, accept = self.process.regime_steps, self.means.accept
        num = len(self.weights)
        reach: dict[int, Floats] = {0: np.broadcast_to(np.eye(2), (num, 2, 2))}
        tokens, after = np.ones((num, 2)), np.zeros((num, 2, 2))
        for node in range(tree.num_nodes):
            left, level = reach[node], int(tree.depths[node])
            for child in tree.children[node]:
                taken = reach[node] * accept[:, None, :, level, tree.ranks[child]]
                reach[child], left = taken @ steps, left - taken
                tokens += taken.sum(axis=-1)
            after += np.maximum(left, 0) @ steps
        up, down = after[:, 0, 1], after[:, 1, 0]
        start = np.stack([down, up], axis=-1) / np.maximum(up + down, 1e-300)[:, None]
        return tokens, start

    def paths_by_frequency(self, num: int, depth_limit: int, begins: Floats) -> list[tuple[int, ...]]:
        """The ``num`` most often accepted paths of ranks, most often first, where rounds begin like this.

        Source: best-first search; all children are pushed, as their order need not be the same in every kind of text.
        """
        steps, accept = self.process.regime_steps, self.means.accept
        heap: list[tuple[float, int, tuple[int, ...], Floats]] = []
        count = 0

        def push(path: tuple[int, ...], here: Floats) -> None:
            nonlocal count
            if len(path) == depth_limit:
                return
            for rank in range(self.max_ranks):
                taken = here * accept[:, :, len(path), rank]
                count += 1
                heapq.heappush(heap, (-float(taken.sum()), count, (*path, rank), taken @ steps))

        push((), begins)
        found: list[tuple[int, ...]] = []
        while heap and len(found) < num:
            value, _, path, here = heapq.heappop(heap)
            if value == 0:
                break
            found.append(path)
            push(path, here)
        return found


def process_law(process: TokenProcess, temperature: float, max_depth: int, max_ranks: int) -> ProcessLaw:
    """The law of the most probable candidates, followed by the target's own choice (rules greedy and one-hot).

    >>> from specsim.acceptance.process_rounds import static_rounds
    >>> law, tree = process_law(TokenProcess(), 0.0, 2, 2), DraftTree((-1, 0, 0, 1))
    >>> again = static_rounds(TokenProcess(), tree, 0.0, sampled=False).tokens_per_round("tokens")
    >>> abs(law.tokens_per_round(tree) - again) < 1e-9
    True
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(NUM_OFFSETS)
    offsets, weights = (nodes, weights / weights.sum()) if process.request_sd else (np.zeros(1), np.ones(1))
    ranks = [(0,) * level + (rank,) for level in range(max_depth) for rank in range(max_ranks)]
    comb = DraftTree.from_paths(ranks)
    means = node_means(process, comb, temperature, offsets, sampled=False, num_types=NUM_NODE_TYPES)
    return ProcessLaw(process, temperature, means, weights)


def best_static_trees(law: ProcessLaw, sizes: Sequence[int], depth_limits: Sequence[int]) -> list[DraftTree]:
    """For each depth limit and number of nodes, root in, the tree of the most often accepted paths; repeats left out.

    >>> trees = best_static_trees(process_law(TokenProcess(), 0.0, 3, 2), sizes=(1, 3), depth_limits=(2,))
    >>> [tree.paths() for tree in trees]
    [(), ((0,), (0, 0))]
    """
    begins = law.begins(DraftTree.chain(min(4, law.max_depth)))
    found: dict[DraftTree, None] = {}
    for limit in depth_limits:
        if not 0 <= limit <= law.max_depth:
            raise InputError("depth_limits", f"must be from 0 to {law.max_depth}", limit)
        paths = law.paths_by_frequency(max(sizes) - 1, limit, begins) if limit else []
        for size in sizes:
            if size - 1 <= len(paths):
                found[DraftTree.from_paths(paths[: size - 1])] = None
    return list(found)
