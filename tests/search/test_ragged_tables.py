"""Tables that end early or offer fewer ranks at some depths: against every tree there is, in exact rationals."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction as F
from typing import Any

import pytest

from specsim.errors import InputError
from specsim.search.exact.problems import read_problems
from specsim.search.exact.solve import Answer, solve

Path = tuple[int, ...]
Tree = frozenset[Path]
Rows = list[list[F]]


def all_trees(rows: Rows, depth: int, max_nodes: int, ordered: bool) -> list[Tree]:
    """Every tree of ranks that the rows offer, root left out."""
    seen = frontier = {frozenset[Path]()}
    for _ in range(max_nodes - 1):
        grown = set()
        for tree in frontier:
            for above in [(), *tree]:
                for rank in range(len(rows[len(above)]) if len(above) < min(depth, len(rows)) else 0):
                    elders = all((*above, elder) in tree for elder in range(rank))
                    if (*above, rank) not in tree and (elders or not ordered):
                        grown.add(tree | {(*above, rank)})
        frontier = grown
        seen = seen | grown
    return list(seen)


def tokens(tree: Tree, rows: Rows) -> F:
    total = F(1)
    for path in tree:
        chance = F(1)
        for level, rank in enumerate(path):
            known = level < len(rows) and rank < len(rows[level])
            chance *= rows[level][rank] if known else 0
        total += chance
    return total


def depth_of(tree: Tree) -> int:
    return max(map(len, tree), default=0)


def answer(family: str, **data: Any) -> Answer:
    [(_, problem)], _ = read_problems({"family": family, "input": data}, "problem")
    return solve(problem)


def floats(rows: Any) -> Any:
    return [floats(row) for row in rows] if isinstance(rows, list) else float(rows)


def drawn(rng: random.Random, shape: list[int]) -> Rows:
    rows = []
    for num in shape:
        parts = [rng.randint(0, 3) for _ in range(num)]  # zeros and ties
        rows.append([F(part, max(8, sum(parts))) for part in parts])
    return rows


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("seed", range(25))
def test_every_family_against_every_tree(seed: int, ordered: bool) -> None:
    rng = random.Random(seed)
    shape = [rng.randint(1, 3) for _ in range(rng.randint(1, 3))]
    rows, others, num, depth = drawn(rng, shape), drawn(rng, shape), rng.randint(1, 6), rng.randint(0, 4)
    trees, order = all_trees(rows, depth, num, ordered), "ordered" if ordered else "free"
    verify = [F(rng.randint(4, 12), 4) for _ in range(num)]  # with dips: more nodes may cost less
    levels = [F(rng.randint(0, 4), 10) for _ in range(depth)]
    widths = [[F(rng.randint(0, 6), 10) for _ in range(30)] for _ in range(depth)]
    common = {"depth_limit": depth, "rank_order": order}
    priced = common | {"n_max": num, "verify_cost": floats(verify)}

    def rate(tree: Tree, own: Rows = rows) -> F:
        return tokens(tree, own) / (sum(levels[: depth_of(tree)], F(0)) + verify[len(tree)])

    def wide(tree: Tree) -> F:
        cost = verify[len(tree)]
        for level in range(depth_of(tree)):
            cost += widths[level][len({path for path in tree if len(path) == level} or {()}) - 1]
        return tokens(tree, rows) / cost

    def check(found: Answer, value: Callable[[Tree], F], best: F, rel: float = 1e-12) -> None:
        assert found.argmax is not None and found.objective == pytest.approx(float(best), rel=rel, abs=1e-15)
        tree = frozenset(tuple(rank - 1 for rank in path) for path in found.argmax["paths"])
        assert tree in trees and float(value(tree)) == pytest.approx(float(best), rel=rel, abs=1e-15)

    kind = "tree_ordered_rate" if ordered else "tree_rate"
    check(answer(kind, p=floats(rows), level_cost=floats(levels), **priced), rate, max(map(rate, trees)))
    found = answer("tree_width_all", p=floats(rows), level_width_cost=floats(widths), width_convention="all", **priced)
    check(found, wide, max(map(wide, trees)), rel=1e-10)
    kind = "tree_ordered_fixed_n" if ordered else "tree_fixed_n"
    found = answer(kind, p=floats(rows), n=num, **common)
    whole = [tokens(tree, rows) for tree in trees if len(tree) == num - 1 or not ordered]
    if whole:
        check(found, lambda tree: tokens(tree, rows), max(whole))
    else:
        assert found.status == "infeasible"
    classes = [{"weight": 0.25, "p": floats(rows)}, {"weight": 0.75, "p": floats(others)}]

    def mixed(tree: Tree) -> F:
        return (tokens(tree, rows) + 3 * tokens(tree, others)) / 4

    check(answer("tree_mixture_fixed_n", classes=classes, n=num, **common), mixed, max(map(mixed, trees)))
    own = [max(rate(tree, table) for tree in trees) for table in (rows, others)]

    def regret(tree: Tree) -> F:
        return max(1 - rate(tree, table) / best for table, best in zip((rows, others), own, strict=True))

    found = answer(
        "tree_robust_scenarios", scenarios=[floats(rows), floats(others)], level_cost=floats(levels), **priced
    )
    check(found, regret, min(map(regret, trees)))


def test_sequences_of_a_forest_may_end_at_different_depths() -> None:
    data = {"level_cost": [0.1, 0.0], "verify_cost": [1.0] * 6, "n_max_total": 6, "depth_limit": 2}
    found = answer("forest_rate", sequences=[[[0.5]], [[0.5, 0.25], [0.5]]], rank_order="free", **data)
    assert found.argmax == {"paths": [[[1]], [[1], [2], [1, 1]]]}
    assert found.objective == pytest.approx((1.5 + 2.0) / 1.1, rel=1e-15)


def test_costs_and_probabilities_are_checked_as_before() -> None:
    good: dict[str, Any] = {
        "p": [[0.5, 0.2], [0.5]], "n_max": 3, "depth_limit": 2, "level_cost": [0.1, 0.1],
        "verify_cost": [1.0, 1.0, 1.0], "rank_order": "free",
    }  # fmt: skip
    assert answer("tree_rate", **good).status == "optimal"
    wrong: tuple[dict[str, Any], ...] = (
        {"p": [[0.5], []]}, {"p": [[0.5], [0.5, 0.6]]}, {"p": [[0.5], [float("nan")]]}, {"level_cost": [0.1]},
        {"verify_cost": [1.0, 1.0]}, {"p": [0.5]},
    )  # fmt: skip
    for change in wrong:
        with pytest.raises(InputError):
            answer("tree_rate", **good | change)
