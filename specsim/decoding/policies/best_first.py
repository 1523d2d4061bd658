"""Best-first growth: always expand the most probable path that is not expanded yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from specsim.decoding.arrays import Array, along, array_namespace, trimmed
from specsim.decoding.policies.pool import best_children, check_at_least, most_probable
from specsim.decoding.propose import top
from specsim.decoding.state import DraftState, Draw, Limits, TokenTree, rooted, subtree


@dataclass(frozen=True)
class BestFirst:
    """The ``budget`` most probable nodes of the drafter's law, found by running the most promising ones in batches.

    A node is worth running while it is among the best ``budget`` so far and above the last of them, since no child is
    more probable than its parent. With passes enough the tree is the best of its size, of any shape.

    Args:
        budget: Drafted nodes verified; the root comes on top.
        batch: Nodes run in a pass, at most.
        max_passes: Draft passes, at most; the tree is no deeper.

    Source: SpecExec, Svirschevski et al. 2024 (arXiv:2406.02532), batches of a best-first search.
    """

    budget: int
    batch: int
    max_passes: int
    kind: Literal["best_first"] = "best_first"
    draw: ClassVar[Draw] = "top"

    def __post_init__(self) -> None:
        check_at_least(1, budget=self.budget, batch=self.batch, max_passes=self.max_passes)

    @property
    def limits(self) -> Limits:
        """All passes full; nodes run below the root were among the best when they were run."""
        expanded = 1 + (self.max_passes - 1) * self.batch
        return Limits(self.budget + 1, self.max_passes, self.max_passes, expanded)

    def start(self, root_tokens: Array) -> DraftState:
        """The roots ``[B]``."""
        return rooted(root_tokens, num_draws=0)

    def expand(self, state: DraftState, draft_probs: Array, uniforms: Array | None = None) -> DraftState:
        """Draft the best children of the frontier; the best nodes not run yet are run next."""
        xp = array_namespace(draft_probs)
        columns, tokens, _ = best_children(state, draft_probs, self.budget)
        columns = trimmed(columns)
        state = state.grown(draft_probs, columns, tokens[:, : columns.shape[1]])
        if len(state.laws) == self.max_passes:
            return state
        num = min(self.budget + 1, state.parents.shape[1])
        found, nodes = top(state.path_probs, num)
        last = found[:, -1:] if num == self.budget + 1 else xp.zeros_like(found[:, :1])
        was_run = xp.any(nodes[:, :, None] == state.expanded[:, None, :], axis=2)
        promising = xp.where((found > last) & ~was_run, found, xp.zeros_like(found))
        found, places = top(promising, min(self.batch, num))
        return state.then(trimmed(xp.where(found > 0, along(nodes, places), -1)))

    def select(self, state: DraftState) -> TokenTree:
        """The most probable nodes."""
        return subtree(state, most_probable(state, self.budget + 1))
