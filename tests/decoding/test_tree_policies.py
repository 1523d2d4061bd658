"""Static trees level by level, and the choice of the largest that all policies share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_language import VOCAB, Language

from specsim.decoding import (
    DraftState,
    Draw,
    StaticTree,
    TokenTree,
    TreePolicy,
    draft_laws,
    node_probs,
)
from specsim.decoding.propose import top
from specsim.errors import InputError
from specsim.tree import DraftTree
from specsim.trees_known import SPECINFER_20


def grow(policy: TreePolicy, draft: Language, batch: int = 1, rng: Any = None) -> tuple[DraftState, TokenTree]:
    state = policy.start(np.zeros(batch, dtype=np.int64))
    while state.frontier.shape[1]:
        laws = draft.at_nodes(state.parents, state.tokens)
        laws = np.take_along_axis(laws, np.maximum(state.frontier, 0)[..., None], axis=1)
        uniforms = rng.random((*state.frontier.shape, state.num_draws)) if state.num_draws else None
        state = policy.expand(state, laws, uniforms)
    return state, policy.select(state)


@pytest.mark.parametrize("draw", ["top", "sampled"])
def test_a_static_tree_in_any_numbering(draw: Draw) -> None:
    """Nodes numbered depth first: tokens, draft laws and probabilities land on the right nodes."""
    draft = Language.random(np.random.default_rng(4), sharpness=3.0)
    shape = DraftTree((-1, 0, 1, 1, 0, 4, 5))
    state, tree = grow(StaticTree(shape, draw), draft, batch=7, rng=np.random.default_rng(1))
    assert tree.parents.tolist() == [list(shape.parents)] * 7
    assert [laws.shape[1] for laws in state.laws] == [1, 2, 1]  # the draft model runs inner nodes only
    laws = draft.at_nodes(tree.parents, tree.tokens)
    inner = [0, 1, 4, 5]
    held = draft_laws(state, tree, VOCAB)
    np.testing.assert_array_equal(held[:, inner], laws[:, inner])
    assert (held[:, [2, 3, 6]] == 0).all()
    np.testing.assert_allclose(tree.probs, node_probs(tree.parents, tree.tokens, laws))
    if draw == "top":
        for node in range(1, shape.num_nodes):
            order = np.argsort(-laws[0, shape.parents[node]], kind="stable")
            assert tree.tokens[0, node] == order[shape.ranks[node]]
    else:
        assert (tree.tokens[:, 2] != tree.tokens[:, 3]).all()


def test_ranks_choose_the_candidate() -> None:
    draft = Language((np.array([0.2, 0.3, 0.5]), *Language.random(np.random.default_rng(0)).laws[1:]))
    _, tree = grow(StaticTree(DraftTree((-1, 0, 0), (0, 2, 1))), draft)
    assert tree.tokens.tolist() == [[0, 0, 1]]
    for ranks in [(0, 1, 0), (0, 0, 2)]:
        with pytest.raises(InputError, match=r"tree: must take draws 0, 1, \.\.\. in order when sampled"):
            StaticTree(DraftTree((-1, 0, 0), ranks), "sampled")


def test_no_speculation_drafts_nothing() -> None:
    state, tree = grow(StaticTree(DraftTree.chain(0)), Language.random(np.random.default_rng(0)), batch=2)
    assert state.laws == () and tree.tokens.shape == (2, 1)
    assert draft_laws(state, tree, VOCAB).shape == (2, 1, VOCAB)


def test_wrong_uniforms_and_too_many_children_are_named() -> None:
    policy = StaticTree(DraftTree((-1, 0, 0)), "sampled")
    state = policy.start(np.zeros(1, dtype=np.int64))
    assert state.num_draws == 2
    with pytest.raises(InputError, match=r"uniforms: must have shape \(1, 1, 2\), got None"):
        policy.expand(state, np.full((1, 1, 3), 1 / 3))
    wide = StaticTree(DraftTree.from_widths((4,)))
    with pytest.raises(InputError, match=r"num: must be in \[0, 3\]"):
        wide.expand(wide.start(np.zeros(1, dtype=np.int64)), np.full((1, 1, 3), 1 / 3))


def test_torch_grows_the_same_tree() -> None:
    torch = pytest.importorskip("torch")
    policy = StaticTree(DraftTree.from_widths((3, 2)), "sampled")
    rng = np.random.default_rng(0)
    ours, theirs = policy.start(np.arange(5)), policy.start(torch.arange(5))
    while ours.frontier.shape[1]:
        laws = rng.dirichlet(np.ones(20), size=ours.frontier.shape)
        uniforms = rng.random((*ours.frontier.shape, ours.num_draws))
        ours = policy.expand(ours, laws, uniforms)
        theirs = policy.expand(theirs, torch.from_numpy(laws), torch.from_numpy(uniforms))
    for name in TokenTree.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(policy.select(ours), name), getattr(policy.select(theirs), name).numpy())
    np.testing.assert_array_equal(
        draft_laws(ours, policy.select(ours), 20), draft_laws(theirs, policy.select(theirs), 20).numpy()
    )


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.lists(st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0, -1.0]), min_size=7, max_size=7), min_size=1),
    num=st.integers(0, 7),
)
def test_top_is_a_stable_sort(values: list[list[float]], num: int) -> None:
    """Ties everywhere: both libraries give the lowest indices, in order, as a stable sort would."""
    array = np.array(values)
    expected = np.argsort(-array, axis=-1, kind="stable")[:, :num]
    found, ids = top(array, num)
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(found, np.take_along_axis(array, expected, -1))
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(top(torch.tensor(values)[:, None], num)[1][:, 0].numpy(), expected)
    np.testing.assert_array_equal(top(array[0], num)[1], expected[0])


def test_top_of_more_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match=r"num: must be in \[0, 3\], got 4"):
        top(np.zeros((2, 3)), 4)


def test_the_trees_of_specinfer_and_mcsd() -> None:
    """Every node of a level gets the same number of children: 20 and 28 drafted nodes."""
    assert SPECINFER_20.widths.tolist() == [1, 1, 1, 3, 3, 3, 3, 3, 3]
    assert StaticTree(DraftTree.from_widths((4, 2, 2)), "sampled").limits == (29, 3, 3, 13)
