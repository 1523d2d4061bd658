"""What each pass sees, and what the caches hold afterwards, against the same text run alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from tiny_models import begin, pair, plain_logits, static

from specsim.decoding import Rule, StaticTree
from specsim.decoding.policies.best_first import BestFirst
from specsim.decoding.policies.eagle2 import Eagle2
from specsim.decoding.state import Draw, TreePolicy
from specsim.executor.cache import KvCache
from specsim.executor.drafters.model import ModelDrafter
from specsim.executor.llama import Llama
from specsim.executor.method import Method, Sampling
from specsim.executor.rounds import decode, run_round
from specsim.executor.texts import Texts
from specsim.tree import DraftTree
from specsim.work import Pass

UNEVEN = DraftTree((-1, 0, 1, 0, 2, 3, 1, 0), ranks=(0, 0, 0, 1, 0, 0, 2, 3))
TREES = [DraftTree.chain(4), DraftTree.from_widths((2, 2, 1)), DraftTree.from_widths((3, 1, 1, 2)), UNEVEN]
POLICIES: list[TreePolicy] = [
    *(StaticTree(tree) for tree in TREES),
    Eagle2(top_k=3, depth=2, total_tokens=8),
    BestFirst(budget=7, batch=2, max_passes=4),
]
EXACT = {"rtol": 0, "atol": 1e-11}
PROMPTS = [[7, 2, 2, 9], [5], [1, 1, 4, 8, 3, 0, 6]]


def branch(tokens: list[int], parents: list[int], node: int) -> list[int]:
    """Tokens from the root down to a node."""
    return [] if node < 0 else [*branch(tokens, parents, parents[node]), tokens[node]]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.kind)
@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS], ids=len)
def test_every_node_gets_the_logits_of_its_branch_run_alone(policy: TreePolicy, prompts: list[list[int]]) -> None:
    target, draft = pair()
    texts = begin((target, draft), *prompts, seed=3)
    for _ in range(5):
        before = [text[:-1] for text in texts.tokens]
        done = run_round(texts, Method(policy, "one_hot", Sampling(1.0)))
        for row, text in enumerate(before):
            tokens, parents = done.tree.tokens[row].tolist(), done.tree.parents[row].tolist()
            assert parents[0] == -1 and max(parents) < len(parents)
            for node in [n for n, parent in enumerate(parents) if parent >= -1]:
                alone = plain_logits(target, text + branch(tokens, parents, node))[-1]
                torch.testing.assert_close(done.target_logits[row, node], alone, **EXACT)
            pool, parents = done.state.tokens[row].tolist(), done.state.parents[row].tolist()
            laws = torch.cat(done.state.laws, dim=1)[row]
            for node, law in zip(done.state.expanded[row].tolist(), laws, strict=True):
                if node >= 0:
                    alone = plain_logits(draft, text + branch(pool, parents, node))[-1]
                    torch.testing.assert_close(law, alone.float().softmax(-1), rtol=0, atol=1e-6)


def check_cache(model: Llama, cache: KvCache, texts: list[list[int]]) -> None:
    """Each row's cache in use equals one filled with its text at once, and nothing else is in use."""
    assert cache.end == cache.text_end == max(cache.lengths)
    for row, (text, length) in enumerate(zip(texts, cache.lengths, strict=True)):
        if length:
            fresh = model.new_cache(max(length, 1))
            model.prefill(torch.tensor([text[:length]]), fresh)
            torch.testing.assert_close(cache.kv[:, :, row, :, :length], fresh.kv[:, :, 0, :, :length], **EXACT)


def check_caches(models: tuple[Llama, Llama], texts: Texts) -> None:
    assert texts.cache.lengths == [len(text) - 1 for text in texts.tokens]
    assert isinstance(texts.drafter, ModelDrafter)
    held = [len(text) - pending for text, pending in zip(texts.tokens, texts.drafter.pending_tokens, strict=True)]
    assert texts.drafter.cache.lengths == held
    check_cache(models[0], texts.cache, texts.tokens)
    check_cache(models[1], texts.drafter.cache, texts.tokens)


@pytest.mark.parametrize("policy", [StaticTree(DraftTree.chain(0)), *POLICIES], ids=lambda policy: policy.kind)
@pytest.mark.parametrize(
    ("draw", "rule", "temperature"),
    [("top", "greedy", 0.0), ("top", "one_hot", 1.0), ("sampled", "recursive_rejection", 1.0)],
)
@pytest.mark.parametrize("num_rows", [1, 3])
def test_caches_after_many_rounds_equal_caches_of_the_text(
    policy: TreePolicy, draw: Draw, rule: Rule, temperature: float, num_rows: int
) -> None:
    if draw == "sampled":
        if not isinstance(policy, StaticTree):
            pytest.skip("a policy that ranks draws the top")
        policy = StaticTree(DraftTree(policy.tree.parents), draw)
    models = pair(noise=0.05)
    texts, method = begin(models, *PROMPTS[:num_rows], seed=8), Method(policy, rule, Sampling(temperature))
    for number, done in enumerate(decode(texts, method, 50)):
        for row, path in enumerate(done.path):
            parents = done.tree.parents[row].tolist()
            # The path is one of the tree's, and what was emitted is what lies on it.
            assert [parents[node] for node in path] == [-1, *path[:-1]]
            assert len(done.emitted[row]) == len(path)
        if number % 4 == 0:
            check_caches(models, texts)
    assert all(len(texts.finished[row]) >= len(PROMPTS[row]) + 50 for row in range(num_rows))


