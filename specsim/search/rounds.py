"""Many rounds priced at once: configurations x batch sizes x contexts in one call per kind of pass.

A pass costs about as much to price as a thousand of them, so searches list all their rounds first. The work is that of
``specsim.methods.round.play``, written as arrays; the tests hold the two to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.acceptance.emitted import Acceptance, path_probs_of, tokens_per_round
from specsim.acceptance.trie import PathTrie
from specsim.acceptance.uncertainty import NUM_DRAWS, posterior_draws, tokens_log_variance
from specsim.cost.model import CostModel
from specsim.dialect import TopkTree
from specsim.estimate import LEVEL, Estimate, expected_pending
from specsim.methods.round import Drafting
from specsim.scenario import Deployment
from specsim.tree import DraftTree
from specsim.work import BOUNDS, Cost, Float, HostWork, Pass, no_cost

Ints = NDArray[np.intp]
TIE: Final = 1e-9
"""Rates closer than this, relatively, differ by rounding: sums over hundreds of operations, in another order."""


class Shape(NamedTuple):
    """What a round does, whatever it is called.

    Args:
        widths: Nodes that the drafter runs, by level; the first is the root with what is pending. Empty: no draft.
        offered: Nodes that the host picks from after each of them.
        num_nodes: Nodes that the target verifies, root in.
    """

    widths: tuple[int, ...]
    offered: tuple[int, ...]
    num_nodes: int

    @property
    def depth(self) -> int:
        """Most draft tokens that one round can accept."""
        return len(self.widths)


def shape_of(tree: DraftTree | TopkTree) -> Shape:
    """The shape of a tree known beforehand, or of one that an engine grows top-k.

    >>> shape_of(DraftTree((-1, 0, 0, 1))), shape_of(TopkTree(steps=2, topk=3, num_nodes=5)).widths
    (Shape(widths=(1, 1), offered=(2, 1), num_nodes=4), (1, 3))
    """
    if isinstance(tree, TopkTree):
        grown = tree.steps - 1
        return Shape((1, *[tree.topk] * grown), (tree.topk, *[tree.topk**2] * grown), tree.num_nodes)
    if not tree.num_drafted:
        return Shape((), (), 1)
    inner = tree.depths[sorted(set(tree.parents[1:]))]
    return Shape(tuple(np.bincount(inner).tolist()), tuple(tree.widths[1:].tolist()), tree.num_nodes)


class RoundCosts(NamedTuple):
    """Costs of drafting, verification and host work of each round, shape [rounds]."""

    draft: Cost
    verify: Cost
    host: Cost

    @property
    def time_s(self) -> Float:
        """Seconds of each round."""
        return np.asarray(self.draft.time_s + self.verify.time_s + self.host.time_s)


def price_rounds(
    cost: CostModel,
    drafting: Drafting,
    shapes: Sequence[Shape],
    which: ArrayLike,
    batch: ArrayLike,
    context_tokens: ArrayLike,
    pending_tokens: ArrayLike,
) -> RoundCosts:
    """Costs of rounds, each of the shape ``shapes[which]``; the other arrays broadcast with ``which``."""
    arrays = np.broadcast_arrays(which, np.asarray(batch, float), context_tokens, np.asarray(pending_tokens, float))
    place, seqs, context, pending = (np.ravel(a) for a in arrays)
    nodes = np.array([s.num_nodes for s in shapes], float)[place]
    plain = nodes == 1
    number = np.arange(len(place))
    parts = [
        _passes(cost, "target", "decode", number[plain], nodes[plain], context[plain], seqs[plain], len(place)),
        _passes(cost, "target", "verify", number[~plain], nodes[~plain], context[~plain], seqs[~plain], len(place)),
    ]
    draft = _draft(cost, drafting, shapes, place, seqs, context, pending)
    return RoundCosts(draft, _sum(parts, len(place)), _host(cost, drafting, shapes, place))


def _draft(
    cost: CostModel, drafting: Drafting, shapes: Sequence[Shape], place: Ints, seqs: Float, ctx: Float, pending: Float
) -> Cost:
    number = np.arange(len(place))
    drafts = np.array([bool(s.widths) for s in shapes])[place]
    if drafting == "lookup" or not drafts.any():
        return _sum([], len(place))
    if drafting == "heads":
        n = number[drafts]
        return _passes(cost, "draft", "draft", n, np.ones(len(n)), ctx[drafts], seqs[drafts], len(place), (0,))
    deepest = max(s.depth for s in shapes)
    width = np.array([[*s.widths, *[0] * (deepest - s.depth)] for s in shapes], float)
    # What lies in the drafter's cache before each level: the context, all that was pending, and the levels since.
    before = np.cumsum(width, axis=1) - width
    first = number[drafts]
    parts = [
        _passes(
            cost,
            "draft",
            "draft",
            first,
            pending[first],
            np.maximum(ctx[first] + 1 - pending[first], 0),
            seqs[first],
            len(place),
            (0,),
        )
    ]
    owners, levels = np.nonzero(width[place][:, 1:])
    at = place[owners], levels + 1
    if len(owners):
        parts.append(
            _passes(cost, "draft", "draft", owners, width[at], ctx[owners] + before[at], seqs[owners], len(place), (1,))
        )
    return _sum(parts, len(place))


def _passes(
    cost: CostModel,
    role: Any,
    kind: Any,
    owner: Ints,
    new: Float,
    context: Float,
    seqs: Float,
    num_rounds: int,
    nodes: tuple[int, ...] = (),
) -> Cost:
    """Passes priced, those alike once, and summed by the round that owns them."""
    if not len(owner):
        return _sum([], num_rounds)
    rows, back = np.unique(np.stack((new, context, seqs), axis=1), axis=0, return_inverse=True)
    priced = cost.price(Pass(role, kind, rows[:, :1], rows[:, 1:2], rows[:, 2:], nodes))
    back = np.ravel(back)

    def summed(values: Float) -> Float:
        each = np.broadcast_to(values, len(rows))[back]
        return np.asarray(np.bincount(owner, weights=each, minlength=num_rounds), float)

    by_bound = np.stack([summed(priced.by_bound[..., i]) for i in range(len(BOUNDS))], axis=-1)
    errors = {name: summed(seconds) for name, seconds in priced.errors.items()}
    return Cost(summed(priced.flops), summed(priced.bytes), by_bound, summed(priced.var_s2), errors)


def _host(cost: CostModel, drafting: Drafting, shapes: Sequence[Shape], place: Ints) -> Cost:
    """Host work by shape; that of one kind and number of nodes is priced once."""
    known: dict[HostWork, Cost] = {}

    def price(work: HostWork) -> Cost:
        if work not in known:
            known[work] = cost.price(work)
        return known[work]

    each = []
    for shape in shapes:
        works = [HostWork("step", shape.num_nodes)]
        if shape.widths:
            works.append(HostWork("round", shape.num_nodes))
            levels = shape.offered if drafting == "autoregressive" else (shape.num_nodes - 1,)
            works += [HostWork("draft", num) for num in levels]
        each.append(sum((price(work) for work in works), no_cost()))
    gathered = Cost(
        np.array([float(c.flops) for c in each])[place],
        np.array([float(c.bytes) for c in each])[place],
        np.array([c.by_bound for c in each])[place],
        np.array([float(c.var_s2) for c in each])[place],
    )
    names = {name for c in each for name in c.errors}
    errors = {name: np.array([float(c.errors.get(name, np.zeros(()))) for c in each])[place] for name in names}
    return Cost(gathered.flops, gathered.bytes, gathered.by_bound, gathered.var_s2, errors)


def _sum(parts: Sequence[Cost], num_rounds: int) -> Cost:
    zeros = np.zeros(num_rounds)
    return sum(parts, Cost(zeros, zeros, np.zeros((num_rounds, len(BOUNDS))), zeros))


def one_of(cost: Cost, place: int) -> Cost:
    """One round's cost out of many, in the shape that a single pricing has."""
    errors = {name: seconds[place : place + 1] for name, seconds in cost.errors.items() if seconds[place]}
    row = slice(place, place + 1)
    return Cost(cost.flops[row], cost.bytes[row], cost.by_bound[row], cost.var_s2[row], errors)


