"""Every row of what engines express, with every drafter that it names: searched, scheduled and written in its words."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from toy_deployment import ToyCost, deployment, table

from specsim.cli.tune_load import _exported
from specsim.dialect import DIALECTS, Dialect, TopkTree, captured_below, dialect, expressible, most_topk_nodes
from specsim.engines.answer import EXPORTERS, export_best
from specsim.engines.tensorrt_llm import CONFIG_FILE
from specsim.errors import InputError
from specsim.scenario import Deployment, EngineUse
from specsim.search.by_load import schedule
from specsim.search.expressible import best_expressible, can_draft, draft_lens, draft_widths, tier_ends
from specsim.search.tiers import best_cut, best_tiers
from specsim.search.tune import tune
from specsim.tree import DraftTree

COST = ToyCost(draft_s=0.3, draft_node_s=0.05, node_s=0.2, host_s={"step": 0.5, "round": 0.75, "draft": 0.125})
RANKS = table(*[(0.6 - 0.02 * depth, 0.2, 0.1) for depth in range(6)])
SMALL = {"max_draft_len": 6, "max_nodes": 10, "max_depth": 4}
VICUNA, LLAMA = {"model": "vicuna-7b"}, {"model": "llama-3.1-8b"}
KINDS: dict[str, dict[str, Any]] = {
    "draft_model": {"target": LLAMA, "drafter": {"kind": "draft_model", "model": "llama-3.2-1b"}},
    "eagle": {"target": VICUNA, "drafter": {"kind": "eagle", "model": "eagle-vicuna-7b"}},
    "eagle3": {"target": LLAMA, "drafter": {"kind": "eagle3", "model": "eagle3-llama-3.1-8b"}},
    "mtp": {"target": {"model": "deepseek-v3"}, "drafter": {"kind": "mtp"}, "hardware": "b200", "tensor_parallel": 8},
    "medusa": {"target": VICUNA, "drafter": {"kind": "medusa", "model": "medusa-vicuna-7b"}},
    "ngram": {"target": LLAMA, "drafter": {"kind": "ngram"}},
}
ROWS = [pytest.param(row, kind, id=f"{row.name}-{kind}") for row in DIALECTS for kind in KINDS]


def use_of(row: Dialect) -> EngineUse:
    version = row.last_version if not row.is_numbered or row.last_version.count(".") == 2 else f"{row.last_version}.0"
    assert dialect(row.engine, version) == row
    return EngineUse(engine=row.engine, version=version)


def asked(kind: str, **changes: Any) -> Deployment:
    return deployment(COST, **{"acceptance": RANKS, "search": SMALL} | KINDS[kind] | changes)


@pytest.mark.parametrize(("row", "kind"), ROWS)
def test_the_best_within_it_is_written_in_its_words(row: Dialect, kind: str) -> None:
    here, use = asked(kind), use_of(row)
    tuning, found = tune(here), best_expressible(here, use)
    answer = export_best(here, tuning, use)
    assert answer.chosen == found.best and answer.loss == found.loss(tuning.best.tokens_per_s)
    assert all(expressible(row, here.scenario.drafter.kind, one.tree) is None for one in found.ranked)
    assert (answer.refused == "") == (answer.chosen.tree == tuning.best.tree)
    if kind not in row.methods:
        assert found.best.tree == DraftTree.root_only() and f"no {kind} drafter" in answer.refused
        assert draft_lens(row, here, 6) == (0,)
        return
    assert found.num_tried >= 7  # chains of 0 to 6
    grown = [one.tree for one in found.ranked if isinstance(one.tree, TopkTree)]
    assert bool(grown) == (row.tree == "topk" and kind in row.tree_drafters)
    for tree in grown:
        TopkTree.model_validate(tree.model_dump())
        assert tree.num_nodes <= most_topk_nodes(row, tree.steps, tree.topk)
    said = json.dumps(answer.export.config) + answer.export.command + "".join(answer.export.files.values())
    tree = answer.chosen.tree
    number = tree.steps if isinstance(tree, TopkTree) else tree.num_drafted + row.counts_root
    assert row.methods[kind] in said or row.engine == "transformers"  # which knows them by their arguments
    assert str(number) in re.findall(r"\d+", said)


@pytest.mark.parametrize(("row", "kind"), ROWS)
def test_schedules_are_written_in_its_words(row: Dialect, kind: str) -> None:
    """At small batches long drafts pay, at large ones none: verified nodes are dear."""
    dear = replace(asked(kind), cost=ToyCost(target_s=5.0, draft_s=0.2, node_s=0.2))
    use = use_of(row)
    found = schedule(dear, 40, use, min_draft_len=0, tolerance=0.0)
    tiers = [tuple(tier) for tier in found.tiers.tiers]
    export = _exported(dear, found, use)
    assert export is not None and export.engine == row.engine
    free = schedule(dear, 40, min_draft_len=0, tolerance=0.0)
    assert [tier[2] for tier in free.tiers.tiers][-1] == 0 and len(free.tiers.tiers) > 2
    if not can_draft(row, dear) or row.max_batch:
        assert tiers == [(1, 40, 0)]
    elif row.schedule == "none" or kind not in row.schedule_drafters:
        assert len(tiers) == 1 and found.tiers.loss >= free.tiers.loss
    elif row.schedule == "off_above":
        assert [tier[2] for tier in tiers[1:]] == [0]
        assert export.config["max_concurrency"] == tiers[0][1]
    elif row.schedule == "slots":
        assert all(captured_below(row, last) == last for _, last, _ in tiers[:-1])
        assert tier_ends(row, 40) == sorted({captured_below(row, batch) for batch in range(1, 41)})
        slots = json.loads(export.files["draft_len_by_batch.json"])
        assert {int(s): one["candidate_steps"] for s, one in slots.items()} == {first: [n] for first, _, n in tiers}
    elif row.schedule == "upper_bounds":
        ends = {last: length for _, last, length in tiers if length}
        assert export.config["draft_len_schedule"] == ends and tiers[-1][2] == 0
        assert all(f"{last}: {length}" in export.files[CONFIG_FILE] for last, length in ends.items())
    else:
        assert export.config["num_speculative_tokens_per_batch_size"] == [list(tier) for tier in tiers]


@pytest.mark.parametrize("row", DIALECTS, ids=lambda row: row.name)
@pytest.mark.parametrize("drafting", [None, 1, 2, 4])
def test_the_draft_is_sharded_as_the_row_says(row: Dialect, drafting: int | None) -> None:
    many = {"hardware": "h100-sxm", "tensor_parallel": 4}
    kind = "draft_model" if "draft_model" in row.methods else "eagle3" if "eagle3" in row.methods else "mtp"
    drafter = KINDS[kind]["drafter"] | ({} if drafting is None else {"tensor_parallel": drafting})
    many |= {"hardware": "b200", "tensor_parallel": 8} if kind == "mtp" else {}
    here = asked(kind, **many, drafter=drafter)
    devices = here.scenario.tensor_parallel
    allowed = {"target": {devices}, "one": {1}, "one_or_target": {1, devices}}[row.draft_tensor_parallel]
    widths = draft_widths(row, here)
    assert set(widths) <= allowed and (drafting not in allowed or widths == [drafting])
    answer = export_best(here, tune(here), use_of(row))
    assert answer.chosen.draft_tensor_parallel in allowed
    found = schedule(here, 8, use_of(row))
    assert _exported(here, found, use_of(row)) is not None


def test_every_engine_has_a_row_and_an_exporter() -> None:
    assert {row.engine for row in DIALECTS} == set(EXPORTERS)


def test_off_is_costly_to_resume_in_tensorrt_llm_by_either_name() -> None:
    here = replace(asked("eagle3"), cost=ToyCost(target_s=5.0, draft_s=0.2, node_s=0.2))
    for version in ("1.2.0", "1.4.0"):
        found = schedule(here, 40, EngineUse(engine="tensorrt-llm", version=version))
        assert min(tier.draft_len for tier in found.tiers.tiers) >= 1
        assert any("off is costly to resume" in note for note in found.notes)


def test_transformers_drafts_for_one_sequence() -> None:
    use = EngineUse(engine="transformers", version="5.23.0")
    one, two = (best_expressible(asked("draft_model", workload={"batch": batch}), use) for batch in (1, 2))
    assert one.best.tree.num_nodes > 1 and two.best.tree == DraftTree.root_only()
    assert "transformers 5.23 drafts for at most 1 sequences at once" in two.refused
    assert schedule(asked("draft_model"), 1, use).draft_len_by_batch[0] > 0


@pytest.mark.parametrize("seed", range(20))
def test_the_cut_is_the_best_of_all_cuts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rates, lens, weights = rng.integers(1, 9, (9, 4)).astype(float), (0, 2, 3, 5), rng.random(9)
    rates[rng.random((9, 4)) < 0.2] = 0.0
    rates[:, 0] = np.maximum(rates[:, 0], 1.0)
    found = best_cut(rates, lens, 0.0, weights)
    loss = 1 - rates / rates.max(axis=1, keepdims=True)
    losses = []
    for last in range(10):
        for column in range(4):
            runs = np.where(np.arange(9) < last, column, 0)
            held = rates[np.arange(9), runs]
            if (held > 0).all():
                losses.append(float(loss[np.arange(9), runs] @ weights / weights.sum()))
    assert found.loss == pytest.approx(min(losses), abs=1e-12)
    assert len(found.tiers) == 1 or (len(found.tiers) == 2 and found.tiers[1].draft_len == 0)
    alone = best_tiers(rates, lens, 1, weights=weights)
    assert best_cut(rates, lens, 1.0, weights).tiers == alone.tiers
    with pytest.raises(InputError):
        best_cut(rates, lens[1:], 0.0, weights)
