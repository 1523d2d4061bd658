"""Drafters without a model: each against a plain second implementation, or by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_drafters import VOCAB, greedily
from tiny_models import pair, plain_logits

from specsim.decoding import StaticTree, rooted
from specsim.decoding.policies.confidence import ConfidenceChain
from specsim.executor.drafters.base import Frontier, Prompt, Verified
from specsim.executor.drafters.lookahead import Lookahead
from specsim.executor.drafters.lookup import PromptLookup, SuffixIndex
from specsim.executor.drafters.recycling import RECYCLING_80, TokenRecycling
from specsim.executor.rounds import run_round
from specsim.executor.texts import start
from specsim.tree import DraftTree

TARGET, _ = pair(torch.float64)
PROMPTS = [[3], [1, 7, 0, 7, 0], [11, 4, 4, 9, 2, 5, 8]]
TREE = DraftTree.from_widths((3, 2, 1))


def chain_drafted(text: list[int], draft_len: int, **settings: int) -> list[int]:
    """What prompt lookup proposes where it is sure."""
    drafter = PromptLookup(12, **settings)
    cache = TARGET.new_cache(10)
    drafter.start(Prompt([text], [len(text) - 1], cache))
    policy = ConfidenceChain(draft_len, threshold=0.5, measure="law", draw="top")
    state = policy.start(torch.tensor(text[-1:]))
    while state.frontier.shape[1]:
        tokens = state.tokens.gather(1, state.frontier.clamp(min=0))
        logits = drafter.law(Frontier(state, tokens, torch.zeros_like(tokens), None))
        state = policy.expand(state, torch.softmax(logits, -1))
    drafted: list[int] = state.tokens[state.parents >= 0].tolist()
    return drafted


def test_prompt_lookup_by_hand() -> None:
    # After "1 2" stood 3 9 1 2; and from there the copy reads what it has written.
    assert chain_drafted([1, 2, 3, 9, 1, 2], 3) == [3, 9, 1]
    assert chain_drafted([1, 2, 3, 9, 1, 2], 6) == [3, 9, 1, 2, 3, 9]
    # The longer suffix wins over the later one, and of equal ones the last.
    assert chain_drafted([1, 2, 3, 5, 2, 4, 1, 2], 1) == [3]
    assert chain_drafted([1, 2, 3, 5, 2, 4, 1, 2], 1, max_n=1) == [4]
    # Nothing matches: nothing is proposed.
    assert chain_drafted([1, 2, 3], 4) == []
    assert chain_drafted([5, 2, 3, 7, 2], 4, min_n=2) == []


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 3), st.integers(0, 2))
def test_the_index_finds_what_a_search_finds(text: list[int], min_n: int, more: int) -> None:
    index = SuffixIndex(min_n, min_n + more)
    index.extend(text[: len(text) // 2])
    index.extend(text[len(text) // 2 :])
    expected = None
    for n in range(min_n + more, min_n - 1, -1):
        places = [end for end in range(n, len(text)) if text[end - n : end] == text[-n:]]
        if places:
            expected = places[-1]
            break
    assert index.continued_at() == expected


def observed(drafter: Any, num_rounds: int, tree: DraftTree = TREE) -> list[tuple[list[list[int]], Verified]]:
    """Rounds on the tiny target: the texts as each began, roots last, and what the drafter was told."""
    texts = start(TARGET, drafter, PROMPTS, max_tokens=100)
    tell, told = drafter.observe, []

    def observe(verified: Verified) -> None:
        told.append((before, verified))
        tell(verified)

    drafter.observe = observe
    for _ in range(num_rounds):
        before = [list(text) for text in texts.tokens]
        run_round(texts, greedily(StaticTree(tree)))
    return told


def test_recycling_keeps_the_table_that_a_dictionary_keeps() -> None:
    drafter, table = TokenRecycling(VOCAB, num_successors=4), dict[int, list[int]]()
    for _, verified in observed(drafter, 6):
        for tokens, laws in zip(verified.tokens.tolist(), verified.logits.tolist(), strict=True):
            for token, logits in zip(tokens, laws, strict=True):
                table[token] = sorted(range(VOCAB), key=lambda t: -logits[t])[:4]
    found = {token: drafter.successors[token].tolist() for token in drafter.seen.nonzero()[:, 0].tolist()}
    assert found == table
    assert len(table) > 6


def test_recycling_proposes_the_table_in_its_order() -> None:
    drafter = TokenRecycling(VOCAB, num_successors=3)
    logits = torch.zeros(1, 1, VOCAB)
    logits[0, 0, [5, 9, 2]] = torch.tensor([3.0, 2.0, 1.0])
    drafter.start(Prompt([[7, 4]], [1], TARGET.new_cache(4), logits=logits))
    tokens = torch.tensor([[7, 4]])
    laws = torch.softmax(
        drafter.law(Frontier(rooted(torch.tensor([4]), 0), tokens, torch.zeros_like(tokens), None)), -1
    )
    assert laws[0, 0, [5, 9, 2]].tolist() == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    assert laws[0, 1].tolist() == pytest.approx([1 / VOCAB] * VOCAB)  # never seen


def test_recycling_s_tree_has_the_published_widths() -> None:
    assert RECYCLING_80.widths.tolist() == [1, 8, 21, 25, 15, 8, 3]


def test_each_token_of_the_window_sees_its_branch_alone() -> None:
    drafter = Lookahead(VOCAB, window=3, level=4, guesses=3)
    windows, ask = [], drafter.extra

    def extra() -> Any:
        windows.append([[list(line) for line in window] for window in drafter.rows])
        return ask()

    drafter.extra = extra  # type: ignore[method-assign]
    rounds = observed(drafter, 6)
    assert {len(window[0]) for window in windows} == {1, 2, 3}
    for (texts, verified), of_round in zip(rounds, windows, strict=True):
        for row, (text, window) in enumerate(zip(texts, of_round, strict=True)):
            for k in range(len(window)):
                for j in range(3):
                    branch = [*text, *window[0][: j + 1], *(window[i][j] for i in range(1, k + 1))]
                    expected = plain_logits(TARGET, branch)[-1]
                    assert verified.extra_logits is not None
                    torch.testing.assert_close(verified.extra_logits[row, 3 * k + j], expected, rtol=0, atol=1e-9)


def test_the_pool_holds_what_the_window_and_the_prompt_spelled_and_no_more() -> None:
    """Written a second time, from the text up to each root alone: a pool that saw further would differ."""
    level, width, guesses = 4, 3, 3
    drafter = Lookahead(VOCAB, window=width, level=level, guesses=guesses)
    pools: list[list[tuple[int, ...]]] = [[tuple(p[i : i + level]) for i in range(len(p) - level + 1)] for p in PROMPTS]
    windows = [[[(p[-width:] * width)[j] for j in range(width)]] for p in PROMPTS]
    for texts, _ in observed(drafter, 8):
        for text, window, pool in zip(texts, windows, pools, strict=True):
            branches = [[*text, *window[0][: j + 1], *(line[j] for line in window[1:])] for j in range(width)]
            answers = [int(plain_logits(TARGET, branch)[-1].argmax()) for branch in branches]
            if len(window) == level - 1:
                pool += [tuple(gram) for gram in zip(*window, answers, strict=True)]
                del window[0]
            window.append(answers)
    for pool, kept in zip(pools, drafter.pools, strict=True):
        for token in range(VOCAB):
            newest = list(dict.fromkeys(gram[1:] for gram in reversed(pool) if gram[0] == token))
            assert kept.tails(token) == newest[:guesses]


def test_branches_of_the_pool_form_a_tree() -> None:
    drafter = Lookahead(VOCAB, window=2, level=3, guesses=4, pool_from_prompt=False)
    drafter.start(Prompt([[1]], [0], TARGET.new_cache(4)))
    for gram in ((1, 2, 3), (1, 4, 5), (1, 2, 6)):
        drafter.pools[0].add(gram)
    assert drafter._weights(0, [1]) == {2: 1 + 0.25, 4: 0.5}
    assert drafter._weights(0, [1, 2]) == {6: 1.0, 3: 0.25}
    assert drafter._weights(0, [1, 2, 6]) == {}
    assert drafter.tree.widths.tolist() == [1, 4, 4]
