"""Time of operations by the forms of ``specsim.cost.operators``, with what was fitted to the device or transfers to it.

Every operation's time is split into what bounds it: the floor of its launch, then memory and arithmetic side by side in
proportion to the fourth powers of what each alone would take. These shares are the derivatives of the smooth maximum
that the forms take, so ``Cost.by_bound`` stays a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np

from specsim.cost.fits import DeviceFit, OperatorFit, find_fit, load_fit
from specsim.cost.fitted_calls import Timed, attention_call, elementwise_call, experts_call, gemm_call
from specsim.cost.operators.allreduce import AllReduceParams, allreduce_time_s
from specsim.cost.operators.gemm import FEW_TOKENS, math_flops_per_s
from specsim.cost.roofline import Roofline
from specsim.hardware import HardwareProfile
from specsim.work import BOUNDS, AllReduce, Attention, Cost, Elementwise, Experts, Float, Gemm, Op, by_bound

CURVE_TOKENS: Final = 4096
"""Tokens up to which a dense layer is priced once for every whole number of them; above, when asked for."""
BESIDE_BENCHMARK_SD: Final = {"memory": 0.05, "compute": 0.15, "launch": 0.15, "link": 0.15}
"""Log spread of a model's kernels beside the same kernels in a loop of their own: neighbours that share the cache, a
clock that falls under load. Assumed, of the size of engines' and versions' differences on one GPU (5 to 9 % of bf16
GEMM between cuBLAS versions); arithmetic more, as real data and long runs lower the clock."""
_KERNELS_OF: Final = {"trtllm": "moe_torch_flow"}
"""How names of an engine's kernels begin, where not with its own."""
_LAUNCHES: Final = {"vllm": "vLLM_custom", "sglang": "SGLang_CustomAllReduce"}


