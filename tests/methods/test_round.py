"""The work of a round, written out by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.decoding import StaticTree, draft_laws
from specsim.decoding.policies import ConfidenceChain, StochasticBeam
from specsim.errors import InputError
from specsim.methods.round import DraftPass, DraftRead, Situation, VerifyPass, expanded_levels, play, play_policy
from specsim.tree import DraftTree
from specsim.work import HostWork, Pass, Work

Line = tuple[Any, ...]


def told(work: Work) -> Line:
    """Work in a line: role, kind, new tokens, context, nodes; or kind and nodes handled on the host."""
    if isinstance(work, Pass):
        new, context = work.new_tokens.tolist(), work.context_tokens.tolist()
        return (work.role, work.kind, new, context, work.nodes)
    assert isinstance(work, HostWork)
    return (work.kind, work.num_nodes)


def test_a_chain_drafts_one_token_a_pass_and_verifies_them_with_the_root() -> None:
    assert [told(work) for work in play(DraftTree.chain(3), Situation([100]))] == [
        ("draft", "draft", [1.0], [100.0], (0,)),
        ("draft", 1),
        ("draft", "draft", [1.0], [101.0], (1,)),
        ("draft", 1),
        ("draft", "draft", [1.0], [102.0], (2,)),
        ("draft", 1),
        ("target", "verify", [4.0], [100.0], (0, 1, 2, 3)),
        ("round", 4),
        ("step", 4),
    ]


def test_after_a_chain_kept_whole_the_first_pass_feeds_two_tokens_to_a_cache_one_shorter() -> None:
    # Committed: 100 tokens and the root. Pending: the last draft and the root, so the drafter holds 99.
    passes = [told(work) for work in play(DraftTree.chain(2), Situation([100], [2])) if isinstance(work, Pass)]
    assert passes == [
        ("draft", "draft", [2.0], [99.0], (0,)),
        ("draft", "draft", [1.0], [101.0], (1,)),
        ("target", "verify", [3.0], [100.0], (0, 1, 2)),
    ]


def test_a_tree_drafts_the_nodes_with_children_level_by_level() -> None:
    # 0 -> 1 2 3;  1 -> 4 5;  3 -> 6;  5 -> 7
    tree = DraftTree((-1, 0, 0, 0, 1, 1, 3, 5))
    assert expanded_levels(tree) == [(0,), (1, 3), (5,)]
    assert [told(work) for work in play(tree, Situation([10]))] == [
        ("draft", "draft", [1.0], [10.0], (0,)),
        ("draft", 3),
        ("draft", "draft", [2.0], [11.0], (1, 3)),
        ("draft", 3),
        ("draft", "draft", [1.0], [13.0], (5,)),
        ("draft", 1),
        ("target", "verify", [8.0], [10.0], tuple(range(8))),
        ("round", 8),
        ("step", 8),
    ]


@pytest.mark.parametrize("drafting", ["autoregressive", "heads", "lookup"])
def test_the_root_alone_is_plain_decoding_however_it_would_be_drafted(drafting: Any) -> None:
    assert expanded_levels(DraftTree.chain(0)) == []
    assert [told(work) for work in play(DraftTree.chain(0), Situation([7]), drafting)] == [
        ("target", "decode", [1.0], [7.0], (0,)),
        ("step", 1),
    ]


def test_heads_draft_all_levels_in_one_pass() -> None:
    assert [told(work) for work in play(DraftTree.from_widths((2, 2)), Situation([10]), "heads")] == [
        ("draft", "draft", [1.0], [10.0], (0,)),
        ("draft", 6),
        ("target", "verify", [7.0], [10.0], tuple(range(7))),
        ("round", 7),
        ("step", 7),
    ]


def test_lookup_drafts_without_a_model() -> None:
    assert [told(work) for work in play(DraftTree.chain(2), Situation([10]), "lookup")] == [
        ("draft", 2),
        ("target", "verify", [3.0], [10.0], (0, 1, 2)),
        ("round", 3),
        ("step", 3),
    ]


def test_groups_of_sequences_and_sweeps_keep_their_axes() -> None:
    # Two groups, swept over three contexts: shape [3, 2]; the first group caught up, the second did not.
    context = np.array([[10, 20], [100, 200], [1000, 2000]])
    works = list(play(DraftTree.chain(2), Situation(context, [1, 2], [8, 4])))
    first, second, verify = (work for work in works if isinstance(work, Pass))
    assert first.context_tokens.tolist() == [[10, 19], [100, 199], [1000, 1999]]
    assert second.context_tokens.tolist() == [[11, 21], [101, 201], [1001, 2001]]
    assert set(first.total_new_tokens.flat) == {16}  # 8 x 1 + 4 x 2
    assert set(second.total_new_tokens.flat) == {12}
    assert set(verify.total_new_tokens.flat) == {36}


def test_more_pending_than_committed_is_refused() -> None:
    with pytest.raises(InputError, match=r"context_tokens: must be >= 0, got -1\.0"):
        list(play(DraftTree.chain(1), Situation([3], [5])))


@given(st.lists(st.integers(0, 30), max_size=12), st.integers(50, 60), st.integers(1, 5))
def test_every_node_with_children_is_drafted_once_and_the_drafter_sees_all_before_it(
    choices: list[int], context: int, pending: int
) -> None:
    parents = (-1, *(choice % (node + 1) for node, choice in enumerate(choices)))
    tree = DraftTree(parents)
    works = list(play(tree, Situation([context], [pending])))
    drafts = [work for work in works if isinstance(work, Pass) and work.role == "draft"]
    assert len(drafts) == tree.depth
    assert sorted(node for work in drafts for node in work.nodes) == sorted(set(parents) - {-1})
    # Each pass finds in its cache what the ones before it left there, and the first the text without what is pending.
    held = context + 1 - pending
    for work in drafts:
        assert work.context_tokens.tolist() == [held]
        held += int(work.new_tokens[0])
    if drafts:
        assert held == context + len(set(parents) - {-1})
    # The host chooses each drafted node once.
    assert sum(work.num_nodes for work in works if isinstance(work, HostWork) and work.kind == "draft") == len(choices)


def answer(work: Work, rng: np.random.Generator, vocab: int = 6) -> Any:
    """Laws for a drafter that is asked, nothing for the rest."""
    if isinstance(work, DraftPass | DraftRead):
        return rng.dirichlet(np.ones(vocab), size=work.state.frontier.shape)
    return None


def played(round_: Generator[Work, Any, Any], seed: int = 0) -> list[Work]:
    rng, works, sent = np.random.default_rng(seed), [], None
    with contextlib.suppress(StopIteration):
        while True:
            works.append(round_.send(sent))
            sent = answer(works[-1], rng)
    return works


@pytest.mark.parametrize("tree", [DraftTree.chain(0), DraftTree.chain(3), DraftTree((-1, 0, 0, 0, 1, 1, 3, 5))])
def test_a_static_policy_does_the_work_of_its_tree(tree: DraftTree) -> None:
    at = Situation([10, 20], [2, 1], [3, 4])
    works = played(play_policy(StaticTree(tree), np.array([0, 1]), at))
    for ours, theirs in zip(works, play(tree, at), strict=True):
        if isinstance(theirs, Pass):
            assert isinstance(ours, Pass) and (ours.role, ours.kind) == (theirs.role, theirs.kind)
            for name in ("new_tokens", "context_tokens", "num_seqs"):
                assert np.broadcast_to(getattr(theirs, name), (2,)).tolist() == getattr(ours, name).tolist()
        else:
            assert ours == theirs


def test_heads_run_once_and_a_lookup_never() -> None:
    heads = played(play_policy(StaticTree(DraftTree.chain(2)), np.array([0]), Situation([10], [3]), "heads"))
    assert [told(work) for work in heads] == [
        ("draft", "draft", [1.0], [10.0], ()),
        ("draft", 1),
        ("draft", 1),
        ("target", "verify", [3.0], [10.0], ()),
        ("round", 3),
        ("step", 3),
    ]
    lookup = played(play_policy(StaticTree(DraftTree.chain(2)), np.array([0]), Situation([10], [3]), "lookup"))
    assert [told(work) for work in lookup] == [("draft", 1), ("draft", 1), *[told(work) for work in heads[3:]]]


def test_a_round_ends_where_the_answers_end_it() -> None:
    """Two rows doubt after one and after three tokens; a row that has stopped is in no pass, and verifies its own."""
    policy = ConfidenceChain(4, 0.5, "token", "top")
    round_ = play_policy(policy, np.array([0, 0]), Situation([10, 20], [2, 1]))
    doubt, sure = [0.4, 0.3, 0.3], [0.9, 0.1, 0.0]
    answers = [[[doubt], [sure]], [[doubt], [sure]], [[doubt], [doubt]]]
    sent: Any = None
    lines: list[Any] = []
    with pytest.raises(StopIteration) as ended:
        while True:
            work = round_.send(sent)
            lines.append((*told(work)[2:4], work.num_seqs.tolist()) if isinstance(work, Pass) else told(work)[0])
            sent = np.array(answers.pop(0)) if isinstance(work, DraftPass) else None
    assert lines == [
        ([2, 1], [9, 20], [1, 1]),
        "draft",
        ([1, 1], [11, 21], [0, 1]),
        "draft",
        ([1, 1], [11, 22], [0, 1]),
        "draft",
        ([2, 4], [10, 20], [1, 1]),
        "round",
        "step",
    ]
    assert ended.value.value.parents.tolist() == [[-1, 0, -2, -2], [-1, 0, 1, 2]]


def test_a_policy_that_drafts_nothing_decodes_plainly() -> None:
    policy = ConfidenceChain(4, 0.99, "law", "top")
    assert [told(work) for work in played(play_policy(policy, np.array([0]), Situation([10])))] == [
        ("draft", "draft", [1.0], [10.0], ()),
        ("draft", 1),
        ("target", "decode", [1.0], [10.0], ()),
        ("step", 1),
    ]


def test_what_is_drafted_and_drawn_reaches_the_driver() -> None:
    """Uniforms are asked for in the shape that the policy needs; the last pass shows the tree and all laws."""
    asked: list[tuple[int, ...]] = []

    def uniforms(shape: tuple[int, ...]) -> Any:
        asked.append(shape)
        return np.random.default_rng(len(asked)).random(shape)

    works = played(play_policy(StochasticBeam(2, 3), np.array([0]), Situation([10]), uniforms=uniforms))
    assert asked == [(1, 1, 6), (1, 2, 6), (1, 2, 6)]
    (verify,) = (work for work in works if isinstance(work, VerifyPass))
    assert verify.tree.tokens.shape == (1, 7) and len(verify.state.laws) == 3
    assert draft_laws(verify.state, verify.tree, 6)[0, :5].sum(axis=1) == pytest.approx(np.ones(5))
