"""Rounds along a text: recursion against enumeration, and an interval that covers as often as it says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from specsim.acceptance.replay import chain_rounds, expected_rounds, visits
from specsim.acceptance.replay.walk import exact_rate, runs, shortest_and_longest, walk
from specsim.errors import InputError

probabilities = st.floats(0, 1)


def rounds_of(accepted: tuple[int, ...], draft_len: int) -> int:
    """Rounds of one outcome: is token t kept when drafted."""
    t = rounds = 0
    while t < len(accepted):
        k = 0
        while k < draft_len and t + k < len(accepted) and accepted[t + k]:
            k += 1
        t, rounds = t + k + 1, rounds + 1
    return rounds


@given(st.lists(probabilities, min_size=1, max_size=7))
def test_expected_rounds_are_those_of_all_outcomes(accept: list[float]) -> None:
    found = expected_rounds(accept, [0, 1, 2, 3, 9])
    for draft_len, rounds in found.items():
        total = 0.0
        for kept in itertools.product((0, 1), repeat=len(accept)):
            weight = np.prod([a if k else 1 - a for a, k in zip(accept, kept, strict=True)])
            total += float(weight) * rounds_of(kept, draft_len)
        assert rounds == pytest.approx(total, abs=1e-9)


@given(st.lists(probabilities, min_size=1, max_size=30), st.integers(0, 6))
def test_all_lengths_at_once_are_each_alone(accept: list[float], longest: int) -> None:
    table = runs(np.array(accept), longest)
    together = chain_rounds(table, list(range(longest + 1)))
    for length in range(longest + 1):
        assert together[:, length] == pytest.approx(visits(table[:, : length + 1]), abs=1e-9)


def test_rounds_of_an_empty_text_and_of_a_draft_that_is_too_long() -> None:
    assert expected_rounds([], [0, 3]) == {0: 0.0, 3: 0.0}
    with pytest.raises(InputError, match="draft_lens: must be from 0 to 1"):
        chain_rounds([[1.0, 0.5]], [2])


def regime_text(rng: np.random.Generator, num: int, stay: float = 0.95) -> NDArray[np.float64]:
    flips = np.cumsum(rng.random(num) > stay) + rng.integers(2)
    return np.where(flips % 2 == 0, 0.9, 0.4)


@pytest.mark.parametrize(("num_texts", "length"), [(1, 1500), (5, 200), (30, 60)])
def test_the_interval_covers(num_texts: int, length: int) -> None:
    """Truth by 400 long texts; of 300 samples 90 % must be covered: 85-95 % is 2.9 standard errors."""
    rng = np.random.default_rng(num_texts)
    truth = exact_rate([walk(runs(regime_text(rng, 1500), 4)[:-4]) for _ in range(100)], 0.9).value
    hits = 0
    for _ in range(300):
        found = exact_rate([walk(runs(regime_text(rng, length + 4), 4)[:-4]) for _ in range(num_texts)], 0.9)
        hits += found.low <= truth <= found.high
    assert 0.85 <= hits / 300 <= 0.95


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6))
def test_bounds_are_the_extremes_of_all_paths(limits: list[tuple[int, int]]) -> None:
    low, high = np.array([min(pair) for pair in limits]), np.array([max(pair) for pair in limits])
    rates = []
    for accepted in itertools.product(*(range(a, b + 1) for a, b in zip(low, high, strict=True))):
        t = rounds = 0
        while t < len(limits):
            t, rounds = t + accepted[t] + 1, rounds + 1
        rates.append(t / rounds)
    assert shortest_and_longest([low], [high]) == pytest.approx((min(rates), max(rates)))
