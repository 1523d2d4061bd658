"""Engine steps in a row, while nobody comes and nobody goes: state in two tables, one row per running request.

``advance`` is plain arithmetic over these tables, written as loops for the compiler, which takes in the functions that
it calls; ``specsim.sim.arrays`` has the same in whole columns. Rows stand in order of admission. Every outcome is a
hash of seed, request and round, so neither the order of events nor the way of computing changes what a request draws.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Columns of the integer table.
REQUEST, PROMPT, CONTEXT, MISSING, TODO, TAKEN, BLOCKS, OUT, ROUNDS, DRAFTED, ACCEPTED, ROW, KEY, PREEMPTED, CACHED = (
    range(15)
)
NUM_INTS: Final = 15
"""REQUEST its number; PROMPT tokens; CONTEXT in the cache; MISSING tokens to come; TODO prompt tokens to be read, TAKEN
of them in this step; BLOCKS held; OUT tokens; ROUNDS, DRAFTED, ACCEPTED so far; ROW of its survival; KEY of its draws;
PREEMPTED times; CACHED prompt tokens found."""
# Columns of the table of floats.
ARRIVAL, ADMITTED, FIRST, LAST, LONGEST, TPOT_SLO, EFFECT, STEP = range(8)
NUM_FLOATS: Final = 8
"""Seconds but for the last two: EFFECT the request's own normal, STEP that of its last round; see ``Latent``."""
# Columns of the log of steps.
NUM_LOGGED: Final = 9

DONE, FULL = 0, 1
"""Why a stretch ended: as asked, or before a step that the KV memory had no room for."""


class Limits(NamedTuple):
    """What bounds a step; numbers as the kernel wants them.

    Args:
        block_tokens: Tokens of a block of KV memory.
        lookahead: Slots kept free for the next drafts.
        token_budget: Most tokens of a step.
        mixes, chunks: Whether prompts share steps with decoding, and whether they may be cut.
    """

    block_tokens: int
    lookahead: int
    token_budget: int
    mixes: bool
    chunks: bool


class Latent(NamedTuple):
    """How rounds of one request are alike: ``specsim.acceptance.spread`` as weights of normals.

    Args:
        is_on: Whether they are; else each round is drawn by itself.
        keep, shock: Of the last round's normal and of a new one in this round's.
        effect, own: Of the request's normal and of the round's in what is held against the acceptance.
    """

    is_on: bool
    keep: float
    shock: float
    effect: float
    own: float


INDEPENDENT: Final = Latent(False, 0.0, 1.0, 0.0, 1.0)


class Tables(NamedTuple):
    """Seconds of steps, as ``specsim.sim.step_times`` fills them.

    Args:
        context: ``[C]`` nodes of the mean context.
        drafting, verifying: ``[shape, batch - 1, C]`` drafting, and the target's pass on the device.
        host_s: ``[shape, batch - 1]`` host time of a round.
        least: ``[shape, batch - 1]`` how long the target's pass lasts at least, outside graphs.
        tokens, keys: Nodes of passes with prompts: tokens, and mean keys that each sees.
        layers: ``[tokens]`` device time of the layers of a pass, attention and logits left out.
        prompts: ``[tokens, keys]`` device time of a pass of prompts alone.
        draft_prompts: ``[tokens, keys]`` time of the draft model on them; of shape [1, 1] without one.
        beside_s: What else changes where prompts share a pass with sequences that decode: its logits are one product.
        step_s: Host time of a step without rounds.
        eager_above, eager_s: Passes with prompts of more tokens run outside graphs, and then last at least so long.
        width: ``[shape]`` tokens that each sequence drafts.
    """

    context: Floats
    drafting: Floats
    verifying: Floats
    host_s: Floats
    least: Floats
    tokens: Floats
    keys: Floats
    layers: Floats
    prompts: Floats
    draft_prompts: Floats
    beside_s: float
    step_s: float
    eager_above: float
    eager_s: float
    width: Ints


