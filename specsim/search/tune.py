"""The best draft configuration of a deployment: every chain, and the best static tree, against no speculation.

Trees are searched twice: by size and depth, each level as cheap as any width of it, and by the widths that the drafter
runs. Both prices are below the true ones, so both rates are upper bounds; the finalists, priced exactly, say how far
below them the answer can be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from specsim.acceptance.emitted import longest_chain as longest_known
from specsim.acceptance.trie import PathTrie
from specsim.errors import InfeasibleError
from specsim.estimate import Estimate
from specsim.scenario import Deployment
from specsim.search.exact.tree import TreeKind, trees_of
from specsim.search.points import nodes_that_fit, point_of
from specsim.search.rounds import predict_all, simplest_first
from specsim.search.tree_bounds import (
    best_by_widths,
    first_pass_seconds,
    is_searched_by_widths,
    level_seconds,
    likeliest,
    rates_by_size,
)
from specsim.tree import DraftTree
from specsim.work import Float, HostWork, Pass

FINALISTS = 24
"""Trees that are priced exactly, of those the search by size ranks highest."""


@dataclass(frozen=True)
class Infeasible:
    """A configuration that was not estimated, and why."""

    tree: DraftTree
    reason: str


@dataclass(frozen=True)
class Tuning:
    """The answer.

    Args:
        ranked: Every configuration that was priced, best first; plain decoding is always among them.
        infeasible: What does not fit, with the reason.
        rate_bound: No chain or static tree within the limits that fits in memory exceeds this many tokens per second;
            where paths were counted, none of paths that were recorded.
        tree_rates: ``[depth limit, nodes - 1]`` rate of the best tree of each size at the search's prices, all
            sequences together; NaN where none exists. For plots.
        kind: How the trees of each size were found, and so why they emit the most.
    """

    ranked: list[Estimate]
    infeasible: list[Infeasible]
    rate_bound: float
    tree_rates: Float
    kind: TreeKind = "best_first"

    @property
    def best(self) -> Estimate:
        """The highest rate; of rates that only rounding tells apart, the one that drafts least."""
        return self.ranked[0]

    @property
    def plain(self) -> Estimate:
        """No speculation."""
        return next(e for e in self.ranked if not e.tree.num_drafted)

    @property
    def gap(self) -> float:
        """How much faster, relatively, the true optimum could be at most."""
        return max(0.0, self.rate_bound / self.best.tokens_per_s - 1)

    @property
    def tied(self) -> list[Estimate]:
        """Configurations within one percent of the best, which the prices do not tell apart."""
        return [e for e in self.ranked if e.tokens_per_s >= 0.99 * self.best.tokens_per_s]


def tune(deployment: Deployment, progress: Callable[[str], None] = lambda _: None) -> Tuning:
    """Search chains and static trees, price the finalists exactly, rank them.

    Args:
        deployment: A resolved scenario; its ``search`` gives the limits, its drafter ``none`` allows only the baseline.
        progress: Told what is being done.

    Raises:
        InfeasibleError: where even plain decoding does not fit.
    """
    deployment.check(DraftTree.root_only())
    progress("searching trees")
    fitting = most_nodes(deployment)
    found = search_trees(deployment, fitting)
    chains = [DraftTree.chain(draft_len) for draft_len in range(longest_chain(deployment) + 1)]
    trees = [*chains, *[tree for tree in found.trees if not tree.is_chain]]
    progress(f"pricing {len(trees)} finalists")
    ranked = in_order(predict_all(deployment, [tree for tree in trees if tree.num_nodes <= fitting]))
    refused = _refused(deployment, [tree for tree in trees if tree.num_nodes > fitting])
    refused += _unknown(deployment, len(chains))
    return Tuning(ranked, refused, max(found.bound, ranked[0].tokens_per_s), found.rates, found.kind)


def in_order(estimates: Sequence[Estimate]) -> list[Estimate]:
    """By rate; of rates that only rounding tells apart, the smallest and shallowest first."""
    sizes = [(e.tree.num_drafted, e.tree.depth) for e in estimates]
    return [estimates[place] for place in simplest_first([e.tokens_per_s for e in estimates], sizes)]


def longest_chain(deployment: Deployment) -> int:
    """Most draft tokens of a chain within the limits, of those that acceptance is known of."""
    s = deployment.scenario
    return min(s.search.max_draft_len, longest_known(deployment.acceptance)) if s.drafter.kind != "none" else 0


def verify_costs(deployment: Deployment, max_nodes: int) -> Float:
    """Seconds of verifying n = 1 .. ``max_nodes`` nodes in every sequence, host work of the round in, ``[n - 1]``."""
    n = np.arange(1, max_nodes + 1, dtype=float)
    at = deployment.at
    work = Pass("target", "verify", n[:, None], at.context_tokens, at.num_seqs)
    step, more = (float(deployment.cost.price(HostWork(kind)).time_s) for kind in ("step", "round"))
    return np.asarray(deployment.cost.price(work).time_s + step + more * (n > 1))


def most_nodes(deployment: Deployment) -> int:
    """The largest number of nodes whose memory fits, up to the search's limits; 1 where no draft fits at all."""
    return max(1, nodes_that_fit(deployment, point_of(deployment)))


