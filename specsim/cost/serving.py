"""A server kept busy by a fixed number of clients: time per output token, time to first token, sequences running.

Every client sends a prompt, waits for its answer and sends the next. Each step of the engine advances the sequences
that decode by one token; prompts run between such steps, or beside them in the same one, at most ``token_budget``
tokens at a time. Once the start is forgotten, a request meets the C - 1 others as they are on average (the arrival
theorem of closed queueing networks: Sevcik and Mitrani 1981, Reiser and Lavenberg 1980):

    running sequences  n = 1 + (C - 1) D / (R + D)             D = t (output tokens - 1), R from arrival to first token
    time per token     t = s(n) + (C - 1) d t / (R + D)        s a step that decodes n sequences, d what a prompt adds
    time to first      R = S (1 + (Q - U) + U / 2)             S the prompt's own time

with U the busy share of the prompts' one server and Q the mean number there, as a newcomer finds them; the half is what
is left of a prompt under way, as prompts are alike (the rest of a deterministic service). Sequences that the cache has
no room for wait outside. At the start all clients come at once: the first requests wait for half of each other's
prompts, and a benchmark of few rounds shows it in its mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from specsim.cost.memory import USABLE_FRAC
from specsim.cost.model import CostModel
from specsim.documents import Document
from specsim.errors import InputError
from specsim.hardware import HardwareProfile
from specsim.model import ModelSpec, kv_bytes_per_token, weight_bytes
from specsim.work import BOUNDS, Float, Pass

NUM_SIZES: Final = 9
"""Numbers of running sequences at which steps are priced, from 1 to all in equal ratios; straight lines between."""
_ROUNDS: Final = 60
_TOLERANCE: Final = 1e-5


class Scheduling(Document):
    """How an engine shares its steps.

    Attributes:
        token_budget: Most tokens of prompts in one step; longer prompts run in chunks.
        mixes: Whether prompts run in the steps that decode (chunked prefill, in-flight batching), or in their own.
        reserves: Whether a request is admitted only where the cache has room for its whole answer, and the cache takes
            its share of what weights leave; else for what a sequence holds on average, and weights and cache together
            take that share.
    """

    token_budget: int = Field(8192, ge=1)
    mixes: bool = True
    reserves: bool = False


SCHEDULING: Final = {"sglang": Scheduling(mixes=False), "trtllm": Scheduling(reserves=True)}
"""Where an engine's defaults differ from vLLM's: SGLang runs prompts before it decodes, TensorRT-LLM never evicts.
All three take 8192 tokens a step on large GPUs."""


class ServingParams(Document):
    """What serving adds to the times of kernels in loops of their own.

    Attributes:
        memory, compute, launch, link: Multipliers of the time that a pass spends by each bound. Kernels in a row start
            before their predecessors end or fuse with them (launch below 1); clocks fall under load (compute above 1).
        skew_s: Per all-reduce and further device: waiting for the slowest one.
        step_s, seq_s: Host time per step, and per sequence of a step, that the device waits for.
        token_s: Host time per token beside the device (detokenising, streaming): no step is shorter than that of its
            sequences.
        layer_s: Host time per layer of a step that has a prompt, which runs outside captured graphs: no such step is
            shorter than that of its layers.

    The defaults are where the fits to whole servers start: multipliers near 1, host times assumed.
    """

    memory: float = Field(1.0, gt=0)
    compute: float = Field(1.0, gt=0)
    launch: float = Field(0.8, gt=0)
    link: float = Field(1.0, gt=0)
    skew_s: float = Field(5e-7, gt=0)
    step_s: float = Field(3e-4, gt=0)
    seq_s: float = Field(8e-6, gt=0)
    token_s: float = Field(4e-5, gt=0)
    layer_s: float = Field(3e-4, gt=0)


class Load(NamedTuple):
    """Clients, tokens of prompt and answer, and most sequences that the cache holds; arrays of one shape [rows]."""

    concurrency: Float
    prompt_tokens: Float
    output_tokens: Float
    slots: Float


class Served(NamedTuple):
    """The steady state, shape [rows].

    Attributes:
        tpot_s: Seconds per output token after the first.
        ttft_s: Seconds from a request to its first token.
        running: Sequences decoding, as one of them sees it.
        turn_s: Seconds from one request's end to the next one's: the whole server's, not a client's.
        first_wave_s: Mean seconds to the first token of the requests that all clients send at the start.
    """

    tpot_s: Float
    ttft_s: Float
    running: Float
    turn_s: Float
    first_wave_s: Float


@dataclass(frozen=True)
class StepTimes:
    """Seconds of steps by bound at ``NUM_SIZES`` numbers of running sequences.

    Args:
        load: Of each row.
        chunks: Steps that a prompt takes, shape [rows].
        mixes: Whether prompts share the steps that decode (1.0 or 0.0), shape [rows].
        reduces: All-reduces of a pass times the devices beyond the first, shape [rows].
        layers: Of the model, shape [rows].
        decode: Steps that only decode, shape [rows, sizes, bounds].
        prompt: Steps that have a chunk of a prompt, with those that decode where the engine mixes; same shape.
    """

    load: Load
    chunks: Float
    mixes: Float
    reduces: Float
    layers: Float
    decode: Float
    prompt: Float

    def only(self, mask: NDArray[np.bool_]) -> StepTimes:
        """Some of the rows."""
        columns = (self.chunks, self.mixes, self.reduces, self.layers, self.decode, self.prompt)
        return StepTimes(Load(*(c[mask] for c in self.load)), *(c[mask] for c in columns))


def cache_slots(hardware: HardwareProfile, model: ModelSpec, tp: int, load: Load, scheduling: Scheduling) -> Float:
    """Most sequences of the load's lengths that the cache has room for, at least 1; shape [rows]."""
    memory, weights = hardware.mem_bytes.value, weight_bytes(model) / tp
    free = USABLE_FRAC * (memory - weights) if scheduling.reserves else USABLE_FRAC * memory - weights
    heads = min((getattr(group.attention, "num_kv_heads", 1) for group in model.layers), default=1)
    tokens = free / (kv_bytes_per_token(model) / min(tp, heads))
    held = load.prompt_tokens + load.output_tokens * (1.0 if scheduling.reserves else 0.5)
    return np.asarray(np.maximum(tokens / held, 1.0))


