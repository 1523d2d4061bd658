"""CAST: a tree that stops growing where a pass costs more than the tokens it is expected to bring."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import ClassVar, Literal

from array_api_compat import array_namespace

from specsim.decoding.arrays import Array, pick, trimmed
from specsim.decoding.policies.pool import check_at_least, most_probable, top_children_of_each
from specsim.decoding.propose import top
from specsim.decoding.state import DraftState, Draw, Limits, TokenTree, rooted, subtree
from specsim.errors import InputError


@dataclass(frozen=True)
class Cast:
    """EAGLE-2's tree with its width, depth and size chosen by cost, the same numbers for all rows of a batch.

    Expected tokens are path probabilities, averaged over the rows; a row with less to offer is padded.

    * Width: of a level's children, best first, run the k for which ``expected tokens - price * draft_cost`` is largest.
    * Depth: run them if the tokens that the level below should bring (theirs, times the recent ratio from one level to
      the next) are worth the price of the pass.
    * Size: verify the n for which ``expected tokens - price * verify_cost`` is largest.

    Where expected tokens have falling and costs rising increments, the largest objective is the last increment worth
    its price, which is how the paper says it; the objective also holds for costs that move in steps.

    Args:
        top_k: Children drafted of each node run.
        max_depth: Most levels.
        draft_cost: Time of a draft pass over 1, 2, ... nodes of each row; its length bounds the width.
        verify_cost: Time of the target's pass over 1, 2, ... nodes of each row, root in; its length bounds the tree.
        prices: Tokens that a unit of time must bring, in the choices of width, depth and size (with times in plain
            decoding steps the paper's C1, C2, C3). None: what the best tree drafted so far brings per unit of time,
            and of all sizes the one that brings most.
        recent: How many ratios from level to level to average; they start from a single 1.

    Source: Hong et al. 2025 (arXiv:2510.26577).
    """

    top_k: int
    max_depth: int
    draft_cost: tuple[float, ...]
    verify_cost: tuple[float, ...]
    prices: tuple[float, float, float] | None
    recent: int
    kind: Literal["cast"] = "cast"
    draw: ClassVar[Draw] = "top"

    def __post_init__(self) -> None:
        check_at_least(1, top_k=self.top_k, max_depth=self.max_depth, recent=self.recent)
        for field in ("draft_cost", "verify_cost", "prices"):
            values = getattr(self, field)
            if values is not None and not (values and all(0 <= value < math.inf for value in values)):
                raise InputError(field, "must be finite numbers >= 0, one at least", values)

    @property
    def limits(self) -> Limits:
        """Costs that never stop it."""
        width = len(self.draft_cost)
        return Limits(len(self.verify_cost), self.max_depth, self.max_depth, 1 + (self.max_depth - 1) * width)

    def start(self, root_tokens: Array) -> DraftState:
        """The roots ``[B]``."""
        return rooted(root_tokens, num_draws=0)

    def expand(self, state: DraftState, draft_probs: Array, uniforms: Array | None = None) -> DraftState:
        """Draft the children of the frontier; run as many of the best as pay, if any do."""
        columns, tokens = top_children_of_each(state, draft_probs, self.top_k)
        num_before = state.parents.shape[1]
        state = state.grown(draft_probs, columns, tokens)
        if len(state.laws) == self.max_depth:
            return state
        found, best = top(state.path_probs[:, num_before:], min(len(self.draft_cost), columns.shape[1]))
        tokens_by_width = _cumulated(found)
        width_price, depth_price = self.prices[:2] if self.prices else [self.rate(state)] * 2
        worth = [
            value - _paid(width_price, cost) for value, cost in zip(tokens_by_width, self.draft_cost, strict=False)
        ]
        width = 1 + worth.index(max(worth))
        below = self._ratio(state, tokens_by_width[width - 1]) * tokens_by_width[width - 1]
        if not below or below < _paid(depth_price, self.draft_cost[width - 1]):
            return state
        chosen = array_namespace(best).where(found > 0, best + num_before, -1)[:, :width]
        return state.then(trimmed(chosen))

    def select(self, state: DraftState) -> TokenTree:
        """The most probable nodes, as many as pay."""
        expected = self._expected_tokens(state)
        if self.prices:
            worth = [
                (value - self.prices[2] * cost, 0.0) for value, cost in zip(expected, self.verify_cost, strict=False)
            ]
        else:
            worth = list(zip(self._rates(state), expected, strict=True))
        return subtree(state, most_probable(state, 1 + worth.index(max(worth))))

    def rate(self, state: DraftState) -> float:
        """Expected tokens per unit of time of the best tree drafted so far, its draft passes paid."""
        return max(self._rates(state))

    def _rates(self, state: DraftState) -> list[float]:
        drafting = sum(self.draft_cost[laws.shape[1] - 1] for laws in state.laws)
        times = (drafting + cost for cost in self.verify_cost)
        return [value / t if t else math.inf for value, t in zip(self._expected_tokens(state), times, strict=False)]

    def _expected_tokens(self, state: DraftState) -> list[float]:
        """By size, root in: the mean over rows of the best tree's path probabilities, the root's 1 for the bonus."""
        found, _ = top(state.path_probs, min(len(self.verify_cost), state.path_probs.shape[1]))
        return _cumulated(found)

    def _ratio(self, state: DraftState, newest: float) -> float:
        """Mean of the recent ratios between the expected tokens of a level run and of the one above it."""
        ran: list[float] = (pick(state.path_probs, state.expanded) * (state.expanded >= 0)).sum(0).tolist()
        levels: list[float] = []
        begin = 0
        for laws in state.laws:
            levels.append(sum(ran[begin : begin + laws.shape[1]]) / state.parents.shape[0])
            begin += laws.shape[1]
        levels.append(newest)
        ratios = [1.0, *(below / above for above, below in pairwise(levels))][-self.recent :]
        return sum(ratios) / len(ratios)


def _cumulated(found: Array) -> list[float]:
    """Sums of the first 1, 2, ... of ``found[B, N]``, averaged over the rows."""
    return [total / found.shape[0] for total in accumulate(found.sum(0).tolist())]


def _paid(price: float, cost: float) -> float:
    """Tokens that a cost must bring; what is free must bring none at any price."""
    return price * cost if cost else 0.0
