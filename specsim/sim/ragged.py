"""Times of rounds in which requests draft unequally, and what draft control sees of a step."""

from __future__ import annotations

import numpy as np

from specsim.sim.arrays import StepTime, draws_of, round_time
from specsim.sim.kernel import CONTEXT, FIRST, MISSING, OUT, REQUEST, ROW, TPOT_SLO, Floats, Ints, Latent, Tables
from specsim.sim.policies import StepView


def ragged_time(tables: Tables, lens: Ints, context: float) -> StepTime:
    """A round in which each sequence drafts its own number of tokens, from the tables of equal rounds.

    The drafter's pass for the j-th token runs with those who draft so many; the target's pass is between those of the
    two equal lengths around the mean.
    """
    batch, longest, mean = len(lens), int(lens.max()), float(lens.mean())
    drafting = 0.0
    for j in range(longest):
        drafts = int((lens > j).sum())
        more, before = (round_time(tables, k, drafts, context).drafting for k in (j + 1, j))
        drafting += more - (before if j else 0.0)
    if not longest:
        drafting = round_time(tables, 0, batch, context).drafting
    low = int(mean)
    high = min(low + 1, len(tables.width) - 1)
    below, above = (round_time(tables, k, batch, context) for k in (low, high))
    verifying = below.verifying + (mean - low) * (above.verifying - below.verifying)
    host_s = below.host + (mean - low) * (above.host - below.host)
    return StepTime(drafting, verifying, host_s, above.least if mean > low else below.least)


def view_of(
    now: float,
    num_running: int,
    num_waiting: int,
    free: int,
    rows: Ints,
    seconds: Floats,
    survival: Floats,
    bars: Floats,
    tables: Tables,
    latent: Latent,
) -> StepView:
    """What a control sees; ``rows`` and ``seconds`` are those of the requests that decode."""
    drawn, _ = draws_of(rows, seconds, latent)
    longest = survival[rows[:, ROW], -1]
    context = float(rows[:, CONTEXT].mean()) if len(rows) else 0.0

    def time_s(draft_len: int | Ints) -> float:
        if isinstance(draft_len, int):
            return round_time(tables, draft_len, max(len(rows), 1), context).total_s
        return ragged_time(tables, draft_len, context).total_s

    return StepView(
        now_s=now,
        num_running=num_running,
        num_waiting=num_waiting,
        kv_free_blocks=free,
        request=rows[:, REQUEST].copy(),
        context_tokens=rows[:, CONTEXT].copy(),
        tokens_out=rows[:, OUT].copy(),
        missing_tokens=rows[:, MISSING].copy(),
        first_token_s=seconds[:, FIRST].copy(),
        tpot_slo_s=seconds[:, TPOT_SLO].copy(),
        survival=longest,
        would_accept=(drawn[:, None] < bars[rows[:, ROW], -1]).cumprod(axis=1).sum(axis=1),
        time_s=time_s,
    )


def view_of_nobody() -> StepView:
    """What a control is shown that looks at nothing."""
    ints, seconds = np.zeros(0, dtype=np.int64), np.zeros(0)
    return StepView(0.0, 0, 0, 0, ints, ints, ints, ints, seconds, seconds, np.zeros((0, 0)), ints, lambda _: 0.0)
