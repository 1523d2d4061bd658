"""What to draft at a position so that other policies can be replayed there: the most probable nodes, and what they ask.

A tree policy like any other, so an executor records by running it: best first, and in step with it the policies that
will surely be asked for, each fed the real laws. EAGLE-2's trees, for one, are not nested in its width: a wide one does
not run all that a narrow one does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.replay.forest import NOT_RUN, Laws
from specsim.acceptance.replay.world import check_is_top, most_children, weighs_pool
from specsim.decoding import Array, Cast, DraftState, Draw, Eagle2, Limits, TokenTree, TreePolicy, rooted, subtree
from specsim.decoding.arrays import depths, pick
from specsim.decoding.policies.pool import ascending, check_at_least
from specsim.decoding.propose import top, top_children
from specsim.errors import InputError

Ids = NDArray[np.int64]
Bools = NDArray[np.bool_]

MAX_CANDIDATES = 64
"""Candidates looked at after each node, unless a policy wants more; more than any published tree has children."""


class Part(NamedTuple):
    """One policy's round inside the superset: its state, and the superset's number of each of its nodes (-1: none)."""

    state: DraftState
    ids: Ids


@dataclass(frozen=True, eq=False)
class SupersetState(DraftState):
    """The pool, with the policies' own.

    Attributes:
        parts: Of each policy.
        needed: ``[B, M]`` nodes that a policy verifies, runs or weighs.
    """

    parts: tuple[Part, ...] = ()
    needed: Bools = None  # type: ignore[assignment]  # never left out


@dataclass(frozen=True)
class Superset:
    """Runs the ``num_laws`` most probable nodes (root in), at most ``max_depth - 1`` deep, and all that others run.

    Args:
        num_laws: Nodes run best first, ``batch`` at a time.
        num_nodes: Most probable nodes kept, run or not.
        max_depth: Levels below the root.
        num_children: Candidates kept after each node run, at least.
        policies: Of the kind that takes the most probable children. Not CAST, whose rows decide together.
        batch: Nodes run in a pass.

    Raises:
        InputError: for a number below 1, or a policy that samples.
    """

    num_laws: int
    num_nodes: int
    max_depth: int
    num_children: int = 1
    policies: tuple[TreePolicy, ...] = ()
    batch: int = 8
    kind: Literal["superset"] = "superset"
    draw: ClassVar[Draw] = "top"

    def __post_init__(self) -> None:
        sizes = {"num_laws": self.num_laws, "num_nodes": self.num_nodes, "batch": self.batch}
        check_at_least(1, max_depth=self.max_depth, num_children=self.num_children, **sizes)
        for policy in self.policies:
            check_is_top(policy)
            if isinstance(policy, Cast):
                raise InputError("policies", "can not be recorded together where their rows decide together", "cast")

    @property
    def limits(self) -> Limits:
        """What is verified is what is run."""
        theirs: list[Limits] = [policy.limits for policy in self.policies]
        expanded = self.num_laws + sum(limits.expanded for limits in theirs)
        depth = max([self.max_depth, *(limits.depth for limits in theirs)])
        passes = max([self.num_laws, *(limits.passes for limits in theirs)])
        return Limits(expanded, depth, passes, expanded)

    def start(self, root_tokens: Array) -> DraftState:
        """The roots ``[B]``."""
        state = rooted(root_tokens, num_draws=0)
        zero = np.zeros((len(root_tokens), 1), dtype=np.int64)
        parts = tuple(Part(policy.start(root_tokens), zero) for policy in self.policies)
        return SupersetState(**vars(state), parts=parts, needed=np.ones(zero.shape, dtype=bool))

    def expand(self, state: DraftState, draft_probs: Array, uniforms: Array | None = None) -> DraftState:
        """Draft the best candidates of the frontier, let every policy go on as far as it can, and ask for the rest."""
        assert isinstance(state, SupersetState)
        batch, width, vocab_size = draft_probs.shape
        num = min(vocab_size, max([MAX_CANDIDATES, self.num_children, *map(most_children, self.policies)]))
        tokens = top_children(draft_probs, num).reshape(batch, width * num)
        columns = np.where(state.frontier >= 0, np.arange(width), -1)
        grown = state.grown(draft_probs, np.repeat(columns, num, axis=1), tokens)
        more = grown.parents.shape[1] - state.parents.shape[1]
        needed = np.pad(state.needed, ((0, 0), (0, more)))
        whole = _Whole(grown, np.concatenate(grown.laws, axis=1))
        wanted = np.zeros(needed.shape, dtype=bool)
        parts = []
        for policy, part in zip(self.policies, state.parts, strict=True):
            part = whole.advanced(policy, part, needed)
            whole.mark(wanted, pick(part.ids, part.state.frontier), part.state.frontier >= 0)
            parts.append(part)
        wanted |= self._most_promising(grown)
        wanted &= ~whole.was_run()
        pool = int(grown.parents.shape[1])
        frontier = ascending(np.where(wanted, np.arange(pool), pool), pool)
        return SupersetState(**vars(replace(grown, frontier=frontier)), parts=tuple(parts), needed=needed)

    def _most_promising(self, state: DraftState) -> Bools:
        """The best nodes that are not run, as many as the number of laws leaves."""
        was_run = _Whole(state, None).was_run()
        values = np.where(was_run | (depths(state.parents) >= self.max_depth), 0, state.path_probs)
        found, nodes = top(values, min(self.batch, values.shape[1]))
        left = self.num_laws - was_run.sum(axis=1, keepdims=True)
        wanted = np.zeros(values.shape, dtype=bool)
        np.put_along_axis(wanted, nodes, (found > 0) & (np.arange(nodes.shape[1]) < left), axis=1)
        return wanted

    def select(self, state: DraftState) -> TokenTree:
        """What was run: the target's law after these gives the target's probability of all that was drafted."""
        pool = state.parents.shape[1]
        ids = np.where(state.expanded >= 0, state.expanded, pool)
        return subtree(state, ascending(ids, pool))

    def kept(self, state: DraftState) -> Bools:
        """``[B, M]`` what is worth recording: whatever a policy needs, and the ``num_nodes`` most probable."""
        assert isinstance(state, SupersetState)
        last = np.sort(state.path_probs, axis=1)[:, -min(self.num_nodes + 1, state.path_probs.shape[1]), None]
        return np.asarray(state.needed | ((state.path_probs >= last) & (state.path_probs > 0)))


class _Whole:
    """The superset's pool as what answers the policies; ``laws[B, E, V]`` in the order run."""

    def __init__(self, state: DraftState, laws: Any) -> None:
        self.state, self.laws = state, laws

    def was_run(self) -> Bools:
        found = np.zeros(self.state.parents.shape, dtype=bool)
        self.mark(found, self.state.expanded, self.state.expanded >= 0)
        return found

    @staticmethod
    def mark(flags: Bools, ids: Ids, is_node: Any) -> None:
        """Set ``flags[B, M]`` at ``ids[B, K]`` where they are nodes."""
        rows, columns = np.nonzero(is_node & (ids >= 0))
        flags[rows, ids[rows, columns]] = True

    def advanced(self, policy: TreePolicy, part: Part, needed: Bools) -> Part:
        """The policy's round as far as it gets with the laws that are known. Marks what it needs."""
        was_run = self.was_run()
        while part.state.frontier.shape[1]:
            is_node = part.state.frontier >= 0
            ids = np.where(is_node, pick(part.ids, part.state.frontier), -1)
            known = (ids >= 0) & pick(was_run, ids)
            if bool((is_node & (ids >= 0) & ~known).any()):
                return part
            order = np.argmax(self.state.expanded[:, None, :] == ids[:, :, None], axis=2)
            laws = pick(self.laws, order) * known[..., None]
            before = part.state.parents.shape[1]
            state = policy.expand(part.state, laws)
            part = Part(state, np.concatenate((part.ids, self._numbers(state, part.ids, before)), axis=1))
            self.mark(needed, pick(part.ids, state.frontier), state.frontier >= 0)
            if isinstance(policy, Eagle2):  # all that it drafts: a less deep tree of the same size verifies more of it
                self.mark(needed, part.ids[:, before:], True)
            if weighs_pool(policy):
                num = min(policy.limits.nodes, state.path_probs.shape[1])
                self.mark(needed, pick(part.ids, top(state.path_probs, num)[1]), True)
        tree = policy.select(part.state)
        self.mark(needed, pick(part.ids, tree.nodes), tree.nodes >= 0)
        return part

    def _numbers(self, state: DraftState, ids: Ids, before: int) -> Ids:
        """The pool's number of each new node of a policy, ``[B, W]``; -1 beyond the candidates looked at."""
        parents, tokens = state.parents[:, before:], state.tokens[:, before:]
        above = np.where(parents >= 0, pick(ids, np.maximum(parents, 0)), -1)
        expanded = self.state.expanded
        # Each column that was run has as many columns of candidates, padding or not, in the order run.
        num = (self.state.parents.shape[1] - 1) // expanded.shape[1]
        run = expanded[:, None, :] == above[:, :, None]
        begin = 1 + np.argmax(run, axis=2) * num
        hit = pick(self.state.tokens, (begin[..., None] + np.arange(num)).reshape(len(above), -1))
        hit = hit.reshape(*above.shape, num) == tokens[..., None]
        known = (above >= 0) & run.any(axis=2) & hit.any(axis=2)
        return np.asarray(np.where(known, begin + np.argmax(hit, axis=2), -1))


