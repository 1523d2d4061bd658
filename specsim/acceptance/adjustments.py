"""Acceptance carried over to conditions that it was not measured under, where publications support a law; else refused.

What is added to the uncertainty of a profile goes into its ``task_sd``: the spread of the law between studies.
"""

from __future__ import annotations

from dataclasses import replace
from math import hypot, log2
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.profile import AcceptanceProfile
from specsim.errors import InputError

Array = NDArray[np.float64]

TEMPERATURE_SHIFT: Final = -0.303
"""Logit of acceptance at temperature 1 less that at 0; at T it is this times T squared.

Mean of 16 pairs of method and target (65 published pairs of measurements, ``priors.csv``: EAGLE papers, Leviathan et
al. 2023, Sequoia, Apertus). Left out pair by pair, the error of alpha falls from 0.069 to 0.031. The studies disagree:
up to temperature 0.7 (Sequoia, Apertus) it falls less than this law says, with T5 twice as much.
"""
TEMPERATURE_SHIFT_SD: Final = 0.198
"""Between these pairs; the 90 % interval held 85 % of what was left out."""

CONTEXT_SLOPE: Final = -0.076
"""Logit of acceptance for each doubling of the context, of a target that drafts for itself with a sparse KV cache.

From the acceptance rates .84 .83 .82 .81 .79 .79 at contexts of 4, 8, 16, 32, 64 and 100 thousand tokens of PG-19
(github Infini-AI-Lab/MagicDec @09cd671). One study, so its spread is not known and taken as the shift itself. Each
point left out is met within 0.008.
"""
CONTEXT_RANGE: Final = (4_000, 100_000)

WHAT_IS_KNOWN_OF_CONTEXT: Final = (
    "no law is published: an EAGLE-3 head on Llama-3.1-8B kept 0.09 of first tokens at 8192 tokens of context, 0.44 in "
    "short ones (github pramodjella/speculative-decoding-draft-length-audit @0c0fa77)"
)
WHAT_IS_KNOWN_OF_WEIGHTS: Final = (
    "nothing published gives acceptance by format: SpecMQuant (arXiv:2505.22179) says in words that it barely moves"
)


def at_temperature(profile: AcceptanceProfile, measured_at: float, wanted: float) -> AcceptanceProfile:
    """The profile at another temperature, both from 0 to 1.

    The first choice's logit moves by ``TEMPERATURE_SHIFT`` times the difference of squares; lower ranks keep their
    share of its misses.

    >>> warm = at_temperature(AcceptanceProfile.iid(0.8, 4), measured_at=0, wanted=1)
    >>> round(float(warm.accept_prob[0, 0]), 3), round(warm.task_sd, 3)
    (0.747, 0.107)
    """
    for name, value in (("measured_at", measured_at), ("wanted", wanted)):
        if not 0 <= value <= 1:
            raise InputError(name, "must be from 0 to 1, the temperatures published", value)
    heat = wanted**2 - measured_at**2
    return _shifted(
        profile, TEMPERATURE_SHIFT * heat, TEMPERATURE_SHIFT_SD * abs(heat),
        f"from temperature {measured_at:g} to {wanted:g} by the mean of published pairs",
    )  # fmt: skip


def at_context(
    profile: AcceptanceProfile, drafter: str, measured_at_tokens: int, wanted_tokens: int
) -> AcceptanceProfile:
    """The profile at another length of context.

    Args:
        profile: As measured.
        drafter: ``sparse_self``: the target itself with a sparse KV cache; of no other is a law known.
        measured_at_tokens, wanted_tokens: Of context, both in ``CONTEXT_RANGE``.

    Raises:
        InputError: for another drafter, or a context that nobody measured.

    >>> far = at_context(AcceptanceProfile.iid(0.84, 3), "sparse_self", 4000, 64_000)
    >>> round(float(far.accept_prob[0, 0]), 3)
    0.795
    """
    if drafter != "sparse_self":
        raise InputError("drafter", f"must be sparse_self to carry acceptance to another context: "
                                    f"{WHAT_IS_KNOWN_OF_CONTEXT}", drafter)  # fmt: skip
    low, high = CONTEXT_RANGE
    for name, value in (("measured_at_tokens", measured_at_tokens), ("wanted_tokens", wanted_tokens)):
        if not low <= value <= high:
            raise InputError(name, f"must be from {low} to {high}, the contexts published", value)
    doublings = log2(wanted_tokens / measured_at_tokens)
    return _shifted(
        profile, CONTEXT_SLOPE * doublings, abs(CONTEXT_SLOPE * doublings),
        f"from {measured_at_tokens} to {wanted_tokens} tokens of context by one study",
    )  # fmt: skip


