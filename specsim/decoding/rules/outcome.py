"""What a rule does to a given tree before any uniform is drawn: exact probabilities, for records and for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from specsim.decoding.arrays import Array, array_namespace, device, path_probs, pick
from specsim.decoding.arrays import one_hot as one_hot_law
from specsim.decoding.rules.block import block_outcome
from specsim.decoding.rules.facts import Rule, checked_knobs
from specsim.decoding.rules.k_seq import k_seq_outcome
from specsim.decoding.rules.lossy import joint_ratio_end, lenient_outcome, typical_end
from specsim.decoding.rules.rejection import accept_prob_and_residual
from specsim.decoding.rules.traversal import traversal_outcome
from specsim.decoding.rules.verdict import num_elders, verdict_at
from specsim.errors import InputError


@dataclass(frozen=True, eq=False)
class Outcome:
    """The law of a verdict.

    Attributes:
        accept_probs: ``[B, N]`` probability that a node is the accepted child, given that its parent was accepted:
            exclusive among siblings, which sum to at most 1. 1 for the root, 0 for padding.
        bonus_probs: ``[B, N, V]`` law of the bonus token, given that the path ends at the node.
    """

    accept_probs: Array
    bonus_probs: Array

    def expected_accepted(self, parents: Array) -> Array:
        """Expected accepted draft tokens of each tree, ``[B]``: the sum of path products over all but the root."""
        xp = array_namespace(parents)
        return xp.sum(path_probs(parents, self.accept_probs), axis=1) - 1


def outcome(
    rule: Rule, parents: Array, tokens: Array, draft_probs: Array | None, target_probs: Array, **knobs: float
) -> Outcome:
    """The exact probabilities of what ``verify`` does with the same arguments; every rule has them in closed form.

    Raises:
        InputError: as ``verify``.

    >>> import numpy as np
    >>> laws = np.array([[[0.25, 0.75], [0.5, 0.5]]])
    >>> result = outcome("one_hot", np.array([[-1, 0]]), np.array([[0, 1]]), None, laws)
    >>> result.accept_probs.tolist(), result.bonus_probs[0, 0].tolist()
    ([[1.0, 0.75]], [1.0, 0.0])
    """
    xp = array_namespace(target_probs)
    set_to = checked_knobs(rule, knobs)
    if rule == "greedy":
        best = one_hot_law(xp.argmax(target_probs, axis=-1), target_probs.shape[-1], target_probs.dtype)
        return _recursive_outcome(parents, tokens, None, best)
    if rule == "one_hot":
        return _recursive_outcome(parents, tokens, None, target_probs)
    if rule == "typical_acceptance":
        return _certain(parents, typical_end(parents, tokens, target_probs, **set_to), target_probs)
    if draft_probs is None:
        raise InputError("draft_probs", f"must be given for the rule {rule}", None)
    drafted = parents, tokens, draft_probs, target_probs
    match rule:
        case "token_rejection" | "recursive_rejection":
            return _recursive_outcome(*drafted)
        case "recursive_rejection_with_replacement":
            return _recursive_outcome(*drafted, replacement=True)
        case "k_seq":
            return Outcome(*k_seq_outcome(*drafted))
        case "block_verification":
            return Outcome(*block_outcome(*drafted))
        case "traversal":
            return Outcome(*traversal_outcome(*drafted, replacement=False))
        case "traversal_with_replacement":
            return Outcome(*traversal_outcome(*drafted, replacement=True))
        case "joint_ratio":
            return _certain(parents, joint_ratio_end(*drafted, **set_to), target_probs)
        case "leniency":
            return Outcome(*lenient_outcome(*drafted, **set_to))
        case "reject_then_sample":
            accept_probs, _ = lenient_outcome(*drafted, leniency=1.0)
            return Outcome(accept_probs, target_probs)
        case _:
            assert_never(rule)


def _certain(parents: Array, end: Array, target_probs: Array) -> Outcome:
    """The outcome of a rule without coins: the path to ``end[B]`` for certain, then the target's own law."""
    xp = array_namespace(parents)
    path = verdict_at(parents, end, end).path
    ids = xp.arange(parents.shape[1], device=device(parents))
    return Outcome(xp.astype(xp.any(path[:, :, None] == ids, axis=1), target_probs.dtype), target_probs)


def _recursive_outcome(
    parents: Array, tokens: Array, draft_probs: Array | None, target_probs: Array, *, replacement: bool = False
) -> Outcome:
    """Recursive rejection of all nodes at once, sibling by sibling.

    The greedy and the one-hot rule are rejection sampling from proposals with all their mass on one child
    (``draft_probs`` None); greedy has a target of that kind as well.
    """
    xp = array_namespace(target_probs)
    vocab_size, dtype = target_probs.shape[-1], target_probs.dtype
    law, proposal = target_probs, draft_probs
    ids = xp.arange(parents.shape[1], device=device(parents))
    elders = num_elders(parents)
    refused = xp.ones_like(target_probs[..., 0])  # [B, N] probability that all children so far were rejected
    accept_probs = xp.astype(parents == -1, dtype)
    for turn in range(int(xp.max(elders)) + 1):
        at_turn = (elders == turn) & (parents >= 0)
        is_child = at_turn[:, None, :] & (parents[:, None, :] == ids[:, None])  # [B, node, its child]
        has_child = xp.any(is_child, axis=-1)
        token = pick(tokens, xp.argmax(xp.astype(is_child, xp.uint8), axis=-1))
        drawn_from = one_hot_law(token, vocab_size, dtype) if proposal is None else proposal
        accept, residual, rest = accept_prob_and_residual(law, drawn_from, token, replacement=replacement)
        accept = xp.where(has_child, accept, xp.zeros_like(accept))
        accept_probs = xp.where(at_turn, pick(refused * accept, parents), accept_probs)
        refused = refused * (1 - accept)
        law = xp.where(has_child[..., None], residual, law)
        proposal = None if proposal is None else xp.where(has_child[..., None], rest, proposal)
    return Outcome(accept_probs, law)