@dataclass(frozen=True)
class TreeSearch:
    """Finalists, the bound on any tree's rate (all sequences together), the rate of each depth limit and size, and how
    these were found."""

    trees: list[DraftTree]
    bound: float
    rates: Float
    kind: TreeKind


def search_trees(deployment: Deployment, fitting: int) -> TreeSearch:
    """Static trees that may be the fastest, of those with at most ``fitting`` nodes."""
    s, profile = deployment.scenario, deployment.acceptance
    batch, depth = s.workload.batch, s.search.max_depth if s.drafter.kind != "none" else 0
    max_nodes = min(s.search.max_nodes, fitting)
    by_size = trees_of(profile, max_nodes, depth)
    verify_s = verify_costs(deployment, max_nodes)
    point = point_of(deployment)
    at = np.array([float(point.context_tokens)]), np.array([float(batch)])
    first_s = first_pass_seconds(deployment, depth, *at) + float(deployment.cost.price(HostWork("draft")).time_s)
    widths_s = level_seconds(deployment, batch, point.context_tokens, depth, max_nodes - 1)
    rates = rates_by_size(by_size.tokens_per_round, first_s, widths_s.min(axis=1), verify_s)
    trees = [found.tree for found in likeliest(by_size, rates, FINALISTS)]
    bound = float(np.nanmax(rates))
    if is_searched_by_widths(profile, max_nodes, depth):
        known = max(e.tokens_per_s for e in predict_all(deployment, [DraftTree.root_only(), *trees[:1]])) / batch
        tree, bound_by_widths = best_by_widths(profile, first_s, widths_s, verify_s, known, max_nodes, depth)
        trees, bound = list(dict.fromkeys([tree, *trees])), min(bound, bound_by_widths)
    if profile.max_ranks == 1 and min(depth, max_nodes - 1) <= longest_chain(deployment):
        bound = 0.0  # every tree is one of the chains, which are all priced
    # For plots a shallow tree also stands at every deeper limit.
    return TreeSearch(trees, batch * bound, batch * np.fmax.accumulate(rates, axis=0), by_size.kind)


def _refused(deployment: Deployment, trees: Sequence[DraftTree]) -> list[Infeasible]:
    refused = []
    for tree in trees:
        try:
            deployment.check(tree)
        except InfeasibleError as error:
            refused.append(Infeasible(tree, str(error)))
    return refused


def _unknown(deployment: Deployment, shortest: int) -> list[Infeasible]:
    """Chains within the limits that hold a path never recorded: unknown, which is not never accepted."""
    s, acceptance = deployment.scenario, deployment.acceptance
    if s.drafter.kind == "none" or not isinstance(acceptance, PathTrie):
        return []
    known = shortest - 1
    reason = f"acceptance: no recorded round drafted more than {known} first choices in a row"
    return [Infeasible(DraftTree.chain(n), reason) for n in range(shortest, s.search.max_draft_len + 1)]
