"""The best chain or static tree at many points at once: batch sizes, contexts, acceptances of one set of models.

Each point is searched as ``specsim.search.tune`` searches its one, but by size and depth alone, without intervals, and
with the passes of all points priced together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np

from specsim.acceptance.emitted import Acceptance, longest_chain, path_probs, tokens_per_round
from specsim.cost.memory import MemoryLedger, memory_ledger
from specsim.errors import InfeasibleError
from specsim.methods.round import Situation
from specsim.scenario import Deployment
from specsim.search.exact.tree import TreesBySize, trees_of
from specsim.search.rounds import Shape, price_rounds, simplest_first
from specsim.search.tree_bounds import (
    Found,
    best_by_widths,
    first_pass_seconds,
    found_tree,
    is_searched_by_widths,
    level_seconds,
    likeliest,
    pass_seconds,
    rates_by_size,
)
from specsim.tree import DraftTree
from specsim.work import Float, HostWork

FINALISTS: Final = 4
"""Trees of each point that are priced exactly."""
GAP: Final = 2e-3
"""Largest gap that is left at a point without pricing more of its trees."""
MORE_FINALISTS: Final = 24
WIDE_GAP: Final = 5e-3
"""Largest gap that is left without a search by the widths of levels."""


class Point(NamedTuple):
    """Where to search: a batch, its context, how drafts are accepted, and the limits."""

    batch: int
    context_tokens: int
    acceptance: Acceptance
    max_draft_len: int
    max_nodes: int
    max_depth: int


@dataclass(frozen=True)
class PointBest:
    """The answer at one point.

    Args:
        tree: Fastest of all chains and of the trees found; of equals the simplest.
        tokens_per_round, round_s: Of that tree; mean tokens of a sequence, seconds of a round of the batch.
        tokens_per_s, speedup: Of the whole batch; over plain decoding at the same point.
        gap: No chain or static tree within the limits is more than this fraction faster.
        chain_len, chain_tokens_per_s: The best chain.
        reason: Why nothing can run here; empty where something can. All else is then zero.
    """

    tree: DraftTree
    tokens_per_round: float = 0.0
    round_s: float = 0.0
    tokens_per_s: float = 0.0
    speedup: float = 0.0
    gap: float = 0.0
    chain_len: int = 0
    chain_tokens_per_s: float = 0.0
    reason: str = ""


def point_of(deployment: Deployment, batch: int | None = None, context_tokens: int | None = None) -> Point:
    """The scenario's own point, with another batch or context."""
    s = deployment.scenario
    drafts = s.drafter.kind != "none"
    return Point(
        s.workload.batch if batch is None else batch,
        s.workload.context_tokens if context_tokens is None else context_tokens,
        deployment.acceptance,
        s.search.max_draft_len if drafts else 0,
        s.search.max_nodes if drafts else 1,
        s.search.max_depth if drafts else 0,
    )


def moved(deployment: Deployment, **changes: int) -> Deployment:
    """The same models on the same devices at another ``batch`` or ``context_tokens``; what is priced is kept."""
    scenario = deployment.scenario.varied(**changes)
    at = Situation([float(scenario.workload.context_tokens)], num_seqs=[float(scenario.workload.batch)])
    return replace(deployment, scenario=scenario, at=at)


