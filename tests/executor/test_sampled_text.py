"""Sampled speculative decoding follows the target's own law: many short runs against exact enumeration."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from tiny_models import begin, pair, plain_logits

from specsim.decoding import Rule, StaticTree, TreePolicy, adjust
from specsim.decoding.policies.eagle2 import Eagle2
from specsim.decoding.state import Draw
from specsim.executor.llama import Llama
from specsim.executor.method import Method, Sampling
from specsim.executor.recording import records_of
from specsim.executor.rounds import run_round
from specsim.tree import DraftTree

VOCAB = 5
PROMPT = [3, 0, 1]
CONFIDENCE = 1e-4
"""A correct rule fails a test of this file with this probability, had the seed not been fixed."""


AS_IT_IS = Sampling(1.0)


@dataclass(frozen=True)
class Case:
    tree: DraftTree | TreePolicy
    draw: Draw
    rule: Rule
    sampling: Sampling = AS_IT_IS

    @property
    def method(self) -> Method:
        policy = StaticTree(self.tree, self.draw) if isinstance(self.tree, DraftTree) else self.tree
        return Method(policy, self.rule, self.sampling)


CHAIN, WIDE = DraftTree.chain(2), DraftTree.from_widths((2, 2))
CASES = {
    "plain": Case(DraftTree.chain(0), "top", "one_hot"),
    "chain": Case(CHAIN, "sampled", "token_rejection"),
    "chain, cooler": Case(CHAIN, "sampled", "token_rejection", Sampling(0.6)),
    "chain, nucleus": Case(CHAIN, "sampled", "token_rejection", Sampling(1.0, top_p=0.8)),
    "chain, few": Case(CHAIN, "sampled", "token_rejection", Sampling(1.0, top_k=3)),
    "chain, by block": Case(CHAIN, "sampled", "block_verification"),
    "tree without replacement": Case(WIDE, "sampled", "recursive_rejection"),
    "tree with replacement": Case(WIDE, "sampled_with_replacement", "recursive_rejection_with_replacement"),
    "tree by k-SEQ": Case(WIDE, "sampled_with_replacement", "k_seq"),
    "tree traversed": Case(WIDE, "sampled", "traversal", Sampling(1.0, top_p=0.9)),
    "wide and uneven": Case(DraftTree((-1, 0, 0, 0, 1, 3)), "sampled", "recursive_rejection", Sampling(1.4)),
    "most probable": Case(WIDE, "top", "one_hot"),
    "sampled, one hot": Case(DraftTree.from_widths((2, 1)), "sampled", "one_hot"),
    "grown": Case(Eagle2(top_k=2, depth=1, total_tokens=5), "top", "one_hot"),
}


def models() -> tuple[Llama, Llama]:
    """A draft far enough from its target that a rule which takes one for the other is found out."""
    return pair(torch.float32, VOCAB, noise=0.25, seed=5, scale=0.6, num_layers=1)


def exact_law(model: Llama, num_tokens: int, sampling: Sampling) -> NDArray[np.float64]:
    """Probability of each continuation of the prompt, one axis a token."""
    law = np.zeros((VOCAB,) * num_tokens)
    for text in itertools.product(range(VOCAB), repeat=num_tokens):
        logits = plain_logits(model, [*PROMPT, *text])[len(PROMPT) - 1 : -1]
        steps = adjust(logits.double(), sampling.temperature, sampling.top_k, sampling.top_p)
        law[text] = np.prod([float(step[token]) for step, token in zip(steps, text, strict=True)])
    assert abs(law.sum() - 1) < 1e-9
    return law


def p_value(counts: NDArray[np.int64], law: NDArray[np.float64]) -> float:
    """Chi-square test that the counts come from the law; rare outcomes are pooled to an expectation of 5 or more."""
    expected, seen = law.ravel() * counts.sum(), counts.ravel()
    order = np.argsort(expected)
    rare = order[: int(np.searchsorted(np.cumsum(expected[order]), 5)) + 1]
    common = np.setdiff1d(order, order[expected[order] < 5])
    common = np.setdiff1d(common, rare)
    observed = np.append(seen[common], seen[np.setdiff1d(order, common)].sum())
    return float(stats.chisquare(observed, np.append(expected[common], counts.sum() - expected[common].sum())).pvalue)


def drawn(method: Method, num_runs: int, num_tokens: int, num_rows: int = 1) -> NDArray[np.int64]:
    """Counts of the first tokens over independent runs: the texts are rolled back to their prompts after each."""
    texts = begin(models(), *[PROMPT] * num_rows, seed=20)
    assert texts.drafter is not None
    found: Counter[tuple[int, ...]] = Counter()
    for _ in range(num_runs // num_rows):
        while min(map(len, texts.tokens)) < len(PROMPT) + num_tokens:
            run_round(texts, method)
        for text in texts.tokens:
            found[tuple(text[len(PROMPT) : len(PROMPT) + num_tokens])] += 1
            del text[len(PROMPT) :]
        texts.cache.rewind([len(PROMPT) - 1] * num_rows)
        texts.drafter.cache.rewind([len(PROMPT) - 1] * num_rows)  # type: ignore[attr-defined]
        texts.drafter.pending = [PROMPT[-1:] for _ in range(num_rows)]  # type: ignore[attr-defined]
    counts = np.zeros((VOCAB,) * num_tokens, dtype=np.int64)
    for text, count in found.items():
        counts[text] = count
    return counts


@pytest.mark.parametrize(
    ("case", "num_rows"),
    [*((case, 75) for case in CASES.values()), pytest.param(CASES["chain"], 1, marks=pytest.mark.slow)],
    ids=[*CASES, "one text"],
)
def test_first_tokens_follow_the_law_of_the_target(case: Case, num_rows: int) -> None:
    target, draft = models()
    counts = drawn(case.method, num_runs=750, num_tokens=3, num_rows=num_rows)
    assert p_value(counts, exact_law(target, 3, case.sampling)) > CONFIDENCE
    # The test is worth something only if these runs can tell the target from the draft, and from another temperature.
    warmer = Sampling(case.sampling.temperature * 2, case.sampling.top_k, case.sampling.top_p)
    assert p_value(counts, exact_law(draft, 3, case.sampling)) < CONFIDENCE
    assert p_value(counts, exact_law(target, 3, warmer)) < CONFIDENCE


def test_a_rule_that_suits_its_draws_badly_is_found_out() -> None:
    # Warm enough that the most probable token is far from certain.
    method = Case(CHAIN, "sampled", "token_rejection", Sampling(2.0)).method
    # Judge the most probable tokens as if they had been drawn, which a method refuses when asked to.
    object.__setattr__(method, "policy", StaticTree(CHAIN, "top"))
    counts = drawn(method, num_runs=750, num_tokens=3, num_rows=75)
    assert p_value(counts, exact_law(models()[0], 3, Sampling(2.0))) < CONFIDENCE


@pytest.mark.parametrize("name", ["chain", "chain, cooler", "most probable", "tree without replacement", "grown"])
def test_accepted_tokens_agree_with_the_recorded_probabilities(name: str) -> None:
    case = CASES[name]
    surplus, variance, kept = 0.0, 0.0, 0
    texts = begin(models(), *[PROMPT] * 12, seed=0)
    while texts.cache.end + 8 < 128:
        for record in records_of(run_round(texts, case.method), "cpu"):
            assert record.accept_prob is not None and record.parents is not None
            mean, var = moments(record.parents, record.accept_prob)
            surplus, variance = surplus + record.num_accepted - mean, variance + var
            kept += record.num_accepted
    assert kept > 100
    # Given its own tree each round's surplus has mean 0, so the sum is a martingale: variances add.
    assert abs(surplus) < stats.norm.isf(CONFIDENCE / 2) * variance**0.5


def moments(parents: tuple[int, ...], accept_prob: tuple[float, ...]) -> tuple[float, float]:
    """Mean and variance of the tokens accepted X, from P(X >= d): the path products at depth d, summed.

    E X = sum over d of P(X >= d), and E X^2 = sum over d of (2d - 1) P(X >= d).
    """
    reach, depth = [1.0], [0]
    for parent, prob in zip(parents, accept_prob, strict=True):
        reach.append(reach[parent] * prob)
        depth.append(depth[parent] + 1)
    at_least = np.bincount(depth, weights=reach)[1:]
    mean = at_least.sum()
    second = ((2 * np.arange(1, len(at_least) + 1) - 1) * at_least).sum()
    return float(mean), float(second - mean**2)


def test_the_same_seed_gives_the_same_text_whatever_runs_beside_it() -> None:
    method = CASES["tree without replacement"].method

    def text(seed: int, *others: list[int]) -> list[int]:
        texts = begin(models(), PROMPT, *others, seed=seed)
        for _ in range(12):
            run_round(texts, method)
        return texts.tokens[0]

    assert text(1) == text(1) != text(2)
    assert text(1, [4], [2, 2, 2, 2, 0]) == text(1)
