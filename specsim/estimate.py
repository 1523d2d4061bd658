"""What speculation is worth, in a steady state: work per round x time of that work / tokens per round.

Long-run speed is E[tokens] / E[time] (renewal-reward), never E[tokens / time].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from specsim.acceptance.emitted import tokens_per_round
from specsim.acceptance.uncertainty import Sample, tokens_log_variance
from specsim.methods.round import play
from specsim.scenario import Deployment
from specsim.tree import DraftTree
from specsim.work import Cost, Pass, no_cost, total

LEVEL = 0.9
"""Probability that an interval is meant to hold."""


@dataclass(frozen=True)
class Estimate:
    """One configuration on one deployment.

    Args:
        tree: What is drafted; the root alone is no speculation.
        tokens_per_round: Mean tokens emitted per round and sequence, bonus token included.
        draft, verify, host: Cost of the parts of a round, all sequences together. ``draft`` has no time without one.
        round: Their sum.
        speedup: Tokens per second over those of plain decoding at the same batch and context.
        speedup_low, speedup_high: Central interval of probability ``LEVEL``: acceptance, and what cost errors do not
            share between both sides.
        tokens_per_s: Of the whole deployment.
        time_per_token_s: Of each sequence (TPOT).
        usd_per_million_tokens: Where a price is known.
    """

    tree: DraftTree
    tokens_per_round: float
    draft: Cost
    verify: Cost
    host: Cost
    round: Cost
    speedup: float
    speedup_low: float
    speedup_high: float
    tokens_per_s: float
    time_per_token_s: float
    usd_per_million_tokens: float | None

    @property
    def bound(self) -> str:
        """What takes most of the round's time."""
        return str(self.round.bound.reshape(-1)[0])


def round_parts(deployment: Deployment, tree: DraftTree, pending_tokens: float) -> dict[str, Cost]:
    """Cost of a round's drafting, verification and host work."""
    parts = {"draft": no_cost(), "verify": no_cost(), "host": no_cost()}
    for work in play(tree, replace(deployment.at, pending_tokens=[pending_tokens]), deployment.drafting):
        name = {"draft": "draft", "target": "verify"}[work.role] if isinstance(work, Pass) else "host"
        parts[name] = parts[name] + deployment.cost.price(work)
    return parts


def predict(deployment: Deployment, tree: DraftTree, seed: int = 0, sample: Sample | None = None) -> Estimate:
    """Predict one configuration.

    Args:
        deployment: A resolved scenario.
        tree: What to draft; ``DraftTree.chain(0)`` gives a speed-up of exactly 1.
        seed: Of the draws behind the interval; the same seed compares configurations on the same draws.
        sample: Left out: the interval is of the long run. Given: of what so many requests of so many rounds will show,
            which differ by the acceptance's ``spread``.

    Raises:
        InputError: for a tree deeper or wider than the acceptance is known, or without a drafter.
        InfeasibleError: when it does not fit in memory.
    """
    deployment.check(tree)
    tau = tokens_per_round(tree, deployment.acceptance)
    parts = round_parts(deployment, tree, pending_tokens=expected_pending(tree, tau))
    spent = total(list(parts.values()))
    plain = total(list(round_parts(deployment, DraftTree.root_only(), 1.0).values()))
    speedup = tau * _seconds(plain) / _seconds(spent)
    log_var = tokens_log_variance(tree, deployment.acceptance, np.random.default_rng(seed), sample)
    log_var += float(np.max(spent.log_ratio_variance(plain, deployment.cost.log_sd)))
    reach = NormalDist().inv_cdf((1 + LEVEL) / 2) * np.sqrt(log_var)
    tokens_per_s = deployment.scenario.workload.batch * tau / _seconds(spent)
    usd_per_s = deployment.usd_per_s
    return Estimate(
        tree=tree,
        tokens_per_round=tau,
        **parts,
        round=spent,
        speedup=speedup,
        speedup_low=float(speedup * np.exp(-reach)),
        speedup_high=float(speedup * np.exp(reach)),
        tokens_per_s=tokens_per_s,
        time_per_token_s=_seconds(spent) / tau,
        usd_per_million_tokens=None if usd_per_s is None else 1e6 * usd_per_s / tokens_per_s,
    )


def expected_pending(tree: DraftTree, tau: float) -> float:
    """Tokens that the drafter's first pass feeds: engines hand it all tokens of the last round, tau on average."""
    return max(1.0, min(tau, tree.depth + 1.0))


def _seconds(cost: Cost) -> float:
    return float(np.max(cost.time_s))
