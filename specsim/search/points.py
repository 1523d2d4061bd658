"""The best chain or static tree at many points at once: batch sizes, contexts, acceptances of one set of models.

Each point is searched as ``specsim.search.tune`` searches its one, but by size and depth alone, without intervals, and
with the passes of all points priced together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np

from specsim.acceptance.emitted import tokens_per_round
from specsim.acceptance.profile import AcceptanceProfile
from specsim.cost.memory import MemoryLedger, memory_ledger
from specsim.cost.model import CostModel
from specsim.errors import InfeasibleError
from specsim.estimate import expected_pending
from specsim.methods.round import Situation
from specsim.scenario import Deployment
from specsim.search.rounds import Shape, price_rounds, shape_of, simplest_first
from specsim.search.tree import TreesBySize, best_trees_by_size
from specsim.tree import DraftTree
from specsim.work import Float, HostWork, Pass

FINALISTS: Final = 4
"""Trees of each point that are priced exactly."""
CHUNK: Final = 4096
"""Passes per call of the cost model: their arrays stay in the cache of a core."""


_Shelf = tuple[TreesBySize, dict[tuple[int, int], DraftTree]]


class Point(NamedTuple):
    """Where to search: a batch, its context, how drafts are accepted, and the limits."""

    batch: int
    context_tokens: int
    acceptance: AcceptanceProfile
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

    A bound on trees takes every level of drafting as cheap as one node, and the drafter's first pass as cheap as any
    number of pending tokens.
    """
    fitting = [nodes_that_fit(deployment, point) for point in points]
    bounds = _Bounds(deployment, points)
    shelf: dict[tuple[Any, ...], _Shelf] = {}
    trees: list[list[DraftTree]] = []
    bound: list[float] = []
    for place, (point, fits) in enumerate(zip(points, fitting, strict=True)):
        found, highest = _candidates(bounds, place, point, fits, shelf) if fits else ([DraftTree.root_only()], 0.0)
        trees.append(found)
        bound.append(highest)
    return _judged(deployment, points, trees, bound, fitting)


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


def pass_seconds(
    cost: CostModel, role: Any, kind: Any, new: Float, context: Float, seqs: Float, nodes: tuple[int, ...] = ()
) -> Float:
    """Seconds of passes of any common shape, priced in pieces that stay in the cache."""
    new, context, seqs = np.broadcast_arrays(new, context, seqs)
    columns = np.stack([np.ravel(a) for a in (new, np.maximum(context, 0), seqs)], axis=1)
    if not new.size:
        return np.zeros(new.shape)
    pieces = []
    for first in range(0, new.size, CHUNK):
        rows = columns[first : first + CHUNK]
        priced = cost.price(Pass(role, kind, rows[:, :1], rows[:, 1:2], rows[:, 2:], nodes))
        pieces.append(np.broadcast_to(priced.time_s, len(rows)))
    return np.asarray(np.concatenate(pieces).reshape(new.shape))


def rates_by_size(tokens: Float, level_s: Float, verify_s: Float) -> Float:
    """Tokens per second of one sequence, ``[..., depth limit, nodes - 1]``, of trees that pay for every level allowed.

    Args:
        tokens: ``[depth limit, nodes - 1]``.
        level_s: ``[..., depth - 1]``.
        verify_s: ``[..., nodes - 1]``.
    """
    zero = np.zeros((*level_s.shape[:-1], 1))
    levels_s = np.concatenate((zero, np.cumsum(level_s, axis=-1)), axis=-1)
    return np.asarray(tokens / (levels_s[..., :, None] + verify_s[..., None, :]))


def likeliest(
    by_size: TreesBySize, rates: Float, most: int, made: dict[tuple[int, int], DraftTree] | None = None
) -> list[DraftTree]:
    """The trees of the highest rates, best first, none twice.

    Args:
        made: Trees of ``by_size`` by depth limit and nodes, where a caller asks for them often.
    """
    trees: dict[DraftTree, None] = {}
    known = {} if made is None else made
    for place in np.argsort(-np.nan_to_num(rates, nan=-1.0), axis=None, kind="stable"):
        limit, size = divmod(int(place), rates.shape[1])
        if len(trees) == most or np.isnan(rates[limit, size]):
            break
        if (limit, size) not in known:
            known[limit, size] = by_size.tree(limit, size + 1)
        trees.setdefault(known[limit, size])
    return list(trees)


