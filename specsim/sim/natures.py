"""Natures of requests: the normals by which some are easier than others, drawn once for each."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Final

import numpy as np

from specsim.acceptance.emitted import Acceptance, emitted_distribution
from specsim.acceptance.spread import RequestSpread
from specsim.sim.arrays import draws, normals
from specsim.sim.kernel import INDEPENDENT, Floats, Ints, Latent
from specsim.tree import DraftTree

_MEMORY: Final = -1
"""Numbers below 0 belong to no round: this one is the memory that a request begins with, the others its own normal."""


@dataclass(frozen=True)
class Natures:
    """How requests of one deployment differ.

    A server's requests are known by their lengths, so that an easy one has fewer rounds than a hard one. One that emits
    twice as much in a round is therefore drawn twice as often, or hard ones would fill the record (see
    ``acceptance.requests.RoundSampler``): all rounds together then have the law of the acceptance, exactly so for
    ``tree``, and the nature of a request does not depend on what is drafted for it.

    Args:
        spread: How they differ, and how rounds remember.
        acceptance: The law of a round.
        tree: The shape by whose tokens they are weighed.
    """

    spread: RequestSpread
    acceptance: Acceptance
    tree: DraftTree

    def of(self, keys: Ints) -> tuple[Floats, Floats]:
        """Each request's own normal, and its memory before the first round: a hash of its key.

        >>> from specsim.acceptance.profile import AcceptanceProfile
        >>> natures = Natures(RequestSpread(0.3, 0.0), AcceptanceProfile.iid(0.7, 3), DraftTree.chain(3))
        >>> effect, step = natures.of(np.arange(20_000))
        >>> bool(effect.mean() > 0.1), bool(abs(step.mean()) < 0.03)  # easy ones come more often, with fewer rounds
        (True, True)
        """
        pmf = emitted_distribution(self.tree, self.acceptance)
        grid = np.linspace(-6.0, 6.0, 241)
        share = self.spread.request_means(pmf, grid) / (self.tree.depth + 1.0)
        effect, again, number = np.zeros(len(keys)), np.arange(len(keys)), _MEMORY
        while again.size:
            number -= 2
            effect[again] = normals(keys[again], np.full(again.size, number))
            luck = draws(keys[again], np.full(again.size, number + 1))
            again = again[luck >= np.interp(effect[again], grid, share)]
        return effect, normals(keys, np.full(len(keys), _MEMORY))


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
