"""Predict every row of a measured table of any operator from the bundled fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from specsim.calibrate.elementwise import KV_SHARE, OPS
from specsim.calibrate.moe import is_gated
from specsim.calibrate.operators import REASON_CHARS, Prediction, Table, select
from specsim.cost.fits import DeviceFit, OperatorFit, find_fit, load_fit, profile_name
from specsim.cost.operators.allreduce import AllReduceParams, allreduce_time_s
from specsim.cost.operators.attention import decode_from_fit, decode_operators, kernel_family, kv_element_bytes
from specsim.cost.operators.elementwise import ElementwiseParams, elementwise_time_s, moved_bytes
from specsim.cost.operators.gemm import gemm_from_fit
from specsim.cost.operators.moe import MoeParams, moe_time_s
from specsim.cost.operators.prefill import PrefillParams, prefill_time_s
from specsim.errors import InputError
from specsim.hardware import HardwareProfile, hardware_names, load_hardware
from specsim.work import Float

_KEYS: Final = ("gpu", "engine", "version", "kernel", "dtype", "kv_dtype", "op")
_Times = Callable[[Table, HardwareProfile, Mapping[str, str], OperatorFit, bool], tuple[Float, Float | float]]


def predict_rows(operator: str, table: Table, own: DeviceFit | None = None, residual: bool = True) -> Prediction:
    """Every row of a table whose ``operator`` is a key of ``TIMES``, as a benchmark of single calls would time it.

    The device's own fit of the row's kernel is used, of its engine and version where there is one; else what transfers.
    ``own`` goes before them all on its device. With ``residual``, learned corrections are applied where there are any.
    """
    num = len(next(iter(table.values())))
    time_s, half = np.full(num, np.nan), np.full(num, np.nan)
    refused = np.full(num, "no profile of this gpu", dtype=f"<U{REASON_CHARS}")
    words = {key: table[key] for key in _KEYS if key in table}
    codes = np.stack([np.unique(values, return_inverse=True)[1] for values in words.values()])
    for code in np.unique(codes, axis=1).T:
        rows = np.flatnonzero((codes == code[:, None]).all(axis=0))
        facts = {key: str(values[rows[0]]) for key, values in words.items()}
        name = profile_name(facts["gpu"])
        if name not in hardware_names():
            continue
        device, part = load_hardware(name), {k: v[rows] for k, v in table.items()}
        try:
            kernels = _kernels(operator, device, facts, part)
        except InputError as error:  # a dtype or an operation that no kernel has
            refused[rows] = str(error)[:REASON_CHARS]
            continue
        for kernel in np.unique(kernels):
            mask = kernels == kernel
            try:
                fit = _known_fit(device, operator, str(kernel), facts, own)
                seconds, width = TIMES[operator](select(part, mask), device, facts, fit, residual)
            except InputError as error:
                refused[rows[mask]] = str(error)[:REASON_CHARS]
                continue
            time_s[rows[mask]], half[rows[mask]], refused[rows[mask]] = seconds, width, ""
    return Prediction(time_s, half, refused)


def _kernels(operator: str, device: HardwareProfile, facts: Mapping[str, str], rows: Table) -> NDArray[np.str_]:
    kernel, engine = facts.get("kernel", ""), facts.get("engine", "")
    if operator == "attention_decode":
        return decode_operators(engine, facts["kv_dtype"], rows, device, kernel)
    if operator == "attention_prefill":
        families = kernel_family(engine, device.arch, rows, kernel)
        tail = " decode" if "decode" in kernel else ""
        return np.array([f"{operator} {family}{tail}" for family in families.tolist()])
    if operator == "gemm":
        return np.full(len(rows["gpu"]), operator)
    return np.full(len(rows["gpu"]), f"{operator} {facts['op'] if operator == 'elementwise' else kernel}")


def _known_fit(
    device: HardwareProfile, operator: str, kernel: str, facts: Mapping[str, str], own: DeviceFit | None
) -> OperatorFit:
    if device.kind == "cpu":
        raise InputError("gpu", "must be a GPU: no operator of a CPU is fitted", device.name)
    fit = _fit(device, operator, kernel, facts, own if own and own.device == device.name else None)
    if fit is None:
        raise InputError(kernel, "has no fit, own or transferred, for this dtype", facts["dtype"])
    return fit


def _fit(
    device: HardwareProfile, operator: str, kernel: str, facts: Mapping[str, str], own: DeviceFit | None
) -> OperatorFit | None:
    """The fit of this kernel; of a kernel without any, that of the same operator, dtype and, if possible, engine."""
    dtype = facts["dtype"]
    if operator == "attention_decode":
        dtype = facts["kv_dtype"]
    elif operator == "attention_prefill" and facts["kv_dtype"] != dtype:
        dtype = f"{dtype}, {facts['kv_dtype']} cache"
    engine = facts.get("engine", "vidur")
    if own and (found := own.find(kernel, dtype, engine, facts.get("version", ""))):
        return found
    if found := find_fit(device, kernel, dtype, engine, facts.get("version", "")):
        return found
    for fits in (load_fit(device.name).fits, load_fit("transferred").fits):
        kin = [f for f in fits if f.operator.split()[0] == operator and f.dtype == dtype]
        if kin:
            return max(kin, key=lambda f: (f.engine in (engine, device.arch), f.points))
    return None


def _decode(
    rows: Table, device: HardwareProfile, facts: Mapping[str, str], fit: OperatorFit, residual: bool
) -> tuple[Float, Float | float]:
    stored = fit.model_copy(update={"dtype": facts["kv_dtype"]})  # a cache's bytes are its own, whoever lent the fit
    seconds, width = decode_from_fit(rows, device, stored, True, residual)
    copies = np.maximum(*(rows.get(n, np.ones(len(seconds))) for n in ("calls", "weight_copies")))
    cache = rows["batch"] * (rows["context"] + rows["q_len"]) * rows["n_kv_heads"] * 2 * rows["head_dim"]
    cold = (copies > 1) & (copies * cache * kv_element_bytes(facts["kv_dtype"]) > device.l2_bytes.value)
    if cold.any():  # calls in one graph, each with a cache of its own that the others have pushed out of the L2
        cold_s, cold_width = decode_from_fit(rows, device, stored, False, residual)
        return np.where(cold, cold_s, seconds), np.where(cold, cold_width, width)
    return seconds, width


def _prefill(
    rows: Table, device: HardwareProfile, facts: Mapping[str, str], fit: OperatorFit, _: bool
) -> tuple[Float, Float | float]:
    p = PrefillParams(**fit.params)
    return prefill_time_s(rows, device, facts["dtype"], p, facts["kv_dtype"], alone=True), fit.half_width(rows)


def _moe(
    rows: Table, device: HardwareProfile, facts: Mapping[str, str], fit: OperatorFit, _: bool
) -> tuple[Float, Float | float]:
    gated = is_gated(facts["kernel"], facts["engine"], facts["version"], rows)
    seconds = moe_time_s({**rows, "gated": gated}, device, facts["dtype"], MoeParams(**fit.params))
    return seconds, fit.half_width(rows)


def _allreduce(
    rows: Table, device: HardwareProfile, facts: Mapping[str, str], fit: OperatorFit, _: bool
) -> tuple[Float, Float | float]:
    return allreduce_time_s(rows, device, AllReduceParams(**fit.params)), fit.half_width(rows)


def _elementwise(
    rows: Table, device: HardwareProfile, facts: Mapping[str, str], fit: OperatorFit, _: bool
) -> tuple[Float, Float | float]:
    share: Any = np.array([KV_SHARE.get(m, 1.0) for m in rows["model"].tolist()])
    moved = {"bytes": moved_bytes(facts["op"], {**rows, "kv_share": share})}
    return elementwise_time_s(moved, device, ElementwiseParams(**fit.params)), fit.half_width(moved)


def _gemm(
    rows: Table, device: HardwareProfile, facts: Mapping[str, str], fit: OperatorFit, residual: bool
) -> tuple[Float, Float | float]:
    return gemm_from_fit(rows, device, fit, True, residual)


TIMES: Final[Mapping[str, _Times]] = {
    "gemm": _gemm,
    "attention_decode": _decode,
    "attention_prefill": _prefill,
    "moe": _moe,
    "allreduce": _allreduce,
    "elementwise": _elementwise,
}
ELEMENTWISE_OPS: Final = OPS
"""Values of ``op`` in a table of layer profiles that ``elementwise`` predicts; the others are dense layers."""