def step_times(cost: CostModel, load: Load, scheduling: Scheduling, layers: int, tp: int = 1) -> StepTimes:
    """Price the steps of loads that one cost model serves.

    Args:
        cost: Prices the target's passes, tensor parallelism included.
        load: Arrays of shape [rows].
        scheduling: Of the engine.
        layers: Of the model, each with two all-reduces over ``tp`` devices.

    Raises:
        InputError: for a count below 1.
    """
    for name, values in load._asdict().items():
        if not np.all(values >= 1):
            raise InputError(name, "must be >= 1", float(np.min(values)))
    sizes, ones = _sizes(load), np.ones(len(load.concurrency))
    prompt, chunks = load.prompt_tokens[:, None], np.ceil(load.prompt_tokens / scheduling.token_budget)
    context = np.broadcast_to(prompt + load.output_tokens[:, None] / 2, sizes.shape)
    decode = cost.price(Pass("target", "decode", 1.0, context[..., None], sizes[..., None]))
    chunk = np.broadcast_to(prompt / chunks[:, None], sizes.shape)
    before = np.broadcast_to((prompt - chunk) / 2, sizes.shape)  # of a chunk on average
    both = Pass(
        "target",
        "prefill",
        np.stack([np.ones(sizes.shape), chunk], axis=-1),
        np.stack([context, before], axis=-1),
        np.stack([sizes * scheduling.mixes, np.ones(sizes.shape)], axis=-1),
    )
    counts = ones * scheduling.mixes, ones * (2 * layers * (tp - 1)), ones * layers
    return StepTimes(load, chunks, *counts, decode.by_bound, cost.price(both).by_bound)


def closed_loop(times: StepTimes, params: ServingParams) -> Served:
    """The steady state of every row."""
    return solve(times, *step_seconds(times, params))


