"""Greedy speculative decoding gives the target's own greedy text, token for token, whatever the draft proposes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import SHAPE, begin, greedy_text, pair, plain_logits, random_weights, save_checkpoint, static

from specsim.decoding import Rule
from specsim.decoding.state import Draw
from specsim.executor.llama import load_llama
from specsim.executor.rounds import decode, run_round
from specsim.tree import DraftTree

TREES = [
    *(DraftTree.chain(gamma) for gamma in range(6)),
    DraftTree.from_widths((2, 2, 1)),
    DraftTree.from_widths((3, 1, 1, 2)),
    # Uneven depths, a child before its uncle, a rank left out.
    DraftTree((-1, 0, 1, 0, 2, 3, 1, 0), ranks=(0, 0, 0, 1, 0, 0, 2, 3)),
]
PROMPTS = [[3], [1, 7, 0, 7], [11, 4, 4, 9, 2, 5, 8]]


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree.label)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS, PROMPTS[::-1] * 2], ids=len)
def test_speculative_text_is_the_plain_text(tree: DraftTree, dtype: torch.dtype, prompts: list[list[int]]) -> None:
    models = pair(dtype, noise=0.05)
    texts = begin(models, *prompts)
    lengths = [len(emitted) for done in decode(texts, static(tree), 40) for emitted in done.emitted]
    assert sorted(texts.finished) == list(range(len(prompts))) and not texts.tokens
    for prompt, text in zip(prompts, (texts.finished[b] for b in range(len(prompts))), strict=True):
        assert len(prompt) + 40 <= len(text) <= len(prompt) + 40 + tree.depth
        assert text == greedy_text(models[0], prompt, len(text) - len(prompt))
    if tree.num_drafted:
        # Nothing is tested unless drafts are kept and refused.
        assert min(lengths) == 1 and max(lengths) == tree.depth + 1


@pytest.mark.parametrize(
    ("tree", "draw", "rule"),
    [
        (DraftTree.chain(3), "sampled", "greedy"),
        (DraftTree.chain(3), "sampled", "token_rejection"),
        (DraftTree.chain(3), "sampled", "block_verification"),
        (DraftTree.from_widths((2, 2)), "top", "one_hot"),
        (DraftTree.from_widths((2, 2)), "sampled", "recursive_rejection"),
        (DraftTree.from_widths((2, 2)), "sampled_with_replacement", "recursive_rejection_with_replacement"),
        (DraftTree.from_widths((2, 2)), "sampled_with_replacement", "k_seq"),
        (DraftTree.from_widths((2, 2)), "sampled", "traversal"),
    ],
)
def test_rules_for_sampling_are_greedy_at_temperature_zero(tree: DraftTree, draw: Draw, rule: Rule) -> None:
    models = pair()
    texts = begin(models, *PROMPTS)
    assert max(len(new) for done in decode(texts, static(tree, draw, rule), 40) for new in done.emitted) > 1
    for request, prompt in enumerate(PROMPTS):
        text = texts.finished[request]
        assert text == greedy_text(models[0], prompt, len(text) - len(prompt))


def test_methods_may_change_from_round_to_round() -> None:
    models = pair()
    texts = begin(models, *PROMPTS)
    for tree in TREES * 2:
        run_round(texts, static(tree))
    for prompt, text in zip(PROMPTS, texts.tokens, strict=True):
        assert text == greedy_text(models[0], prompt, len(text) - len(prompt))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_text_is_what_transformers_generates(dtype: torch.dtype, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    weights = random_weights(SHAPE, seed=4)
    save_checkpoint(tmp_path, weights, dtype, eos_token_id=None, bos_token_id=None)
    oracle = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=dtype).eval()
    inputs = torch.tensor([PROMPTS[1]])
    expected = oracle.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        do_sample=False,
        max_new_tokens=40,
        eos_token_id=[],
        pad_token_id=0,
    )
    models = load_llama(tmp_path, dtype), pair(dtype, seed=4)[1]
    texts = begin(models, PROMPTS[0], PROMPTS[1])
    rounds = list(decode(texts, static(DraftTree.from_widths((2, 2, 1))), 40))
    assert len(rounds) < 40
    assert texts.finished[1][: len(PROMPTS[1]) + 40] == expected[0].tolist()


def test_bfloat16_text_differs_from_plain_text_at_near_ties_alone() -> None:
    """In bf16 logits move with the number of tokens in a pass, so equality is not asserted; a near-tie is."""
    models = pair(torch.bfloat16)
    texts = begin(models, *PROMPTS)
    list(decode(texts, static(DraftTree.from_widths((2, 2, 1))), 40))
    for request, prompt in enumerate(PROMPTS):
        text = texts.finished[request]
        logits = plain_logits(models[0], text).float()[len(prompt) - 1 : -1]
        chosen = logits.gather(1, torch.tensor(text[len(prompt) :])[:, None])[:, 0]
        # Logits of order 8 have a spacing of 2^-5 in bf16; a dozen roundings lie between two batch shapes.
        assert float((logits.amax(-1) - chosen).max()) <= 0.4
