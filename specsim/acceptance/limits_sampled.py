"""Ceilings for chains that are sampled from the drafter: what each way of verifying them can accept at most.

With ``r_i`` the target's over the drafter's probability of the i-th drafted token, three means over drafted chains::

    token rule            sum_n E prod_{i<=n} min(1, r_i)
    best achievable       sum_n E b_n,   b_n = min(b_{n-1} r_n, 1)       block and traversal verification reach it
    any lossless rule     sum_n E min(1, prod_{i<=n} r_i) = sum_n (1 - TV of the laws of the first n tokens)

Each is at most the next. Source: our derivation, held against the rules by exact enumeration; block verification is
Sun et al. 2024 (arXiv:2403.10444).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.errors import InputError

Array = NDArray[np.float64]


class SampledCeilings(NamedTuple):
    """Accepted draft tokens by draft length, ``[n]`` for chains of n + 1 tokens."""

    token_rule: Array
    best_rule: Array
    any_rule: Array


def ceiling_from_drafts(
    target_probs: ArrayLike, draft_probs: ArrayLike, weights: ArrayLike | None = None
) -> SampledCeilings:
    """The three ceilings from chains that were drawn from the drafter.

    Args:
        target_probs: ``[chain, position]`` the target's probability of each drafted token after those before it.
        draft_probs: The same of the drafter, above 0.
        weights: Probability of each chain where they are all there are; left out, chains are draws.

    >>> ceiling_from_drafts([[0.5, 0.5]], [[1.0, 0.5]]).token_rule.tolist()
    [0.5, 1.0]
    """
    target, draft = np.asarray(target_probs, dtype=float), np.asarray(draft_probs, dtype=float)
    if target.ndim != 2 or target.shape != draft.shape or not target.size:
        raise InputError("target_probs", "must be [chain, position] like draft_probs", target.shape)
    if not ((draft > 0) & (draft <= 1 + 1e-9) & (target >= 0) & (target <= 1 + 1e-9)).all():
        raise InputError("draft_probs", "must be probabilities, those of the drafter above 0")
    weight = np.full(len(target), 1 / len(target)) if weights is None else np.asarray(weights, dtype=float)
    ratios = target / draft
    block, reach = np.ones(len(target)), []
    for column in ratios.T:
        block = np.minimum(block * column, 1.0)
        reach.append(float(weight @ block))
    token = weight @ np.cumprod(np.minimum(ratios, 1.0), axis=1)
    whole = weight @ np.minimum(np.cumprod(ratios, axis=1), 1.0)
    return SampledCeilings(np.cumsum(token), np.cumsum(reach), np.cumsum(whole))


def ceiling_from_texts(
    target_surprisals: Sequence[ArrayLike], draft_surprisals: Sequence[ArrayLike], draft_len: int
) -> SampledCeilings:
    """The three ceilings without a single draft: from one pass of each model over the target's own sampled texts.

    Drafted strings and target strings are exchanged by weighting: with ``L_i`` the log of the drafter's over the
    target's probability of the next i tokens of the text, the three means are of ``exp`` of ``sum min(l_j, 0)``, of
    ``min(0, L_1 .. L_n)`` and of ``min(0, L_n)``, each over every place where a round could begin.

    Args:
        target_surprisals: Of each text ``-log p`` of its tokens, nats, under the law they were sampled from.
        draft_surprisals: The same tokens under the drafter's law.
        draft_len: Tokens of the chain.

    >>> ceiling_from_texts([[0.0, 0.0]], [[0.0, np.log(2)]], 2).any_rule.round(3).tolist()
    [1.0, 1.5]
    """
    sums = np.zeros((3, draft_len))
    num = 0
    for number, (p, q) in enumerate(zip(target_surprisals, draft_surprisals, strict=True)):
        step = np.asarray(p, dtype=float) - np.asarray(q, dtype=float)
        if step.ndim != 1:
            raise InputError(f"draft_surprisals[{number}]", "must be one number for each token of its text")
        if len(step) < draft_len:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(step, draft_len)
        num += len(windows)
        ratio = np.cumsum(windows, axis=1)
        logs = (
            np.cumsum(np.minimum(windows, 0), axis=1),
            np.minimum.accumulate(np.minimum(ratio, 0), axis=1),
            np.minimum(ratio, 0),
        )
        sums += np.array([np.exp(log).sum(axis=0) for log in logs])
    if not num:
        raise InputError("draft_len", "must be at least 1 and no longer than the longest text", draft_len)
    token, best, any_rule = np.cumsum(sums / num, axis=1)
    return SampledCeilings(token, best, any_rule)


def ceiling_sampled_chain(
    target: ArrayLike | Sequence[ArrayLike], draft: ArrayLike | Sequence[ArrayLike], draft_len: int
) -> SampledCeilings:
    """The three ceilings where the laws are known, exactly.

    Args:
        target: Next-token law ``[V]``, the same after every text; or laws by depth, the d-th (from 0) with d + 1 axes,
            the tokens before and then the next one.
        draft: The same of the drafter.
        draft_len: Tokens of the chain.

    >>> same = ceiling_sampled_chain(np.full(16, 1 / 16), np.full(16, 1 / 16), 16)  # accepted whole
    >>> round(float(same.token_rule[-1]), 9)
    16.0
    """
    if draft_len < 1:
        raise InputError("draft_len", "must be >= 1", draft_len)
    if not isinstance(target, np.ndarray) and np.ndim(target[0]) >= 1:  # type: ignore[index]
        return _enumerated([np.asarray(law) for law in target], [np.asarray(law) for law in draft], draft_len)  # type: ignore[union-attr]
    p, q = np.asarray(target, dtype=float), np.asarray(draft, dtype=float)
    if p.ndim != 1 or p.shape != q.shape:
        raise InputError("draft", f"must be a law of {p.size} tokens", q.shape)
    return _independent(p, q, draft_len)


def _enumerated(target: list[Array], draft: list[Array], draft_len: int) -> SampledCeilings:
    if min(len(target), len(draft)) < draft_len:
        raise InputError("draft_len", f"must be <= {min(len(target), len(draft))}, the depth of the laws", draft_len)
    chains = np.indices((draft[0].shape[0],) * draft_len).reshape(draft_len, -1)
    probs = [np.stack([laws[d][tuple(chains[: d + 1])] for d in range(draft_len)], axis=1) for laws in (target, draft)]
    weights = probs[1].prod(axis=1)
    possible = weights > 0
    return ceiling_from_drafts(probs[0][possible], probs[1][possible], weights[possible])


def _independent(p: Array, q: Array, draft_len: int) -> SampledCeilings:
    """The same laws after every text: each mean is over a walk of one number, so equal numbers are put together."""
    drawn = q > 0
    step, chance = p[drawn] / q[drawn], q[drawn]
    beta = float(np.minimum(p, q).sum())
    token = np.cumsum(beta ** np.arange(1, draft_len + 1))
    block, whole = (np.ones(1), np.ones(1)), (np.ones(1), np.ones(1))
    best, any_rule = [], []
    for _ in range(draft_len):
        block = _merged(np.minimum(np.outer(block[0], step), 1.0), np.outer(block[1], chance))
        whole = _merged(np.outer(whole[0], step), np.outer(whole[1], chance))
        best.append(float(block[0] @ block[1]))
        any_rule.append(float(np.minimum(whole[0], 1.0) @ whole[1]))
    return SampledCeilings(token, np.cumsum(best), np.cumsum(any_rule))


def _merged(values: Array, mass: Array) -> tuple[Array, Array]:
    """Equal values, to 12 digits, in one: products of the same steps in another order."""
    flat = values.ravel()
    scale = np.where(flat > 0, 10.0 ** (11 - np.floor(np.log10(np.maximum(flat, 1e-290)))), 1.0)
    kept, place = np.unique(np.round(flat * scale) / scale, return_inverse=True)
    return kept, np.asarray(np.bincount(place.ravel(), weights=mass.ravel()), dtype=np.float64)
