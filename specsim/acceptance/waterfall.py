"""Where tokens per second are lost between the limit and a method: steps whose factors multiply to the whole.

P' is the best number of draft tokens of a free drafter that knows the target's law, P the method's own::

    flat         (1 + X*_P') / T(1)        if verifying took as long as one token
    verify       (1 + X*_P') / T(P' + 1)   what the hardware takes: this is the limit
    budget       (1 + X*_P) / T(P + 1)     the method's own number of draft tokens; never above the limit
    drafter      its own best P tokens instead of the target's
    tree         the tokens that the method drafts instead of those
    rule         what its rule accepts, instead of the best lossless rule
    draft, host  their time added
    measured     what a clock said, where it did

A factor above 1 is a gain against the step before: sampled drafts may pass a deterministic drafter's tokens, and
kernels may take less time for more tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log

from specsim.acceptance.limits import LimitRate
from specsim.errors import InputError


@dataclass(frozen=True)
class Step:
    """One bar.

    Attributes:
        name: What it is.
        group: flat, verify, budget, drafter, tree, rule, overhead or measured.
        tokens_per_round: Tokens that a sequence emits per round after this step.
        round_s: Seconds of a round after it.
        tokens_per_s: All sequences together after it.
        factor: Of the rate, against the step before; 1 for the first.
    """

    name: str
    group: str
    tokens_per_round: float
    round_s: float
    tokens_per_s: float
    factor: float


@dataclass(frozen=True)
class Tokens:
    """Tokens per round of a method with P drafted, bonus token in, from the limit down.

    Attributes:
        limit: Of a drafter that knows the target's law, 1 + X*_P.
        drafter: Of this drafter's best P.
        tree: Of the tokens the method drafts, under the best lossless rule.
        method: Of the method.
    """

    limit: float
    drafter: float
    tree: float
    method: float


@dataclass(frozen=True)
class Times:
    """Seconds of a round's parts: the target's pass over one token and over P + 1, drafting, the host."""

    flat_s: float
    verify_s: float
    draft_s: float
    host_s: float


def waterfall(
    limit: LimitRate, tokens: Tokens, times: Times, batch: float = 1, measured_tokens_per_s: float | None = None
) -> tuple[Step, ...]:
    """The steps down to a method; the second is the limit. Their factors multiply to the last rate over the first.

    >>> import numpy as np
    >>> light = LimitRate(3, 3.0, 1.0, 3.0, np.array([1.0, 1.6, 2.3, 3.0]))
    >>> steps = waterfall(light, Tokens(2.3, 2.0, 2.0, 1.8), Times(1.0, 1.0, 0.5, 0.0))
    >>> [round(step.factor, 3) for step in steps], round(steps[-1].tokens_per_s, 2)
    ([1.0, 1.0, 0.767, 0.87, 1.0, 0.9, 0.667, 1.0], 1.2)
    """
    if min(times.flat_s, times.verify_s) <= 0 or min(times.draft_s, times.host_s) < 0:
        raise InputError("times", "must be > 0 of the target's passes and >= 0 of the rest", times)
    if min(tokens.limit, tokens.drafter, tokens.tree, tokens.method) < 1:
        raise InputError("tokens", "must be >= 1 per round", tokens)
    own_s = times.verify_s
    levels: list[tuple[str, str, float, float]] = [
        ("limit if verifying were flat", "flat", limit.tokens_per_round, times.flat_s),
        ("verifying more than one token", "verify", limit.tokens_per_round, limit.verify_s),
        ("own number of draft tokens", "budget", tokens.limit, own_s),
        ("drafter does not know the target", "drafter", tokens.drafter, own_s),
        ("shape of the draft", "tree", tokens.tree, own_s),
        ("verification rule", "rule", tokens.method, own_s),
        ("drafting time", "overhead", tokens.method, own_s + times.draft_s),
        ("host time", "overhead", tokens.method, own_s + times.draft_s + times.host_s),
    ]
    if measured_tokens_per_s is not None:
        if not measured_tokens_per_s > 0:
            raise InputError("measured", "must be > 0 tokens per second", measured_tokens_per_s)
        seconds = batch * tokens.method / measured_tokens_per_s
        levels.append(("measured against predicted", "measured", tokens.method, seconds))
    rates = [batch * num / seconds for _, _, num, seconds in levels]
    factors = [1.0, *(after / before for before, after in pairwise(rates))]
    return tuple(
        Step(name, group, num, seconds, rate, factor)
        for (name, group, num, seconds), rate, factor in zip(levels, rates, factors, strict=True)
    )


def shares(steps: Sequence[Step]) -> dict[str, float]:
    """Share of each group in the loss below the limit, by logarithms, which add: they sum to 1 where any is lost.

    >>> import numpy as np
    >>> light = LimitRate(3, 3.0, 1.0, 3.0, np.array([1.0, 1.6, 2.3, 3.0]))
    >>> found = shares(waterfall(light, Tokens(3.0, 1.5, 1.5, 1.5), Times(1.0, 1.0, 1.0, 0.0)))
    >>> round(found["drafter"], 3), round(found["overhead"], 3)
    (0.5, 0.5)
    """
    whole = log(steps[-1].tokens_per_s / steps[1].tokens_per_s)
    found: dict[str, float] = {}
    for step in steps[2:]:
        found[step.group] = found.get(step.group, 0.0) + (log(step.factor) / whole if whole else 0.0)
    return found
