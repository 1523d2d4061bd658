"""Draft lengths by batch size, by hand and against every schedule; what engines make of them."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from toy_deployment import ToyCost, deployment, table

from specsim.dialect import captured_below, dialect
from specsim.errors import InfeasibleError, InputError
from specsim.estimate import predict
from specsim.scenario import EngineUse
from specsim.search.by_load import Arrivals, load_table, most_sequences, schedule, schedules_by_context
from specsim.search.exact.load import queue_under
from specsim.search.points import best_at, moved, point_of
from specsim.search.tune import tune
from specsim.tree import DraftTree

HOST = {"step": 0.5, "round": 0.75, "draft": 0.125}
SIX = {"acceptance": table(*[(0.7,)] * 6), "search": {"max_draft_len": 6, "max_nodes": 7, "max_depth": 6}}
EAGLE = {"drafter": {"kind": "eagle3", "model": "eagle3-llama-3.1-8b"}}
VLLM, SGLANG = EngineUse(engine="vllm", version="0.33.0"), EngineUse(engine="sglang", version="0.5.23")


def toy(node_s: float = 0.25, **changes: Any) -> Any:
    return deployment(**{"cost": ToyCost(node_s=node_s, host_s=HOST), **SIX} | changes)


def test_a_table_by_hand() -> None:
    found, notes = load_table(toy(), max_batch=2)
    assert found.draft_lens == tuple(range(7)) and not notes
    # One sequence, two drafts: 2 draft passes and their host work, 10 + 2 x 0.25 of verification, 0.5 + 0.75 of host.
    assert found.round_s[0, 2] == pytest.approx(2 * 1.125 + 10.5 + 1.25)
    assert found.round_s[1, 2] == pytest.approx(2 * 1.125 + 11.0 + 1.25)
    assert found.plain_s.tolist() == [10.5, 10.5]
    assert found.round_s[:, 0] == pytest.approx([11.25] * 2)  # loaded and idle, the host's work of a round stays
    assert found.rates[1, 2] == pytest.approx(2 * (1 + 0.7 + 0.49) / 14.5)
    assert load_table(toy(), 1, idle_s=4.0)[0].round_s[0, 0] == pytest.approx(14.5)


@pytest.mark.parametrize("changes", [{}, {"engine": "vllm"}, EAGLE], ids=["plain", "vllm", "eagle3"])
def test_a_table_of_real_prices_is_what_estimates_say(changes: dict[str, Any]) -> None:
    asked = deployment(**SIX, **changes)
    found, _ = load_table(asked, 24, idle_s=0.0)
    for batch, length in product((1, 7, 24), (0, 1, 6)):
        alone = predict(moved(asked, batch=batch), DraftTree.chain(length))
        assert found.rates[batch - 1, length] == pytest.approx(alone.tokens_per_s, rel=1e-12)


def test_the_schedule_is_the_fastest_of_all() -> None:
    asked = toy(search={"max_draft_len": 2, "max_nodes": 3, "max_depth": 2})
    load = Arrivals(0.004, 20.0)
    found = schedule(asked, 3, max_tiers=3, tolerance=0.0, arrivals=load)
    rates = found.table.rates
    every = {s: queue_under(*load, rates[range(3), s]).mean_in_system for s in product(range(3), repeat=3)}
    best = next(p for p in found.policies if p.name == "fastest at each batch size")
    assert best.queue and best.queue.mean_in_system == pytest.approx(min(every.values()), rel=1e-13)
    assert every[found.draft_len_by_batch] == pytest.approx(best.queue.mean_in_system, rel=1e-13)
    fixed = next(p for p in found.policies if p.name.startswith("fixed"))
    assert fixed.queue and fixed.queue.mean_in_system == pytest.approx(min(every[1, 1, 1], every[2, 2, 2]))
    names = [policy.name for policy in found.policies]
    assert names[:2] == ["no speculation loaded", "loaded, draft length 0"] and names[-1] == "tiers"


def test_speculation_pays_up_to_where_verification_is_dear() -> None:
    found = schedule(toy(node_s=0.25), 64)
    assert found.pays and found.pays[0][0] == 1 and found.pays[-1][1] < 64
    rates, plain = found.table.rates, found.table.plain_rates
    own = [found.table.draft_lens.index(found.tiers.draft_len(b)) for b in range(1, 65)]
    inside = {b for a, z in found.pays for b in range(a, z + 1)}
    assert inside == {b for b in range(1, 65) if rates[b - 1, own[b - 1]] > plain[b - 1]}
    assert found.longest == max(tier.draft_len for tier in found.tiers.tiers)


def test_a_least_draft_length_leaves_off_out() -> None:
    dear = toy(node_s=5.0)
    assert schedule(dear, 64).draft_len_by_batch[-1] == 0
    kept = schedule(dear, 64, min_draft_len=1)
    assert kept.draft_len_by_batch[-1] == 1 and any("costly to resume" in note for note in kept.notes)
    assert schedule(toy(node_s=5.0, engine="trtllm"), 64).draft_len_by_batch[-1] == 1  # where it is by default


def test_tiers_end_where_the_engine_looks() -> None:
    row = dialect("sglang", "0.5.23")
    found = schedule(toy(**EAGLE), 100, SGLANG, tolerance=0.0)
    assert len(found.tiers.tiers) > 2
    assert all(captured_below(row, tier.last) == tier.last for tier in found.tiers.tiers[:-1])
    free = schedule(toy(**EAGLE), 100, VLLM, tolerance=0.0)
    assert free.tiers.loss <= found.tiers.loss


def test_an_engine_without_schedules_gets_one_length() -> None:
    found = schedule(toy(), 32, SGLANG)  # it has none for draft models
    assert len(found.tiers.tiers) == 1 and any("takes no draft length by batch size" in n for n in found.notes)


def test_an_engine_without_the_drafter_drafts_nothing() -> None:
    heads = {"target": {"model": "vicuna-7b"}, "drafter": {"kind": "medusa", "model": "medusa-vicuna-7b"}}
    found = schedule(toy(**heads), 8, VLLM)
    assert found.table.draft_lens == (0,) and found.longest == 0 and not found.pays
    assert found.notes == ("vllm 0.33 has no medusa drafter",)


def test_memory_ends_the_schedule_and_a_loaded_draft_ends_it_sooner() -> None:
    asked = deployment(**SIX, hardware="l4", workload={"context_tokens": 4096})
    found = schedule(asked, 64)
    largest = found.table.largest
    assert 0 < largest < found.table.largest_plain < 64
    assert most_sequences(asked, 1, loaded=True) == largest
    fits = moved(asked, batch=largest)
    assert fits.ledger(DraftTree.chain(1)).fits and not moved(asked, batch=largest + 1).ledger(DraftTree.chain(1)).fits
    with pytest.raises(InfeasibleError, match="memory"):
        schedule(
            deployment(
                **SIX, hardware="l4", target={"weights": "fp8"}, workload={"batch": 1, "context_tokens": 120_000}
            ),
            4,
        )


def test_contexts_have_schedules_of_their_own() -> None:
    asked = deployment(**SIX)
    short, long = schedules_by_context(asked, [256, 16384], 16, max_tiers=2)
    assert (short.context_tokens, long.context_tokens) == (256, 16384)
    assert long.table.plain_s[-1] > short.table.plain_s[-1]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"max_batch": 0}, "max_batch"),
        ({"max_batch": 4, "tolerance": np.nan}, "tolerance"),
        ({"max_batch": 4, "min_draft_len": 7}, "min_draft_len"),
        ({"max_batch": 4, "max_tiers": 0}, "max_tiers"),
        ({"max_batch": 4, "idle_s": -1.0}, "idle_s"),
        ({"max_batch": 4, "arrivals": Arrivals(np.inf, 1.0)}, "arrival_rate"),
    ],
)
def test_wrong_questions_are_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        schedule(toy(), **options)


def test_points_agree_with_tuning_them_one_by_one() -> None:
    asked = deployment(acceptance=table(*[(0.6, 0.2, 0.05)] * 6), search=SIX["search"] | {"max_nodes": 12})
    points = [point_of(asked, batch, context) for batch, context in product((1, 16, 90), (64, 2048))]
    for point, answer in zip(points, best_at(asked, points), strict=True):
        alone = tune(moved(asked, batch=point.batch, context_tokens=point.context_tokens))
        assert answer.tokens_per_s * (1 + answer.gap) >= alone.best.tokens_per_s * (1 - 1e-9)
        assert answer.tokens_per_s == pytest.approx(alone.best.tokens_per_s, rel=2e-3)
        chain = max((e for e in alone.ranked if e.tree.is_chain), key=lambda e: e.tokens_per_s)
        assert answer.chain_tokens_per_s == pytest.approx(chain.tokens_per_s, rel=1e-12)
        assert answer.chain_len == chain.tree.num_drafted


def test_a_point_where_nothing_fits_says_why() -> None:
    asked = deployment(**SIX)
    found = best_at(asked, [point_of(asked, 1), point_of(asked, 100_000)])
    assert not found[0].reason and found[0].speedup > 1
    assert "memory: needs" in found[1].reason and found[1].tokens_per_s == 0
