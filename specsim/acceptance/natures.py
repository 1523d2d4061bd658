"""Requests of natures of their own, known by number: what a server simulation asks of single requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.emitted import Acceptance, emitted_distribution, longest_chain
from specsim.acceptance.profile import Array
from specsim.acceptance.spread import RequestSpread, thresholds
from specsim.errors import InputError
from specsim.tree import DraftTree

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RequestNatures:
    """Acceptance of each request by its number, as its nature is drawn from the fitted spread; chains.

    All rounds of requests with equally many tokens together have the law of the acceptance: a nature that emits twice
    as much per round has half the rounds, so it is drawn twice as often. A round's memory of the one before
    (``step_corr``) is left out: given its request, a round is independent.

    Args:
        pmf: Law of the tokens of a round of the longest chain.
        spread: How requests differ.
        seed: Of the natures: a request of one seed has one nature, whatever becomes of it.

    >>> from specsim.acceptance.profile import AcceptanceProfile
    >>> profile = AcceptanceProfile.iid(0.7, max_depth=3)
    >>> pmf = emitted_distribution(DraftTree.chain(3), profile)
    >>> natures = RequestNatures(pmf, RequestSpread(request_corr=0.3, step_corr=0.0), seed=0)
    >>> natures(np.arange(2), np.array([-1, -1])).shape
    (2, 3)
    """

    pmf: Array
    spread: RequestSpread
    seed: int

    def __call__(self, request: Ints, category: Ints) -> Array:
        """``[N, depth]`` probability that at least so many draft tokens are kept; categories are not asked."""
        from scipy.special import ndtr

        share = self.spread.request_corr
        own = np.sqrt(share) * self._effects(request)
        cuts = thresholds(self.pmf)[1:]
        return np.asarray(ndtr((own[:, None] - cuts) / np.sqrt(1 - share)), dtype=np.float64)

    def _effects(self, request: Ints) -> Array:
        """``[N]`` normals, weighted by the tokens of their rounds: by inversion on a grid."""
        grid = np.linspace(-6.0, 6.0, 1201)
        weight = np.exp(-(grid**2) / 2) * self.spread.request_means(self.pmf, grid)
        below = np.concatenate(([0.0], np.cumsum((weight[1:] + weight[:-1]) / 2)))
        return np.asarray(np.interp(uniforms(self.seed, request), below / below[-1], grid), dtype=np.float64)


def natures_of(acceptance: Acceptance, seed: int) -> RequestNatures | None:
    """Natures where the acceptance knows how requests differ; None where all are alike.

    Raises:
        InputError: for a negative seed.
    """
    if seed < 0:
        raise InputError("seed", "must be >= 0", seed)
    if acceptance.spread is None or not acceptance.spread.request_corr:
        return None
    pmf = emitted_distribution(DraftTree.chain(longest_chain(acceptance)), acceptance)
    return RequestNatures(pmf, acceptance.spread, seed)


def uniforms(seed: int, numbers: Ints) -> Array:
    """Numbers in [0, 1), one for each of ``numbers`` and seed: SplitMix64 (Steele et al. 2014) of both.

    >>> bool(abs(uniforms(3, np.arange(10_000)).mean() - 0.5) < 0.01)
    True
    """
    start = np.random.SeedSequence([seed, 0x5EED]).generate_state(1, np.uint64)
    z: NDArray[Any] = start + (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53, dtype=np.float64)
