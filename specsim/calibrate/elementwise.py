"""Fit element-wise operations, kernel by kernel, and say how well models that were left out are predicted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from specsim.calibrate.frame import Form, Found, Sizes, fit_kernel
from specsim.calibrate.limits import is_impossible
from specsim.calibrate.operators import VIDUR_SOURCE, Table, groups, read_table, select
from specsim.calibrate.transfer import both_reports
from specsim.cost.fits import profile_name
from specsim.cost.operators.elementwise import ElementwiseParams, elementwise_time_s, moved_bytes
from specsim.hardware import load_hardware
from specsim.work import Float

BOUNDS: Final = {  # start, least, most
    "launch_s": (2e-6, 2e-7, 5e-5),
    "dram_efficiency": (0.8, 0.05, 1.0),
    "l2_speedup": (1.5, 1.0, 10.0),
    "l2_share": (0.5, 0.05, 2.0),
}
SIZES: Final = Sizes(("bytes",), (2.0**17, 2.0**20, 2.0**23, 2.0**26))
OPS: Final = ("add", "attn_rope", "emb", "input_layernorm", "mlp_act", "post_attention_layernorm")
KV_SHARE: Final = {
    "meta-llama/Llama-2-70b-hf": 1 / 8,
    "meta-llama/Meta-Llama-3-70B": 1 / 8,
    "codellama/CodeLlama-34b-Instruct-hf": 1 / 8,
    "Qwen/Qwen-72B": 1.0,
    "meta-llama/Llama-2-7b-hf": 1.0,
}
"""KV heads over query heads, from the models' configurations: the table does not carry it."""


def fit_elementwise(table: Table) -> Iterator[Found]:
    """Fit and errors on unseen models of every element-wise operation in a table of layer profiles."""
    for (gpu, op), rows in groups(table, ("gpu", "op")).items():
        if op not in OPS:
            continue
        device = load_hardware(profile_name(gpu))
        rows["kv_share"] = np.array([KV_SHARE.get(m, 1.0) for m in rows["model"].tolist()])
        rows["bytes"] = moved_bytes(op, rows)
        rows = select(rows, ~is_impossible("elementwise", rows, device, {"op": op}, rows["latency_us"] * 1e-6))

        def times(rows: Table, params: Mapping[str, float], device: Any = device) -> Float:
            return elementwise_time_s(rows, device, ElementwiseParams(**params))

        names = {"gpu": gpu, "operator": f"elementwise {op}", "engine": "vidur", "version": "2024", "dtype": "float16"}
        found = fit_kernel([Form(BOUNDS, {}, times)], rows, ("model",), ("bytes",), SIZES, **names, variant=op)
        yield replace(found, fit=found.fit.model_copy(update={"source": VIDUR_SOURCE}))


def elementwise_found(data_dir: Path) -> list[Found]:
    """All fits of the tables in ``data_dir``."""
    return list(fit_elementwise(read_table(data_dir / "gpu_ops" / "vidur_layer_ops.parquet")))


def elementwise_heldout_report(data_dir: Path) -> list[dict[str, Any]]:
    """Fit everything anew; errors on models left out, and on GPUs left out."""
    return both_reports(elementwise_found(data_dir), "elementwise", "unseen models")
