"""Tuning on path counts: the tree that contexts make best, not the one that their mean does; and nothing unknown."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from toy_deployment import ToyCost, deployment, table

from specsim.acceptance.emitted import tokens_per_round
from specsim.acceptance.trie import PathTrie
from specsim.cli import main
from specsim.errors import InputError
from specsim.estimate import predict
from specsim.records import RoundRecord, save_records
from specsim.scenario import Deployment, EngineUse
from specsim.search.by_load import schedule
from specsim.search.expressible import best_expressible, grown_tokens
from specsim.search.points import best_at, point_of
from specsim.search.rounds import predict_all
from specsim.search.tune import tune
from specsim.tree import DraftTree

CONTEXTS = np.array([[0.9, 0.05, 0.025], [0.4, 0.3, 0.15]])
COST = ToyCost(node_s=0.05, draft_s=0.3)
SGLANG, VLLM = EngineUse(engine="sglang", version="0.5.23"), EngineUse(engine="vllm", version="0.33.0")
EAGLE = {"kind": "eagle3", "model": "eagle3-llama-3.1-8b"}


def counted(tree: DraftTree, num_rounds: float = 1e6, **more: str) -> PathTrie:
    """Two contexts, half of the rounds each, every depth of one like another."""
    chances = [float(np.mean(np.prod(CONTEXTS[:, list(path)], axis=1))) for path in ((), *tree.paths())]
    return PathTrie.from_path_probs(tree, chances, num_rounds=num_rounds, **more)  # type: ignore[arg-type]


def asked_of(trie: PathTrie, depth: int, **changes: object) -> Deployment:
    limits = {"max_draft_len": depth, "max_nodes": 16, "max_depth": depth}
    mean = table(*[tuple(CONTEXTS.mean(axis=0).tolist())] * depth)
    return replace(deployment(COST, acceptance=mean, search=limits, **changes), acceptance=trie)


def test_paths_find_a_faster_tree_than_their_average() -> None:
    """With their paths told apart no tree found by the contexts' mean is as fast."""
    trie = counted(
        DraftTree.from_paths(
            {(0,) * n for n in range(1, 9)}
            | {(0,) * n + (rank,) for n in range(7) for rank in (1, 2)}
            | {(1, 0), (1, 1), (2, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1, 0)}
        )
    )
    asked = asked_of(trie, 8)
    mean = replace(asked, acceptance=trie.averaged())
    by_path, by_mean = tune(asked), tune(mean)
    assert by_path.best.tree.depth == 8 and by_path.kind == "best_first"
    assert by_path.gap < 0.01
    known = [e.tree for e in by_mean.ranked if set(e.tree.paths()) <= set(trie.node_of)]
    others = [predict(asked, tree).tokens_per_s for tree in known]
    assert by_path.best.tokens_per_s >= max(others)


@pytest.mark.parametrize("order", ["free", "ordered"])
def test_no_tree_of_recorded_paths_is_faster(order: str) -> None:
    paths = [(0,), (1,), (2,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 1, 0)]
    asked = asked_of(counted(DraftTree.from_paths(paths), rank_order=order), 3)
    trees = []
    for number in range(len(paths) + 1):
        for some in combinations(paths, number):
            kept = set(some)
            whole = all(path[:-1] in kept for path in some if len(path) > 1)
            elders = all((*path[:-1], rank) in kept for path in some for rank in range(path[-1]))
            if whole and (order == "free" or elders):
                trees.append(DraftTree.from_paths(kept))
    best = max(e.tokens_per_s for e in predict_all(asked, trees))
    found = tune(asked)
    assert found.best.tokens_per_s == pytest.approx(best, rel=1e-12)
    assert found.kind == ("best_first" if order == "free" else "dynamic_program")
    assert found.rate_bound >= best * (1 - 1e-12) and found.gap < 0.02
    (point,) = best_at(asked, [point_of(asked)])
    assert point.tokens_per_s == pytest.approx(best, rel=1e-12)
    priced, alone = predict_all(asked, [found.best.tree])[0], predict(asked, found.best.tree)
    assert (priced.speedup, priced.speedup_low) == pytest.approx((alone.speedup, alone.speedup_low))