def predict_all(deployment: Deployment, trees: Sequence[DraftTree], seed: int = 0) -> list[Estimate]:
    """As ``specsim.estimate.predict`` for each tree, all passes priced together. Memory is not checked."""
    s = deployment.scenario
    everything = [DraftTree.root_only(), *trees]
    tokens = np.array([tokens_per_round(tree, deployment.acceptance) for tree in everything])
    pending = [expected_pending(tree, tau) for tree, tau in zip(everything, tokens.tolist(), strict=True)]
    shapes, which = [shape_of(tree) for tree in everything], np.arange(len(everything))
    batch, context = s.workload.batch, s.workload.context_tokens
    costs = price_rounds(deployment.cost, deployment.drafting, shapes, which, batch, context, pending)
    spent = costs.draft + costs.verify + costs.host
    plain = one_of(spent, 0)
    seconds = spent.time_s
    variances = _log_variances(trees, deployment.acceptance, seed)
    cost_var = spent.log_ratio_variance(plain, deployment.cost.log_sd)
    rate = s.workload.batch * tokens / seconds
    usd_per_s, found = deployment.usd_per_s, []
    for place, tree in enumerate(everything[1:], start=1):
        reach = NormalDist().inv_cdf((1 + LEVEL) / 2) * np.sqrt(variances[place - 1] + float(cost_var[place]))
        speedup = float(tokens[place] * seconds[0] / seconds[place])
        found.append(
            Estimate(
                tree=tree,
                tokens_per_round=float(tokens[place]),
                draft=one_of(costs.draft, place) if tree.num_drafted else no_cost(),
                verify=one_of(costs.verify, place),
                host=one_of(costs.host, place),
                round=one_of(spent, place),
                speedup=speedup,
                speedup_low=float(speedup * np.exp(-reach)),
                speedup_high=float(speedup * np.exp(reach)),
                tokens_per_s=float(rate[place]),
                time_per_token_s=float(seconds[place] / tokens[place]),
                usd_per_million_tokens=None if usd_per_s is None else 1e6 * usd_per_s / float(rate[place]),
            )
        )
    return found


