"""Tuning against every chain and every small tree, each priced exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from all_trees import all_trees
from toy_deployment import ToyCost, deployment, table

from specsim.estimate import Estimate, predict
from specsim.scenario import Deployment, bundled_scenarios, find_scenario, resolve
from specsim.search.rounds import predict_all
from specsim.search.tree_bounds import first_pass_seconds, level_seconds, rates_by_size
from specsim.search.tune import tune, verify_costs
from specsim.tree import DraftTree

SLACK = 1 + 1e-9
SMALL = {"max_draft_len": 6, "max_nodes": 7, "max_depth": 6}
TWO_RANKS = table(*[(0.6 - 0.02 * depth, 0.2) for depth in range(6)])
HOST = {"step": 0.5, "round": 0.75, "draft": 0.125}


def every_tree(max_nodes: int, max_ranks: int, ordered: bool = False) -> Iterator[DraftTree]:
    """All chains and trees up to ``max_nodes``, root in."""
    for num_nodes in range(1, max_nodes + 1):
        found = all_trees(num_nodes, max_ranks, ordered)
        for parents, ranks in zip(found.parents.tolist(), found.ranks.tolist(), strict=True):
            yield DraftTree(tuple(parents), tuple(ranks))


def brute_force(asked: Deployment, max_ranks: int = 2, ordered: bool = False) -> list[Estimate]:
    """Every tree within the small limits, best first."""
    trees = list(every_tree(7, max_ranks, ordered))
    priced = predict_all(asked, trees)
    assert priced[-1].speedup == pytest.approx(predict(asked, trees[-1]).speedup, rel=1e-12)
    assert len(priced) == (
        1 + 1 + 2 + 4 + 9 + 21 + 51 if ordered else 1 + 2 + 5 + 14 + 42 + 132 + 429
    )  # Motzkin, Catalan
    return sorted(priced, key=lambda e: -e.tokens_per_s)


CASES: dict[str, dict[str, Any]] = {
    "toy": {"cost": ToyCost(host_s=HOST)},
    "toy, dear nodes": {"cost": ToyCost(node_s=2.0, host_s=HOST)},
    "toy, dear drafts": {"cost": ToyCost(draft_s=4.0)},
    "roofline": {"pricing": "roofline"},
    "roofline, batch": {"pricing": "roofline", "workload": {"batch": 48}},
    "kernels": {},
    "kernels, batch": {"workload": {"batch": 48}},
    "heads": {
        "target": {"model": "vicuna-7b"},
        "drafter": {"kind": "medusa", "model": "medusa-vicuna-7b"},
    },
    "lookup": {"drafter": {"kind": "ngram"}},
}


@pytest.mark.parametrize("case", CASES)
def test_no_tree_beats_the_bound_and_the_answer_is_within_the_gap(case: str) -> None:
    asked = deployment(**{"acceptance": TWO_RANKS, "search": SMALL} | CASES[case])
    truth, answer = brute_force(asked), tune(asked)
    best = truth[0].tokens_per_s
    assert max(e.tokens_per_s for e in answer.ranked) <= best * SLACK  # only trees that the brute force knows
    assert answer.rate_bound * SLACK >= best
    assert answer.best.tokens_per_s * (1 + answer.gap) * SLACK >= best
    assert answer.best.tokens_per_s == pytest.approx(best, rel=1e-9)  # on these, what the bound leaves open is not lost
    assert answer.gap < (0.10 if case == "kernels, batch" else 0.05)  # kernels that step leave the bound looser


def test_the_bound_holds_where_the_search_is_misled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide levels are dear and the search does not know; with one finalist it answers short of the optimum."""
    limits = SMALL | {"max_draft_len": 0}
    asked = deployment(
        cost=ToyCost(draft_s=0.1, draft_node_s=3.0, node_s=0.1),
        acceptance=table(*[(0.4, 0.35)] * 6),
        search=limits,
    )
    best = brute_force(asked)[0].tokens_per_s
    monkeypatch.setattr("specsim.search.tune.FINALISTS", 1)
    assert tune(asked).best.tokens_per_s == pytest.approx(best, rel=1e-12)  # the search by widths is not misled
    monkeypatch.setattr("specsim.search.tree_bounds.WIDEST", 0)
    answer = tune(asked)
    assert answer.best.tokens_per_s < 0.995 * best
    assert answer.best.tokens_per_s * (1 + answer.gap) >= best
    assert answer.rate_bound == pytest.approx(answer.best.tokens_per_s * (1 + answer.gap))


def test_trees_that_draw_their_ranks_in_order_are_searched_in_order() -> None:
    # The second rank is the better one, and can not be had alone.
    asked = deployment(
        cost=ToyCost(node_s=0.5), acceptance=table(*[(0.2, 0.5)] * 6, rank_order="ordered"), search=SMALL
    )
    truth, answer = brute_force(asked, ordered=True), tune(asked)
    assert answer.best.tree.has_all_elders and answer.best.tree.num_drafted
    assert answer.best.tokens_per_s == pytest.approx(truth[0].tokens_per_s, rel=1e-9)


