"""Static trees: the shape is fixed before the round, tokens fill it. A chain is a tree of width one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from specsim.decoding.arrays import ROOT_PARENT, Array, array_namespace, device, pick, row_numbers
from specsim.decoding.policies.pool import checked_uniforms
from specsim.decoding.propose import sample_children, top_children
from specsim.decoding.state import DraftState, Draw, Limits, TokenTree, rooted
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
        depth, batch, width = len(state.laws), draft_probs.shape[0], draft_probs.shape[1]
        level, new = self.levels[depth], self._shape(draft_probs).levels[depth]
        tokens = self._children(draft_probs, uniforms, level.num_children).reshape(batch, width * level.num_children)
        if new.slots is not None:
            tokens = pick(tokens, new.slots)
        probs = draft_probs[row_numbers(tokens)[:, None], new.columns, tokens]
        num_draws = self._num_draws(depth + 1)
        return state.joined(draft_probs, tokens, probs, new.above, new.parents, new.expanded, new.frontier, num_draws)

    def select(self, state: DraftState) -> TokenTree:
        """All of the tree, its nodes in the tree's own order."""
        shape = self._shape(state.tokens)
        if shape.nodes is None:
            return TokenTree(shape.parents, state.tokens, state.probs, shape.pool)
        return TokenTree(shape.parents, pick(state.tokens, shape.nodes), pick(state.probs, shape.nodes), shape.pool)

    def _shape(self, values: Array) -> _Shape:
        """The tree in arrays beside ``values[B, ...]``."""
        return _shape(self, values.shape[0], array_namespace(values), device(values))

    def _children(self, probs: Array, uniforms: Array | None, num: int) -> Array:
        if self.draw == "top":
            return top_children(probs, num)
        uniforms = checked_uniforms(uniforms, (*probs.shape[:2], num))
        return sample_children(probs, uniforms, replacement=self.draw == "sampled_with_replacement")

    def _num_draws(self, level: int) -> int:
        return 0 if self.draw == "top" or level >= len(self.levels) else self.levels[level].num_children


class _Grown(NamedTuple):
    """What one expansion adds that is the same in every round, for each row alike (see ``DraftState.joined``).

    Attributes:
        columns: ``[B, W]`` frontier column of each new node's parent, ``above`` its pool id.
        slots: ``[B, W]`` as in ``Level``; None where every candidate is taken, in order.
        parents: ``[B, M]`` of all nodes so far.
        expanded: ``[B, E]`` all nodes run so far.
        frontier: ``[B, F]`` the next one.
    """

    columns: Array
    above: Array
    slots: Array | None
    parents: Array
    expanded: Array
    frontier: Array


class _Shape(NamedTuple):
    """A static tree in arrays: its expansions; its nodes' parents and pool ids ``[B, N]``, in the tree's order.

    ``nodes`` is ``pool``, or None where the pool has the tree's order.
    """

    levels: tuple[_Grown, ...]
    parents: Array
    pool: Array
    nodes: Array | None


# Making these anew took more time in a round than all that depends on what was drafted.
@lru_cache(maxsize=256)
def _shape(policy: StaticTree, batch: int, xp: Any, where: Any) -> _Shape:
    """Of a batch on a device; read only."""

    def rows(values: Sequence[int]) -> Array:
        return xp.asarray(np.tile(np.asarray(values, dtype=np.int64), (batch, 1)), device=where)

    tree, pool = policy.tree, policy.pool
    order = sorted(range(tree.num_nodes), key=pool.__getitem__)
    above = [pool[tree.parents[node]] if node else ROOT_PARENT for node in order]
    levels: list[_Grown] = []
    expanded: list[int] = []
    frontier: tuple[int, ...] = (0,)
    end = 1
    for level in policy.levels:
        begin, end = end, end + len(level.columns)
        expanded += frontier
        takes_all = level.slots == tuple(range(len(frontier) * level.num_children))
        slots = None if takes_all else rows(level.slots)
        frontier = level.frontier
        columns, parents = rows(level.columns), rows(above[:end])
        levels.append(_Grown(columns, rows(above[begin:end]), slots, parents, rows(expanded), rows(frontier)))
    ids = rows(pool)
    is_in_order = pool == tuple(range(tree.num_nodes))
    return _Shape(tuple(levels), rows(tree.parents), ids, None if is_in_order else ids)
