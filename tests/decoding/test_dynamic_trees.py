"""Trees grown by confidence, against brute force over all paths of a small vocabulary."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from toy_growth import Path, PathLaws, best, grow, kept_paths
from toy_language import Language, emitted_law, total_variation

from specsim.decoding import TreePolicy
from specsim.decoding.policies.best_first import BestFirst
from specsim.decoding.policies.cast import Cast
from specsim.decoding.policies.eagle2 import Eagle2
from specsim.decoding.policies.opt_tree import OptTree
from specsim.decoding.policies.talon import Talon

worlds = st.builds(PathLaws, st.integers(0, 2**32 - 1), st.just(3), st.sampled_from([0.1, 0.5, 3.0]), st.booleans())


def eagle2_pool(laws: PathLaws, top_k: int, depth: int) -> dict[Path, float]:
    """All that EAGLE-2 drafts, by the book: top_k children of the top_k best nodes of each level."""
    pool: dict[Path, float] = {}
    beam: list[Path] = [()]
    for _ in range(depth + 1):
        level = {}
        for path in beam:
            law = laws.law(0, path)
            for token in sorted(range(laws.vocab), key=lambda t: (-law[t], t))[:top_k]:
                level[(*path, token)] = laws.path_prob(0, (*path, token))
        pool |= level
        beam = [p for p in sorted(level, key=lambda p: -level[p]) if level[p] > 0][:top_k]
    return pool


def value(laws: PathLaws, paths: Any, row: int = 0) -> float:
    """Expected accepted tokens, if the target had the drafter's law."""
    return sum(laws.path_prob(row, path) for path in paths)


@settings(max_examples=60, deadline=None)
@given(laws=worlds, top_k=st.integers(1, 3), depth=st.integers(0, 3), total=st.integers(1, 12))
def test_eagle2_keeps_the_best_of_what_it_drafts(laws: PathLaws, top_k: int, depth: int, total: int) -> None:
    pool = eagle2_pool(laws, top_k, depth)
    chosen = kept_paths(grow(Eagle2(top_k, depth, total), laws, [0])[1])
    assert len(chosen) == min(total - 1, sum(v > 0 for v in pool.values()))
    values = sorted(pool.values(), reverse=True)[: len(chosen)]
    np.testing.assert_allclose(sorted((laws.path_prob(0, p) for p in chosen), reverse=True), values, rtol=1e-12)
    assert laws.ties or set(chosen) == best(pool, total - 1)


@settings(max_examples=60, deadline=None)
@given(laws=worlds, nodes=st.integers(1, 12), depth=st.integers(1, 4))
def test_opt_tree_is_the_best_tree_of_its_size_and_depth(laws: PathLaws, nodes: int, depth: int) -> None:
    chosen = kept_paths(grow(OptTree(nodes, 0.0, depth), laws, [0])[1])
    ideal = best(laws.all_paths(0, depth), nodes)
    assert value(laws, chosen) == pytest.approx(value(laws, ideal), rel=1e-12)
    assert laws.ties or set(chosen) == ideal


