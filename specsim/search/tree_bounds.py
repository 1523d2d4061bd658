"""What trees cost at least, and so how fast they are at most: by size and depth, and by the widths of their levels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from specsim.acceptance.emitted import Acceptance
from specsim.acceptance.trie import PathTrie
from specsim.cost.model import CostModel
from specsim.scenario import Deployment
from specsim.search.exact.best_first import Path
from specsim.search.exact.tree import TreesBySize, ranks_fall
from specsim.search.exact.width import best_width_tree
from specsim.search.rounds import Shape
from specsim.tree import DraftTree
from specsim.work import Float, HostWork, Pass

WIDEST: Final = 256
"""Largest trees that are searched so, in a time that grows with their square."""
CHUNK: Final = 4096
"""Passes per call of the cost model: their arrays stay in the cache of a core."""


def pass_seconds(
    cost: CostModel, role: Any, kind: Any, new: Float, context: Float, seqs: Float, nodes: tuple[int, ...] = ()
) -> Float:
    """Seconds of passes of any common shape, priced in pieces that stay in the cache."""
    new, context, seqs = np.broadcast_arrays(new, context, seqs)
    columns = np.stack([np.ravel(a) for a in (new, np.maximum(context, 0), seqs)], axis=1)
    if not new.size:
        return np.zeros(new.shape)
    pieces = []
    for first in range(0, new.size, CHUNK):
        rows = columns[first : first + CHUNK]
        priced = cost.price(Pass(role, kind, rows[:, :1], rows[:, 1:2], rows[:, 2:], nodes))
        pieces.append(np.broadcast_to(priced.time_s, len(rows)))
    return np.asarray(np.concatenate(pieces).reshape(new.shape))


def first_pass_seconds(deployment: Deployment, max_depth: int, context: Float, seqs: Float) -> Float:
    """Seconds of the drafter's first pass ``[..., pending - 1]`` with 1 to ``max_depth + 1`` tokens pending.

    Args:
        context, seqs: ``[..., 1]``.
    """
    pending = np.arange(1.0, max_depth + 2)
    nothing = np.zeros((*np.shape(seqs)[:-1], len(pending)))
    if deployment.drafting == "lookup" or not max_depth:
        return nothing
    if deployment.drafting == "heads":
        return nothing + pass_seconds(deployment.cost, "draft", "draft", np.ones(1), context, seqs, (0,))
    return pass_seconds(deployment.cost, "draft", "draft", pending, context + 1 - pending, seqs, (0,))


def level_seconds(deployment: Deployment, batch: int, context_tokens: int, max_depth: int, max_width: int) -> Float:
    """Seconds of drafting each level but the first by the nodes run, ``[depth - 2, width - 1]``, at least."""
    draft = float(deployment.cost.price(HostWork("draft")).time_s)
    nothing = np.zeros((max(max_depth - 1, 0), max(max_width, 1)))
    if deployment.drafting != "autoregressive":
        return nothing
    level, width = np.indices(nothing.shape)
    before, seqs = np.asarray(context_tokens + 1.0 + level, float), np.full((1, 1), float(batch))
    new = np.asarray(width + 1.0, float)
    return draft + pass_seconds(deployment.cost, "draft", "draft", new, before, seqs, (1,))


class Found(NamedTuple):
    """A tree that a search came upon: its paths of ranks, parents first, and what a round of it does and emits."""

    paths: tuple[Path, ...]
    shape: Shape
    tokens_per_round: float

    @property
    def is_chain(self) -> bool:
        """Whether every token is the drafter's first choice after the one before."""
        return len(self.paths) == self.shape.depth and not any(map(any, self.paths))

    @property
    def tree(self) -> DraftTree:
        """As a tree."""
        return DraftTree.from_paths(self.paths)