def best_at(deployment: Deployment, points: Sequence[Point]) -> list[PointBest]:
    """The best configuration at each point on the deployment's devices, models and engine.

    A bound on trees takes every level of drafting as cheap as one node. Where the first finalists leave a gap, more
    are priced.
    """
    fitting = [nodes_that_fit(deployment, point) for point in points]
    bounds = _Bounds(deployment, points)
    shelf: dict[tuple[Any, ...], _Shelf] = {}

    def answers(places: Sequence[int], most: int) -> list[PointBest]:
        trees: list[list[Found]] = []
        bound: list[float] = []
        for place in places:
            fits, point = fitting[place], points[place]
            root: tuple[list[Found], float] = ([found_tree((), 1.0)], 0.0)
            found, highest = _candidates(bounds, place, point, fits, shelf, most) if fits else root
            trees.append(found)
            bound.append(highest)
        return _judged(deployment, [points[n] for n in places], trees, bound, [fitting[n] for n in places])

    found = answers(range(len(points)), FINALISTS)
    more = [place for place, answer in enumerate(found) if answer.gap > GAP]
    for place, answer in zip(more, answers(more, MORE_FINALISTS) if more else (), strict=True):
        found[place] = answer
    for place in [place for place, answer in enumerate(found) if answer.gap > WIDE_GAP]:
        found[place] = _by_widths(deployment, points[place], fitting[place], bounds, place, found[place])
    return found


def _by_widths(
    deployment: Deployment, point: Point, fits: int, bounds: _Bounds, place: int, answer: PointBest
) -> PointBest:
    """The answer of a point, its trees searched by the widths that the drafter runs, if that is better."""
    nodes, depth = min(point.max_nodes, fits), point.max_depth
    if not is_searched_by_widths(point.acceptance, nodes, depth):
        return answer
    costs = (
        bounds.first_s[place],
        level_seconds(deployment, point.batch, point.context_tokens, depth, nodes - 1),
        bounds.verify_s[place, :nodes],
    )
    known = answer.tokens_per_s / point.batch
    tree, bound = best_by_widths(point.acceptance, *costs, known, nodes, depth)
    trees = dict.fromkeys([DraftTree.root_only(), answer.tree, DraftTree.chain(answer.chain_len), tree])
    found = [found_tree(tree.paths(), tokens_per_round(tree, point.acceptance)) for tree in trees]
    return _judged(deployment, [point], [found], [min(bound, known * (1 + answer.gap))], [fits])[0]


def ledger_at(deployment: Deployment, batch: float, context_tokens: int, nodes: int, loaded: bool) -> MemoryLedger:
    """Memory per device with a batch and rounds of ``nodes`` nodes, the draft loaded or not."""
    tps = deployment.scenario.tensor_parallel, deployment.draft_tensor_parallel
    draft = deployment.draft if loaded else None
    return memory_ledger(deployment.hardware, deployment.target, draft, batch, context_tokens + nodes, *tps)


def nodes_that_fit(deployment: Deployment, point: Point) -> int:
    """The largest round within the limits whose memory fits; 1 where only plain decoding does, 0 where nothing does."""
    most = max(point.max_nodes, point.max_draft_len + 1)

    def fits(nodes: int) -> bool:
        return ledger_at(deployment, point.batch, point.context_tokens, nodes, nodes > 1).fits

    if fits(most):
        return most
    if most < 2 or not fits(2):
        return int(fits(1))
    low, high = 2, most  # fits(low), not fits(high): memory rises with the nodes
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


_Shelf = tuple[list[Found], TreesBySize, dict[tuple[int, int], Found]]


class _Bounds:
    """Seconds that levels and verifications take at least, ``[point, ...]``: levels one node wide."""

    def __init__(self, deployment: Deployment, points: Sequence[Point]) -> None:
        cost = deployment.cost
        seqs = np.array([p.batch for p in points], float)[:, None]
        context = np.array([p.context_tokens for p in points], float)[:, None]
        nodes = np.arange(1.0, max(p.max_nodes for p in points) + 1)
        step, more, draft = (float(cost.price(HostWork(kind)).time_s) for kind in ("step", "round", "draft"))
        self.verify_s = pass_seconds(cost, "target", "verify", nodes, context, seqs) + step + more * (nodes > 1)
        depth = max(p.max_depth for p in points)
        self.first_s = draft + first_pass_seconds(deployment, depth, context, seqs)
        self.later_s = np.zeros((len(points), max(depth - 1, 0)))
        if deployment.drafting == "autoregressive" and depth > 1:
            levels = np.arange(1.0, depth)
            self.later_s = draft + pass_seconds(cost, "draft", "draft", np.ones(1), context + levels, seqs, (1,))