def advance(
    ints: Any,
    floats: Any,
    n: Any,
    free: Any,
    now: Any,
    horizon: Any,
    max_steps: Any,
    resume_below: Any,
    shape: Any,
    shapes: Any,
    given: Any,
    bars: Any,
    latent: Any,
    limits: Any,
    tables: Any,
    done_ints: Any,
    done_floats: Any,
    log: Any,
    keeps: Any,
) -> Any:
    """Steps until one ends at or after ``horizon``, somebody finishes, or the KV memory is full.

    Args:
        ints, floats: State, changed in place; the first ``n`` rows are running.
        free: Blocks of KV memory that nobody holds.
        now: When the first step begins.
        max_steps: At most so many.
        resume_below: End, too, once fewer prompt tokens are still to be read; 0 for never.
        shape: Of all rounds; -1 where ``shapes[n]`` has one for each row and ``given`` the parts of the time.
        bars: ``[row, shape, depth]``: at least so many draft tokens are kept where the draw is below.
        latent: What draws are; see there.
        limits, tables: See above.
        done_ints, done_floats: Where rows of those who finish go.
        log: ``[steps, NUM_LOGGED]`` what each step did, where ``keeps``.

    Returns:
        Time, steps, why it ended, rows running, rows finished, blocks free, prompt tokens to be read.
    """
    steps, status, finished, pending = 0, DONE, 0, 0
    while steps < max_steps:
        pending = 0
        for i in range(n):
            pending += ints[i, TODO]
        decodes = pending == 0 or limits.mixes
        num_decoding, tokens, context, blocks = 0, 0, 0, 0
        if decodes:
            for i in range(n):
                if ints[i, TODO] == 0:
                    width = tables.width[shape if shape >= 0 else shapes[i]]
                    num_decoding += 1
                    tokens += 1 + width
                    context += ints[i, CONTEXT]
                    blocks += max(0, blocks_of(ints[i, CONTEXT], width, limits) - ints[i, BLOCKS])
        if blocks > free:
            status = FULL
            break
        prompt_tokens, pairs = take_prompts(ints, n, tokens, limits) if pending > 0 else (0, 0.0)
        drafting, verifying, host, least = 0.0, 0.0, tables.step_s, 0.0
        if shape < 0:
            drafting, verifying, host, least = given[0], given[1], given[2], given[3]
        elif num_decoding > 0:
            drafting, verifying, host, least = round_time(tables, shape, num_decoding, context / num_decoding)
        if prompt_tokens > 0:
            more = prompt_time(tables, tokens, prompt_tokens, pairs / prompt_tokens)
            drafting, verifying, least = drafting + more[0], verifying + more[1], more[2]
        end = now + (drafting + max(verifying, least) + host)
        # What came out of it.
        emitted, drafted = 0, 0
        for i in range(n):
            out = 0
            if ints[i, TODO] > 0:
                take = ints[i, TAKEN]
                ints[i, TODO] -= take
                ints[i, CONTEXT] += take
                out = 1 if take > 0 and ints[i, TODO] == 0 else 0
            elif decodes:
                chosen = shape if shape >= 0 else shapes[i]
                width = tables.width[chosen]
                ints[i, BLOCKS] = max(ints[i, BLOCKS], blocks_of(ints[i, CONTEXT], width, limits))
                kept = 0
                if width > 0:
                    draw = drawn(ints, floats, i, latent)
                    row = ints[i, ROW]
                    while kept < bars.shape[2] and draw < bars[row, chosen, kept]:
                        kept += 1
                ints[i, ROUNDS] += 1
                ints[i, DRAFTED] += width
                ints[i, ACCEPTED] += kept
                drafted += width
                out = min(kept + 1, ints[i, MISSING])
                ints[i, CONTEXT] += out
            if out > 0:
                if ints[i, OUT] == 0:
                    floats[i, FIRST] = end
                else:
                    gap = end - floats[i, LAST]
                    if not floats[i, LONGEST] >= gap:  # written so that NaN gives way
                        floats[i, LONGEST] = gap
                floats[i, LAST] = end
                ints[i, OUT] += out
                ints[i, MISSING] -= out
                emitted += out
                if ints[i, MISSING] == 0:
                    finished += 1
        free -= blocks
        if keeps:
            log[steps, 0] = now
            log[steps, 1] = end - now
            log[steps, 2] = n
            log[steps, 3] = prompt_tokens
            log[steps, 4] = drafted / num_decoding if num_decoding > 0 else 0.0
            log[steps, 5] = emitted
            log[steps, 6] = free
            log[steps, 7] = drafting
        steps += 1
        now = end
        pending -= prompt_tokens
        if finished > 0 or now >= horizon or pending < resume_below:
            break
    if finished > 0:
        n = part(ints, floats, n, done_ints, done_floats)
    return now, steps, status, n, finished, free, pending


def blocks_of(context: Any, width: Any, limits: Any) -> Any:
    """Blocks that a sequence needs for a round of ``width`` drafts."""
    return (context + 1 + width + limits.lookahead + limits.block_tokens - 1) // limits.block_tokens


