"""What can not be decoded is refused before anything runs, with the field, the limit and the value."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import SHAPE, begin, pair, random_weights, static

from specsim.errors import InputError
from specsim.executor.drafters.model import ModelDrafter
from specsim.executor.llama import Llama
from specsim.executor.method import Method, Sampling
from specsim.executor.rounds import decode, run_round
from specsim.executor.texts import start
from specsim.tree import DraftTree

TARGET, DRAFT = PAIR = pair(torch.float32)
CHAIN = static(DraftTree.chain(3))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"prompt": []}, r"prompt: must have at least one token, got \[\]"),
        ({"prompt": [1] * 32}, r"prompt: must be shorter than the 32 tokens of the context, got 32"),
        ({"prompt": [1, 12]}, r"prompt: must hold tokens from 0 to 11, got \[1, 12\]"),
        ({"prompt": [-1, 1]}, r"prompt: must hold tokens from 0 to 11, got \[-1, 1\]"),
        ({"max_tokens": 129}, "context: must be from 1 to 128 tokens, the model's limit, got 129"),
        ({"max_tokens": 0}, "context: must be from 1 to 128 tokens, the model's limit, got 0"),
        ({"seed": -1}, r"seed: must be from 0 to 2\*\*63 - 1 less the number of texts, got -1"),
        ({"seed": 2**64}, r"seed: must be from 0 to 2\*\*63 - 1 less the number of texts, got 18446744073709551616"),
    ],
)
def test_a_sequence_that_can_not_start_is_refused(change: dict[str, Any], line: str) -> None:
    arguments = {"prompt": [1, 2], "max_tokens": 32, "seed": 0} | change
    with pytest.raises(InputError, match=f"^{line}$"):
        start(TARGET, ModelDrafter(TARGET, DRAFT), [[3], arguments.pop("prompt")], **arguments)


def test_nothing_to_decode_is_refused() -> None:
    with pytest.raises(InputError, match=r"prompt: must be at least one, got \[\]"):
        start(TARGET, None, [], 32)


@pytest.mark.parametrize(
    ("sampling", "line"),
    [
        ({"temperature": -0.1}, "temperature: must be >= 0 and finite, got -0.1"),
        ({"temperature": float("nan")}, "temperature: must be >= 0 and finite, got nan"),
        ({"temperature": float("inf")}, "temperature: must be >= 0 and finite, got inf"),
        ({"top_k": 0}, "top_k: must be >= 1, got 0"),
        ({"top_p": 1.5}, r"top_p: must be in \(0, 1\], got 1.5"),
    ],
)
def test_a_law_that_is_none_is_refused(sampling: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=f"^{line}$"):
        Sampling(**sampling)


def test_a_draft_of_another_vocabulary_is_refused_with_both_sizes() -> None:
    other = replace(SHAPE, vocab_size=16)
    with pytest.raises(InputError, match=r"^vocab_size: of the draft must be the target's, 12, got 16$"):
        ModelDrafter(TARGET, Llama(other, random_weights(other, seed=0)))


def test_a_draft_of_a_shorter_context_ends_decoding_where_its_own_does() -> None:
    short = replace(SHAPE, max_context_tokens=20)
    draft = Llama(short, random_weights(short, seed=0))
    with pytest.raises(InputError, match="prompt: must be shorter than the 20 tokens of the context, got 25"):
        begin((TARGET, draft), [1] * 25)
    texts = begin((TARGET, draft), [1, 2], [3])
    rounds = list(decode(texts, CHAIN, 1000))
    assert rounds and all(16 < len(text) <= 20 for text in texts.finished.values())


def test_a_tree_deeper_than_the_drafter_proposes_is_refused() -> None:
    class Shallow(ModelDrafter):
        max_depth = 2  # type: ignore[assignment,misc]

    texts = start(TARGET, Shallow(TARGET, DRAFT), [[1, 2]], 32)
    with pytest.raises(InputError, match=r"^depth: must be at most 2 for this drafter, got 3$"):
        run_round(texts, CHAIN)
    with pytest.raises(InputError, match=r"^drafter: must be given for a method that drafts"):
        run_round(start(TARGET, None, [[1, 2]], 32), CHAIN)
    assert len(run_round(start(TARGET, None, [[1, 2]], 32), static(DraftTree.chain(0))).emitted[0]) == 1


@pytest.mark.parametrize(
    ("tree", "draw", "rule", "line"),
    [
        (DraftTree.chain(2), "top", "token_rejection", "draw: must be sampled"),
        (DraftTree.from_widths((2, 1)), "top", "recursive_rejection", "draw: must be sampled"),
        (
            DraftTree.chain(2),
            "sampled",
            "recursive_rejection_with_replacement",
            "draw: must be sampled_with_replacement",
        ),
        (DraftTree.chain(2), "top", "typical", "rule: must be one of greedy"),
        (DraftTree.chain(2), "best", "greedy", "draw: must be top or sampled"),
        (
            DraftTree.from_widths((2,)),
            "sampled",
            "token_rejection",
            "tree: must be a chain for the rule token_rejection",
        ),
        (DraftTree((-1, 0), ranks=(0, 1)), "sampled", "one_hot", "tree: must take draws 0, 1, ... in order"),
    ],
)
def test_a_rule_that_does_not_suit_its_draws_is_refused(tree: DraftTree, draw: Any, rule: Any, line: str) -> None:
    with pytest.raises(InputError, match=line):
        static(tree, draw, rule)


def test_a_lossy_rule_takes_its_own_knobs_alone() -> None:
    policy = static(DraftTree.chain(2)).policy
    Method(policy, "typical_acceptance", Sampling(1.0), {"epsilon": 0.1})
    with pytest.raises(InputError, match="theta: must be left out for typical_acceptance"):
        Method(policy, "typical_acceptance", Sampling(1.0), {"theta": 0.1})


def test_more_children_than_tokens_are_refused() -> None:
    with pytest.raises(InputError, match=r"num: must be in \[0, 12\]"):
        run_round(begin(PAIR, [1, 2]), static(DraftTree.from_widths((13,))))


def test_greedy_rounds_do_not_pretend_to_sample() -> None:
    with pytest.raises(
        InputError, match=r"temperature: must be 0 for the rule greedy, which does not sample, got 1\.0"
    ):
        static(DraftTree.chain(2), temperature=1.0)


def test_decoding_stops_where_the_context_ends() -> None:
    texts = begin(PAIR, [1, 2], [5] * 100, max_tokens=128)
    rounds = list(decode(texts, CHAIN, 1000))
    assert rounds and all(124 < len(text) <= 128 for text in texts.finished.values())
    assert list(decode(texts, CHAIN, 1000)) == []


@pytest.mark.parametrize("num_tokens", [0, 1, 5])
def test_decoding_ends_with_the_round_that_reaches_the_goal(num_tokens: int) -> None:
    texts = begin(PAIR, [1, 2])
    rounds = list(decode(texts, CHAIN, num_tokens))
    emitted = [len(done.emitted[0]) for done in rounds]
    assert sum(emitted) == len(texts.finished[0]) - 2 >= num_tokens
    assert sum(emitted[:-1]) < max(num_tokens, 1)