def _log_variances(trees: Sequence[DraftTree], acceptance: Acceptance, seed: int) -> list[float]:
    """As ``tokens_log_variance`` of each tree, the draws of the table made once: most of its time goes into them."""
    if isinstance(acceptance, PathTrie) or acceptance.spread is not None:  # what draws are worth differs by tree
        return [tokens_log_variance(tree, acceptance, np.random.default_rng(seed)) for tree in trees]
    rng = np.random.default_rng(seed)
    tables = posterior_draws(acceptance, rng, NUM_DRAWS)
    log_var = np.log1p(acceptance.task_sd**2)
    factor = np.exp(np.sqrt(log_var) * rng.standard_normal(NUM_DRAWS) - log_var / 2)
    found = []
    for tree in trees:
        accepted = path_probs_of(tree, tables).sum(axis=-1) - 1 if tree.num_drafted else np.zeros(1)
        found.append(float(np.log(1 + np.minimum(accepted * factor, tree.depth)).var()))
    return found


def simplest_first(rates: Sequence[float], sizes: Sequence[tuple[int, ...]]) -> list[int]:
    """Places by falling rate; of rates that only rounding tells apart, the smallest size first.

    >>> simplest_first([1.0, 2.0, 2.0 * (1 - 1e-12)], [(0,), (5,), (3,)])
    [2, 1, 0]
    """
    order = sorted(range(len(rates)), key=lambda i: -rates[i])
    found: list[int] = []
    while order:
        top = rates[order[0]]
        tied = [i for i in order if rates[i] >= top * (1 - TIE)]
        found += sorted(tied, key=lambda i: sizes[i])
        order = order[len(tied) :]
    return found
