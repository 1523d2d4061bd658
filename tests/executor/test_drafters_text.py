"""With every drafter, policy and batch the greedy text is the target's own, token for token."""

from __future__ import annotations

import pytest
import torch
from tiny_drafters import decoded, drafters, greedily
from tiny_models import greedy_text, pair

from specsim.decoding import StaticTree, TreePolicy
from specsim.decoding.policies.confidence import ConfidenceChain
from specsim.decoding.policies.eagle2 import Eagle2
from specsim.executor.method import Method, Sampling
from specsim.tree import DraftTree

PROMPTS = [[3], [1, 7, 0, 7], [11, 4, 4, 9, 2, 5, 8]]
POLICIES: dict[str, TreePolicy] = {
    "chain": StaticTree(DraftTree.chain(3)),
    "tree": StaticTree(DraftTree.from_widths((2, 2, 1))),
    "uneven tree": StaticTree(DraftTree((-1, 0, 1, 0, 2, 1, 0), ranks=(0, 0, 0, 1, 0, 1, 3))),
    "doubt": ConfidenceChain(3, threshold=0.3, measure="law", draw="top"),
    "eagle2": Eagle2(top_k=2, depth=2, total_tokens=7),
}
TARGET, DRAFT = pair(torch.float64)
NAMES = list(drafters(TARGET, DRAFT))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", NAMES)
def test_greedy_text_is_the_plain_text(name: str, policy: str) -> None:
    for prompts in ([PROMPTS[1]], PROMPTS):
        found, rounds = decoded(TARGET, drafters(TARGET, DRAFT)[name](), greedily(POLICIES[policy]), prompts, 30)
        for text, prompt in zip(found, prompts, strict=True):
            assert len(text) >= len(prompt) + 30
            assert text == greedy_text(TARGET, prompt, len(text) - len(prompt))
        lengths = [len(emitted) for done in rounds for emitted in done.emitted]
        assert min(lengths) < max(lengths)  # nothing is tested unless drafts are kept and refused


@pytest.mark.parametrize("name", NAMES)
def test_greedy_text_in_fp32(name: str) -> None:
    target, draft = pair(torch.float32)
    found, _ = decoded(target, drafters(target, draft)[name](), greedily(POLICIES["tree"]), PROMPTS, 30)
    for text, prompt in zip(found, PROMPTS, strict=True):
        assert text == greedy_text(target, prompt, len(text) - len(prompt))


@pytest.mark.parametrize("name", NAMES)
def test_rounds_without_drafting_leave_a_drafter_able_to_go_on(name: str) -> None:
    from specsim.executor.rounds import run_round
    from specsim.executor.texts import start

    texts = start(TARGET, drafters(TARGET, DRAFT)[name](), PROMPTS, max_tokens=100)
    for number in range(12):
        run_round(texts, greedily(StaticTree(DraftTree.chain(0)) if number % 3 else POLICIES["tree"]))
    for text, prompt in zip(texts.tokens, PROMPTS, strict=True):
        assert text == greedy_text(TARGET, prompt, len(text) - len(prompt))


@pytest.mark.parametrize("name", NAMES)
def test_sampled_drafts_are_the_greedy_text_at_temperature_zero(name: str) -> None:
    for tree, rule in ((DraftTree.chain(3), "token_rejection"), (DraftTree.from_widths((2, 2)), "recursive_rejection")):
        method = Method(StaticTree(tree, "sampled"), rule, Sampling(0.0))
        found, _ = decoded(TARGET, drafters(TARGET, DRAFT)[name](), method, PROMPTS, 20)
        for text, prompt in zip(found, PROMPTS, strict=True):
            assert text == greedy_text(TARGET, prompt, len(text) - len(prompt))
