"""What a datasheet does not say: efficiencies, latencies and host time, each with its spread and its source."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from pydantic import Field

from specsim.documents import Document
from specsim.hardware import HardwareProfile
from specsim.work import BOUNDS, Float

Runtime = Literal["graph", "eager"]


class Spread(Document):
    """A positive number and the standard deviation of its logarithm (0.1 is about ten percent)."""

    value: float = Field(gt=0)
    log_sd: float = Field(ge=0, lt=2)
    source: str = Field(min_length=12)


class CostParams(Document):
    """Efficiencies of a device and host times of a runtime.

    ``mem_efficiency`` and ``compute_efficiency`` multiply the datasheet's bandwidth and peak; ``launch_s`` is paid per
    kernel, ``allreduce_s`` per all-reduce on top of its bytes over ``link_efficiency`` of the link. The host pays
    ``step_s`` per engine step, ``round_s`` more per speculative round, ``draft_s`` per draft pass; an eager runtime
    also needs ``layer_s`` of host time per layer, and the device waits when that is longer than its own work.
    """

    mem_efficiency: Spread
    compute_efficiency: Spread
    launch_s: Spread
    allreduce_s: Spread
    link_efficiency: Spread
    step_s: Spread
    round_s: Spread
    draft_s: Spread
    layer_s: Spread | None = None

    @property
    def log_sd(self) -> Float:
        """Standard deviation of the log of each shared multiplier, in the order of ``BOUNDS``."""
        spreads = {
            "memory": self.mem_efficiency,
            "compute": self.compute_efficiency,
            "launch": self.launch_s,
            "link": self.allreduce_s,
            "host": self.layer_s or self.step_s,
        }
        return np.array([spreads[name].log_sd if name in spreads else 0.0 for name in BOUNDS])


_GEMM_FITS: Final = "fits of GEMM tables, aiconfigurator data @095f58a (Apache-2.0)"
_WHOLE_FORWARD: Final = (
    "8B forward on GH200, vLLM: 26 us per token from 1024 to 2048 tokens, 15.7 us of FLOPs at peak (Apertus study "
    "@db3d356); full tiles of single products reach .84-.95"
)
_MEM_EFFICIENCY: Final = {"a100": 0.74, "h100": 0.87, "h200": 0.83}
_GRAPH_STEP: Final = (
    "vLLM on GH200, 8B: step 5.79 ms, forward alone 5.33 ms (Apertus speculative-decoding study @db3d356)"
)
_HF: Final = (
    "HF-eager steps on A100: 18.4-21.4 ms for 32 layers, 25.4-27.9 for 40; H100: 15.8 for 32 (Spec-Bench, Medusa)"
)


def transferred_params(hardware: HardwareProfile, runtime: Runtime) -> CostParams:
    """Parameters for a device without a fit: those of its kin where known, else a middle with a wider spread."""
    known = next((e for kin, e in _MEM_EFFICIENCY.items() if hardware.name.lower().startswith(kin)), None)
    memory = Spread(
        value=known or 0.80,
        log_sd=0.06 if known else 0.12,
        source=_GEMM_FITS if known else f"middle of A100 .74, H200 .83, H100 .87, RTX PRO 6000 .92: {_GEMM_FITS}",
    )
    compute = Spread(value=0.60, log_sd=0.25, source=_WHOLE_FORWARD)
    nvlink = hardware.link_bw_bytes_per_s is not None and hardware.link_bw_bytes_per_s.value > 100e9
    allreduce = Spread(
        value=6e-6 if nvlink else 25e-6,
        log_sd=0.4,
        source="custom all-reduce in a graph, 8 kB: 2.6-6.5 us over NVLink, 25-27 us over PCIe with 8 GPUs; same data",
    )
    return CostParams(
        mem_efficiency=memory,
        compute_efficiency=compute,
        launch_s=Spread(value=hardware.launch_overhead_s.value, log_sd=0.25, source="launch overhead of the profile"),
        allreduce_s=allreduce,
        link_efficiency=Spread(value=0.75, log_sd=0.15, source="8 MB over 8 x H100: 51-63 us against 33 us of bytes"),
        **host_params(runtime),
    )


def host_params(runtime: Runtime) -> dict[str, Spread]:
    """Host times of a runtime, by the names of ``CostParams``."""
    if runtime == "graph":
        return {
            "step_s": Spread(value=0.40e-3, log_sd=0.5, source=_GRAPH_STEP),
            "round_s": Spread(
                value=0.30e-3, log_sd=0.6, source="EAGLE-3 rounds: 0.1 ms (vLLM, GH200) to 0.6 ms (SGLang)"
            ),
            "draft_s": Spread(
                value=0.10e-3,
                log_sd=0.7,
                source="EAGLE-3 draft step less its operations: 0.36 ms of which 0.27 are the head's (SGLang, H200, "
                "SpecBundle chains of 3 to 7)",
            ),
        }
    return {
        "step_s": Spread(value=0.5e-3, log_sd=0.5, source=_HF),
        "round_s": Spread(
            value=2.0e-3,
            log_sd=0.6,
            source="host glue of 1.7 ms (chain) to 3.6 ms (tree) per round, ai-dynamo/aisimulate materialize.py",
        ),
        "draft_s": Spread(value=1.0e-3, log_sd=0.5, source="a 68M draft of 2 layers costs about 2.2 ms a token in HF"),
        "layer_s": Spread(value=0.55e-3, log_sd=0.25, source=_HF),
    }
