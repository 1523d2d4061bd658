"""Chains that end when the drafter doubts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from specsim.decoding.arrays import Array, array_namespace
from specsim.decoding.policies.pool import all_nodes, check_at_least, check_share, checked_uniforms
from specsim.decoding.propose import top_children
from specsim.decoding.sampling import sample
from specsim.decoding.state import DraftState, Draw, Limits, TokenTree, rooted, subtree
from specsim.errors import InputError

Measure = Literal["token", "path", "law"]


@dataclass(frozen=True)
class ConfidenceChain:
    """Up to ``draft_len`` tokens, fewer where confidence falls below ``threshold``.

    Args:
        draft_len: Most tokens.
        threshold: In [0, 1]; a number, or one for each row in an array. 0 never stops.
        measure: What must be at least the threshold for drafting to go on.
            "token": the draft probability of the last token (Draft & Verify). That token is verified too.
            "path": the product of these since the root, that is 1 less the probability that some token so far is
            rejected, as the drafter estimates it (SpecDec++ learns that estimate). The last token is verified too.
            "law": the largest probability of the next law, looked at before a token is drawn. None is drawn then.
        draw: "top" or "sampled". A sampled chain that dropped a token after seeing it would be biased.

    Source: Zhang et al. 2024 (arXiv:2309.08168); Huang et al. 2024 (arXiv:2405.19715).
    """

    draft_len: int
    threshold: Any
    measure: Measure
    draw: Draw
    kind: Literal["confidence_chain"] = "confidence_chain"

    def __post_init__(self) -> None:
        check_at_least(1, draft_len=self.draft_len)
        if isinstance(self.threshold, int | float):
            check_share(threshold=self.threshold)
        if self.measure not in ("token", "path", "law"):
            raise InputError("measure", "must be token, path or law", self.measure)

    @property
    def limits(self) -> Limits:
        """The whole chain."""
        return Limits(1 + self.draft_len, self.draft_len, self.draft_len, self.draft_len)

    def start(self, root_tokens: Array) -> DraftState:
        """The roots ``[B]``."""
        return rooted(root_tokens, self._num_draws)

    def expand(self, state: DraftState, draft_probs: Array, uniforms: Array | None = None) -> DraftState:
        """Add a token to the rows that go on."""
        xp, node = array_namespace(draft_probs), state.parents.shape[1]
        columns = state.frontier.clip(max=0)
        if self.measure == "law":
            columns = xp.where(self._is_sure(xp.max(draft_probs, axis=2)), columns, -1)
        state = state.grown(draft_probs, columns, self._token(draft_probs, uniforms))
        if len(state.laws) == self.draft_len:
            return state
        goes_on = columns >= 0
        if self.measure != "law":
            seen = state.probs if self.measure == "token" else state.path_probs
            goes_on = goes_on & self._is_sure(seen[:, node:])
        if not bool(xp.any(goes_on)):
            return state
        return state.then(xp.where(goes_on, node, -1), self._num_draws)

    def select(self, state: DraftState) -> TokenTree:
        """All tokens."""
        return subtree(state, all_nodes(state))

    def _is_sure(self, confidence: Array) -> Array:
        threshold = self.threshold
        if isinstance(threshold, int | float):
            return confidence >= threshold
        return confidence >= array_namespace(confidence).asarray(threshold)[:, None]

    def _token(self, probs: Array, uniforms: Array | None) -> Array:
        if self.draw == "top":
            return top_children(probs, 1)[..., 0]
        return sample(probs, checked_uniforms(uniforms, (*probs.shape[:2], 1))[..., 0])

    @property
    def _num_draws(self) -> int:
        return 0 if self.draw == "top" else 1
