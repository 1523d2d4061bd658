"""Rules that trade the target's law for longer acceptance: the text is no longer a sample of the target."""

from __future__ import annotations

from specsim.decoding.arrays import PADDING, Array, array_namespace, depths, path_probs, row_numbers
from specsim.decoding.rules.rejection import chain_accept_probs, chain_end, residual
from specsim.decoding.rules.verdict import Draws, Verdict, check_chains, drafted_probs, prefix_verdict, verdict_at
from specsim.decoding.sampling import sample

LEAST = 1e-37
"""Stands for a probability of zero where its logarithm is taken: above the smallest normal single-precision number."""


def typical_end(parents: Array, tokens: Array, target_probs: Array, *, epsilon: float, delta: float) -> Array:
    """The node ``[B]`` where typical acceptance ends: of the longest accepted paths the likeliest.

    A token is accepted if its target probability exceeds ``min(epsilon, delta exp(-H))``, H being the entropy of the
    target's law there (nats), and so are all before it. The bonus token is the target's own sample.

    Source: Medusa (Cai et al. 2024, arXiv:2401.10774): epsilon 0.09 and delta 0.3, about its square root.
    """
    xp = array_namespace(parents, target_probs)
    rows = row_numbers(parents)[:, None]
    probs = drafted_probs(parents, tokens, target_probs)
    # A probability of 0 adds nothing, whatever number stands for its logarithm.
    limit = delta * xp.exp(xp.vecdot(target_probs, xp.log(target_probs.clip(min=LEAST)), axis=-1))
    limit = xp.minimum(limit, xp.full_like(limit, epsilon))[rows, parents.clip(min=0)]
    accepted = path_probs(parents, xp.astype((probs > limit) | (parents < 0), probs.dtype)) > 0
    return _deepest(parents, accepted, path_probs(parents, probs))


def joint_ratio_end(parents: Array, tokens: Array, draft_probs: Array, target_probs: Array, *, theta: float) -> Array:
    """The node ``[B]`` where the joint ratio ends: the longest path whose product of target over draft exceeds theta.

    A longer path may make up for a shorter one that fails. Of equally long ones the largest ratio is taken. The bonus
    token is the target's own sample.

    Source: MTAD (multi-token joint decoding; the repository's threshold is 0.5), read for trees as its variant that
    verifies all beams.
    """
    xp = array_namespace(parents, target_probs)
    # Products over long chains leave single precision.
    wanted, drawn = (
        path_probs(parents, xp.astype(drafted_probs(parents, tokens, laws), xp.float64))
        for laws in (target_probs, draft_probs)
    )
    # Never so small that the ratio overflows: beyond that any longer path is taken anyway.
    ratio = wanted / xp.where(drawn > 0, drawn, xp.ones_like(drawn)).clip(min=1e-300)
    accepted = ((drawn > 0) & (ratio > theta)) | (parents == -1)
    return _deepest(parents, accepted, ratio)


def _deepest(parents: Array, accepted: Array, score: Array) -> Array:
    """Of the nodes ``accepted[B, N]`` the deepest, among those the one with the largest score: ``[B]``."""
    xp = array_namespace(parents)
    accepted = accepted & (parents != PADDING)
    depth = xp.where(accepted, depths(parents), xp.full_like(parents, -1))
    is_deepest = depth == xp.max(depth, axis=1, keepdims=True)
    return xp.argmax(xp.where(is_deepest, score, xp.full_like(score, -1.0)), axis=1)


def target_after(parents: Array, end: Array, target_probs: Array, draws: Draws) -> Verdict:
    """The path to ``end[B]``, and the target's own sample after it."""
    law = target_probs[row_numbers(end), end]
    return verdict_at(parents, end, sample(law, draws.bonus))


def leniency(
    parents: Array, tokens: Array, draft_probs: Array, target_probs: Array, draws: Draws, *, leniency: float
) -> Verdict:
    """Token rejection that takes the draft's probabilities times ``leniency``, in (0, 1]; 1 is lossless.

    A token is accepted with probability ``min(1, target / (leniency draft))``, the residual is
    ``norm((target - leniency draft)+)``: at any context no token gets more than its target probability over leniency.

    Raises:
        InputError: when a tree branches.

    Source: the lenience of Leviathan et al. 2023 (arXiv:2211.17192), appendix, which DistillSpec (Zhou et al. 2023,
    arXiv:2310.08461) generalises; this is its linear function.

    >>> import numpy as np
    >>> draft, target = np.array([[[0.5, 0.5]] * 2]), np.array([[[0.1, 0.9]] * 2])
    >>> draws = Draws(accept=np.array([[0.0, 0.3]]), bonus=np.array([0.5]))  # .3 < .1 / (.5 * .5)
    >>> leniency(np.array([[-1, 0]]), np.array([[1, 0]]), draft, target, draws, leniency=0.5).path.tolist()
    [[0, 1]]
    """
    check_chains("leniency", parents)
    end, taken = chain_end(parents, tokens, draft_probs, target_probs, draws, leniency)
    rows = row_numbers(end)
    law = residual(target_probs[rows, end], draft_probs[rows, end], taken)
    return prefix_verdict(end, parents.shape[1], sample(law, draws.bonus))


def reject_then_sample(parents: Array, tokens: Array, draft_probs: Array, target_probs: Array, draws: Draws) -> Verdict:
    """Token rejection that samples the target itself after a rejection, so that draft laws need not be sent.

    Too much weight goes to what the draft likes. At temperature 0 it is exact.

    Raises:
        InputError: when a tree branches.

    Source: Koh & Yang, resource-aware parallel speculative decoding between phones and edge servers.
    """
    check_chains("reject_then_sample", parents)
    end, _ = chain_end(parents, tokens, draft_probs, target_probs, draws)
    law = target_probs[row_numbers(end), end]
    return prefix_verdict(end, parents.shape[1], sample(law, draws.bonus))


def lenient_outcome(
    parents: Array, tokens: Array, draft_probs: Array, target_probs: Array, *, leniency: float
) -> tuple[Array, Array]:
    """Acceptance ``[B, N]`` and bonus laws ``[B, N, V]`` of :func:`leniency`; see ``Outcome``."""
    check_chains("leniency", parents)
    accept, taken = chain_accept_probs(parents, tokens, draft_probs, target_probs, leniency)
    return accept, residual(target_probs, draft_probs, taken)
