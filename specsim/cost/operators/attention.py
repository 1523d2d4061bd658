"""Attention over a KV cache by physical parameters: decode (one new token a sequence), verify (several), prefill.

Decode and verify read the cache once and split each sequence's keys over the multiprocessors that are free; the time is
that of the fuller of two pipes: the memory of the whole device, or the waves of thread blocks on its multiprocessors.

Sources: FlashDecoding (Dao et al. 2023) for the split over keys; FlashAttention-2 (arXiv:2307.08691) and 3
(arXiv:2407.08608) for tiles; the constants are fits to the kernel tables named in the fit files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from specsim.cost.fits import OperatorFit
from specsim.cost.residual import corrected
from specsim.cost.shape_features import decode_features
from specsim.documents import Document
from specsim.errors import InputError
from specsim.hardware import HardwareProfile
from specsim.work import Float

Columns = Mapping[str, Any]

KV_BYTES: Final = {"bfloat16": 2.0, "bf16": 2.0, "float16": 2.0, "fp16": 2.0, "half": 2.0, "fp8": 1.0, "int8": 1.0}
GRAPH_LAUNCH_S: Final = 4e-6
"""What the graph launch of a benchmark of one call adds to it. Assumed: such rows have floors of 5 to 12 us, while a
kernel of a model-wide graph costs about 2 us, so that much is what a model does not pay."""
MODEL_FLOOR_S: Final = 2e-6
_DECODE_COLUMNS: Final = ("batch", "q_len", "context", "n_heads", "n_kv_heads", "head_dim")
_KEYS_PER_BLOCK: Final = 128.0
_L2_EDGE: Final = 12  # how sharply a cache that cycles through more than it holds stops hitting; fitted once, H100


class DecodeParams(Document):
    """How fast one kernel family does decode and verify attention on one device.

    Attributes:
        launch_s: Floor of a call timed alone, for a head dimension of 128.
        dim_exponent: The floor grows with (head_dim / 128) to this power.
        odd_dim_s: Added where the head dimension is no power of two.
        start_row_s: Added per query row of a tile: what every thread block does before it can start.
        copy_s: Added by kernels that transpose grouped heads, when there are several sequences and KV heads.
        split_s, split_log_s: Added when keys are split: once, and per doubling of the number of splits.
        wave_s: Start and end of a thread block, paid by every wave after the first.
        row_s: The same per query row and 128 of head dimension.
        block_s: Synchronisation per 128 keys of a thread block after its first.
        sm_bytes_per_clock: What one multiprocessor can stream.
        tensor_efficiency: Share of the tensor peak on the padded tile.
        dram_efficiency: Share of the datasheet's memory bandwidth.
        l2_speedup: Bandwidth of the L2 over that share.
        l2_share: Part of the L2 that keeps a cache read again and again.
        p_norm: How sharply the slower pipe hides the other.
        ramp_s: Start-up of a long stream from memory.
        seq_s: Per sequence.
        ctas_per_sm, max_splits: Thread blocks per multiprocessor that the split rule aims at, and its limit.
        tile_rows, row_step: Query rows of a tile, and the step to which they are padded.
        splits, verify_splits: 1 when keys are split at one query token a sequence, and at several.
        packed, verify_packed: 1 when the query heads of a KV head share a tile, at one token and at several.
    """

    launch_s: float = Field(9e-6, gt=0)
    dim_exponent: float = 0.13
    odd_dim_s: float = 0.0
    start_row_s: float = 0.0
    copy_s: float = 0.0
    split_s: float = 1.2e-6
    split_log_s: float = 0.5e-6
    wave_s: float = 2.8e-6
    row_s: float = 0.05e-6
    block_s: float = 0.2e-6
    sm_bytes_per_clock: float = Field(40.0, gt=0)
    tensor_efficiency: float = Field(0.5, gt=0)
    dram_efficiency: float = Field(0.95, gt=0)
    l2_speedup: float = 2.0
    l2_share: float = Field(0.8, gt=0)
    p_norm: float = Field(2.5, ge=1)
    ramp_s: float = 4e-6
    seq_s: float = 0.015e-6
    ctas_per_sm: float = 1.0
    max_splits: float = 32.0
    tile_rows: float = 64.0
    row_step: float = 64.0
    splits: float = 1.0
    verify_splits: float = 1.0
    packed: float = 1.0
    verify_packed: float = 1.0


def decode_time_s(
    columns: Columns, device: HardwareProfile, dtype: str, p: DecodeParams, resident: bool = False
) -> Float:
    """Seconds of one attention call with a KV cache, shape of the broadcast columns.

    Args:
        columns: ``batch, q_len`` (new tokens a sequence), ``context`` (tokens cached before them), ``n_heads,
            n_kv_heads, head_dim``; for latent attention also ``kv_width`` (elements cached per token and KV head,
            default 2 head_dim) and ``flop_width`` (elements multiplied per query row and key, default 2 head_dim).
        device: Peaks and bandwidth.
        dtype: Of the cache.
        p: The kernel family.
        resident: True for a loop that reads one cache again and again, alone in its graph, as benchmarks do; in a model
            every layer has its own cache, read from memory, and the graph is launched once for all.

    >>> from specsim.hardware import load_hardware
    >>> shape = dict(batch=32, q_len=1, context=4095, n_heads=32, n_kv_heads=8, head_dim=128)
    >>> round(1e6 * float(decode_time_s(shape, load_hardware("h100-sxm"), "bf16", DecodeParams())))
    193
    """
    batch, q, context, heads, kv_heads, dim = attention_columns(columns)
    width = np.asarray(columns.get("kv_width", 2 * dim), dtype=float)
    flop_width = np.asarray(columns.get("flop_width", 2 * dim), dtype=float)
    one, group, keys = q == 1, heads / kv_heads, context + q
    blocks, splits, waves, rows = _grid(batch * kv_heads, q, group, keys, device.num_sms.value, p)
    kv_bytes, query_bytes = (
        batch * keys * kv_heads * width * kv_element_bytes(dtype),
        2.0 * batch * q * heads * flop_width,
    )
    bandwidth = device.mem_bw_bytes_per_s.value * p.dram_efficiency
    hit = _l2_hit(kv_bytes, p.l2_share * device.l2_bytes.value) if resident else 0.0
    memory_s = (kv_bytes * (1 - hit * (1 - 1 / p.l2_speedup)) + query_bytes) / bandwidth
    part = np.minimum(blocks * _KEYS_PER_BLOCK, keys)
    stream_s = part * width * kv_element_bytes(dtype) / (p.sm_bytes_per_clock * device.clock_hz.value)
    padded = np.ceil(rows / p.row_step) * p.row_step
    tensor_s = 2 * padded * part * flop_width * device.num_sms.value / (_peak(device) * p.tensor_efficiency)
    block_s = (blocks - 1) * p.block_s + np.sqrt(np.sqrt(stream_s**4 + tensor_s**4))
    waves_s = (waves - 1) * (p.wave_s + p.row_s * rows * dim / 128) + waves * block_s
    floor_s = p.launch_s if resident else max(p.launch_s - GRAPH_LAUNCH_S, MODEL_FLOOR_S)
    start_s = floor_s * (dim / 128) ** p.dim_exponent + p.odd_dim_s * (np.log2(dim) % 1 > 0)
    start_s = start_s + p.start_row_s * rows + p.copy_s * (one & (group > 1) & (batch > 1) & (kv_heads > 1))
    split_s = (splits > 1) * (p.split_s + p.split_log_s * np.log2(splits))
    ramp_s = p.ramp_s * (1 - hit) * memory_s / (memory_s + p.ramp_s + 1e-12)
    slower_s = (waves_s**p.p_norm + memory_s**p.p_norm) ** (1 / p.p_norm)
    return np.asarray(start_s + split_s + slower_s + ramp_s + p.seq_s * batch)


def decode_from_fit(
    columns: Columns, device: HardwareProfile, fit: OperatorFit, resident: bool = False, residual: bool = True
) -> tuple[Float, Float | float]:
    """Seconds of each call as the fit has them, and the half-width of their 90 % interval in log time.

    With ``residual`` the fit's learned correction is applied where it has one; without, the formula stands alone.

    >>> from specsim.cost.fits import find_fit
    >>> from specsim.hardware import load_hardware
    >>> h100, shape = load_hardware("h100-sxm"), dict(batch=32, q_len=1, context=4095)
    >>> fit = find_fit(h100, "attention_decode fa3 grouped", "bfloat16", "vllm")
    >>> heads = dict(n_heads=32, n_kv_heads=8, head_dim=128)  # 537 MB take 160 us at the datasheet's bandwidth
    >>> 1.6e-4 < float(decode_from_fit(shape | heads, h100, fit)[0]) < 2.1e-4
    True
    """
    seconds = decode_time_s(columns, device, fit.dtype, DecodeParams(**fit.params), resident)
    half_width = fit.half_width(columns)
    if not residual:
        return seconds, half_width
    batch, q, context, _, kv_heads, dim = attention_columns(columns)
    cache = batch * (context + q) * kv_heads * 2 * dim * kv_element_bytes(fit.dtype)
    return corrected(seconds, half_width, columns, device, fit, decode_features, cache, resident)


def _grid(units: Float, q: Float, group: Float, keys: Float, num_sms: float, p: DecodeParams) -> tuple[Float, ...]:
    """Blocks of keys per thread block, splits, waves, and query rows per thread block.

    Keys are split so that sequences x KV heads x tiles x splits fill the multiprocessors at most once.
    """
    one = q == 1
    packed = np.where(one, p.packed, p.verify_packed) > 0
    rows = np.where(packed, q * group, q)
    tiles = units * np.where(packed, 1.0, group) * np.ceil(rows / p.tile_rows)
    slots, all_blocks = num_sms * p.ctas_per_sm, np.ceil(keys / _KEYS_PER_BLOCK)
    free = np.clip(np.floor(slots / tiles), 1.0, np.minimum(all_blocks, p.max_splits))
    wanted = np.where(np.where(one, p.splits, p.verify_splits) > 0, free, 1.0)
    blocks = np.ceil(all_blocks / wanted)
    splits = np.ceil(all_blocks / blocks)
    return blocks, splits, np.ceil(tiles * splits / slots), np.minimum(rows, p.tile_rows)


def _l2_hit(num_bytes: Float, capacity: float) -> Float:
    ratio = np.minimum(num_bytes / capacity, 1e3)
    return np.asarray(1 / (1 + ratio**_L2_EDGE))


def attention_columns(columns: Columns) -> tuple[Float, ...]:
    values = tuple(np.asarray(columns[name], dtype=float) for name in _DECODE_COLUMNS)
    for name, value, least in zip(_DECODE_COLUMNS, values, (1, 1, 0, 1, 1, 1), strict=True):
        if np.any(~(value >= least)):
            raise InputError(name, f"must be >= {least}", float(np.min(value)))
    return values


def kv_element_bytes(dtype: str) -> float:
    if dtype not in KV_BYTES:
        raise InputError("dtype", f"of a KV cache must be one of {', '.join(KV_BYTES)}", dtype)
    return KV_BYTES[dtype]


def _peak(device: HardwareProfile) -> float:
    return device.peak("bf16" if "bf16" in device.peak_flops_per_s else "fp16")


def kernel_family(engine: str, arch: str, columns: Columns, kernel: str = "") -> NDArray[np.str_]:
    """The kernel library behind each row: by the kernel's name where a table has one, else what the engine takes.

    Engines of 2026: TensorRT-LLM its own kernels; on Hopper FlashAttention-3 up to a head dimension of 256; on other
    devices vLLM FlashAttention-2, and SGLang FlashInfer where it has the shape (Ampere: FlashAttention-2); else Triton.

    >>> kernel_family("vllm", "Hopper", {"head_dim": [128, 512], "n_heads": 8, "n_kv_heads": 1}).tolist()
    ['fa3', 'fa4']
    """
    dim, heads, kv_heads = np.broadcast_arrays(*(np.asarray(columns[n]) for n in ("head_dim", "n_heads", "n_kv_heads")))
    named = [f for key, f in _FAMILY_OF_KERNEL.items() if key in kernel]
    if named:
        return np.full(dim.shape, named[0])
    if engine == "trtllm":
        return np.full(dim.shape, "trtllm")
    if arch == "Hopper":
        return np.where(dim <= 256, "fa3", "fa4" if engine == "vllm" else "triton")
    if engine == "sglang" and arch != "Ampere":
        known = np.isin(dim, (128, 256)) & ((heads // kv_heads) % 5 > 0)
        return np.where(known, "flashinfer", "triton")
    return np.where(dim <= 256, "fa2", "triton")


_FAMILY_OF_KERNEL: Final = {
    "triton": "triton",
    "flashinfer": "flashinfer",
    "sdpa_cudnn": "fa3",  # cuDNN's fused kernels pipeline and split as FlashAttention-3 does
    "sdpa_efficient": "triton",  # CUTLASS's memory-efficient attention: no split over keys for several queries
    "fa4": "fa4",
    "fa3": "fa3",
    "flash": "fa2",
    "torch_flow": "trtllm",
}


def decode_variant(family: str, dtype: str, columns: Columns, num_sms: float) -> NDArray[np.str_]:
    """Which kernel of a family takes each row; every variant has parameters of its own.

    Ordinary kernels differ between one query head per KV head (``mha``) and several (``grouped``). FlashInfer has CUDA
    cores for up to 3 and tensor-core tiles of 16 rows and of more. TensorRT-LLM packs 2 to 32 heads (``xqa``, ``xqa
    wide`` above 16, ``xqa narrow`` for head dimensions below 128); all else, and with 16-bit caches also work too small
    to fill the device (4 x sequences x KV heads x 128-key blocks below the number of multiprocessors), runs one head
    per thread block (``mmha``).

    Source: the engines' own dispatch, read off where the measured times change level.

    >>> rows = dict(batch=[1, 64], q_len=1, context=[100, 100], n_heads=32, n_kv_heads=8, head_dim=128)
    >>> decode_variant("trtllm", "bfloat16", rows, 132).tolist()
    ['mmha', 'xqa']
    """
    batch, _, context, heads, kv_heads, dim = np.broadcast_arrays(*attention_columns(columns))
    group = heads / kv_heads
    if family == "trtllm":
        small = 4 * batch * kv_heads * np.maximum(1, (context + 1) // 128) < num_sms
        alone = (group == 1) | (small & (kv_element_bytes(dtype) > 1))
        names = ["mmha wide", "mmha", "xqa narrow", "xqa wide"]
        return np.select([group > 32, alone, dim < 128, group > 16], names, "xqa")
    if family == "flashinfer":
        return np.select([group == 1, group < 4, group <= 16], ["mha", "narrow", "grouped"], "wide")
    return np.where(group == 1, "mha", "grouped")


def decode_operators(
    engine: str, dtype: str, columns: Columns, device: HardwareProfile, kernel: str = ""
) -> NDArray[np.str_]:
    """The name under which each row's kernel is fitted: operator, family and variant.

    >>> from specsim.hardware import load_hardware
    >>> rows = dict(batch=1, q_len=1, context=100, n_heads=[8, 32], n_kv_heads=8, head_dim=128)
    >>> decode_operators("vllm", "bfloat16", rows, load_hardware("h100-sxm")).tolist()
    ['attention_decode fa3 mha', 'attention_decode fa3 grouped']
    """
    shape = np.broadcast_shapes(*(np.shape(columns[n]) for n in _DECODE_COLUMNS))
    families = np.broadcast_to(kernel_family(engine, device.arch, columns, kernel), shape)
    names = np.empty(shape, dtype=object)
    for family in np.unique(families):
        variants = decode_variant(str(family), dtype, columns, device.num_sms.value)
        mask = families == family
        names[mask] = [f"attention_decode {family} {v}" for v in np.broadcast_to(variants, shape)[mask]]
    return np.asarray(names, dtype=str)
