"""A server kept busy by a fixed number of clients: time per output token, time to first token, sequences running.

Every client sends a prompt, waits for its answer and sends the next. Each step of the engine advances the sequences
that decode by one token; prompts run between such steps, or beside them in the same one, at most ``token_budget``
tokens at a time. Once the start is forgotten, a request meets the C - 1 others as they are on average (the arrival
theorem of closed queueing networks, Sevcik and Mitrani 1981; Reiser and Lavenberg 1980):

    running sequences  n = 1 + (C - 1) D / (R + D)                 D = t (output tokens - 1), R from arrival to first
    time per token     t = s(n) + (C - 1) d t / (R + D)            token; s a step that decodes n sequences, d the time
    time to first      R = S (1 + (Q - U) + U / 2)                 that a prompt adds to the others, S its own time

with U and Q the busy share of, and the mean number at, the prompts' single server that a newcomer finds; the half is a
prompt's expected rest, as prompts are alike (an M/D/1 queue's). Sequences that the cache has no room for wait outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from pydantic import Field

from specsim.cost.model import CostModel
from specsim.documents import Document
from specsim.errors import InputError
from specsim.work import BOUNDS, Float, Pass

NUM_SIZES: Final = 9
"""Numbers of running sequences at which steps are priced, from 1 to all in equal ratios; straight lines between."""
_ROUNDS: Final = 60
_TOLERANCE: Final = 1e-6


class Scheduling(Document):
    """How an engine shares its steps.

    Attributes:
        token_budget: Most tokens of a prompt, or of several, in one step; longer prompts run in chunks.
        mixes: Whether prompts run in the steps that decode (chunked prefill, in-flight batching), or in their own.
        reserves: Whether a request is admitted only when the cache has room for its whole answer; else for what
            sequences hold on average.
    """

    token_budget: int = Field(8192, ge=1)
    mixes: bool = True
    reserves: bool = False


class ServingParams(Document):
    """What serving adds to the kernels' times in loops of their own.

    Attributes:
        memory, compute, launch, link: Multipliers of the time that a pass spends by each bound. Neighbouring kernels
            fuse and start before their predecessors end (launch below 1), clocks fall under load (compute above 1).
        skew_s: Per all-reduce and further device: waiting for the slowest one.
        step_s, seq_s: Host time per step, and per sequence of a step, that the device waits for.
        prompt_s: Host time per step that has a prompt: it runs outside captured graphs.
    """

    memory: float = Field(1.0, gt=0)
    compute: float = Field(1.0, gt=0)
    launch: float = Field(1.0, ge=0)
    link: float = Field(1.0, gt=0)
    skew_s: float = Field(0.0, ge=0)
    step_s: float = Field(0.0, ge=0)
    seq_s: float = Field(0.0, ge=0)
    prompt_s: float = Field(0.0, ge=0)


class Load(NamedTuple):
    """Clients, prompt and answer lengths in tokens, and most sequences that the cache holds; arrays of one shape [rows]."""

    concurrency: Float
    prompt_tokens: Float
    output_tokens: Float
    slots: Float


class Served(NamedTuple):
    """Seconds per output token after the first, seconds to the first, mean sequences decoding; shape [rows]."""

    tpot_s: Float
    ttft_s: Float
    running: Float


@dataclass(frozen=True)
class StepTimes:
    """Seconds of steps by bound at ``NUM_SIZES`` numbers of running sequences.

    Args:
        load: Of each row.
        chunks: Steps that a prompt takes, shape [rows].
        decode: Steps that decode only, shape [rows, sizes, bounds].
        prompt: Steps that have a chunk, of prompts alone where the engine does not mix; same shape.
        reduces: All-reduces of a pass times the further devices that take part, shape [rows].
        mixes: Whether ``prompt`` includes the sequences that decode, shape [rows].
    """

    load: Load
    chunks: Float
    decode: Float
    prompt: Float
    reduces: Float
    mixes: Float


def step_times(cost: CostModel, load: Load, scheduling: Scheduling, reduces: float) -> StepTimes:
    """Price the steps of loads that one cost model serves.

    Args:
        cost: Prices the passes of the target, tensor parallelism included.
        load: Arrays of shape [rows].
        scheduling: Of the engine.
        reduces: All-reduces of one pass, times the devices beyond the first.

    Raises:
        InputError: for a count below 1.
    """
    for name, values in load._asdict().items():
        if not np.all(values >= 1):
            raise InputError(name, "must be >= 1", float(np.min(values)))
    num = len(load.concurrency)
    sizes = _sizes(load)
    prompt, chunks = load.prompt_tokens[:, None], np.ceil(load.prompt_tokens / scheduling.token_budget)
    context = np.broadcast_to(prompt + load.output_tokens[:, None] / 2, sizes.shape)
    decode = cost.price(Pass("target", "decode", 1.0, context[..., None], sizes[..., None]))
    chunk = np.broadcast_to(prompt / chunks[:, None], sizes.shape)
    before = np.broadcast_to((prompt - chunk) / 2, sizes.shape)
    beside = sizes if scheduling.mixes else np.zeros(sizes.shape)
    both = Pass(
        "target",
        "prefill",
        np.stack([np.ones(sizes.shape), chunk], axis=-1),
        np.stack([context, before], axis=-1),
        np.stack([beside, np.ones(sizes.shape)], axis=-1),
    )
    mixes = np.full(num, float(scheduling.mixes))
    return StepTimes(load, chunks, decode.by_bound, cost.price(both).by_bound, np.full(num, reduces), mixes)


def _sizes(load: Load) -> Float:
    """Numbers of running sequences, shape [rows, sizes]."""
    most = np.minimum(load.concurrency, load.slots)
    return np.asarray(most[:, None] ** np.linspace(0.0, 1.0, NUM_SIZES))


def closed_loop(times: StepTimes, params: ServingParams) -> Served:
    """The steady state of every row."""
    return solve(times, *step_seconds(times, params))


def step_seconds(times: StepTimes, p: ServingParams) -> tuple[Float, Float]:
    """Seconds of steps that decode and of steps that have a prompt, shape [rows, sizes]."""
    scale = np.array([getattr(p, name, 1.0) for name in BOUNDS])
    sizes = _sizes(times.load)
    added = (times.reduces * p.skew_s + p.step_s)[:, None]
    decode = times.decode @ scale + added + p.seq_s * sizes
    prompt = times.prompt @ scale + added + p.seq_s * sizes * times.mixes[:, None] + p.prompt_s
    return decode, prompt


def solve(times: StepTimes, decode_s: Float, prompt_s: Float) -> Served:
    """The fixed point for given seconds of both kinds of steps, shape [rows, sizes]."""
    clients = np.minimum(times.load.concurrency, times.load.slots)
    others, tokens = clients - 1, np.maximum(times.load.output_tokens - 1, 1)
    running, first = clients.copy(), prompt_s[:, 0] * times.chunks
    token = decode_s[:, -1]
    for _ in range(_ROUNDS):
        step, with_prompt = _at(decode_s, clients, running), _at(prompt_s, clients, running)
        own = times.chunks * with_prompt
        added = own - times.chunks * times.mixes * step
        token_new = _token_s(step, others * added, first, tokens)
        decoding = tokens * token_new
        at_server = others * first / (first + decoding)
        busy = np.minimum(others * own / (first + decoding), 1.0)
        first_new = own * (1 + np.maximum(at_server - busy, 0) + busy / 2)
        running_new = 1 + others * decoding / (first_new + decoding)
        change = np.max(np.abs(token_new / token - 1) + np.abs(first_new / first - 1))
        token, first, running = token_new, (first * first_new) ** 0.5, (running + running_new) / 2
        if change < _TOLERANCE:
            break
    turn = first + tokens * token
    outside = turn * np.maximum(times.load.concurrency / clients - 1, 0)
    return Served(token, first + outside, running)


def _token_s(step: Float, others_added: Float, first: Float, tokens: Float) -> Float:
    """The positive root t of t = step + others_added t / (first + tokens t)."""
    half = (tokens * step + others_added - first) / 2
    return np.asarray((half + np.sqrt(half**2 + tokens * step * first)) / tokens)


def _at(seconds: Float, most: Float, running: Float) -> Float:
    """Straight lines between the numbers of running sequences that were priced."""
    last = seconds.shape[-1] - 1
    place = np.where(most > 1, np.log(running) / np.log(np.maximum(most, 1 + 1e-9)), 0.0) * last
    left = np.clip(place.astype(int), 0, last - 1)
    rows = np.arange(len(most))
    low, high = most ** (left / last), most ** ((left + 1) / last)
    share = np.where(most > 1, (running - low) / np.maximum(high - low, 1e-12), 0.0)
    return np.asarray(seconds[rows, left] * (1 - share) + seconds[rows, left + 1] * share)
