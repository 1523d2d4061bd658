"""The best dynamic tree policy of a deployment: scored by tokens over time, with what was searched and how surely.

A policy's rounds are played once on the fitted process (``dynamic_table``) and priced by each deployment. Static trees
stand in the same table, exactly; so a tuning says what growing by confidence is worth, and how far it is from a drafter
that knew the target's own law.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.process import TokenProcess
from specsim.decoding import ConfidenceChain, Eagle2, OptTree, StaticTree, Talon, TreePolicy
from specsim.decoding.policies.c2t import Gate
from specsim.errors import InputError
from specsim.scenario import Deployment
from specsim.search.dynamic.gate import c2t_policies
from specsim.search.dynamic.score import DynamicScores, dynamic_prices, score, t_quantile
from specsim.search.dynamic.static import best_static_trees, process_law
from specsim.search.dynamic.table import DynamicTable, dynamic_table
from specsim.search.dynamic.totals import NUM_BLOCKS, Visited
from specsim.tree import DraftTree

Floats = NDArray[np.float64]

STATIC_RANKS: Final = 8
"""Candidates of a node that static trees may take."""
CONFIDENCE: Final = 0.95
"""Of all statements of a tuning together."""
CONTROLS: Final = (4, 8, 16)
"""Sizes, root in, of static trees that also run on the texts, to tell these texts' luck."""

NO_PROPD: Final = (
    "ProPD's pruning reads laws of an early layer of the target, which neither a fitted process nor recorded rounds "
    "hold; without it ProPD is the static tree of the size that suits a line through iteration times"
)


def dynamic_grid(max_nodes: int, max_depth: int, gate: Gate | None = None) -> list[Any]:
    """Parameters to try: round numbers about what the papers use, within these limits (nodes with the root).

    >>> sorted({policy.kind for policy in dynamic_grid(16, 4)})
    ['confidence_chain', 'eagle2', 'opt_tree', 'talon']
    """
    if max_nodes < 2 or max_depth < 1:
        raise InputError(
            "max_nodes, max_depth", "must leave room for a draft: 2 nodes, 1 level", [max_nodes, max_depth]
        )
    sizes = [n for n in (4, 8, 12, 16, 24, 32, 48, 64, 96, 128) if n < max_nodes] + [min(max_nodes, 128)]
    depths = [d for d in (1, 2, 3, 4, 6, 8, 10, 12) if d <= max_depth]
    tops, few = [k for k in (2, 4, 8) if k < max_nodes] or [1], sizes[::2]
    found: list[Any] = [
        Eagle2(k, d - 1, n) for k in tops for d in depths for n in sizes if n <= 1 + k + k * k * (d - 1)
    ]
    found += [OptTree(n - 1, t, d) for n in few for t in (0.1, 0.4) for d in depths if d > 1]
    found += [
        Talon(n - 1, mu, k, max_depth) for n in few for mu in (0.03, 0.2) for k in [k for k in tops[1:] if k < n] or [1]
    ]
    for measure in ("token", "path"):
        found += [
            ConfidenceChain(n, t, measure, "top") for t in (0.1, 0.3, 0.5, 0.8) for n in depths if 1 < n < max_nodes
        ]
    if gate is not None:
        widths = [w for w in (4, 16) if w < max_nodes]
        made = c2t_policies(gate, [0.03, 0.1, 0.2, 0.4], widths, depths[1:])
        found += [policy for policy in made if policy.limits.nodes <= 8 * max_nodes]
    return found


