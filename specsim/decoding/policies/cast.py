"""CAST: a tree that stops growing where a pass costs more than the tokens it is expected to bring."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from specsim.decoding.arrays import Array, array_namespace, pick, trimmed
from specsim.decoding.policies.pool import check_at_least, most_probable, top_children_of_each
from specsim.decoding.propose import top
from specsim.decoding.state import DraftState, Draw, Limits, TokenTree, rooted, subtree
from specsim.errors import InputError

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Cast:
    """EAGLE-2's tree with its width, depth and size chosen by cost, the same numbers for all rows of a batch.

    Expected tokens are path probabilities, averaged over the rows; a row with less to offer is padded. A level that is
    not drafted yet is expected to bring what the nodes run for it hold, times the recent ratio from level to level.

    At ``prices`` (tokens that a unit of time must bring), as in the paper:

    * Width: of a level's children, best first, run the k for which ``expected tokens - price * draft_cost`` is largest.
    * Depth: run them if the tokens that the level below should bring are worth the price of the pass.
    * Size: verify the n for which ``expected tokens - price * verify_cost`` is largest.

    Where expected tokens have falling and costs rising increments, the largest objective is the last increment worth
    its price, which is how the paper says it; the objective also holds for costs that move in steps.

    Without prices each choice is for the largest expected tokens per unit of time of the whole round, what was drafted
    already being paid: run the k that raises it most in expectation, or end; verify the n of the highest.

    Args:
        top_k: Children drafted of each node run.
        max_depth: Most levels.
        draft_cost: Time of a draft pass over 1, 2, ... nodes of each row; its length bounds the width.
        verify_cost: Time of the target's pass over 1, 2, ... nodes of each row, root in; its length bounds the tree.
        prices: For width, depth and size; with times in plain decoding steps the paper's C1, C2, C3. Or None.
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
        width = self._width_at_prices(state, found) if self.prices else self._width_of_best_rate(state, found)
        chosen = array_namespace(best).where(found > 0, best + num_before, -1)[:, :width]
        return state.then(trimmed(chosen))

    def select(self, state: DraftState) -> TokenTree:
        """The most probable nodes, as many as pay."""
        expected = np.cumsum(self._offered(state))
        costs = np.asarray(self.verify_cost[: len(expected)])
        worth = expected - self.prices[2] * costs if self.prices else _rates(expected, self._drafting(state) + costs)
        return subtree(state, most_probable(state, 1 + _last_best(worth)))

    def _width_at_prices(self, state: DraftState, found: Array) -> int:
        assert self.prices is not None
        costs, expected = np.asarray(self.draft_cost[: found.shape[1]]), np.cumsum(_mean(found))
        width = 1 + _last_best(expected - self.prices[0] * costs)
        level = float(expected[width - 1])
        below = self._ratio(state, level) * level
        return width if below >= self.prices[1] * costs[width - 1] else 0

    def _width_of_best_rate(self, state: DraftState, found: Array) -> int:
        """By forecast: all widths at once, 0 among them, each with the best size to verify afterwards."""
        level, offered = _mean(found), self._offered(state)
        ahead = np.tril(np.ones((len(level) + 1, len(level))), -1) * level * self._ratio(state, float(level.sum()))
        pool = np.concatenate([np.broadcast_to(offered, (len(ahead), len(offered))), ahead], axis=1)
        expected = np.cumsum(-np.sort(-pool, axis=1), axis=1)[:, : len(self.verify_cost)]
        drafting = self._drafting(state) + np.array([0.0, *self.draft_cost[: len(level)]])
        times = drafting[:, None] + np.asarray(self.verify_cost[: expected.shape[1]])
        return _last_best(_rates(expected, times).max(axis=1))

    def _drafting(self, state: DraftState) -> float:
        """Time of the passes made."""
        return float(sum(self.draft_cost[laws.shape[1] - 1] for laws in state.laws))

    def _offered(self, state: DraftState) -> Float:
        """Path probabilities of the most probable nodes, best first: the root's 1 counts the bonus token."""
        return _mean(top(state.path_probs, min(len(self.verify_cost), state.path_probs.shape[1]))[0])

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


def _mean(found: Array) -> Float:
    """``found[B, N]`` averaged over the rows, on the host."""
    total: Float = np.asarray(found.sum(0).tolist(), dtype=float)
    return total / float(found.shape[0])


def _rates(expected: Float, times: Float) -> Float:
    """Tokens per time; what takes no time ranks above all else, by its tokens."""
    free = times == 0
    return np.where(free, 1e300 * expected, expected / np.where(free, 1.0, times))


def _last_best(values: Float) -> int:
    """Index of the largest; of equals the last, since a gain too small for its sum is still a gain."""
    return len(values) - 1 - int(np.argmax(values[::-1]))
