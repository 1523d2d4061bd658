"""What is done in a cheaper way for common cases gives what the general way gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_language import VOCAB

from specsim.decoding import Draw, StaticTree
from specsim.decoding.arrays import row_numbers
from specsim.decoding.policies.pool import checked_uniforms
from specsim.decoding.propose import sample_children, top, top_children
from specsim.decoding.rules.follow import follow, greedy
from specsim.tree import DraftTree


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 9))
def test_walking_lists_is_following_arrays(seed: int, num_rows: int, num_nodes: int) -> None:
    """Trees of any shape, siblings of equal tokens among them, and rows that are padded."""
    rng = np.random.default_rng(seed)
    parents = np.array([[-1, *(int(rng.integers(node)) for node in range(1, num_nodes))] for _ in range(num_rows)])
    tokens, laws = rng.integers(3, size=parents.shape), rng.random((*parents.shape, 3))
    for row in parents:
        row[int(rng.integers(1, num_nodes + 1)) :] = -2
    rows = row_numbers(parents)
    general = follow(parents, tokens, lambda node: np.argmax(laws[rows, node], axis=-1))
    cheap = greedy(parents, tokens, laws)
    for one, other in zip(vars(general).values(), vars(cheap).values(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("draw", ["top", "sampled", "sampled_with_replacement"])
@pytest.mark.parametrize("tree", [DraftTree.chain(3), DraftTree.from_widths((2, 2)), DraftTree((-1, 0, 1, 1, 0, 4))])
def test_a_static_tree_grows_as_any_pool_does(tree: DraftTree, draw: Draw) -> None:
    """Against ``DraftState.grown``, which works everything out from columns and tokens."""
    rng, policy = np.random.default_rng(1), StaticTree(tree, draw)
    state = policy.start(np.array([5, 6]))
    for level in policy.levels:
        laws = rng.dirichlet(np.ones(VOCAB), size=state.frontier.shape)
        uniforms = rng.random((*state.frontier.shape, level.num_children))
        found = policy.expand(state, laws, None if draw == "top" else uniforms)
        candidates = (
            top_children(laws, level.num_children)
            if draw == "top"
            else sample_children(
                laws, checked_uniforms(uniforms, uniforms.shape), replacement=draw == "sampled_with_replacement"
            )
        )
        tokens = candidates.reshape(2, -1)[:, list(level.slots)]
        columns, frontier = (np.tile(np.array(ids, dtype=int), (2, 1)) for ids in (level.columns, level.frontier))
        general = state.grown(laws, columns, tokens, frontier, found.num_draws)
        for name, value in vars(general).items():
            np.testing.assert_array_equal(value, getattr(found, name), err_msg=name) if name != "laws" else None
        state = found


def test_padding_has_no_probability() -> None:
    state = StaticTree(DraftTree.chain(1)).start(np.array([0, 0]))
    grown = state.grown(np.full((2, 1, 3), 1 / 3), np.array([[0], [-1]]), np.array([[1], [1]]))
    assert grown.probs[:, 1].tolist() == pytest.approx([1 / 3, 0]) and grown.path_probs[1, 1] == 0


def test_the_best_child_is_the_first_of_the_ranking() -> None:
    laws = np.array([[0.2, 0.4, 0.4], [0.5, 0.5, 0.0]])
    assert top_children(laws, 1).tolist() == top(laws, 2)[1][:, :1].tolist() == [[1], [0]]