@dataclass(frozen=True)
class FittedOps:
    """Prices operations on one device from its own fits, else from those of its architecture, else of all devices.

    Args:
        hardware: The device.
        fallback: Prices operations and dtypes that no fit holds for.
        engine, version: Whose kernels; those of another engine where it has none of its own.
        eager: Kernels launched one by one: all-reduces then have a floor of the host's.
    """

    hardware: HardwareProfile
    fallback: Roofline
    engine: str
    version: str = ""
    eager: bool = False
    _curves: dict[tuple[float, float, str], Timed] = field(default_factory=dict, repr=False, compare=False)
    _found: dict[tuple[str, str], OperatorFit | None] = field(default_factory=dict, repr=False, compare=False)

    def price(self, op: Op) -> Cost:
        """The operation's cost, of the operation's own shape."""
        timed = self._timed(op)
        if timed is None:
            return self.fallback.price(op)
        seconds = np.sum(timed.by_bound, axis=-1)
        zeros = np.zeros(np.shape(seconds))
        moved = zeros if isinstance(op, AllReduce) else op.bytes + zeros
        return Cost(op.flops + zeros, moved, timed.by_bound, zeros, _errors(op, timed.log_sd * seconds))

    def _timed(self, op: Op) -> Timed | None:
        match op:
            case Gemm():
                return self._gemm(op)
            case Attention():
                return attention_call(op, self.hardware, self.engine, self.fit)
            case Experts():
                fit = self._kin("moe", _experts_dtype(op))
                return None if fit is None else experts_call(op, self.hardware, fit)
            case Elementwise():
                fit = self.fit(_ELEMENTWISE.get(op.name, "elementwise add"), "float16")
                return None if fit is None else elementwise_call(op, self.hardware, fit)
            case AllReduce():
                return self._allreduce(op)

    def fit(self, operator: str, dtype: str) -> OperatorFit | None:
        """What holds for an operator on this device, read once."""
        key = operator, dtype
        if key not in self._found:
            self._found[key] = find_fit(self.hardware, operator, dtype, self.engine, self.version)
        return self._found[key]

    def _kin(self, operator: str, dtype: str) -> OperatorFit | None:
        """Of an operator with many kernels, the engine's own of that dtype, measured most often."""
        key = f"{operator} *", dtype
        if key not in self._found:
            device = [fit for fit in self._own.fits if _is_kin(fit, operator, dtype)]
            others = [f for f in self._transferred.fits if _is_kin(f, operator, dtype)]
            others = [f for f in others if f.engine in (self.hardware.arch, "any")]
            best = max(device or others, key=self._preference, default=None)
            self._found[key] = best
        return self._found[key]

    def _preference(self, fit: OperatorFit) -> tuple[bool, bool, bool, int]:
        kernel, prefix = fit.operator.split(" ", 1)[1], _KERNELS_OF.get(self.engine, self.engine)
        return kernel.lower().startswith(prefix), fit.version == self.version, fit.engine != "any", fit.points

    @cached_property
    def _own(self) -> DeviceFit:
        return load_fit(self.hardware.name)

    @cached_property
    def _transferred(self) -> DeviceFit:
        return load_fit("transferred")

    def _gemm(self, op: Gemm) -> Timed | None:
        dtype = gemm_dtype(op)
        fit = self.fit("gemm", dtype) if dtype else None
        if fit is None or dtype is None:
            return None
        m = np.asarray(op.m, dtype=float)
        if m.size and m.max() > CURVE_TOKENS:  # the same count comes often in a sweep
            tokens, where = np.unique(m, return_inverse=True)
            many = gemm_call(tokens, op.n, op.k, self.hardware, fit)
            return Timed(many.by_bound[where.reshape(m.shape)], many.log_sd)
        key = op.n, op.k, dtype
        if key not in self._curves:
            self._curves[key] = gemm_call(np.arange(1.0, CURVE_TOKENS + 1), op.n, op.k, self.hardware, fit)
        curve = self._curves[key]
        return Timed(_between(curve.by_bound, m), curve.log_sd)

    def _allreduce(self, op: AllReduce) -> Timed | None:
        launched = f"{_LAUNCHES[self.engine]}_{'eager' if self.eager else 'graph'}" if self.engine in _LAUNCHES else ""
        kernel = launched or ("TRTLLM" if self.engine == "trtllm" else "NCCL")
        fit = self.fit(f"allreduce {kernel}", "half" if kernel == "NCCL" else "bfloat16")
        if fit is None:
            return None
        p = AllReduceParams(**fit.params)
        seconds = allreduce_time_s({"bytes": op.message_bytes, "n_gpus": op.num_devices}, self.hardware, p)
        launch = np.minimum(seconds, self.hardware.launch_overhead_s.value)
        return Timed(by_bound(np.shape(seconds), link=seconds - launch, launch=launch), fit.log_sd)

    @cached_property
    def log_sd(self) -> Float:
        """Spread of each bound's shared multiplier: that of the fits' parameters (for a transferred fit, between the
        GPUs that it comes from), and that of a model beside a benchmark."""
        gemm, reduce = self.fit("gemm", "bfloat16"), self._kin("allreduce", "bfloat16")
        fallback = dict(zip(BOUNDS, self.fallback.params.log_sd, strict=True))
        spreads = {
            "memory": _param_sd(gemm, "dram_efficiency"),
            "compute": _param_sd(gemm, "tensor_efficiency"),
            "launch": _param_sd(gemm, "launch_s"),
            "link": reduce.log_sd if reduce else None,
        }
        known = {name: fallback[name] if sd is None else sd for name, sd in spreads.items()}
        wider = {name: float(np.hypot(sd, BESIDE_BENCHMARK_SD[name])) for name, sd in known.items()}
        return np.array([wider.get(name, fallback[name]) for name in BOUNDS])

    @property
    def mem_bw_bytes_per_s(self) -> float:
        """Bandwidth that dense layers reach."""
        fit = self.fit("gemm", "bfloat16")
        share = fit.params["dram_efficiency"] if fit else self.fallback.params.mem_efficiency.value
        return self.hardware.mem_bw_bytes_per_s.value * share

    def flops_per_s(self, dtype: str) -> float:
        """Arithmetic that dense layers reach for weights stored as ``dtype``."""
        name = _TABLE_DTYPE.get(dtype)
        fit = self.fit("gemm", name) if name else None
        if fit is None or name is None:
            return self.fallback.flops_per_s(dtype)
        return math_flops_per_s(self.hardware, name) * fit.params["tensor_efficiency"]