def _candidates(
    bounds: _Bounds, place: int, point: Point, fits: int, shelf: dict[tuple[Any, ...], _Shelf], most: int
) -> tuple[list[Found], float]:
    """All chains and the likeliest trees of a point, and a rate of one sequence that no tree exceeds."""
    nodes, depth, profile = min(point.max_nodes, fits), point.max_depth, point.acceptance
    key = id(profile), nodes, depth, point.max_draft_len, fits
    if key not in shelf:
        chains = _chains(profile, min(point.max_draft_len, fits - 1))
        shelf[key] = chains, trees_of(profile, nodes, depth), {}
    chains, by_size, made = shelf[key]
    if profile.max_ranks == 1 and min(depth, nodes - 1) < len(chains):
        return chains, 0.0  # every tree is one of the chains
    costs = bounds.first_s[place], bounds.later_s[place], bounds.verify_s[place, :nodes]
    rates = rates_by_size(by_size.tokens_per_round, *costs)
    found = likeliest(by_size, rates, most, made)
    deeper = [one for one in found if not one.is_chain or one.shape.depth >= len(chains)]
    return [*chains, *deeper], float(np.nanmax(rates))


def _chains(profile: Acceptance, longest: int) -> list[Found]:
    longest = min(longest, longest_chain(profile))
    tokens = np.cumsum(path_probs(DraftTree.chain(longest), profile)).tolist()
    return [
        Found(tuple((0,) * (i + 1) for i in range(n)), Shape((1,) * n, (1,) * n, n + 1), tokens[n])
        for n in range(longest + 1)
    ]


def _judged(
    deployment: Deployment,
    points: Sequence[Point],
    trees: Sequence[Sequence[Found]],
    bound: Sequence[float],
    fitting: Sequence[int],
) -> list[PointBest]:
    shapes: dict[Shape, int] = {}
    rows = []
    for point, found in zip(points, trees, strict=True):
        for one in found:
            pending = max(1.0, min(one.tokens_per_round, one.shape.depth + 1.0))
            rows.append((shapes.setdefault(one.shape, len(shapes)), point.batch, point.context_tokens, pending))
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    time_s = price_rounds(deployment.cost, deployment.drafting, list(shapes), *columns).time_s
    answers, start = [], 0
    for place, (point, found) in enumerate(zip(points, trees, strict=True)):
        mine = slice(start, start + len(found))
        start += len(found)
        if fitting[place]:
            answers.append(_best_of(point, found, time_s[mine], bound[place]))
        else:
            answers.append(PointBest(DraftTree.root_only(), reason=_reason(deployment, point)))
    return answers


def _reason(deployment: Deployment, point: Point) -> str:
    try:
        ledger_at(deployment, point.batch, point.context_tokens, 1, loaded=False).check()
    except InfeasibleError as error:
        return str(error)
    return ""


def _best_of(point: Point, trees: Sequence[Found], time_s: Float, bound: float) -> PointBest:
    rates = point.batch * np.array([one.tokens_per_round for one in trees]) / time_s
    best = simplest_first(rates.tolist(), [(len(t.paths), t.shape.depth) for t in trees])[0]
    chains = [i for i, tree in enumerate(trees) if tree.is_chain]
    chain = chains[simplest_first(rates[chains].tolist(), [(len(trees[i].paths),) for i in chains])[0]]
    return PointBest(
        tree=trees[best].tree,
        tokens_per_round=trees[best].tokens_per_round,
        round_s=float(time_s[best]),
        tokens_per_s=float(rates[best]),
        speedup=float(rates[best] / rates[0]),
        gap=max(0.0, point.batch * bound / float(rates[best]) - 1),
        chain_len=len(trees[chain].paths),
        chain_tokens_per_s=float(rates[chain]),
    )
