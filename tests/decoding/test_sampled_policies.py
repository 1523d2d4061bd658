"""Policies that sample: their law, by enumeration or by Monte Carlo, and that nothing they see biases the output."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from toy_language import VOCAB, Language, emitted_law, total_variation

from specsim.decoding import TokenTree, TreePolicy
from specsim.decoding.arrays import PADDING
from specsim.decoding.policies.adaptive import AdaptiveThreshold
from specsim.decoding.policies.confidence import ConfidenceChain, Measure
from specsim.decoding.policies.dyspec import DySpec
from specsim.decoding.policies.rsd import StochasticBeam, rsd_c
from specsim.errors import InputError


def drawn(policy: TreePolicy, draft: Language, uniforms: Any, batch: int) -> TokenTree:
    """The tree of each row; ``uniforms`` of a shape, or of the level and the shape."""
    state = policy.start(np.zeros(batch, dtype=np.int64))
    while state.frontier.shape[1]:
        laws = draft.at_nodes(state.parents, state.tokens)
        laws = np.take_along_axis(laws, np.maximum(state.frontier, 0)[..., None], axis=1)
        state = policy.expand(state, laws, uniforms(len(state.laws), state.uniforms_shape(VOCAB)))
    return policy.select(state)


def ordered_pairs(probs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Law of the first two draws without replacement: p_i p_j / (1 - p_i)."""
    pairs = probs[:, None] * probs / (1 - probs)[:, None]
    np.fill_diagonal(pairs, 0)
    return pairs


def assert_law(counts: np.ndarray[Any, Any], probs: np.ndarray[Any, Any]) -> None:
    """Chi-square at 1 in 10^4; what has no probability never happens."""
    assert counts[probs == 0].sum() == 0
    counts, probs = counts[probs > 0], probs[probs > 0]
    assert stats.chisquare(counts, probs / probs.sum() * counts.sum()).pvalue > 1e-4


DRAFT = Language.random(np.random.default_rng(6), sharpness=2.0)


def test_rsd_c_draws_without_replacement() -> None:
    """By a grid of uniforms, exact to its step: siblings follow the law of sampling without replacement."""
    steps = 400
    grid = (np.arange(steps) + 0.5) / steps
    uniforms = np.array(list(itertools.product(grid, grid)))
    tree = drawn(rsd_c((2,)), DRAFT, lambda level, shape: uniforms.reshape(shape), steps**2)
    found = np.zeros((VOCAB, VOCAB))
    np.add.at(found, (tree.tokens[:, 1], tree.tokens[:, 2]), 1 / steps**2)
    np.testing.assert_allclose(found, ordered_pairs(DRAFT.laws[0]), atol=2.0 / steps)


def test_a_stochastic_beam_samples_whole_paths_without_replacement() -> None:
    """Each level of the beam is a sample without replacement of the paths of its length, in the order drawn."""
    batch, rng = 200_000, np.random.default_rng(0)
    tree = drawn(StochasticBeam(width=2, depth=2), DRAFT, lambda level, shape: rng.random(shape), batch)
    first, second = tree.tokens[:, 1], tree.tokens[:, 2]
    assert_law(np.bincount(first * 3 + second, minlength=9), ordered_pairs(DRAFT.laws[0]).ravel())
    rows = np.arange(batch)
    paths = [tree.tokens[rows, tree.parents[:, node]] * 3 + tree.tokens[:, node] for node in (3, 4)]
    expected = ordered_pairs(DRAFT.joint(2).ravel())
    assert_law(np.bincount(paths[0] * 9 + paths[1], minlength=81), expected.ravel())


def test_a_stochastic_beam_wider_than_the_vocabulary_takes_all_of_it() -> None:
    rng = np.random.default_rng(0)
    tree = drawn(StochasticBeam(width=5, depth=2), DRAFT, lambda level, shape: rng.random(shape), 50)
    assert ((tree.parents == 0).sum(axis=1) == 3).all()
    assert (tree.parents != PADDING).sum(axis=1).tolist() == [1 + 3 + 5] * 50
    certain = constant([0.0, 1.0, 0.0])
    chain = drawn(StochasticBeam(width=3, depth=3), certain, lambda level, shape: rng.random(shape), 2)
    assert chain.tokens.tolist() == [[0, 1, 1, 1]] * 2


