"""``kernel.advance`` in whole columns of numpy, for machines without a compiler and for short runs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from specsim.sim.kernel import (
    ACCEPTED,
    BLOCKS,
    CONTEXT,
    DONE,
    DRAFTED,
    EFFECT,
    FIRST,
    FULL,
    KEY,
    LAST,
    LONGEST,
    MISSING,
    OUT,
    ROUNDS,
    ROW,
    STEP,
    TAKEN,
    TODO,
    Floats,
    Ints,
    Latent,
    Limits,
    Tables,
)


def advance(
    ints: Ints,
    floats: Floats,
    n: int,
    free: int,
    now: float,
    horizon: float,
    max_steps: int,
    resume_below: int,
    shape: int,
    shapes: Ints,
    given: tuple[float, float, float, float],
    bars: Floats,
    latent: Latent,
    limits: Limits,
    tables: Tables,
    done_ints: Ints,
    done_floats: Floats,
    log: Floats,
    keeps: bool,
) -> tuple[float, int, int, int, int, int, int]:
    """As ``kernel.advance``: the same integers, and times but for the order of additions."""
    steps, status, pending, rows, seconds = 0, DONE, 0, ints[:n], floats[:n]
    gone = np.zeros(n, dtype=bool)
    while steps < max_steps:
        if shape >= 0 and not tables.width[shape] and not resume_below and not rows[:, TODO].any():
            most = min(max_steps - steps, int(rows[:, MISSING].min()))
            at_once, now, free = plain_steps(
                rows, seconds, free, now, horizon, most, shape, limits, tables, log[steps:] if keeps else None
            )
            steps += at_once
            gone = rows[:, MISSING] == 0
            if at_once and (gone.any() or now >= horizon or steps == max_steps):
                break
        todo = rows[:, TODO]
        pending = int(todo.sum())
        decoding = (todo == 0) if pending == 0 or limits.mixes else np.zeros(n, dtype=bool)
        chosen = np.full(n, shape) if shape >= 0 else shapes[:n]
        width = np.where(decoding, tables.width[chosen], 0)
        num_decoding = int(decoding.sum())
        tokens = int(width.sum()) + num_decoding
        held = -(-(rows[:, CONTEXT] + 1 + width + limits.lookahead) // limits.block_tokens)
        wanted = np.where(decoding, np.maximum(held - rows[:, BLOCKS], 0), 0)
        blocks = int(wanted.sum())
        if blocks > free:
            status = FULL
            break
        prompt_tokens, pairs = 0, 0.0
        if pending:
            taken = rows[:, TAKEN] = prompts_of_step(todo, limits.token_budget - tokens, limits.chunks)
            prompt_tokens = int(taken.sum())
            pairs = float((taken * (rows[:, CONTEXT] + (taken + 1) / 2)).sum())
        time = StepTime(0.0, 0.0, tables.step_s, 0.0)
        if shape < 0:
            time = StepTime(*given)
        elif num_decoding:
            mean = int(rows[decoding, CONTEXT].sum()) / num_decoding
            time = round_time(tables, shape, num_decoding, mean)
        if prompt_tokens:
            time = with_prompts(tables, time, tokens, prompt_tokens, pairs / prompt_tokens)
        end = now + time.total_s
        out = np.zeros(n, dtype=np.int64)
        if pending:
            rows[:, TODO] -= rows[:, TAKEN]
            rows[:, CONTEXT] += rows[:, TAKEN]
            out[(rows[:, TAKEN] > 0) & (rows[:, TODO] == 0)] = 1
            rows[:, TAKEN] = 0
        if num_decoding:
            rows[:, BLOCKS] += wanted
            drawn, step = draws_of(rows, seconds, latent)
            kept = drawn[:, None] < bars[rows[:, ROW], chosen]
            num_kept = np.where(width > 0, kept.cumprod(axis=1).sum(axis=1), 0)
            if latent.is_on:
                seconds[:, STEP] = np.where(width > 0, step, seconds[:, STEP])
            rows[:, ROUNDS] += decoding
            rows[:, DRAFTED] += width
            rows[:, ACCEPTED] += num_kept
            decoded = np.where(decoding, np.minimum(num_kept + 1, rows[:, MISSING]), 0)
            rows[:, CONTEXT] += decoded
            out += decoded
        came = out > 0
        first, later = came & (rows[:, OUT] == 0), came & (rows[:, OUT] > 0)
        seconds[first, FIRST] = end
        seconds[later, LONGEST] = np.fmax(seconds[later, LONGEST], end - seconds[later, LAST])
        seconds[came, LAST] = end
        rows[:, OUT] += out
        rows[:, MISSING] -= out
        gone = rows[:, MISSING] == 0
        free -= blocks
        if keeps:
            mean_len = width.sum() / num_decoding if num_decoding else 0.0
            log[steps, :8] = now, end - now, n, prompt_tokens, mean_len, out.sum(), free, time.drafting
        steps, now = steps + 1, end
        pending -= prompt_tokens
        if gone.any() or now >= horizon or pending < resume_below:
            break
    finished = int(gone.sum())
    if finished:
        done_ints[:finished], done_floats[:finished] = rows[gone], seconds[gone]
        ints[: n - finished], floats[: n - finished] = rows[~gone], seconds[~gone]
    return now, steps, status, n - finished, finished, free, pending


def plain_steps(
    rows: Ints,
    seconds: Floats,
    free: int,
    now: float,
    horizon: float,
    most: int,
    shape: int,
    limits: Limits,
    tables: Tables,
    log: Floats | None,
) -> tuple[int, float, int]:
    """Up to ``most`` steps of one token for everyone, all at once, where memory has room for that many; else none.

    Returns steps taken, time, and blocks free.
    """
    n, before = len(rows), int(rows[:, CONTEXT].sum())
    means = (before + n * np.arange(most)) / n
    at = np.clip(np.searchsorted(tables.context, means), 1, len(tables.context) - 1)
    part = (means - tables.context[at - 1]) / (tables.context[at] - tables.context[at - 1])
    drafting, verifying = (
        table[shape, n - 1, at - 1] * (1 - part) + table[shape, n - 1, at] * part
        for table in (tables.drafting, tables.verifying)
    )
    took = drafting + np.maximum(verifying, tables.least[shape, n - 1]) + tables.host_s[shape, n - 1]
    ends = np.cumsum(np.concatenate([[now], took]))
    steps = min(int(np.searchsorted(ends[1:], horizon)) + 1, most)
    held = -(-(rows[:, CONTEXT] + steps + limits.lookahead) // limits.block_tokens)
    wanted: Ints = np.maximum(held - rows[:, BLOCKS], 0)
    if wanted.sum() > free:
        return 0, now, free
    if log is not None:
        grown = rows[:, CONTEXT, None] + 1 + np.arange(steps) + limits.lookahead
        wants = np.maximum(-(-grown // limits.block_tokens) - rows[:, BLOCKS, None], 0).sum(axis=0)
        columns = ends[:steps], np.diff(ends)[:steps], n, 0, 0.0, n, free - wants, drafting[:steps]
        for column, values in enumerate(columns):
            log[:steps, column] = values
    for column in (CONTEXT, OUT, ROUNDS):
        rows[:, column] += steps
    rows[:, MISSING] -= steps
    rows[:, BLOCKS] += wanted
    longest = np.diff(ends)[1:steps].max(initial=-np.inf)
    seconds[:, LONGEST] = np.fmax(seconds[:, LONGEST], np.maximum(ends[1] - seconds[:, LAST], longest))
    seconds[:, LAST] = ends[steps]
    return steps, float(ends[steps]), free - int(wanted.sum())


def prompts_of_step(todo: Ints, left: int, chunks: bool) -> Ints:
    """Prompt tokens that a step takes of each row: first come first served, at most ``left``; a prompt that may not be
    cut and is longer runs alone.

    >>> prompts_of_step(np.array([0, 30, 100, 5]), 64, chunks=True).tolist()
    [0, 30, 34, 0]
    >>> prompts_of_step(np.array([0, 30, 100, 5]), 64, chunks=False).tolist()
    [0, 30, 0, 0]
    >>> prompts_of_step(np.array([100, 5]), 64, chunks=False).tolist()
    [100, 0]
    """
    taken = np.zeros(len(todo), dtype=np.int64)
    for row in np.flatnonzero(todo).tolist():
        whole = int(todo[row])
        if left <= 0:
            break
        if not chunks and whole > left and taken.any():
            break
        taken[row] = min(whole, left) if chunks else whole
        left -= int(taken[row])
    return taken


class StepTime(NamedTuple):
    """Seconds of a step: drafting, the target's pass on the device and at least, and the host's work."""

    drafting: float
    verifying: float
    host: float
    least: float

    @property
    def total_s(self) -> float:
        return self.drafting + max(self.verifying, self.least) + self.host


def round_time(tables: Tables, shape: int, batch: int, context: float) -> StepTime:
    """A step in which a batch plays a round at its mean context."""
    at, part = _place(tables.context, context)
    drafting, verifying = (
        float(table[shape, batch - 1, at - 1] * (1 - part) + table[shape, batch - 1, at] * part)
        for table in (tables.drafting, tables.verifying)
    )
    return StepTime(drafting, verifying, float(tables.host_s[shape, batch - 1]), float(tables.least[shape, batch - 1]))


def with_prompts(tables: Tables, time: StepTime, tokens: int, prompt_tokens: int, keys: float) -> StepTime:
    """The step's time once prompts share its pass; their tokens see so many ``keys`` in the mean."""
    counts, signs = (tokens + prompt_tokens, prompt_tokens, tokens), (1.0, -1.0, -1.0)
    verifying, drafting = time.verifying + (tables.beside_s if tokens else 0.0), time.drafting
    for sign, count in zip(signs, counts, strict=True):
        if count:
            at, part = _place(tables.tokens, count)
            verifying += sign * float(tables.layers[at - 1] * (1 - part) + tables.layers[at] * part)
    i0, p0 = _place(tables.tokens, prompt_tokens)
    i1, p1 = _place(tables.keys, keys)
    rows, columns = np.array([1 - p0, p0]), np.array([1 - p1, p1])
    verifying += float(rows @ tables.prompts[i0 - 1 : i0 + 1, i1 - 1 : i1 + 1] @ columns)
    if len(tables.draft_prompts) > 1:
        drafting += float(rows @ tables.draft_prompts[i0 - 1 : i0 + 1, i1 - 1 : i1 + 1] @ columns)
    return StepTime(drafting, verifying, time.host, tables.eager_s if counts[0] > tables.eager_above else 0.0)


