"""Choosing under uncertainty: hand-worked tables, closed forms of Gaussian worlds, and the other way of computing."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from toy_deployment import ToyCost, deployment, table

from specsim.acceptance.process import TokenProcess
from specsim.decoding import ConfidenceChain, Eagle2, StaticTree
from specsim.errors import InputError
from specsim.estimate import predict
from specsim.search.dynamic.tuning import DynamicTuning, tune_dynamic, tuned_table
from specsim.search.exact.robust import best_robust_chain
from specsim.search.robust.choice import Candidate, robust_choice
from specsim.search.robust.draws import candidate_of, rate_draws
from specsim.search.robust.dynamic import with_dynamic
from specsim.search.robust.value import worth_of_knowing
from specsim.tree import DraftTree

NONE, CHAIN, TREE = Candidate("plain", "none", 1), Candidate("chain", "chain", 4), Candidate("tree", "tree", 9)
TWO_RANKS = table(*[(0.6, 0.2)] * 4, num_trials=(200.0, 120.0, 70.0, 40.0))


def test_a_table_by_hand() -> None:
    rates = [[4.0, 5.0, 6.0], [4.0, 5.0, 4.0], [4.0, 3.0, 6.0], [4.0, 5.0, 5.0]]
    choice = robust_choice(rates, [NONE, CHAIN, TREE], level=0.5, tie_level=0.5)
    assert choice.mean_rate.tolist() == [4.0, 4.5, 5.25]
    assert choice.prob_best.tolist() == [0.0, 0.375, 0.625]  # the last draw is shared
    assert choice.expected_regret == pytest.approx([(1 / 3 + 1 / 5 + 1 / 3 + 1 / 5) / 4, (1 / 6 + 1 / 2) / 4, 1 / 20])
    assert choice.max_regret == pytest.approx([1 / 3, 1 / 2, 1 / 5])
    assert choice.highest == choice.min_max == 2
    # Ratios to the tree: plain 2/3, 1, 2/3, 4/5 and chain 5/6, 5/4, 1/2, 1; upper quartiles 0.85 and 1.06.
    assert choice.tied == (1, 2) and choice.chosen == 1
    assert choice.given_up == pytest.approx(1 - 4.5 / 5.25)
    assert choice.perfect_information == pytest.approx((6 + 5 + 6 + 5) / 4 / 5.25 - 1)


def test_ties_go_to_the_simpler_by_kind_then_by_nodes() -> None:
    kinds = [Candidate("d", "dynamic", 4), Candidate("t9", "tree", 9), Candidate("t5", "tree", 5)]
    equal = np.ones((3, 5))
    assert robust_choice(equal, [*kinds, Candidate("c", "chain", 9), NONE]).chosen == 4
    assert robust_choice(equal[:, :4], [*kinds, Candidate("c", "chain", 9)]).chosen == 3
    assert robust_choice(equal[:, :3], kinds).chosen == 2
    assert robust_choice(equal[:, :3], kinds).prob_best == pytest.approx([1 / 3] * 3)


def test_errors_that_all_share_leave_the_order_sure() -> None:
    rng = np.random.default_rng(0)
    device = np.exp(0.5 * rng.standard_normal((4000, 1)))
    alike = robust_choice(device * [10.0, 10.5], [NONE, CHAIN])
    apart = robust_choice(np.exp(0.5 * rng.standard_normal((4000, 2))) * [10.0, 10.5], [NONE, CHAIN])
    assert not alike.is_tie and alike.prob_best.tolist() == [0.0, 1.0] and alike.perfect_information == pytest.approx(0)
    assert apart.is_tie and apart.chosen == 0 and apart.perfect_information > 0.2


def test_the_least_worst_regret_of_chains_is_that_of_the_end_points() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        low, high = np.sort(rng.random(2))
        longest, step = int(rng.integers(1, 7)), float(rng.random() * 0.3)
        verify = 1 + rng.random(longest + 1)
        lengths = np.arange(longest + 1)
        ends = np.cumsum(np.array([[low], [high]]) ** lengths, axis=1) / (step * lengths + verify)
        known = best_robust_chain(low, high, longest, step, verify)
        candidates = [candidate_of(DraftTree.chain(n)) for n in lengths.tolist()]
        inside = np.cumsum(np.linspace(low, high, 50)[:, None] ** lengths, axis=1) / (step * lengths + verify)
        choice = robust_choice(inside, candidates, scenarios=ends)
        assert choice.min_max == known.draft_len
        assert choice.max_regret == pytest.approx(known.regret_by_draft_len, abs=1e-12)
        assert np.all(robust_choice(inside, candidates).max_regret <= choice.max_regret + 1e-12)


def gain_of_knowing(mean: float, sd: float) -> float:
    """E max(0, X) - max(0, E X) for a normal X."""
    unit = NormalDist()
    return sd * unit.pdf(mean / sd) - abs(mean) * unit.cdf(-abs(mean) / sd)


@pytest.mark.parametrize("mean", [-0.3, 0.0, 0.8])
def test_partial_information_in_a_gaussian_world(mean: float) -> None:
    """A second candidate whose gain is mean + a + b, with a and b known apart: Raiffa and Schlaifer 1961, section 5."""
    rng = np.random.default_rng(2)
    a, b, c = rng.standard_normal((3, 40_000)) * [[0.5], [0.25], [1.0]]
    rates = np.stack([np.full(len(a), 10.0), 10 + mean + a + b], axis=1)
    found = {w.name: w for w in worth_of_knowing(rates, {"a": a, "b": b, "both": np.stack([a, b], 1), "c": c})}
    top = 10 + max(mean, 0)
    for name, sd in (("a", 0.5), ("b", 0.25), ("both", np.hypot(0.5, 0.25))):
        assert found[name].gain == pytest.approx(gain_of_knowing(mean, sd) / top, abs=4 * found[name].gain_sd + 1e-6)
    assert found["c"].gain <= 4 * found["c"].gain_sd
    chance = NormalDist().cdf(-abs(mean) / 0.5)
    assert found["a"].changes == pytest.approx(chance, abs=0.01)


def test_partial_information_against_nested_means() -> None:
    """Three candidates, one with a rate that is not linear in what is learnt; the inner mean worked out by itself."""
    rng = np.random.default_rng(3)
    x, y = rng.random((2, 40_000))
    rates = np.stack([np.full(len(x), 2.0), 1 + 2 * x + (y - 0.5), 3 - 3 * x * y], axis=1)
    grid = (np.arange(2000) + 0.5) / 2000
    nested = np.stack([np.full(2000, 2.0), 1 + 2 * grid, 3 - 1.5 * grid], axis=1).max(axis=1).mean()
    top = max(2.0, 2.0, 2.25)
    (worth,) = worth_of_knowing(rates, {"x": x})
    assert worth.gain == pytest.approx(nested / top - 1, abs=0.01)
    assert worth.gain <= robust_choice(rates, [NONE, CHAIN, TREE]).perfect_information


def test_draws_of_a_deployment_have_its_means_and_spread() -> None:
    cost = ToyCost(own_rel_sd=0.03, log_sd_by_bound={"memory": 0.1, "launch": 0.2}, host_s={"step": 0.5})
    asked = deployment(cost=cost, acceptance=TWO_RANKS | {"task_sd": 0.1}, workload={"batch": 2},
                       search={"max_draft_len": 4, "max_nodes": 6, "max_depth": 4})  # fmt: skip
    trees = [DraftTree.root_only(), DraftTree.chain(3), DraftTree((-1, 0, 0, 1))]
    drawn = rate_draws(asked, trees, np.random.default_rng(0), 20_000)
    assert [c.kind for c in drawn.candidates] == ["none", "chain", "tree"]
    for column, tree in enumerate(trees):
        known = predict(asked, tree)
        ratio = np.log(drawn.rates[:, column] / drawn.rates[:, 0])
        assert float(drawn.rates[:, column].mean()) == pytest.approx(known.tokens_per_s, rel=0.02)
        if column:
            wide = np.log(known.speedup_high / known.speedup_low) / (2 * 1.645)
            assert ratio.std() == pytest.approx(wide, rel=0.08)
    assert drawn.parts_s[0, :, 0].tolist() == [0.0] * 20_000
    # Passes of one size err alike; the target's shared multiplier moves them all.
    verify = np.log(drawn.parts_s[1])
    assert verify.std(axis=0) == pytest.approx([np.hypot(0.1, 0.03)] * 3, rel=0.05)
    assert drawn.parts_s[1, :, 1] == pytest.approx(drawn.parts_s[1, :, 2])  # both have four nodes
    assert np.corrcoef(verify[:, 0], verify[:, 1])[0, 1] == pytest.approx(0.1**2 / (0.1**2 + 0.03**2), abs=0.02)
    names = set(drawn.quantities())
    assert {"acceptance", "acceptance at depth 1", "acceptance of this workload", "verify time", "draft time"} <= names
    assert "host time" not in names  # nothing about it is uncertain


def test_knowing_everything_about_acceptance_is_worth_as_much_as_any_depth_of_it() -> None:
    asked = deployment(cost=ToyCost(target_s=4.0, node_s=0.1), acceptance=TWO_RANKS,
                       search={"max_draft_len": 4, "max_nodes": 6, "max_depth": 4})  # fmt: skip
    drawn = rate_draws(asked, [DraftTree.chain(n) for n in range(5)], np.random.default_rng(0), 20_000)
    worth = {w.name: w for w in drawn.worth()}
    noise = 4 * max(w.gain_sd for w in worth.values())
    assert worth["acceptance"].gain == pytest.approx(drawn.choice().perfect_information, abs=noise)
    assert all(w.gain <= worth["acceptance"].gain + noise for w in worth.values())
    assert "verify time" not in worth


def test_the_corners_hold_every_draw_of_the_middle_between_them() -> None:
    cost = ToyCost(log_sd_by_bound={"memory": 0.1, "launch": 0.2})
    asked = deployment(cost=cost, acceptance=TWO_RANKS, search={"max_draft_len": 4, "max_nodes": 6, "max_depth": 4})
    drawn = rate_draws(asked, [DraftTree.chain(n) for n in range(3)], np.random.default_rng(0), 4000)
    corners = drawn.corners(0.9)
    assert corners.shape == (8, 3)
    inside = (drawn.rates >= corners.min(axis=0)) & (drawn.rates <= corners.max(axis=0))
    assert inside.mean() > 0.9
    assert np.ptp(drawn.corners(1e-9), axis=0).max() < 1e-6  # an interval without width is one scenario


def test_a_policy_scored_elsewhere_moves_with_its_tree() -> None:
    asked = deployment(cost=ToyCost(log_sd_by_bound={"memory": 0.1}), acceptance=TWO_RANKS,
                       search={"max_draft_len": 4, "max_nodes": 6, "max_depth": 4})  # fmt: skip
    drawn = rate_draws(asked, [DraftTree.root_only(), DraftTree.chain(3)], np.random.default_rng(0), 4000)
    more = drawn.with_policy("p", 6, 3.0, (2.0, 12.0, 0.0), 1, 0.0, np.random.default_rng(1))
    assert more.candidates[2].simplicity > more.candidates[1].simplicity
    assert more.tokens[:, 2].mean() == pytest.approx(3.0)
    assert more.parts_s[:, :, 2].mean(axis=1) == pytest.approx([2.0, 12.0, 0.0])
    assert np.corrcoef(np.log(more.rates[:, 1]), np.log(more.rates[:, 2]))[0, 1] > 0.99
    with pytest.raises(InputError, match="speculates"):
        drawn.with_policy("p", 6, 3.0, (2.0, 12.0, 0.0), 0, 0.0, np.random.default_rng(1))


def test_dynamic_policies_keep_their_lead_over_the_best_static_tree() -> None:
    process = TokenProcess(num_candidates=6)
    asked = deployment(cost=ToyCost(node_s=0.3, log_sd_by_bound={"memory": 0.1}), acceptance=TWO_RANKS,
                       search={"max_draft_len": 4, "max_nodes": 6, "max_depth": 4})  # fmt: skip
    played = tuned_table(process, [Eagle2(2, 2, 6), ConfidenceChain(4, 0.3, "path", "top")], 0.0, 6, 4, 32, 0)
    tuning = tune_dynamic(asked, played)
    static = tuning.table.policies[tuning.static]
    assert isinstance(static, StaticTree)
    trees = [DraftTree.root_only(), static.tree]
    drawn = rate_draws(asked, trees, np.random.default_rng(0), 4000)
    more = with_dynamic(drawn, trees, tuning, 5, np.random.default_rng(1))
    assert [c.kind for c in more.candidates[2:]] == ["dynamic", "dynamic"]
    rates = more.rates.mean(axis=0)
    # Tokens stand on another table here, so a lead in accepted tokens is not quite the same lead in tokens.
    assert rates[2] / rates[1] == pytest.approx(min(tuning.gain[1], _lead(tuning)), rel=0.03)
    with pytest.raises(InputError, match="the tuning knows"):
        with_dynamic(drawn, trees[:1], tuning, 1, np.random.default_rng(1))


def _lead(tuning: DynamicTuning) -> float:
    rates = tuning.scores.tokens_per_s
    return float(rates[tuning.best] / rates[tuning.static])


@pytest.mark.parametrize(
    ("rates", "more", "match"),
    [
        ([[1.0, 0.0]], {}, "above 0"),
        ([[1.0, float("nan")]], {}, "above 0"),
        ([[1.0]], {}, "column"),
        ([[1.0, 1.0]], {"level": 1.0}, "between 0 and 1"),
        ([[1.0, 1.0]], {"tie_level": 0.0}, "tie_level"),
        ([[1.0, 1.0]], {"scenarios": [[1.0]]}, "scenarios"),
    ],
)
def test_bad_input_is_named(rates: list[list[float]], more: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        robust_choice(rates, [NONE, CHAIN], **more)  # type: ignore[arg-type]
