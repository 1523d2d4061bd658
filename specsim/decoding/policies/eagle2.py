"""EAGLE-2: expand the most probable nodes of each level, then keep the most probable of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from specsim.decoding.arrays import Array, array_namespace, trimmed
from specsim.decoding.policies.pool import check_at_least, most_probable, top_children_of_each
from specsim.decoding.propose import top
from specsim.decoding.state import DraftState, Draw, Limits, TokenTree, rooted, subtree


@dataclass(frozen=True)
class Eagle2:
    """A beam of ``top_k`` nodes grows level by level; the best nodes of all that were drafted are verified.

    Args:
        top_k: Children drafted of each node run, and nodes run on each level below the root.
        depth: As EAGLE counts: levels after the first, so the tree may be depth + 1 deep.
        total_tokens: As EAGLE counts: nodes verified, the root among them.

    Source: Li et al. 2024 (arXiv:2406.16858). Its evaluation scripts use top_k 10, depth 5, total_tokens 60. Their
    final choice breaks ties at will and can part a child from its parent; here the parent goes first.

    >>> Eagle2(top_k=10, depth=5, total_tokens=60).limits
    Limits(nodes=60, depth=6, passes=6, expanded=51)
    """

    top_k: int
    depth: int
    total_tokens: int
    kind: Literal["eagle2"] = "eagle2"
    draw: ClassVar[Draw] = "top"

    def __post_init__(self) -> None:
        check_at_least(1, top_k=self.top_k, total_tokens=self.total_tokens)
        check_at_least(0, depth=self.depth)

    @property
    def limits(self) -> Limits:
        """Fewer nodes are verified where fewer were drafted."""
        drafted = self.top_k + self.depth * self.top_k**2
        return Limits(min(self.total_tokens, drafted + 1), self.depth + 1, self.depth + 1, 1 + self.depth * self.top_k)

    def start(self, root_tokens: Array) -> DraftState:
        """The roots ``[B]``."""
        return rooted(root_tokens, num_draws=0)

    def expand(self, state: DraftState, draft_probs: Array, uniforms: Array | None = None) -> DraftState:
        """Draft the children of the frontier; the best of them are run next."""
        columns, tokens = top_children_of_each(state, draft_probs, self.top_k)
        num_before = state.parents.shape[1]
        state = state.grown(draft_probs, columns, tokens)
        if len(state.laws) > self.depth:
            return state
        found, best = top(state.path_probs[:, num_before:], self.top_k)
        return state.then(trimmed(array_namespace(best).where(found > 0, best + num_before, -1)))

    def select(self, state: DraftState) -> TokenTree:
        """The most probable nodes."""
        return subtree(state, most_probable(state, self.total_tokens))
