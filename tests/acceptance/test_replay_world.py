"""A forest answers tree policies as the drafter would; where it can not, the truth lies within the bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from replay_toys import Toy

from specsim.acceptance.replay import Bounds, Exact, Forest, Superset, evaluate
from specsim.acceptance.replay.world import play
from specsim.decoding import (
    BestFirst,
    Cast,
    ConfidenceChain,
    Eagle2,
    OptTree,
    StaticTree,
    Talon,
    TreePolicy,
    depths,
    path_probs,
)
from specsim.tree import DraftTree

POLICIES: list[TreePolicy] = [
    StaticTree(DraftTree.chain(0)),
    StaticTree(DraftTree.chain(5)),
    StaticTree(DraftTree.from_widths((3, 2, 1))),
    StaticTree(DraftTree((-1, 0, 0, 2, 1), ranks=(0, 4, 1, 0, 2))),  # ranks left out, elders after younger
    Eagle2(4, 3, 16),
    Eagle2(2, 4, 9),
    Eagle2(10, 2, 40),
    OptTree(12, 0.05, 6),
    OptTree(20, 0.3, 4),
    Talon(20, 0.03, 5, 6),
    BestFirst(16, 3, 6),
    BestFirst(24, 8, 4),
    ConfidenceChain(8, 0.35, "token", "top"),
    ConfidenceChain(8, 0.1, "path", "top"),
    ConfidenceChain(8, 0.3, "law", "top"),
]


def truth(toy: Toy, policy: TreePolicy, text: list[int], num: int) -> dict[str, np.ndarray]:
    """The policy itself, on whole laws, at the first positions of a text."""
    _, tree = toy.drafted(policy, text[:num])
    depth = depths(tree.parents)
    follows = np.array([[text[t + d] for d in range(policy.limits.depth + 1)] for t in range(num)])
    hit = (tree.tokens == np.take_along_axis(follows, depth, 1)) | (tree.parents < 0)
    on_text = path_probs(tree.parents, hit.astype(float)) > 0
    above = np.take_along_axis(tree.tokens, tree.parents.clip(0), 1)
    chances = np.where(tree.parents >= 0, toy.target[above, tree.tokens], 1.0)
    return {
        "accepted": (depth * on_text).max(1),
        "expected": path_probs(tree.parents, chances).sum(1),
        "nodes": (tree.parents >= -1).sum(1),
    }


@pytest.fixture(scope="module")
def union() -> tuple[Toy, list[int], Forest]:
    toy = Toy.random(seed=1)
    text = toy.text(120, seed=2)
    return toy, text, toy.forest([text], Superset(6, 8, 3, policies=tuple(POLICIES)))


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_a_policy_that_was_recorded_with_the_rest_is_replayed_exactly(
    policy: TreePolicy, union: tuple[Toy, list[int], Forest]
) -> None:
    toy, text, forest = union
    played = play(forest.texts[0], policy)
    wanted = truth(toy, policy, text, len(played.nodes))
    assert not played.is_missing.any()
    assert played.accepted.tolist() == wanted["accepted"].tolist() and played.accepted.any() == (policy != POLICIES[0])
    assert played.nodes.tolist() == wanted["nodes"].tolist()
    assert np.allclose(played.expected, wanted["expected"])
    assert isinstance(evaluate(forest, policy, "one_hot"), Exact)


def test_a_long_text_is_played_in_parts() -> None:
    toy = Toy.random(seed=3)
    text = toy.text(1200, seed=4)
    policy = Eagle2(3, 2, 10)
    played = play(toy.forest([text], Superset(1, 1, 2, policies=(policy,))).texts[0], policy)
    assert played.accepted.tolist() == truth(toy, policy, text, len(played.nodes))["accepted"].tolist()


@pytest.mark.parametrize("policy", POLICIES[1:], ids=str)
def test_what_was_not_recorded_leaves_bounds_that_hold(policy: TreePolicy) -> None:
    toy = Toy.random(seed=POLICIES.index(policy), sharpness=0.3)
    texts = [toy.text(60, seed=place) for place in range(2)]
    sparse = toy.forest(texts, Superset(4, 6, 3, batch=2))
    full = toy.forest(texts, Superset(4, 6, 3, policies=(policy,), batch=2))
    for few, all_ in zip(sparse.texts, full.texts, strict=True):
        guess, known = play(few, policy), play(all_, policy)
        assert not known.is_missing.any()
        assert (guess.fewest <= known.accepted).all() and (known.accepted <= guess.most).all()
        sound = ~guess.is_missing
        assert (guess.accepted[sound] == known.accepted[sound]).all()
        assert (guess.nodes[sound] == known.nodes[sound]).all()
    exact, found = evaluate(full, policy, "one_hot"), evaluate(sparse, policy, "one_hot")
    assert isinstance(exact, Exact)
    if isinstance(found, Bounds):
        on_texts = evaluate(replace_targets(full), policy, "one_hot")
        assert isinstance(on_texts, Exact)
        assert found.low - 1e-9 <= on_texts.value <= found.high + 1e-9 and 0 < found.missing <= 1
    else:
        assert found.value == pytest.approx(exact.value)


def replace_targets(forest):  # type: ignore[no-untyped-def]
    """The forest without target laws: the value is then what these very rounds brought."""
    texts = [replace(t, laws=replace(t.laws, target_probs=None, entropy=None)) for t in forest.texts]
    return replace(forest, texts=texts)


def test_eagle2_is_nested_in_depth_and_size_and_not_in_width() -> None:
    """A forest of the wide beam answers for its cuts in depth and size, and not for a narrower beam.

    The notes count nodes outside the pool of K = 10 for K = 2 in about half of random contexts.
    """
    toy = Toy.random(seed=8, vocab=40, sharpness=0.4)
    texts = [toy.text(150, seed=s) for s in range(2)]
    forest = toy.forest(texts, Superset(1, 1, 1, policies=(Eagle2(10, 4, 60),)))
    for nested in (Eagle2(10, 4, 60), Eagle2(10, 4, 20), Eagle2(10, 2, 60), Eagle2(10, 1, 9)):
        assert isinstance(evaluate(forest, nested, "one_hot"), Exact)
    for narrower in (Eagle2(2, 4, 12), Eagle2(4, 4, 24)):
        found = evaluate(forest, narrower, "one_hot")
        assert isinstance(found, Bounds) and "not recorded" in found.why
        both = toy.forest(texts, Superset(1, 1, 1, policies=(Eagle2(10, 4, 60), narrower)))
        assert isinstance(evaluate(both, narrower, "one_hot"), Exact)


def test_rows_of_cast_decide_together_so_each_position_is_played_alone() -> None:
    toy = Toy.random(seed=5)
    text = toy.text(60, seed=6)
    policy = Cast(4, 4, (0.1, 0.12, 0.14, 0.16), tuple(1 + 0.01 * n for n in range(24)), None, 4)
    forest = toy.forest([text], Superset(60, 200, 5))
    played = play(forest.texts[0], policy)
    alone = [truth(toy, policy, text[t:], 1)["accepted"][0] for t in range(len(played.nodes))]
    assert not played.is_missing.all()
    assert [a for a, gap in zip(alone, played.is_missing, strict=True) if not gap] == played.accepted[
        ~played.is_missing
    ].tolist()


@pytest.mark.parametrize("policy", [POLICIES[2], POLICIES[4], POLICIES[7]], ids=str)
def test_replay_at_temperature_one_agrees_with_rounds_that_were_decoded(policy: TreePolicy) -> None:
    toy = Toy.random(seed=9)
    texts = [toy.text(400, seed=s) for s in range(5)]
    found = evaluate(toy.forest(texts, Superset(1, 1, 1, policies=(policy,))), policy, "one_hot")
    emitted = toy.decoded(policy, "one_hot", rounds=60, rows=200, seed=7)[10:]
    by_row = emitted.mean(0)
    assert isinstance(found, Exact)
    sd = np.hypot(by_row.std() / np.sqrt(len(by_row)), (found.high - found.low) / 2 / 1.8)
    assert abs(found.value - by_row.mean()) < 4 * sd  # |z| < 4 on 3 cases: 2e-4 by chance
