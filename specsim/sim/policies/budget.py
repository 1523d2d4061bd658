"""Draft tokens shared out over the batch: those that are likeliest to be kept, wherever they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from specsim.errors import InputError
from specsim.sim.policies import DependsOn, Floats, Ints, StepView
from specsim.sim.policies.basic import Memoryless


def best_tokens(survival: Floats, num_tokens: int) -> Ints:
    """Draft lengths ``[N]`` that take the ``num_tokens`` positions with the largest ``survival[N, D]``.

    Survival never rises along a row, so the largest are a prefix of each: taking them greedily is exact. Of equal ones
    the shallower is taken, then the earlier request.

    >>> best_tokens(np.array([[0.9, 0.8, 0.1], [0.5, 0.2, 0.1]]), 3).tolist()
    [2, 1]
    """
    num, depth = survival.shape
    order = np.lexsort((np.tile(np.arange(depth), (num, 1)).ravel(), -survival.ravel()))
    return np.bincount(order[: max(num_tokens, 0)] // max(depth, 1), minlength=num).astype(np.int64)


@dataclass(frozen=True)
class TokenBudget(Memoryless):
    """At most ``num_tokens`` draft tokens in a step, whichever requests they belong to.

    Source: TETRIS (arXiv:2502.15197): the tokens that are likeliest to be accepted, over the whole batch.
    """

    num_tokens: int
    longest: int = 8
    depends_on: DependsOn = "history"

    def __post_init__(self) -> None:
        if self.num_tokens < 0 or self.longest < 0:
            raise InputError("num_tokens, longest", "must be >= 0", (self.num_tokens, self.longest))

    @property
    def max_draft_len(self) -> int:
        return self.longest

    def choose(self, state: Any, view: StepView) -> tuple[Any, Ints]:
        return state, best_tokens(view.survival[:, : self.longest], self.num_tokens)


@dataclass(frozen=True)
class BestBudget(Memoryless):
    """The number of draft tokens with the most expected tokens per second, shared out as ``TokenBudget`` does.

    Source: DSpark's scheduler: admit draft tokens in order of prefix survival while throughput gains.
    """

    longest: int = 8
    depends_on: DependsOn = "history"

    @property
    def max_draft_len(self) -> int:
        return self.longest

    def choose(self, state: Any, view: StepView) -> tuple[Any, Ints]:
        survival = view.survival[:, : self.longest]
        gains = np.concatenate(([0.0], np.cumsum(np.sort(survival.ravel())[::-1])))
        # The step's time is asked for at a few sizes: it is smooth between them, or constant up to a tile's end.
        sizes = np.unique(np.linspace(0, survival.size, min(survival.size, 24) + 1).astype(int))
        lens = [best_tokens(survival, int(size)) for size in sizes]
        rates = [(gains[size] + len(survival)) / view.time_s(drafts) for size, drafts in zip(sizes, lens, strict=True)]
        return state, lens[int(np.argmax(rates))]


@dataclass(frozen=True)
class SloBudget(Memoryless):
    """First what each request needs to meet its time per token, then the likeliest tokens, within ``num_tokens``.

    A request needs as many expected tokens in this step as its target says will be due when the step ends. Requests
    that need the least are served first: as many as possible meet their target.

    Source: AdaServe (arXiv:2501.12162): SLO-customised selection, then throughput-optimised selection.
    """

    num_tokens: int
    longest: int = 8
    depends_on: DependsOn = "history"

    @property
    def max_draft_len(self) -> int:
        return self.longest

    def choose(self, state: Any, view: StepView) -> tuple[Any, Ints]:
        survival = view.survival[:, : self.longest]
        spent = view.now_s + view.time_s(self.longest) - view.first_token_s
        with np.errstate(invalid="ignore"):
            due = np.where(np.isfinite(view.tpot_slo_s), spent / view.tpot_slo_s, 0.0) - (view.tokens_out - 1)
        reach = 1 + np.concatenate((np.zeros((len(survival), 1)), np.cumsum(survival, axis=1)), axis=1)
        needed = (reach < due[:, None]).sum(axis=1)
        needed = np.where(needed > survival.shape[1], 0, needed)  # out of reach: it competes with the others
        lens, left = np.zeros(len(survival), np.int64), self.num_tokens
        for row in np.argsort(needed, kind="stable"):
            if needed[row] > left:
                break
            lens[row], left = needed[row], left - needed[row]
        taken = np.arange(survival.shape[1]) < lens[:, None]
        left = min(left, int((~taken).sum()))
        return state, lens + best_tokens(np.where(taken, -1.0, survival), left)
