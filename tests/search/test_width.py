"""Width-dependent draft costs: against every tree of a few nodes, on tables that break the bound at the root."""

import numpy as np
import pytest
from search.all_trees import AllTrees, all_trees

from specsim.search.exact.width import Convention, best_width_tree


def brute_force(accept_prob, level_width_cost, verify_cost, max_nodes, max_depth, convention, ordered=False) -> float:
    best = 1 / verify_cost[0]
    for num_nodes in range(2, max_nodes + 1):
        trees: AllTrees = all_trees(num_nodes, accept_prob.shape[1], ordered)
        tokens = trees.tokens(accept_prob[:max_depth])
        cost = np.full(len(tokens), verify_cost[num_nodes - 1])
        has_child = np.zeros(trees.depths.shape, bool)
        rows = np.arange(len(tokens))
        for node in range(1, num_nodes):
            has_child[rows, trees.parents[:, node]] = True
        counted = has_child if convention == "expanded" else np.ones_like(has_child)
        for level in range(1, max_depth + 1):
            width = ((trees.depths == level - 1) & counted).sum(axis=1)
            paid = trees.depth >= level
            table = np.asarray(level_width_cost[level - 1])
            cost[paid] += table[width[paid] - 1]
        kept = trees.depth <= max_depth
        if kept.any():
            best = max(best, np.max(tokens[kept] / cost[kept]))
    return best


def random_problem(rng: np.random.Generator, monotone: bool):
    depth, ranks, nodes = int(rng.integers(1, 5)), int(rng.integers(1, 4)), int(rng.integers(1, 8))
    accept_prob = rng.dirichlet(np.ones(ranks + 1) * rng.choice([0.3, 1.0, 3.0]), depth)[:, :ranks]
    costs = rng.random((depth, nodes)) * rng.choice([0.05, 0.3, 1.0])
    if monotone:
        costs = np.cumsum(costs, axis=1)
    return accept_prob, costs, 1 + np.cumsum(rng.random(nodes)) * rng.choice([0.01, 0.2]), nodes, depth


@pytest.mark.parametrize("convention", ["all", "expanded"])
def test_it_finds_what_trying_every_tree_finds(convention: Convention) -> None:
    rng = np.random.default_rng(0)
    for case in range(150):
        problem = random_problem(rng, monotone=case % 2 == 0)
        answer = best_width_tree(*problem, convention)
        expected = brute_force(*problem, convention)
        assert answer.rate == pytest.approx(expected, rel=1e-12), (case, problem)
        assert answer.certificate.bound == pytest.approx(expected, rel=1e-9), case
