"""The fastest static tree where a level's draft cost depends on how many nodes are run: branch and bound over widths.

For given widths the best tree is a beam: at each level the children of the nodes run, sorted, dominate any other choice
element by element. So the search is over widths. With the rate of the best tree known as an incumbent, E - rate x cost
is maximised; its bound lets every level choose among the children of the best nodes of an *unrestricted* level before
it, which is exact for the two levels after a fixed prefix of widths, and is tight at the root for all but odd tables.
Where it is not, the next width is branched on.

Two conventions: ``all`` runs every node of a level, ``expanded`` only those that have a child in the tree.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.errors import InputError
from specsim.search.exact.certificate import Array, Certificate, checked_costs, checked_count, checked_table

Convention = Literal["all", "expanded"]
TOLERANCE = 1e-12
MAX_BOUNDS = 3000
"""Bound evaluations before the search stops and reports its gap."""


@dataclass(frozen=True, eq=False)
class WidthAnswer:
    """The fastest tree.

    Args:
        paths: Ranks (from 0) of each node but the root, parents first.
        rate: Tokens per unit of cost.
        tokens_per_round, cost: Of a round of it.
        certificate: ``branch_and_bound``; its bound is above the rate where the search was cut short.
    """

    paths: list[tuple[int, ...]]
    rate: float
    tokens_per_round: float
    cost: float
    certificate: Certificate


@dataclass(frozen=True, eq=False)
class _Level:
    """Nodes of one depth, values descending: their path probabilities, parents in the level above, ranks."""

    values: Array
    parents: NDArray[np.intp]
    ranks: NDArray[np.intp]

    def first(self, num: int) -> _Level:
        return _Level(self.values[:num], self.parents[:num], self.ranks[:num])


_ROOT = _Level(np.ones(1), np.zeros(1, np.intp), np.zeros(1, np.intp))


def best_width_tree(
    accept_prob: ArrayLike,
    level_width_cost: Sequence[ArrayLike],
    verify_cost: ArrayLike,
    max_nodes: int,
    max_depth: int,
    convention: Convention = "all",
) -> WidthAnswer:
    """The tree with the highest E[tokens] / E[cost] where drafting a level costs by the nodes that are run for it.

    Args:
        accept_prob: ``[depth - 1, rank]``; children may be of any ranks.
        level_width_cost: ``[level - 1][width - 1]``: cost of drafting that level from ``width`` nodes of the one above,
            paid if the tree is at least that deep; as far as widths can go.
        verify_cost: ``[nodes - 1]``, root in; above 0.
        max_nodes, max_depth: Limits; the root alone is no speculation.
        convention: Which nodes of the level above count.

    Raises:
        InputError: for a wrong table, or one shorter than its limit.

    >>> answer = best_width_tree([[0.6, 0.3], [0.5, 0.2]], [[0.1], [0.1, 0.4]], [1, 1, 1, 1], 4, 2)
    >>> answer.paths, round(answer.rate, 4)  # (1 + 0.6 + 0.3) / (1 + 0.1)
    ([(0,), (1,)], 1.7273)
    """
    table = checked_table(accept_prob)
    checked_count("max_nodes", max_nodes, 1)
    checked_count("max_depth", max_depth, 0, len(table))
    verify = checked_costs("verify_cost", verify_cost, max_nodes, positive=True)
    search = _Search(
        table[:max_depth], checked_widths(level_width_cost, table, max_nodes, max_depth), verify, convention
    )
    return search.run()


def checked_widths(costs: Sequence[ArrayLike], table: Array, max_nodes: int, max_depth: int) -> list[Array]:
    """The costs of each level as far as widths can go. Raises InputError for a table that is shorter, or wrong."""
    if len(costs) < max_depth:
        raise InputError("level_width_cost", f"must be at least {max_depth} lists, one per level", len(costs))
    widest, found = 1, []
    for level in range(max_depth):
        needed = max(0, min(widest, max_nodes - 1 - level))
        found.append(checked_costs(f"level_width_cost[{level}]", costs[level], needed))
        widest = min(widest * int(np.isfinite(table[level]).sum()), max_nodes)
    return found


class _Search:
    """One search: tables, incumbent, and the bound under the incumbent's rate."""

    def __init__(self, table: Array, costs: list[Array], verify: Array, convention: Convention) -> None:
        order = np.argsort(-table, axis=1, kind="stable")
        self.rows = [row[np.isfinite(row)] for row in np.take_along_axis(table, order, axis=1)]
        self.order = order
        self.costs, self.verify, self.convention = costs, verify, convention
        self.max_depth, self.max_nodes = len(costs), len(verify)
        self.rate = 1.0 / float(verify[0])
        self.best: tuple[list[_Level], float, float] = ([], 1.0, float(verify[0]))
        self.num_bounds = 0
        self._pair_sums: dict[int, tuple[_Level, Array]] = {}

    def run(self) -> WidthAnswer:
        improved, bound = self.max_depth > 0 and self.max_nodes > 1, 0.0
        if improved:
            self._try_pools()
        while improved:
            improved, bound = self._pass()
        (levels, tokens, cost), rate = self.best, self.rate
        limit = rate if bound <= TOLERANCE * tokens else rate + bound / float(self.verify.min())
        return WidthAnswer(self._paths(levels), rate, tokens, cost, Certificate("branch_and_bound", limit))

    # -- incumbents

    def _try_pools(self) -> None:
        """The best-first trees of each depth limit, whose widths are as good a start as any."""
        levels = [_ROOT]
        for depth in range(self.max_depth):
            levels.append(self._children(levels[-1], depth, self.max_nodes - 1))
            values = np.concatenate([level.values for level in levels[1:]])
            depths = np.concatenate([np.full(len(level.values), d) for d, level in enumerate(levels[1:], 1)])
            kept = depths[np.argsort(-values, kind="stable")]
            for size in range(depth + 1, min(len(kept), self.max_nodes - 1) + 1):
                counts = np.bincount(kept[:size], minlength=depth + 2)[1:]
                if counts.all():
                    self._try([level.first(n) for level, n in zip(levels[1:], counts.tolist(), strict=True)])

    def _try(self, levels: list[_Level]) -> bool:
        """Judge a tree given as its levels (each one's parents among the nodes kept above); keep it if it is faster."""
        num_nodes = 1 + sum(len(level.values) for level in levels)
        if num_nodes > self.max_nodes:
            return False
        cost = float(self.verify[num_nodes - 1])
        for depth, level in enumerate(levels):
            above = 1 if depth == 0 else len(levels[depth - 1].values)
            run = above if self.convention == "all" else len(np.unique(level.parents))
            cost += float(self.costs[depth][run - 1])
        tokens = 1.0 + float(sum(level.values.sum() for level in levels))
        if tokens / cost <= self.rate:
            return False
        self.rate, self.best = tokens / cost, (levels, tokens, cost)
        return True

    # -- branch and bound

    def _pass(self) -> tuple[bool, float]:
        """Search under the present rate; stop at the first improvement. Returns it, or the bound that is left."""
        heap: list[tuple[float, tuple[int, ...]]] = [(-np.inf, ())]
        rate, open_bound = self.rate, 0.0
        while heap:
            bound, widths = heapq.heappop(heap)
            if -bound <= TOLERANCE * self.best[1]:
                return False, open_bound
            if self.num_bounds > MAX_BOUNDS:
                return False, max(open_bound, -bound)
            node = _Node(self, widths, rate)
            self.num_bounds += 1
            for levels in node.maximisers():
                self._try(levels)
            if self.rate > rate * (1 + 1e-15):
                return True, 0.0
            open_bound = max(open_bound, node.stop_bound)
            if node.bound <= TOLERANCE * self.best[1]:
                continue
            for child, value in node.branches():
                heapq.heappush(heap, (-min(value, node.bound), child))
        return False, open_bound

    # -- levels

    def _children(self, parents: _Level, depth: int, limit: int) -> _Level:
        """The ``limit`` best children of ``parents``, which stand at ``depth``; ties to elder parents, better ranks."""
        row = self.rows[depth]
        values = (parents.values[:, None] * row).reshape(-1)
        kept = np.argsort(-values, kind="stable")[:limit]
        return _Level(values[kept], kept // len(row), kept % len(row))

    def _children_of_each(self, parents: _Level, depth: int, num: int) -> _Level:
        """``num`` children of ``parents``: the best of each, then the best of all others."""
        every = self._children(parents, depth, len(parents.values) * len(self.rows[depth]))
        chosen = np.argsort(every.ranks > 0, kind="stable")[:num]
        kept = np.sort(chosen)
        return _Level(every.values[kept], every.parents[kept], every.ranks[kept])

    def _pairs(self, parents: _Level, depth: int) -> Array:
        """``[run - 1, kept - 1]``: sum of the best ``kept`` children of the first ``run`` parents; -inf where none are.

        Where only nodes with a child are run, each of them keeps its best child.
        """
        row, limit = self.rows[depth], self.max_nodes - 1
        num = min(len(parents.values), limit)
        sums, best = np.full((num, limit), -np.inf), np.empty(0)
        firsts, others = np.cumsum(parents.values[:num]) * row[0], row[1:]
        for run in range(num):
            if self.convention == "all":
                best = -np.sort(-np.concatenate((best, parents.values[run] * row)))[:limit]
                sums[run, : len(best)] = np.cumsum(best)
            else:
                best = -np.sort(-np.concatenate((best, parents.values[run] * others)))[:limit]
                room = min(len(best), limit - run - 1)
                sums[run, run] = firsts[run]
                sums[run, run + 1 : run + 1 + room] = firsts[run] + np.cumsum(best[:room])
        return sums

    def _paths(self, levels: list[_Level]) -> list[tuple[int, ...]]:
        above: list[tuple[int, ...]] = [()]
        found: list[tuple[int, ...]] = []
        for depth, level in enumerate(levels):
            above = [
                (*above[parent], int(self.order[depth, rank]))
                for parent, rank in zip(level.parents.tolist(), level.ranks.tolist(), strict=True)
            ]
            found += above
        return found


class _Node:
    """A prefix of widths, and the best that any continuation can reach under a rate."""

    def __init__(self, search: _Search, widths: tuple[int, ...], rate: float) -> None:
        self.search, self.widths, self.rate = search, widths, rate
        limit, s = search.max_nodes - 1, search
        self.beams, at = [_ROOT], 0.0
        self.kept = [np.zeros(1)]  # best sum over the prefix by the nodes kept in it
        for depth, width in enumerate(widths):
            at -= rate * float(s.costs[depth][len(self.beams[-1].values) - 1])
            self.kept.append(self._with_level(self.kept[-1], self.beams[-1], depth, width))
            self.beams.append(s._children(self.beams[-1], depth, limit).first(width))
        self.at = at
        self._solve()

    @property
    def stop_bound(self) -> float:
        """Value of the prefix alone. Above 0 only for odd costs, that fall with the number of nodes run."""
        value = float(self.totals[:, 0].max())
        return value if value > TOLERANCE * self.search.best[1] else 0.0

    def _with_level(self, kept: Array, beam: _Level, depth: int, width: int) -> Array:
        """Add a level that keeps at least ``width`` nodes (exactly so many where all nodes are run)."""
        sums = self.search._pairs(beam, depth)[len(beam.values) - 1]
        counts = range(width, width + 1)
        if self.search.convention == "expanded":
            counts = range(max(width, len(beam.values)), len(sums) + 1)
        best = np.full(self.search.max_nodes, -np.inf)
        for count in counts:
            if count <= len(sums) and np.isfinite(sums[count - 1]):
                room = min(len(kept), len(best) - count)
                np.maximum(best[count : count + room], kept[:room] + sums[count - 1], out=best[count : count + room])
        return best

    def _solve(self) -> None:
        """Values of what follows, last level first: ``after[l][run - 1, rest]`` with ``rest`` nodes still to place."""
        s, first = self.search, len(self.widths)
        self.pairs: list[Array] = []
        level = self.beams[-1]
        for depth in range(first, s.max_depth):
            if first == 0:
                self.pairs.append(self._cached_pairs(level, depth))
            else:
                pairs = s._pairs(level, depth)
                self.pairs.append(pairs[len(level.values) - 1 :] if depth == first else pairs)
            level = s._children(level, depth, s.max_nodes - 1)
        self.after: list[Array] = [np.empty(0)] * (len(self.pairs) + 1)
        follow = np.full((s.max_nodes - 1, s.max_nodes), -np.inf)
        follow[:, 0] = 0.0
        for place in range(len(self.pairs) - 1, -1, -1):
            values = self._values(self.pairs[place], follow, first + place, exact_run=place == 0)
            self.after[place] = values
            follow = np.full((s.max_nodes - 1, s.max_nodes), -np.inf)
            follow[: len(values)] = values
            if s.convention == "expanded":
                follow = np.maximum.accumulate(follow, axis=0)
            follow[:, 0] = 0.0
        kept, tail = self.kept[-1], self.after[0][0] if self.pairs else np.full(s.max_nodes, -np.inf)
        tail = tail.copy()
        tail[0] = 0.0
        self.totals = _totals(kept, tail, s.verify, self.rate) + 1.0 + self.at
        self.bound = float(self.totals.max())

    def _cached_pairs(self, level: _Level, depth: int) -> Array:
        cache = self.search._pair_sums
        if depth not in cache:
            cache[depth] = (level, self.search._pairs(level, depth))
        return cache[depth][1]

    def _values(self, pairs: Array, follow: Array, depth: int, exact_run: bool) -> Array:
        """``[run - 1, rest]`` for one level: keep some children, and go on from them with the rest."""
        s = self.search
        values = np.full((len(pairs), s.max_nodes), -np.inf)
        runs = len(self.beams[-1].values) + np.arange(len(pairs)) if exact_run else 1 + np.arange(len(pairs))
        costs = np.full(len(pairs), np.inf)
        known = runs <= len(s.costs[depth])
        costs[known] = s.costs[depth][runs[known] - 1]
        for count in range(1, s.max_nodes):
            rows = len(pairs)
            if s.convention == "expanded":  # every node run has a child
                rows = int(np.searchsorted(runs, count, side="right"))
            part = values[:rows, count:]
            np.maximum(part, pairs[:rows, count - 1, None] + follow[None, count - 1, : s.max_nodes - count], out=part)
        return values - self.rate * costs[:, None]

    def branches(self) -> list[tuple[tuple[int, ...], float]]:
        """Each next width with a bound."""
        s, depth = self.search, len(self.widths)
        found: list[tuple[tuple[int, ...], float]] = []
        if depth + 1 > s.max_depth:
            return found
        at = self.at - self.rate * float(s.costs[depth][len(self.beams[-1].values) - 1])
        stop = np.full(s.max_nodes, -np.inf)
        stop[0] = 0.0
        after = self.after[1] if len(self.pairs) > 1 else np.empty((0, s.max_nodes))
        most = int(np.isfinite(self.pairs[0][0]).sum())
        for width in range(1, most + 1):
            kept = self._with_level(self.kept[-1], self.beams[-1], depth, width)
            tail = np.maximum(stop, after[width - 1]) if width <= len(after) else stop
            value = float(_totals(kept, tail, s.verify, self.rate).max()) + 1.0 + at
            if value > TOLERANCE:
                found.append(((*self.widths, width), value))
        return found

    def maximisers(self) -> list[list[_Level]]:
        """The tree of the widths that reach the bound; a true tree, whose own rate may be lower."""
        if not np.isfinite(self.bound):
            return []
        best = np.unravel_index(int(self.totals.argmax()), self.totals.shape)
        ends = {(int(best[0]), int(best[1])), (int(self.totals[:, 0].argmax()), 0)}
        return [self._tree(used, rest) for used, rest in sorted(ends)]

    def _tree(self, used: int, rest: int) -> list[_Level]:
        """The tree with ``used`` nodes in the prefix and ``rest`` after it."""
        s = self.search
        counts, runs = self._prefix_counts(used), list(self.widths)
        place, run = 0, 0  # row of the present width in after[place]
        while rest > 0:
            follow = self._follow(place + 1)
            options = [
                (float(self.pairs[place][run, count - 1] + follow[count - 1, rest - count]), count)
                for count in range(1, rest + 1)
                if s.convention == "all" or count >= self._run_of(place, run)
            ]
            count = max(options)[1]
            counts.append(count)
            rest -= count
            if rest > 0:
                width = count
                if s.convention == "expanded":
                    width = int(np.argmax(self.after[place + 1][:count, rest])) + 1
                runs.append(width)
                run = width - 1
            place += 1
        return self._beam(counts, runs[: max(0, len(counts) - 1)])

    def _run_of(self, place: int, row: int) -> int:
        return len(self.beams[-1].values) if place == 0 else row + 1

    def _follow(self, place: int) -> Array:
        s = self.search
        follow = np.full((s.max_nodes - 1, s.max_nodes), -np.inf)
        if place < len(self.pairs):
            follow[: len(self.after[place])] = self.after[place]
            if s.convention == "expanded":
                follow = np.maximum.accumulate(follow, axis=0)
        follow[:, 0] = 0.0
        return follow

    def _prefix_counts(self, used: int) -> list[int]:
        """Nodes kept at each level of the prefix, summing to ``used``."""
        counts: list[int] = []
        for depth in range(len(self.widths) - 1, -1, -1):
            beam, width = self.beams[depth], self.widths[depth]
            sums = self.search._pairs(beam, depth)[len(beam.values) - 1]
            least = width if self.search.convention == "all" else max(width, len(beam.values))
            most = width if self.search.convention == "all" else min(used, len(sums))
            before = self.kept[depth]
            options = [
                (float(before[used - c] + sums[c - 1]), c)
                for c in range(least, most + 1)
                if 0 <= used - c < len(before)
            ]
            count = max(options)[1]
            counts.append(count)
            used -= count
        return counts[::-1]

    def _beam(self, counts: list[int], runs: list[int]) -> list[_Level]:
        """Levels of the tree that keeps ``counts`` nodes a level and runs the best ``runs`` of them."""
        levels, above = [], _ROOT
        for depth, count in enumerate(counts):
            if self.search.convention == "all":
                above = self.search._children(above, depth, count)
            else:
                levels.append(self.search._children_of_each(above, depth, count))
                above = levels[-1].first(runs[depth]) if depth < len(runs) else levels[-1]
                continue
            levels.append(above)
        return levels


def _totals(kept: Array, tail: Array, verify: Array, rate: float) -> Array:
    """``[used, rest]``: value of placing ``used`` nodes in the prefix and ``rest`` after it; -inf beyond the budget."""
    used, rest = np.arange(len(kept)), np.arange(len(tail))
    size = used[:, None] + rest
    cost = np.where(size < len(verify), verify[np.minimum(size, len(verify) - 1)], np.inf)
    return np.asarray(kept[:, None] + tail - rate * cost)