def tuned_table(
    process: TokenProcess,
    policies: Sequence[TreePolicy],
    temperature: float,
    max_nodes: int,
    max_depth: int,
    num_requests: int,
    seed: int,
) -> DynamicTable:
    """Policies with the static trees to hold them against: chains and the best of each size and depth, exactly.

    Args:
        policies: Dynamic ones.
        process, temperature, num_requests, seed: As of ``dynamic_table``.
        max_nodes, max_depth: Of the static trees, root in.
    """
    law = process_law(process, temperature, max_depth, min(STATIC_RANKS, process.num_candidates))
    sizes = [n for n in (*range(1, 17), 20, 24, 28, 32, 40, 48, 56, 64, 96, 128) if n <= max_nodes]
    trees = best_static_trees(law, sizes, list(range(max_depth + 1)))
    trees += [DraftTree.chain(n) for n in range(1, min(max_depth, max_nodes - 1) + 1)]
    trees = list(dict.fromkeys(trees))
    controls = [
        StaticTree(tree) for tree in best_static_trees(law, [n for n in CONTROLS if n <= max_nodes], [max_depth])
    ]
    played = dynamic_table(process, [*controls, *policies], temperature, num_requests, seed)
    known = [law.tokens_per_round(policy.tree) for policy in controls] + [np.nan] * len(policies)
    rest = [tree for tree in trees if tree not in {policy.tree for policy in controls}]
    exact = [law.tokens_per_round(tree) for tree in rest]
    return replace(
        played,
        policies=(*played.policies, *(StaticTree(tree) for tree in rest)),
        visited=(*played.visited, *(_steady(tree, t, num_requests) for tree, t in zip(rest, exact, strict=True))),
        exact_tokens=np.array([*known, *exact]),
    )


