"""Ordered ranks where width costs: every tree of a few nodes, and a bound that holds beyond them."""

import numpy as np
import pytest
from search.test_width import brute_force, random_problem

from specsim.search.exact.ordered_width import best_ordered_width_tree
from specsim.search.exact.width import Convention


@pytest.mark.parametrize("convention", ["all", "expanded"])
def test_it_finds_what_trying_every_ordered_tree_finds(convention: Convention) -> None:
    rng = np.random.default_rng(7)
    for case in range(60):
        problem = random_problem(rng, monotone=case % 2 == 0)
        answer = best_ordered_width_tree(*problem, convention)
        expected = brute_force(*problem, convention, ordered=True)
        assert answer.rate == pytest.approx(expected, rel=1e-12), case
        assert answer.certificate.bound == answer.rate


def test_large_ones_come_with_a_bound() -> None:
    rng = np.random.default_rng(8)
    table = rng.dirichlet(np.ones(6), 6)[:, :5]
    answer = best_ordered_width_tree(table, [0.05 + 0.01 * np.arange(48)] * 6, 1 + 0.01 * np.arange(48), 48, 6, "all")
    assert answer.rate <= answer.certificate.bound <= 1.5 * answer.rate
