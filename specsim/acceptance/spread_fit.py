"""The spread between requests and the memory within them, from recorded rounds, by moments, with intervals.

Two rounds of one request far enough apart (``FAR`` rounds) share nothing but the request, so the mean product of their
deviations from the mean of all rounds is the variance between requests: no sampling error has to be taken out, and
memory within the request does not pass for spread. Every round weighs the same, as in an engine's counters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from specsim.acceptance.profile import Array, as_floats
from specsim.acceptance.spread import RequestSpread, checked_law
from specsim.errors import InputError

FAR: Final = 8
"""Rounds apart at which memory within a request is taken as gone."""

NUM_RESAMPLES: Final = 500
"""Sets of requests, drawn with replacement, behind an interval."""


class Interval(NamedTuple):
    """A number with its central 90 % interval."""

    lo: float
    value: float
    hi: float


class FittedSpread(NamedTuple):
    """What a fit says.

    Attributes:
        spread: The two numbers that simulation takes; they hold for any tree.
        between_sd: Standard deviation between requests of their own mean tokens per round, sampling error removed.
        lag1: Correlation of neighbouring rounds about their request's mean.
        pooled_lag1: The same about the mean of all rounds, as most papers count it; the difference is ``between_sd``.
        tokens_per_round: Mean over all rounds.
        pmf: Law of all rounds, ``pmf[n]`` for n tokens.
        num_requests: Requests that it was fitted on.
        num_equal: So many requests, all of one length and such a spread, would say as much of the mean; the profile's
            ``num_requests``. Fewer than the lengths make it where long requests have natures of their own.
    """

    spread: RequestSpread
    between_sd: Interval
    lag1: Interval
    pooled_lag1: Interval
    tokens_per_round: Interval
    pmf: Array
    num_requests: int
    num_equal: float


def fit_spread(requests: Sequence[ArrayLike], rng: np.random.Generator) -> FittedSpread:
    """From the tokens that each round of each request emitted (bonus token in), in the order played.

    Args:
        requests: One list per request; those of fewer than ``FAR`` + 1 rounds say nothing of the spread, and count
            for the law alone.
        rng: Of the resampled requests behind the intervals.

    Raises:
        InputError: for fewer than two requests of ``FAR`` + 1 rounds, or a round that emits less than one token.

    >>> rng = np.random.default_rng(0)
    >>> found = fit_spread([rng.choice([1, 2, 3], size=200, p=p) for p in [(.6, .2, .2), (.1, .3, .6)] * 20], rng)
    >>> 0.4 < found.between_sd.value < 0.5, abs(found.lag1.value) < 0.05, found.pooled_lag1.value > 0.2
    (True, True, True)
    """
    rounds = [_checked_rounds(index, each) for index, each in enumerate(requests)]
    if sum(len(each) > FAR for each in rounds) < 2:
        raise InputError("requests", f"must hold at least two of more than {FAR} rounds", len(rounds))
    table = np.array([_sums(each) for each in rounds])
    # Fixed for the intervals too: the law only turns the moments into normals.
    pmf = np.bincount(np.concatenate(rounds).astype(np.int64)) / sum(map(len, rounds))
    weights = rng.multinomial(len(rounds), np.full(len(rounds), 1 / len(rounds)), size=NUM_RESAMPLES)
    best = _moments(np.ones((1, len(rounds))), table)[:, 0]
    ends = np.nanquantile(_moments(weights.astype(np.float64), table), [0.05, 0.95], axis=1)
    between, lag1, pooled, mean = (Interval(float(ends[0, i]), float(best[i]), float(ends[1, i])) for i in range(4))
    spread = _normals(between.value, lag1.value, pmf)
    num_equal = _num_equal(spread, pmf, table[:, 0], table[:, 1])
    return FittedSpread(spread, between, lag1, pooled, mean, pmf, len(rounds), num_equal)


def spread_from_totals(
    num_rounds: ArrayLike, num_emitted: ArrayLike, pmf: ArrayLike, lag1: float, rng: np.random.Generator
) -> FittedSpread:
    """From each request's rounds and tokens only, where the order of rounds is not known.

    Args:
        num_rounds: By request.
        num_emitted: Tokens by request, bonus tokens in.
        pmf: Law of all rounds, ``pmf[n]`` for n tokens.
        lag1: Correlation of neighbouring rounds about their request's mean: not in such data, so it must be said. It
            is taken to fade by the same factor from round to round.
        rng: Of the resampled requests behind the intervals.

    Raises:
        InputError: for fewer than two requests, or counts that do not belong together.
    """
    rounds, tokens = as_floats("num_rounds", num_rounds, ndim=1), as_floats("num_emitted", num_emitted, ndim=1)
    law = checked_law(pmf)
    if rounds.shape != tokens.shape or len(rounds) < 2:
        raise InputError("num_emitted", "must be one per request, of at least two", len(tokens))
    if not ((rounds >= 1) & (tokens >= rounds)).all():
        raise InputError("num_emitted", "must be >= num_rounds >= 1 for each request", tokens.tolist())
    if not -1 < lag1 < 1:
        raise InputError("lag1", "must be between -1 and 1", lag1)
    support = np.arange(len(law))
    total = float(law @ support**2 - (law @ support) ** 2)
    weights = rng.multinomial(len(rounds), np.full(len(rounds), 1 / len(rounds)), size=NUM_RESAMPLES)
    values = _between_of_totals(np.vstack((np.ones(len(rounds)), weights)), rounds, tokens, total, lag1)
    ends = np.nanquantile(values[:, 1:], [0.05, 0.95], axis=1)
    between, mean = (Interval(float(ends[0, i]), float(values[i, 0]), float(ends[1, i])) for i in range(2))
    spread = _normals(between.value, lag1, law)
    said, pooled = Interval(lag1, lag1, lag1), spread.pooled_lag1(law)
    same = Interval(pooled, pooled, pooled)
    num_equal = _num_equal(spread, law, rounds, tokens)
    return FittedSpread(spread, between, said, same, mean, law, len(rounds), num_equal)


def equal_requests(num_rounds: ArrayLike) -> float:
    """How many requests of one length say as much of the mean over all rounds as requests of these lengths do.

    >>> equal_requests([10, 10, 10]), round(equal_requests([1, 1, 10]), 3)
    (3.0, 1.412)
    """
    rounds = as_floats("num_rounds", num_rounds, ndim=1)
    return float(rounds.sum() ** 2 / (rounds @ rounds))


def _num_equal(spread: RequestSpread, pmf: Array, rounds: Array, tokens: Array) -> float:
    """Of the lengths, or by the jackknife (leaving out one request at a time) where that finds the mean less sure."""
    num = equal_requests(rounds)
    without = (tokens.sum() - tokens) / np.maximum(rounds.sum() - rounds, 1.0)
    variance = float(without.var() * (len(rounds) - 1))
    return min(num, spread.mean_variance(pmf, max(1.0, rounds.sum() / num)) / max(variance, 1e-12))


def _between_of_totals(weights: Array, rounds: Array, tokens: Array, total: float, lag1: float) -> Array:
    """``[between_sd | mean, resample]``: the spread of the means, less what single rounds make of it."""
    num = weights @ rounds
    mean = (weights @ tokens) / num
    squares = weights @ (tokens**2 / rounds) / num - mean**2  # round-weighted variance of the requests' means
    # sum over requests of rounds x (variance of a mean of its rounds), for within-variance 1
    noise = (weights @ (1 + 2 * lag1 / (1 - lag1) * (1 - 1 / rounds))) / num
    # Of k resampled requests the own mean takes a share, as in any variance.
    share = (weights @ rounds**2) / num**2
    between = (squares / np.maximum(1 - share, 1e-9) - noise * total) / np.maximum(1 - noise, 1e-9)
    return np.array([np.sqrt(np.maximum(between, 0.0)), mean])


def _checked_rounds(index: int, tokens: ArrayLike) -> Array:
    rounds = as_floats(f"requests[{index}]", tokens, ndim=1)
    if not ((rounds >= 1) & (rounds == np.rint(rounds)) & (rounds < np.inf)).all():
        raise InputError(f"requests[{index}]", "must be whole numbers of tokens, 1 or more a round", rounds.tolist())
    return rounds


def _sums(x: Array) -> list[float]:
    """Of one request: rounds, tokens; then for pairs 0, 1 and at least ``FAR`` apart: products, tokens, and number.

    Far pairs are given the weight of the request's rounds, or long requests would count by their square.
    """
    found = [float(len(x)), float(x.sum())]
    for lag in (0, 1):
        early, late = x[: len(x) - lag], x[lag:]
        found += [float(early @ late), float(early.sum() + late.sum()), float(len(early))]
    num = len(x) - FAR
    if num <= 0:
        return [*found, 0.0, 0.0, 0.0]
    late_sums = np.cumsum(x[::-1])[::-1][FAR:]  # of the rounds from t + FAR on
    pairs = num * (num + 1) / 2
    both = float(x[:num] @ np.arange(num, 0, -1) + x[FAR:] @ np.arange(1, num + 1))
    return [*found, *(np.array([float(x[:num] @ late_sums), both, pairs]) * len(x) / pairs).tolist()]


def _moments(weights: Array, table: Array) -> Array:
    """``[between_sd | lag1 | pooled_lag1 | mean, resample]`` of requests taken ``weights[resample, request]`` times."""
    sums = weights @ table
    mean = sums[:, 1] / sums[:, 0]
    products, tokens, pairs = (sums[:, 2 + i :: 3] for i in range(3))
    with np.errstate(invalid="ignore"):  # a set of requests too short for far pairs says nothing of the spread
        covariance = (products - mean[:, None] * tokens) / pairs + mean[:, None] ** 2
    # The mean of all is not the true one: products about it miss its variance, mostly that between requests.
    share = (weights @ table[:, 0] ** 2) / sums[:, 0] ** 2
    between = np.maximum(covariance[:, 2] / np.maximum(1 - share, 1e-9), 0.0)
    gained = between * share
    total, near = covariance[:, 0] + gained, covariance[:, 1] + gained
    within = np.maximum(total - between, 1e-12)
    return np.array([np.sqrt(between), (near - between) / within, near / np.maximum(total, 1e-12), mean])


def _normals(between_sd: float, lag1: float, pmf: Array) -> RequestSpread:
    """Nearest spread that normals can have: noise in small samples may ask for more."""
    support = np.arange(len(pmf))
    most = float(np.sqrt(pmf @ support**2 - (pmf @ support) ** 2))
    if most == 0:
        return RequestSpread(0.0, 0.0)
    between = RequestSpread.measured(min(between_sd, 0.98 * most), 0.0, pmf)
    least, largest = (RequestSpread(between.request_corr, phi).lag1(pmf) for phi in (-0.98, 0.98))
    return RequestSpread.measured(min(between_sd, 0.98 * most), min(max(lag1, least), largest), pmf)
