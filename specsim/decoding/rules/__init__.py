"""Verification rules: which drafted tokens the target keeps. A rule is a function in a file here and a case below."""

from __future__ import annotations

from typing import assert_never

from specsim.decoding.arrays import Array
from specsim.decoding.rules.block import block_verification
from specsim.decoding.rules.facts import RULES, Rule, RuleFacts, check_pairing, checked_knobs, facts
from specsim.decoding.rules.follow import greedy, one_hot
from specsim.decoding.rules.k_seq import k_seq
from specsim.decoding.rules.lossy import joint_ratio_end, leniency, reject_then_sample, target_after, typical_end
from specsim.decoding.rules.rejection import recursive_rejection, token_rejection
from specsim.decoding.rules.traversal import traversal
from specsim.decoding.rules.verdict import Draws, Verdict
from specsim.errors import InputError

__all__ = ["RULES", "Rule", "RuleFacts", "check_pairing", "checked_knobs", "facts", "verify"]


def verify(
    rule: Rule,
    parents: Array,
    tokens: Array,
    draft_probs: Array | None,
    target_probs: Array,
    draws: Draws | None,
    **knobs: float,
) -> Verdict:
    """Which path of each tree the target keeps, and the bonus token after it, under the rule of that name.

    Args:
        rule: Name of the rule; each function of that name gives its formula, ``RULES`` its label.
        parents: ``[B, N]`` parent of each node, -1 for the root, -2 for padding.
        tokens: ``[B, N]`` token of each node; siblings in the order in which they were drawn.
        draft_probs: ``[B, N, V]`` law that each node's children were drawn from; rules that do not need it ignore it.
        target_probs: ``[B, N, V]`` target law after each node.
        draws: Uniforms; greedy ignores them.
        knobs: How lossy a lossy rule is, by name; what is left out has the default of ``RULES``.

    Raises:
        InputError: for what the rule needs and did not get, for a knob that it does not have or that is out of range,
            and for shapes that do not agree.
    """
    shape = tuple(tokens.shape)
    if tuple(parents.shape) != shape or tuple(target_probs.shape[:2]) != shape:
        raise InputError("target_probs", f"must have shape {(*shape, 'V')}", tuple(target_probs.shape))
    set_to = checked_knobs(rule, knobs)
    if rule == "greedy":
        return greedy(parents, tokens, target_probs)
    if draws is None:
        raise InputError("draws", f"must be given for the rule {rule}", None)
    if rule == "one_hot":
        return one_hot(parents, tokens, target_probs, draws)
    if rule == "typical_acceptance":
        return target_after(parents, typical_end(parents, tokens, target_probs, **set_to), target_probs, draws)
    if draft_probs is None or draft_probs.shape != target_probs.shape:
        got = None if draft_probs is None else tuple(draft_probs.shape)
        raise InputError("draft_probs", f"must have the shape {tuple(target_probs.shape)} of target_probs", got)
    drafted = parents, tokens, draft_probs, target_probs
    match rule:
        case "token_rejection":
            return token_rejection(*drafted, draws)
        case "recursive_rejection":
            return recursive_rejection(*drafted, draws)
        case "recursive_rejection_with_replacement":
            return recursive_rejection(*drafted, draws, replacement=True)
        case "k_seq":
            return k_seq(*drafted, draws)
        case "block_verification":
            return block_verification(*drafted, draws)
        case "traversal":
            return traversal(*drafted, draws)
        case "traversal_with_replacement":
            return traversal(*drafted, draws, replacement=True)
        case "joint_ratio":
            return target_after(parents, joint_ratio_end(*drafted, **set_to), target_probs, draws)
        case "leniency":
            return leniency(*drafted, draws, **set_to)
        case "reject_then_sample":
            return reject_then_sample(*drafted, draws)
        case _:
            assert_never(rule)