@pytest.mark.parametrize("name", bundled_scenarios())
def test_bundled_answers_are_ranked_and_bounded(name: str) -> None:
    asked = resolve(find_scenario(name))
    answer = tune(asked)
    rates = [e.tokens_per_s for e in answer.ranked]
    assert rates == sorted(rates, reverse=True)
    assert answer.rate_bound >= rates[0] > 0 and 0 <= answer.gap < 0.02
    assert len({e.tree for e in answer.ranked}) == len(answer.ranked)
    assert {e.tree.num_drafted for e in answer.ranked if e.tree.is_chain} == set(range(9))
    assert any(e.speedup == 1.0 and not e.tree.num_drafted for e in answer.ranked)
    assert all(e.tokens_per_s >= 0.99 * rates[0] for e in answer.tied) and answer.best in answer.tied
    assert [e.tree for e in tune(asked).ranked] == [e.tree for e in answer.ranked]


LOSING: dict[str, dict[str, Any]] = {
    "drafts are never kept": {"acceptance": table((0.0,) * 2, (0.0,) * 2)},
    "drafts are hardly kept": {"acceptance": table((0.02, 0.01), (0.02, 0.01))},
    "a draft as dear as the target": {"cost": ToyCost(draft_s=10.0), "acceptance": table((0.9,), (0.9,))},
    # 400 sequences on 8B: 16 GB of weights serve 400 tokens a step, more than the device's FLOPs per byte
    "arithmetic is the bound": {
        "workload": {"batch": 400, "context_tokens": 64},
        "acceptance": table((0.5,), (0.5,)),
        "hardware": "l40s",
    },
    "no drafter": {"drafter": {"kind": "none"}},
}


@pytest.mark.parametrize("case", LOSING)
def test_no_speculation_wins_where_it_should(case: str) -> None:
    limits = {"max_draft_len": 2, "max_nodes": 7, "max_depth": 2}
    answer = tune(deployment(**{"search": limits, "acceptance": table((0.6,), (0.6,))} | LOSING[case]))
    assert answer.best.tree == DraftTree.root_only()
    assert (answer.best.speedup, answer.best.speedup_low, answer.best.speedup_high) == (1.0, 1.0, 1.0)


def test_the_prices_of_the_search_by_hand() -> None:
    toy = deployment(cost=ToyCost(node_s=0.25, host_s=HOST), workload={"batch": 3})
    # Three sequences: each node beyond the root costs 0.75; verifying more than the root adds the round's host work.
    assert verify_costs(toy, 3).tolist() == [10.5, 12.0, 12.75]
    at = np.array([1024.0]), np.array([3.0])
    assert first_pass_seconds(toy, 2, *at).tolist() == [1.0, 1.0, 1.0]
    assert level_seconds(toy, 3, 1024, 3, 2).ravel() == pytest.approx([1.125] * 4)
    heads = deployment(
        cost=ToyCost(host_s=HOST),
        target={"model": "vicuna-7b"},
        drafter={"kind": "medusa", "model": "medusa-vicuna-7b"},
    )
    assert first_pass_seconds(heads, 2, *at).tolist() == [1.0, 1.0, 1.0]
    assert not level_seconds(heads, 3, 1024, 3, 2).any()
    lookup = deployment(cost=ToyCost(host_s=HOST), drafter={"kind": "ngram"})
    assert not first_pass_seconds(lookup, 2, *at).any() and not level_seconds(lookup, 3, 1024, 3, 2).any()


def test_the_bound_by_size_holds_for_every_feeding_of_the_drafter() -> None:
    """Its first pass takes longer the more is pending, in steps that may dip."""
    rng = np.random.default_rng(3)
    for _ in range(200):
        depth, nodes = int(rng.integers(1, 5)), int(rng.integers(2, 7))
        tokens = np.vstack(
            [np.r_[1.0, np.full(nodes - 1, np.nan)], *(1 + np.cumsum(rng.random((depth, nodes)), 1) / 6)]
        )
        tokens[1:, 0] = 1.0
        first, later, verify = rng.random(depth + 1), rng.random(depth - 1), 0.5 + rng.random(nodes)
        bound = rates_by_size(tokens, first, later, verify)
        limit, size = int(rng.integers(1, depth + 1)), int(rng.integers(0, nodes))
        fed = 1 + rng.random() * (min(tokens[limit, size], limit + 1) - 1)
        pass_s = np.interp(fed, np.arange(1, depth + 2), first)
        assert fed / (pass_s + later[: limit - 1].sum() + verify[size]) <= bound[limit, size] * SLACK


def test_nothing_is_searched_beyond_the_limits() -> None:
    limits = {"max_draft_len": 1, "max_nodes": 5, "max_depth": 2}
    answer = tune(deployment(cost=ToyCost(draft_s=0.01), acceptance=TWO_RANKS, search=limits))
    assert max(e.tree.num_nodes for e in answer.ranked) == 5
    assert max(e.tree.depth for e in answer.ranked) == 2
    assert answer.tree_rates.shape == (3, 5)
    assert np.isnan(answer.tree_rates[0, 1]) and answer.tree_rates[0, 0] == pytest.approx(0.1)
