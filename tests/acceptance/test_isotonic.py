"""Smoothing by order: the nearest falling sequence by brute force, and the vectors that it is for."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.acceptance import AcceptanceProfile, concave_tokens, falling, smoothed
from specsim.errors import InputError

VALUES = st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 10)), min_size=1, max_size=7)


def brute_force(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The best of all ways to cut the sequence into blocks of one mean each, among those that fall."""
    best, least = values, np.inf
    for cuts in itertools.product((False, True), repeat=len(values) - 1):
        blocks = np.cumsum([False, *cuts])
        means = np.bincount(blocks, weights * values) / np.bincount(blocks, weights)
        loss = float(weights @ (values - means[blocks]) ** 2)
        if (np.diff(means) <= 1e-12).all() and loss < least - 1e-12:
            best, least = means[blocks], loss
    return best


@given(VALUES)
@settings(max_examples=80, deadline=None)
def test_nearest_falling_sequence(pairs: list[tuple[float, float]]) -> None:
    values, weights = np.array(pairs).T
    found = falling(values, weights)
    assert found == pytest.approx(brute_force(values, weights), abs=1e-6)
    assert weights @ found == pytest.approx(weights @ values)
    assert falling(found, weights) == pytest.approx(found)


@given(st.lists(st.floats(1, 9), min_size=1, max_size=6), st.lists(st.integers(1, 3), min_size=6, max_size=6))
def test_curves_rise_and_flatten(tokens: list[float], gaps: list[int]) -> None:
    lengths = np.cumsum(gaps[: len(tokens)]).tolist()
    found = concave_tokens(dict(zip(lengths, tokens, strict=True)))
    gains = np.diff([1.0, *found.values()]) / gaps[: len(tokens)]
    assert (gains >= -1e-9).all()
    assert (gains <= 1 + 1e-9).all()
    assert (np.diff(gains) <= 1e-9).all()


def test_a_profile_by_hand() -> None:
    profile = AcceptanceProfile([[0.5, 0.1, 0.2], [0.6, 0.2, 0.0]], [100.0, 50.0])
    assert smoothed(profile).accept_prob == pytest.approx(np.array([[0.5, 0.15, 0.15], [0.6, 0.2, 0.0]]))
    # Both depths go on with 0.8: depths already fall. With 0.9 at the second, both get (80 + 45) / 150.
    profile = AcceptanceProfile([[0.6, 0.2], [0.6, 0.3]], [100.0, 50.0])
    both = smoothed(profile, depths=True)
    assert both.accept_prob.sum(axis=1) == pytest.approx([125 / 150] * 2)
    assert both.accept_prob[0] == pytest.approx([0.6 * 125 / 120, 0.2 * 125 / 120])
    with pytest.raises(InputError, match="rank_order: must be 'free' for ranks to fall by nature, got 'ordered'"):
        smoothed(AcceptanceProfile([[0.1, 0.9]], rank_order="ordered"))
    with pytest.raises(InputError, match="weights: must be one for each of 2 values, > 0 and finite"):
        falling([0.1, 0.2], [1, 0])


@pytest.mark.skipif("SPECSIM_DATA" not in os.environ, reason="SPECSIM_DATA does not name the measurements")
def test_sequoias_vector() -> None:
    """32 ranks in units of 1/667; 9 of 31 neighbours are inverted; smoothing keeps the sum and moves single events."""
    path = Path(os.environ["SPECSIM_DATA"]) / "published" / "traces" / "sequoia_trees.json"
    vector = np.array(json.loads(path.read_text())["acceptance_rate_vector"][1:33])
    assert vector * 667 == pytest.approx(np.rint(vector * 667), abs=0.01)
    assert (np.diff(vector) > 0).sum() == 9
    smooth = smoothed(AcceptanceProfile.from_ranks(vector, 1, 667)).accept_prob[0]
    assert smooth.sum() == pytest.approx(vector.sum())
    assert smooth[:3] == pytest.approx(vector[:3])
    assert np.abs(smooth - vector).max() < 4.5 / 667
