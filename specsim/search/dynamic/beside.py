"""Policies that grow by confidence in the same ranking as chains and static trees.

The process that policies were played on and the acceptance that static trees are priced by need not agree on tokens.
What is taken from the former is how a policy compares with the best static tree that both know; its rate is that
tree's, times the comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from specsim.acceptance.emitted import check_tree_fits
from specsim.decoding import StaticTree
from specsim.errors import InputError
from specsim.estimate import LEVEL, Estimate
from specsim.scenario import Deployment
from specsim.search.dynamic.tuning import DynamicTuning, label_of
from specsim.search.rounds import predict_all
from specsim.tree import DraftTree


@dataclass(frozen=True)
class Grown:
    """A policy's estimate.

    Args:
        label, kind: Its parameters and its family.
        tokens_per_round: Mean tokens of a sequence, bonus in.
        num_nodes: Mean nodes verified in a round, root in.
        draft_s, verify_s, host_s: Seconds of the parts of a round.
        tokens_per_s: All sequences together.
        speedup, speedup_low, speedup_high: Over plain decoding; the interval holds the error of acceptance and times,
            and that of the comparison on so many texts.
        may_be_best: Whether it was not shown to be slower than the best policy on these texts.
    """

    label: str
    kind: str
    tokens_per_round: float
    num_nodes: float
    draft_s: float
    verify_s: float
    host_s: float
    tokens_per_s: float
    speedup: float
    speedup_low: float
    speedup_high: float
    may_be_best: bool


@dataclass(frozen=True)
class Beside:
    """The policies beside the static optimum.

    Args:
        policies: Best first.
        like: The static tree that they were compared with, as the static search prices it.
        gain: Of the best policy over the best static tree on the process, low, middle and high (``DynamicTuning``).
        certificate: What was searched and how surely.
        refused: What was not tried, and why.
    """

    policies: tuple[Grown, ...]
    like: Estimate
    gain: tuple[float, float, float]
    certificate: dict[str, Any]
    refused: tuple[tuple[str, str], ...]


def shared_static(tuning: DynamicTuning, trees: Sequence[DraftTree]) -> tuple[int, DraftTree]:
    """The best of ``trees`` that speculates and that the tuning knows: its number there, and the tree.

    Raises:
        InputError: where there is none.
    """
    rates, known = tuning.scores.tokens_per_s, {tree for tree in trees if tree.num_drafted}
    found = [
        (float(rates[i]), i, policy.tree)
        for i, policy in enumerate(tuning.table.policies)
        if isinstance(policy, StaticTree) and policy.tree in known
    ]
    if not found:
        raise InputError(
            "trees", "must hold one that speculates and that the tuning knows, to compare with", len(known)
        )
    _, number, tree = max(found, key=lambda one: one[:2])
    return number, tree


def standing(tuning: DynamicTuning) -> float:
    """Share of the best policy's rate that stood on other texts: the best of many has also been the luckiest."""
    rates = tuning.scores.tokens_per_s
    return min(1.0, tuning.gain[1] / float(rates[tuning.best] / rates[tuning.static]))


def beside_static(deployment: Deployment, tuning: DynamicTuning) -> Beside:
    """Every policy that grows, priced on the scale of the deployment's own static trees.

    Args:
        deployment: A resolved scenario.
        tuning: Of the same deployment.

    Raises:
        InputError: where acceptance speaks of no static tree of the tuning that drafts.
    """
    fitting = []
    for policy in tuning.table.policies:
        if isinstance(policy, StaticTree):
            with suppress(InputError):  # deeper or wider than acceptance is known
                check_tree_fits(policy.tree, deployment.acceptance)
                fitting.append(policy.tree)
    mine, tree = shared_static(tuning, fitting)
    (like,) = predict_all(deployment, [tree])
    scores, stands, z = tuning.scores, standing(tuning), NormalDist().inv_cdf((1 + LEVEL) / 2)
    log_sd = scores.log_gain_sd(mine)
    found = []
    for i in tuning.order:
        policy = tuning.table.policies[i]
        if isinstance(policy, StaticTree):
            continue
        ratio = stands * float(scores.tokens_per_s[i] / scores.tokens_per_s[mine])
        speedup = ratio * like.speedup
        reach = float(np.hypot(np.log(like.speedup_high / like.speedup), z * log_sd[i]))
        draft_s, verify_s, host_s = (
            float(part[i]) * (float(own.time_s.max()) / float(part[mine]) if part[mine] else 1.0)
            for part, own in zip(
                (scores.draft_s, scores.verify_s, scores.host_s), (like.draft, like.verify, like.host), strict=True
            )
        )
        rate = ratio * like.tokens_per_s
        found.append(
            Grown(
                label=label_of(policy),
                kind=policy.kind,  # type: ignore[attr-defined]
                tokens_per_round=rate * (draft_s + verify_s + host_s) / deployment.scenario.workload.batch,
                num_nodes=float(scores.nodes[i]),
                draft_s=draft_s,
                verify_s=verify_s,
                host_s=host_s,
                tokens_per_s=rate,
                speedup=speedup,
                speedup_low=speedup * float(np.exp(-reach)),
                speedup_high=speedup * float(np.exp(reach)),
                may_be_best=bool(tuning.may_be_best[i]),
            )
        )
    certificate = {**tuning.certificate, "compared_with": like.tree.label, "stands": stands}
    return Beside(tuple(found), like, tuning.gain, certificate, tuning.refused)