LOSSLESS: list[TreePolicy] = [
    StochasticBeam(width=3, depth=2),
    StochasticBeam(width=2, depth=3),
    DySpec(budget=6, threshold=0.15, max_children=3, max_depth=3),
    DySpec(budget=3, threshold=0.01, max_children=3, max_depth=3),  # the budget decides, row by row
]


@pytest.mark.parametrize("policy", LOSSLESS)
def test_shapes_that_hang_on_what_is_drawn_are_lossless(policy: TreePolicy) -> None:
    """Mean over 40,000 drafts of the exact law of the output given the draft; each cell within 5 standard errors.

    A cell's law given the draft lies in [0, 1], so its variance is at most its mean.
    """
    batch, rng = 40_000, np.random.default_rng(3)
    target = Language.random(rng, sharpness=2.0)
    tree = drawn(policy, DRAFT, lambda level, shape: rng.random(shape), batch)
    likely_first = DRAFT.laws[0][tree.tokens[:, 1]] > 0.3
    for chosen, is_exact in [(slice(None), True), (likely_first, False)]:  # drafts picked by what was drawn would show
        parents, tokens = tree.parents[chosen], tree.tokens[chosen]
        law = emitted_law("recursive_rejection", parents, tokens, np.full(len(tokens), 1 / len(tokens)), DRAFT, target)
        expected = target.joint(3)
        close = np.abs(law - expected) <= 5 * np.sqrt(expected / len(tokens)) + 1e-12
        assert close.all() == is_exact


def test_dyspec_draws_what_is_worth_it() -> None:
    """By hand, threshold 0.25: 0.5 first leaves 0.5; 0.3 then leaves 0.2, too little. Below, 0.5 again and 0.3.

    After the 0.5: worth 0.5, then 0.5 * 0.5 = 0.25: two draws. After the 0.3: worth 0.3, then 0.3 * 0.5: one.
    """
    draft = constant([0.5, 0.3, 0.2])
    tree = drawn(DySpec(9, 0.25, 3, 2), draft, lambda level, shape: np.broadcast_to([0.0, 0.0, 0.0], shape), 1)
    assert tree.parents.tolist() == [[-1, 0, 0, 1, 2, 1]]  # by worth: 0.5, 0.3, 0.25
    assert tree.tokens.tolist() == [[0, 0, 1, 0, 0, 1]]


