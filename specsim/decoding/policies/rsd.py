"""Recursive speculative decoding: samples without replacement, of siblings (RSD-C) or of whole paths (RSD-S)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from array_api_compat import array_namespace, device

from specsim.decoding.arrays import Array, along, pick
from specsim.decoding.policies.pool import all_nodes, check_at_least, checked_uniforms
from specsim.decoding.policies.static import StaticTree
from specsim.decoding.propose import top
from specsim.decoding.sampling import sample
from specsim.decoding.state import DraftState, Draw, Limits, TokenTree, rooted, subtree
from specsim.tree import DraftTree

TINY = 1e-37
"""Stands for a mass of zero where a logarithm is taken, above the smallest normal single-precision number."""


def rsd_c(branching: Sequence[int]) -> StaticTree:
    """RSD-C: on each level every node gets that many children, drawn without replacement.

    The paper draws by Gumbel top-k; drawing one after another from what is left has the same law.

    Source: Jeon et al. 2024 (arXiv:2402.14160).

    >>> rsd_c((3, 1)).tree.widths.tolist()
    [1, 3, 3]
    """
    return StaticTree(DraftTree.from_widths(branching), "sampled")


@dataclass(frozen=True)
class StochasticBeam:
    """RSD-S: on each level the ``width`` paths of largest perturbed log-probability, a sample without replacement.

    A path's perturbed log-probability is its log-probability plus Gumbel noise, conditioned so that the largest among
    a node's children is the node's own. Top down, the children of a node come in decreasing order: which one is next
    is a draw from the law without its elders, and its value is a Gumbel at the log of the mass left, cut off at the
    elder's value. So a node needs ``2 width - 1`` uniforms and not one per token of the vocabulary.

    Siblings are verified in the order of the draw by recursive rejection. A draw that does not make it into the beam
    is dropped for its value, which is independent of its token, so nothing is learnt about the token that is dropped.

    Source: Jeon et al. 2024 (arXiv:2402.14160); stochastic beam search, Kool et al. 2019 (arXiv:1903.06059).

    >>> StochasticBeam(width=4, depth=3).limits
    Limits(nodes=13, depth=3, passes=3, expanded=9)
    """

    width: int
    depth: int
    kind: Literal["stochastic_beam"] = "stochastic_beam"
    draw: ClassVar[Draw] = "sampled"

    def __post_init__(self) -> None:
        check_at_least(1, width=self.width, depth=self.depth)

    @property
    def limits(self) -> Limits:
        """A full beam on each level."""
        return Limits(1 + self.width * self.depth, self.depth, self.depth, 1 + self.width * (self.depth - 1))

    def start(self, root_tokens: Array) -> DraftState:
        """The roots ``[B]``, whose perturbed log-probability may be anything: only differences count."""
        state = rooted(root_tokens, num_draws=2 * self.width - 1)
        return replace(state, scores=array_namespace(state.path_probs).zeros_like(state.path_probs))

    def expand(self, state: DraftState, draft_probs: Array, uniforms: Array | None = None) -> DraftState:
        """Draw the children of the beam; the largest perturbed values are the next beam."""
        xp, (batch, width, vocab_size) = array_namespace(draft_probs), draft_probs.shape
        uniforms = checked_uniforms(uniforms, (batch, width, state.num_draws))
        num = min(self.width, vocab_size)
        tokens, values = self._drawn(state, draft_probs, uniforms, num)
        scores, slots = top(xp.reshape(values, (batch, width * num)), min(self.width, width * num))
        columns = xp.where(scores > -xp.inf, slots // num, -1)
        num_before = state.parents.shape[1]
        assert state.scores is not None
        scores_before = xp.astype(state.scores, scores.dtype)
        state = state.grown(draft_probs, columns, along(xp.reshape(tokens, (batch, width * num)), slots))
        state = replace(state, scores=xp.concat([scores_before, scores], axis=1))
        if len(state.laws) == self.depth:
            return state
        beam = num_before + xp.arange(columns.shape[1], device=device(columns))
        return state.then(xp.where(columns >= 0, beam, -1), 2 * self.width - 1)

    def _drawn(self, state: DraftState, probs: Array, uniforms: Array, num: int) -> tuple[Array, Array]:
        """Children in the order drawn and their perturbed log-probabilities, ``[B, F, num]``; -inf for none."""
        xp = array_namespace(probs)
        ids, gone = xp.arange(probs.shape[-1], device=device(probs)), xp.zeros_like(probs)
        nothing = xp.full_like(probs[..., 0], -xp.inf)
        log_path = xp.log(xp.clip(pick(state.path_probs, state.frontier), min=TINY))
        value = xp.where(state.frontier >= 0, xp.astype(pick(state.scores, state.frontier), probs.dtype), nothing)
        tokens, values = [], []
        for turn in range(num):
            mass = xp.sum(probs, axis=-1)
            if turn:
                noise = -xp.log(xp.clip(uniforms[..., self.width + turn - 1], min=TINY))
                log_left = log_path + xp.log(xp.clip(mass, min=TINY))
                value = -xp.logaddexp(-value, xp.log(xp.clip(noise, min=TINY)) - log_left)
            value = xp.where(mass > 0, value, nothing)
            token = sample(probs, uniforms[..., turn])
            tokens.append(token)
            values.append(value)
            probs = xp.where(ids == token[..., None], gone, probs)
        return xp.stack(tokens, axis=-1), xp.stack(values, axis=-1)

    def select(self, state: DraftState) -> TokenTree:
        """All nodes: those of equal parents stand in the order drawn."""
        return subtree(state, all_nodes(state))
