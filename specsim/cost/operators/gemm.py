"""Time of a dense layer: m tokens times a weight of k inputs by n outputs.

A kernel cuts the output into tiles and runs one tile on one SM at a time, in waves. A tile takes k steps, each as long
as the slowest of the tensor cores, the L2 cache and the pipeline's own latency; where tiles are few, some kernels cut k
into splits as well and add the parts in a second kernel. Beside all of this the weights come from memory once:

    t = launch + quantise + least over tiles and splits of (waves^4 + memory^4)^(1/4) + [split] second kernel

Which tiles a library has, and whether it may choose or must follow m, is its kernel family. Sources: NVIDIA, "Matrix
Multiplication Background User's Guide" (tiles, waves, their quantisation); the exponent: fits of the tables of
ai-dynamo/aiconfigurator give 3.6 to 4.8 with one formula for all sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from specsim.cost.fits import OperatorFit
from specsim.cost.residual import corrected
from specsim.cost.shape_features import gemm_features
from specsim.documents import Document
from specsim.errors import InputError
from specsim.hardware import Dtype, HardwareProfile
from specsim.work import Float

_ANY: Final = float("inf")
MAX_SPLITS: Final = 32
MIN_SPLIT_K: Final = 256.0
"""Shortest piece of k that a split leaves; below it prologue and epilogue would be most of a tile."""
WORST_CHOICE: Final = 2.0
"""A library that misses its quickest tile loses no more than this factor."""
FEW_TOKENS: Final = 64
"""Libraries change kernels past a row tile of 64, so a fit may have parameters on either side of it."""
ABOVE: Final = "above_64."
_COLUMNS: Final = ("m", "n", "k", "weight_copies", "cuda_graph")
FULL_SM_FLOPS_PER_CLOCK: Final = {"Hopper": 4096.0}
"""Dense 16-bit FLOPs per clock of an SM, where some parts of the architecture are sold with less. Source: NVIDIA H100
white paper, 989.4 TFLOP/s over 132 SMs at 1.83 GHz."""
ROW_BLOCK: Final = 128.0
CHUNK_ROWS: Final = 4096
"""Rows at a time: the arrays of a chunk stay in a core's cache."""


@dataclass(frozen=True)
class Format:
    """How a dtype of the measured tables stores weights and activations, and what multiplies them.

    ``math`` are peaks in order of preference: a device without the first widens to the next.
    """

    weight_bytes: float
    act_bytes: float
    math: tuple[Dtype, ...]


_16_BIT: Final[tuple[Dtype, ...]] = ("bf16", "fp16", "fp32")
FORMATS: Final = {
    "bfloat16": Format(2, 2, _16_BIT),
    "float16": Format(2, 2, ("fp16", "bf16", "fp32")),
    "fp8": Format(1, 1, ("fp8", *_16_BIT)),
    "fp8_block": Format(1, 1, ("fp8", *_16_BIT)),
    "int8_wo": Format(1, 2, _16_BIT),
    "int4_wo": Format(0.5, 2, _16_BIT),
    "sq": Format(1, 1, ("int8", *_16_BIT)),
    "nvfp4": Format(4.5 / 8, 4.5 / 8, ("fp4", "fp8", *_16_BIT)),  # sixteen 4-bit values share an 8-bit scale
}
"""By the dtype names of the measured tables."""


@dataclass(frozen=True)
class Tile:
    """``m`` rows by ``n`` columns, offered from ``first_m`` to ``last_m`` tokens; rows come in groups of ``group``."""

    m: int
    n: int
    first_m: float = 1
    last_m: float = _ANY
    group: int = 1


@dataclass(frozen=True)
class Kernels:
    """A kernel family: its tiles, whether it cuts k, and up to how many tokens it has a matrix-vector kernel."""

    tiles: tuple[Tile, ...]
    splits: bool = False
    vector_m: int = 0

    @property
    def chooses(self) -> bool:
        """Whether the library picks among several tiles, and so can miss the quickest."""
        return len(self.tiles) > 1 and all(tile.first_m == 1 and tile.last_m == _ANY for tile in self.tiles)


