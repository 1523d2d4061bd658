"""DySpec: sampled children, as many of each node as are likely to be tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from specsim.decoding.arrays import Array, along, array_namespace, device, pick, trimmed
from specsim.decoding.policies.pool import all_nodes, ascending, check_at_least, check_share, checked_uniforms
from specsim.decoding.propose import sample_children, top
from specsim.decoding.state import DraftState, Draw, Limits, TokenTree, rooted, subtree
from specsim.errors import InputError


@dataclass(frozen=True)
class DySpec:
    """Level by level, draws without replacement wherever a draw is worth at least ``threshold``.

    A draw is tried if its parent is accepted and its elder siblings are rejected. If the target had the drafter's law,
    that is as probable as the parent's path times the mass that its elders leave: the worth of the draw, known before
    it is made. Where the budget runs short the draws of most worth are made. No draw's worth depends on what it turns
    out to be, so no token is dropped for what it is, and recursive rejection stays lossless.

    Args:
        budget: Drafted nodes, the root left out.
        threshold: In (0, 1].
        max_children: Most draws after a node.
        max_depth: Most levels.

    Source: Xiong et al. 2024 (arXiv:2410.11744), the variant with a threshold, which drafts whole levels.
    """

    budget: int
    threshold: float
    max_children: int
    max_depth: int
    kind: Literal["dyspec"] = "dyspec"
    draw: ClassVar[Draw] = "sampled"

    def __post_init__(self) -> None:
        check_at_least(1, budget=self.budget, max_children=self.max_children, max_depth=self.max_depth)
        check_share(threshold=self.threshold)
        if self.threshold == 0:
            raise InputError("threshold", "must be > 0", self.threshold)

    @property
    def limits(self) -> Limits:
        """Each level spends a node at least; the last one is not run."""
        depth = min(self.budget, self.max_depth)
        return Limits(self.budget + 1, depth, depth, self.budget if depth > 1 else 1)

    def start(self, root_tokens: Array) -> DraftState:
        """The roots ``[B]``."""
        return rooted(root_tokens, self.max_children)

    def expand(self, state: DraftState, draft_probs: Array, uniforms: Array | None = None) -> DraftState:
        """Make the draws that are worth it; what was drawn is run next while the budget lasts."""
        xp, (batch, width, vocab_size) = array_namespace(draft_probs), draft_probs.shape
        uniforms = checked_uniforms(uniforms, state.uniforms_shape(vocab_size))
        num = min(self.max_children, vocab_size)
        tokens = sample_children(draft_probs, uniforms[..., :num])
        probs = along(draft_probs, tokens)
        left = 1 - (xp.cumulative_sum(probs, axis=2) - probs)
        above = pick(state.path_probs, state.frontier) * (state.frontier >= 0)
        worth = xp.reshape(left * above[..., None], (batch, width * num))
        worth, slots = top(worth, min(self.budget, width * num))  # ties to the elder sibling
        num_left = self.budget + 1 - xp.sum(xp.astype(state.parents >= -1, xp.int64), axis=1, keepdims=True)
        place = xp.arange(worth.shape[1], device=device(worth))
        columns = trimmed(xp.where((worth >= self.threshold) & (place < num_left), slots // num, -1))
        num_before, kept = state.parents.shape[1], columns.shape[1]
        tokens = along(xp.reshape(tokens, (batch, width * num)), slots[:, :kept])
        state = state.grown(draft_probs, columns, tokens)
        if len(state.laws) == self.max_depth:
            return state
        num_left = num_left - xp.sum(xp.astype(columns >= 0, xp.int64), axis=1, keepdims=True)
        # What is less probable than the threshold can have no child that is worth it.
        is_run = (num_left > 0) & (state.path_probs[:, num_before:] >= self.threshold) & (columns >= 0)
        padding = num_before + kept
        return state.then(ascending(xp.where(is_run, num_before + place[:kept], padding), padding), self.max_children)

    def select(self, state: DraftState) -> TokenTree:
        """All nodes: those of equal parents stand in the order drawn."""
        return subtree(state, all_nodes(state))
