"""A draft of another vocabulary proposes what both have; the text is the target's all the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import SHAPE, greedy_text, random_weights, static

from specsim.errors import InputError
from specsim.executor.drafters.model import ModelDrafter
from specsim.executor.llama import Llama
from specsim.executor.rounds import decode
from specsim.executor.texts import start
from specsim.executor.vocabulary import SharedTokens
from specsim.tree import DraftTree

TARGET_WORDS = ["a", "b", "c", "ab", "bc", "d", "e", "abc", "f", "g", "h", "i"]
DRAFT_WORDS = ["e", "d", "c", "b", "a", "x", "y", "f"]


def tokenizer(words: list[str]) -> Any:
    """One token a word, longest first; letters that it lacks are left out."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.Unigram([(word, -1.0 / len(word)) for word in words], unk_id=0))
    made.decoder = tokenizers.decoders.Fuse()
    return made


def shared() -> SharedTokens:
    sizes = len(TARGET_WORDS), len(DRAFT_WORDS)
    return SharedTokens(tokenizer(TARGET_WORDS), tokenizer(DRAFT_WORDS), *sizes, torch.device("cpu"))


def test_tokens_of_one_string_are_one_token() -> None:
    both = shared()
    assert both.num_shared == 6  # a b c d e f
    assert both.spelled([0, 1, 6]) == [4, 3, 0]
    assert both.spelled([4, 7]) == [3, 2, 4, 3, 2]  # "bc", "abc" in letters
    logits = torch.arange(8.0)
    translated = both.in_target_ids(logits)
    # Target a b c . . d e . f: the draft's 4 3 2 . . 1 0 . 7; renormalising is the softmax's.
    infinite = float("-inf")
    assert translated.tolist() == [4, 3, 2, infinite, infinite, 1, 0, infinite, 7, *[infinite] * 3]
    law = translated.softmax(-1)
    torch.testing.assert_close(law[[0, 8]], logits[[4, 7]].exp() / logits[[0, 1, 2, 3, 4, 7]].exp().sum())


def test_nothing_shared_is_refused() -> None:
    with pytest.raises(InputError, match="draft: must share tokens with the target"):
        SharedTokens(tokenizer(["a", "b"]), tokenizer(["x", "y"]), 2, 2, torch.device("cpu"))


@pytest.mark.parametrize("tree", [DraftTree.chain(3), DraftTree.from_widths((2, 2))], ids=lambda tree: tree.label)
def test_the_text_is_the_plain_text(tree: DraftTree) -> None:
    target = Llama(SHAPE, random_weights(SHAPE, 3), torch.float64)
    small = replace(SHAPE, vocab_size=len(DRAFT_WORDS))
    drafter = ModelDrafter(target, Llama(small, random_weights(small, 4), torch.float64), shared())
    prompts = [[3, 7, 0], [11], [6, 6, 4, 8]]
    texts = start(target, drafter, prompts, 64)
    lengths = []
    for done in decode(texts, static(tree), 25):
        lengths += [len(new) for new in done.emitted]
        for row, path in enumerate(done.path):
            assert set(done.tree.tokens[row, path[1:]].tolist()) <= {0, 1, 2, 5, 6, 8}
    assert max(lengths) > 1
    for request, prompt in enumerate(prompts):
        text = texts.finished[request]
        assert text == greedy_text(target, prompt, len(text) - len(prompt))
