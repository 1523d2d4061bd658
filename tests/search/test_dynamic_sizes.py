"""The pricing theorem: sizes by context against every assignment; one threshold for affine costs, the ends of steps."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from specsim.errors import InputError
from specsim.search.dynamic.sizes import (
    best_fixed_size,
    best_priced_sizes,
    best_threshold,
    size_threshold,
    step_ends,
)
from specsim.search.exact.sizing import best_sizes, best_stopping

STEPS = 1.0 + 0.12 * np.ceil(np.arange(1, 129) / 32)
"""A target whose pass costs more with every tile of 32 tokens."""


def contexts(num: int, seed: int) -> list[NDArray[np.float64]]:
    """Path probabilities of a best-first tree of 127 nodes, in contexts from sure to doubtful: a Zipf law each."""
    rng = np.random.default_rng(seed)
    found = []
    for exponent in rng.uniform(1.0, 4.0, num):
        law = np.arange(1, 33) ** -exponent
        law /= law.sum()
        values = level = law
        for _ in range(7):
            level = np.sort((level[:, None] * law).ravel())[::-1][:127]
            values = np.concatenate((values, level))
        found.append(np.sort(values)[::-1][:127])
    return found


def test_sizes_with_priced_levels_beat_every_other_assignment() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        rows = [np.sort(rng.random(rng.integers(0, 5)))[::-1] for _ in range(3)]
        depths = [rng.integers(1, 4, len(row)) for row in rows]
        verify, levels = rng.random(5) + 0.2, rng.random(3) * 0.3
        rates = []
        for sizes in product(*(range(len(row) + 1) for row in rows)):
            tokens = sum(1 + row[:n].sum() for row, n in zip(rows, sizes, strict=True))
            cost = sum(
                verify[n] + levels[: int(d[:n].max(initial=0))].sum() for d, n in zip(depths, sizes, strict=True)
            )
            rates.append(tokens / cost)
        answer = best_priced_sizes(rows, [d.tolist() for d in depths], verify, levels)
        assert answer.rate == pytest.approx(max(rates), rel=1e-12)
        assert answer.iterations < 10


def test_without_level_costs_it_is_the_published_problem() -> None:
    rows = contexts(20, 1)
    ones = [[1] * len(row) for row in rows]
    assert best_priced_sizes(rows, ones, STEPS, [0.0]).num_nodes == best_sizes(rows, STEPS).num_nodes


@pytest.mark.parametrize("slope", [0.002, 0.005, 0.02])
def test_with_affine_cost_one_threshold_is_the_best_of_all_policies(slope: float) -> None:
    """theta = rate x slope: between the last node that any context takes and the first that none does."""
    rows, verify = contexts(60, 2), 1.0 + slope * np.arange(1, 129)
    answer, fixed, threshold = best_sizes(rows, verify), best_fixed_size(rows, verify), best_threshold(rows, verify)
    theta = size_threshold(answer.rate, slope)
    assert [int((row > theta).sum()) + 1 for row in rows] == list(answer.num_nodes)
    assert threshold.rate == pytest.approx(answer.rate, rel=1e-12)
    every = np.concatenate(rows)
    assert every[every < threshold.value].max(initial=0.0) <= theta <= threshold.value  # theta lies in this gap
    assert 1.002 < answer.rate / fixed.rate < 1.1  # what following the context is worth here


def test_with_steps_sizes_end_where_steps_end_and_one_threshold_is_not_enough() -> None:
    rows = contexts(60, 3)
    answer, fixed, threshold = best_sizes(rows, STEPS), best_fixed_size(rows, STEPS), best_threshold(rows, STEPS)
    assert step_ends(STEPS) == (32, 64, 96, 128)
    assert set(answer.num_nodes) <= {32, 64, 96, 128} and len(set(answer.num_nodes)) > 1
    assert answer.rate > fixed.rate * 1.005
    assert threshold.rate < answer.rate * 0.999


def test_one_number_for_all_against_trying_each() -> None:
    rng = np.random.default_rng(4)
    for _ in range(30):
        rows = [np.sort(rng.random(4))[::-1] for _ in range(3)]
        verify = rng.random(5) + 0.2
        by_size = [sum(1 + r[:n].sum() for r in rows) / (3 * verify[n]) for n in range(5)]
        assert best_fixed_size(rows, verify).rate == pytest.approx(max(by_size))
        cuts = [0.0, *np.concatenate(rows).tolist(), 2.0]
        taken = [[int((r >= t).sum()) for r in rows] for t in cuts]
        by_cut = [
            sum(1 + r[:n].sum() for r, n in zip(rows, ns, strict=True)) / sum(verify[n] for n in ns) for ns in taken
        ]
        assert best_threshold(rows, verify).rate == pytest.approx(max(by_cut))


def test_stopping_by_confidence_beats_the_best_fixed_length() -> None:
    """Two sticky states of confidence; the fixed length is a rule that the stopping problem also allows."""
    init, moves, keep = np.array([0.5, 0.5]), np.array([[0.9, 0.1], [0.1, 0.9]]), np.array([0.95, 0.4])
    longest, draft, verify = 8, 0.1, 1 + 0.02 * np.arange(9)
    fixed = []
    for length in range(longest + 1):
        alive, tokens = init.copy(), 1.0
        for _ in range(length):
            alive = alive * keep
            tokens += float(alive.sum())
            alive = alive @ moves
        fixed.append(tokens / (draft * length + verify[length]))
    answer = best_stopping(init, moves, keep, longest, draft, verify)
    assert 1.03 < answer.rate / max(fixed) < 1.3
    # A single state says nothing: then the rule is a fixed length.
    blind = best_stopping([1.0], [[1.0]], [0.8], longest, draft, verify)
    known = [sum(0.8**i for i in range(n + 1)) / (draft * n + verify[n]) for n in range(longest + 1)]
    assert blind.rate == pytest.approx(max(known), rel=1e-12)


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match=r"contexts\[0\]"):
        best_priced_sizes([[0.1, 0.2]], [[1, 1]], [1.0], [0.0])
    with pytest.raises(InputError, match=r"depths\[0\]"):
        best_priced_sizes([[0.2, 0.1]], [[1, 2]], [1.0], [0.0])
    with pytest.raises(InputError, match="depths"):
        best_priced_sizes([[0.2]], [], [1.0], [0.0])
    with pytest.raises(InputError, match="rate"):
        size_threshold(-1.0, 0.1)
