"""Whole passes of models shaped like Llama 3.1 8B and Llama 3.2 1B, batched, over caches up to 32k; and the executor's.

The batched model is this folder's; where it fits the memory, the executor's own model runs beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch

from gpu_campaign.attention import Shape, additive, seen_by
from gpu_campaign.bench import Bench, Lazy, shuffled
from gpu_campaign.campaign import Cell, Facts
from gpu_campaign.llama import LLAMA_1B, LLAMA_8B, TINY_1B, TINY_8B, Attend, Cache, RandomLlama, Size, fitting
from gpu_campaign.timing import check

ONE_BY_ONE = (1, 4, 8, 16, 32, 64, 2, 128, 256, 3, 5, 6, 12, 17, 24, 33, 48, 65, 96, 129, 192)
SOME, BATCHES = (1, 2, 4, 8, 16), (2, 4, 8, 16, 32, 64)
CONTEXTS = (128, 1024, 4096, 16384, 32000)
MAX_POSITIONS = 32768
EXECUTOR_STEPS = ((1, 1), (1, 8), (1, 64), (16, 1), (16, 8), (1, 4), (4, 8), (1, 16), (4, 1), (1, 2), (1, 32))
CHECK_LIMIT = 3e-2  # two layers in 16 bits


class Step(NamedTuple):
    """One pass: ``batch`` sequences of ``q_len`` new tokens after ``context`` cached ones."""

    batch: int
    q_len: int
    context: int
    attention: str = "tree mask"
    graph: bool = True

    @property
    def kind(self) -> str:
        if self.q_len == 1:
            return "decode_step"
        return "microbatch" if self.batch == 1 else "verify"


def cells_8b(bench: Bench) -> Iterator[Cell]:
    """The target's shape."""
    yield from _cells(bench, TINY_8B if bench.tiny else LLAMA_8B)


def cells_1b(bench: Bench) -> Iterator[Cell]:
    """The draft's shape."""
    yield from _cells(bench, TINY_1B if bench.tiny else LLAMA_1B)


def steps(bench: Bench) -> list[Step]:
    """Those that everyone asks for first: one sequence at 512 cached tokens, then batches and long contexts, mixed."""
    if bench.tiny:
        return [Step(1, 1, 20), Step(1, 3, 20), Step(2, 2, 20), Step(2, 1, 20, graph=False)]
    first = [Step(1, q, 512) for q in ONE_BY_ONE]
    eager = [Step(b, q, c, graph=False) for b, q, c in product((1, 16), (1, 8, 64), (512, 8192)) if b * q <= 64]
    grid = [Step(b, q, c) for b, q, c in product((1, *BATCHES), SOME, CONTEXTS) if b * q <= 256]
    long = [Step(1, q, c) for q, c in product((32, 64, 256), (4096, 16384, 32000))]
    flash = [s._replace(attention="flash causal") for s in first[1:8] + grid if s.q_len > 1]
    return first + shuffled([*eager, *grid, *long, *flash[:7], *shuffled(flash[7:])[:30]])


