"""Trees for several classes of context, against every tree of a few nodes; forests against sharing out by hand."""

import numpy as np
import pytest
from search.all_trees import all_trees

from specsim.errors import InfeasibleError
from specsim.search.exact.classes import best_mixture_tree, best_robust_tree
from specsim.search.exact.forest import best_forest


def every_tree(tables, max_nodes, ordered):
    """Tokens by class ``[tree, class]``, nodes and depth of every tree."""
    for num_nodes in range(1, max_nodes + 1):
        trees = all_trees(num_nodes, tables[0].shape[1], ordered)
        yield np.stack([trees.tokens(t) for t in tables], axis=1), num_nodes, trees.depth


def random_tables(rng, num, fall=False):
    depth, ranks = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    tables = [rng.dirichlet(np.ones(ranks + 1) * rng.choice([0.3, 1.0]), depth)[:, :ranks] for _ in range(num)]
    return [-np.sort(-t, axis=1) for t in tables] if fall else tables


@pytest.mark.parametrize("ordered", [False, True])
def test_the_mixture_tree_is_the_best_of_all(ordered: bool) -> None:
    rng = np.random.default_rng(3)
    for _ in range(80):
        tables = random_tables(rng, num := int(rng.integers(1, 4)))
        weights = rng.dirichlet(np.ones(num))
        nodes, depth = int(rng.integers(1, 8)), len(tables[0])
        best = max(
            np.max((tokens @ weights)[deep <= depth], initial=1.0)
            for tokens, _, deep in every_tree(tables, nodes, ordered)
        )
        answer = best_mixture_tree(weights, tables, nodes, depth, "ordered" if ordered else "free")
        assert answer.tokens_per_round == pytest.approx(best, rel=1e-12)
        assert answer.certificate.bound == answer.tokens_per_round
        pairs = list(zip(weights, tables, strict=True))
        reached = sum(w * np.prod([t[d, r] for d, r in enumerate(path)]) for path in answer.paths for w, t in pairs)
        assert 1 + reached == pytest.approx(best, rel=1e-12)


def test_averaging_first_loses_as_published_for_two_kinds_of_text() -> None:
    """First rank right with .9 or .4, half each, 16 nodes: 4.91 tokens, and 4.08 for the tree of the averaged table."""
    rows = [[[a, (1 - a) * 0.5, (1 - a) * 0.25]] * 15 for a in (0.9, 0.4)]
    assert best_mixture_tree([0.5, 0.5], rows, 16, 15).tokens_per_round > 4.5


@pytest.mark.parametrize("ordered", [False, True])
def test_the_robust_tree_regrets_least_of_all(ordered: bool) -> None:
    rng = np.random.default_rng(4)
    for _ in range(40):
        tables = random_tables(rng, int(rng.integers(1, 4)))
        nodes, depth = int(rng.integers(1, 7)), len(tables[0])
        levels, verify = rng.random(depth) * 0.3, 1 + np.cumsum(rng.random(nodes)) * 0.2
        paid = np.concatenate(([0.0], np.cumsum(levels)))
        rates = np.concatenate(
            [
                (tokens / (paid[np.minimum(deep, depth)] + verify[n - 1])[:, None])[deep <= depth]
                for tokens, n, deep in every_tree(tables, nodes, ordered)
            ]
        )
        expected = np.min(np.max(1 - rates / rates.max(axis=0), axis=1))
        answer = best_robust_tree(tables, levels, verify, nodes, depth, "ordered" if ordered else "free")
        assert answer.regret == pytest.approx(expected, abs=1e-12)
        assert answer.certificate.bound == answer.regret


def test_a_larger_robust_tree_comes_with_a_gap_that_holds() -> None:
    rng = np.random.default_rng(5)
    for _ in range(5):
        tables = [-np.sort(-rng.dirichlet(np.ones(4), 4)[:, :3], axis=1) for _ in range(3)]
        answer = best_robust_tree(tables, [0.1] * 4, 1 + 0.01 * np.arange(40), 40, 4)
        assert 0 <= answer.certificate.bound <= answer.regret <= 0.5


def test_a_forest_of_one_is_a_tree_and_of_two_shares_best() -> None:
    rng = np.random.default_rng(6)
    for case in range(40):
        ordered = case % 2 == 1
        tables = [random_tables(rng, 1)[0] for _ in range(2)]
        depth = min(len(t) for t in tables)
        total = int(rng.integers(2, 8))
        levels, verify = rng.random(depth) * 0.3, 1 + np.cumsum(rng.random(total)) * 0.2
        paid = np.concatenate(([0.0], np.cumsum(levels)))
        one, two = ([*every_tree([t], total - 1, ordered)] for t in tables)
        best = 0.0
        for tokens_a, n_a, deep_a in one:
            for tokens_b, n_b, deep_b in two:
                if n_a + n_b > total:
                    continue
                deep = np.maximum(deep_a[:, None], deep_b)
                rate = (tokens_a + tokens_b[:, 0]) / (paid[np.minimum(deep, depth)] + verify[n_a + n_b - 1])
                best = max(best, np.max(rate[deep <= depth], initial=0.0))
        answer = best_forest(tables, levels, verify, total, depth, "ordered" if ordered else "free")
        assert answer.rate == pytest.approx(best, rel=1e-12)


def test_a_forest_needs_room_for_its_roots() -> None:
    with pytest.raises(InfeasibleError, match="roots of 3"):
        best_forest([[[0.5]]] * 3, [0.1], [1.0, 1.0], 2, 1)
