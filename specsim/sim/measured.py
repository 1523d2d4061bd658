"""Seconds of steps as they were measured, in place of priced ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from specsim.errors import InputError
from specsim.sim.kernel import Floats, Tables


def measured_tables(draft_lens: ArrayLike, round_s: ArrayLike, prompt_s: float, prompt_token_s: float) -> Tables:
    """Tables for ``serve(..., tables=...)`` of a server whose steps were timed.

    Args:
        draft_lens: ``[shape]`` drafted tokens of each shape, as the control numbers them: 0, 1, ... of one that varies,
            the one length of one that does not.
        round_s: ``[shape, batch - 1]`` seconds of a round of so many sequences, whatever their context.
        prompt_s, prompt_token_s: What a step takes more for having prompts, and for each token of them.

    Raises:
        InputError: for times that are not positive, or not one row per shape.

    >>> measured_tables([2], [[0.02, 0.03]], 0.005, 1e-4).verifying.shape  # shapes, batches, contexts
    (1, 2, 2)
    """
    width: Floats = np.asarray(draft_lens, dtype=float)
    seconds: Floats = np.asarray(round_s, dtype=float)
    if seconds.ndim != 2 or seconds.shape[0] != width.size or not (seconds > 0).all():
        raise InputError("round_s", f"must be > 0 and have {width.size} rows, one per draft length", seconds.tolist())
    if prompt_s < 0 or prompt_token_s < 0:
        raise InputError("prompt_s", "must be >= 0, as must be prompt_token_s", min(prompt_s, prompt_token_s))
    nodes, none = np.array([1.0, 1e7]), np.zeros(seconds.shape)
    return Tables(
        context=nodes,
        drafting=np.zeros((*seconds.shape, 2)),
        verifying=np.repeat(seconds[:, :, None], 2, axis=2),
        host_s=none,
        least=none,
        tokens=nodes,
        keys=nodes,
        layers=np.zeros(2),
        prompts=np.repeat((prompt_s + prompt_token_s * nodes)[:, None], 2, axis=1),
        draft_prompts=np.zeros((1, 1)),
        beside_s=0.0,
        step_s=0.0,
        eager_above=np.inf,
        eager_s=0.0,
        width=width.astype(np.int64),
    )
