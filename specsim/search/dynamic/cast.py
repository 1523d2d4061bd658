"""CAST on a deployment: its tree follows from the costs, so no table holds it; it is played when it is asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.process import TextNodes
from specsim.decoding import TreePolicy
from specsim.decoding.policies.cast import Cast
from specsim.errors import InputError
from specsim.scenario import Deployment
from specsim.search.dynamic.table import DynamicTable
from specsim.search.dynamic.text import Pool, Texts, grown, rounds_of, written
from specsim.search.dynamic.totals import WARM_ROOTS, Visited
from specsim.search.tune import verify_costs
from specsim.work import HostWork, Pass

Ints = NDArray[np.int64]

TOP_K = 8
RECENT = 3
"""Ratios between levels that are averaged."""


def cast_policy(deployment: Deployment, max_nodes: int, max_width: int, max_depth: int) -> Cast:
    """CAST with the deployment's own costs, each choice for the highest rate.

    Args:
        deployment: What prices the passes, at its batch and context.
        max_nodes: Verified at most, root in.
        max_width: Run at most on a level.
        max_depth: Most levels.

    Raises:
        InputError: for a drafter that makes no pass of each level.
    """
    if deployment.drafting != "autoregressive":
        raise InputError("drafter.kind", "must draft level by level for CAST", deployment.scenario.drafter.kind)
    widths = np.arange(1, max_width + 1, dtype=float)
    at = deployment.at
    drafting = deployment.cost.price(Pass("draft", "draft", widths[:, None], at.context_tokens, at.num_seqs)).time_s
    host_s = float(deployment.cost.price(HostWork("draft")).time_s)
    verify = verify_costs(deployment, max_nodes)
    return Cast(
        min(TOP_K, max_width), max_depth, tuple((drafting + host_s).tolist()), tuple(verify.tolist()), None, RECENT
    )


def with_cast(
    table: DynamicTable, deployment: Deployment, max_nodes: int, max_width: int, max_depth: int
) -> DynamicTable:
    """The table and CAST, played for this deployment's batch on the table's texts.

    CAST chooses numbers for the whole batch, so texts are decoded in groups of the batch's size, one walk each.
    """
    policy, batch = cast_policy(deployment, max_nodes, max_width, max_depth), deployment.scenario.workload.batch
    if table.process is None:
        raise InputError("table.process", "must be there to play CAST on: rounds were recorded", None)
    rng = np.random.default_rng(table.seed)
    texts = written(table.process, table.temperature, table.num_requests, 28, max_depth, rng)
    visited = group_visits(texts, policy, min(batch, table.num_requests))
    exact = np.append(table.exact_tokens, np.nan)
    return replace(
        table, policies=(*table.policies, policy), visited=(*table.visited, visited), exact_tokens=exact, _by_batch={}
    )


def group_visits(texts: Texts, policy: TreePolicy, batch: int) -> Visited:
    """Rounds of groups of ``batch`` texts that are decoded together; a text that ends begins anew."""
    num_rounds = max(2, texts.num_roots // 4)
    reach = texts.tokens.shape[1] - texts.num_roots
    columns: tuple[list[NDArray[Any]], ...] = ([], [], [], [])
    for begin in range(0, texts.num_requests, batch):
        request = np.arange(begin, min(begin + batch, texts.num_requests))
        at = np.zeros(len(request), dtype=np.int64)
        for _ in range(num_rounds):
            chosen = texts.nodes.at((request, at))
            roots = TextNodes(chosen.key, chosen.is_easy, chosen.offset, np.zeros_like(chosen.depth))
            states = grown(policy, len(request), Pool(texts.process, roots).draft_laws)
            after = texts.tokens[request[:, None], at[:, None] + 1 + np.arange(reach)]
            (rounds,) = rounds_of(states, [(policy, policy.limits.passes)], after)
            counted = at >= WARM_ROOTS
            found: tuple[NDArray[Any], ...] = (
                request,
                rounds.emitted,
                rounds.num_nodes,
                rounds.widths.astype(np.int16),
            )
            for column, values in zip(columns, found, strict=True):
                column.append(values[counted])
            at = at + rounds.emitted.astype(np.int64)
            at = np.where(at < texts.num_roots, at, 0)
    which, emitted, nodes, widths = (np.concatenate(column) for column in columns)
    order = np.argsort(which, kind="stable")
    return Visited(which[order], np.ones(len(order), dtype=np.int64), emitted[order], nodes[order], widths[order])
