"""Time of operations: a launch, then memory and arithmetic side by side, each at its efficiency.

t = launch + ((bytes / bandwidth)^p + (flops / peak)^p)^(1/p), p = 4: a roofline (Williams et al. 2009) whose corner is
smooth. Fits of GEMM tables on A100, H100, H200 give p between 3.6 and 4.8; p = inf is the textbook's corner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from specsim.cost.params import CostParams
from specsim.hardware import HardwareProfile
from specsim.work import AllReduce, Cost, Float, Op, by_bound


@dataclass(frozen=True)
class Roofline:
    """Prices operations on one device. ``sharp`` takes the textbook's corner (p = inf), which is a little faster."""

    hardware: HardwareProfile
    params: CostParams
    sharp: bool = False

    def price(self, op: Op) -> Cost:
        """The operation's cost, of the operation's own shape."""
        launch = op.launches * self.params.launch_s.value
        if isinstance(op, AllReduce):
            return self._allreduce(op, launch)
        memory, compute = self._corner(np.asarray(op.bytes / self.mem_bw_bytes_per_s), self._compute_s(op))
        parts = by_bound(np.shape(memory), memory=memory, compute=compute, launch=launch)
        zeros = np.zeros(np.shape(memory))
        return Cost(op.flops + zeros, op.bytes + zeros, parts, zeros)

    @property
    def log_sd(self) -> Float:
        """Spread of each bound's shared multiplier."""
        return self.params.log_sd

    @property
    def mem_bw_bytes_per_s(self) -> float:
        """Bandwidth that kernels reach: the datasheet's times its efficiency."""
        return self.hardware.mem_bw_bytes_per_s.value * self.params.mem_efficiency.value

    def flops_per_s(self, dtype: str) -> float:
        """Arithmetic that kernels reach for weights stored as ``dtype``."""
        return self.hardware.peak(math_dtype(dtype, self.hardware)) * self.params.compute_efficiency.value

    def _compute_s(self, op: Op) -> Any:
        dtype = getattr(op, "dtype", None)
        return np.asarray(op.flops / self.flops_per_s(dtype)) if dtype else np.zeros(np.shape(op.bytes))

    def _corner(self, memory: Float, compute: Float) -> tuple[Float, Float]:
        """The two shares of the joint time; they sum to it, and are its derivatives to log(memory), log(compute)."""
        if self.sharp:
            return memory * (memory >= compute), compute * (compute > memory)
        m4, c4 = (memory * memory) ** 2, (compute * compute) ** 2
        cube = np.maximum(np.sqrt(np.sqrt(m4 + c4)) ** 3, np.finfo(float).tiny)  # no bytes, no FLOPs: no time
        return m4 / cube, c4 / cube

    def _allreduce(self, op: AllReduce, launch: float) -> Cost:
        if self.hardware.link_bw_bytes_per_s is None:
            raise ValueError("all-reduce without a link")  # refused earlier, with its field, by CostModel
        rate = self.hardware.link_bw_bytes_per_s.value * self.params.link_efficiency.value
        seconds = np.asarray(self.params.allreduce_s.value + op.bytes / rate)
        zeros = np.zeros(np.shape(seconds))
        return Cost(zeros, zeros, by_bound(np.shape(seconds), link=seconds, launch=launch), zeros)


def math_dtype(weight_dtype: str, hardware: HardwareProfile) -> Any:
    """The arithmetic that weights of this storage run in on this device.

    Four-bit weights are weight-only formats here: they are widened to 16 bits before they are multiplied. Eight-bit
    weights use eight-bit arithmetic where the device has it, else 16-bit (weight-only).
    """
    peaks = hardware.peak_flops_per_s
    wide = "bf16" if "bf16" in peaks else "fp16" if "fp16" in peaks else "fp32"
    if weight_dtype in ("fp8", "int8"):
        return weight_dtype if weight_dtype in peaks else wide
    return "fp32" if weight_dtype == "fp32" else wide