def step_seconds(times: StepTimes, p: ServingParams) -> tuple[Float, Float]:
    """Seconds of steps that only decode and of steps that have a prompt, shape [rows, sizes]."""
    scale, sizes = np.array([getattr(p, name, 1.0) for name in BOUNDS]), _sizes(times.load)
    beside, waited = sizes * times.mixes[:, None], (times.reduces * p.skew_s + p.step_s)[:, None]
    decode = _longest(times.decode @ scale + waited, p.token_s * sizes)
    prompt = _longest(times.prompt @ scale + waited, p.token_s * beside, p.layer_s * times.layers[:, None])
    return decode + p.seq_s * sizes, prompt + p.seq_s * beside


def solve(times: StepTimes, decode_s: Float, prompt_s: Float) -> Served:
    """The fixed point for given seconds of both kinds of steps, shape [rows, sizes].

    >>> load = Load(*np.array([[8.0], [512.0], [101.0], [8.0]]))  # 8 clients, steps of 10 ms, prompts of 20 ms apart
    >>> times = StepTimes(load, *np.ones((2, 1)), *np.ones((2, 1)), *np.ones((2, 1, 1, 1)))
    >>> served = solve(times, np.full((1, NUM_SIZES), 0.010), np.full((1, NUM_SIZES), 0.030))
    >>> round(float(served.tpot_s[0]) * 1e3, 2)  # the 7 others add 20 ms each to 100 tokens: 11.4, less their waiting
    11.36
    """
    clients = np.minimum(times.load.concurrency, times.load.slots)
    others, tokens = clients - 1, np.maximum(times.load.output_tokens - 1, 1)
    token, first, running = decode_s[:, -1], prompt_s[:, 0] * times.chunks, clients
    for _ in range(_ROUNDS):
        own = times.chunks * _at(prompt_s, clients, running)
        step = _at(decode_s, clients, running)
        added = others * (own - times.chunks * times.mixes * step)
        # Where prompts share the steps that decode, one chunk a step, no token waits for more than one of them.
        most = np.where(times.mixes > 0, _at(prompt_s, clients, running), np.inf)
        old, token = token, np.minimum(_token_s(step, added, first, tokens), most)
        turn = first + tokens * token
        busy = np.minimum(others * own / turn, 1.0)
        first_new = own * (1 + np.maximum(others * first / turn - busy, 0) + busy / 2)
        running = (running + 1 + others * tokens * token / (first_new + tokens * token)) / 2
        change = np.max(np.abs(token / old - 1) + np.abs(first_new / first - 1))
        first = np.sqrt(first * first_new)
        if change < _TOLERANCE:
            break
    turn = (first + tokens * token) / clients
    outside = turn * (times.load.concurrency - clients)
    wave = (clients + 1) / 2 * times.chunks * prompt_s[:, 0]
    return Served(token, first + outside, running, turn, wave + outside)


def _sizes(load: Load) -> Float:
    most = np.minimum(load.concurrency, load.slots)
    return np.asarray(most[:, None] ** np.linspace(0.0, 1.0, NUM_SIZES))


def _longest(*seconds: Float) -> Float:
    """A maximum with a smooth corner, (sum of s^4)^(1/4) as in the roofline: host and device run side by side."""
    return np.asarray(np.sqrt(np.sqrt(sum((s * s) ** 2 for s in seconds))))


def _token_s(step: Float, added: Float, first: Float, tokens: Float) -> Float:
    """The positive root t of t = step + added t / (first + tokens t)."""
    half = (tokens * step + added - first) / 2
    return np.asarray((half + np.sqrt(half**2 + tokens * step * first)) / tokens)


def _at(seconds: Float, most: Float, running: Float) -> Float:
    """Straight lines between the numbers of running sequences that were priced."""
    last, many = NUM_SIZES - 1, np.maximum(most, 1 + 1e-9)
    left = np.clip((np.log(running) / np.log(many) * last).astype(int), 0, last - 1)
    low, high = many ** (left / last), many ** ((left + 1) / last)
    share, rows = (running - low) / (high - low), np.arange(len(most))
    return np.asarray(seconds[rows, left] * (1 - share) + seconds[rows, left + 1] * share)
