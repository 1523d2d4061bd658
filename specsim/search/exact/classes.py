"""One static tree for several classes of context: the best on average, and the one that no class regrets much.

Averaging the acceptance tables first and multiplying them loses up to a quarter of the tokens: contexts differ, so a
path's probability is the mean of products, not the product of means. Where any ranks may be children, path events are
nested, and the likeliest paths by their true mean are the best tree. Else, and where several classes are weighed
against each other, the tokens of each class are kept apart: of all trees of a size only those are kept that no other
beats in every class, which is safe because a subtree enters its parent multiplied by numbers that are not negative.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.acceptance.profile import RankOrder
from specsim.errors import InputError
from specsim.search.exact.best_first import Path
from specsim.search.exact.certificate import Array, Certificate, checked_costs, checked_count, checked_table, rows_of
from specsim.search.exact.tree import best_tree, ranks_fall

MAX_KEPT = 3000
"""Trees of one size kept apart; beyond it the answer is no longer proved, and its bound says how far it can be off."""
MAX_EXACT_NODES = 12
"""Largest trees that are kept apart by scenario."""
WEIGHT_STEPS = 80
_ROOT_ONLY: list[Path] = []
_Sizes = list[tuple[Array, NDArray[np.intp]]]


@dataclass(frozen=True, eq=False)
class MixtureAnswer:
    """The best tree for a mixture: its paths (ranks from 0) and its true mean tokens per round."""

    paths: list[Path]
    tokens_per_round: float
    certificate: Certificate


@dataclass(frozen=True, eq=False)
class RobustAnswer:
    """The tree whose largest relative loss against each scenario's own best is least.

    Args:
        paths: Ranks from 0.
        regret: 1 - rate / best rate of the scenario where it loses most.
        rates, best_rates: By scenario.
        certificate: ``bound`` is a regret that no tree goes below.
    """

    paths: list[Path]
    regret: float
    rates: tuple[float, ...]
    best_rates: tuple[float, ...]
    certificate: Certificate


def best_mixture_tree(
    weights: ArrayLike, tables: Sequence[ArrayLike], max_nodes: int, max_depth: int, rank_order: RankOrder = "free"
) -> MixtureAnswer:
    """The tree of at most ``max_nodes`` with the most tokens per round when each round draws a class of context.

    Args:
        weights: Of the classes, summing to 1.
        tables: ``accept_prob[depth - 1, rank]`` of each class, ranks in the drafter's own order; what a class does not
            hold is never accepted in it.
        max_nodes, max_depth, rank_order: As in ``best_trees_by_size``.

    Raises:
        InputError: for weights that do not sum to 1, and tables that are too shallow.

    >>> answer = best_mixture_tree([0.5, 0.5], [[[0.9], [0.9]], [[0.1], [0.1]]], max_nodes=3, max_depth=2)
    >>> round(answer.tokens_per_round, 3)  # 1 + 0.5 + (0.81 + 0.01) / 2, not 1 + 0.5 + 0.25
    1.91
    """
    share, stack = _checked(weights, tables, max_nodes, max_depth)
    if rank_order == "free" or all(ranks_fall(table, max_depth) for table in stack):
        paths, tokens = _likeliest(share, stack, max_nodes)
        return MixtureAnswer(paths, tokens, Certificate("best_first", tokens))
    front = _Fronts(stack, max_nodes, ordered=True, linear=True)
    best = max((float(vector @ share), size, place) for size, vector, place in front.all())
    paths = front.paths(best[1], best[2])
    bound = best[0] if front.is_whole else _likeliest(share, stack, max_nodes)[1]
    return MixtureAnswer(paths, best[0], Certificate("dynamic_program", bound))


def best_robust_tree(
    scenarios: Sequence[ArrayLike],
    level_cost: ArrayLike,
    verify_cost: ArrayLike,
    max_nodes: int,
    max_depth: int,
    rank_order: RankOrder = "free",
) -> RobustAnswer:
    """The tree with the least largest regret over ``scenarios`` (one acceptance table each); costs as in ``best_tree``.

    >>> answer = best_robust_tree([[[0.9]], [[0.1]]], [0.2], [1.0, 1.1], max_nodes=2, max_depth=1)
    >>> answer.paths, round(answer.regret, 4)  # not to draft loses 1 - 1.3 / 1.9; to draft loses 1 - 1.1 / 1.3
    ([(0,)], 0.1538)
    """
    checked_count("scenarios", len(scenarios), 1)
    _, stack = _checked(np.full(len(scenarios), 1 / len(scenarios)), scenarios, max_nodes, max_depth)
    levels = np.concatenate(([0.0], np.cumsum(checked_costs("level_cost", level_cost, max_depth))))
    verify = checked_costs("verify_cost", verify_cost, max_nodes, positive=True)
    own = np.array([best_tree(table, level_cost, verify, max_nodes, max_depth, rank_order).rate for table in scenarios])
    candidates, bound, whole = [_ROOT_ONLY], 2.0, max_nodes <= MAX_EXACT_NODES
    for limit in range(max_depth + 1):
        cost, part = levels[limit] + verify, stack[:, :limit]
        if max_nodes <= MAX_EXACT_NODES:
            front = _Fronts(part, max_nodes, ordered=rank_order == "ordered", linear=False)
            _, size, place = min((float(np.max(1 - v / cost[n] / own)), n, i) for n, v, i in front.all())
            candidates.append(front.paths(size, place))
            whole &= front.is_whole
        if not whole:
            least, paths = _weighted(part, own, cost)
            bound = min(bound, least)
            if rank_order == "free" or all(ranks_fall(table, limit) for table in part):
                candidates.append(paths)
    if not whole:
        averages = (*map(rows_of, stack), rows_of(stack.mean(axis=0)))
        trees = [best_tree(table, level_cost, verify, max_nodes, max_depth, rank_order).tree for table in averages]
        candidates += [list(tree.paths()) for tree in trees]
    judged = [_rates(paths, stack, levels, verify) for paths in candidates]
    chosen = int(np.argmin([np.max(1 - rates / own) for rates in judged]))
    regret = float(np.max(1 - judged[chosen] / own))
    certificate = Certificate("dynamic_program", regret if whole else min(regret, bound))
    return RobustAnswer(candidates[chosen], regret, tuple(judged[chosen].tolist()), tuple(own.tolist()), certificate)


def _rates(paths: list[Path], stack: Array, levels: Array, verify: Array) -> Array:
    """The rate of one tree under each scenario."""
    tokens = np.ones(len(stack))
    for path in paths:
        tokens += np.prod([stack[:, depth, rank] for depth, rank in enumerate(path)], axis=0)
    return np.asarray(tokens / (levels[max(map(len, paths), default=0)] + verify[len(paths)]))


def _weighted(stack: Array, own: Array, cost: Array) -> tuple[float, list[Path]]:
    """A regret that no tree of this depth limit goes below, and the tree that came closest.

    The least *mean* regret under any weights is such a bound; the weights are moved towards where regret is large.
    """
    weights = np.full(len(own), 1 / len(own))
    bound, closest = -np.inf, (np.inf, 0, weights)
    for step in range(1, WEIGHT_STEPS + 1):
        vectors = _nested_vectors(weights / own, stack, len(cost))
        regrets = 1 - vectors / cost[: len(vectors), None] / own
        size = int((regrets @ weights).argmin())
        bound = max(bound, float((regrets @ weights)[size]))
        best = int(regrets.max(axis=1).argmin())
        if regrets[best].max() < closest[0]:
            closest = (float(regrets[best].max()), best, weights / own)
        weights = weights * np.exp(regrets[size] * 40 / np.sqrt(step))
        weights /= weights.sum()
    return bound, [path for path, _ in _by_weight(closest[2], stack, closest[1] + 1)]


def _nested_vectors(share: Array, stack: Array, max_nodes: int) -> Array:
    """Tokens of each class ``[nodes - 1, class]`` of the trees with the largest weighted path probabilities."""
    rows = [np.ones(len(stack))]
    rows += [vector for _, vector in _by_weight(share, stack, max_nodes)]
    return np.cumsum(rows, axis=0)


def _likeliest(share: Array, stack: Array, max_nodes: int) -> tuple[list[Path], float]:
    found = list(_by_weight(share, stack, max_nodes))
    return [path for path, _ in found], 1.0 + float(sum(vector @ share for _, vector in found))


def _by_weight(share: Array, stack: Array, max_nodes: int) -> list[tuple[Path, Array]]:
    """The ``max_nodes - 1`` likeliest paths, parents first. Every child is pushed: ranks need not fall."""
    max_depth = stack.shape[1]
    found: list[tuple[Path, Array]] = []
    heap: list[tuple[float, Path, Any]] = []

    def push(path: Path, vector: Array) -> None:
        if len(path) < max_depth:
            for rank in np.flatnonzero(np.isfinite(stack[0, len(path)])).tolist():
                child = vector * stack[:, len(path), rank]
                heapq.heappush(heap, (-float(child @ share), (*path, rank), child))

    push((), np.ones(len(stack)))
    while heap and len(found) < max_nodes - 1:
        _, path, vector = heapq.heappop(heap)
        found.append((path, vector))
        push(path, vector)
    return found


class _Fronts:
    """By size, the trees whose tokens by class may be best: no other of that size beats them in every class, and where
    only weighted sums matter (``linear``), none lies below a mixture of two others."""

    def __init__(self, stack: Array, max_nodes: int, ordered: bool, linear: bool) -> None:
        self.stack, self.ordered, self.linear, self.is_whole = stack, ordered, linear, True
        # lists[level][rank][size]: vectors [forest, class] of children from that rank on, and how each was made
        self.lists: list[list[_Sizes]] = [[] for _ in range(stack.shape[1])]
        below = self._nothing()
        for level in range(stack.shape[1] - 1, -1, -1):
            self._level(level, below, max(0, max_nodes - 1 - level))
            below = self.lists[level][0]
        self.top = below

    def _nothing(self) -> _Sizes:
        return [(np.zeros((1, len(self.stack))), np.full((1, 3), -1))]

    def _level(self, level: int, below: _Sizes, room: int) -> None:
        """Forests of children of a node at depth ``level``, each child with a forest from ``below`` under it."""
        rest, found = self._nothing(), [self._nothing()]
        for rank in range(int(np.isfinite(self.stack[0, level]).sum()) - 1, -1, -1):
            grown: list[list[tuple[Array, NDArray[np.intp]]]] = [[] for _ in range(room + 1)]
            for size, (vectors, _) in enumerate(rest[: room + 1]):
                if size == 0 or not self.ordered:  # to stop, or to leave this rank out
                    stay = np.full((len(vectors), 3), -1)
                    stay[:, 2] = np.arange(len(vectors))
                    grown[size].append((vectors, stay))
                for own, (unders, _) in enumerate(below[: room - size]):
                    heads = self.stack[:, level, rank] * (1 + unders)
                    sums = (heads[:, None] + vectors).reshape(-1, len(self.stack))
                    place = np.indices((len(unders), len(vectors))).reshape(2, -1)
                    made = np.column_stack((np.full(len(sums), own), *place))
                    grown[size + own + 1].append((sums, made))
            rest = [
                self._pruned(*(np.concatenate(part) for part in zip(*parts, strict=True))) for parts in grown if parts
            ]
            found.append(rest)
        self.lists[level] = found[::-1]

    def _pruned(self, vectors: Array, made: NDArray[np.intp]) -> tuple[Array, NDArray[np.intp]]:
        kept = _undominated(vectors)
        if self.linear and vectors.shape[1] == 2:
            kept = _hull(vectors, kept)
        if len(kept) > MAX_KEPT:
            self.is_whole = False
            kept = kept[np.linspace(0, len(kept) - 1, MAX_KEPT).astype(int)]
        return vectors[kept], made[kept]

    def all(self) -> list[tuple[int, Array, int]]:
        """Nodes beside the root, tokens by class and place of every tree kept."""
        return [(size, 1.0 + v, i) for size, (vectors, _) in enumerate(self.top) for i, v in enumerate(vectors)]

    def paths(self, size: int, place: int) -> list[Path]:
        """Paths of one tree, parents first."""
        return sorted(self._unwound(0, size, place, ()), key=len)

    def _unwound(self, level: int, size: int, place: int, above: Path) -> list[Path]:
        found: list[Path] = []
        rank = 0
        while size:
            own, under, rest = (int(x) for x in self.lists[level][rank][size][1][place])
            if own >= 0:
                found.append((*above, rank))
                found += self._unwound(level + 1, own, under, (*above, rank)) if own else []
                size -= own + 1
            place = rest
            rank += 1
        return found


def _undominated(vectors: Array) -> NDArray[np.intp]:
    """Places of the rows that no other row is at least as large as in every column, by falling first column."""
    order = np.lexsort((*(-vectors[:, c] for c in range(vectors.shape[1] - 1, 0, -1)), -vectors[:, 0]))
    if vectors.shape[1] == 1:
        return np.asarray(order[:1])
    if vectors.shape[1] == 2:
        second = vectors[order, 1]
        best_before = np.concatenate(([-np.inf], np.maximum.accumulate(second)[:-1]))
        return np.asarray(order[second > best_before])
    kept: list[int] = []
    front = np.empty((0, vectors.shape[1]))
    for place in order.tolist():
        if not (front >= vectors[place]).all(axis=1).any():
            kept.append(place)
            front = np.vstack((front, vectors[place]))
    return np.array(kept, np.intp)


def _hull(vectors: Array, kept: NDArray[np.intp]) -> NDArray[np.intp]:
    """Of rows by falling first column, those that some weights of the two columns prefer to all others."""
    chain: list[int] = []
    for place in kept.tolist():
        while len(chain) > 1 and _is_below(vectors[chain[-2]], vectors[chain[-1]], vectors[place]):
            chain.pop()
        chain.append(place)
    return np.array(chain, np.intp)


def _is_below(a: Array, b: Array, c: Array) -> bool:
    """Is ``b`` on or below the line from ``a`` to ``c``."""
    return bool((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]) < 0)


def _checked(weights: ArrayLike, tables: Sequence[ArrayLike], max_nodes: int, max_depth: int) -> tuple[Array, Array]:
    checked_count("max_nodes", max_nodes, 1)
    checked_count("max_depth", max_depth, 0)
    share = checked_costs("weights", weights)
    checked = [checked_table(table) for table in tables]
    if len(share) != len(checked) or not checked:
        raise InputError("weights", f"must be one for each of the {len(checked)} tables", len(share))
    if abs(float(share.sum()) - 1) > 1e-9:
        raise InputError("weights", "must sum to 1", float(share.sum()))
    for table in checked:
        if max_depth > len(table):
            raise InputError("max_depth", f"must be <= {len(table)}, the depth of the acceptance table", max_depth)
    stack = np.full((len(checked), max_depth, max(table.shape[1] for table in checked)), np.nan)
    for rows, table in zip(stack, checked, strict=True):
        rows[:, : table.shape[1]] = table[:max_depth]
    # What one class offers and another does not is never accepted in the latter; what none offers is no candidate.
    return share, np.where(np.isnan(stack) & np.isfinite(stack).any(axis=0), 0.0, stack)