class _Bounds:
    """Seconds that levels and verifications take at least, ``[point, ...]``."""

    def __init__(self, deployment: Deployment, points: Sequence[Point]) -> None:
        cost = deployment.cost
        seqs = np.array([p.batch for p in points], float)[:, None]
        context = np.array([p.context_tokens for p in points], float)[:, None]
        nodes = np.arange(1.0, max(p.max_nodes for p in points) + 1)
        step, more, draft = (float(cost.price(HostWork(kind)).time_s) for kind in ("step", "round", "draft"))
        self.verify_s = pass_seconds(cost, "target", "verify", nodes, context, seqs) + step + more * (nodes > 1)
        depth = max(p.max_depth for p in points)
        self.level_s = np.zeros((len(points), depth))
        if not depth:
            return
        self.level_s[:, 0] = draft
        if deployment.drafting == "heads":
            self.level_s[:, 0] += pass_seconds(cost, "draft", "draft", np.ones(1), context, seqs, (0,))[:, 0]
        if deployment.drafting == "autoregressive":
            pending = np.arange(1.0, depth + 2)
            first = pass_seconds(cost, "draft", "draft", pending, context + 1 - pending, seqs, (0,))
            self.level_s[:, 0] += first.min(axis=1)
            later = np.arange(1.0, depth)
            self.level_s[:, 1:] = draft + pass_seconds(cost, "draft", "draft", np.ones(1), context + later, seqs, (1,))


def _candidates(
    bounds: _Bounds, place: int, point: Point, fits: int, shelf: dict[tuple[Any, ...], _Shelf]
) -> tuple[list[DraftTree], float]:
    """All chains and the likeliest trees of a point, and a rate of one sequence that no tree exceeds."""
    chains = [DraftTree.chain(length) for length in range(min(point.max_draft_len, fits - 1) + 1)]
    nodes, depth, profile = min(point.max_nodes, fits), point.max_depth, point.acceptance
    if profile.max_ranks == 1 and min(depth, nodes - 1) < len(chains):
        return chains, 0.0  # every tree is one of the chains
    key = id(profile), nodes, depth
    if key not in shelf:
        shelf[key] = best_trees_by_size(profile.accept_prob, nodes, depth, rank_order=profile.rank_order), {}
    by_size, made = shelf[key]
    rates = rates_by_size(by_size.tokens_per_round, bounds.level_s[place, :depth], bounds.verify_s[place, :nodes])
    found = [tree for tree in likeliest(by_size, rates, FINALISTS, made) if not tree.is_chain or any(tree.ranks)]
    return [*chains, *[tree for tree in found if tree not in chains]], float(np.nanmax(rates))


def _judged(
    deployment: Deployment,
    points: Sequence[Point],
    trees: Sequence[Sequence[DraftTree]],
    bound: Sequence[float],
    fitting: Sequence[int],
) -> list[PointBest]:
    shapes: dict[Shape, int] = {}
    rows, tokens = [], []
    known: dict[tuple[int, DraftTree], float] = {}
    for point, found in zip(points, trees, strict=True):
        for tree in found:
            key = id(point.acceptance), tree
            if key not in known:
                known[key] = tokens_per_round(tree, point.acceptance)
            which = shapes.setdefault(shape_of(tree), len(shapes))
            rows.append((which, point.batch, point.context_tokens, expected_pending(tree, known[key])))
            tokens.append(known[key])
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    time_s = price_rounds(deployment.cost, deployment.drafting, list(shapes), *columns).time_s
    answers, start = [], 0
    for place, (point, found) in enumerate(zip(points, trees, strict=True)):
        mine = slice(start, start + len(found))
        start += len(found)
        if fitting[place]:
            answers.append(_best_of(point, found, np.array(tokens[mine]), time_s[mine], bound[place]))
            continue
        answers.append(PointBest(DraftTree.root_only(), reason=_reason(deployment, point)))
    return answers


def _reason(deployment: Deployment, point: Point) -> str:
    try:
        ledger_at(deployment, point.batch, point.context_tokens, 1, loaded=False).check()
    except InfeasibleError as error:
        return str(error)
    return ""


def _best_of(point: Point, trees: Sequence[DraftTree], tokens: Float, time_s: Float, bound: float) -> PointBest:
    rates = point.batch * tokens / time_s
    best = simplest_first(rates.tolist(), [(t.num_drafted, t.depth) for t in trees])[0]
    chains = [i for i, tree in enumerate(trees) if tree.is_chain and not any(tree.ranks)]
    chain = chains[simplest_first(rates[chains].tolist(), [(trees[i].num_drafted,) for i in chains])[0]]
    return PointBest(
        tree=trees[best],
        tokens_per_round=float(tokens[best]),
        round_s=float(time_s[best]),
        tokens_per_s=float(rates[best]),
        speedup=float(rates[best] / rates[0]),
        gap=max(0.0, point.batch * bound / float(rates[best]) - 1),
        chain_len=trees[chain].num_drafted,
        chain_tokens_per_s=float(rates[chain]),
    )
