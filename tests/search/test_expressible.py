"""What engines accept: every configuration tried, and run-time trees grown a second way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_deployment import ToyCost, deployment, table

from specsim.acceptance.profile import AcceptanceProfile
from specsim.dialect import TopkTree, dialect, topk_capacity
from specsim.errors import InfeasibleError, InputError
from specsim.estimate import predict
from specsim.scenario import EngineUse
from specsim.search.expressible import best_expressible, draft_lens, grown_tokens
from specsim.search.points import moved
from specsim.search.tune import tune
from specsim.tree import DraftTree

HOST = {"step": 0.5, "round": 0.75, "draft": 0.125}
RANKS = table(*[(0.6 - 0.02 * depth, 0.2, 0.1) for depth in range(6)])
SMALL = {"max_draft_len": 6, "max_nodes": 10, "max_depth": 4}
EAGLE = {"kind": "eagle3", "model": "eagle3-llama-3.1-8b"}
VLLM, SGLANG = EngineUse(engine="vllm", version="0.33.0"), EngineUse(engine="sglang", version="0.5.23")


def grown(profile: AcceptanceProfile, steps: int, topk: int) -> list[tuple[float, tuple[int, ...]]]:
    """All candidates of a run-time tree, likeliest first, parents before children: grown path by path."""
    frontier: list[tuple[float, tuple[int, ...]]] = [(1.0, ())]
    offered = []
    for step in range(steps):
        level = [
            (prob * float(profile.accept_prob[step, rank]), (*path, rank))
            for prob, path in frontier
            for rank in range(topk)
        ]
        level.sort(key=lambda found: -found[0])
        offered += level
        frontier = level[:topk]
    return sorted(offered, key=lambda found: (-found[0], len(found[1])))


@settings(max_examples=60, deadline=None)
@given(steps=st.integers(1, 4), topk=st.integers(1, 3), seed=st.integers(0, 10_000))
def test_grown_trees_are_those_of_growing_path_by_path(steps: int, topk: int, seed: int) -> None:
    rows = np.random.default_rng(seed).dirichlet(np.ones(4), steps)[:, :3]
    profile = AcceptanceProfile(-np.sort(-rows, axis=1))
    tokens = grown_tokens(profile, steps, topk, 40)
    capacity = topk_capacity(steps, topk)
    assert np.isfinite(tokens[-1, :capacity]).all() and np.isnan(tokens[-1, capacity:]).all()
    offered = grown(profile, steps, topk)
    for nodes in range(1, capacity + 1):
        kept = offered[: nodes - 1]
        assert tokens[-1, nodes - 1] == pytest.approx(1 + sum(prob for prob, _ in kept))
        DraftTree.from_paths(path for _, path in kept)  # a tree: every prefix is there


def test_the_best_that_sglang_accepts_is_the_best_of_all_triples() -> None:
    asked = deployment(
        cost=ToyCost(draft_s=0.3, draft_node_s=0.05, node_s=0.2, host_s=HOST),
        acceptance=RANKS,
        search=SMALL,
        drafter=EAGLE,
    )
    found = best_expressible(asked, SGLANG)
    best = max(predict(asked, DraftTree.chain(n)).tokens_per_s for n in range(7))
    for steps in range(1, 5):
        for topk in (2, 3):
            for nodes in range(steps + 1, min(10, topk_capacity(steps, topk)) + 1):
                tau = float(grown_tokens(asked.acceptance, steps, topk, 10)[steps - 1, nodes - 1])
                drafting = 0.3 + 0.05 * (tau - 1) + (steps - 1) * (0.3 + 0.05 * (topk - 1)) + steps * 0.125
                best = max(best, tau / (drafting + 10 + 0.2 * (nodes - 1) + 1.25))
    assert found.best.tokens_per_s == pytest.approx(best, rel=1e-12)
    assert isinstance(found.best.tree, TopkTree) and found.best.is_estimate
    TopkTree.model_validate(found.best.tree.model_dump())  # within its capacity
    assert found.loss(tune(asked).best.tokens_per_s) > -1e-12  # a fixed tree drafts no more than it needs


@pytest.mark.parametrize("name", ["draft model", "eagle3"])
def test_vllm_drafts_chains_and_loses_what_trees_gain(name: str) -> None:
    drafter: dict[str, Any] = {"drafter": EAGLE} if name == "eagle3" else {}
    asked = deployment(cost=ToyCost(draft_s=0.3, node_s=0.2, host_s=HOST), acceptance=RANKS, search=SMALL, **drafter)
    found, free = best_expressible(asked, VLLM), tune(asked)
    chains = [e for e in free.ranked if e.tree.is_chain]
    assert found.best.tree == chains[0].tree and found.num_tried == 7
    assert found.best.tokens_per_s == pytest.approx(chains[0].tokens_per_s, rel=1e-12)
    assert found.loss(free.best.tokens_per_s) == pytest.approx(1 - chains[0].tokens_per_s / free.best.tokens_per_s)
    assert found.refused == ("vllm 0.33 drafts chains only",)
    assert found.speedup == pytest.approx(chains[0].speedup)


def test_a_drafter_without_a_word_leaves_plain_decoding() -> None:
    asked = deployment(
        cost=ToyCost(), acceptance=RANKS, search=SMALL,
        target={"model": "vicuna-7b"}, drafter={"kind": "medusa", "model": "medusa-vicuna-7b"},
    )  # fmt: skip
    found = best_expressible(asked, VLLM)
    assert found.best.tree == DraftTree.root_only() and found.speedup == 1
    assert "vllm 0.33 has no medusa drafter" in found.refused


def test_the_draft_is_sharded_as_the_engine_can() -> None:
    asked = deployment(
        hardware="h100-sxm", tensor_parallel=4, acceptance=table(*[(0.7,)] * 6),
        drafter={"kind": "draft_model", "model": "llama-3.2-1b", "tensor_parallel": 2},
        search={"max_draft_len": 6, "max_nodes": 7, "max_depth": 6},
    )  # fmt: skip
    free, bound = best_expressible(asked, VLLM), best_expressible(asked, SGLANG)
    assert {one.draft_tensor_parallel for one in free.ranked} <= {1, 4}
    assert {one.draft_tensor_parallel for one in bound.ranked} == {4}
    assert free.num_tried == 14 and free.best.tokens_per_s >= bound.best.tokens_per_s


def test_mtp_modules_take_multiples_only_in_vllm() -> None:
    asked = deployment(
        hardware="b200", tensor_parallel=8, target={"model": "deepseek-v3"}, drafter={"kind": "mtp"},
        acceptance=table(*[(0.8,)] * 7), search={"max_draft_len": 4, "max_nodes": 5, "max_depth": 4},
    )  # fmt: skip
    assert asked.target.mtp_layers == 1
    assert draft_lens(dialect("vllm", "0.33.0"), asked, 4) == (0, 1, 2, 3, 4)
    two = asked.target.model_copy(update={"mtp_layers": 3})
    assert draft_lens(dialect("vllm", "0.33.0"), replace(asked, target=two), 7) == (0, 1, 2, 3, 6)
    assert draft_lens(dialect("sglang", "0.5.23"), replace(asked, target=two), 4) == (0, 1, 2, 3, 4)
    assert draft_lens(None, asked, 3, least=2) == (2, 3)


def test_unknown_versions_and_too_large_targets_are_refused() -> None:
    asked = deployment(acceptance=RANKS, search=SMALL)
    with pytest.raises(InputError, match="vllm version"):
        best_expressible(asked, EngineUse(engine="vllm", version="9.0"))
    with pytest.raises(InfeasibleError, match="memory"):
        best_expressible(moved(asked, batch=5000), VLLM)
