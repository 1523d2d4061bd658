"""The best draft length, by evaluating all of them.

The rate over draft length need not have a single peak: verification costs that rise in steps (tiles, waves, captured
graph sizes) make stairs on which climbing from 0 stops early. There are few lengths, so none is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from specsim.acceptance.profile import as_floats, checked_probs
from specsim.errors import InputError
from specsim.search.exact.certificate import Array, Certificate, checked_costs, checked_count


@dataclass(frozen=True, eq=False)
class ChainAnswer:
    """The fastest chain, and how all the others do.

    Args:
        draft_len: Draft tokens per round; 0: no speculation. The shortest of equally fast ones.
        tokens_per_s: Rate of the whole batch at that length.
        tokens_per_round: Mean tokens a sequence emits per round, bonus token in.
        rate_by_draft_len: Tokens per second of the whole batch, ``[draft_len]``, from 0.
        certificate: Over the lengths searched.
        longer_rate_bound: No longer chain is faster than this, provided that acceptance further on is at most that of
            the last depth searched, and that a round does not get cheaper with length.
    """

    draft_len: int
    tokens_per_s: float
    tokens_per_round: float
    rate_by_draft_len: Array
    certificate: Certificate
    longer_rate_bound: float

    @property
    def is_best_at_any_length(self) -> bool:
        """Is it proved, under the proviso of ``longer_rate_bound``, that no chain of any length is faster."""
        return self.longer_rate_bound <= self.tokens_per_s


def best_chain(
    accept_by_depth: ArrayLike, draft_step_cost_s: ArrayLike, verify_cost_s: ArrayLike, batch: int = 1
) -> ChainAnswer:
    """The draft length from 0 to ``len(draft_step_cost_s)`` with the highest rate of tokens.

    The long-run rate of a renewal process is E[tokens] / E[time], here
    ``batch * (1 + sum_{i<=g} prod_{j<=i} alpha_j) / (sum_{i<=g} draft_i + verify_g)``.

    Args:
        accept_by_depth: Probability that each draft token is kept, given that its prefix was, ``[depth - 1]``.
        draft_step_cost_s: Time of each draft step for the whole batch, ``[step - 1]``.
        verify_cost_s: Time of one target pass over g + 1 tokens of each sequence, ``[g]``, from g = 0; above 0.
        batch: Sequences that advance together, each at its own pace.

    Raises:
        InputError: for a probability outside 0..1, a cost that is negative or not finite, or a table too short.

    >>> answer = best_chain([0.5, 0.5], [0.25, 0.25], [1.0, 1.0, 1.0])
    >>> answer.draft_len, answer.rate_by_draft_len.round(4).tolist()
    (1, [1.0, 1.2, 1.1667])
    """
    draft_cost_s = checked_costs("draft_step_cost_s", draft_step_cost_s)
    max_len = len(draft_cost_s)
    verify_s = checked_costs("verify_cost_s", verify_cost_s, max_len + 1, positive=True)
    alpha = _checked_alpha(accept_by_depth, max_len)
    checked_count("batch", batch, at_least=1)
    survival = np.concatenate(([1.0], np.cumprod(alpha)))
    tokens = np.cumsum(survival)
    time_s = np.concatenate(([0.0], np.cumsum(draft_cost_s))) + verify_s
    rate = batch * tokens / time_s
    best = int(rate.argmax())
    return ChainAnswer(
        draft_len=best,
        tokens_per_s=float(rate[best]),
        tokens_per_round=float(tokens[best]),
        rate_by_draft_len=rate,
        certificate=Certificate("scan", float(rate[best])),
        longer_rate_bound=batch * (float(tokens[-1]) + _tail_tokens(alpha, float(survival[-1]))) / float(time_s[-1]),
    )


def _tail_tokens(alpha: Array, survival: float) -> float:
    """Most tokens that depths beyond the last can add: a geometric series at its acceptance."""
    last = float(alpha[-1]) if len(alpha) else 1.0
    if survival == 0:
        return 0.0
    return survival * last / (1 - last) if last < 1 else float("inf")


def _checked_alpha(accept_by_depth: ArrayLike, max_len: int) -> Array:
    if max_len == 0:
        return np.empty(0)
    alpha = checked_probs("accept_by_depth", as_floats("accept_by_depth", accept_by_depth, ndim=1))
    if len(alpha) < max_len:
        raise InputError("accept_by_depth", f"must be at least {max_len} long, one per draft step", len(alpha))
    return alpha[:max_len]