def found_tree(paths: Sequence[Path], tokens: float) -> Found:
    """A tree by its paths.

    >>> found_tree([(0,), (1,), (0, 0)], 2.0).shape
    Shape(widths=(1, 1), offered=(2, 1), num_nodes=4)
    """
    depth = max(map(len, paths), default=0)
    inner: list[set[Path]] = [set() for _ in range(depth)]
    for path in paths:
        inner[len(path) - 1].add(path[:-1])
    offered = Counter(map(len, paths))
    shape = Shape(tuple(map(len, inner)), tuple(offered[n + 1] for n in range(depth)), len(paths) + 1)
    return Found(tuple(paths), shape, tokens)


def likeliest(
    by_size: TreesBySize, rates: Float, most: int, made: dict[tuple[int, int], Found] | None = None
) -> list[Found]:
    """The trees of the highest rates, best first, none twice.

    Args:
        made: Trees of ``by_size`` by depth limit and nodes, where a caller asks for them often.
    """
    trees: dict[tuple[Path, ...], Found] = {}
    known = {} if made is None else made
    for place in np.argsort(-np.nan_to_num(rates, nan=-1.0), axis=None, kind="stable"):
        limit, size = divmod(int(place), rates.shape[1])
        if len(trees) == most or np.isnan(rates[limit, size]):
            break
        if (limit, size) not in known:
            tokens = float(by_size.tokens_per_round[limit, size])
            known[limit, size] = found_tree(by_size.paths(limit, size + 1), tokens)
        trees.setdefault(known[limit, size].paths, known[limit, size])
    return list(trees.values())


def rates_by_size(tokens: Float, first_s: Float, later_s: Float, verify_s: Float) -> Float:
    """Tokens per second of a sequence that no tree exceeds, ``[depth limit, nodes - 1]``, all levels allowed paid for.

    The drafter's first pass is fed what a round emits. A tree of fewer tokens than the best of its size is fed less, so
    the bound is the largest over all that it may emit, its first pass as cheap as at either whole number around it.

    Args:
        tokens: ``[depth limit, nodes - 1]``, the most of each size.
        first_s: ``[pending - 1]``, seconds of drafting the first level.
        later_s: ``[depth - 2]``, of each further level.
        verify_s: ``[nodes - 1]``.
    """
    rates = np.empty_like(tokens)
    rates[0] = tokens[0] / verify_s
    deepest = len(tokens) - 1
    beside_s = np.concatenate(([0.0], np.cumsum(later_s)))[:deepest, None] + verify_s
    most = np.full(beside_s.shape, np.nan)
    for whole in range(1, deepest + 1):
        bound = np.minimum(tokens[1:], whole + 1) / (beside_s + min(first_s[whole - 1], first_s[whole]))
        most = np.where(tokens[1:] >= whole, np.fmax(most, bound), most)
    rates[1:] = most
    return rates


def is_searched_by_widths(profile: Acceptance, max_nodes: int, max_depth: int) -> bool:
    """Whether the search by widths holds for these trees and ends soon; it does not for counts of paths, whose nodes of
    one depth and rank are not alike."""
    if isinstance(profile, PathTrie):
        return False
    falls = profile.rank_order == "free" or ranks_fall(profile.accept_prob, max_depth)
    return falls and max_depth > 0 and profile.max_ranks > 1 and 2 < max_nodes <= WIDEST


def best_by_widths(
    profile: Acceptance,
    first_s: Float,
    widths_s: Float,
    verify_s: Float,
    known: float,
    max_nodes: int,
    max_depth: int,
) -> tuple[DraftTree, float]:
    """The fastest tree where a level costs by the nodes run for it, and a rate of one sequence that none exceeds.

    Args:
        first_s: ``[pending - 1]``, seconds of drafting the first level.
        widths_s: ``[depth - 2, width - 1]``, of each further one.
        verify_s: ``[nodes - 1]``.
        known: Rate of some tree. What is faster emits at least so much, and its drafter is fed as much.
    """
    least = max(1, min(len(first_s), int(known * (verify_s.min() + first_s.min()))))
    levels = [np.full(max(1, max_nodes - 1), first_s[least - 1 :].min()), *widths_s]
    found = best_width_tree(profile.accept_prob, levels, verify_s, max_nodes, max_depth, "expanded")
    return DraftTree.from_paths(found.paths), max(known, found.rate, found.certificate.bound)
