"""The speed of light on a deployment: the limit's tokens at the target's own price, and how far methods are from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from specsim.acceptance.limits import LimitRate, limit_rate
from specsim.acceptance.waterfall import Step, Times, Tokens, waterfall
from specsim.errors import InputError
from specsim.estimate import Estimate
from specsim.scenario import Deployment
from specsim.search.exact.tree import best_trees_by_size
from specsim.work import Float, Pass


def target_pass_s(deployment: Deployment, max_drafted: int) -> Float:
    """Seconds of one target pass over P + 1 tokens of each sequence, ``[P]`` from P = 0; no host, no memory limit."""
    tokens = np.arange(1, max_drafted + 2, dtype=float)
    work = Pass("target", "verify", tokens[:, None], deployment.at.context_tokens, deployment.at.num_seqs)
    return np.asarray(deployment.cost.price(work).time_s)


def limit_of(deployment: Deployment, accepted: ArrayLike) -> LimitRate:
    """The fastest that a free drafter makes this deployment, from accepted draft tokens ``[P]``, P from 0."""
    tokens = np.asarray(accepted, dtype=float)
    return limit_rate(tokens, target_pass_s(deployment, len(tokens) - 1), deployment.scenario.workload.batch)


def best_static_tokens(deployment: Deployment, num_nodes: int) -> float:
    """Tokens per round of the best static tree of this size (root in), as deep as the acceptance is known."""
    profile = deployment.acceptance
    depth = min(profile.max_depth, num_nodes - 1)
    found = best_trees_by_size(profile.accept_prob, num_nodes, depth, rank_order=profile.rank_order)
    return float(np.nanmax(found.tokens_per_round))


def losses(
    deployment: Deployment,
    estimate: Estimate,
    accepted: ArrayLike,
    *,
    drafter_share: float | None = None,
    rule_accepted: float | None = None,
    measured_tokens_per_s: float | None = None,
) -> tuple[Step, ...]:
    """From the limit down to a configuration.

    Args:
        deployment: Where.
        estimate: The configuration's, of ``predict``.
        accepted: ``[P]`` of the limit, P from 0 to at least what the configuration drafts.
        drafter_share: Entropy of the target over the cross-entropy of its tokens under the drafter, where known: the
            share of the limit that this drafter's best tree reaches for large P. Its best static tree is the least.
        rule_accepted: Draft tokens that the best lossless rule would accept of what the method drafts, where it is
            another rule.
        measured_tokens_per_s: What a clock said of all sequences.
    """
    tokens, tree = np.asarray(accepted, dtype=float), estimate.tree
    if tree.num_drafted >= len(tokens):
        raise InputError("num_drafted", f"must be < {len(tokens)}, where the limit is known", tree.num_drafted)
    limit = 1 + float(tokens[tree.num_drafted])
    best = max(best_static_tokens(deployment, tree.num_nodes), estimate.tokens_per_round)
    if drafter_share is not None:
        best = max(best, 1 + drafter_share * (limit - 1))
    drafted = max(estimate.tokens_per_round, 1 + rule_accepted) if rule_accepted is not None else None
    of_tree = drafted if drafted is not None else estimate.tokens_per_round
    parts = (float(np.max(part.time_s)) for part in (estimate.verify, estimate.draft, estimate.host))
    times = Times(float(target_pass_s(deployment, 0)[0]), *parts)
    return waterfall(
        limit_of(deployment, tokens),
        Tokens(limit, max(best, of_tree), of_tree, estimate.tokens_per_round),
        times,
        deployment.scenario.workload.batch,
        measured_tokens_per_s,
    )