def all_chains(policy: ConfidenceChain, draft: Language) -> tuple[TokenTree, np.ndarray[Any, Any]]:
    """Every chain of three tokens as a row, drawn by uniforms amid each token's share, and the weight of each."""
    sequences = np.array(list(itertools.product(range(VOCAB), repeat=3)))
    uniforms, weights = np.empty((27, 3)), np.ones(27)
    for level in range(3):
        laws = draft.after(tuple(sequences[:, i] for i in range(level)))
        laws = np.broadcast_to(laws, (27, VOCAB))
        share = laws[np.arange(27), sequences[:, level]]
        uniforms[:, level] = np.cumsum(laws, axis=1)[np.arange(27), sequences[:, level]] - share / 2
        weights *= share
    tree = drawn(policy, draft, lambda level, shape: uniforms[:, level].reshape(shape), 27)
    return tree, weights


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), threshold=st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]))
@pytest.mark.parametrize("measure", ["token", "path", "law"])
def test_a_doubting_chain_is_lossless(measure: Measure, seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    draft, target = Language.random(rng), Language.random(rng)
    policy = ConfidenceChain(3, threshold, measure, "sampled")
    tree, weights = all_chains(policy, draft)
    parents = np.where(weights[:, None] > 0, tree.parents, np.where(np.arange(tree.parents.shape[1]) == 0, -1, PADDING))
    law = emitted_law("token_rejection", parents, tree.tokens, weights, draft, target)
    assert total_variation(law, target.joint(3)) < 1e-9


def constant(*laws: list[float]) -> Language:
    """A language whose law hangs on the place alone; the last goes on."""
    places = [laws[min(depth, len(laws) - 1)] for depth in range(4)]
    return Language(tuple(np.broadcast_to(law, (3,) * (depth + 1)) for depth, law in enumerate(places)))


def test_dropping_the_doubted_token_would_bias_the_output() -> None:
    """The same chains, less the token that they stopped at, which the policy keeps and has verified.

    The law of the first token, by hand: below 0.35 in the draft, tokens 1 and 2 are dropped, 0.4 * (.2, .5, .3). Token
    0 is accepted with 1/3, 0.6 * 1/3; rejected, 0.4 spreads as (0, .5, .5).
    """
    draft, target = constant([0.6, 0.3, 0.1]), constant([0.2, 0.5, 0.3])
    tree, weights = all_chains(ConfidenceChain(3, 0.35, "token", "sampled"), draft)
    doubted = (tree.probs < 0.35) & (tree.parents >= 0)
    for parents, is_exact in [(tree.parents, True), (np.where(doubted, PADDING, tree.parents), False)]:
        law = emitted_law("token_rejection", parents, tree.tokens, weights, draft, target)
        assert (total_variation(law, target.joint(3)) < 1e-9) == is_exact
    np.testing.assert_allclose(law.sum(axis=(1, 2)), [0.28, 0.4, 0.32], atol=1e-12)


def test_where_chains_end() -> None:
    """Worked by hand: certain of 0.6 at the root, then 0.9, then 0.5, along the most probable path."""
    draft = constant([0.6, 0.3, 0.1], [0.05, 0.9, 0.05], [0.25, 0.25, 0.5])

    def length(measure: Measure, threshold: float) -> int:
        tree = drawn(ConfidenceChain(3, threshold, measure, "top"), draft, lambda level, shape: None, 1)
        return tree.tokens.shape[1] - 1

    assert [length("token", t) for t in (0.0, 0.5, 0.61)] == [3, 3, 1]
    assert [length("path", t) for t in (0.5, 0.54, 0.55, 0.7)] == [3, 3, 2, 1]  # 0.6, then 0.54
    assert [length("law", t) for t in (0.5, 0.51, 0.61)] == [3, 2, 0]


def test_each_row_may_have_its_own_threshold() -> None:
    draft = constant([0.6, 0.3, 0.1])
    policy = ConfidenceChain(3, np.array([0.5, 0.7]), "token", "top")
    tree = drawn(policy, draft, lambda level, shape: None, 2)
    assert (tree.parents >= 0).sum(axis=1).tolist() == [3, 1]


def test_the_controller_follows_a_trace_worked_by_hand() -> None:
    """Matchness halves towards each share; the threshold moves a tenth of a step of 0.01.

    All 8 of 8 at first: 0.5 < 0.9, up. Then 4 of 4: 0.75, up; 0.875, up; 0.9375, down, drafted fewer than 8. Then all 8
    of 8: above the target, but there is nothing to gain: it stays. Nothing drafted: it stays. 0 of 2: 0.484375, up.
    """
    control = AdaptiveThreshold(threshold=0.5, draft_len=8)
    trace = []
    for drafted, accepted in [(8, 8), (4, 4), (4, 4), (4, 4), (8, 8), (0, 0), (2, 0)]:
        control = control.updated(drafted, accepted)
        trace.append((control.matchness, round(control.threshold, 9)))
    assert trace == [
        (0.5, 0.501),
        (0.75, 0.502),
        (0.875, 0.503),
        (0.9375, 0.502),
        (0.96875, 0.502),
        (0.96875, 0.502),
        (0.484375, 0.503),
    ]


@pytest.mark.parametrize(
    "policy", [StochasticBeam(2, 2), DySpec(4, 0.1, 2, 2), ConfidenceChain(3, 0.5, "token", "sampled")]
)
def test_missing_uniforms_are_named(policy: TreePolicy) -> None:
    state = policy.start(np.zeros(1, dtype=np.int64))
    with pytest.raises(
        InputError, match=rf"uniforms: must have shape {re.escape(str(state.uniforms_shape(3)))}, got None"
    ):
        policy.expand(state, np.full((1, 1, 3), 1 / 3))
