"""Recursive speculative decoding: samples without replacement, of siblings (RSD-C) or of whole paths (RSD-S)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from specsim.decoding.arrays import Array, array_namespace, device, pick, trimmed
from specsim.decoding.policies.pool import all_nodes, check_at_least, checked_uniforms
from specsim.decoding.policies.static import StaticTree
from specsim.decoding.propose import top
from specsim.decoding.state import PER_TOKEN, DraftState, Draw, Limits, TokenTree, rooted, subtree
from specsim.tree import DraftTree

TINY = 1e-37
"""Stands for a uniform of zero where its logarithm is taken: above the smallest normal single-precision number."""


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

    Told as a race: a path of probability p arrives after an exponential time of rate p, and the first to arrive are a
    sample without replacement (minus the log of the time is the paper's perturbed log-probability). Level by level, a
    node's first child arrives with it, and its others as much later as they would without that knowledge:

        time(child) = time(node) + E(child) / p(child) - min over siblings of E / p

    with a unit exponential E for each token of the vocabulary, hence ``num_draws`` PER_TOKEN: one pass over the laws
    takes a fraction of the time of drawing the children one after another, which a few uniforms would do for.

    Siblings are verified in the order of arrival by recursive rejection. A token that does not make it into the beam
    is dropped for its lateness, and when the next of a node's children arrives is independent of which it is: so
    nothing is learnt about the token that is dropped.

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
        """The roots ``[B]``, which arrive at time 0. Scores are arrival times, negated."""
        state = rooted(root_tokens, num_draws=PER_TOKEN)
        return replace(state, scores=array_namespace(state.path_probs).zeros_like(state.path_probs))

    def expand(self, state: DraftState, draft_probs: Array, uniforms: Array | None = None) -> DraftState:
        """The children of the beam that arrive first are the next beam."""
        xp, (batch, width, vocab_size) = array_namespace(draft_probs), draft_probs.shape
        uniforms = checked_uniforms(uniforms, state.uniforms_shape(vocab_size))
        assert state.scores is not None
        arrivals = xp.reshape(self._arrivals(state, draft_probs, uniforms), (batch, width * vocab_size))
        scores, slots = top(arrivals, min(self.width, width * vocab_size))
        columns = xp.where(scores > -xp.inf, slots // vocab_size, -1)
        num_before, scores_before = state.parents.shape[1], xp.astype(state.scores, scores.dtype)
        state = state.grown(draft_probs, columns, slots % vocab_size)
        state = replace(state, scores=xp.concat([scores_before, scores], axis=1))
        if len(state.laws) == self.depth:
            return state
        beam = num_before + xp.arange(columns.shape[1], device=device(columns))
        return state.then(trimmed(xp.where(columns >= 0, beam, -1)), PER_TOKEN)

    def _arrivals(self, state: DraftState, probs: Array, uniforms: Array) -> Array:
        """Negated arrival time of every child, ``[B, F, V]``; -inf for those without probability."""
        xp = array_namespace(probs)
        is_node = state.frontier >= 0
        rates = probs * (pick(state.path_probs, state.frontier) * is_node)[..., None]
        never = xp.full_like(probs, -xp.inf)
        waits = xp.log(uniforms.clip(min=TINY)) / xp.where(rates > 0, rates, xp.ones_like(rates))
        waits = xp.where(rates > 0, waits, never)
        first = xp.max(waits, axis=2)
        offset = pick(state.scores, state.frontier) - xp.where(first > -xp.inf, first, xp.zeros_like(first))
        return waits + offset[..., None]

    def select(self, state: DraftState) -> TokenTree:
        """All nodes: those of equal parents stand in the order drawn."""
        return subtree(state, all_nodes(state))
