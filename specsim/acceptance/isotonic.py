"""Smoothing by order alone: counts of few rounds rise and fall by chance where the truth only falls.

Sequoia's shipped vector comes from 667 rounds: ranks beyond the sixth are single events, and 9 of its 31 neighbouring
pairs are inverted.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from specsim.acceptance.profile import AcceptanceProfile, Array, as_floats
from specsim.errors import InputError


def falling(values: ArrayLike, weights: ArrayLike | None = None) -> Array:
    """The sequence that never rises and is nearest to ``values`` in weighted squares, by pooling adjacent violators.

    The weighted mean stays what it was. Weights: trials behind each value; None: equal.

    Source: Barlow, Bartholomew, Bremner and Brunk 1972, "Statistical Inference under Order Restrictions".

    >>> falling([0.6, 0.1, 0.2, 0.05]).round(6).tolist(), falling([0.1, 0.2], [3, 1]).round(6).tolist()
    ([0.6, 0.15, 0.15, 0.05], [0.125, 0.125])
    """
    series = as_floats("values", values, ndim=1)
    weight = np.ones_like(series) if weights is None else as_floats("weights", weights, ndim=1)
    if weight.shape != series.shape or not ((weight > 0) & (weight < np.inf)).all():
        raise InputError("weights", f"must be one for each of {len(series)} values, > 0 and finite", weight.tolist())
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, own in zip(series.tolist(), weight.tolist(), strict=True):
        blocks.append((value, own, 1))
        while len(blocks) > 1 and blocks[-2][0] < blocks[-1][0]:
            (left, a, num), (right, b, more) = blocks[-2:]
            blocks[-2:] = [((left * a + right * b) / (a + b), a + b, num + more)]
    return np.repeat([mean for mean, _, _ in blocks], [num for _, _, num in blocks])


def smoothed(profile: AcceptanceProfile, *, depths: bool = False) -> AcceptanceProfile:
    """The profile with ranks that never rise within a depth.

    Args:
        profile: Of candidates that the drafter ranks (``free``). Where they are drawn in order, a later draw may truly
            be accepted more often, so there is nothing to smooth.
        depths: Also let no depth's chance to go on exceed that of the depth before, weighed by their trials. An
            assumption: drafters that are refreshed within a round break it.

    Raises:
        InputError: for a profile whose ranks are drawn in order, or depths to be weighed without trials.

    >>> smoothed(AcceptanceProfile.from_ranks([0.6, 0.1, 0.2], max_depth=1)).accept_prob.round(6).tolist()
    [[0.6, 0.15, 0.15]]
    """
    if profile.rank_order == "ordered":
        raise InputError("rank_order", "must be 'free' for ranks to fall by nature", profile.rank_order)
    table = np.array([falling(row) for row in profile.accept_prob])
    how = "ranks made to fall"
    if depths:
        if profile.num_trials is None:
            raise InputError("num_trials", "must be known to weigh depths")
        total = table.sum(axis=1)
        goal = falling(total, np.maximum(profile.num_trials, 1e-9))
        table *= np.divide(goal, total, out=np.ones_like(total), where=total > 0)[:, None]
        how = "ranks and depths made to fall"
    return replace(profile, accept_prob=table, source=f"{profile.source}; {how}")


def falling_survival(survival: ArrayLike) -> Array:
    """Survival by position, measured with noise on one number of drafts, made never to rise.

    >>> falling_survival([0.8, 0.4, 0.5]).round(6).tolist()
    [0.8, 0.45, 0.45]
    """
    return np.clip(falling(survival), 0.0, 1.0)


def concave_tokens(tokens_per_round: dict[int, float]) -> dict[int, float]:
    """Tokens per round by draft length, measured with noise, made to rise and flatten as no true curve fails to.

    What a longer draft gains per position is at most 1, at least 0, and never more than a shorter one gained
    (``search.chain``); gains are pooled by the positions that they stand for.

    >>> {k: round(v, 3) for k, v in concave_tokens({1: 1.8, 2: 2.3, 4: 3.5}).items()}  # 0.5, then 0.6 twice
    {1: 1.8, 2: 2.367, 4: 3.5}
    """
    lengths = np.array([0, *sorted(tokens_per_round)], dtype=np.float64)
    if len(lengths) < 2 or lengths[1] < 1:
        raise InputError("tokens_per_round", "must be of lengths from 1 on", list(tokens_per_round))
    gaps = np.diff(lengths)
    tokens = np.array([1.0, *(tokens_per_round[k] for k in sorted(tokens_per_round))])
    gains = np.clip(falling(np.diff(tokens) / gaps, gaps), 0.0, 1.0)
    curve = 1 + np.cumsum(gains * gaps)
    return {int(k): float(v) for k, v in zip(lengths[1:], curve, strict=True)}