@settings(max_examples=30, deadline=None)
@given(laws=worlds, nodes=st.integers(1, 12), threshold=st.sampled_from([0.02, 0.2, 0.5]))
def test_opt_tree_stops_at_the_first_level_that_gains_too_little(laws: PathLaws, nodes: int, threshold: float) -> None:
    expected = [0.0, *(value(laws, best(laws.all_paths(0, depth), nodes)) for depth in range(1, 6))]
    gains = np.diff(expected)
    assert (gains >= -1e-12).all()
    levels = next((d for d, gain in enumerate(gains[:5], start=1) if gain <= threshold), 5)
    state, tree = grow(OptTree(nodes, threshold, 5), laws, [0])
    assert len(state.laws) == levels
    assert value(laws, kept_paths(tree)) == pytest.approx(expected[levels], rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(laws=worlds, budget=st.integers(1, 12), batch=st.integers(1, 12))
def test_best_first_is_the_best_tree_of_its_size(laws: PathLaws, budget: int, batch: int) -> None:
    """Whatever the batch, given passes enough; depth 6 holds the best 12 nodes of most of these laws."""
    ideal = best(laws.all_paths(0, 6), budget)
    assume(max(len(path) for path in ideal) < 6)
    state, tree = grow(BestFirst(budget, batch, max_passes=20), laws, [0])
    chosen = kept_paths(tree)
    assert value(laws, chosen) == pytest.approx(value(laws, ideal), rel=1e-12)
    assert laws.ties or set(chosen) == ideal
    # One at a time, what is run is in the end an inner node or at least among the best: no pass is wasted elsewhere.
    if batch == 1:
        assert set(state.expanded[0].tolist()) <= set(tree.nodes[0].tolist())


@settings(max_examples=60, deadline=None)
@given(laws=worlds, budget=st.integers(1, 12), mu=st.floats(0, 1), top_k=st.integers(1, 3))
def test_talon_spends_its_budget_near_the_best(laws: PathLaws, budget: int, mu: float, top_k: int) -> None:
    """The rule by the book: of each level's children those within mu of the best, as far as the budget goes."""
    level = best({(t,): laws.path_prob(0, (t,)) for t in range(3)}, min(top_k, budget))
    ideal, left = set(level), budget - len(level)
    while left:
        children = {(*p, t): laws.path_prob(0, (*p, t)) for p in level for t in range(3)}
        anchor = max(children.values())
        level = best({p: v for p, v in children.items() if v >= mu * anchor}, left)
        ideal, left = ideal | level, left - len(level)
    chosen = kept_paths(grow(Talon(budget, mu, top_k), laws, [0])[1])
    assert len(chosen) == budget == len(ideal)
    assert laws.ties or set(chosen) == ideal


def test_talon_between_its_ends() -> None:
    laws = PathLaws(5, 3, 0.8)
    chain = kept_paths(grow(Talon(9, 1.0, 3), laws, [0])[1])
    assert list(Counter(map(len, chain)).values()) == [3, 1, 1, 1, 1, 1, 1]
    wide = kept_paths(grow(Talon(9, 0.0, 3), laws, [0])[1])
    assert Counter(map(len, wide)) == {1: 3, 2: 6}
    assert set(wide) == best({p: v for p, v in laws.all_paths(0, 2).items() if len(p) > 1}, 6) | {(0,), (1,), (2,)}


FREE = (0.0,) * 3, (0.0,) * 12


@settings(max_examples=40, deadline=None)
@given(laws=worlds, depth=st.integers(1, 4), prices=st.sampled_from([None, (0.5, 0.5, 0.5), (0.0, 0.0, 0.0)]))
def test_cast_without_costs_is_eagle2(laws: PathLaws, depth: int, prices: Any) -> None:
    ours = grow(Cast(3, depth, *FREE, prices, 2), laws, [0])[1]
    theirs = grow(Eagle2(3, depth - 1, 12), laws, [0])[1]
    assert set(kept_paths(ours)) == set(kept_paths(theirs))


COSTS = st.lists(st.floats(0.001, 0.5), min_size=12, max_size=12).map(lambda steps: tuple(np.cumsum(steps).tolist()))


@settings(max_examples=80, deadline=None)
@given(laws=worlds, steps=COSTS, price=st.one_of(st.none(), st.floats(0.1, 5)), draft=st.floats(0.001, 0.3))
def test_cast_never_verifies_a_tree_that_a_smaller_one_beats(
    laws: PathLaws, steps: Any, price: float | None, draft: float
) -> None:
    """E/T of its tree is no less than of any part of it, or no less than the price where one is set.

    With one, every part left out and kept in turn gains more tokens than the price of its time, and a fraction to
    which such parts are added can not fall below both its former value and the price.
    """
    verify_cost = tuple(0.5 + cost for cost in steps)
    policy = Cast(3, 4, (draft, 1.5 * draft, 2 * draft), verify_cost, None if price is None else (price,) * 3, 2)
    state, tree = grow(policy, laws, [0])
    drafting = sum(policy.draft_cost[each.shape[1] - 1] for each in state.laws)
    values = sorted((laws.path_prob(0, path) for path in kept_paths(tree)), reverse=True)
    rates = [(1 + sum(values[:n])) / (drafting + verify_cost[n]) for n in range(len(values) + 1)]
    floor = max(rates) if price is None else min(max(rates), price)
    assert rates[-1] >= floor * (1 - 1e-12)


def test_cast_grows_less_where_passes_cost_more() -> None:
    """Affine costs; ten times the drafting cost gives no more passes, a steeper target no more nodes."""
    laws = PathLaws(8, 9, 0.2)

    def size(draft: float, slope: float) -> tuple[int, int]:
        costs = tuple(draft * (1 + 0.1 * k) for k in range(4)), tuple(1 + slope * n for n in range(30))
        states = [grow(Cast(4, 6, *costs, None, 2), laws, [row]) for row in range(20)]
        return sum(len(s.laws) for s, _ in states), sum(t.tokens.shape[1] for _, t in states)

    (long, large), (short, _), (_, small) = size(0.02, 0.02), size(0.2, 0.02), size(0.02, 0.2)
    assert long > short and large > small


def test_cast_beats_every_fixed_setting_at_its_costs() -> None:
    """Tokens over time, 60 contexts sure to unsure, where a verified node costs a twentieth of a pass."""
    draft_cost, verify_cost = tuple(0.06 + 0.006 * k for k in range(4)), tuple(1 + 0.05 * n for n in range(24))

    def rate(policy: TreePolicy) -> float:
        tokens = time = 0.0
        for row in range(60):
            laws = PathLaws(77, 12, [0.02, 0.05, 0.2][row % 3])
            state, tree = grow(policy, laws, [row])
            tokens += 1 + value(laws, kept_paths(tree), row)
            time += sum(draft_cost[each.shape[1] - 1] for each in state.laws) + verify_cost[tree.tokens.shape[1] - 1]
        return tokens / time

    fixed = max(rate(Eagle2(4, depth, total)) for depth in (0, 1, 3) for total in (4, 8, 16))
    assert rate(Cast(4, 6, draft_cost, verify_cost, None, 2)) > 1.02 * fixed


def test_cast_gives_all_rows_the_same_numbers() -> None:
    """A batch of alike rows is one row; of unlike rows it has one width, depth and size."""
    laws = PathLaws(8, 9, 0.2)
    policy = Cast(4, 6, (0.1, 0.11, 0.12, 0.13), tuple(1 + 0.05 * n for n in range(30)), None, 2)
    alone, alike = grow(policy, laws, [3])[1], grow(policy, laws, [3, 3, 3])[1]
    assert (alike.tokens == alone.tokens).all()
    _, unlike = grow(policy, laws, [0, 1, 2])
    assert (unlike.parents != -2).all()


SMALL: list[TreePolicy] = [
    Eagle2(2, 2, 5),
    OptTree(4, 0.3, 3),
    Talon(4, 0.5, 2),
    BestFirst(5, 2, 3),
    Cast(2, 3, (0.1, 0.2), (1.0, 1.1, 1.2, 1.3, 1.4), None, 1),
]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("policy", SMALL)
def test_confidence_may_prune_what_is_not_sampled(policy: TreePolicy, seed: int) -> None:
    """Exact law of three tokens when the one-hot rule verifies a tree shaped by the drafter's probabilities."""
    rng = np.random.default_rng(seed)
    draft, target = Language.random(rng), Language.random(rng)
    state = policy.start(np.zeros(1, dtype=np.int64))
    while state.frontier.shape[1] and len(state.laws) < 3:
        probs = np.take_along_axis(draft.at_nodes(state.parents, state.tokens), state.frontier[..., None], axis=1)
        state = policy.expand(state, probs)
    tree = policy.select(state)
    law = emitted_law("one_hot", tree.parents, tree.tokens, np.ones(1), draft, target)
    assert total_variation(law, target.joint(3)) < 1e-9