def collect(policy: Superset, state: DraftState, tree: TokenTree, target_probs: Any) -> list[Laws]:
    """The laws of each row, root first, from a round of the superset.

    Args:
        policy: What was run.
        state: What was drafted.
        tree: What was verified, by ``policy.select``.
        target_probs: ``[B, N, V]`` the target's law after each node of the tree; None where it was not run.
    """
    kept, ranks = policy.kept(state), _ranks(state.parents)
    kept |= ranks < policy.num_children
    return [_collected(state, tree, kept[row], ranks[row], target_probs, row) for row in range(len(kept))]


def _ranks(parents: Ids) -> Ids:
    """Place of each node among its siblings, which stand together, ``[B, M]``."""
    places = np.arange(parents.shape[1])
    begins = np.diff(parents, axis=1, prepend=-9) != 0
    return np.asarray(places - np.maximum.accumulate(np.where(begins, places, 0), axis=1))


def _collected(state: DraftState, tree: TokenTree, kept: Bools, ranks: Ids, target_probs: Any, row: int) -> Laws:
    nodes = [int(node) for node in tree.nodes[row] if node >= 0]
    law_of = {node: number for number, node in enumerate(nodes)}
    children = np.flatnonzero(np.isin(state.parents[row], nodes))
    above = np.array([law_of[int(parent)] for parent in state.parents[row, children]], dtype=np.int64)
    # What was run is kept, and so is all that stands before a kept sibling: slots have no holes.
    size = np.zeros(len(nodes), dtype=np.int64)
    is_kept = kept[children] | np.isin(children, nodes)
    np.maximum.at(size, above[is_kept], ranks[children][is_kept] + 1)
    stays = ranks[children] < size[above]
    first = np.concatenate(([0], np.cumsum(size)))
    order = np.flatnonzero(stays)[np.lexsort((ranks[children][stays], above[stays]))]
    chosen, laws = children[order], above[order]
    following = np.zeros(len(nodes), dtype=np.float32)
    after = np.flatnonzero(ranks[children] == size[above])
    following[above[after]] = state.probs[row, children[after]]
    tokens = state.tokens[row, chosen]
    targets = entropy = None
    if target_probs is not None:
        rows = np.asarray(target_probs[row][: len(nodes)])
        targets = np.minimum(rows[laws, tokens], 1.0).astype(np.float32)
        entropy = -np.sum(rows * np.log(np.maximum(rows, 1e-37)), axis=1).astype(np.float32)
    return Laws(
        first=first,
        tokens=tokens.astype(np.int32),
        draft_probs=state.probs[row, chosen].astype(np.float32),
        target_probs=targets,
        child_law=np.array([law_of.get(int(node), NOT_RUN) for node in chosen], dtype=np.int32),
        next_probs=following,
        entropy=entropy,
    )


def joined(parts: list[Laws]) -> tuple[Laws, Ids]:
    """The laws of several positions as those of one text, and the number of each position's root law."""
    num_laws = np.array([len(part.next_probs) for part in parts])
    roots = np.concatenate(([0], np.cumsum(num_laws)[:-1]))
    sizes = np.concatenate([np.diff(part.first) for part in parts])

    def whole(name: str) -> Any:
        arrays = [getattr(part, name) for part in parts]
        return None if any(array is None for array in arrays) else np.concatenate(arrays)

    child = [np.where(part.child_law >= 0, part.child_law + root, -1) for part, root in zip(parts, roots, strict=True)]
    laws = Laws(
        first=np.concatenate(([0], np.cumsum(sizes))),
        tokens=whole("tokens"),
        draft_probs=whole("draft_probs"),
        target_probs=whole("target_probs"),
        child_law=np.concatenate(child).astype(np.int32),
        next_probs=whole("next_probs"),
        entropy=whole("entropy"),
    )
    return laws, roots.astype(np.int64)
