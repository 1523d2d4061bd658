"""Operations in engines with kernels of their own for packed weights: llama.cpp, TensorRT-Edge-LLM.

A product of few tokens runs in vector kernels on the CUDA cores: weights stream from memory, and each token adds
arithmetic that the cores do beside it. Beyond, tiles on the tensor cores: weights are read and unpacked, then
multiplied, and the two hardly overlap (a sum of both fits better than their maximum). Shares are of the datasheet's
figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from pydantic import Field

from specsim.documents import Document
from specsim.hardware import Dtype, HardwareProfile
from specsim.model.formats import StorageFormat
from specsim.work import AllReduce, Attention, Cost, Elementwise, Experts, Float, Gemm, Op, by_bound

_BESIDE: Final = 3.0
"""Exponent of the smooth maximum where memory and arithmetic run side by side."""
_KIN: Final[dict[str, tuple[Dtype, ...]]] = {
    "fp32": ("tf32", "fp32"),
    "bf16": ("bf16", "fp16"),
    "fp16": ("fp16", "bf16"),
    "w16": ("fp16", "bf16"),
    "int8": ("int8", "fp16", "bf16"),
    "fp8": ("fp8", "bf16", "fp16"),
    "fp4": ("fp4", "fp8", "bf16", "fp16"),
}
"""Rates that an arithmetic runs at, the first that a device has."""


class PackedParams(Document):
    """What an engine reaches of a datasheet; all positive.

    Attributes:
        mem_float, mem_packed, mem_cache: Share of the DRAM bandwidth: plain weights, packed weights, KV cache.
        vector_float, vector_packed: Share of the fp32 rate that vector kernels reach.
        tensor_fp32, tensor_bf16, tensor_fp16, tensor_int8, tensor_fp4, tensor_w16: Share of the tensor rate by what the
            format is multiplied in (fp8 as fp4, in want of rows); of fp16 it may exceed 1 where consumer GPUs double
            it with fp16 accumulation.
        small_group: Tensor share of formats with a scale per 16 weights, relative to 32 or more: half the products of
            an integer tensor instruction must be scaled apart.
        unpack_tokens: Tokens whose arithmetic takes as long as unpacking the weights once per pass.
        attention: Share of the 16-bit tensor rate.
        graph_launches, eager_launches: Launch overheads of the profile per counted kernel, inside a CUDA graph or not.
        edge_host: The latter times this on boards whose CPU is slow.
        expert_spread: m tokens visit as many experts as m to this power would if they chose independently.
        early: Time of builds of 2023, relative to later ones.
    """

    mem_float: float = Field(gt=0)
    mem_packed: float = Field(gt=0)
    mem_cache: float = Field(gt=0)
    vector_float: float = Field(gt=0)
    vector_packed: float = Field(gt=0)
    tensor_fp32: float = Field(gt=0)
    tensor_bf16: float = Field(gt=0)
    tensor_fp16: float = Field(gt=0)
    tensor_int8: float = Field(gt=0)
    tensor_fp4: float = Field(gt=0)
    tensor_w16: float = Field(gt=0)
    small_group: float = Field(gt=0)
    unpack_tokens: float = Field(gt=0)
    attention: float = Field(gt=0)
    graph_launches: float = Field(gt=0)
    eager_launches: float = Field(gt=0)
    edge_host: float = Field(gt=0)
    expert_spread: float = Field(gt=0)
    early: float = Field(gt=0)


class Tiling(NamedTuple):
    """Which kernel takes how many tokens.

    Attributes:
        vector_tokens: Most tokens of the vector kernels.
        tile_tokens: Beyond, tokens are padded to a multiple of this.
        small_tokens: Up to so many, to a multiple of 16 instead.
        unpacks: Whether weights are unpacked in front of the tiles.
        by_column: Whether a tile of 128 outputs is one block that no other shares (no split of the inner sum), so that
            narrow layers leave multiprocessors idle.
    """

    vector_tokens: float
    tile_tokens: float
    small_tokens: float = 0.0
    unpacks: bool = False
    by_column: bool = False

    def padded(self, m: Float) -> Float:
        """Tokens that the tiles compute for ``m``."""
        tile = np.where(m <= self.small_tokens, 16.0, self.tile_tokens)
        return np.asarray(np.ceil(m / tile) * tile)


@dataclass(frozen=True)
class PackedOps:
    """Prices operations on one device; ``launch_s`` per kernel, one number or an array of the pass's shape."""

    hardware: HardwareProfile
    storage: StorageFormat
    tiling: Tiling
    params: PackedParams
    launch_s: Float

    def price(self, op: Op) -> Cost:
        """The operation's cost, of its own shape. A group of devices is refused earlier: these engines use one."""
        match op:
            case Gemm():
                return self._product(op, np.asarray(op.m, dtype=float), op.n * op.k, op.n)
            case Experts():
                return self._experts(op)
            case Attention():
                return self._attention(op)
            case Elementwise():
                return self._cost(op, self._beyond_l2(op.bytes) / self._bandwidth, np.zeros(()), 1.0)
            case AllReduce():
                raise ValueError("engines of one device have no all-reduce")

    @property
    def log_sd(self) -> Float:
        """What a fit's interval says; the shares themselves carry none."""
        return np.zeros(6)

    @property
    def mem_bw_bytes_per_s(self) -> float:
        """Bandwidth that kernels reach with these weights."""
        return self._bandwidth * self._mem_share

    def flops_per_s(self, dtype: str) -> float:
        """Tensor arithmetic that kernels reach with these weights, whatever ``dtype`` they call themselves."""
        return self._tensor_flops_per_s

    @property
    def _bandwidth(self) -> float:
        return self.hardware.mem_bw_bytes_per_s.value

    @property
    def _mem_share(self) -> float:
        return self.params.mem_packed if self.storage.is_packed else self.params.mem_float

    @property
    def _vector_flops_per_s(self) -> float:
        packed = self.storage.is_packed
        return self.hardware.peak("fp32") * (self.params.vector_packed if packed else self.params.vector_float)

    @property
    def _tensor_flops_per_s(self) -> float:
        p, name = self.params, self.storage.arithmetic
        share = {"fp32": p.tensor_fp32, "bf16": p.tensor_bf16, "fp16": p.tensor_fp16, "w16": p.tensor_w16,
                 "int8": p.tensor_int8, "fp8": p.tensor_fp4, "fp4": p.tensor_fp4}[name]  # fmt: skip
        narrow = p.small_group if name == "int8" and self.storage.group == 16 else 1.0
        return tensor_peak(self.hardware, name) * share * narrow

    def _beyond_l2(self, num_bytes: Float) -> Float:
        """Activations that the next kernel does not find in the L2."""
        return np.maximum(num_bytes - self.hardware.l2_bytes.value, 0.0)

    def _product(self, op: Gemm, m: Float, params: float, columns: float) -> Cost:
        weights = params * op.weight_bits / 8
        memory = (weights + self._beyond_l2(op.bytes - weights)) / (self._bandwidth * self._mem_share)
        vector = 2 * m * params / self._vector_flops_per_s
        tokens = self.tiling.padded(m) + (self.params.unpack_tokens if self.tiling.unpacks else 0.0)
        tensor = 2 * tokens * params / (self._tensor_flops_per_s * self._filled(m, columns))
        return self._chosen(op, memory, vector, tensor, m)

    def _filled(self, m: Float, columns: float) -> Float:
        """Share of the multiprocessors that have a tile, over all waves."""
        if not self.tiling.by_column:
            return np.ones(())
        tiles = np.ceil(m / self.tiling.tile_tokens) * np.ceil(columns / 128)
        sms = self.hardware.num_sms.value
        return np.asarray(tiles / (np.ceil(tiles / sms) * sms))

    def _experts(self, op: Experts) -> Cost:
        """Each expert is a product of its own over the tokens that chose it."""
        m = np.asarray(op.m, dtype=float)
        missed = (1.0 - op.top_k / op.num_experts) ** (m**self.params.expert_spread)
        visited = np.maximum(op.num_experts * (1.0 - missed), op.top_k)
        memory = visited * op.params_per_expert * op.weight_bits / 8 / (self._bandwidth * self._mem_share)
        vector = op.flops / self._vector_flops_per_s
        each = m * op.top_k / visited
        tokens = self.tiling.padded(each) + (self.params.unpack_tokens if self.tiling.unpacks else 0.0)
        tensor = 2 * visited * tokens * op.params_per_expert / self._tensor_flops_per_s
        return self._chosen(op, memory, vector, tensor, each)

    def _chosen(self, op: Op, memory: Float, vector: Float, tensor: Float, tokens: Float) -> Cost:
        """Vector kernels overlap arithmetic and memory, tiles do not."""
        few = tokens <= self.tiling.vector_tokens
        return self._cost(op, memory, np.where(few, vector, tensor), np.where(few, _BESIDE, 1.0))

    def _attention(self, op: Attention) -> Cost:
        memory = op.bytes / (self._bandwidth * self.params.mem_cache)
        compute = op.flops / (tensor_peak(self.hardware, "fp16") * self.params.attention)
        return self._cost(op, memory, compute, _BESIDE)

    def _cost(self, op: Op, memory: Float, compute: Float, power: Float | float) -> Cost:
        """The two parts sum to their smooth maximum and are its derivatives to their logarithms."""
        memory, compute = np.broadcast_arrays(np.asarray(memory, float), np.asarray(compute, float))
        largest = np.maximum(np.maximum(memory, compute), 1e-30)  # nothing to do: no time
        a, b = (memory / largest) ** power, (compute / largest) ** power
        sum_ = np.maximum(a + b, 1e-30)
        joint = largest * sum_ ** (1 / np.asarray(power))
        launch = op.launches * self.launch_s + np.zeros(np.shape(joint))
        parts = by_bound(np.shape(launch), memory=joint * a / sum_, compute=joint * b / sum_, launch=launch)
        zeros = np.zeros(np.shape(launch))
        return Cost(op.flops + zeros, op.bytes + zeros, parts, zeros)


def tensor_peak(hardware: HardwareProfile, arithmetic: str) -> float:
    """The datasheet's rate for this arithmetic, else that of the closest the device has.

    >>> from specsim.hardware import load_hardware
    >>> tensor_peak(load_hardware("v100-sxm-32gb"), "bf16") / 1e12  # Volta multiplies no bf16
    125.0
    """
    peaks = hardware.peak_flops_per_s
    return next((peaks[name].value for name in _KIN[arithmetic] if name in peaks), hardware.peak("fp32"))
