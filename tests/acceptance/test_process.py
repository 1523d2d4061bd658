"""The synthetic world: the same node always answers the same, and its laws are laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.acceptance.process import TokenProcess, children_of, draft_laws, first_roots, target_laws
from specsim.errors import InputError

PROCESSES = st.builds(
    TokenProcess,
    sharpness=st.floats(0.3, 20),
    sharpness_sd=st.floats(0, 2),
    regime_gap=st.floats(0, 3),
    persistence=st.floats(0, 0.99),
    divergence=st.floats(0, 8),
    divergence_sd=st.floats(0, 1.5),
    calibration=st.floats(0.3, 2),
    decay=st.floats(0, 1),
    request_sd=st.floats(0, 1),
    num_candidates=st.integers(2, 40),
)


@settings(deadline=None, max_examples=40)
@given(process=PROCESSES, temperature=st.floats(0.1, 2), seed=st.integers(0, 99))
def test_laws_sum_to_one_and_lumps_never_agree(process: TokenProcess, temperature: float, seed: int) -> None:
    roots = first_roots(process, np.random.default_rng(seed), 8)
    nodes = children_of(process, roots, np.arange(8) % process.num_candidates)
    draft, target = draft_laws(process, nodes, temperature), target_laws(process, nodes, temperature)
    for laws in (draft, target):
        assert np.isfinite(laws).all() and (laws >= 0).all()
        np.testing.assert_allclose(laws.sum(-1), 1, atol=1e-4)
    assert (draft[:, -1] == 0).all() and (target[:, -2] == 0).all()
    assert (np.diff(target[:, :-2]) <= 1e-6).all()  # the best token is token 0


def test_a_node_answers_the_same_by_whatever_way_it_is_asked() -> None:
    process = TokenProcess(decay=0.2)
    roots = first_roots(process, np.random.default_rng(3), 4)
    alone = [children_of(process, roots.at(slice(i, i + 1)), np.array([5])) for i in range(4)]
    together = children_of(process, roots, np.full(4, 5))
    np.testing.assert_array_equal(draft_laws(process, together)[2], draft_laws(process, alone[2])[0])
    other = children_of(process, roots, np.full(4, 6))
    assert (draft_laws(process, together) != draft_laws(process, other)).any(axis=-1).all()
    # A later round begins there: the target's law is the text's, only the drafter's drift begins anew.
    np.testing.assert_array_equal(target_laws(process, together.as_roots()), target_laws(process, together))


def test_regimes_persist_as_said_and_siblings_are_independent_given_them() -> None:
    process = TokenProcess(persistence=0.8, easy_share=0.3)
    node = first_roots(process, np.random.default_rng(0), 200_000)
    next_, sibling = (children_of(process, node, np.full(len(node.key), token)) for token in (0, 1))
    assert abs(node.is_easy.mean() - 0.3) < 0.005 and abs(next_.is_easy.mean() - 0.3) < 0.005
    assert abs(np.corrcoef(node.is_easy, next_.is_easy)[0, 1] - 0.8) < 0.005
    easy = node.is_easy
    assert abs(np.corrcoef(next_.is_easy[easy], sibling.is_easy[easy])[0, 1]) < 0.02


def test_a_drafter_without_divergence_is_the_target() -> None:
    process = TokenProcess(divergence=0)
    nodes = first_roots(process, np.random.default_rng(0), 100)
    draft, target = draft_laws(process, nodes, 0.7), target_laws(process, nodes, 0.7)
    np.testing.assert_allclose(draft[:, :-2], target[:, :-2], atol=1e-6)


@pytest.mark.parametrize(("field", "value"), [("persistence", 1.0), ("sharpness", 0.0), ("num_candidates", 1)])
def test_impossible_numbers_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        TokenProcess.model_validate({field: value})


def test_what_can_not_be_asked() -> None:
    process = TokenProcess()
    with pytest.raises(InputError, match="num_requests: must be >= 1, got 0"):
        first_roots(process, np.random.default_rng(0), 0)
    with pytest.raises(InputError, match="temperature: must be > 0"):
        draft_laws(process, first_roots(process, np.random.default_rng(0), 1), 0.0)