def _steady(tree: DraftTree, tokens: float, num_requests: int) -> Visited:
    """Rounds of a static tree, all alike: what they emit on the mean is known, what they cost does not vary."""
    num = min(NUM_BLOCKS, num_requests)
    requests = -(-np.arange(num) * num_requests // num)  # one in each block
    inner = np.array([len(children) > 0 for children in tree.children])
    widths = np.array([int((inner & (tree.depths == d)).sum()) for d in range(tree.depth)], dtype=np.int64)
    ones = np.ones(num, dtype=np.int64)
    return Visited(
        requests, ones, np.full(num, tokens), ones * tree.num_nodes, np.broadcast_to(widths, (num, tree.depth)).copy()
    )


@dataclass(frozen=True, eq=False)
class DynamicTuning:
    """The answer.

    Args:
        table, scores: All candidates.
        order: Their numbers, best first.
        low, high: ``[policy]`` interval of each rate.
        may_be_best: ``[policy]`` not shown to be slower than the best.
        best, static: Numbers of the best policy that is not a static tree, and of the best static tree or chain.
        refused: What was not tried, with the reason.
        certificate: What was searched, and the confidence of it.
    """

    table: DynamicTable
    scores: DynamicScores
    order: tuple[int, ...]
    low: Floats
    high: Floats
    may_be_best: NDArray[np.bool_]
    best: int
    static: int
    refused: tuple[tuple[str, str], ...]
    certificate: dict[str, Any]

    @property
    def gain(self) -> tuple[float, float, float]:
        """What growing by confidence is worth: the rate over the best static tree's, low, middle and high.

        The policy is chosen on one half of the texts and judged on the other, at the tuning's confidence.
        """
        grows = np.array([not isinstance(policy, StaticTree) for policy in self.table.policies])
        middle = self.scores.held_out_gain(grows, self.static)
        sd = float(self.scores.log_gain_sd(self.static)[self.best])
        reach = t_quantile(self.certificate["confidence"], self.scores.log_jack.shape[1]) * sd
        return float(np.exp(middle - reach)), float(np.exp(middle)), float(np.exp(middle + reach))


def tune_dynamic(deployment: Deployment, table: DynamicTable, confidence: float = CONFIDENCE) -> DynamicTuning:
    """Price every policy of the table; those too large for the memory are refused.

    Args:
        deployment: Its cost, batch, context and memory.
        table: With static trees in it (``tuned_table``).
        confidence: Of the intervals, and that no policy left out of ``may_be_best`` is the best.

    Raises:
        InputError: for a table without static trees or without others.
    """
    fits = [deployment.ledger(DraftTree.chain(n - 1)).fits for n in range(1, table.most_tokens + 1)]
    most = [int(v.num_nodes.max()) for v in table.visited]
    kept = [i for i, nodes in enumerate(most) if fits[nodes - 1]]
    refused = [
        (label_of(table.policies[i]), "does not fit in memory") for i in range(len(most)) if not fits[most[i] - 1]
    ]
    table = table if len(kept) == len(most) else table.only(kept)
    return _ranked(table, score(table, dynamic_prices(deployment, table)), confidence, 1, refused, {})


def _ranked(
    table: DynamicTable,
    scores: DynamicScores,
    confidence: float,
    num_looks: int,
    refused: list[tuple[str, str]],
    more: dict[str, Any],
) -> DynamicTuning:
    rates = scores.tokens_per_s
    is_static = np.array([isinstance(policy, StaticTree) for policy in table.policies])
    if is_static.all() or not is_static.any():
        raise InputError("table.policies", "must hold static trees and others", len(is_static))
    low, high = scores.interval(confidence)
    certificate: dict[str, Any] = {
        "kind": "race" if more else "scan",
        "searched": _counts(table.policies),
        "num_requests": table.num_requests,
        "confidence": confidence,
        "static": "best first by path frequency, each size and depth limit",
    }
    return DynamicTuning(
        table,
        scores,
        tuple(np.argsort(-rates, kind="stable").tolist()),
        low,
        high,
        scores.may_be_best(confidence, num_looks),
        int(np.argmax(np.where(is_static, -np.inf, rates))),
        int(np.argmax(np.where(is_static, rates, -np.inf))),
        (*refused, ("ProPD", NO_PROPD)),
        {**certificate, **more},
    )


def _counts(policies: Sequence[Any]) -> dict[str, int]:
    kinds = [policy.kind for policy in policies]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def label_of(policy: Any) -> str:
    """A short name for people.

    >>> label_of(Eagle2(8, 4, 32)), label_of(StaticTree(DraftTree.chain(3)))
    ('EAGLE-2 top 8, depth 4, 32 tokens', 'chain 3')
    """
    match policy:
        case StaticTree():
            return policy.tree.label
        case Eagle2():
            return f"EAGLE-2 top {policy.top_k}, depth {policy.depth}, {policy.total_tokens} tokens"
        case OptTree():
            return f"OPT-Tree {policy.nodes} nodes, gain {policy.threshold:g}, depth {policy.max_depth}"
        case Talon():
            return f"TALON {policy.budget} nodes, mu {policy.mu:g}, top {policy.top_k}"
        case ConfidenceChain():
            return f"chain up to {policy.draft_len}, {policy.measure} above {policy.threshold:g}"
    shown = {name: value for name, value in vars(policy).items() if isinstance(value, int | float)}
    return f"{policy.kind} " + ", ".join(f"{name} {value:g}" for name, value in shown.items())


RACE: Final = (16, 16, 32, 64, 128)
"""Requests added at each look of a race."""


def race(
    deployment: Deployment,
    played: Callable[[Sequence[TreePolicy], int, int], DynamicTable],
    policies: Sequence[TreePolicy],
    confidence: float = CONFIDENCE,
    looks: Sequence[int] = RACE,
) -> DynamicTuning:
    """Tune for one deployment without a table: drop policies as soon as they are shown to be slower than the leader.

    Every look plays the policies still in it on more texts and drops those that ``may_be_best`` leaves out at the
    confidence shared out over looks and policies; so with that confidence the best one is never dropped.

    Args:
        deployment: Its cost, batch and context.
        played: Given policies, requests and a seed, their table with static trees (``tuned_table``).
        policies: Dynamic ones.
        looks: Requests added at each.

    Source: Maron and Moore 1994 (Hoeffding races), with errors from leaving out blocks of requests.
    """
    alive, dropped, table = list(policies), [], None
    for number, num_requests in enumerate(looks):
        fresh = played(alive, num_requests, number)
        table = fresh if table is None else table.only(_places(table, fresh)).with_more(fresh)
        scores = score(table, dynamic_prices(deployment, table))
        hopeful = scores.may_be_best(confidence, len(looks) * len(policies) // max(1, len(alive)))
        num = len(alive)
        alive = [p for i, p in enumerate(table.policies) if hopeful[i] and not isinstance(p, StaticTree)]
        dropped.append(num - len(alive))
        if len(alive) <= 1:
            break
    assert table is not None
    more = {"raced": len(policies), "dropped_at_look": dropped, "static_not_dropped": True}
    return _ranked(table, scores, confidence, len(looks), [], more)


def _places(table: DynamicTable, wanted: DynamicTable) -> list[int]:
    places = {policy: i for i, policy in enumerate(table.policies)}
    return [places[policy] for policy in wanted.policies]
