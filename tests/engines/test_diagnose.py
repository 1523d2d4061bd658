"""Diagnoses of deployments whose trouble is known, because it was put there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from engine_outputs import vllm_metrics

from specsim.cli import main
from specsim.engines.causes import at_batch, last_paying_batch
from specsim.engines.diagnose import Quantity, diagnose, rate_ratio_draws, with_acceptance
from specsim.engines.imports import Observation, acceptance_of
from specsim.errors import InputError
from specsim.estimate import predict
from specsim.scenario import Scenario, find_scenario, resolve
from specsim.tree import DraftTree

LARGE = find_scenario("llama-3.1-70b-4xh100-eagle3")
SMALL = find_scenario("llama-3.1-8b-agx-orin")


def seen(
    scenario: Scenario, draft_len: int, alpha: float | None = None, slower: float = 1.0, **others: object
) -> Observation:
    """What an engine would show that is just as predicted, but for what is said."""
    deployment, tree = resolve(scenario), DraftTree.chain(draft_len)
    table = deployment.acceptance.accept_prob[:draft_len, 0] if alpha is None else np.full(draft_len, alpha)
    positions = tuple((1e4 * np.cumprod(table)).tolist())
    told = Observation(
        source="made up", num_drafts=1e4, num_drafted=1e4 * draft_len, num_accepted=sum(positions),
        accepted_by_position=positions, draft_len=draft_len,
    )  # fmt: skip
    same = with_acceptance(deployment, acceptance_of([told]), draft_len)
    step = float(predict(same, tree).round.time_s.max()) * slower
    data = {"num_running": scenario.workload.batch, "step_s": step, **others}
    return Observation.model_validate(told.model_dump() | data)


def names(scenario: Scenario, observed: Observation) -> list[str]:
    return [cause.name for cause in diagnose(scenario, observed).causes]


def test_what_is_as_predicted_is_said_to_be() -> None:
    found = diagnose(LARGE, seen(LARGE, 5))
    assert [q.is_expected for q in found.quantities if q.observed is not None] == [True, True, True]
    assert "as predicted" in found.verdict and "not as" not in found.verdict
    assert found.break_even_alpha is not None
    # At just the acceptance that breaks even the speed-up is 1.
    even = with_acceptance(resolve(LARGE), acceptance_of([seen(LARGE, 5, found.break_even_alpha)]), 5)
    assert predict(even, DraftTree.chain(5)).speedup == pytest.approx(1, rel=5e-3)


def test_a_small_pair_with_poor_acceptance_can_not_win() -> None:
    found = diagnose(SMALL, seen(SMALL, 8, 0.3))
    assert found.speedup[0] < 1 and "Slower" in found.verdict
    assert found.causes[0].name in ("acceptance below what was expected", "acceptance too low for this size ratio")
    assert {"acceptance below what was expected", "acceptance too low for this size ratio"} <= set(names(SMALL, seen(SMALL, 8, 0.3)))  # fmt: skip  # noqa: E501
    assert found.better is not None and found.better.tree.num_drafted < 8 and found.better.gain_low > 0


def test_a_batch_beyond_the_crossover_is_told_from_a_poor_pair() -> None:
    crossover = last_paying_batch(resolve(LARGE), DraftTree.chain(8))
    assert crossover is not None
    deployment = resolve(LARGE)
    assert predict(at_batch(deployment, crossover), DraftTree.chain(8)).speedup >= 1
    busy = LARGE.varied(batch=min(2 * crossover, 200), context_tokens=256)
    if predict(resolve(busy), DraftTree.chain(8)).speedup >= 1:
        pytest.skip("memory ends before speculation stops paying")
    assert "batch beyond the crossover" in names(busy, seen(busy, 8))


def test_other_causes_are_told_by_their_signs() -> None:
    assert "time that the prediction does not know" in names(LARGE, seen(LARGE, 5, slower=1.5))
    assert "off captured graph sizes" in names(SMALL, seen(SMALL, 4, cuda_graph=False))
    capped = seen(LARGE.varied(batch=48), 4, source="sglang log", num_waiting=30, num_running=48)
    assert "cap on running requests" in names(LARGE.varied(batch=48), capped)
    full = seen(LARGE.varied(batch=200), 4, num_waiting=50, kv_used_frac=0.99, num_running=200)
    assert "the drafter takes cache from requests" in names(LARGE.varied(batch=200), full)


def test_experts_spread_in_a_mixture() -> None:
    asked = LARGE.model_dump() | {"target": {"model": "mixtral-8x7b"}, "drafter": {"kind": "ngram"}}
    sparse = Scenario.model_validate(asked)
    assert "experts spread" in names(sparse, seen(sparse, 4))


def test_the_gain_has_the_errors_that_both_share_taken_out() -> None:
    deployment = resolve(LARGE)
    one, other = (predict(deployment, DraftTree.chain(k)) for k in (5, 4))
    draws = rate_ratio_draws(deployment, one, other)
    assert float(np.median(draws)) == pytest.approx(one.tokens_per_s / other.tokens_per_s, rel=0.02)
    alone = (one.speedup_high - one.speedup_low) / one.speedup
    assert np.quantile(draws, 0.95) - np.quantile(draws, 0.05) < 0.3 * alone


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, older = tmp_path / "now.prom", tmp_path / "before.prom"
    older.write_text(vllm_metrics(1000, 5000, (800, 600, 400, 300, 200), 4000))
    path.write_text(vllm_metrics(9000, 45000, (5600, 3500, 2200, 1400, 900), 30000))
    asked = ["diagnose", "llama-3.1-70b-4xh100-eagle3", str(path)]
    assert main([*asked, "--before", str(older), "--batch", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "specsim.diagnose/1" and found["configuration"] == "chain 5"
    assert found["observed"]["num_drafts"] == 8000
    assert main([*asked, "--batch", "8"]) == 0 and "Causes" in capsys.readouterr().out
    path.write_text(vllm_metrics(500, 2500, (400, 300, 200, 150, 100), 2000))
    assert main([*asked, "--before", str(older)]) == 2  # the server was restarted
    assert "restarted" in capsys.readouterr().err
    with pytest.raises(InputError, match="draft_len"):
        diagnose(LARGE, Observation(source="x", num_drafts=10, num_accepted=5))


def test_a_verdict_names_what_numpy_calls_false() -> None:
    quantity = Quantity("step time", "s", 0.05, 0.04, np.float64(0.06), np.float64(0.08))
    assert quantity.is_expected is False
