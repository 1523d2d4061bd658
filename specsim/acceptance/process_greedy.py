"""How often the drafter's r-th candidate is the target's best token, without drawing a law: for fits at temperature 0.

Token 0 is the target's best. The drafter's score of token i (0-based) is ``noise_i - c s log(i + 1)``, so it puts token
0 above token i where ``x = c s / divergence`` exceeds ``m_i = (z_i - z_0) / log(i + 1)``, z its standard normals. Over
all nodes of a regime log x is normal, so the chance that at most r tokens stand above is a mean of normal distribution
functions over the (r + 1)-th largest ``log m_i``: one table of these, made once, serves every process.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.process import TokenProcess, node_types

Array = NDArray[np.float64]

BIN: Final = 0.02
LOWEST, HIGHEST = -7.0, 5.0
"""Range of ``log m`` that is told apart: below, token 0 stands first whatever the sharpness."""

LEAST_SD: Final = 0.03
"""So that a world without spread has a smooth acceptance all the same."""


def greedy_accept(process: TokenProcess, offsets: Array, max_depth: int, num_ranks: int) -> Array:
    """Probability that the candidate of each rank is the target's best, ``[request, regime, depth, rank]``.

    Args:
        process: The world.
        offsets: ``[request]`` standard normals of the requests.
        max_depth: Levels; the first has parents at depth 0.
        num_ranks: At most the candidates.

    >>> sure = TokenProcess(divergence=0)
    >>> greedy_accept(sure, np.zeros(1), 1, 2)[0, 0].round(3).tolist()
    [[1.0, 0.0]]
    """
    from scipy.special import ndtr

    easy = np.array([-process.easy_share, 1 - process.easy_share])
    drift = np.log1p(process.decay * np.arange(max_depth))
    ratio = np.log(process.calibration * process.sharpness / max(process.divergence, 1e-9))
    log_x = ratio + process.request_sd * offsets[:, None, None] + process.regime_gap * easy[:, None] - drift
    sd = float(np.hypot(np.hypot(process.sharpness_sd, process.divergence_sd), LEAST_SD))
    places, weights, certain = _above(process.num_candidates)
    reached = ndtr((log_x[..., None] - places) / sd)  # [request, regime, depth, bin]
    upto = reached @ weights[:, :num_ranks] + certain[:num_ranks]
    return np.asarray(np.diff(upto, axis=-1, prepend=0.0))


@lru_cache(maxsize=8)
def _above(num_candidates: int) -> tuple[Array, Array, Array]:
    """Middles of bins of ``log m``, share of nodes whose (r + 1)-th largest lies there ``[bin, rank]``, and below."""
    noise = node_types(TokenProcess(num_candidates=num_candidates))[:, :num_candidates].astype(float)
    larger = (noise[:, 1:] - noise[:, :1]) / np.log(np.arange(2, num_candidates + 1))
    logs = np.log(np.maximum(-np.sort(-larger, axis=1), 1e-12))
    edges = np.arange(LOWEST, HIGHEST + BIN / 2, BIN)
    counts = np.stack([np.histogram(np.minimum(column, HIGHEST), edges)[0] for column in logs.T], axis=1)
    weights = np.concatenate([counts, np.zeros((len(counts), 1))], axis=1) / len(noise)
    return (edges[1:] + edges[:-1]) / 2, weights, 1 - weights.sum(axis=0)
