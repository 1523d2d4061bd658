"""Rows that a datasheet rules out: faster than their least arithmetic at peak, or than their bytes from memory.

A loop benchmark may read from the L2 what fits there, so bytes count only where they exceed it by half. 5 % is allowed:
clocks and memory run a little over their nominal rates. Every bound is a lower one: what may be shared, skipped or cut
is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from specsim.calibrate.forwards import FORWARD, least_bytes
from specsim.calibrate.operators import Table
from specsim.calibrate.serving import SERVING, TTFT, devices_of, lengths, stored_model
from specsim.cost.operators.attention import kv_element_bytes
from specsim.cost.operators.elementwise import moved_bytes
from specsim.cost.operators.gemm import format_of, math_flops_per_s
from specsim.cost.operators.moe import FORMATS
from specsim.hardware import Dtype, HardwareProfile
from specsim.model import kv_bytes, matmul_params
from specsim.work import Float

MARGIN: Final = 1.05
L2_MARGIN: Final = 1.5
_16_BIT: Final[tuple[Dtype, ...]] = ("bf16", "fp16", "fp32")


def is_impossible(
    operator: str, rows: Table, device: HardwareProfile, facts: Mapping[str, str], measured_s: Float
) -> NDArray[np.bool_]:
    """Which rows of one device and dtype were measured faster than its datasheet allows.

    >>> from specsim.hardware import load_hardware
    >>> one = {"m": np.ones(2), "n": np.full(2, 16384.0), "k": np.full(2, 16384.0), "weight_copies": np.ones(2)}
    >>> h100 = load_hardware("h100-sxm")  # 537 MB at 3.352 TB/s: 160 us
    >>> is_impossible("gemm", one, h100, {"dtype": "bfloat16"}, np.array([150e-6, 165e-6])).tolist()
    [True, False]
    """
    flops_s, num_bytes, held = _least(operator, rows, device, facts)
    bytes_s = np.where(held > L2_MARGIN * device.l2_bytes.value, num_bytes / device.mem_bw_bytes_per_s.value, 0.0)
    return np.asarray(np.maximum(flops_s, bytes_s) > MARGIN * measured_s)


def _least(
    operator: str, rows: Table, device: HardwareProfile, facts: Mapping[str, str]
) -> tuple[Float | float, Float | float, Float | float]:
    """Seconds of arithmetic at peak, bytes that must move, and bytes that a loop goes through before it repeats."""
    dtype = facts.get("dtype", "")  # element-wise operations need none
    if operator == FORWARD:
        weights = np.full(len(rows["gpu"]), least_bytes(facts["model"], facts["weights"]))
        return 0.0, weights, weights
    if operator == TTFT:
        return 0.0, 0.0, 0.0
    if operator == SERVING:
        return _serving(rows, device, facts)
    if operator == "gemm":
        weights = rows["n"] * rows["k"] * format_of(dtype).weight_bytes
        flops = 2.0 * rows["m"] * rows["n"] * rows["k"]
        return flops / math_flops_per_s(device, dtype), weights, weights * rows.get("weight_copies", 1.0)
    if operator.startswith("attention"):
        return _attention(rows, device, facts)
    if operator == "moe":
        pairs = np.where(rows["ep"] == 1, rows["num_tokens"] * rows["topk"], 0.0)  # a rank may have the empty half
        params = 2 * rows["hidden"] * rows["inter"] / rows["tp"]
        weight_bytes, math = FORMATS[dtype]
        moved = np.where(rows["ep"] == 1, rows["topk"], 0.0) * params * weight_bytes
        return 2 * pairs * params / _peak(device, math), moved, moved
    if operator == "allreduce":
        link = device.link_bw_bytes_per_s
        sent_s = rows["bytes"] / link.value if link else np.zeros(len(rows["bytes"]))
        return np.where(rows["n_gpus"] > 1, sent_s, 0.0), 0.0, 0.0  # a switch that adds halves what a ring sends
    moved = moved_bytes(facts["op"], {**rows, "kv_share": 0.0})
    return 0.0, moved, moved


def _attention(
    rows: Table, device: HardwareProfile, facts: Mapping[str, str]
) -> tuple[Float | float, Float | float, Float | float]:
    batch, q, context, heads, kv_heads, dim = (
        rows[n] for n in ("batch", "q_len", "context", "n_heads", "n_kv_heads", "head_dim")
    )
    width, flop_width = rows.get("kv_width", 2 * dim), rows.get("flop_width", 2 * dim)
    cache = batch * (context + q) * kv_heads * width * kv_element_bytes(facts["kv_dtype"])
    pairs = batch * heads * q * (context + (q + 1) / 2)
    math = ("fp8", *_16_BIT) if "fp8" in (facts["dtype"], facts["kv_dtype"]) else _16_BIT
    return 2 * pairs * flop_width / _peak(device, math), cache, cache


def _serving(
    rows: Table, device: HardwareProfile, facts: Mapping[str, str]
) -> tuple[Float | float, Float | float, Float | float]:
    """A token of each that runs, by Little's law: weights once, their caches, arithmetic of tokens and prompts."""
    model, (prompt, output) = stored_model(facts["model"], facts["dtype"]), lengths(rows)
    token_s, first_s = rows["tpot_ms"] * 1e-3, rows["ttft_ms"] * 1e-3 if "ttft_ms" in rows else np.inf
    running = rows["concurrency"] * output * token_s / (first_s + output * token_s)
    cache = running * np.array([kv_bytes(model, int(tokens)) for tokens in (prompt + output / 2).tolist()])
    devices, weights = devices_of(rows), matmul_params(model)
    moved = (weights * model.weight_bits / 8 + cache) / devices
    flops = 2 * weights * running * (1 + prompt / output) / devices
    math = ("fp8", *_16_BIT) if model.weight_dtype == "fp8" else _16_BIT
    return flops / _peak(device, math), moved, np.full(len(prompt), np.inf)


def _peak(device: HardwareProfile, math: tuple[Dtype, ...]) -> float:
    return device.peak(next(d for d in math if d in device.peak_flops_per_s))