def draws_of(rows: Ints, seconds: Floats, latent: Latent) -> tuple[Floats, Floats]:
    """What decides the next round of each row, low being lucky; and the normals that it leaves in ``STEP``."""
    if not latent.is_on:
        return draws(rows[:, KEY], rows[:, ROUNDS]), seconds[:, STEP]
    step = latent.keep * seconds[:, STEP] + latent.shock * normals(rows[:, KEY], rows[:, ROUNDS])
    return -(latent.effect * seconds[:, EFFECT] + latent.own * step), step


def normals(key: Ints, rounds: Ints) -> Floats:
    """Standard normal numbers of rounds, by the key of their request.

    Source: Box and Muller 1958, on ``draws``.

    >>> values = normals(np.arange(10_000), np.zeros(10_000, int))
    >>> bool(abs(values.mean()) < 0.03 and abs(values.std() - 1) < 0.03)
    True
    """
    radius = np.sqrt(-2 * np.log(1 - draws(key, rounds)))
    return np.asarray(radius * np.cos(2 * np.pi * draws(~key, rounds)))


def draws(key: Ints, rounds: Ints) -> Floats:
    """Uniform numbers in [0, 1) of rounds, by the key of their request.

    Source: SplitMix64 (Steele, Lea and Flood 2014), its state the key plus so many times the golden ratio.

    >>> bool(abs(draws(np.arange(10_000), np.zeros(10_000, int)).mean() - 0.5) < 0.01)
    True
    """
    z = key.astype(np.int64).view(np.uint64) + rounds.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53)


def _place(nodes: Floats, value: float) -> tuple[int, Any]:
    """The node after ``value``, and how far on from the one before it; outside, the nearest line goes on."""
    at = min(max(int(np.searchsorted(nodes, value)), 1), len(nodes) - 1)
    return at, (value - nodes[at - 1]) / (nodes[at] - nodes[at - 1])
