"""The acceptance that a drafter needs to pay: where its best chain is as fast as plain decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from specsim.acceptance.emitted import tokens_per_round
from specsim.acceptance.profile import constant_alpha
from specsim.scenario import Deployment
from specsim.search.exact.certificate import Array
from specsim.search.rounds import price_rounds, shape_of
from specsim.tree import DraftTree

STEPS: Final = 60
CONVERGED: Final = 1e-13


@dataclass(frozen=True, eq=False)
class BreakEven:
    """At one batch and context, chains only.

    Args:
        alpha: Least i.i.d. acceptance at which some chain is as fast as plain decoding; None where none is, even if
            every draft token were kept.
        draft_len: The chain that pays first.
        by_draft_len: ``[draft_len - 1]``, the least acceptance for each; NaN where even 1 is not enough.
        needed_tokens: ``[draft_len - 1]``, tokens per round that each must emit; its time over that of plain decoding.
        has_alpha: What the drafter's own acceptance comes to at that draft length: the i.i.d. acceptance that emits as
            many tokens; None where its acceptance is not known so deep.
    """

    alpha: float | None
    draft_len: int | None
    by_draft_len: Array
    needed_tokens: Array
    has_alpha: float | None

    @property
    def pays(self) -> bool | None:
        """Whether the drafter's own acceptance is above what is needed at that draft length; None where not known."""
        if self.alpha is None:
            return False
        return None if self.has_alpha is None else self.has_alpha > self.alpha


def break_even(deployment: Deployment, longest: int | None = None) -> BreakEven:
    """Solve ``1 + alpha + ... + alpha**g = time(g) / time(0)`` for every draft length g.

    The time of a round depends on alpha a little, as the drafter's first pass is fed what the last round emitted: the
    equation is solved in turns with that time, to the last digits.

    >>> from specsim.scenario import find_scenario, resolve
    >>> found = break_even(resolve(find_scenario("llama-3.1-8b-agx-orin")))
    >>> found.draft_len, 0.1 < found.alpha < found.has_alpha
    (1, True)
    """
    s = deployment.scenario
    lens = np.arange(1.0, (s.search.max_draft_len if longest is None else longest) + 1)
    if s.drafter.kind == "none" or not len(lens):
        return BreakEven(None, None, np.empty(0), np.empty(0), None)
    shapes = [shape_of(DraftTree.chain(int(n))) for n in lens]

    def seconds(pending: Array) -> Array:
        which = np.append(np.arange(len(shapes)), len(shapes))
        fed, w = np.append(pending, 1.0), s.workload
        everything = [*shapes, shape_of(DraftTree.root_only())]
        costs = price_rounds(deployment.cost, deployment.drafting, everything, which, w.batch, w.context_tokens, fed)
        return costs.time_s

    alpha = np.ones(len(lens))
    for _ in range(STEPS):
        time_s = seconds(_tokens(alpha, lens))
        needed = time_s[:-1] / time_s[-1]
        before, alpha = alpha, _alphas(needed, lens)
        if np.abs(alpha - before).max() < CONVERGED:
            break
    enough = np.where(needed <= lens + 1, alpha, np.nan)
    if np.isnan(enough).all():
        return BreakEven(None, None, enough, needed, None)
    best = int(np.nanargmin(enough))
    return BreakEven(float(enough[best]), best + 1, enough, needed, _own_alpha(deployment, best + 1))


def _own_alpha(deployment: Deployment, draft_len: int) -> float | None:
    if deployment.acceptance.max_depth < draft_len:
        return None
    return constant_alpha(tokens_per_round(DraftTree.chain(draft_len), deployment.acceptance) - 1, draft_len)


def _tokens(alpha: Array, lens: Array) -> Array:
    """Mean tokens per round of each chain under its own alpha."""
    powers = alpha[:, None] ** np.arange(lens.max() + 1)
    return np.asarray(np.where(np.arange(lens.max() + 1) <= lens[:, None], powers, 0.0).sum(axis=1))


def _alphas(needed: Array, lens: Array) -> Array:
    """The alpha from 0 to 1 of each chain that emits ``needed`` tokens, by halving; the nearer end where none does."""
    low, high = np.zeros(len(lens)), np.ones(len(lens))
    for _ in range(60):  # below the spacing of doubles
        middle = (low + high) / 2
        enough = _tokens(middle, lens) >= needed
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return high