_TABLE_DTYPE: Final = {
    "bf16": "bfloat16",
    "fp16": "bfloat16",
    "fp8": "fp8",
    "int8": "sq",
    "int4": "int4_wo",
    "mxfp4": "int4_wo",
}
"""Dtypes of models by the names of measured tables. fp16 runs at the speed of bf16, of which tables are newer. Dense
MXFP4 layers were not measured: as many bits, like int4."""
_ELEMENTWISE: Final = {
    "embedding": "elementwise emb",
    "norm": "elementwise input_layernorm",
    "rotary, activation": "elementwise mlp_act",
}


def gemm_dtype(op: Gemm) -> str | None:
    """What measured tables call this layer's dtype; None where they have none. Block scales show in the bits.

    >>> gemm_dtype(Gemm(1, 128, 128, "fp8", 8.0)), gemm_dtype(Gemm(1, 128, 128, "fp8", 8 + 32 / 128**2))
    ('fp8', 'fp8_block')
    """
    return "fp8_block" if op.dtype == "fp8" and op.weight_bits > 8 else _TABLE_DTYPE.get(op.dtype)


def _experts_dtype(op: Experts) -> str:
    if op.dtype == "fp8" and op.weight_bits > 8:
        return "fp8_block"
    return {"mxfp4": "w4a16_mxfp4", "int8": "fp8"}.get(op.dtype, _TABLE_DTYPE.get(op.dtype, op.dtype))


def _is_kin(fit: OperatorFit, operator: str, dtype: str) -> bool:
    same = fit.dtype == dtype or {fit.dtype, dtype} == {"bfloat16", "float16"}
    return same and fit.operator.startswith(f"{operator} ") and "nongated" not in fit.operator


def _errors(op: Op, one_sd_s: Float) -> dict[str, Float]:
    """An operation's error by name: layers of one shape err alike, on either side of where libraries change kernels;
    attention of one token a sequence and of several are different kernels."""
    match op:
        case Gemm():
            name, few = f"gemm {op.n:g} x {op.k:g} {op.dtype}", np.asarray(op.m) <= FEW_TOKENS
        case Attention():
            call = op.call
            name = f"attention {call.num_heads:g}/{call.num_kv_heads:g} of {call.head_dim:g}"
            few = np.max(call.new_tokens, axis=-1) <= 1
        case Experts():
            return {f"experts {op.num_experts:g} of {op.hidden:g} x {op.inter:g}": one_sd_s}
        case _:
            return {op.name: one_sd_s}
    if few.all():
        return {f"{name}, few": one_sd_s}
    if not few.any():
        return {f"{name}, many": one_sd_s}
    return {f"{name}, few": np.where(few, one_sd_s, 0.0), f"{name}, many": np.where(few, 0.0, one_sd_s)}


def _between(curve: Float, m: Float) -> Float:
    """Rows of a curve over 1, 2, 3... at ``m``, in a straight line between: a mean over passes of either count."""
    low = np.clip(np.floor(m), 1, len(curve)).astype(int)
    share = np.clip(m - low, 0.0, 1.0)[..., None]
    if not np.any(share > 0):
        return np.asarray(curve[low - 1])
    high = np.minimum(low + 1, len(curve))
    return np.asarray(curve[low - 1] * (1 - share) + curve[high - 1] * share)


def _param_sd(fit: OperatorFit | None, name: str) -> float | None:
    """Log spread of a fitted parameter, where the fit has one."""
    if fit is None or name not in fit.fitted:
        return None
    place = fit.fitted.index(name)
    variance: Any = fit.covariance[0][place] if len(fit.covariance) == 1 else fit.covariance[place][place]
    return float(np.sqrt(variance))
