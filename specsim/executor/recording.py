"""A round as records: one for each text, read by whoever fits or compares."""

from __future__ import annotations

from typing import Literal

import torch

from specsim.decoding import draft_laws, node_probs, outcome
from specsim.executor.rounds import Round
from specsim.records import RoundRecord, round_record

EXACT_OUTCOME = (
    "one_hot",
    "token_rejection",
    "recursive_rejection",
    "recursive_rejection_with_replacement",
)
"""Sampling rules whose acceptance of each node, given its parent's, is a number known before any draw."""


@torch.inference_mode()
def records_of(done: Round, clock: Literal["cpu", "wall"], wall_s: float | None = None) -> list[RoundRecord]:
    """The record of each text in the round. Nothing of this is part of the round, or of its time."""
    laws = done.method.sampling.law(done.target_logits)
    target_probs = node_probs(done.tree.parents, done.tree.tokens, laws)
    accept = _accept_probs(done, laws)
    found = []
    for row, request in enumerate(done.requests):
        nodes = [n for n, parent in enumerate(done.tree.parents[row].tolist()) if parent >= 0]
        # Padding comes last in its row, so numbers within a row have no gaps.
        found.append(
            round_record(
                done.timed,
                clock,
                request=request,
                method=done.method.label,
                context_tokens=done.context_tokens[row],
                num_drafted=len(nodes),
                accepted_ranks=tuple(_ranks(done, row)),
                num_emitted=len(done.emitted[row]),
                accept_prob=None if accept is None else _row(accept, row, nodes),
                parents=tuple(done.tree.parents[row, nodes].tolist()),
                tokens=tuple(done.tree.tokens[row, nodes].tolist()),
                draft_probs=_row(done.tree.probs, row, nodes),
                target_probs=_row(target_probs, row, nodes),
                path=tuple(done.path[row][1:]),
                num_seqs=len(done.requests) if len(done.requests) > 1 else None,
                wall_s=wall_s,
            )
        )
    return found


def _row(values: torch.Tensor, row: int, nodes: list[int]) -> tuple[float, ...]:
    """Probabilities; rounding must not put one above 1."""
    return tuple(values[row, nodes].float().clamp(0, 1).tolist())


def _accept_probs(done: Round, laws: torch.Tensor) -> torch.Tensor | None:
    """``[B, N]``; None for rules that judge paths and not nodes."""
    tree, rule = done.tree, done.method.rule
    if rule == "greedy":
        best = done.target_logits.argmax(-1)
        agrees: torch.Tensor = best.gather(1, tree.parents.clamp(min=0)) == tree.tokens
        return agrees.float()
    if rule not in EXACT_OUTCOME or tree.tokens.shape[1] == 1:
        return None
    drafted = None if rule == "one_hot" else draft_laws(done.state, tree, laws.shape[-1])
    chances: torch.Tensor = outcome(rule, tree.parents, tree.tokens, drafted, laws).accept_probs
    return chances


def _ranks(done: Round, row: int) -> list[int]:
    """The drafter's rank of each accepted token: siblings were drafted best first, or in the order drawn."""
    path = done.path[row][1:]
    if (tree := done.method.tree) is not None:
        return [tree.ranks[node] for node in path]
    parents, nodes = done.state.parents[row].tolist(), done.tree.nodes[row].tolist()
    return [parents[: nodes[n]].count(parents[nodes[n]]) for n in path]
