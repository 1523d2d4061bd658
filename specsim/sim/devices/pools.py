"""Many drafters and few targets: pools that requests pass through, a pipeline of both, and drafters that vote."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray

from specsim.errors import InputError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PoolRun:
    """What pools did: rounds finished per second, and the share of time that each pool's servers were busy."""

    rounds_per_s: float
    busy_frac: dict[str, float]


def pooled(
    num_requests: int,
    draft_s: Callable[[np.random.Generator], float],
    verify_s: Callable[[np.random.Generator], float],
    num_drafters: int,
    num_targets: int,
    num_rounds: int,
    rng: np.random.Generator,
    away_s: float = 0.0,
) -> PoolRun:
    """Requests that draft in one pool and are verified in another, first come first served, round after round.

    Args:
        num_requests: In flight, all the time.
        draft_s, verify_s: Time of each round in either pool: a function of ``rng``.
        num_drafters, num_targets: Servers of the pools.
        num_rounds: Rounds of all requests together; the first tenth is warm-up.
        rng: Source of the times.
        away_s: Time between the pools, both ways together: links.

    Raises:
        InputError: for a count below 1.
    """
    counts = {"num_requests": num_requests, "num_drafters": num_drafters, "num_targets": num_targets, "num_rounds": num_rounds}  # fmt: skip  # noqa: E501
    for name, count in counts.items():
        if count < 1:
            raise InputError(name, "must be >= 1", count)
    env = simpy.Environment()
    pools = {"draft": simpy.Resource(env, num_drafters), "target": simpy.Resource(env, num_targets)}
    busy = dict.fromkeys(pools, 0.0)
    done, warm, warm_at = [0], num_rounds // 10, [0.0]

    def visit(name: str, seconds: float) -> Any:
        with pools[name].request() as turn:
            yield turn
            yield env.timeout(seconds)
            busy[name] += seconds if done[0] >= warm else 0.0

    def request() -> Any:
        while done[0] < num_rounds:
            yield from visit("draft", float(draft_s(rng)))
            yield env.timeout(away_s)
            yield from visit("target", float(verify_s(rng)))
            done[0] += 1
            if done[0] == warm:
                warm_at[0] = env.now

    for _ in range(num_requests):
        env.process(request())
    env.run()
    span = env.now - warm_at[0]
    servers = {"draft": num_drafters, "target": num_targets}
    return PoolRun((done[0] - warm) / span, {name: busy[name] / span / servers[name] for name in pools})


def pipeline_makespan(draft_s: Floats, verify_s: Floats, depth: int = 1) -> float:
    """When the last batch of a pipeline is verified: drafter and target side by side, ``depth`` results between them.

    Batch b is drafted when the drafter is free and the pool has room (b - depth - 1 was taken out of it), and verified
    when it is drafted and the target is free.

    Source: the intermediate result pool of Minions (Wang et al. 2024, arXiv:2402.15678).

    >>> pipeline_makespan(np.array([1.0, 1, 1]), np.array([2.0, 2, 2]))
    7.0
    """
    if len(draft_s) != len(verify_s) or not len(draft_s) or depth < 1:
        raise InputError("draft_s, verify_s, depth", "must be as many times, at least one, and depth >= 1", depth)
    begun: list[float] = []
    target_free = drafter_free = 0.0
    for batch, (drafting, verifying) in enumerate(zip(draft_s, verify_s, strict=True)):
        room = begun[batch - depth] if batch >= depth else 0.0
        # A batch that is done but finds the pool full stays with the drafter, which then waits.
        done = drafter_free + float(drafting)
        drafter_free = max(done, room)
        begun.append(max(drafter_free, target_free))
        target_free = begun[-1] + float(verifying)
    return target_free


def majority_alpha(alpha: float, num_drafters: int, correlation: float, num_wrong_tokens: int = 10) -> float:
    """Probability that the plurality of several drafters is right, ties broken evenly.

    Each is right with probability ``alpha``; all right at once or wrong at once as ``correlation`` of their hits says
    (a beta-binomial law); wrong ones spread evenly over ``num_wrong_tokens`` others, on which they agree by chance
    only. With correlation 1 all say the same, and voting gains nothing.

    Source: majority-voted speculation of Minions (arXiv:2402.15678); the law of hits is ours.

    >>> majority_alpha(0.6, 1, 0.3), majority_alpha(0.6, 5, 1.0)
    (0.6, 0.6)
    """
    if not 0 <= alpha <= 1 or not 0 <= correlation <= 1:
        raise InputError("alpha, correlation", "must be from 0 to 1", (alpha, correlation))
    if num_drafters < 1 or num_wrong_tokens < 1:
        raise InputError("num_drafters, num_wrong_tokens", "must be >= 1", (num_drafters, num_wrong_tokens))
    if num_drafters == 1 or correlation == 1 or alpha in (0.0, 1.0):
        return alpha
    from math import comb, exp, lgamma

    total = 0.0
    for right in range(num_drafters + 1):
        if correlation == 0:
            weight = comb(num_drafters, right) * alpha**right * (1 - alpha) ** (num_drafters - right)
        else:
            a, b = alpha * (1 / correlation - 1), (1 - alpha) * (1 / correlation - 1)
            log_beta = lgamma(right + a) + lgamma(num_drafters - right + b) - lgamma(num_drafters + a + b)
            weight = comb(num_drafters, right) * exp(log_beta - lgamma(a) - lgamma(b) + lgamma(a + b))
        total += weight * _wins(right, num_drafters - right, num_wrong_tokens)
    return total


def _wins(right: int, wrong: int, kinds: int) -> float:
    """Probability that ``right`` equal votes win against ``wrong`` ones spread evenly over ``kinds`` tokens.

    By the exponential generating function of counts below, and equal to, ``right``: a tie with t others is won by one
    in t + 1.
    """
    if right == 0:
        return 0.0
    from math import factorial

    below = np.array([1.0 / factorial(k) for k in range(right)])
    ways = np.zeros(wrong + 1)
    for ties in range(min(kinds, wrong // right) + 1):
        # ``ties`` tokens have exactly ``right`` votes, the others fewer.
        poly = np.ones(1)
        for _ in range(kinds - ties):
            poly = np.convolve(poly, below)[: wrong + 1]
        left = wrong - ties * right
        if left < len(poly):
            ways[ties] = factorial(kinds) / factorial(ties) / factorial(kinds - ties) * poly[left] / factorial(right) ** ties  # fmt: skip  # noqa: E501
    chances = ways * factorial(wrong) / float(kinds) ** wrong
    return float(sum(chance / (ties + 1) for ties, chance in enumerate(chances)))
