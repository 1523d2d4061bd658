"""How requests differ, and how a round depends on the one before: two numbers that leave the law of a round as it is.

A round's tokens X are read from a standard normal Z by X = F^-1(Phi(Z)), F being the law of a round of any request, and

    Z(request, round) = sqrt(w) U(request) + sqrt(1 - w) E(request, round),   E an AR(1) of coefficient phi,

U and E standard normal. So every round has exactly the law F, for any tree, while rounds of one request are alike.
Rounds whose normals correlate by rho have the covariance g(rho) = sum over n of a_n^2 rho^n, a_n the Hermite
coefficients of F^-1(Phi(.)).

Source: the Gaussian copula ("normal to anything", Cario and Nelson 1997); expansion: Mehler 1866.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import erfc
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.acceptance.profile import Array, as_floats
from specsim.errors import InputError

TERMS: Final = 256
"""Hermite coefficients; what is left of the variance, below 5 %, is put into the last."""

FORGOTTEN: Final = 1e-4
"""A correlation of rounds below this is none."""

_GRID: Final = 1 - np.linspace(1.0, 0.0, 257) ** 2  # finer towards 1, where covariances bend


@dataclass(frozen=True)
class RequestSpread:
    """The two numbers, on the scale of the normals, where they hold for any tree.

    Args:
        request_corr: ``w``, correlation of any two rounds of one request far apart; from 0 up to but not 1.
        step_corr: ``phi``, correlation of neighbouring rounds once the request is known; between -1 and 1.

    Raises:
        InputError: naming the number out of its range.

    >>> pmf = np.array([0, 0.2, 0.3, 0.5])
    >>> spread = RequestSpread.measured(between_sd=0.4, lag1=0.2, pmf=pmf)
    >>> round(spread.between_sd(pmf), 3), round(spread.lag1(pmf), 3), round(spread.pooled_lag1(pmf), 3)
    (0.4, 0.2, 0.41)
    """

    request_corr: float
    step_corr: float

    def __post_init__(self) -> None:
        if not 0 <= self.request_corr < 1:
            raise InputError("request_corr", "must be >= 0 and < 1", self.request_corr)
        if not -1 < self.step_corr < 1:
            raise InputError("step_corr", "must be between -1 and 1", self.step_corr)

    @classmethod
    def measured(cls, between_sd: float, lag1: float, pmf: ArrayLike) -> RequestSpread:
        """From what was measured on rounds of the law ``pmf`` (``pmf[n]``: probability of n tokens).

        Args:
            between_sd: Standard deviation between requests of their own mean tokens per round, sampling error removed.
            lag1: Correlation of a round's tokens with the next's, both about the request's own mean.
            pmf: Of all rounds.

        Raises:
            InputError: where no normals give these numbers.
        """
        law = checked_law(pmf)
        total = float(copula_covariance(law, 1.0))
        if not 0 <= between_sd**2 < total:
            raise InputError("between_sd", f"must be >= 0 and < {total**0.5:.4g}, that of single rounds", between_sd)
        rising = copula_covariance(law, _GRID)
        request_corr = float(np.interp(between_sd**2, rising, _GRID))
        grid = np.sin(np.linspace(-1.0, 1.0, 257) * np.pi / 2) * 0.999
        lags = cls(request_corr, 0.0)._lagged(law, grid)
        if not lags[0] <= lag1 <= lags[-1]:
            raise InputError("lag1", f"must be from {lags[0]:.3g} to {lags[-1]:.3g} for these rounds", lag1)
        return cls(request_corr, float(np.interp(lag1, lags, grid)))

    def between_sd(self, pmf: ArrayLike) -> float:
        """Standard deviation, in tokens, of requests' own mean tokens per round, under rounds of this law."""
        return float(np.sqrt(max(0.0, float(copula_covariance(checked_law(pmf), self.request_corr)))))

    def lag1(self, pmf: ArrayLike) -> float:
        """Correlation of neighbouring rounds about the mean of their request; 0 for a law without spread."""
        return float(self._lagged(checked_law(pmf), np.array([self.step_corr]))[0])

    def pooled_lag1(self, pmf: ArrayLike) -> float:
        """Correlation of neighbouring rounds about the mean of all, as most papers count it: requests differ too."""
        law = checked_law(pmf)
        total, near = copula_covariance(law, np.array([1.0, self._corr(1)]))
        return float(near / total) if total else 0.0

    def mean_variance(self, pmf: ArrayLike, num_rounds: float) -> float:
        """Variance of the mean tokens per round over the ``num_rounds`` rounds of one request.

        One round has the variance of the law, endlessly many the square of ``between_sd``.
        """
        if not num_rounds >= 1:
            raise InputError("num_rounds", "must be >= 1", num_rounds)
        law = checked_law(pmf)
        total, between = copula_covariance(law, np.array([1.0, self.request_corr]))
        reach = int(np.log(FORGOTTEN) / np.log(max(abs(self.step_corr), FORGOTTEN)))
        lags = np.arange(1, min(reach, int(num_rounds) - 1) + 1)
        near = copula_covariance(law, np.array([self._corr(int(lag)) for lag in lags])) - between
        pairs = 2 * float(((num_rounds - lags) * near).sum()) / num_rounds**2
        return float(between + (total - between) / num_rounds + pairs)

    def design_effect(self, pmf: ArrayLike, num_rounds: float) -> float:
        """How many times more variance a mean has over requests of ``num_rounds`` rounds than over lone rounds.

        >>> round(RequestSpread(0.0, 0.0).design_effect([0, 0.5, 0.5], num_rounds=100), 9)
        1.0
        """
        total = float(copula_covariance(checked_law(pmf), 1.0))
        return self.mean_variance(pmf, num_rounds) * num_rounds / total if total else 1.0

    def request_means(self, pmf: ArrayLike, effects: Array) -> Array:
        """Mean tokens per round of requests with these normals ``U``, any shape."""
        law = checked_law(pmf)
        grid = np.linspace(-6.0, 6.0, 241)
        scale, noise = np.sqrt(self.request_corr), np.sqrt(1 - self.request_corr)
        above = _normal_tail((thresholds(law)[None, :] - scale * grid[:, None]) / noise)
        first = int(np.flatnonzero(law)[0])
        return np.asarray(np.interp(effects, grid, first + above[:, first:].sum(axis=1)))

    def _corr(self, lag: int) -> float:
        return self.request_corr + (1 - self.request_corr) * self.step_corr**lag

    def _lagged(self, law: Array, step_corr: Array) -> Array:
        """``lag1`` for several ``step_corr``."""
        total, between = copula_covariance(law, np.array([1.0, self.request_corr]))
        if total - between <= 0:
            return np.zeros(len(step_corr))
        near = copula_covariance(law, self.request_corr + (1 - self.request_corr) * step_corr)
        return np.asarray((near - between) / (total - between))


