"""Rounds priced together are the rounds that are played one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_deployment import ToyCost, deployment, table

from specsim.cost.steps import PartFit, StepCost, StepFit
from specsim.dialect import TopkTree
from specsim.estimate import expected_pending, predict, round_parts
from specsim.methods.round import Situation
from specsim.scenario import Deployment
from specsim.search.rounds import predict_all, price_rounds, shape_of, simplest_first
from specsim.tree import DraftTree

TREES = [
    DraftTree.root_only(),
    DraftTree.chain(1),
    DraftTree.chain(5),
    DraftTree.from_widths((2, 2, 1)),
    DraftTree((-1, 0, 0, 1, 3)),
]
TWO_RANKS = table(*[(0.6 - 0.02 * depth, 0.2) for depth in range(6)], num_trials=[300.0] * 6, task_sd=0.1)
SMALL = {"max_draft_len": 6, "max_nodes": 7, "max_depth": 6}
KINDS: dict[str, dict[str, Any]] = {
    "draft model": {"drafter": {"kind": "draft_model", "model": "llama-3.2-1b"}},
    "lookup": {"drafter": {"kind": "ngram"}},
    "heads": {"target": {"model": "vicuna-7b"}, "drafter": {"kind": "medusa", "model": "medusa-vicuna-7b"}},
    "an engine with captured sizes": {"engine": "vllm", "workload": {"batch": 3}},
    "roofline": {"pricing": "roofline"},
}


def asked(kind: str) -> Deployment:
    return deployment(acceptance=TWO_RANKS, search=SMALL, **KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_together_are_those_one_by_one(kind: str) -> None:
    here = asked(kind)
    for one, tree in zip(predict_all(here, TREES), TREES, strict=True):
        alone = predict(here, tree)
        for name in ("tokens_per_round", "speedup", "speedup_low", "speedup_high", "tokens_per_s", "time_per_token_s"):
            assert getattr(one, name) == pytest.approx(getattr(alone, name), rel=1e-11), (tree.label, name)
        for part in ("draft", "verify", "host", "round"):
            shares = getattr(one, part).by_bound.reshape(-1, 6)[0]
            assert shares == pytest.approx(getattr(alone, part).by_bound.reshape(-1, 6)[0], rel=1e-11)
        assert one.bound == alone.bound


RESOLVED: dict[str, Deployment] = {}


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, len(TREES) - 1), st.integers(1, 40), st.integers(8, 900), st.floats(1, 6, allow_nan=False)
        ),
        min_size=1,
        max_size=8,
    ),
    kind=st.sampled_from(["draft model", "an engine with captured sizes"]),
)
def test_any_mixture_of_rounds(rows: list[tuple[int, int, int, float]], kind: str) -> None:
    here = RESOLVED.get(kind) or RESOLVED.setdefault(kind, asked(kind))
    which, batch, context, pending = (np.array(column) for column in zip(*rows, strict=True))
    costs = price_rounds(here.cost, here.drafting, [shape_of(t) for t in TREES], which, batch, context, pending)
    for place, (tree, seqs, held, fed) in enumerate(rows):
        alone = replace(here, at=Situation([float(held)], num_seqs=[float(seqs)]))
        parts = round_parts(alone, TREES[tree], fed)
        for name in ("draft", "verify", "host"):
            got = float(getattr(costs, name).time_s[place])
            assert got == pytest.approx(float(np.max(parts[name].time_s)), rel=1e-11, abs=1e-15)


def test_measured_steps_are_priced_by_the_nodes_that_the_host_handles() -> None:
    seconds = {"target": 14, "draft": 7, "host_draft": 2, "host_round": 2, "host_step": 2}
    parts = {
        name: PartFit(seconds=tuple(0.01 * (i + 1) for i in range(n)), residual_rel_sd=0.1, num_points=9)
        for name, n in seconds.items()
    }
    fit = StepFit(
        device="d", versions={}, date="2026-01-01", models="m", clock="cpu", parts=parts, num_nodes_range=(1, 9),
        context_range=(1, 9), num_rounds=1, holdout_error=0, unseen_shape_error=0,
    )  # fmt: skip
    here = deployment(cost=StepCost(fit), acceptance=TWO_RANKS, search=SMALL)  # type: ignore[arg-type]
    for one, tree in zip(predict_all(here, TREES), TREES, strict=True):
        alone = predict(here, tree)
        assert one.tokens_per_s == pytest.approx(alone.tokens_per_s, rel=1e-12)
        assert one.speedup_high == pytest.approx(alone.speedup_high, rel=1e-12)


def test_a_tree_that_an_engine_grows_runs_topk_nodes_at_every_level_but_the_first() -> None:
    toy = deployment(cost=ToyCost(draft_node_s=0.5, node_s=0.25, host_s={"step": 0.1, "round": 0.2, "draft": 0.3}))
    shape = shape_of(TopkTree(steps=3, topk=4, num_nodes=9))
    costs = price_rounds(toy.cost, toy.drafting, [shape], [0], 1, 1024, 1.0)
    assert costs.draft.time_s.tolist() == [1 + (1 + 1.5) * 2]
    assert costs.verify.time_s.tolist() == [10 + 8 * 0.25]
    assert costs.host.time_s == pytest.approx([0.1 + 0.2 + 3 * 0.3])


def test_a_context_shorter_than_what_is_pending_is_priced_as_none() -> None:
    here = asked("draft model")
    cost = price_rounds(here.cost, here.drafting, [shape_of(TREES[2])], [0], 1, 0, expected_pending(TREES[2], 3.0))
    assert cost.time_s[0] > 0


def test_of_rates_that_rounding_tells_apart_the_simpler_wins() -> None:
    assert simplest_first([1.0, 1.0 + 1e-12, 2.0, 1.0], [(3,), (1,), (9,), (2,)]) == [2, 1, 3, 0]
