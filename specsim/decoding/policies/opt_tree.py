"""OPT-Tree: the most probable nodes of the drafter's own law, as deep as they keep gaining."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from specsim.decoding.arrays import Array, array_namespace, device, trimmed
from specsim.decoding.policies.pool import best_children, check_at_least, most_probable
from specsim.decoding.propose import top
from specsim.decoding.state import DraftState, Draw, Limits, TokenTree, rooted, subtree
from specsim.errors import InputError


@dataclass(frozen=True)
class OptTree:
    """Each level keeps its ``nodes`` most probable; drafting ends when the best tree of all levels gains too little.

    The tree is the best of its size in the law that was drafted: a node among the best of all has its parent among
    the best of its level. Its expected acceptance, if the target had the drafter's law, is the sum of its path
    probabilities; a level must raise that sum by more than ``threshold`` for the next to be drafted.

    Args:
        nodes: Drafted nodes verified (the root comes on top), and nodes run on each level below the root.
        threshold: Gain in expected tokens at or below which a row stops.
        max_depth: Most levels.

    Source: Wang et al. 2024 (arXiv:2406.17276), who use 60 nodes, threshold 0.5 and depth 10.
    """

    nodes: int
    threshold: float
    max_depth: int
    kind: Literal["opt_tree"] = "opt_tree"
    draw: ClassVar[Draw] = "top"

    def __post_init__(self) -> None:
        check_at_least(1, nodes=self.nodes, max_depth=self.max_depth)
        if not self.threshold >= 0:
            raise InputError("threshold", "must be >= 0", self.threshold)

    @property
    def limits(self) -> Limits:
        """All levels drafted."""
        return Limits(self.nodes + 1, self.max_depth, self.max_depth, 1 + (self.max_depth - 1) * self.nodes)

    def start(self, root_tokens: Array) -> DraftState:
        """The roots ``[B]``."""
        return rooted(root_tokens, num_draws=0)

    def expand(self, state: DraftState, draft_probs: Array, uniforms: Array | None = None) -> DraftState:
        """Draft the next level; rows whose tree gained enough run all of it."""
        xp, num_before = array_namespace(draft_probs), state.parents.shape[1]
        expected = self.expected_accepted(state)
        columns, tokens, _ = best_children(state, draft_probs, self.nodes)
        state = state.grown(draft_probs, columns, tokens)
        if len(state.laws) == self.max_depth:
            return state
        goes_on = self.expected_accepted(state) - expected > self.threshold
        level = num_before + xp.arange(columns.shape[1], device=device(columns))
        return state.then(trimmed(xp.where((columns >= 0) & goes_on[:, None], level, -1)))

    def expected_accepted(self, state: DraftState) -> Array:
        """Sum of path probabilities of the best tree drafted so far, root left out, ``[B]``."""
        found, _ = top(state.path_probs, min(self.nodes + 1, state.path_probs.shape[1]))
        return array_namespace(found).sum(found[:, 1:], axis=1)

    def select(self, state: DraftState) -> TokenTree:
        """The most probable nodes."""
        return subtree(state, most_probable(state, self.nodes + 1))
