"""Learning from scrapes: idempotent, forgetful, alert to drift; and a loop that settles where the truth is best."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from engine_outputs import vllm_metrics

from specsim.acceptance.profile import AcceptanceProfile
from specsim.engines.imports import Observation
from specsim.engines.learn import (
    DESIGN_EFFECT,
    MEMORY_ROUNDS,
    LearnedState,
    drift_z,
    fingerprint,
    learn,
    load_state,
    posterior,
    save_state,
)
from specsim.engines.retune import retune
from specsim.errors import InputError
from specsim.scenario import find_scenario, resolve
from specsim.search.tune import tune
from specsim.tree import DraftTree

SCENARIO = find_scenario("llama-3.1-8b-agx-orin")


def scraped(alpha: float, draft_len: int, rounds: float, rng: np.random.Generator | None = None) -> Observation:
    survival = alpha ** np.arange(1, draft_len + 1)
    counts = rounds * survival if rng is None else np.bincount(
        np.cumprod(rng.random((int(rounds), draft_len)) < alpha, axis=1).sum(1), minlength=draft_len + 1
    )[::-1].cumsum()[::-1][1:].astype(float)  # fmt: skip
    return Observation(
        source="made up", num_drafts=rounds, num_drafted=rounds * draft_len, num_accepted=float(counts.sum()),
        accepted_by_position=tuple(counts.tolist()), draft_len=draft_len, num_running=1,
    )  # fmt: skip


def test_the_same_evidence_again_changes_nothing() -> None:
    once, _ = learn(LearnedState(scenario="s"), [scraped(0.6, 4, 1000)], "a", None)
    again, told = learn(once, [scraped(0.6, 4, 1000)], "a", None)
    assert again == once and "seen before" in told
    assert once.trials == pytest.approx((1000, 600, 360, 216)) and once.accepted[0] == 600


def test_the_past_fades_and_drift_drops_it() -> None:
    state, _ = learn(LearnedState(scenario="s"), [scraped(0.6, 2, MEMORY_ROUNDS)], "a", None)
    state, told = learn(state, [scraped(0.605, 2, 10_000)], "b", None)
    assert told == "learned" and state.trials[0] == pytest.approx(MEMORY_ROUNDS)
    assert state.accepted[0] == pytest.approx(0.6 * (MEMORY_ROUNDS - 10_000) + 6050)
    state, told = learn(state, [scraped(0.4, 2, 10_000)], "c", None)
    assert told.startswith("drift") and state.trials[0] == 10_000 and state.num_drifts == 1


def test_false_alarms_are_rare() -> None:
    """Rounds as alike as the design effect says: counts scaled so; the z scores are then standard normal."""
    rng, z = np.random.default_rng(0), []
    for _ in range(400):
        pairs = [np.array([[DESIGN_EFFECT * rng.binomial(500, 0.7)], [DESIGN_EFFECT * 500.0]]) for _ in range(2)]
        z.append(drift_z(*pairs))
    assert np.mean(np.array(z) > 1.96) == pytest.approx(0.05, abs=0.03) and max(z) < 4


def test_the_posterior_is_prior_and_evidence_by_their_weights() -> None:
    prior = AcceptanceProfile.iid(0.8, 2, num_trials=1e6)
    state = LearnedState(scenario="s", accepted=(400.0, 200.0), trials=(800.0, 400.0))
    found = posterior(state, prior)
    # 200 rounds of prior at .8, and 800 / 4 of evidence at .5.
    assert found.accept_prob[0, 0] == pytest.approx(0.65) and found.num_trials is not None
    assert found.num_trials.tolist() == pytest.approx([400, 300])
    assert posterior(LearnedState(scenario="s"), prior).accept_prob[0, 0] == pytest.approx(0.8)


def test_a_loop_settles_on_the_truth_and_stays_there() -> None:
    """The traffic accepts .45 where the scenario says .77 at first: a long draft is cut, once."""
    rng, state, lengths, regrets = np.random.default_rng(1), LearnedState(scenario=SCENARIO.name), [8], []
    for day in range(4):
        found = retune(SCENARIO, state, [scraped(0.45, lengths[-1], 4000, rng)], str(day), draft_len=8)
        state = found.state
        lengths.append(found.chosen.tree.num_drafted)
        regrets.append(found.regret_removed)
    truth = tune(resolve(SCENARIO.model_copy(update={"acceptance": _iid(0.45)}))).ranked
    rates = {e.tree.num_drafted: e.tokens_per_s for e in truth}
    assert rates[lengths[-1]] >= 0.98 * max(rates.values()) and lengths[2:] == [lengths[2]] * 3
    assert regrets[0] > 0.2 and regrets[1:] == pytest.approx([0, 0, 0])
    again = retune(SCENARIO, state, [scraped(0.45, lengths[-1], 4000)], "3")
    assert not again.changed and again.state == state and again.told.startswith("seen before")


def _iid(alpha: float) -> object:
    from pydantic import TypeAdapter

    from specsim.acceptance.inputs import AcceptanceInput

    return TypeAdapter(AcceptanceInput).validate_python({"kind": "iid", "alpha": alpha, "max_depth": 8, "source": "made up for a test"})  # fmt: skip  # noqa: E501


def test_the_state_is_kept_whole(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    state, _ = learn(load_state(path, "s"), [scraped(0.6, 4, 1000)], "a", None)
    save_state(state, path)
    assert load_state(path, "s") == state and [p.name for p in tmp_path.iterdir()] == ["state.json"]
    with pytest.raises(InputError, match="scenario"):
        load_state(path, "another")
    path.write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_state(path, "s")
    path.write_text('{"scenario": "s", "accepted": [1], "trials": []}')
    with pytest.raises(InputError, match="one per position"):
        load_state(path, "s")
    with pytest.raises(InputError, match="can not be written"):
        save_state(state, tmp_path / "none" / "state.json")


def test_files_are_told_by_what_they_hold(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in "abc")
    one.write_text(vllm_metrics(10, 30, (8, 5, 3)))
    same.write_text(one.read_text())
    other.write_text(vllm_metrics(11, 33, (8, 5, 3)))
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)
    assert fingerprint(one, other) != fingerprint(other, one)


def test_times_are_learned_too() -> None:
    slow = scraped(0.6, 4, 1000).model_copy(update={"step_s": 0.12})
    state, _ = learn(LearnedState(scenario="s"), [slow], "a", predicted_step_s=0.1)
    assert np.exp(state.log_time[0]) == pytest.approx(1.2) and state.log_time[1] == 1
    assert DraftTree.chain(4).num_drafted == 4
