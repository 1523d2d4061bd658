"""Static trees: the shape is fixed before the round, tokens fill it. A chain is a tree of width one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np

from specsim.decoding.arrays import Array, array_namespace, device, pick
from specsim.decoding.policies.pool import checked_uniforms
from specsim.decoding.propose import sample_children, top_children
from specsim.decoding.state import DraftState, Draw, Limits, TokenTree, rooted, subtree
from specsim.errors import InputError
from specsim.tree import DraftTree


@dataclass(frozen=True)
class Level:
    """One expansion of a static tree, the same for every row.

    Attributes:
        num_children: Candidates that each frontier node needs.
        columns: Frontier column of each new node's parent.
        slots: Each new node's place among all candidates of the frontier, ``column * num_children + rank``.
        frontier: Pool ids of the new nodes that have children of their own.
    """

    num_children: int
    columns: tuple[int, ...]
    slots: tuple[int, ...]
    frontier: tuple[int, ...]


@dataclass(frozen=True)
class StaticTree:
    """Expands ``tree`` level by level: as many draft passes as it is deep, each over the nodes with children.

    Args:
        tree: The shape. Its ranks say which candidate each node takes.
        draw: "top": a node of rank r is the r-th most probable token after its parent; verify it with the one-hot
            or the greedy rule. "sampled": rank r is the r-th draw; verify it with a rejection rule.

    Raises:
        InputError: when a sampled tree skips a draw or lists siblings out of order: leaving out a draw already
            made would bias the output.

    >>> policy = StaticTree(DraftTree((-1, 0, 0, 1)))
    >>> [(level.num_children, level.frontier) for level in policy.levels]
    [(2, (1,)), (1, ())]
    """

    tree: DraftTree
    draw: Draw = "top"
    kind: Literal["static"] = "static"

    def __post_init__(self) -> None:
        elders: dict[int, int] = {}
        for parent, rank in zip(self.tree.parents, self.tree.ranks, strict=True):
            elder = elders[parent] = elders.get(parent, -1) + 1
            if self.draw != "top" and rank != elder:
                raise InputError("tree", f"must take draws 0, 1, ... in order when {self.draw}, rank", rank)

    @cached_property
    def pool(self) -> tuple[int, ...]:
        """Pool id of each node of the tree: nodes are drafted level by level, within a level by number."""
        depth = self.tree.depths
        order = sorted(range(self.tree.num_nodes), key=lambda node: (int(depth[node]), node))
        ids = {node: pool_id for pool_id, node in enumerate(order)}
        return tuple(ids[node] for node in range(self.tree.num_nodes))

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The expansions, from the root down."""
        tree, depth = self.tree, self.tree.depths
        inner = set(tree.parents)
        frontier, levels = [0], []
        for level in range(1, tree.depth + 1):
            nodes = [node for node in range(tree.num_nodes) if depth[node] == level]
            columns = [frontier.index(tree.parents[node]) for node in nodes]
            num = 1 + max(tree.ranks[node] for node in nodes)
            slots = tuple(column * num + tree.ranks[node] for column, node in zip(columns, nodes, strict=True))
            frontier = [node for node in nodes if node in inner]
            levels.append(Level(num, tuple(columns), slots, tuple(self.pool[node] for node in frontier)))
        return tuple(levels)

    @property
    def limits(self) -> Limits:
        """Those of the tree."""
        num_expanded = len(set(self.tree.parents)) - 1
        return Limits(self.tree.num_nodes, self.tree.depth, len(self.levels), num_expanded)

    def start(self, root_tokens: Array) -> DraftState:
        """The roots ``[B]``; with nothing to draft the frontier is empty at once."""
        state = rooted(root_tokens, self._num_draws(0))
        return state if self.levels else replace(state, frontier=state.frontier[:, :0])

    def expand(self, state: DraftState, draft_probs: Array, uniforms: Array | None = None) -> DraftState:
        """Fill the next level from ``draft_probs[B, F, V]``, drawing with ``uniforms[B, F, state.num_draws]``."""
        depth = len(state.laws)
        level = self.levels[depth]
        xp, where, batch = array_namespace(draft_probs), device(draft_probs), draft_probs.shape[0]
        candidates = self._children(draft_probs, uniforms, level.num_children)
        candidates = xp.reshape(candidates, (batch, draft_probs.shape[1] * level.num_children))
        tokens = pick(candidates, _rows(level.slots, batch, xp, where))
        columns, frontier = (_rows(ids, batch, xp, where) for ids in (level.columns, level.frontier))
        return state.grown(draft_probs, columns, tokens, frontier, self._num_draws(depth + 1))

    def select(self, state: DraftState) -> TokenTree:
        """All of the tree, its nodes in the tree's own order."""
        xp, where = array_namespace(state.tokens), device(state.tokens)
        return subtree(state, _rows(self.pool, state.tokens.shape[0], xp, where))

    def _children(self, probs: Array, uniforms: Array | None, num: int) -> Array:
        if self.draw == "top":
            return top_children(probs, num)
        uniforms = checked_uniforms(uniforms, (*probs.shape[:2], num))
        return sample_children(probs, uniforms, replacement=self.draw == "sampled_with_replacement")

    def _num_draws(self, level: int) -> int:
        return 0 if self.draw == "top" or level >= len(self.levels) else self.levels[level].num_children


# Cached because making the same few indices anew took a third of the time of an expansion.
@lru_cache(maxsize=1024)
def _rows(values: tuple[int, ...], batch: int, xp: Any, where: Any) -> Array:
    """The same values for each row, ``[B, len(values)]``, on a device; read only."""
    return xp.asarray(np.tile(np.asarray(values, dtype=np.int64), (batch, 1)), device=where)