def take_prompts(ints: Any, n: Any, tokens: Any, limits: Any) -> Any:
    """Fill what ``tokens`` that are decoded leave of a step with prompts, first come first served.

    Returns:
        Prompt tokens, and the keys that they see, summed.
    """
    prompt_tokens, pairs, left = 0, 0.0, limits.token_budget - tokens
    for i in range(n):
        todo = ints[i, TODO]
        take = 0
        if todo > 0 and left > 0:
            if todo <= left or (not limits.chunks and prompt_tokens == 0):
                take = todo
            elif limits.chunks:
                take = left
            else:
                left = 0
        ints[i, TAKEN] = take
        left -= take
        prompt_tokens += take
        pairs += take * (ints[i, CONTEXT] + (take + 1) / 2)
    return prompt_tokens, pairs


def place(nodes: Any, value: Any) -> Any:
    """The node after ``value``, and how far on from the one before it; outside, the nearest line goes on."""
    at = min(max(int(np.searchsorted(nodes, value)), 1), len(nodes) - 1)
    return at, (value - nodes[at - 1]) / (nodes[at] - nodes[at - 1])


def round_time(tables: Any, shape: Any, batch: Any, context: Any) -> Any:
    """Seconds of a round: drafting, the target's pass, the host, and how long the pass lasts at least."""
    at, share = place(tables.context, context)
    b = batch - 1
    drafting = tables.drafting[shape, b, at - 1] * (1 - share) + tables.drafting[shape, b, at] * share
    verifying = tables.verifying[shape, b, at - 1] * (1 - share) + tables.verifying[shape, b, at] * share
    return drafting, verifying, tables.host_s[shape, b], tables.least[shape, b]


def prompt_time(tables: Any, tokens: Any, prompt_tokens: Any, keys: Any) -> Any:
    """Seconds that prompts, whose tokens see so many ``keys`` in the mean, add to a step that decodes ``tokens``:
    drafting, the target's pass, and how long it now lasts at least."""
    drafting, verifying = 0.0, tables.beside_s if tokens > 0 else 0.0
    # The layers run on all tokens; attention of prompts is that of a pass of their own.
    for sign, count in ((1.0, tokens + prompt_tokens), (-1.0, prompt_tokens), (-1.0, tokens)):
        if count > 0:
            i, p = place(tables.tokens, count)
            verifying += sign * (tables.layers[i - 1] * (1 - p) + tables.layers[i] * p)
    i0, p0 = place(tables.tokens, prompt_tokens)
    i1, p1 = place(tables.keys, keys)
    for a in range(2):
        for c in range(2):
            weight = (p0 if a else 1 - p0) * (p1 if c else 1 - p1)
            verifying += weight * tables.prompts[i0 - 1 + a, i1 - 1 + c]
            if tables.draft_prompts.shape[0] > 1:
                drafting += weight * tables.draft_prompts[i0 - 1 + a, i1 - 1 + c]
    return drafting, verifying, tables.eager_s if tokens + prompt_tokens > tables.eager_above else 0.0


def uniform(key: Any, number: Any) -> Any:
    """A number in [0, 1); see ``arrays.draws``."""
    z = np.uint64(key) + np.uint64(number) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 1.1102230246251565e-16


def drawn(ints: Any, floats: Any, i: Any, latent: Any) -> Any:
    """What decides a round: uniform by itself, or minus a normal that remembers; low is lucky."""
    key, number = ints[i, KEY], ints[i, ROUNDS]
    if not latent.is_on:
        return uniform(key, number)
    radius = np.sqrt(-2 * np.log(1 - uniform(key, number)))
    normal = radius * np.cos(2 * np.pi * uniform(~key, number))
    floats[i, STEP] = latent.keep * floats[i, STEP] + latent.shock * normal
    return -(latent.effect * floats[i, EFFECT] + latent.own * floats[i, STEP])


def part(ints: Any, floats: Any, n: Any, done_ints: Any, done_floats: Any) -> Any:
    """Move rows that are done out, the others up; how many are left."""
    left, gone = 0, 0
    for i in range(n):
        if ints[i, MISSING] == 0:
            done_ints[gone] = ints[i]
            done_floats[gone] = floats[i]
            gone += 1
        else:
            if left < i:
                ints[left] = ints[i]
                floats[left] = floats[i]
            left += 1
    return left


_CALLED: Final = (blocks_of, place, round_time, take_prompts, prompt_time, uniform, drawn, part)
"""Functions that ``advance`` calls, each after those that it calls itself."""


@cache
def compiled() -> Callable[..., Any] | None:
    """``advance`` as machine code, kept on disk between runs; None where numba is not installed."""
    try:
        import numba
    except ImportError:  # an extra
        return None
    names = dict(globals())
    compile_ = numba.njit(cache=True, error_model="numpy")  # nothing here divides by 0
    for function in (*_CALLED, advance):
        names[function.__name__] = compile_(FunctionType(function.__code__, names, function.__name__))
    fast: Callable[..., Any] = names["advance"]
    return fast
