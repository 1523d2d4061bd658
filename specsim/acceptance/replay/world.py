"""The recorded forest as a world: it answers a tree policy's requests, many positions at once.

A policy sees laws over slots, a node's recorded candidates best first, in place of the vocabulary. It only compares
probabilities, ties going to the lower number, and slots are in that order: it does what it would have done. The slots
after the recorded ones stand for tokens left out, with the probability that none of them exceeds. As long as the
policy neither runs nor verifies such a slot, nor runs a node without a recorded law, its round is what it would have
been; else the position is marked as missing something.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.replay.forest import NOT_RUN, RecordedText
from specsim.acceptance.replay.walk import Array
from specsim.decoding import BestFirst, Cast, ConfidenceChain, Eagle2, OptTree, StaticTree, Talon, TreePolicy
from specsim.decoding.arrays import PADDING, depths, path_probs, pick
from specsim.decoding.state import DraftState
from specsim.errors import InputError

Ids = NDArray[np.int64]

ROWS: Final = 1024
"""Positions played at once: enough to fill the arrays, few enough to stay in the cache."""


@dataclass(frozen=True, eq=False)
class Played:
    """A policy's round at each position, ``[t]``.

    Attributes:
        accepted: Draft tokens on the text, that is accepted by a rule which follows the target's own choice.
        fewest, most: Accepted where something was missing; elsewhere both equal ``accepted``.
        is_missing: Did the policy ask for what was not recorded.
        expected: Expected tokens of the round, bonus in, over what the target may choose; NaN where it is not recorded.
        nodes, passes: Nodes verified, root in, and expansions.
        typical: Accepted by typical acceptance, if its knobs were given.
    """

    accepted: Ids
    fewest: Ids
    most: Ids
    is_missing: NDArray[np.bool_]
    expected: Array
    nodes: Ids
    passes: Ids
    typical: Ids | None = None


def play(text: RecordedText, policy: TreePolicy, knobs: dict[str, float] | None = None) -> Played:
    """The round of a policy that takes the most probable children, at every recorded position of a text.

    Args:
        text: Its last ``policy.limits.depth`` tokens must lie beyond the positions asked for: the caller cuts.
        policy: Rows of a batch are independent of each other, but for CAST, which is played row by row.
        knobs: ``epsilon`` and ``delta`` of typical acceptance.
    """
    rows = 1 if isinstance(policy, Cast) else ROWS
    parts = [
        _Rows(text, policy, np.arange(begin, min(begin + rows, len(text.roots)))).played(knobs)
        for begin in range(0, len(text.roots), rows)
    ]
    if len(parts) == 1:
        return parts[0]
    names = [name for name in Played.__dataclass_fields__ if getattr(parts[0], name) is not None]
    return Played(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


class _Rows:
    """The positions of one batch while the policy grows their trees."""

    def __init__(self, text: RecordedText, policy: TreePolicy, positions: Ids) -> None:
        self.text, self.policy, self.positions = text, policy, positions
        laws = text.laws
        self.padded_probs = np.concatenate((laws.draft_probs, np.zeros(1, np.float32)))
        self.sizes = np.diff(laws.first)
        depth = policy.limits.depth
        padded = np.concatenate((text.output, np.full(depth + 1, -1)))
        self.ahead = padded[positions[:, None] + np.arange(depth)]  # [B, depth] the text that follows
        # Of each pool node: its law, its place among all candidates of the text (-1: a slot left out, the root).
        self.law = text.roots[positions][:, None]
        self.place = np.full((len(positions), 1), -1)
        self.missing = np.zeros(len(positions), dtype=bool)
        self.most = np.full(len(positions), -1)
        self.fewest = np.zeros(len(positions), np.int64)
        self.passes = np.zeros(len(positions), np.int64)

    def played(self, knobs: dict[str, float] | None) -> Played:
        policy = self.policy
        state = policy.start(np.zeros(len(self.positions), dtype=np.int64))
        while state.frontier.shape[1]:
            unknown = (state.frontier >= 0) & (pick(self.law, state.frontier) == NOT_RUN)
            self._mark(state, unknown.any(axis=1))
            self.passes += (state.frontier >= 0).any(axis=1)
            state = self._grown(state)
            self._mark(state, self._weighs_slots_left_out(state))
        tree = policy.select(state)
        is_node = tree.parents != PADDING
        place, depth = pick(self.place, tree.nodes), depths(tree.parents)
        left_out = (is_node & (place < 0) & (tree.parents >= 0)).any(axis=1)
        self._mark(state, left_out)
        on_text = self._on_text(tree.parents, place, depth)
        accepted = np.max(depth * on_text, axis=1)
        targets = np.full(place.shape, np.nan)
        if self.text.laws.target_probs is not None:
            targets = np.where(tree.parents >= 0, self.text.laws.target_probs[place].astype(float), 1.0)
        return Played(
            accepted=accepted,
            fewest=np.where(self.missing, self.fewest, accepted),
            most=np.where(self.missing, self.most, accepted),
            is_missing=self.missing,
            expected=np.where(self.missing, np.nan, path_probs(tree.parents, targets).sum(axis=1)),
            nodes=is_node.sum(axis=1),
            passes=self.passes,
            typical=None if knobs is None else self._typical(tree.parents, tree.nodes, targets, depth, **knobs),
        )

    def _grown(self, state: DraftState) -> DraftState:
        """Answer the frontier, and note which recorded candidate each new node is."""
        law = np.where(state.frontier >= 0, pick(self.law, state.frontier), NOT_RUN)
        size = np.where(law >= 0, self.sizes[law], 0)
        width = max(int(size.max(initial=0)) + 1, most_children(self.policy))
        slots = np.arange(width)
        places = self.text.laws.first[law][..., None] + slots
        is_kept = slots < size[..., None]
        left_out = np.where(law >= 0, self.text.laws.next_probs[law], np.float32(0))
        probs = np.where(is_kept, self.padded_probs[np.where(is_kept, places, -1)], left_out[..., None])
        before = state.parents.shape[1]
        grown = self.policy.expand(state, probs)
        parents, tokens = grown.parents[:, before:], grown.tokens[:, before:]
        is_node = parents >= 0
        above = np.where(is_node, pick(self.law, np.maximum(parents, 0)), NOT_RUN)
        known = is_node & (above >= 0) & (tokens < np.where(above >= 0, self.sizes[above], 0))
        place = np.where(known, self.text.laws.first[above] + tokens, -1)
        child = np.where(known, self.text.laws.child_law[place], NOT_RUN)
        self.place = np.concatenate((self.place, place), axis=1)
        self.law = np.concatenate((self.law, child), axis=1)
        return grown

    def _weighs_slots_left_out(self, state: DraftState) -> NDArray[np.bool_]:
        """Rows where a policy that looks at its whole pool sees a token that was left out among the best of it."""
        if not weighs_pool(self.policy):
            return np.zeros(len(self.positions), dtype=bool)
        num = min(self.policy.limits.nodes, state.path_probs.shape[1])
        last = np.partition(state.path_probs, -num, axis=1)[:, -num, None]
        slots = (state.parents >= 0) & (self.place < 0) & (state.path_probs > 0)
        return np.asarray((slots & (state.path_probs >= last)).any(axis=1))

    def _on_text(self, parents: Ids, place: Ids, depth: Ids) -> NDArray[np.bool_]:
        """Which nodes spell what follows in the text, their ancestors too."""
        wanted = np.take_along_axis(self.ahead, np.maximum(depth - 1, 0), axis=1) if self.ahead.shape[1] else depth
        hit = (parents < 0) | ((place >= 0) & (self.text.laws.tokens[place] == wanted))
        return np.asarray(path_probs(parents, hit.astype(np.float32)) > 0)

    def _mark(self, state: DraftState, is_met: NDArray[np.bool_]) -> None:
        """Rows that now meet a gap, for the first time: between what and what their round can accept.

        All drafted so far is what it would have been. The text's own path in it ends at some node: if that was run
        already, no deeper token of the text can be drafted; else any depth is possible. What the policy is sure to
        verify of that path is the least.
        """
        rows = np.flatnonzero(is_met & ~self.missing)
        if not len(rows):
            return
        self.missing[rows] = True
        parents, place = state.parents[rows], self.place[rows]
        depth = depths(parents)
        whole, self.ahead = self.ahead, self.ahead[rows]
        on_text = self._on_text(parents, place, depth) & (parents != PADDING)
        self.ahead = whole
        end = np.argmax(np.where(on_text, depth + 1, 0), axis=1)
        reached = np.take_along_axis(depth, end[:, None], axis=1)[:, 0]
        was_run = (state.expanded[rows] == end[:, None]).any(axis=1) & (self.law[rows, end] >= 0)
        # A slot left out may hold the text's own token; where candidates of all nodes compete, it may also have taken
        # the place of one that holds it.
        is_near = parents == end[:, None] if type(self.policy) in (Eagle2, StaticTree) else parents >= 0
        is_sound = ~(is_near & (place < 0)).any(axis=1)
        self.most[rows] = np.where(was_run & is_sound, reached, self.policy.limits.depth)
        sure = on_text & _is_surely_kept(self.policy, state.path_probs[rows])
        self.fewest[rows] = np.max(depth * (path_probs(parents, sure.astype(np.float32)) > 0), axis=1)

    def _typical(self, parents: Ids, nodes: Ids, targets: Array, depth: Ids, epsilon: float, delta: float) -> Ids:
        """Deepest node that passes together with its ancestors: target probability > min(epsilon, delta exp(-H))."""
        assert self.text.laws.entropy is not None
        limit = np.minimum(epsilon, delta * np.exp(-self.text.laws.entropy.astype(float)))
        law = pick(self.law, nodes)
        above = limit[np.take_along_axis(law, np.maximum(parents, 0), axis=1)]
        passed = (parents == -1) | ((parents >= 0) & (targets > above))
        kept = path_probs(parents, passed.astype(np.float32)) > 0
        return np.asarray(np.max(depth * kept, axis=1))


def most_children(policy: TreePolicy) -> int:
    """Candidates of one node that a policy asks for by number, whatever the laws."""
    if isinstance(policy, StaticTree):
        return 1 + max(policy.tree.ranks)
    return int(getattr(policy, "top_k", 1))


def weighs_pool(policy: TreePolicy) -> bool:
    """May its decisions depend on the most probable nodes of the whole pool, run and verified or not."""
    return type(policy) not in (StaticTree, ConfidenceChain, Talon, Eagle2)


def _is_surely_kept(policy: TreePolicy, values: Array) -> NDArray[np.bool_]:
    """Nodes ``[B, M]`` of these path probabilities that the policy verifies whatever else it will draft.

    Some policies verify all they draft. Others the most probable of their pool: no more than 1 / v nodes of a level
    have path probability v, for those of a level sum to at most 1.
    """
    if type(policy) in (StaticTree, ConfidenceChain, Talon):
        return np.ones(values.shape, dtype=bool)
    if type(policy) in (Eagle2, OptTree, BestFirst):
        most = 1 + policy.limits.depth * np.floor(1 / np.maximum(values.astype(float), 1e-9) + 1e-6)
        total = policy.total_tokens if isinstance(policy, Eagle2) else policy.limits.nodes
        return np.asarray((values > 0) & (most <= total))
    return np.zeros(values.shape, dtype=bool)


def check_is_top(policy: TreePolicy) -> None:
    """Raise InputError for a policy that samples: the forest holds what is most probable."""
    if policy.draw != "top":
        raise InputError("policy", "must draw the most probable children to be played on a forest", policy.draw)
