"""Requests that differ: together they keep the law of the acceptance, and their means spread as was fitted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from specsim.acceptance.emitted import emitted_distribution
from specsim.acceptance.natures import natures_of
from specsim.acceptance.profile import AcceptanceProfile
from specsim.acceptance.spread import RequestSpread
from specsim.errors import InputError
from specsim.tree import DraftTree


def test_rounds_of_requests_with_equal_tokens_keep_the_law() -> None:
    profile = AcceptanceProfile.iid(0.7, max_depth=4)
    pmf = emitted_distribution(DraftTree.chain(4), profile)

    spread = RequestSpread.measured(between_sd=0.6, lag1=0.1, pmf=pmf)
    natures = natures_of(replace(profile, spread=spread), seed=1)
    assert natures is not None
    survival = natures(np.arange(40_000), np.full(40_000, -1))
    assert survival.shape == (40_000, 4) and (np.diff(survival, axis=1) <= 0).all()
    tokens = 1 + survival.sum(axis=1)  # of each request, per round
    # Requests of equally many tokens have rounds in proportion to 1 / tokens; over all rounds the law comes out.
    rounds = 1 / tokens
    assert (rounds @ survival) / rounds.sum() == pytest.approx(0.7 ** np.arange(1, 5), abs=0.006)
    over_rounds = np.sqrt(np.average((tokens - np.average(tokens, weights=rounds)) ** 2, weights=rounds))
    assert over_rounds == pytest.approx(0.6, rel=0.02)


def test_a_request_keeps_its_nature_and_seeds_differ() -> None:

    profile = replace(AcceptanceProfile.iid(0.7, max_depth=2), spread=RequestSpread(0.3, 0.0))
    one, other = natures_of(profile, 1), natures_of(profile, 2)
    assert one is not None and other is not None
    none = np.full(3, -1)
    assert (one(np.array([7, 8, 9]), none)[1] == one(np.array([8]), none[:1])[0]).all()
    assert (one(np.arange(3), none) != other(np.arange(3), none)).all()
    assert natures_of(AcceptanceProfile.iid(0.7, max_depth=2), 1) is None
    with pytest.raises(InputError, match="seed"):
        natures_of(profile, -1)
