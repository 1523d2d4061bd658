"""The draft length that is least regretted over an interval of acceptance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from specsim.errors import InputError
from specsim.search.exact.certificate import Array, checked_costs, checked_count


@dataclass(frozen=True, eq=False)
class RobustChain:
    """The draft length with the least largest regret, and that of each length, ``[draft_len]``."""

    draft_len: int
    regret: float
    regret_by_draft_len: Array


def best_robust_chain(
    alpha_low: float, alpha_high: float, max_draft_len: int, step_cost: float, verify_cost: ArrayLike
) -> RobustChain:
    """Min-max regret 1 - rate / best rate over i.i.d. acceptance anywhere from ``alpha_low`` to ``alpha_high``.

    The ratio of expected tokens of a longer chain to a shorter one rises with acceptance, so each length's share of the
    best rate has a single peak in it and is least at an end of the interval, whatever the costs: two points suffice.

    Args:
        step_cost: Of drafting one token.
        verify_cost: ``[draft_len]``, of verifying that many and the root.

    Raises:
        InputError: for an interval that is empty or leaves 0..1, and for wrong costs.

    >>> round(best_robust_chain(0.1, 0.9, 1, 0.5, [1.0, 1.0]).regret, 4)  # to draft loses 1 - 1.1 / 1.5 at worst
    0.2105
    """
    if not 0 <= alpha_low <= alpha_high <= 1:
        raise InputError("alpha_lo, alpha_hi", "must be rising within 0..1", [alpha_low, alpha_high])
    checked_count("gamma_max", max_draft_len, 0)
    verify = checked_costs("verify_cost", verify_cost, max_draft_len + 1, positive=True)
    step = float(checked_costs("draft_step_cost", [step_cost])[0])
    lengths = np.arange(max_draft_len + 1)
    rates = np.stack([np.cumsum(a ** lengths.astype(float)) for a in (alpha_low, alpha_high)]) / (
        step * lengths + verify
    )
    regret = np.max(1 - rates / rates.max(axis=1, keepdims=True), axis=0)
    best = int(regret.argmin())
    return RobustChain(best, float(regret[best]), regret)
