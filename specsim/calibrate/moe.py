"""Fit routed experts, kernel by kernel, and say how well models that were left out are predicted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from specsim.calibrate.frame import Form, Found, Sizes, fit_kernel
from specsim.calibrate.operators import Table, groups, read_table, with_family
from specsim.calibrate.transfer import both_reports
from specsim.cost.fits import profile_name
from specsim.cost.operators.moe import MoeParams, moe_time_s
from specsim.hardware import load_hardware
from specsim.work import Float

BOUNDS: Final = {  # start, least, most
    "launch_s": (2e-5, 2e-6, 2e-4),
    "token_s": (5e-9, 1e-11, 2e-7),
    "expert_s": (1e-8, 1e-10, 2e-7),
    "dram_efficiency": (0.85, 0.2, 1.0),
    "tensor_efficiency": (0.5, 0.05, 1.0),
    "tile_rows": (16.0, 1.0, 256.0),
    "act_traffic": (2.0, 0.02, 20.0),
    "reread": (0.1, 1e-3, 2.0),
    "p_norm": (2.5, 1.0, 12.0),
    "ramp_s": (3e-6, 1e-8, 6e-5),
    "spread": (1.0, 0.1, 20.0),
    "rank_skew": (0.1, 1e-3, 1.0),
}
SIZES: Final = Sizes(("num_tokens",), (16, 64, 256, 512))
RANGED: Final = ("num_tokens", "hidden", "inter", "topk", "n_experts", "tp", "ep")


def fit_moe(table: Table) -> Iterator[Found]:
    """Fit and errors on unseen models (hidden, inter, top k, experts) of every kernel in a table of experts."""
    table = _with_model(table)
    for (gpu, engine, version, kernel, dtype), rows in groups(
        table, ("gpu", "engine", "version", "kernel", "dtype")
    ).items():
        device = load_hardware(profile_name(gpu))

        def times(rows: Table, params: Mapping[str, float], device: Any = device, dtype: str = dtype) -> Float:
            return moe_time_s(rows, device, dtype, MoeParams(**params))

        rows["gated"] = is_gated(kernel, engine, version, rows)
        names = {"gpu": gpu, "operator": f"moe {kernel}", "engine": engine, "version": version, "dtype": dtype}
        yield fit_kernel([Form(BOUNDS, {}, times)], rows, ("model",), RANGED, SIZES, **names, variant=kernel)


def is_gated(kernel: str, engine: str, version: str, rows: Table) -> Float:
    """1 where an expert has three matrices, 0 where two; tables do not say, so names and times do.

    TensorRT-LLM names its ungated kernel. vLLM from 0.24 took the Nemotron-H shapes (top 22, or 2688 x 1856) ungated:
    their times are two thirds of what three matrices cost on every device; vLLM 0.14 and SGLang took them gated.
    """
    nemotron = (rows["topk"] == 22) | ((rows["hidden"] == 2688) & (rows["inter"] == 1856))
    old = engine != "vllm" or version.startswith("0.14")
    return np.where("nongated" in kernel, 0.0, np.where(nemotron & (not old), 0.0, 1.0))


def _with_model(table: Table) -> dict[str, NDArray[Any]]:
    return with_family(table, "model", ("hidden", "inter", "topk", "n_experts"))


def moe_found(data_dir: Path) -> list[Found]:
    """All fits of the tables in ``data_dir``."""
    return list(fit_moe(read_table(data_dir / "gpu_ops" / "moe.parquet")))


def moe_heldout_report(data_dir: Path) -> list[dict[str, Any]]:
    """Fit everything anew; errors on models left out, and on GPUs left out."""
    return both_reports(moe_found(data_dir), "moe", "unseen models")
