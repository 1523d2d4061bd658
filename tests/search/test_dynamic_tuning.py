"""Tuning dynamic trees: what is searched, how surely, and where the answer stands between static trees and oracle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from toy_deployment import ToyCost, deployment

from specsim.acceptance.process import TokenProcess
from specsim.decoding import Eagle2, StaticTree, TreePolicy
from specsim.errors import InputError
from specsim.search.dynamic.gate import auc, gate_samples, train_gate
from specsim.search.dynamic.oracle import hindsight, level_costs
from specsim.search.dynamic.static import process_law
from specsim.search.dynamic.table import DynamicTable, dynamic_table
from specsim.search.dynamic.text import visits
from specsim.search.dynamic.totals import NUM_STARTS, WARM_ROOTS
from specsim.search.dynamic.tuning import dynamic_grid, label_of, race, tune_dynamic, tuned_table
from specsim.search.tune import verify_costs
from specsim.tree import DraftTree

PROCESS = TokenProcess(num_candidates=8)
NODES, DEPTH = 12, 4
COST = ToyCost(target_s=10.0, draft_s=0.8, node_s=0.15, host_s={"step": 0.2, "round": 0.1, "draft": 0.05})
ASKED = deployment(cost=COST)


def played(policies: Sequence[TreePolicy], num_requests: int, seed: int) -> DynamicTable:
    return tuned_table(PROCESS, policies, 0.0, NODES, DEPTH, num_requests, seed)


@pytest.fixture(scope="module")
def table() -> DynamicTable:
    return played(dynamic_grid(NODES, DEPTH), 64, 0)


def test_every_policy_is_ranked_and_the_static_ones_exactly(table: DynamicTable) -> None:
    tuning = tune_dynamic(ASKED, table)
    rates, policies = tuning.scores.tokens_per_s, tuning.table.policies
    assert [rates[i] for i in tuning.order] == sorted(rates, reverse=True)
    assert sum(tuning.certificate["searched"].values()) == len(policies)
    assert tuning.certificate["kind"] == "scan" and tuning.certificate["confidence"] == 0.95
    assert tuning.may_be_best[tuning.order[0]] and (tuning.low <= rates).all() and (rates <= tuning.high).all()
    assert dict(tuning.refused)["ProPD"].startswith("ProPD's pruning reads")
    law = process_law(PROCESS, 0.0, DEPTH, 8)
    for number, policy in enumerate(policies):
        if isinstance(policy, StaticTree):
            tree = policy.tree
            tokens = law.tokens_per_round(tree)
            host = 0.2 + 0.1 * (tree.num_nodes > 1) + 0.05 * tree.depth
            seconds = 10 + 0.15 * (tree.num_nodes - 1) + 0.8 * tree.depth + host
            assert tuning.scores.tokens_per_round[number] == pytest.approx(tokens, rel=1e-9)
            # The price list is over whole pending tokens; this cost does not hang on them.
            assert rates[number] == pytest.approx(tokens / seconds, rel=1e-9)
            assert tuning.scores.log_sd[number] < 0.03  # of its round's time, where it ran on texts; else 0
    trees = [p for p in policies if isinstance(p, StaticTree)]
    best = max(law.tokens_per_round(p.tree) / (10.2 + 0.15 * p.tree.num_drafted + 0.85 * p.tree.depth) for p in trees)
    assert rates[tuning.static] >= best * 0.98


def test_no_policy_passes_the_oracle(table: DynamicTable) -> None:
    tuning = tune_dynamic(ASKED, table)
    verify, levels = verify_costs(ASKED, NODES), np.concatenate(([0.0], np.cumsum(level_costs(ASKED, DEPTH))))
    sizes = hindsight(PROCESS, 0.0, "drafter", NODES, DEPTH, 64, 0).rate(verify, levels)[0]
    light = hindsight(PROCESS, 0.0, "light", NODES, DEPTH, 64, 0).rate(verify, 0 * levels)[0]
    best = tuning.scores.tokens_per_s[tuning.best]
    assert best < sizes < light
    assert light == pytest.approx((DEPTH + 1) / verify[DEPTH])  # at temperature 0 it drafts a chain that is all kept
    assert tuning.scores.tokens_per_s[tuning.static] < sizes


def test_sizes_in_hindsight_are_priced_best_at_temperature_one() -> None:
    """A drafter that knows the target, verification of n nodes at an affine cost: no fixed size does better."""
    light = hindsight(PROCESS, 1.0, "light", 16, 5, 48, 1)
    verify, free = 1 + 0.03 * np.arange(16), np.zeros(6)
    rate, nodes = light.rate(verify, free)
    walks = [visits(light.emitted[..., n], NUM_STARTS, WARM_ROOTS) for n in range(16)]
    fixed = [float((w * light.tokens[..., n]).sum() / w.sum() / verify[n]) for n, w in enumerate(walks)]
    assert 1 < nodes < 16
    assert rate > max(fixed)
    assert (np.diff(light.tokens, axis=-1) >= 0).all() and (np.diff(light.tokens, n=2, axis=-1) <= 1e-6).all()
    # What is expected is what is emitted, on the mean over texts.
    assert light.emitted.mean() == pytest.approx(light.tokens.mean(), rel=0.03)


def test_policies_too_large_for_the_memory_are_refused(table: DynamicTable) -> None:
    class Small:
        def __init__(self, tree: DraftTree) -> None:
            self.fits = tree.num_nodes <= 8

    asked: Any = ASKED
    small = type("Narrow", (), {"__getattr__": lambda _, name: getattr(asked, name), "ledger": lambda _, t: Small(t)})()
    tuning = tune_dynamic(small, table)
    assert all(v.num_nodes.max() <= 8 for v in tuning.table.visited)
    assert len(tuning.refused) == 1 + len(table.policies) - len(tuning.table.policies) > 1


def test_a_race_finds_what_the_whole_table_holds_for_less(table: DynamicTable) -> None:
    spent: list[int] = []

    def counted(policies: Sequence[TreePolicy], num_requests: int, seed: int) -> DynamicTable:
        spent.append(len(policies) * num_requests)
        return played(policies, num_requests, seed)

    grid = dynamic_grid(NODES, DEPTH)
    raced = race(ASKED, counted, grid, looks=(16, 16, 32))
    best = label_of(raced.table.policies[raced.best])
    full = tune_dynamic(ASKED, table)
    hopeful = {label_of(p) for p, may in zip(full.table.policies, full.may_be_best, strict=True) if may}
    alike = full.scores.tokens_per_s[full.best] / raced.scores.tokens_per_s[raced.best]
    assert best in hopeful and alike == pytest.approx(1, abs=0.05)
    assert raced.certificate["raced"] == len(grid) and sum(raced.certificate["dropped_at_look"]) > len(grid) / 2
    assert sum(spent) < 0.7 * 64 * len(grid)


def test_growing_by_confidence_pays_where_confidence_tells_and_nodes_cost() -> None:
    """A drafter that is sure where it is right, against the same acceptance with nothing to read."""
    telling = TokenProcess(num_candidates=8, sharpness=2.2, sharpness_sd=0.9, regime_gap=2.0, divergence=0.6)
    even = TokenProcess(
        num_candidates=8, sharpness=3.0, sharpness_sd=0.0, regime_gap=0.0, request_sd=0.0, divergence_sd=0
    )
    dear = deployment(cost=ToyCost(target_s=10.0, draft_s=0.8, node_s=1.0))
    gains = []
    for process in (telling, even):
        grid = [p for p in dynamic_grid(NODES, DEPTH) if p.kind in ("confidence_chain", "eagle2")]
        gains.append(tune_dynamic(dear, tuned_table(process, grid, 0.0, NODES, DEPTH, 64, 0)).gain)
    assert gains[0][0] > 1.03 and gains[0][1] > gains[1][1] + 0.03


def test_a_gate_learns_what_is_kept() -> None:
    gate = train_gate(PROCESS, 0.0, DEPTH, 24, seed=7)
    features, labels = gate_samples(PROCESS, 0.0, DEPTH, 24, seed=8)
    likely = features[:, 0] > 0.01
    features, labels = features[likely], labels[likely]
    found = gate.confidence(features)
    assert auc(found, labels) > auc(features[:, 0], labels) - 0.01  # the path probability is hard to beat here
    for low, high in ((0.0, 0.2), (0.2, 0.6), (0.6, 1.0)):
        some = (found >= low) & (found < high)
        assert labels[some].mean() == pytest.approx(found[some].mean(), abs=0.1)  # it means what it says


def test_auc_by_pairs() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 5, 40) / 4, (rng.random(40) < 0.4).astype(float)
    kept, rest = scores[labels > 0], scores[labels == 0]
    pairs = (kept[:, None] > rest) + 0.5 * (kept[:, None] == rest)
    assert auc(scores, labels) == pytest.approx(pairs.mean())


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="max_nodes"):
        dynamic_grid(1, 4)
    with pytest.raises(InputError, match="static trees"):
        tune_dynamic(ASKED, dynamic_table(PROCESS, [Eagle2(2, 1, 4)], 0.0, 4, 0))
