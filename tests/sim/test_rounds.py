"""Policies and rules played in the synthetic world, against closed forms, the exact law, and one another."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from specsim.acceptance.process import TokenProcess, children_of, draft_laws, first_roots, target_laws
from specsim.acceptance.process_rounds import sample_static_rounds, static_rounds
from specsim.cost.model import roofline_cost
from specsim.decoding import ConfidenceChain, Eagle2, Rule, StaticTree, TreePolicy, verify
from specsim.decoding.rules.verdict import Draws
from specsim.errors import InputError
from specsim.hardware import load_hardware
from specsim.methods.round import Situation, play
from specsim.model import load_model
from specsim.sim.rounds import SimulatedRounds, SyntheticMethod, simulate_rounds
from specsim.sim.rounds_beam import beam_rounds
from specsim.sim.rounds_play import PlayedRound
from specsim.tree import DraftTree

WORLD = TokenProcess(decay=0.1, request_sd=0.2)
EVEN = TokenProcess(sharpness_sd=0, regime_gap=0, request_sd=0)
"""Every token is like every other: acceptance is independent along a path."""

SIGMAS = 4.5
"""Of the simulated mean: a right world fails one test in 100 000."""


def chain(draft_len: int, *, sampled: bool) -> StaticTree:
    return StaticTree(DraftTree.chain(draft_len), "sampled" if sampled else "top")


def played(process: TokenProcess, policy: TreePolicy, rule: Rule, temperature: float) -> SimulatedRounds:
    return simulate_rounds(process, SyntheticMethod(policy, rule, temperature), 30, 250, np.random.default_rng(7))


def test_independent_acceptance_gives_the_closed_form() -> None:
    """Leviathan et al. 2023 (arXiv:2211.17192): alpha = E sum min(draft, target), (1 - alpha**5) / (1 - alpha)."""
    nodes = first_roots(EVEN, np.random.default_rng(0), 200_000)
    alpha = np.minimum(draft_laws(EVEN, nodes), target_laws(EVEN, nodes)).sum(-1).mean()
    rounds = played(EVEN, chain(4, sampled=True), "token_rejection", 1.0)
    assert abs(rounds.tokens_per_round - (1 - alpha**5) / (1 - alpha)) < SIGMAS * rounds.tokens_sd + 0.01


@pytest.mark.parametrize(
    ("tree", "rule", "temperature"),
    [
        (DraftTree.chain(4), "greedy", 0.0),
        (DraftTree.chain(4), "token_rejection", 0.7),
        (DraftTree.from_widths((3, 2, 1)), "one_hot", 1.0),
        (DraftTree.from_widths((2, 2)), "recursive_rejection", 1.0),
    ],
)
def test_played_rounds_follow_the_exact_law(tree: DraftTree, rule: Rule, temperature: float) -> None:
    """Mean, lengths, correlation of consecutive rounds, spread; and the quick sampler draws from the same law."""
    sampled = "rejection" in rule
    rounds = played(WORLD, StaticTree(tree, "sampled" if sampled else "top"), rule, temperature)
    law = static_rounds(WORLD, tree, temperature, sampled=sampled)
    quick = sample_static_rounds(WORLD, tree, temperature, 40, 2500, np.random.default_rng(1), sampled=sampled)
    assert abs(rounds.tokens_per_round - law.tokens_per_round("rounds")) < SIGMAS * rounds.tokens_sd + 0.01
    for emitted, slack in ((rounds.num_emitted, 0.03), (quick, 0.01)):
        pmf = np.bincount(emitted.ravel() - 1, minlength=tree.depth + 1) / emitted.size
        np.testing.assert_allclose(pmf, law.pmf("rounds"), atol=slack)
        off = emitted - emitted.mean()
        assert abs((off[1:] * off[:-1]).mean() / off.var() - law.lag1("rounds")) < 2 * slack
        chance = emitted.var(axis=0).mean() / len(emitted)
        assert abs(np.sqrt(max(emitted.mean(axis=0).var() - chance, 0)) - law.request_sd()) < 3 * slack


def test_following_the_path_alone_is_the_rule_itself() -> None:
    """The simulator asks for the target's laws along the path only; ``verify`` on all of them says the same."""
    method = SyntheticMethod(Eagle2(4, 3, 12), "one_hot", 1.0)
    roots = first_roots(WORLD, np.random.default_rng(0), 50)
    one = PlayedRound(WORLD, method, roots, np.random.default_rng(5), None, 1)
    one.play(Situation(np.zeros(50)))
    rng = np.random.default_rng(5)  # EAGLE-2 draws nothing
    draws = Draws(rng.random(one.tree.tokens.shape), rng.random(50))
    whole = verify("one_hot", one.tree.parents, one.tree.tokens, None, one._target_laws(), draws)
    np.testing.assert_array_equal(whole.path, one.verdict.path)
    np.testing.assert_array_equal(whole.bonus, one.verdict.bonus)