def with_weights(profile: AcceptanceProfile, measured_with: str, wanted: str) -> AcceptanceProfile:
    """The profile of a target stored in another format: itself if it is the same one, else nothing is known.

    >>> with_weights(AcceptanceProfile.iid(0.8, 2), "bf16", "int4")
    Traceback (most recent call last):
    specsim.errors.InputError: weights: no published law carries acceptance from bf16 to int4: ...
    """
    if measured_with != wanted:
        limit = f"no published law carries acceptance from {measured_with} to {wanted}: {WHAT_IS_KNOWN_OF_WEIGHTS}"
        raise InputError("weights", limit, wanted)
    return profile


def with_draft_vocabulary(
    profile: AcceptanceProfile, coverage: float, end: Literal["low", "high"]
) -> AcceptanceProfile:
    """An end of what is left where the drafter can only propose part of the vocabulary.

    A first choice that was kept and is inside stays so; the target's token is outside with probability
    ``1 - coverage``. So acceptance falls by that at most (``low``), whatever the drafter, and by nothing at least
    (``high``) where its misses are not mended by having fewer tokens to choose from, up to the coverage itself.
    No fit, and exact at each accepted node whose target tokens are covered so often.

    Args:
        profile: With the whole vocabulary.
        coverage: Probability that the target's token is one that the drafter can propose.
        end: Which end.

    >>> small = AcceptanceProfile.from_ranks([0.7, 0.2], 1)
    >>> with_draft_vocabulary(small, 0.95, "low").accept_prob.round(3).tolist()
    [[0.65, 0.15]]
    >>> with_draft_vocabulary(small, 0.85, "high").accept_prob.round(3).tolist()
    [[0.7, 0.15]]
    """
    if not 0 < coverage <= 1:
        raise InputError("coverage", "must be a probability above 0", coverage)
    table = profile.accept_prob
    if end == "low":
        changed = np.maximum(table - (1 - coverage), 0.0)
    elif end == "high":
        upto = np.minimum(np.cumsum(table, axis=1), coverage)
        changed = np.diff(upto, axis=1, prepend=0.0)
    else:
        raise InputError("end", "must be low or high", end)
    source = f"{profile.source}; {end} end for a draft vocabulary that holds {coverage:.1%} of the target's tokens"
    return replace(profile, accept_prob=changed, source=source)


def _shifted(profile: AcceptanceProfile, shift: float, shift_sd: float, why: str) -> AcceptanceProfile:
    """The first choice's logit moved; what the law's spread does to a chain adds to the spread between workloads."""
    table = _moved(profile.accept_prob, shift)
    chains = [_accepted(_moved(profile.accept_prob, shift + way * shift_sd)) for way in (-1, 1)]
    middle = _accepted(table)
    added = abs(chains[1] - chains[0]) / (2 * middle) if middle else 0.0
    spread = min(hypot(profile.task_sd, added), 10.0)
    return replace(profile, accept_prob=table, task_sd=spread, source=f"{profile.source}; {why}")


def _moved(table: Array, shift: float) -> Array:
    first = table[:, :1]
    odds = first / np.maximum(1 - first, 1e-12) * np.exp(shift)
    moved = np.where(first >= 1, 1.0, odds / (1 + odds))
    share = table[:, 1:] / np.maximum(1 - first, 1e-12)
    return np.hstack([moved, np.where(first >= 1, 0.0, (1 - moved) * share)])


def _accepted(table: Array) -> float:
    return float(np.cumprod(table[:, 0]).sum())