_UP_TO_128: Final = (Tile(16, 64), Tile(32, 64), Tile(64, 64), Tile(64, 128), Tile(128, 128))
_ALL: Final = (*_UP_TO_128, Tile(128, 256), Tile(256, 128))
_WITH_192: Final = (*_ALL, Tile(192, 128), Tile(128, 192), Tile(192, 256))
KERNELS: Final = {
    "library": Kernels(_ALL, splits=True, vector_m=1),
    "library-192": Kernels(_WITH_192, splits=True, vector_m=1),
    "library-vector-4": Kernels(_ALL, splits=True, vector_m=4),
    "whole-k": Kernels(_ALL),
    "whole-k-vector-4": Kernels(_ALL, vector_m=4),
    "whole-k-fine": Kernels((Tile(64, 16), Tile(64, 64), Tile(64, 128), Tile(128, 64), Tile(128, 128))),
    "one-tile": Kernels((Tile(128, 128),)),
    "by-tokens": Kernels((Tile(64, 64, 1, 64), Tile(64, 128, 65, 128), Tile(128, 128, 129, group=2))),
    "by-tokens-best": Kernels(
        (Tile(64, 64, 1, 64), Tile(64, 128, 1, 64), Tile(128, 64, 65), Tile(128, 128, 65), Tile(128, 256, 65))
    ),
}
"""By name: a library that picks the quickest (cuBLAS), kernels whose tile follows from m (CUTLASS), and between."""


class GemmParams(Document):
    """What a datasheet does not say about the dense layers of one library on one device.

    Attributes:
        launch_s: Kernel launch inside a graph, and everything that a layer of no size would take.
        tensor_efficiency: Share of the datasheet's FLOP/s that the steps of a tile reach.
        dram_efficiency: Share of the datasheet's bandwidth that streaming weights reaches.
        l2_bytes_per_flop: Bytes that one SM loads, from the cache or alone from memory, in the time that its tensor
            cores take for one 16-bit FLOP: 0.015 to 0.02 on Ampere, Hopper and Blackwell, whose SMs differ fourfold.
        step_clocks: Least clocks per element of k: latency of the pipeline, where a tile is too small to hide it.
        tile_s: Beginning and end of a wave of tiles.
        act_traffic: Trips of activations to memory: below 1 they stay in the cache, above they are read again.
        smooth_waves: 0 when a last, partly filled wave costs a whole one; 1 when SMs share the rest evenly.
        l2_share: Share of the L2 in which weights survive from one use to the next (loop benchmarks only).
        ragged_cost: Slow-down of steps per share of padded rows in the tiles; the tables show it, no document says why.
        ragged_memory: The same for memory, per squared share of padding to 128 rows; seen with 4-bit kernels.
        second_choice: How far a library that chooses is from its quickest tile, 0, towards the next quickest, 1.
        split_s: The second kernel that adds the splits of k.
        split_traffic: Its trips to memory, as ``act_traffic``.
        vector_s: Least time of the matrix-vector kernel, beyond the launch.
        vector_bytes_per_clock: Bytes that one SM loads per clock in the matrix-vector kernel.
        quantise_s: The kernel that quantises activations, 0 where there is none.
        quantise_row_s: The same, per token.
        quantise_traffic: Its trips to memory over one read of 16-bit and one write of narrow activations.
        host_s, host_32_s: Least time of an eager launch below 32 tokens, and from 32 on.
    """

    launch_s: float = Field(gt=0)
    tensor_efficiency: float = Field(gt=0)
    dram_efficiency: float = Field(gt=0)
    l2_bytes_per_flop: float = Field(gt=0)
    step_clocks: float = Field(gt=0)
    tile_s: float = Field(ge=0)
    act_traffic: float = Field(ge=0)
    smooth_waves: float = Field(ge=0, le=1)
    l2_share: float = Field(gt=0)
    ragged_cost: float = Field(default=0, ge=0)
    ragged_memory: float = Field(default=0, ge=0)
    second_choice: float = Field(default=0, ge=0, le=1)
    split_s: float = Field(default=0, ge=0)
    split_traffic: float = Field(default=0, ge=0)
    vector_s: float = Field(default=0, ge=0)
    vector_bytes_per_clock: float = Field(default=1, gt=0)
    quantise_s: float = Field(default=0, ge=0)
    quantise_row_s: float = Field(default=0, ge=0)
    quantise_traffic: float = Field(default=0, ge=0)
    host_s: float = Field(default=0, ge=0)
    host_32_s: float = Field(default=0, ge=0)


def format_of(dtype: str) -> Format:
    """The storage and arithmetic of a dtype. Raises InputError naming the dtypes there are."""
    if dtype not in FORMATS:
        raise InputError("dtype", f"must be one of {', '.join(FORMATS)}", dtype)
    return FORMATS[dtype]


def math_flops_per_s(device: HardwareProfile, dtype: str) -> float:
    """Peak of the arithmetic that ``dtype`` runs in on this device."""
    math = format_of(dtype).math
    return device.peak(next((d for d in math if d in device.peak_flops_per_s), math[-1]))