LOSSLESS: list[tuple[TreePolicy, Rule]] = [
    (chain(0, sampled=False), "one_hot"),
    (chain(2, sampled=True), "token_rejection"),
    (chain(2, sampled=True), "block_verification"),
    (StaticTree(DraftTree.from_widths((2, 2)), "sampled"), "recursive_rejection"),
    (StaticTree(DraftTree.from_widths((2, 2)), "sampled"), "traversal"),
    (StaticTree(DraftTree.from_widths((2,)), "sampled_with_replacement"), "k_seq"),
    (Eagle2(2, 1, 5), "one_hot"),
    (ConfidenceChain(3, 0.5, "token", "sampled"), "token_rejection"),
]


@pytest.mark.parametrize(("policy", "rule"), LOSSLESS)
def test_lossless_rules_write_the_same_text(policy: TreePolicy, rule: Rule) -> None:
    """First two tokens after one fixed root, 40 000 times, against the product of the target's laws: chi-square."""
    process, num = TokenProcess(num_candidates=4, divergence=1.5), 40_000
    root = first_roots(process, np.random.default_rng(2), 1)
    # Rows of the same text: equal keys, so that all differ by draws alone.
    same = root.at(np.zeros(num, dtype=np.int64))
    rng, method = np.random.default_rng(11), SyntheticMethod(policy, rule, 1.0)
    one = PlayedRound(process, method, same, rng, None, 1)
    one.play(Situation(np.zeros(num)))
    rows = np.arange(num)
    num_kept = one.verdict.num_accepted
    first = np.where(num_kept > 0, one.tree.tokens[rows, one.verdict.path[:, min(1, one.verdict.path.shape[1] - 1)]], 0)
    first = np.where(num_kept > 0, first, one.verdict.bonus)
    law = target_laws(process, root)[0].astype(float)
    counts = np.bincount(first, minlength=process.law_size)
    expected = num * law
    some = expected > 0
    chi2 = (((counts - expected) ** 2)[some] / expected[some]).sum()
    assert counts[~some].sum() == 0 and chi2 < some.sum() - 1 + SIGMAS * np.sqrt(2 * some.sum())
    # The second token after the most usual first one, where the round did not end before it.
    after = children_of(process, root, np.array([0]))
    if one.verdict.path.shape[1] > 1:
        second_law = target_laws(process, after)[0].astype(float)
        where = (num_kept >= 1) & (first == 0)
        place = one.verdict.path[:, min(2, one.verdict.path.shape[1] - 1)]
        second = np.where(num_kept > 1, one.tree.tokens[rows, np.maximum(place, 0)], one.verdict.bonus)[where]
        if rule not in ("block_verification", "traversal"):  # which look ahead before they keep the first
            observed = np.bincount(second, minlength=process.law_size)
            sd = np.sqrt(len(second) * second_law * (1 - second_law)) + 1
            assert (np.abs(observed - len(second) * second_law) < SIGMAS * sd).all()


def test_dynamic_trees_gain_where_entropy_varies() -> None:
    """Against the best static tree of as many nodes: the same nodes, placed by confidence, are worth more there."""
    steady = TokenProcess(sharpness=2.6, sharpness_sd=0, regime_gap=0, request_sd=0, divergence=0)
    varied = TokenProcess(sharpness=2.6, sharpness_sd=0.8, regime_gap=1.5, persistence=0.9, request_sd=0.3)
    gains = []
    for process in (steady, varied):
        dynamic = played(process, Eagle2(6, 5, 17), "one_hot", 1.0)
        static = static_rounds(process, best_static(process, 17, 6), 1.0, sampled=False).tokens_per_round("rounds")
        gains.append((dynamic.tokens_per_round / static - 1, dynamic.tokens_sd / static))
    (none, its_sd), (some, _) = gains
    assert abs(none) < SIGMAS * its_sd + 0.01, gains
    assert some > 0.03, gains


def best_static(process: TokenProcess, num_nodes: int, max_depth: int) -> DraftTree:
    """The most accepted nodes of a wide tree, whose exact path probabilities are those of its rounds."""
    wide = DraftTree.from_widths((8, 4, 3, 2, 1, 1)[:max_depth])
    law = static_rounds(process, wide, 1.0, sampled=False, num_types=2048)
    accept = law.accept_prob("rounds")
    prob = np.ones(wide.num_nodes)
    for node in range(1, wide.num_nodes):
        depth = int(wide.depths[node])
        prob[node] = prob[wide.parents[node]] * accept[depth - 1, wide.ranks[node]]
    kept = sorted(np.argsort(-prob, kind="stable")[:num_nodes].tolist())
    return DraftTree.from_paths([wide.paths()[node - 1] for node in kept if node])