def checked_law(pmf: ArrayLike) -> Array:
    """``pmf`` if it is a law of a round's tokens, or InputError."""
    law = as_floats("pmf", pmf, ndim=1)
    if not (law >= -1e-12).all() or abs(law.sum() - 1) > 1e-6:
        raise InputError("pmf", "must be >= 0 and sum to 1", law.tolist())
    return np.asarray(np.maximum(law, 0.0) / law.sum())


def thresholds(law: ArrayLike) -> Array:
    """Normal quantiles of the law's running sum, the last (which is infinite) left out: above the n-th, X > n.

    >>> thresholds([0.5, 0.5]).tolist(), thresholds([0, 1.0, 0]).tolist()
    ([0.0], [-inf, inf])
    """
    upto = np.cumsum(np.asarray(law, dtype=np.float64))[:-1]
    normal = NormalDist()
    # Within rounding of 0 or 1 nothing is left on that side.
    return np.array([-np.inf if u <= 1e-15 else np.inf if u >= 1 - 1e-12 else normal.inv_cdf(u) for u in upto])


def copula_covariance(law: Array, rho: ArrayLike) -> NDArray[np.float64]:
    """Covariance of the tokens of two rounds whose normals correlate by ``rho`` (any shape); their variance at 1.

    >>> copula_covariance(np.array([0.5, 0.5]), [0.0, 0.5, 1.0]).round(6).tolist()  # arcsin(rho) / (2 pi)
    [0.0, 0.083333, 0.25]
    """
    squares = _hermite_squares(law.tobytes())
    powers = np.asarray(rho, dtype=np.float64)[..., None] ** np.arange(1, len(squares) + 1)
    return np.asarray(powers @ squares)


@lru_cache(maxsize=64)
def _hermite_squares(law_bytes: bytes) -> Array:
    """``a_n^2`` for n = 1 .. TERMS, summing to the variance."""
    law = np.frombuffer(law_bytes, dtype=np.float64)
    cuts = thresholds(law)
    cuts = cuts[np.isfinite(cuts)]
    density = np.exp(-(cuts**2) / 2) / np.sqrt(2 * np.pi)
    squares = np.empty(TERMS)
    before, now = np.zeros_like(cuts), np.ones_like(cuts)  # Hermite polynomials over sqrt(n!), n - 1 and n
    for n in range(1, TERMS + 1):
        squares[n - 1] = float((density * now).sum()) ** 2 / n
        before, now = now, (cuts * now - np.sqrt(n - 1) * before) / np.sqrt(n)
    tokens = np.arange(len(law))
    variance = float(law @ tokens**2 - (law @ tokens) ** 2)
    squares[-1] += max(0.0, variance - float(squares.sum()))
    return squares


def _normal_tail(cuts: Array) -> Array:
    """Probability that a standard normal exceeds each."""
    flat = [0.5 * erfc(cut / 2**0.5) for cut in cuts.ravel().tolist()]
    return np.array(flat).reshape(cuts.shape)