def test_what_was_not_recorded_is_refused_and_not_zero() -> None:
    """Chains to 2, a branch to 4: longer chains are unknown, to every search."""
    trie = counted(DraftTree.from_paths([(0,), (1,), (0, 0), (1, 0), (1, 0, 0), (1, 0, 0, 0)]))
    asked = asked_of(trie, 4)
    found = tune(asked)
    assert [(i.tree, "no recorded round drafted more than 2" in i.reason) for i in found.infeasible] == [
        (DraftTree.chain(3), True),
        (DraftTree.chain(4), True),
    ]
    assert all(set(e.tree.paths()) <= set(trie.node_of) for e in found.ranked)
    with pytest.raises(InputError, match="only paths that were recorded"):
        predict(asked, DraftTree.chain(3))
    lens = schedule(asked, 4, VLLM).table.draft_lens
    assert lens == (0, 1, 2)
    assert [one.label for one in best_expressible(asked_of(trie, 4, drafter=EAGLE), VLLM).ranked] != []


def test_run_time_trees_are_grown_by_path() -> None:
    paths = [(a,) for a in (0, 1)] + [(a, b) for a in (0, 1) for b in (0, 1)] + [(0, 0, 0)]
    trie = counted(DraftTree.from_paths(paths))
    tokens = grown_tokens(trie, 3, 2, 8)
    offered = sorted((trie.node_probs[trie.node_of[path]] for path in paths if len(path) < 3), reverse=True)
    assert tokens[1, :7] == pytest.approx(1 + np.cumsum([0, *offered])) and np.isnan(tokens[1, 7])
    assert np.isnan(tokens[2]).all()  # a third step offers paths that nobody saw
    found = best_expressible(asked_of(trie, 3, drafter=EAGLE), SGLANG)
    assert any("topk 2 was tried to 2 steps" in reason for reason in found.refused)
    one = next(e for e in found.ranked if e.is_estimate)
    assert one.tokens_per_round <= tokens_per_round(trie.best_tree(one.tree.num_nodes), trie) + 1e-12


def test_a_scenario_of_records_is_tuned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng, records = np.random.default_rng(0), []
    for number in range(400):
        first = number % 2
        ranks: tuple[int, ...] = (first,) if rng.random() < 0.8 else ()
        ranks += (0,) if ranks and rng.random() < (0.7 if first == 0 else 0.2) else ()
        records.append(
            RoundRecord(
                method="m", request=number // 20, context_tokens=0, num_drafted=4, accepted_ranks=ranks,
                num_emitted=len(ranks) + 1, parents=(0, 0, 1, 2), draft_s=0.1, verify_s=0.2, host_s=0, clock="model",
            )
        )  # fmt: skip
    save_records(records, tmp_path / "rounds.parquet")
    (tmp_path / "counted.toml").write_text(
        f"""
        name = "counted"
        hardware = "jetson-agx-orin-64gb"
        target = {{model = "llama-3.1-8b"}}
        drafter = {{kind = "draft_model", model = "llama-3.2-1b"}}
        search = {{max_draft_len = 2, max_nodes = 5, max_depth = 2}}
        acceptance = {{kind = "records", path = "{tmp_path / "rounds.parquet"}", source = "made up for a test"}}
        """
    )
    for command in (["tune", "--explain"], ["robust", "--draws", "200"], ["tune-load", "--max-batch", "4"]):
        assert main([command[0], str(tmp_path / "counted.toml"), *command[1:], "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["scenario"]["acceptance"]["kind"] == "records"
    assert main(["sweep", str(tmp_path / "counted.toml"), "--vary", "batch=1,8", "--workers", "1", "--json"]) == 0
    assert all("tokens_per_s" in row for row in json.loads(capsys.readouterr().out)["rows"])
