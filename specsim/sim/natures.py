"""Natures of requests: the normals by which some are easier than others, drawn once for each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from statistics import NormalDist
from typing import Final

import numpy as np

from specsim.acceptance.emitted import Acceptance, emitted_distribution
from specsim.acceptance.spread import RequestSpread
from specsim.sim.arrays import draws, normals
from specsim.sim.kernel import INDEPENDENT, Floats, Ints, Latent
from specsim.tree import DraftTree

_OWN, _MEMORY = -2, -1
"""Numbers of draws that belong to no round: a request's own normal, and the memory that it begins with."""
_GRID: Final[Floats] = np.linspace(-7.0, 7.0, 2801)


@dataclass(frozen=True)
class Natures:
    """How requests of one deployment differ.

    A server's requests are known by their lengths, so that an easy one has fewer rounds than a hard one. One that emits
    twice as much in a round is therefore drawn twice as often, or hard ones would fill the record (see
    ``acceptance.requests.RoundSampler``): all rounds of ``tree`` together then have the law of the acceptance. Each
    request has one place among all, by a hash of its key, so that what it is under one tree it nearly is under another.

    Args:
        spread: How they differ, and how rounds remember.
        acceptance: The law of a round.
        tree: The shape by whose tokens they are weighed: the longest that is drafted.
    """

    spread: RequestSpread
    acceptance: Acceptance
    tree: DraftTree

    def of(self, keys: Ints) -> tuple[Floats, Floats]:
        """Each request's own normal, and its memory before the first round.

        >>> from specsim.acceptance.profile import AcceptanceProfile
        >>> natures = Natures(RequestSpread(0.3, 0.0), AcceptanceProfile.iid(0.7, 3), DraftTree.chain(3))
        >>> effect, step = natures.of(np.arange(20_000))
        >>> bool(effect.mean() > 0.1), bool(abs(step.mean()) < 0.03)  # easy ones come more often, with fewer rounds
        (True, True)
        """
        place = draws(keys, np.full(len(keys), _OWN))
        return np.interp(place, self._upto, _GRID), normals(keys, np.full(len(keys), _MEMORY))

    @cached_property
    def _upto(self) -> Floats:
        """Share of requests whose normal is below each of ``_GRID``."""
        pmf = emitted_distribution(self.tree, self.acceptance)
        density = np.exp(-(_GRID**2) / 2) * self.spread.request_means(pmf, _GRID)
        upto = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
        return np.asarray(upto / upto[-1])


def latent_of(spread: RequestSpread | None) -> Latent:
    """The weights of a round's normals.

    >>> latent_of(RequestSpread(0.36, 0.6))
    Latent(is_on=True, keep=0.6, shock=0.8, effect=0.6, own=0.8)
    """
    if spread is None:
        return INDEPENDENT
    phi, share = spread.step_corr, spread.request_corr
    return Latent(True, phi, sqrt(1 - phi**2), sqrt(share), sqrt(1 - share))


def normal_quantiles(probs: Floats) -> Floats:
    """The normal number that each probability is below, of any shape.

    >>> normal_quantiles(np.array([0.0, 0.5, 1.0])).tolist()
    [-inf, 0.0, inf]
    """
    inverse = NormalDist().inv_cdf
    found = [-np.inf if p <= 0 else np.inf if p >= 1 else inverse(p) for p in probs.ravel().tolist()]
    return np.array(found).reshape(probs.shape)
