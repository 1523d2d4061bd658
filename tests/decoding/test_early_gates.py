"""C2T, whose classifier chooses nodes, and ProPD, which prunes halfway through the target: against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from toy_growth import PathLaws, grow, paths_of

from specsim.decoding import TokenTree
from specsim.decoding.policies.c2t import C2t, Gate, law_entropy
from specsim.decoding.policies.propd import IterationTime, early_pruned
from specsim.errors import InfeasibleError, InputError

BY_PATH = Gate(((((1.0, 0.0, 0.0),), (0.0,)),))
"""Sure as a sigmoid of the path probability: a threshold on it is one on the path probability."""
DEPTH_ONLY = Gate((((((0.0, 0.0, -1.0),), (1.5,))),))


def sigmoid(value: float) -> float:
    return 1 / (1 + np.exp(-value))


def test_a_gate_by_hand() -> None:
    gate = Gate((((((1.0, 2.0, 0.0), (0.0, 0.0, -1.0)), (0.5, 0.0))), (((1.0, 5.0),), (-1.0,))))
    # 1 + 2 x 0.5 + 0.5 = 2.5; -2 is cut to 0; 2.5 - 1
    assert gate.confidence(np.array([1.0, 0.5, 2.0])) == pytest.approx(sigmoid(1.5))
    assert law_entropy(np.array([[0.25] * 4, [1.0, 0, 0, 0]])) == pytest.approx([np.log(4), 0])


@pytest.mark.parametrize("seed", range(4))
def test_with_a_gate_on_the_path_the_tree_is_all_paths_above_one_threshold(seed: int) -> None:
    laws = PathLaws(seed, 4)
    policy = C2t(BY_PATH, sigmoid(0.07), top_k=4, width=64, max_depth=4)
    _, tree = grow(policy, laws, [0, 1, 2])
    for row in range(3):
        wanted = {path for path, prob in laws.all_paths(row, 4).items() if prob > 0.07}
        assert set(paths_of(tree.parents, tree.tokens, row)) - {(), (-1,)} == wanted


def test_levels_keep_the_surest_and_end_where_none_is_sure() -> None:
    laws = PathLaws(1, 5)
    _, tree = grow(C2t(BY_PATH, 0.5, top_k=5, width=2, max_depth=3), laws, [0, 1])
    for row in (0, 1):
        kept = [p for p in paths_of(tree.parents, tree.tokens, row) if p not in ((), (-1,))]
        beam: list[tuple[int, ...]] = [()]
        for _ in range(3):
            level = {(*p, t): laws.path_prob(row, (*p, t)) for p in beam for t in range(5)}
            beam = sorted((p for p in level if level[p] > 0), key=lambda p: -level[p])[:2]
            assert set(beam) <= set(kept)
        assert len(kept) <= 6
    _, shallow = grow(C2t(DEPTH_ONLY, 0.5, top_k=2, width=9, max_depth=5), laws, [0])  # 1.5 - depth > 0 at depth 1
    assert max(len(p) for p in paths_of(shallow.parents, shallow.tokens, 0)) == 1
    _, none = grow(C2t(BY_PATH, 1.0, top_k=2, width=9, max_depth=5), laws, [0])
    assert none.tokens.shape[1] == 1


def test_it_keeps_its_limits() -> None:
    for width, depth in ((1, 1), (3, 1), (3, 4), (8, 3)):
        policy = C2t(BY_PATH, 0.0, top_k=4, width=width, max_depth=depth)
        state, tree = grow(policy, PathLaws(0, 6), [0, 1, 2])
        assert tree.tokens.shape[1] <= policy.limits.nodes and state.expanded.shape[1] <= policy.limits.expanded
        assert len(state.laws) <= policy.limits.passes


@pytest.mark.parametrize(
    "layers",
    [(), ((((1.0,),), (0.0,)),), ((((1.0, 0.0, 0.0), (0.0, 0.0, 0.0)), (0.0, 0.0)),), ((((1.0, 0.0, 0.0),), ()),)],
)
def test_layers_that_do_not_fit_are_refused(layers: tuple[()]) -> None:
    with pytest.raises(InputError, match="layers"):
        Gate(layers)


def test_pruning_keeps_what_the_early_head_believes_in_with_all_above_it() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        num = int(rng.integers(1, 9))
        parents = np.array([[-1] + [int(rng.integers(0, n)) for n in range(1, num)] + [-2]])
        tokens = rng.integers(0, 6, (1, num + 1))
        tree = TokenTree(parents, tokens, rng.random((1, num + 1)), np.append(np.arange(num), -1)[None])
        laws = rng.dirichlet(np.ones(6), (1, num + 1))
        stays = {0}
        for node in range(1, num):
            likely = np.argsort(-laws[0, parents[0, node]])[:2]
            if parents[0, node] in stays and tokens[0, node] in likely:
                stays.add(node)
        found = early_pruned(tree, laws, 2)
        assert found.nodes[0].tolist() == sorted(stays)
        for place, node in enumerate(sorted(stays)[1:], start=1):
            assert found.nodes[0, found.parents[0, place]] == parents[0, node]
            assert found.tokens[0, place] == tokens[0, node]
    everything = early_pruned(tree, laws, 6)
    assert everything.nodes[0].tolist() == list(range(num))


def test_without_early_laws_there_is_no_pruning() -> None:
    tree = TokenTree(np.array([[-1, 0]]), np.array([[0, 1]]), np.ones((1, 2)), np.array([[0, 1]]))
    with pytest.raises(InfeasibleError, match="early layer"):
        early_pruned(tree, None, 2)


def test_the_line_follows_times_that_change_and_gives_the_best_size() -> None:
    rng, line = np.random.default_rng(1), IterationTime(memory=0.98)
    for turn in range(800):
        nodes = int(rng.integers(1, 65))
        base, slope = (0.020, 0.0001) if turn < 400 else (0.030, 0.0004)
        line = line.updated(nodes, base + slope * nodes + 0.001 * rng.standard_normal())
    assert line.line == pytest.approx((0.030, 0.0004), rel=0.08)
    tokens = 1 + np.cumsum(0.8 / np.arange(1, 65) ** 0.9)
    intercept, slope = line.line
    assert line.best_size(tokens) == 1 + int(np.argmax(tokens / (intercept + slope * np.arange(1, 65))))
    assert IterationTime(1.0).updated(8, 0.5).line == (0.5, 0.0)
    with pytest.raises(InputError, match="iterations"):
        _ = IterationTime(1.0).line
