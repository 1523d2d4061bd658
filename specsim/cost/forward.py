"""Whole forward passes of engines with their own kernels, as their benchmarks time them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

import numpy as np

from specsim.cost.count import count_ops
from specsim.cost.packed import PackedOps, PackedParams, Tiling
from specsim.errors import InputError
from specsim.hardware import HardwareProfile
from specsim.model import ModelSpec
from specsim.model.formats import StorageFormat, stored_as
from specsim.work import Cost, Float, Gemm, Op, Pass, by_bound

Kind = Literal["microbatch", "decode_step", "prefill", "prefill_batches"]
PROMPT_TOKENS: Final = 10
"""Tokens of each prompt of a ``prefill_batches`` row: what text-generation-inference's benchmark feeds by default."""
NEWEST: Final = 10**6
GRAPHS_SINCE: Final = 6766
SMALL_TILES_SINCE: Final = 15131
MORE_SMALL_TILES_SINCE: Final = 20000
EARLY: Final = 5000
"""llama.cpp by the number of the pull request that a build follows: CUDA graphs for single tokens (6766, May 2024),
tile kernels for up to 16 tokens of plain weights (15131, August 2025), for up to 64 (seen in tables of 2026, not
before; the number is a guess between them), and builds of 2023."""


@dataclass(frozen=True)
class ForwardShape:
    """Rows of one model, format and build on one device; arrays of shape [rows].

    Args:
        model: The shape; ``storage`` how it is stored.
        kind: What was timed: a prompt in pieces of ``num_tokens`` (no logits but for the last piece), so many sequences
            of one token each, a prompt whole, or so many prompts of ``PROMPT_TOKENS``.
        num_tokens: As the kind counts them.
        mean_context: Keys that a token attends to on average.
        engine: Name of the engine; ``build`` the number of a llama.cpp pull request.
    """

    hardware: HardwareProfile
    model: ModelSpec
    storage: StorageFormat
    kind: Kind
    num_tokens: Float
    mean_context: Float
    engine: str
    build: int = NEWEST

    @property
    def work(self) -> Pass:
        """The pass that was timed; ``mean_context`` counts the mean over the new tokens."""
        return forward_pass(self.kind, self.num_tokens, self.mean_context)

    @property
    def has_head(self) -> bool:
        """Whether logits are computed."""
        return self.kind != "microbatch"

    @property
    def in_graph(self) -> Any:
        """Which rows run in a CUDA graph: llama.cpp captures single tokens, edge engines decoding."""
        if self.engine != "llama.cpp":
            return np.full(np.shape(self.num_tokens), self.kind == "decode_step")
        is_graph = self.build >= GRAPHS_SINCE and self.hardware.kind != "edge"
        return (self.num_tokens == 1) & is_graph


def forward_pass(kind: Kind, num_tokens: Float, mean_context: Float) -> Pass:
    """The pass behind a measured row; ``mean_context`` is what a new token attends to on average.

    >>> work = forward_pass("microbatch", np.array([16.0]), np.array([256.0]))
    >>> float(work.context_tokens[0, 0])  # the 16 tokens see 8.5 of themselves
    247.5
    """
    n, context = num_tokens[..., None], mean_context[..., None]
    if kind == "decode_step":
        return Pass("target", "decode", new_tokens=1, context_tokens=context, num_seqs=n)
    if kind == "prefill_batches":
        return Pass("target", "prefill", new_tokens=PROMPT_TOKENS, context_tokens=0, num_seqs=n)
    before = np.maximum(context - (n + 1) / 2, 0.0)
    return Pass("target", "prefill", new_tokens=n, context_tokens=before)


def known_kind(word: str) -> Kind:
    """The kind of that name. Raises InputError with the known ones."""
    for kind in get_args(Kind):
        if kind == word:
            return kind  # type: ignore[no-any-return]
    raise InputError("kind", f"must be one of {', '.join(get_args(Kind))}", word)


def build_of(source: str) -> int:
    """The llama.cpp pull request that a row's source names; without one the newest build is assumed.

    >>> build_of("ggml-org/llama.cpp#7676"), build_of("my desk") == NEWEST
    (7676, True)
    """
    found = re.search(r"llama\.cpp#(\d{1,6})\b", source)
    return int(found[1]) if found else NEWEST


def counted(shape: ForwardShape) -> list[tuple[Op, int]]:
    """The operations of the pass; the LM head as the format stores it, or left out."""
    found = list[tuple[Op, int]]()
    for op, count in count_ops(stored_as(shape.model, shape.storage), shape.work):
        is_head = op.name in ("lm head", "sampling")
        if isinstance(op, Gemm) and is_head:
            op = replace(op, weight_bits=shape.storage.head_bits)
        if shape.has_head or not is_head:
            found.append((op, count))
    return found


def tiling_of(shape: ForwardShape) -> Tiling:
    """Which kernels the engine chooses.

    llama.cpp: vector kernels to 8 tokens; integer tiles of any width that unpack in front; plain weights go to the
    library in tiles of 64, or in newer builds to small tiles first. TensorRT-Edge-LLM: the AWQ kernels (vectors below 8
    tokens, then tiles of 64 rows by 128 columns), FP8, NVFP4 and plain weights in tiles of 128 and 64.
    """
    packed = shape.storage.is_packed
    if shape.engine == "llama.cpp":
        if packed:
            return Tiling(8, 1, unpacks=True)
        small = 64.0 if shape.build >= MORE_SMALL_TILES_SINCE else 0.0
        return Tiling(16 if shape.build >= SMALL_TILES_SINCE else 8, 64, small)
    if shape.storage.arithmetic in ("fp8", "fp4"):
        return Tiling(1, 128)
    return Tiling(7, 64, by_column=packed)


def price(shape: ForwardShape, params: PackedParams, ops: list[tuple[Op, int]] | None = None) -> Cost:
    """The cost of the rows; ``ops`` are those of ``counted``, where they are at hand."""
    host = params.edge_host if shape.hardware.kind == "edge" else 1.0
    launches = np.where(shape.in_graph, params.graph_launches, params.eager_launches * host)
    pricer = PackedOps(
        shape.hardware,
        shape.storage,
        tiling_of(shape),
        params,
        launches * shape.hardware.launch_overhead_s.value,
    )
    rows = np.shape(shape.num_tokens)
    flops, num_bytes, parts = np.zeros(rows), np.zeros(rows), by_bound(rows)
    for op, count in counted(shape) if ops is None else ops:
        cost = pricer.price(op)
        flops, num_bytes, parts = (
            flops + count * cost.flops,
            num_bytes + count * cost.bytes,
            parts + count * cost.by_bound,
        )
    early = params.early if shape.engine == "llama.cpp" and shape.build < EARLY else 1.0
    return Cost(flops, num_bytes, parts * early, np.zeros(rows))


ENGINES: Final[Mapping[str, str]] = {
    "llama.cpp": "llama.cpp",
    "llamacpp": "llama.cpp",
    "ggml": "llama.cpp",
    "ollama": "llama.cpp",
    "tensorrt-edge-llm": "tensorrt-edge-llm",
}
"""Engines whose kernels are modelled here, by the names that tables use."""