def sm_flops_per_s(device: HardwareProfile) -> float:
    """16-bit FLOP/s of a whole SM of the architecture: one sold with slower tensor cores (H20) loads as fast."""
    sold = math_flops_per_s(device, "bfloat16") / device.num_sms.value
    full = FULL_SM_FLOPS_PER_CLOCK.get(device.arch, 0.0) * device.clock_hz.value
    return full if sold < 0.9 * full else sold


def gemm_time_s(
    columns: Mapping[str, NDArray[Any]],
    device: HardwareProfile,
    dtype: str,
    p: GemmParams,
    kernels: str = "library",
    resident: bool = False,
) -> Float:
    """Seconds of each row of ``columns`` (m, n, k), float64.

    Args:
        columns: Equal-length arrays. ``weight_copies`` counts the distinct weights that a loop benchmark went round.
        kernels: A family of ``KERNELS``.
        resident: Weights may stay in the L2 between uses, as in a loop benchmark; never so in a whole model.

    >>> from specsim.hardware import load_hardware
    >>> p = GemmParams(launch_s=2.5e-6, tensor_efficiency=0.85, dram_efficiency=0.87, l2_bytes_per_flop=0.018,
    ...                step_clocks=2, tile_s=1e-7, act_traffic=1, smooth_waves=1, l2_share=0.3, split_s=2.4e-6,
    ...                vector_bytes_per_clock=75)
    >>> row = {"m": np.array([1.0]), "n": np.array([16384.0]), "k": np.array([16384.0])}
    >>> float(gemm_time_s(row, load_hardware("h100-sxm"), "bfloat16", p)[0].round(6))  # 537 MB / (3.352 TB/s x 0.87)
    0.000187
    """
    if kernels not in KERNELS:
        raise InputError("kernels", f"must be one of {', '.join(KERNELS)}", kernels)
    m, n, k = (np.asarray(columns[name], dtype=float) for name in ("m", "n", "k"))
    copies = np.asarray(columns["weight_copies"], dtype=float) if resident and "weight_copies" in columns else None
    result = np.empty(len(m))
    for first in range(0, len(m), CHUNK_ROWS):
        part = slice(first, first + CHUNK_ROWS)
        miss = 1.0 if copies is None else _miss_share(copies[part] * n[part] * k[part], device, dtype, p)
        result[part] = _chunk_s(m[part], n[part], k[part], miss, device, format_of(dtype), dtype, p, KERNELS[kernels])
    if "cuda_graph" in columns:  # an eager launch that is slower than the device
        host = np.where(m < 32, p.host_s, p.host_32_s)
        result = np.where(np.asarray(columns["cuda_graph"], dtype=bool), result, _corner(result, host))
    return result


def gemm_from_fit(
    columns: Mapping[str, NDArray[Any]],
    device: HardwareProfile,
    fit: OperatorFit,
    resident: bool = False,
    residual: bool = True,
) -> tuple[Float, Float | float]:
    """Seconds of each row as the fit has them, and the half-width of their 90 % interval in log time.

    With ``residual`` the fit's learned correction is applied where it has one; without, the formula stands alone.

    >>> from specsim.cost.fits import find_fit
    >>> from specsim.hardware import load_hardware
    >>> device = load_hardware("h100-sxm")
    >>> fit = find_fit(device, "gemm", "bfloat16", engine="vllm")
    >>> row = {"m": np.array([8.0]), "n": np.array([28672.0]), "k": np.array([4096.0])}
    >>> float(gemm_from_fit(row, device, fit)[0][0].round(5))  # 235 MB
    8e-05
    """
    seconds, half_width = _formula_s(columns, device, fit, resident), fit.half_width(columns)
    if not residual:
        return seconds, half_width
    weights = np.asarray(columns["n"], dtype=float) * columns["k"] * format_of(fit.dtype).weight_bytes
    return corrected(seconds, half_width, columns, device, fit, gemm_features, weights, resident)


def _formula_s(columns: Mapping[str, NDArray[Any]], device: HardwareProfile, fit: OperatorFit, resident: bool) -> Float:
    few, many = params_by_tokens(fit.params)
    if few == many:
        return gemm_time_s(columns, device, fit.dtype, few, fit.variant, resident)
    is_few = np.asarray(columns["m"]) <= FEW_TOKENS
    result = np.empty(len(is_few))
    for p, rows in ((few, is_few), (many, ~is_few)):
        part = {name: columns[name][rows] for name in _COLUMNS if name in columns}
        result[rows] = gemm_time_s(part, device, fit.dtype, p, fit.variant, resident)
    return result


def params_by_tokens(params: Mapping[str, float]) -> tuple[GemmParams, GemmParams]:
    """The parameters up to ``FEW_TOKENS`` and those above it, which a fit names with ``ABOVE`` before them."""
    few = {name: value for name, value in params.items() if not name.startswith(ABOVE)}
    above = {name.removeprefix(ABOVE): value for name, value in params.items() if name.startswith(ABOVE)}
    return GemmParams(**few), GemmParams(**{**few, **above})