def _cells(bench: Bench, wanted: Size) -> Iterator[Cell]:
    size = fitting(wanted, bench.free_bytes)
    model = Lazy(partial(RandomLlama, bench, size, 256 if bench.tiny else MAX_POSITIONS))
    pool_bytes = min(0.6 * max(bench.free_bytes - 2 * size.num_weights, 0), 80e9)
    pool = Lazy(lambda: (model(), bench.random(int(pool_bytes // 2)))[1])
    facts = {"model": size.name, "weights": "bf16" if bench.half == torch.bfloat16 else "fp16"}
    yield Cell("checks", {**facts, "what": "two layers"}, partial(_check_layers, bench, model))
    for step in steps(bench):
        if 2 * step.batch * (step.context + step.q_len) * size.kv_per_token <= pool_bytes:
            yield _cell("forward", facts, step, partial(_measure, bench, model, pool, step))


def executor_cells(bench: Bench) -> Iterator[Cell]:
    """The executor's own model, where memory allows: it joins weights while it still has the parts."""
    for wanted in (TINY_1B, TINY_8B) if bench.tiny else (LLAMA_1B, LLAMA_8B):
        size = fitting(wanted, bench.free_bytes / 2.2)
        ours = Lazy(partial(executor_llama, bench, size, 256 if bench.tiny else 4096))
        facts = {"model": size.name, "weights": "bf16" if bench.half == torch.bfloat16 else "fp16"}
        for (batch, q_len), graph in product(((1, 1), (2, 3)) if bench.tiny else EXECUTOR_STEPS, (False, True)):
            step = Step(batch, q_len, 20 if bench.tiny else 512, "executor", graph)
            yield _cell("forward", facts, step, partial(_measure_executor, bench, ours, step))


def _cell(table: str, facts: Facts, step: Step, measure: Any) -> Cell:
    columns = {
        "kind": step.kind,
        "n_tokens": step.batch * step.q_len,
        "mean_context": step.context,
        "batch": step.batch,
        "q_len": step.q_len,
        "context": step.context,
        "attention": step.attention if step.q_len > 1 or step.attention == "executor" else "none",
        "launch": "graph" if step.graph else "eager",
    }
    return Cell(table, {**facts, **columns}, measure)


def attend(bench: Bench, size: Size, step: Step) -> Attend:
    """Masks of a step: none for one token; a binary tree over the newest tokens; or the kernel's causal rule."""
    if step.q_len == 1:
        return Attend()
    if step.attention == "flash causal":
        return Attend(causal=True)
    shape = Shape("", "tree", step.batch, step.q_len, step.context, size.heads, size.kv_heads, size.dim)
    return Attend(additive(shape, seen_by("tree", step.q_len).to(bench.device), bench.half))


def _measure(bench: Bench, model: Lazy[RandomLlama], pool: Lazy[torch.Tensor], step: Step) -> Facts:
    llama = model()
    cache = Cache(pool(), llama.size, step.batch, step.context + step.q_len)
    tokens = bench.tokens(llama.size.vocab, step.batch, step.q_len)
    how = attend(bench, llama.size, step)
    timed = bench.watch.time(lambda: llama.forward(tokens, cache, step.context, how), graph=step.graph)
    return {**timed.row(), "latency_ms": 1e3 * timed.seconds, "source": "measured by benchmarks/gpu_campaign"}


def _check_layers(bench: Bench, model: Lazy[RandomLlama]) -> Facts:
    """Two layers and a verification of five tokens against the same in float64."""
    step, llama = Step(2, 5, 19), model().first(min(2, model().size.layers))
    size = llama.size
    pool = bench.random(2 * 24 * size.kv_per_token)
    tokens, how = bench.tokens(size.vocab, 2, 5), attend(bench, size, step)
    exact = Cache(pool.double(), size, 2, 24)
    wide = Attend(None if how.mask is None else how.mask.double())
    found = llama.forward(tokens, Cache(pool, size, 2, 24), 19, how)
    return {"rel_error": check(found, llama.in_float64(size.layers).forward(tokens, exact, 19, wide), CHECK_LIMIT)}


def executor_llama(bench: Bench, size: Size, max_context: int) -> Any:
    """The executor's model with random small weights of this size."""
    from specsim.executor.llama import Llama
    from specsim.executor.weights import LlamaShape, expected_tensors

    shape = LlamaShape(
        hidden_size=size.hidden,
        num_layers=size.layers,
        num_heads=size.heads,
        num_kv_heads=size.kv_heads,
        head_dim=size.dim,
        intermediate_size=size.inter,
        vocab_size=size.vocab,
        max_context_tokens=max_context,
        rope_theta=500000.0,
        norm_eps=1e-5,
        tied_embeddings=size.tied,
    )
    weights = {
        name: bench.random(*dims, scale=0.02) if len(dims) > 1 else torch.ones(dims, device=bench.device)
        for name, dims in expected_tensors(shape).items()
    }
    return Llama(shape, weights, bench.half, str(bench.device))


def _measure_executor(bench: Bench, model: Lazy[Any], step: Step) -> Facts:
    llama, seen = model(), seen_by("tree", step.q_len)
    cache = llama.new_cache(step.context + step.q_len, step.batch)
    cache.kv.normal_()
    tokens = bench.tokens(llama.shape.vocab_size, step.batch, step.q_len)
    positions = (step.context + seen.sum(-1) - 1)[None].to(bench.device)
    mask = llama.mask(seen[None]) if step.q_len > 1 else None

    def call() -> torch.Tensor:
        cache.rewind([step.context] * step.batch)
        logits: torch.Tensor = llama.forward(tokens, positions, cache, mask)
        return logits

    timed = bench.watch.time(call, graph=step.graph)
    note = {"source": "measured by benchmarks/gpu_campaign"}
    return {**timed.row(), "latency_ms": 1e3 * timed.seconds, **note, "engine": "specsim executor"}
