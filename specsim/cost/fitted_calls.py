"""One operation of a model as a call of a measured table: its columns, its time, and what bounds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from specsim.cost.fits import OperatorFit
from specsim.cost.operators.attention import (
    GRAPH_LAUNCH_S,
    MODEL_FLOOR_S,
    DecodeParams,
    decode_operators,
    decode_time_s,
    kernel_family,
)
from specsim.cost.operators.elementwise import ElementwiseParams, elementwise_time_s
from specsim.cost.operators.gemm import format_of, gemm_from_fit, math_flops_per_s
from specsim.cost.operators.moe import MoeParams, moe_time_s
from specsim.cost.operators.prefill import PrefillParams, prefill_time_s
from specsim.hardware import HardwareProfile
from specsim.work import Attention, Elementwise, Experts, Float, by_bound

VERIFY_TOKENS: Final = 128
"""New tokens of a sequence up to which attention to its cache runs as decode does, keys split; beyond, as a prompt."""

FindFit = Callable[[str, str], OperatorFit | None]
"""The fit of an operator and dtype."""


class Timed(NamedTuple):
    """Seconds by bound, shape [..., len(BOUNDS)], and the log spread of their sum on shapes that were not fitted."""

    by_bound: Float
    log_sd: float


def split(time_s: Any, memory_s: Any, compute_s: Any, launch_s: float) -> Float:
    """``time_s`` by bound: the launch first, the rest by the fourth powers of what memory and arithmetic alone take.

    >>> split(np.array(3.0), 1.0, 0.0, 1.0)[:3].tolist()  # memory, compute, launch
    [2.0, 0.0, 1.0]
    """
    launch = np.minimum(time_s, launch_s)
    m4, c4 = np.square(np.square(memory_s)), np.square(np.square(compute_s))
    share = m4 / np.maximum(m4 + c4, np.finfo(float).tiny)
    rest = time_s - launch
    return by_bound(np.shape(time_s), memory=rest * share, compute=rest * (1 - share), launch=launch)


def gemm_call(m: Float, n: float, k: float, device: HardwareProfile, fit: OperatorFit) -> Timed:
    """A dense layer for each count of tokens ``m``, shape [counts]; weights come from memory."""
    columns = {"m": m, "n": np.full(len(m), float(n)), "k": np.full(len(m), float(k))}
    fit = _quantised_before(fit, device) if fit.dtype == "fp8" else fit
    time_s, _ = gemm_from_fit(columns, device, fit, resident=False)
    form, p = format_of(fit.dtype), fit.params
    moved = n * k * form.weight_bytes + m * (k * form.act_bytes + n * 2.0)
    memory_s = moved / (device.mem_bw_bytes_per_s.value * p["dram_efficiency"])
    compute_s = 2 * m * n * k / (math_flops_per_s(device, fit.dtype) * p["tensor_efficiency"])
    return Timed(split(time_s, memory_s, compute_s, p["launch_s"]), fit.log_sd)


def _quantised_before(fit: OperatorFit, device: HardwareProfile) -> OperatorFit:
    """The fit without the kernels that quantise activations, which measured calls of fp8 layers include (one, or two
    under TensorRT-LLM, part of it in the launch): in a model the norm or activation before writes fp8 itself."""
    fused = {name: 0.0 for name in fit.params if "quantise" in name}
    launch_s = device.launch_overhead_s.value
    alone = {name: min(value, launch_s) for name, value in fit.params.items() if name.endswith("launch_s")}
    return fit.model_copy(update={"params": {**fit.params, **fused, **alone}})


def attention_call(op: Attention, device: HardwareProfile, engine: str, find: FindFit) -> Timed | None:
    """Attention of all sequences of a pass; None where some of it has no fit.

    Sequences with few new tokens share one call, taken as alike in the mean: their keys split over what is free.
    Prompts are priced group by group.
    """
    call = op.call
    seqs, new, context = np.broadcast_arrays(call.num_seqs, call.new_tokens, call.context_tokens)
    if call.window_tokens is not None:
        context = np.minimum(context, call.window_tokens - 1.0)
    is_short = (new <= VERIFY_TOKENS) & (context > 0) & (seqs > 0)
    is_prompt = ~is_short & (seqs > 0)
    parts, variance = by_bound(seqs.shape[:-1]), np.zeros(seqs.shape[:-1])
    if is_short.any():
        short = _decode(op, np.where(is_short, seqs, 0.0), new, context, device, engine, find)
        if short is None:
            return None
        parts, variance = parts + short.by_bound, variance + (short.by_bound.sum(-1) * short.log_sd) ** 2
    if is_prompt.any():
        prompt = _prefill(op, np.where(is_prompt, seqs, 0.0), new, context, device, engine, find)
        if prompt is None:
            return None
        parts, variance = parts + prompt.by_bound, variance + (prompt.by_bound.sum(-1) * prompt.log_sd) ** 2
    log_sd: Any = np.sqrt(variance) / np.maximum(parts.sum(-1), np.finfo(float).tiny)
    return Timed(parts, log_sd)


def _columns(op: Attention) -> dict[str, Any]:
    """What all sequences share. A latent cache has kernels of 128 elements a head in what was measured."""
    call = op.call
    wide = call.kv_width != 2 * call.head_dim
    shared: dict[str, Any] = {"n_heads": call.num_heads, "n_kv_heads": call.num_kv_heads, "head_dim": call.head_dim}
    return shared | ({"head_dim": 128, "kv_width": call.kv_width, "flop_width": call.flop_width} if wide else {})


def _decode(
    op: Attention, seqs: Float, new: Float, context: Float, device: HardwareProfile, engine: str, find: FindFit
) -> Timed | None:
    batch = seqs.sum(-1)
    there = batch > 0
    some = np.maximum(batch, 1e-9)
    mean_new = np.where(there, (seqs * new).sum(-1) / some, 1.0)
    mean_context = np.where(there, (seqs * context).sum(-1) / some, 1.0)
    columns = _columns(op) | {"batch": np.maximum(batch, 1.0), "q_len": mean_new, "context": mean_context}
    dtype = _KV.get(op.call.kv_dtype, op.call.kv_dtype)
    names = decode_operators(engine, dtype, columns, device)
    time_s, floor, log_sd = np.zeros(batch.shape), np.zeros(batch.shape), 0.0
    kinds = set(names.reshape(-1).tolist())
    for name in kinds:
        fit = find(name, dtype)
        if fit is None:
            return None
        p, rows = DecodeParams(**fit.params), names == name
        part = columns if len(kinds) == 1 else {k: v[rows] if np.ndim(v) else v for k, v in columns.items()}
        time_s[rows] = np.reshape(decode_time_s(part, device, dtype, p, resident=False), time_s[rows].shape)
        floor[rows], log_sd = max(p.launch_s - GRAPH_LAUNCH_S, MODEL_FLOOR_S), max(log_sd, fit.log_sd)
        efficiency = p.dram_efficiency, p.tensor_efficiency
    return _attention_parts(op, time_s * there, floor, there, device, efficiency, log_sd)


def _prefill(
    op: Attention, seqs: Float, new: Float, context: Float, device: HardwareProfile, engine: str, find: FindFit
) -> Timed | None:
    columns = _columns(op) | {"batch": np.maximum(seqs, 1.0), "q_len": np.maximum(new, 1.0), "context": context}
    if "flop_width" in columns:
        columns["head_dim"] = columns["flop_width"] / 2
    family = str(np.reshape(kernel_family(engine, device.arch, _columns(op)), -1)[0])
    dtype, kv = _KV.get(op.dtype, op.dtype), _KV.get(op.call.kv_dtype, op.call.kv_dtype)
    names = [dtype] if kv == dtype else [f"{dtype}, {kv} cache", dtype]
    fit = next((fit for name in names if (fit := find(f"attention_prefill {family}", name))), None)
    if fit is None:
        return None
    p = PrefillParams(**fit.params)
    floor = max(p.launch_s - GRAPH_LAUNCH_S, MODEL_FLOOR_S)
    each = prefill_time_s(columns, device, dtype, p, kv) * (seqs > 0)
    there = (seqs > 0).any(-1)
    time_s = each.sum(-1) - floor * np.maximum((seqs > 0).sum(-1) - 1, 0)
    efficiency = p.dram_efficiency, p.tensor_efficiency
    return _attention_parts(
        op, np.maximum(time_s, 0.0), np.full(there.shape, floor), there, device, efficiency, fit.log_sd
    )


def _attention_parts(
    op: Attention,
    time_s: Float,
    floor_s: Float,
    there: Any,
    device: HardwareProfile,
    efficiency: tuple[float, float],
    log_sd: float,
) -> Timed:
    memory_s = op.bytes / (device.mem_bw_bytes_per_s.value * efficiency[0])
    wide = "bf16" if "bf16" in device.peak_flops_per_s else "fp16"
    compute_s = op.flops / (device.peak(wide) * efficiency[1])  # type: ignore[arg-type]  # one of the two
    return Timed(split(time_s, memory_s, compute_s, floor_s * there), log_sd)


_KV: Final = {"bf16": "bfloat16", "fp16": "bfloat16"}


def experts_call(op: Experts, device: HardwareProfile, fit: OperatorFit) -> Timed:
    """Routed experts of one layer, tokens spread independently and fairly."""
    p = MoeParams(**fit.params)
    columns = {
        "num_tokens": op.m,
        "hidden": op.hidden,
        "inter": op.inter,
        "topk": op.top_k,
        "n_experts": op.num_experts,
        "tp": 1,
        "ep": 1,
        "distribution": "uniform",
        "gated": op.num_matrices - 2,
    }
    time_s = moe_time_s(columns, device, fit.dtype, p)
    memory_s = op.bytes / (device.mem_bw_bytes_per_s.value * p.dram_efficiency)
    compute_s = op.flops / (math_flops_per_s(device, _GEMM_OF.get(fit.dtype, fit.dtype)) * p.tensor_efficiency)
    return Timed(split(time_s, memory_s, compute_s, p.launch_s), fit.log_sd)


_GEMM_OF: Final = {"w4a16_mxfp4": "int4_wo"}


def elementwise_call(op: Elementwise, device: HardwareProfile, fit: OperatorFit) -> Timed:
    """``op.launches`` kernels that move its bytes between them."""
    p = ElementwiseParams(**fit.params)
    each = elementwise_time_s({"bytes": np.asarray(op.bytes) / op.launches}, device, p)
    launch = op.launches * p.launch_s
    return Timed(split(each * op.launches, op.bytes, 0.0, launch), fit.log_sd)
