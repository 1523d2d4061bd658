"""Tiers against every way to cut the batch sizes; queues against detailed balance."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.errors import InfeasibleError, InputError
from specsim.search.exact.load import best_load_schedule, queue_under
from specsim.search.tiers import best_tiers


def least_loss(rates: np.ndarray, weights: np.ndarray, num_tiers: int, ends: list[int]) -> float:
    """The least mean loss of at most so many tiers, by trying all cuts and all choices of each tier."""
    loss, best = 1 - rates / rates.max(axis=1, keepdims=True), np.inf
    inner = [end for end in ends if end < len(rates)]
    for count in range(min(num_tiers, len(inner) + 1)):
        for cuts in combinations(inner, count):
            edges = [0, *cuts, len(rates)]
            total = 0.0
            for a, b in pairwise(edges):
                choices = [c for c in range(rates.shape[1]) if (rates[a:b, c] > 0).all()]
                total += min((float(weights[a:b] @ loss[a:b, c]) for c in choices), default=np.inf)
            best = min(best, total)
    return best / float(weights.sum())


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_other_tiers_lose_less(data: st.DataObject) -> None:
    num, choices = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3))
    entry = st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0])
    rates = np.array([[1.0, *data.draw(st.tuples(*[entry] * (choices - 1)))] for _ in range(num)])
    weights = np.array(data.draw(st.lists(st.sampled_from([0.0, 1.0, 3.0]), min_size=num, max_size=num)))
    weights[data.draw(st.integers(0, num - 1))] = 1.0
    ends = sorted(data.draw(st.sets(st.integers(1, num))))
    most = data.draw(st.integers(1, 4))
    found = best_tiers(rates, range(choices), most, ends=ends, weights=weights)
    assert found.loss == pytest.approx(least_loss(rates, weights, most, ends), abs=1e-12)
    assert len(found.tiers) <= most
    assert [t.first for t in found.tiers] == [1, *[t.last + 1 for t in found.tiers[:-1]]]
    assert found.tiers[-1].last == num and all(t.last in ends for t in found.tiers[:-1])
    own = [found.draft_len(batch) for batch in range(1, num + 1)]
    held = 1 - rates[np.arange(num), own] / rates.max(axis=1)
    assert found.loss == pytest.approx(float(held @ weights / weights.sum()), abs=1e-12)
    assert found.worst_loss == pytest.approx(float(held.max())) and held[found.worst_batch - 1] == held.max()
    # with some tolerance, no fewer tiers would have done
    fewer = best_tiers(rates, range(choices), most, tolerance=0.1, ends=ends, weights=weights)
    assert fewer.loss <= found.loss + 0.1 + 1e-9
    if len(fewer.tiers) > 1:
        assert least_loss(rates, weights, len(fewer.tiers) - 1, ends) > found.loss + 0.1


def test_of_equally_good_draft_lengths_the_shortest_is_held() -> None:
    assert [t.draft_len for t in best_tiers([[1, 2, 2 * (1 + 1e-14)]] * 3, [0, 3, 5], 3).tiers] == [3]


def test_what_no_tiers_can_hold_is_infeasible_and_what_is_no_table_is_wrong() -> None:
    with pytest.raises(InfeasibleError, match="no 1 tiers hold"):
        best_tiers([[1, 0], [0, 1]], [0, 1], max_tiers=1)
    with pytest.raises(InfeasibleError, match="at batch size 2"):
        best_tiers([[1, 0], [0, 0]], [0, 1], max_tiers=2)
    for wrong in ([1.0], [[1.0]], [[1.0, np.nan]], [[1.0, -1.0]]):
        with pytest.raises(InputError, match="rates"):
            best_tiers(wrong, [0, 1], 1)
    with pytest.raises(InputError, match="weights"):
        best_tiers([[1.0, 1.0]], [0, 1], 1, weights=[0.0])


def test_a_queue_is_in_detailed_balance() -> None:
    rates = np.array([3.0, 5.0, 4.0, 8.0])
    queue = queue_under(0.5, 4.0, rates)
    deaths = np.concatenate((rates, np.full(3000, rates[-1]))) / 4.0
    states = np.cumprod(np.concatenate(([1.0], 0.5 / deaths)))
    states /= states.sum()
    assert queue.mean_in_system == pytest.approx(float(np.arange(len(states)) @ states), rel=1e-12)
    shares = [*states[:4], states[4:].sum()]
    assert queue.share_by_batch == pytest.approx(shares, rel=1e-12)
    assert queue.mean_latency == queue.mean_in_system / 0.5 and queue.utilisation == pytest.approx(0.25)


def test_the_best_schedule_is_the_queue_of_its_rates() -> None:
    times = np.array([[1.0, 1.5, 2.2], [1.2, 1.9, 2.6], [1.4, 3.0, 4.0]])
    tokens = np.array([1.0, 1.8, 2.4])
    best = best_load_schedule(0.3, 5.0, tokens, times)
    rates = np.arange(1, 4) * tokens[list(best.draft_len_by_batch)] / times[range(3), best.draft_len_by_batch]
    assert queue_under(0.3, 5.0, rates).mean_in_system == pytest.approx(best.mean_in_system, rel=1e-13)


@pytest.mark.parametrize(("rate", "length", "speeds"), [(0, 1, [1]), (1, np.nan, [1]), (1, 1, [0]), (1, 1, [])])
def test_wrong_queues_are_refused(rate: float, length: float, speeds: list[float]) -> None:
    with pytest.raises(InputError):
        queue_under(rate, length, speeds)
    with pytest.raises(InfeasibleError, match="unstable"):
        queue_under(2.0, 1.0, [1.0, 2.0])
