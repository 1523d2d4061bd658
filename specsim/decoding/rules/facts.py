"""What is known of a rule before any law is seen: whether it keeps the target's law, on what drafts, and its knobs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from specsim.decoding.state import Draw
from specsim.errors import InputError

Rule: TypeAlias = Literal[
    "greedy",
    "one_hot",
    "token_rejection",
    "recursive_rejection",
    "recursive_rejection_with_replacement",
    "k_seq",
    "block_verification",
    "traversal",
    "traversal_with_replacement",
    "typical_acceptance",
    "joint_ratio",
    "leniency",
    "reject_then_sample",
]


@dataclass(frozen=True)
class RuleFacts:
    """The label of a rule.

    Attributes:
        lossless: The emitted tokens follow the target's law exactly, on drafts made by one of ``draws``.
        draws: Ways of choosing children that suit it: those it is lossless on or, for a lossy rule, made for.
        knobs: Name and default of each number that sets how lossy it is; each rule's function gives the source.
        is_sampled: It draws from the target's law. The greedy rule does not: it is lossless at temperature 0 only.
        needs_draft_probs: It reads the laws that the drafts were drawn from.
        chains_only: It refuses trees that branch.
    """

    lossless: bool
    draws: tuple[Draw, ...]
    knobs: dict[str, float] = field(default_factory=dict)
    is_sampled: bool = True
    needs_draft_probs: bool = True
    chains_only: bool = False


ANY: tuple[Draw, ...] = ("top", "sampled", "sampled_with_replacement")
SAMPLED: tuple[Draw, ...] = ("sampled", "sampled_with_replacement")
REPLACED: tuple[Draw, ...] = ("sampled_with_replacement",)

RULES: dict[Rule, RuleFacts] = {
    "greedy": RuleFacts(True, ANY, is_sampled=False, needs_draft_probs=False),
    "one_hot": RuleFacts(True, ANY, needs_draft_probs=False),
    "token_rejection": RuleFacts(True, SAMPLED, chains_only=True),
    "recursive_rejection": RuleFacts(True, SAMPLED),
    "recursive_rejection_with_replacement": RuleFacts(True, REPLACED),
    "k_seq": RuleFacts(True, REPLACED),
    "block_verification": RuleFacts(True, SAMPLED, chains_only=True),
    "traversal": RuleFacts(True, SAMPLED),
    "traversal_with_replacement": RuleFacts(True, REPLACED),
    "typical_acceptance": RuleFacts(False, ANY, {"epsilon": 0.09, "delta": 0.3}, needs_draft_probs=False),
    "joint_ratio": RuleFacts(False, ANY, {"theta": 0.5}),
    "leniency": RuleFacts(False, SAMPLED, {"leniency": 0.5}, chains_only=True),
    "reject_then_sample": RuleFacts(False, SAMPLED, chains_only=True),
}
"""Every rule with its label."""

KNOB_RANGE: dict[str, tuple[float, float]] = {
    "epsilon": (0, 1),
    "delta": (0, float("inf")),
    "theta": (0, float("inf")),
    "leniency": (1e-6, 1),
}


def facts(rule: Rule) -> RuleFacts:
    """The label of this rule; InputError for a name that is none.

    >>> facts("typical_acceptance").lossless, facts("typical_acceptance").knobs
    (False, {'epsilon': 0.09, 'delta': 0.3})
    """
    if rule not in RULES:
        raise InputError("rule", f"must be one of {', '.join(RULES)}", rule)
    return RULES[rule]


def checked_knobs(rule: Rule, given: dict[str, float]) -> dict[str, float]:
    """The knobs of this rule: its defaults, with what is given in their place.

    Raises:
        InputError: for a knob that the rule does not have, or a value out of range.

    >>> checked_knobs("joint_ratio", {})
    {'theta': 0.5}
    >>> checked_knobs("one_hot", {"theta": 0.5})
    Traceback (most recent call last):
        ...
    specsim.errors.InputError: theta: must be left out for one_hot, which has no such knob, got 0.5
    """
    defaults = facts(rule).knobs
    for name, value in given.items():
        if name not in defaults:
            raise InputError(name, f"must be left out for {rule}, which has no such knob", value)
        low, high = KNOB_RANGE[name]
        if not low <= value <= high:
            raise InputError(name, f"must be in [{low:g}, {high:g}]", value)
    return defaults | given


def check_pairing(rule: Rule, draw: Draw) -> None:
    """Raise InputError where this rule, on children chosen this way, would not do what its label says.

    Greedy and one-hot follow the target's own choice, so any tree suits them. A rejection rule divides by the law
    that the children were drawn from, so they must have been drawn from it, and in the manner it assumes.

    >>> check_pairing("one_hot", "top")
    >>> check_pairing("recursive_rejection", "top")
    Traceback (most recent call last):
        ...
    specsim.errors.InputError: draw: must be sampled or sampled_with_replacement for recursive_rejection, got 'top'
    """
    suits = facts(rule).draws
    if draw not in suits:
        raise InputError("draw", f"must be {' or '.join(suits)} for {rule}", draw)
