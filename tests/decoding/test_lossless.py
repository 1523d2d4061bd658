"""Losslessness: by exact enumeration of drafts and verdicts, and by chi-square on the batched code itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from toy_language import MAX_DEPTH, VOCAB, Language, draft_rows, emitted_law, total_variation

from specsim.decoding import (
    Draw,
    Draws,
    Rule,
    StaticTree,
    accept_prob_and_residual,
    adjust,
    check_pairing,
    draft_laws,
    outcome,
    sample,
    verify,
)
from specsim.decoding.law import law_row, law_table
from specsim.decoding.rules import RULES
from specsim.errors import InputError
from specsim.tree import DraftTree

LOSSLESS = [
    (rule, draw) for rule, label in RULES.items() if label.lossless and label.is_sampled for draw in label.draws
]
LOSSY = [(rule, draw) for rule, label in RULES.items() if not label.lossless for draw in label.draws]
BRANCHING = DraftTree((-1, 0, 0, 1, 1))


def shaped_for(rule: Rule, tree: DraftTree) -> DraftTree:
    """This tree, or for rules that take chains a chain of as many levels."""
    return DraftTree.chain(int(max(tree.depths))) if RULES[rule].chains_only else tree


@st.composite
def small_trees(draw: st.DrawFn, max_drafted: int = 4) -> DraftTree:
    """Trees of up to four drafted nodes, three levels, and no more siblings than there are tokens."""
    parents, depth = [-1], [0]
    for _ in range(draw(st.integers(0, max_drafted))):
        room = [n for n in range(len(parents)) if depth[n] < MAX_DEPTH and parents.count(n) < VOCAB]
        parent = draw(st.sampled_from(room))
        parents.append(parent)
        depth.append(depth[parent] + 1)
    return DraftTree(tuple(parents))


def languages(seed: int, sharpness: float = 0.7) -> tuple[Language, Language]:
    rng = np.random.default_rng(seed)
    return Language.random(rng, sharpness), Language.random(rng, sharpness)


def exact_tv(rule: Rule, draw: Draw, tree: DraftTree, draft: Language, target: Language, **knobs: float) -> float:
    tokens, weights = draft_rows(tree, draft, draw)
    assert weights.sum() == pytest.approx(1, abs=1e-6 if weights.dtype == np.float32 else 1e-12)
    parents = np.broadcast_to(np.array(tree.parents), tokens.shape)
    law = emitted_law(rule, parents, tokens, weights, draft, target, **knobs)
    return total_variation(law, target.joint(3))


@pytest.mark.parametrize(("rule", "draw"), LOSSLESS)
@settings(max_examples=60, deadline=None)
@given(tree=small_trees(), seed=st.integers(0, 2**32 - 1))
def test_first_three_tokens_follow_the_target_exactly(rule: Rule, draw: Draw, tree: DraftTree, seed: int) -> None:
    assert exact_tv(rule, draw, shaped_for(rule, tree), *languages(seed)) < 1e-9


def test_single_precision_is_exact_to_its_rounding() -> None:
    for seed in range(5):
        draft, target = (Language(tuple(law.astype(np.float32) for law in each.laws)) for each in languages(seed))
        for rule, draw in LOSSLESS:
            assert exact_tv(rule, draw, shaped_for(rule, BRANCHING), draft, target) < 1e-6


@pytest.mark.parametrize("kwargs", [{"temperature": 0.6}, {"temperature": 1.0, "top_p": 0.7}, {"temperature": 0.0}])
@pytest.mark.parametrize(("rule", "draw"), LOSSLESS)
def test_exact_with_temperature_and_top_p(rule: Rule, draw: Draw, kwargs: dict[str, Any]) -> None:
    rng = np.random.default_rng(5)
    draft, target = (
        Language(tuple(adjust(rng.normal(size=(VOCAB,) * (d + 1)) * 2, **kwargs) for d in range(MAX_DEPTH + 1)))
        for _ in range(2)
    )
    trees = [DraftTree.chain(3), BRANCHING, DraftTree.from_widths((2, 2)), DraftTree((-1, 0, 0, 2, 3, 3))]
    for tree in trees:
        assert exact_tv(rule, draw, shaped_for(rule, tree), draft, target) < 1e-9


@settings(max_examples=30, deadline=None)
@given(tree=small_trees(), seed=st.integers(0, 2**32 - 1), draw=st.sampled_from(get_args(Draw)))
def test_greedy_is_exact_at_temperature_0(tree: DraftTree, seed: int, draw: Draw) -> None:
    assert exact_tv("greedy", draw, tree, *(each.adjusted(0.0) for each in languages(seed))) == 0


def test_mispaired_draws_are_biased_and_refused() -> None:
    """Every pairing that check_pairing refuses is indeed biased, so the enumeration can fail."""
    worlds = [languages(seed, sharpness=2.0) for seed in range(4)]
    for rule, draw in itertools.product(RULES, get_args(Draw)):
        if not RULES[rule].lossless or not RULES[rule].is_sampled or (rule, draw) in LOSSLESS:
            check_pairing(rule, draw) if draw in RULES[rule].draws else None
            continue
        with pytest.raises(InputError, match="draw: must be"):
            check_pairing(rule, draw)
        tree = DraftTree.chain(2) if RULES[rule].chains_only else DraftTree.from_widths((2, 2))
        assert max(exact_tv(rule, draw, tree, *world) for world in worlds) > 1e-3, (rule, draw)


@pytest.mark.parametrize(("rule", "draw"), LOSSY)
def test_lossy_rules_are_biased_and_their_knob_says_how_much(rule: Rule, draw: Draw) -> None:
    """Zero at temperature 0 (where greedy text has probability one), above it not; strict knobs bring it down."""
    worlds = [languages(seed, sharpness=2.0) for seed in range(4)]
    tree = shaped_for(rule, BRANCHING)
    usual = [exact_tv(rule, draw, tree, *world) for world in worlds]
    assert max(usual) > 0.03
    strict = {
        "typical_acceptance": {"epsilon": 1.0, "delta": 1e6},  # nothing is more probable than 1
        "joint_ratio": {"theta": float("inf")},
        "leniency": {"leniency": 1.0},
        "reject_then_sample": {},
    }[rule]
    tightened = [exact_tv(rule, draw, tree, *world, **strict) for world in worlds]
    assert max(tightened) < 1e-9 if strict else tightened == usual
    colder = [exact_tv(rule, draw, tree, *(each.adjusted(0.0) for each in world)) for world in worlds]
    assert max(colder) == 0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), first=st.floats(0.05, 1), second=st.floats(0.05, 1))
def test_more_leniency_accepts_more_and_stays_within_its_bound(seed: int, first: float, second: float) -> None:
    """One drafted token: no token gets more than its target probability over the leniency."""
    draft, target = languages(seed)
    strict, loose = (
        law_row("leniency", "sampled", DraftTree.chain(1), draft, target, {"leniency": x})
        for x in (max(first, second), min(first, second))
    )
    assert loose.tokens_per_round >= strict.tokens_per_round - 1e-12
    tokens, weights = draft_rows(DraftTree.chain(1), draft, "sampled")
    parents = np.broadcast_to([-1, 0], tokens.shape)
    law = emitted_law("leniency", parents, tokens, weights, draft, target, 1, leniency=first)
    assert (law <= target.laws[0] / first + 1e-12).all()


@settings(max_examples=100, deadline=None)
@given(draft_len=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_whole_chains_accept_no_less_than_token_by_token(draft_len: int, seed: int) -> None:
    """In exact expectation; a single drafted token leaves nothing to judge jointly."""
    tree = DraftTree.chain(draft_len)
    kept = {
        rule: law_row(rule, "sampled", tree, *languages(seed)).tokens_per_round
        for rule in ("token_rejection", "block_verification", "traversal")
    }
    assert kept["block_verification"] == pytest.approx(kept["traversal"], abs=1e-12)
    assert kept["block_verification"] >= kept["token_rejection"] - 1e-12
    if draft_len == 1:
        assert kept["block_verification"] == pytest.approx(kept["token_rejection"], abs=1e-12)


def gain_of_traversal(tree: DraftTree, seed: int) -> float:
    """Tokens per round over those of recursive rejection."""
    worlds = languages(seed)
    ours, theirs = (
        law_row(rule, "sampled", tree, *worlds).tokens_per_round for rule in ("traversal", "recursive_rejection")
    )
    return ours / theirs


def test_traversal_of_even_trees_accepts_more_than_recursive_rejection() -> None:
    """Observed for trees whose leaves are equally deep: the paper proves it for chains only."""
    gains = [gain_of_traversal(DraftTree.from_widths((2, 2)), seed) for seed in range(12)]
    assert min(gains) > 1 - 1e-12
    assert 1.003 < sum(gains) / len(gains) < 1.03


def test_traversal_of_uneven_trees_may_accept_less() -> None:
    """A short leaf that comes before a deeper path is accepted as it is, and the deeper path is never offered."""
    gains = [gain_of_traversal(DraftTree((-1, 0, 1, 1, 3)), seed) for seed in range(12)]
    assert min(gains) < 1 - 1e-3 < 1 < max(gains)


def test_gain_of_whole_chains_on_plausible_laws() -> None:
    """A drafter that keeps about 3 of 5: the papers report 2 to 8 % more tokens per round for whole chains."""
    rng = np.random.default_rng(0)
    batch, vocab, draft_len = 3000, 40, 5
    logits = 2 * rng.gumbel(size=(batch, draft_len + 1, vocab))
    target_probs = adjust(logits, 1.0)
    draft_probs = adjust(logits + 0.6 * rng.normal(size=logits.shape), 1.0)
    parents = np.broadcast_to(np.arange(-1, draft_len), (batch, draft_len + 1))
    tokens = sample(draft_probs, rng.random((batch, draft_len + 1)))
    tokens = np.concatenate([tokens[:, :1], tokens[:, :-1]], axis=1)
    kept = {
        rule: 1 + outcome(rule, parents, tokens, draft_probs, target_probs).expected_accepted(parents).mean()
        for rule in ("token_rejection", "block_verification")
    }
    assert 3 < kept["token_rejection"] < 5
    assert 1.01 < kept["block_verification"] / kept["token_rejection"] < 1.08


@settings(max_examples=60, deadline=None)
@given(num=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_candidates_of_k_seq(num: int, seed: int) -> None:
    """One candidate is the token rule; more never accept less; k chains equal the tree in which they hang together."""
    worlds = languages(seed)
    kept = [
        law_row("k_seq", "sampled_with_replacement", DraftTree.from_widths((k,)), *worlds).tokens_per_round
        for k in (1, num, num + 1)
    ]
    token = law_row("token_rejection", "sampled", DraftTree.chain(1), *worlds).tokens_per_round
    assert kept[0] == pytest.approx(token, abs=1e-12)
    assert kept[0] <= kept[1] + 1e-4 and kept[1] <= kept[2] + 1e-4  # rho is found to k / 2^16
    chains = DraftTree((-1, 0, 0, 1, 2))
    assert exact_tv("k_seq", "sampled_with_replacement", chains, *worlds) < 1e-9


def test_the_table_shows_each_rule_and_what_its_label_says() -> None:
    rows = law_table()
    assert {row.rule for row in rows} == set(get_args(Rule)) == set(RULES)
    for row in rows:
        assert row.total_variation < 1e-9 or not row.lossless
        assert row.lossless or row.temperature != 1 or row.total_variation > 0.01


TARGET, DRAFT = np.array([0.2, 0.5, 0.3]), np.array([0.6, 0.3, 0.1])


def chain_law(drops: Callable[[float], bool]) -> np.ndarray[Any, Any]:
    """Law of one token when a drafted token with ``drops(draft probability)`` is dropped unverified."""
    law = np.zeros(3)
    for token, prob in enumerate(DRAFT):
        if drops(prob):
            law += prob * TARGET
            continue
        accept, residual, _ = accept_prob_and_residual(TARGET, DRAFT, np.array(token))
        law[token] += prob * accept
        law += prob * (1 - accept) * residual
    return law


def test_dropping_a_sampled_token_after_looking_at_it_is_biased() -> None:
    """Verified whatever its confidence it is exact; dropped when unlikely it is far off.

    By hand, dropping what the draft gives less than 0.35 (tokens 1 and 2): 0.4 * (.2, .5, .3) directly, 0.6 * 1/3
    accepted as token 0, and 0.4 of rejections spread as (0, .5, .5).
    """
    assert total_variation(chain_law(lambda prob: False), TARGET) < 1e-12
    biased = chain_law(lambda prob: prob < 0.35)
    np.testing.assert_allclose(biased, [0.28, 0.4, 0.32], atol=1e-12)
    assert total_variation(biased, TARGET) > 0.05


def test_keeping_only_the_best_of_sampled_siblings_is_biased() -> None:
    law = np.zeros(3)
    for first, second in np.ndindex(3, 3):
        prob = DRAFT[first] * DRAFT[second]
        best = first if DRAFT[first] >= DRAFT[second] else second
        accept, residual, _ = accept_prob_and_residual(TARGET, DRAFT, np.array(best))
        law[best] += prob * accept
        law += prob * (1 - accept) * residual
    assert total_variation(law, TARGET) > 0.05


SAMPLED_CASES = [
    (rule, draw, DraftTree.chain(3) if RULES[rule].chains_only else DraftTree.from_widths((2, 2)))
    for rule, draw in LOSSLESS + LOSSY
] + [
    ("traversal", "sampled", DraftTree((-1, 0, 1, 0, 2, 0))),
    ("k_seq", "sampled_with_replacement", DraftTree((-1, 0, 0, 1, 2, 3))),
    ("one_hot", "top", DraftTree((-1, 0, 1, 0, 3, 0), (0, 1, 0, 0, 0, 2))),
    ("recursive_rejection", "sampled", DraftTree((-1, 0, 1, 0, 2, 0))),
]


@pytest.mark.parametrize(("rule", "draw", "tree"), SAMPLED_CASES)
def test_batched_rounds_follow_the_exact_law(rule: Rule, draw: Draw, tree: DraftTree) -> None:
    """40,000 rounds as an engine plays them: chi-square of three tokens at 1 in 10^4, mean acceptance in 4 sigma."""
    batch = 40_000
    rng = np.random.default_rng([len(rule), len(draw), tree.num_nodes])
    draft, target = languages(11, sharpness=1.5)
    state = (policy := StaticTree(tree, draw)).start(np.zeros(batch, dtype=np.int64))
    while state.frontier.shape[1]:
        laws = draft.at_nodes(state.parents, state.tokens)
        laws = np.take_along_axis(laws, state.frontier[..., None], axis=1)
        state = policy.expand(state, laws, rng.random((*state.frontier.shape, state.num_draws)))
    kept = policy.select(state)
    target_probs = target.at_nodes(kept.parents, kept.tokens)
    draft_probs = draft_laws(state, kept, VOCAB)
    draws = Draws(rng.random(kept.tokens.shape), rng.random(batch))
    got = verify(rule, kept.parents, kept.tokens, draft_probs, target_probs, draws)

    emitted = np.where(got.path > 0, np.take_along_axis(kept.tokens, np.maximum(got.path, 0), axis=1), -1)[:, 1:]
    emitted = np.concatenate([emitted, np.full((batch, 3), -1)], axis=1)
    emitted[np.arange(batch), got.num_accepted] = got.bonus
    for place in range(1, 3):
        plain = sample(target.after(tuple(emitted[:, d] for d in range(place))), rng.random(batch))
        emitted[:, place] = np.where(emitted[:, place] < 0, plain, emitted[:, place])

    table, weights = draft_rows(tree, draft, draw)
    trees = np.broadcast_to(np.array(tree.parents), table.shape)
    exact = target.joint(3) if RULES[rule].lossless else emitted_law(rule, trees, table, weights, draft, target)
    expected = exact.ravel() * batch
    counts = np.bincount(emitted[:, :3] @ [9, 3, 1], minlength=27)
    assert counts[expected < 1e-9].sum() == 0
    counts, expected = counts[expected > 1e-9], expected[expected > 1e-9]
    assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-4

    mean = outcome(rule, kept.parents, kept.tokens, draft_probs, target_probs).expected_accepted(kept.parents)
    error = got.num_accepted - mean
    assert abs(error.mean()) <= 4 * error.std() / batch**0.5


def test_expected_acceptance_by_formula() -> None:
    """One-hot: target path products. A chain: sum min(draft, target) per token, over the law of the drafts."""
    draft, target = languages(2)
    tree = DraftTree((-1, 0, 0, 1), (0, 0, 1, 0))
    tokens, _ = draft_rows(tree, draft, "top")
    parents = np.array([tree.parents])
    laws = target.at_nodes(parents, tokens)
    a, b, c = tokens[0, 1:]
    by_hand = laws[0, 0, a] + laws[0, 0, b] + laws[0, 0, a] * laws[0, 1, c]
    np.testing.assert_allclose(outcome("one_hot", parents, tokens, None, laws).expected_accepted(parents), by_hand)

    tokens, weights = draft_rows(DraftTree.chain(1), draft, "sampled")
    parents = np.broadcast_to([-1, 0], tokens.shape)
    probs = [language.at_nodes(parents, tokens) for language in (draft, target)]
    mean = weights @ outcome("token_rejection", parents, tokens, *probs).expected_accepted(parents)
    np.testing.assert_allclose(mean, np.minimum(draft.laws[0], target.laws[0]).sum())
