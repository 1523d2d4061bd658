"""Any model, batch, policy, rule and sampling together: no crash, no NaN, no slot leaked, no token that is none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_drafters import drafters
from tiny_models import SHAPE, greedy_text, random_weights

from specsim.decoding import StaticTree, TreePolicy
from specsim.decoding.policies.best_first import BestFirst
from specsim.decoding.policies.eagle2 import Eagle2
from specsim.decoding.policies.opt_tree import OptTree
from specsim.decoding.policies.talon import Talon
from specsim.decoding.rules import RULES, Rule
from specsim.errors import InputError
from specsim.executor.llama import Llama
from specsim.executor.method import Method, Sampling
from specsim.executor.recording import records_of
from specsim.executor.rounds import decode
from specsim.executor.texts import start
from specsim.tree import DraftTree

NAMES = sorted(drafters(*[Llama(SHAPE, random_weights(SHAPE, 0))] * 2))


@st.composite
def trees(draw: st.DrawFn) -> DraftTree:
    parents = [-1]
    for _ in range(draw(st.integers(0, 9))):
        parents.append(draw(st.integers(max(0, len(parents) - 3), len(parents) - 1)))
    tree = DraftTree(tuple(parents))
    return tree if tree.depth <= 4 else DraftTree.chain(4)


@st.composite
def methods(draw: st.DrawFn) -> Method:
    temperature = draw(st.sampled_from([0.0, 0.3, 1.0, 2.5]))
    sampling = Sampling(
        temperature, draw(st.sampled_from([None, 1, 3, 50])), draw(st.sampled_from([None, 1e-9, 0.7, 1.0]))
    )
    grown: list[TreePolicy] = [
        Eagle2(draw(st.integers(1, 4)), draw(st.integers(0, 3)), draw(st.integers(1, 9))),
        BestFirst(draw(st.integers(1, 8)), draw(st.integers(1, 3)), draw(st.integers(1, 4))),
        Talon(draw(st.integers(1, 4)), draw(st.sampled_from([0.0, 0.1, 1.0])), draw(st.integers(1, 3))),
        OptTree(draw(st.integers(1, 6)), 0.1, draw(st.integers(1, 4))),
    ]
    rule: Rule = draw(st.sampled_from(sorted(RULES)))
    facts = RULES[rule]
    how = draw(st.sampled_from(facts.draws))
    tree = draw(trees())
    policy: TreePolicy = StaticTree(DraftTree.chain(tree.depth) if facts.chains_only else tree, how)
    if how == "top" and draw(st.booleans()):
        policy = draw(st.sampled_from(grown))
    if rule == "greedy":
        sampling = Sampling()
    return Method(policy, rule, sampling)


def runs(method: Method, name: str, prompts: list[list[int]], num_tokens: int, seed: int, kv_heads: int) -> None:
    shape = replace(SHAPE, num_kv_heads=kv_heads, num_layers=2 + seed % 2, max_context_tokens=48)
    weights, other = random_weights(shape, seed), random_weights(shape, seed + 1)
    target = Llama(shape, weights, torch.float64)
    draft = Llama(shape, {key: t + 0.1 * other[key] for key, t in weights.items()}, torch.float64)
    drafter = drafters(target, draft)[name]()
    texts, limit = start(target, drafter, prompts, max_tokens=40, seed=seed), drafter.max_depth
    try:
        for done in decode(texts, method, num_tokens):
            assert torch.isfinite(done.target_logits[done.tree.parents > -2]).all()
            # Rows that have just ended are dropped when the next round begins: all rows of the round are here still.
            assert texts.cache.lengths == [len(text) - 1 for text in texts.tokens]
            assert texts.cache.end == max(texts.cache.lengths)
            for record, emitted in zip(records_of(done, "cpu"), done.emitted, strict=True):
                assert all(0 <= token < shape.vocab_size for token in emitted)
                assert record.num_emitted == len(emitted) and record.draft_probs is not None
    except InputError as error:
        assert limit is not None and error.field == "depth"  # heads propose so far and no further
        return
    for request, prompt in enumerate(prompts):
        text = texts.finished[request]
        assert text[: len(prompt)] == prompt and len(text) <= 48
        full = len(text) + method.policy.limits.depth >= 48
        assert full or len(text) >= len(prompt) + num_tokens
        if method.sampling.temperature == 0 and RULES[method.rule].lossless:
            assert text == greedy_text(target, prompt, len(text) - len(prompt))


case = given(
    method=methods(),
    name=st.sampled_from(NAMES),
    prompts=st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=12), min_size=1, max_size=4),
    num_tokens=st.integers(0, 14),
    seed=st.integers(0, 1000),
    kv_heads=st.sampled_from([1, 2, 4]),
)
quiet = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=50, deadline=None, suppress_health_check=quiet)
@case
def test_fifty_configurations(
    method: Method, name: str, prompts: list[list[int]], num_tokens: int, seed: int, kv_heads: int
) -> None:
    runs(method, name, prompts, num_tokens, seed, kv_heads)


@pytest.mark.slow
@settings(max_examples=500, deadline=None, suppress_health_check=quiet)
@case
def test_five_hundred_configurations(
    method: Method, name: str, prompts: list[list[int]], num_tokens: int, seed: int, kv_heads: int
) -> None:
    runs(method, name, prompts, num_tokens, seed, kv_heads)
