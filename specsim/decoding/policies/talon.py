"""TALON: a budget of nodes spent level by level on what comes near the most probable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from specsim.decoding.arrays import Array, array_namespace, device, trimmed
from specsim.decoding.policies.pool import all_nodes, best_children, check_at_least, check_share
from specsim.decoding.state import DraftState, Draw, Limits, TokenTree, rooted, subtree


@dataclass(frozen=True)
class Talon:
    """Wide and shallow where the drafter doubts, deep and narrow where it is sure.

    The first level holds the ``top_k`` best tokens. Of all children of a level, those whose path probability is at
    least ``mu`` times the largest are kept, best first as far as the budget goes; drafting ends when it is spent. Every
    node drafted is verified.

    Args:
        budget: Drafted nodes, the root left out.
        mu: 1 keeps the most probable child alone (and its ties), a chain; 0 spends the budget on the second level.
        top_k: Nodes of the first level.
        max_depth: Most levels; the paper sets no limit but the budget.

    Source: TALON 2026 (arXiv:2601.07353), which uses a budget of 60, mu 0.03 and top_k 10.
    """

    budget: int
    mu: float
    top_k: int
    max_depth: int | None = None
    kind: Literal["talon"] = "talon"
    draw: ClassVar[Draw] = "top"

    def __post_init__(self) -> None:
        check_at_least(1, budget=self.budget, top_k=self.top_k)
        check_share(mu=self.mu)
        if self.max_depth is not None:
            check_at_least(1, max_depth=self.max_depth)

    @property
    def limits(self) -> Limits:
        """Each level spends a node at least; the last one is not run."""
        depth = min(self.budget, self.max_depth or self.budget)
        return Limits(self.budget + 1, depth, depth, self.budget)

    def start(self, root_tokens: Array) -> DraftState:
        """The roots ``[B]``."""
        return rooted(root_tokens, num_draws=0)

    def expand(self, state: DraftState, draft_probs: Array, uniforms: Array | None = None) -> DraftState:
        """Add what is near the best; rows with budget left run it next."""
        xp, is_first = array_namespace(draft_probs), not state.laws
        num_left = self.budget + 1 - xp.sum(xp.astype(state.parents >= -1, xp.int64), axis=1, keepdims=True)
        wanted = min(self.top_k, self.budget) if is_first else self.budget
        columns, tokens, values = best_children(state, draft_probs, wanted)
        place = xp.arange(columns.shape[1], device=device(columns))
        near = values >= (0.0 if is_first else self.mu) * values[:, :1]
        columns = trimmed(xp.where(near & (place < num_left), columns, -1))
        num_before, width = state.parents.shape[1], columns.shape[1]
        state = state.grown(draft_probs, columns, tokens[:, :width])
        if len(state.laws) == self.max_depth:
            return state
        is_node = columns >= 0
        num_left = num_left - xp.sum(xp.astype(is_node, xp.int64), axis=1, keepdims=True)
        return state.then(trimmed(xp.where(is_node & (num_left > 0), num_before + place[:width], -1)))

    def select(self, state: DraftState) -> TokenTree:
        """All nodes."""
        return subtree(state, all_nodes(state))
