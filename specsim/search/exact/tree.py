"""The fastest static tree: exact for any table of verification costs, with steps, dips and noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from specsim.acceptance.emitted import Acceptance
from specsim.acceptance.profile import RankOrder
from specsim.acceptance.trie import PathTrie
from specsim.errors import InputError
from specsim.search.exact.best_first import Path, best_first_trees
from specsim.search.exact.certificate import Array, Certificate, checked_costs, checked_count, checked_table
from specsim.search.exact.ordered import ordered_trees
from specsim.tree import MAX_NODES, DraftTree

TreeKind = Literal["best_first", "dynamic_program"]


@dataclass(frozen=True, eq=False)
class TreesBySize:
    """The best tree of each size under each depth limit.

    Args:
        tokens_per_round: ``[depth limit, nodes - 1]``, bonus token in; NaN where no tree has so many nodes.
        kind: How it was found, and so why it is the best.
    """

    tokens_per_round: Array
    kind: TreeKind
    _paths: Callable[[int, int], list[Path]] = field(repr=False)

    def tree(self, depth_limit: int, num_nodes: int) -> DraftTree:
        """The best tree of ``num_nodes`` (root in) at most ``depth_limit`` deep."""
        max_depth, max_nodes = (length - 1 for length in self.tokens_per_round.shape)
        checked_count("depth_limit", depth_limit, 0, max_depth)
        checked_count("num_nodes", num_nodes, 1, max_nodes + 1)
        if np.isnan(self.tokens_per_round[depth_limit, num_nodes - 1]):
            largest = int(np.isfinite(self.tokens_per_round[depth_limit]).sum())
            raise InputError("num_nodes", f"must be <= {largest}, the largest tree {depth_limit} deep", num_nodes)
        return DraftTree.from_paths(self.paths(depth_limit, num_nodes))

    def paths(self, depth_limit: int, num_nodes: int) -> tuple[Path, ...]:
        """The paths of ranks of that tree, unchecked: for those who look at many trees and build few."""
        return tuple(self._paths(depth_limit, num_nodes))


@dataclass(frozen=True, eq=False)
class TreeAnswer:
    """The fastest tree, and how all sizes and depths do.

    Args:
        tree: Of equally fast ones the shallowest, of these the smallest; the root alone is no speculation.
        rate: Tokens per second of one sequence.
        tokens_per_round: Mean tokens emitted per round, bonus token in.
        time_s: Time of a round.
        certificate: Over all trees within the limits.
        rate_by_size: Highest rate of any tree of that size and at most that depth, ``[depth, nodes - 1]``; NaN where
            there is none.
    """

    tree: DraftTree
    rate: float
    tokens_per_round: float
    time_s: float
    certificate: Certificate
    rate_by_size: Array


def best_trees_by_size(
    accept_prob: ArrayLike, max_nodes: int, max_depth: int, rank_order: RankOrder = "free"
) -> TreesBySize:
    """The most tokens per round that trees of each size can emit, under each depth limit up to ``max_depth``.

    Args:
        accept_prob: ``[depth - 1, rank]``, probability that this rank is the accepted child, given its parent was; rows
            of a list may differ in length: a depth offers as many ranks as its row has.
        max_nodes: Largest tree, root in.
        max_depth: Deepest tree, root at 0.
        rank_order: ``free``: children of any ranks. ``ordered``: a child needs all better-ranked siblings.

    Raises:
        InputError: for a wrong table, or one that is shallower than ``max_depth``.

    >>> best = best_trees_by_size([[0.6, 0.3], [0.5, 0.2]], max_nodes=4, max_depth=2)
    >>> best.tokens_per_round.round(2).tolist()
    [[1.0, nan, nan, nan], [1.0, 1.6, 1.9, nan], [1.0, 1.6, 1.9, 2.2]]
    >>> best.tree(2, 4).paths()
    ((0,), (1,), (0, 0))
    """
    checked_count("max_nodes", max_nodes, 1, MAX_NODES)
    tokens, paths = trees_by_limit(accept_prob, max_nodes, max_depth, rank_order)
    kind: TreeKind = "best_first"
    if rank_order == "ordered" and not ranks_fall(accept_prob, max_depth):
        kind = "dynamic_program"
    return TreesBySize(tokens, kind, paths)


def trees_of(acceptance: Acceptance, max_nodes: int, max_depth: int) -> TreesBySize:
    """As ``best_trees_by_size`` for what a deployment knows of acceptance, in its own rank order.

    Where paths were counted they are taken as they are: the most frequent of those that were recorded. A path that was
    not is in no tree.

    >>> recorded = DraftTree((-1, 0, 0, 1, 2))
    >>> trie = PathTrie.from_path_probs(recorded, [1.0, 0.5, 0.4, 0.1, 0.3], num_rounds=1000)
    >>> trees_of(trie, max_nodes=4, max_depth=2).tree(2, 4).paths()
    ((0,), (1,), (1, 0))
    """
    if not isinstance(acceptance, PathTrie):
        return best_trees_by_size(acceptance.accept_prob, max_nodes, max_depth, rank_order=acceptance.rank_order)
    tokens, paths = acceptance.best_trees(max_nodes, max_depth)
    return TreesBySize(tokens, "best_first" if acceptance.rank_order == "free" else "dynamic_program", paths)


def trees_by_limit(
    accept_prob: ArrayLike, max_nodes: int, max_depth: int, rank_order: RankOrder
) -> tuple[Array, Callable[[int, int], list[Path]]]:
    """As ``best_trees_by_size``, as bare arrays: tokens per round, and the paths of a tree by depth limit and size."""
    table = checked_table(accept_prob)
    checked_count("max_nodes", max_nodes, 1)
    checked_count("max_depth", max_depth, 0)
    if max_depth > len(table):
        raise InputError("max_depth", f"must be <= {len(table)}, the depth of the acceptance table", max_depth)
    if rank_order not in ("free", "ordered"):
        raise InputError("rank_order", "must be 'free' or 'ordered'", rank_order)
    if rank_order == "ordered" and not ranks_fall(table, max_depth):
        return ordered_trees(table[:max_depth], max_nodes)
    return best_first_trees(table[:max_depth], max_nodes, sort_ranks=rank_order == "free")


def ranks_fall(accept_prob: ArrayLike, max_depth: int) -> bool:
    """Does no later rank come before an earlier one in probability: then order costs nothing."""
    rows: Any = accept_prob
    return not any((np.diff(np.asarray(row, dtype=float)) > 0).any() for row in rows[:max_depth])


def best_tree(
    accept_prob: ArrayLike,
    level_cost_s: ArrayLike,
    verify_cost_s: ArrayLike,
    max_nodes: int,
    max_depth: int,
    rank_order: RankOrder = "free",
) -> TreeAnswer:
    """The tree with the highest long-run rate E[tokens] / E[time], no speculation among the candidates.

    Each depth limit D is searched as if all its levels were paid for. A tree that stays shallower is charged too much
    there, but is charged right by the limit that it reaches, so the maximum over D is exact.

    Args:
        accept_prob: ``[depth - 1, rank]``, probability that this rank is the accepted child, given its parent was.
        level_cost_s: Time to draft each level, however wide, ``[depth - 1]``.
        verify_cost_s: Time of one target pass over n nodes, root in, ``[n - 1]``; above 0. Any shape.
        max_nodes: Largest tree, root in.
        max_depth: Deepest tree.
        rank_order: ``free``: children of any ranks. ``ordered``: a child needs all better-ranked siblings.

    Raises:
        InputError: for a wrong table, a cost that is negative or not finite, or a table shorter than its limit.

    >>> answer = best_tree([[0.6, 0.3], [0.5, 0.2]], [0.1, 0.1], [1.0, 1.05, 1.05, 1.5], max_nodes=4, max_depth=2)
    >>> answer.tree.paths(), round(answer.tokens_per_round, 2), round(answer.time_s, 2), round(answer.rate, 4)
    (((0,), (1,)), 1.9, 1.15, 1.6522)
    """
    by_size = best_trees_by_size(accept_prob, max_nodes, max_depth, rank_order)
    levels_s = np.concatenate(([0.0], np.cumsum(checked_costs("level_cost_s", level_cost_s, max_depth))))
    verify_s = checked_costs("verify_cost_s", verify_cost_s, max_nodes, positive=True)
    time_s = levels_s[:, None] + verify_s
    rate = by_size.tokens_per_round / time_s
    limit, place = (int(index) for index in np.unravel_index(np.nanargmax(rate), rate.shape))
    return TreeAnswer(
        tree=by_size.tree(limit, place + 1),
        rate=float(rate[limit, place]),
        tokens_per_round=float(by_size.tokens_per_round[limit, place]),
        time_s=float(time_s[limit, place]),
        certificate=Certificate(by_size.kind, float(rate[limit, place])),
        rate_by_size=np.fmax.accumulate(rate, axis=0),
    )