def _miss_share(elements: Float, device: HardwareProfile, dtype: str, p: GemmParams) -> Float:
    """Share of the weights that memory must give: none while all copies fit the usable L2, all from twice that on."""
    usable = p.l2_share * device.l2_bytes.value
    return np.asarray(np.clip(elements * format_of(dtype).weight_bytes / usable - 1.0, 0.0, 1.0))


def _chunk_s(
    m: Float,
    n: Float,
    k: Float,
    miss: Any,
    device: HardwareProfile,
    form: Format,
    dtype: str,
    p: GemmParams,
    by: Kernels,
) -> Float:
    num_sms, clock = device.num_sms.value, device.clock_hz.value
    mem_rate = device.mem_bw_bytes_per_s.value * p.dram_efficiency
    sm_flops = math_flops_per_s(device, dtype) * p.tensor_efficiency / num_sms
    sm_rate = p.l2_bytes_per_flop * sm_flops_per_s(device)
    memory = (n * k * (miss * form.weight_bytes) + (m * k * form.act_bytes + m * n * 2.0) * p.act_traffic) / mem_rate
    if p.ragged_memory:
        memory = memory * (1.0 + p.ragged_memory * _square(1.0 - m / (ROW_BLOCK * np.ceil(m / ROW_BLOCK))))
    max_splits = np.clip(np.floor(k / MIN_SPLIT_K), 1.0, MAX_SPLITS)
    whole, next_whole, split, next_split = (np.full(len(m), _ANY) for _ in range(4))
    for tile in by.tiles:
        rows = np.ceil(m / (tile.m * tile.group)) * tile.group
        tiles = rows * np.ceil(n / tile.n)
        load = (np.minimum(m, tile.m) * form.act_bytes + tile.n * form.weight_bytes) / sm_rate
        step = _fourth_root(_fourth(load) + (2.0 * tile.m * tile.n / sm_flops) ** 4 + (p.step_clocks / clock) ** 4)
        if p.ragged_cost:
            step = step * (1.0 + p.ragged_cost * (1.0 - m / (rows * tile.m)))
        work = k * step
        one = _waves(tiles / num_sms, p) * (work + p.tile_s)
        if not by.chooses:
            one = np.where((m >= tile.first_m) & (m <= tile.last_m), one, _ANY)
        whole, next_whole = np.minimum(whole, one), np.minimum(next_whole, np.maximum(whole, one))
        if by.splits:
            splits = np.clip(np.floor(num_sms / tiles), 1.0, max_splits)
            many = _waves(tiles * splits / num_sms, p) * (work / splits + p.tile_s)
            many = many + splits * (m * n) * (8.0 * p.split_traffic / mem_rate)
            split, next_split = np.minimum(split, many), np.minimum(next_split, np.maximum(split, many))
    if by.chooses:
        whole = whole + p.second_choice * (np.minimum(next_whole, WORST_CHOICE * whole) - whole)
        split = split + p.second_choice * (np.minimum(next_split, WORST_CHOICE * split) - split) if by.splits else split
    fourth = _fourth(memory)
    time = _fourth_root(_fourth(whole) + fourth)
    if by.splits:
        time = np.minimum(time, _fourth_root(_fourth(split) + fourth) + p.split_s)
    if by.vector_m:
        stream = n * k * (form.weight_bytes / (num_sms * p.vector_bytes_per_clock * clock)) + p.vector_s
        time = np.where(m <= by.vector_m, np.minimum(time, _fourth_root(_fourth(stream) + fourth)), time)
    quantise = p.quantise_s + m * (p.quantise_row_s + k * ((2.0 + form.act_bytes) * p.quantise_traffic / mem_rate))
    return np.asarray(time + (quantise + p.launch_s))


def _waves(fill: Float, p: GemmParams) -> Any:
    """Waves that ``fill`` (tiles over SMs) takes: rounded up, or for the share ``smooth_waves`` not."""
    if p.smooth_waves == 0:
        return np.ceil(fill)
    return np.ceil(fill) * (1.0 - p.smooth_waves) + np.maximum(fill, 1.0) * p.smooth_waves


def _square(x: Any) -> Any:
    return x * x


def _fourth(x: Any) -> Any:
    return _square(x * x)


def _fourth_root(x: Any) -> Any:
    return np.sqrt(np.sqrt(x))


def _corner(a: Any, b: Any) -> Any:
    """Smooth maximum: the fourth root of the sum of fourth powers."""
    return _fourth_root(_fourth(a) + _fourth(b))