def test_longer_chains_bring_more_and_records_say_what_happened() -> None:
    tokens = [played(WORLD, chain(g, sampled=False), "greedy", 0.0).tokens_per_round for g in (0, 1, 3, 6)]
    assert tokens[0] == 1 and all(longer > shorter for shorter, longer in pairwise(tokens))
    method = SyntheticMethod(Eagle2(4, 3, 12), "one_hot", 1.0)
    rounds = simulate_rounds(WORLD, method, 3, 5, np.random.default_rng(0), context_tokens=10, with_records=True)
    assert [record.request for record in rounds.records] == [n for n in range(5) for _ in range(3)]
    emitted = [record.num_emitted for record in rounds.records]
    np.testing.assert_array_equal(np.array(emitted).reshape(5, 3).T, rounds.num_emitted)
    assert rounds.records[1].context_tokens == 10 + emitted[0]


def test_times_are_those_of_the_work() -> None:
    """A chain's first round costs what its known work costs; rows that share passes wait for one another."""
    models = {"target": load_model("llama-3.1-8b"), "draft": load_model("llama-3.2-1b")}
    cost = roofline_cost(load_hardware("h100-sxm"), models)  # type: ignore[arg-type]
    tree = DraftTree.chain(3)
    expected = sum(float(cost.price(work).time_s) for work in play(tree, Situation([1000.0])))
    method = SyntheticMethod(StaticTree(tree), "greedy", 0.0)
    rounds = simulate_rounds(WORLD, method, 1, 4, np.random.default_rng(0), cost=cost, context_tokens=1000)
    assert rounds.time_s is not None
    np.testing.assert_allclose(rounds.time_s, expected, rtol=1e-9)
    doubtful = SyntheticMethod(ConfidenceChain(6, 0.6, "token", "top"), "greedy", 0.0)
    alone, shared = (
        simulate_rounds(WORLD, doubtful, 3, 64, np.random.default_rng(0), cost=cost, seqs_per_round=size).time_s
        for size in (1, 64)
    )
    assert alone is not None and shared is not None
    assert (np.ptp(alone, axis=1) > 0).all() and (np.ptp(shared, axis=1) == 0).all()
    assert (shared.max(axis=1) >= alone.max(axis=1)).all()


def test_what_can_not_be_simulated() -> None:
    with pytest.raises(InputError, match="must be 0 for the rule greedy"):
        SyntheticMethod(chain(2, sampled=False), "greedy", 1.0)
    with pytest.raises(InputError, match="must be a multiple of seqs_per_round = 4"):
        simulate_rounds(
            WORLD, SyntheticMethod(chain(1, sampled=False), "one_hot"), 1, 6, np.random.default_rng(0), seqs_per_round=4
        )


@pytest.mark.parametrize(("policy", "temperature"), [(Eagle2(10, 6, 60), 0.0), (Eagle2(4, 3, 12), 0.7)])
def test_the_compiled_beam_plays_the_same_rounds(policy: Eagle2, temperature: float) -> None:
    """At temperature 0 round for round; above, where uniforms are drawn in another order, in the mean."""
    pytest.importorskip("numba")
    num, rule = 300, "one_hot" if temperature else "greedy"
    found = beam_rounds(WORLD, policy, first_roots(WORLD, np.random.default_rng(3), num), temperature, 6,
                        np.random.default_rng(4))  # fmt: skip
    assert found is not None
    slow = simulate_rounds(WORLD, SyntheticMethod(policy, rule, temperature), 6, num, np.random.default_rng(3))
    same = found[0] == slow.num_emitted
    if temperature == 0:
        assert same.mean() > 0.999  # a last bit may decide otherwise
    assert abs(found[0].mean() - slow.tokens_per_round) < SIGMAS * 1.5 * slow.tokens_sd
    assert (found[1][0] == slow.num_drafted[0]).mean() > 0.99 and (found[2][0] == slow.num_run[0]).mean() > 0.99


def test_many_rounds_of_a_static_tree_are_drawn_from_its_exact_law() -> None:
    method = SyntheticMethod(chain(3, sampled=False), "greedy", 0.0)
    quick = simulate_rounds(WORLD, method, 100, 3000, np.random.default_rng(0))
    slow = simulate_rounds(WORLD, method, 30, 1000, np.random.default_rng(1))
    assert abs(quick.tokens_per_round - slow.tokens_per_round) < SIGMAS * slow.tokens_sd
    np.testing.assert_array_equal(quick.num_drafted[:2, :2], slow.num_drafted[:2, :2])
    np.testing.assert_array_equal(quick.num_run[:2, :2], slow.num_run[:2, :2])
