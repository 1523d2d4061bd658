"""Draft length by load: a queue of requests decoded together, whose speed depends on how many there are.

Arrivals are Poisson, lengths memoryless, so the number in the system is a birth-death process with death rate
b E(g) / (step time(b, g) x mean length). A larger death rate in any state makes the queue stochastically smaller, so
the best draft length in each state is the one with the largest death rate, whatever the others do.

Source: Karlin and McGregor 1957 (birth-death processes); the coupling argument is Lindvall 1992, chapter V.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum, inf

import numpy as np
from numpy.typing import ArrayLike

from specsim.errors import InfeasibleError, InputError
from specsim.search.exact.certificate import Array, checked_costs, checked_count


@dataclass(frozen=True, eq=False)
class LoadAnswer:
    """The best schedule.

    Args:
        draft_len_by_batch: ``[b - 1]`` best draft length with b sequences running.
        mean_in_system: Mean number of requests running or waiting.
        mean_latency: Mean time of a request from arrival to its last token (Little's law).
        utilisation: Arrival rate over the death rate of a full batch; below 1.
    """

    draft_len_by_batch: tuple[int, ...]
    mean_in_system: float
    mean_latency: float
    utilisation: float


def best_load_schedule(
    arrival_rate: float, mean_output_tokens: float, tokens_per_round: ArrayLike, step_time: ArrayLike
) -> LoadAnswer:
    """The draft length for each batch size that keeps the fewest requests in the system.

    Args:
        arrival_rate: Requests per unit of time, above 0.
        mean_output_tokens: Mean tokens of a request.
        tokens_per_round: Mean tokens a sequence emits per round, ``[draft_len]``.
        step_time: Time of a round, ``[b - 1, draft_len]``; as many run at most as it has rows, the others wait.

    Raises:
        InputError: for a value that is not positive, or tables of unequal length.
        InfeasibleError: when no schedule keeps up with the arrivals.

    >>> answer = best_load_schedule(0.5, 1.0, [1.0], [[1.0]])  # M/M/1 at half its capacity
    >>> answer.mean_in_system, answer.mean_latency
    (1.0, 2.0)
    """
    times, tokens = _checked(arrival_rate, mean_output_tokens, tokens_per_round, step_time)
    batches = np.arange(1, len(times) + 1)
    rates = batches[:, None] * tokens / (times * mean_output_tokens)
    choice = rates.argmax(axis=1)
    deaths = rates[np.arange(len(times)), choice]
    rho = _utilisation(arrival_rate, deaths)
    mean = _mean_in_system(_weights(arrival_rate / deaths), rho)
    return LoadAnswer(tuple(choice.tolist()), mean, mean / arrival_rate, rho)


@dataclass(frozen=True, eq=False)
class QueueAnswer:
    """A queue whose speed depends on how many run.

    Args:
        mean_in_system: Mean number of requests running or waiting.
        mean_latency: Mean time of a request from arrival to its last token (Little's law).
        utilisation: Arrival rate over the death rate of a full batch; below 1.
        share_by_batch: Share of time in which b run, ``[b]`` from 0; the last holds all states with requests waiting.
    """

    mean_in_system: float
    mean_latency: float
    utilisation: float
    share_by_batch: Array


def queue_under(arrival_rate: float, mean_output_tokens: float, tokens_per_time: ArrayLike) -> QueueAnswer:
    """The queue of a batch that emits ``tokens_per_time[b - 1]`` with b running; more wait than it has entries for.

    Raises:
        InputError: for a value that is not positive.
        InfeasibleError: when it does not keep up with the arrivals.

    >>> queue_under(1.0, 2.0, [4.0]).share_by_batch.tolist()  # M/M/1 at half its capacity
    [0.5, 0.5]
    """
    _check_arrivals(arrival_rate, mean_output_tokens)
    deaths = checked_costs("tokens_per_time", tokens_per_time, positive=True) / mean_output_tokens
    checked_count("tokens_per_time: length", len(deaths), 1)
    rho = _utilisation(arrival_rate, deaths)
    weights = _weights(arrival_rate / deaths)
    mean = _mean_in_system(weights, rho)
    shares = np.array([*weights[:-1], weights[-1] / (1 - rho)])
    return QueueAnswer(mean, mean / arrival_rate, rho, shares / shares.sum())


def _utilisation(arrival_rate: float, deaths: Array) -> float:
    rho = arrival_rate / float(deaths[-1])
    if rho >= 1:
        raise InfeasibleError(
            f"unstable: {arrival_rate:g} requests arrive per unit of time, a full batch of {len(deaths)} ends at most "
            f"{float(deaths[-1]):g}"
        )
    return rho


def _weights(ratios: Array) -> list[float]:
    """Proportions of the states from 0 on, by detailed balance, for ratios of birth to death."""
    weights = [1.0]
    for ratio in ratios.tolist():
        weights.append(weights[-1] * ratio)
        if weights[-1] > 1e200:  # only their proportions count
            weights = [weight * 1e-200 for weight in weights]
    return weights


def _mean_in_system(weights: list[float], rho: float) -> float:
    """Mean of a birth-death process whose last ratio of birth to death goes on for ever."""
    full, last = len(weights) - 1, weights[-1]
    head = weights[:-1]
    total = fsum([*head, last / (1 - rho)])
    tail = last * (full / (1 - rho) + rho / (1 - rho) ** 2)
    return fsum([*(number * weight for number, weight in enumerate(head)), tail]) / total


def _check_arrivals(arrival_rate: float, length: float) -> None:
    for field, value in (("arrival_rate", arrival_rate), ("mean_output_tokens", length)):
        if not 0 < value < inf:
            raise InputError(field, "must be above 0 and finite", value)


def _checked(arrival_rate: float, length: float, tokens: ArrayLike, step_time: ArrayLike) -> tuple[Array, Array]:
    _check_arrivals(arrival_rate, length)
    try:
        times, expected = np.array(step_time, float), np.array(tokens, float)
    except (TypeError, ValueError):
        raise InputError("step_time", "must be a table of numbers, its rows equally long", step_time) from None
    if times.ndim != 2 or not times.size:
        raise InputError("step_time", "must be a table [batch - 1][draft length]", times.shape)
    checked_count("step_time: draft lengths", times.shape[1], len(expected))
    if not np.all((times > 0) & np.isfinite(times)):
        raise InputError(
            "step_time", "must be above 0 and finite", float(times[~((times > 0) & np.isfinite(times))][0])
        )
    return times[:, : len(expected)], expected