def test_rows_that_end_leave_the_others_as_they_were() -> None:
    models = pair()
    texts, method = begin(models, *PROMPTS), static(UNEVEN)
    for _ in range(3):
        run_round(texts, method)
    before = [list(text) for text in texts.tokens]
    texts.keep_rows([0, 2])
    assert texts.requests == [0, 2] and texts.finished == {1: before[1]}
    check_caches(models, texts)
    run_round(texts, method)
    check_caches(models, texts)


def test_a_full_cache_grows() -> None:
    models = pair()
    texts = begin(models, [7, 2], max_tokens=4)
    for _ in range(20):
        run_round(texts, static(UNEVEN))
    assert texts.cache.capacity > 20
    check_caches(models, texts)


def pending_by_length(tree: DraftTree, method: Any, seed: int = 0) -> dict[int, set[int]]:
    """Sizes of the pending text after rounds that emitted so many tokens."""
    texts, seen = begin(pair(), [7, 2], seed=seed), {}
    assert texts.drafter is not None and texts.drafter.pending_tokens == [1]
    while texts.cache.end + 12 < 128:
        emitted = run_round(texts, method).emitted[0]
        seen.setdefault(len(emitted), set()).add(texts.drafter.pending_tokens[0])
    return seen


def test_a_chain_leaves_one_token_pending_and_two_when_it_was_kept_whole() -> None:
    tree = DraftTree.chain(3)
    # The last draft of a chain is never run by the drafter: kept, it waits with the bonus token.
    expected = {1: {1}, 2: {1}, 3: {1}, 4: {2}}
    assert pending_by_length(tree, static(tree, "sampled", "token_rejection", 1.0)) == expected


def test_a_tree_leaves_leaves_pending() -> None:
    tree = DraftTree((-1, 0, 0, 1))
    # Length 2 ends at node 1, which was run, or at node 2, a leaf, which was not.
    assert pending_by_length(tree, static(tree, "top", "one_hot", 1.0), seed=5) == {1: {1}, 2: {1, 2}, 3: {2}}


@pytest.mark.parametrize(
    "policy", [StaticTree(DraftTree.from_widths((2, 2, 1))), POLICIES[-1]], ids=["static", "grown"]
)
def test_the_work_recorded_is_the_work_done(policy: TreePolicy) -> None:
    target, draft = pair()
    texts = begin((target, draft), [7, 2, 2])
    for _ in range(10):
        fed: dict[str, list[tuple[int, int]]] = {"target": [], "draft": []}
        for role, model in (("target", target), ("draft", draft)):
            watch(model, fed[role])
        done = run_round(texts, Method(policy, "greedy"))
        passes = [work for work, _ in done.timed if isinstance(work, Pass)]
        recorded = {
            role: [(int(p.new_tokens[0]), int(p.context_tokens[0])) for p in passes if p.role == role] for role in fed
        }
        assert recorded == fed
        assert [0 in p.nodes for p in passes if p.role == "draft"] == [True] + [False] * (len(fed["draft"]) - 1)
        for model in (target, draft):
            del model.hidden  # type: ignore[method-assign]


def watch(model: Llama, fed: list[tuple[int, int]]) -> None:
    """Note tokens fed and tokens cached at each pass."""
    hidden = model.hidden

    def noting(tokens, positions, cache, *others):  # type: ignore[no-untyped-def]
        fed.append((tokens.shape[1], cache.end))
        return hidden(tokens, positions, cache, *others)

    model.hidden = noting  # type: ignore[method-assign]


def test_time_is_taken_from_the_clock_around_each_piece_of_work() -> None:
    readings: list[float] = []

    def clock() -> float:
        readings.append(float(2 ** len(readings)))
        return readings[-1]

    done = run_round(begin(pair(), [7]), static(DraftTree.chain(2)), clock)
    seconds = [spent for _, spent in done.timed]
    # Every second from the first reading to the last belongs to one piece of work.
    assert len(seconds) == 7 and sum(seconds) == readings[-1] - readings[0]
    assert all(spent > 0 for spent in seconds)


def test_a_forced_path_keeps_the_caches_in_step() -> None:
    models, tree = pair(), DraftTree.from_widths((2, 2, 1))
    texts = begin(models, *PROMPTS)
    for forced in ([0], [0, 2, 5, 9], [0, 1], [0, 2, 6], [0, 1, 3, 7]):
        assert all(tree.parents[child] == parent for parent, child in pairwise(forced))
        assert [len(new) for new in run_round(texts, static(tree), forced=forced).emitted] == [len(forced)] * 3
        check_caches(models, texts)
