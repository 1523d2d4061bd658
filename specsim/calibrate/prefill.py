"""Fit prefill attention, kernel by kernel, and say how well head configurations that were left out are predicted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from specsim.calibrate.attention import RANGED, with_heads
from specsim.calibrate.frame import Form, Found, Sizes, fit_kernel
from specsim.calibrate.operators import Table, groups, read_table
from specsim.calibrate.transfer import both_reports
from specsim.cost.fits import profile_name
from specsim.cost.operators.attention import kernel_family
from specsim.cost.operators.prefill import PrefillParams, prefill_time_s
from specsim.hardware import HardwareProfile, hardware_names, load_hardware
from specsim.work import Float

SIZES: Final = Sizes(("batch", "q_len"), (64, 512, 4096, 16384, 65536))
BOUNDS: Final = {  # start, least, most
    "launch_s": (1e-5, 1e-6, 1e-4),
    "dim_exponent": (0.1, 1e-3, 1.5),
    "tensor_efficiency": (0.6, 0.02, 1.0),
    "dim_power": (1.0, 0.3, 3.0),
    "path_share": (1.0, 0.1, 10.0),
    "wave_s": (1e-6, 1e-9, 6e-5),
    "dram_efficiency": (0.6, 0.02, 1.0),
    "p_norm": (1.5, 1.0, 12.0),
    "seq_s": (1e-8, 1e-10, 1e-5),
}
TILINGS: Final = tuple(
    {"tile_rows": rows, "packed": packed, "small_tiles": small}
    for rows in (64.0, 128.0)
    for packed in (0.0, 1.0)
    for small in (0.0, 1.0)
)
"""Ways to cut query rows, tried for each kernel; the one with the least error on the rows that are fitted is kept."""


def fit_prefill(table: Table) -> Iterator[Found]:
    """Fit and errors on unseen head configurations of every kernel in a table of prefill attention."""
    keys = ("gpu", "engine", "version", "kernel", "dtype", "kv_dtype")
    for (gpu, engine, version, kernel, dtype, kv_dtype), rows in groups(with_heads(table), keys).items():
        if profile_name(gpu) not in hardware_names():
            continue
        device = load_hardware(profile_name(gpu))
        family = str(kernel_family(engine, device.arch, rows, kernel)[0])
        operator = f"attention_prefill {family}" + (" decode" if "decode" in kernel else "")
        stored = dtype if dtype == kv_dtype else f"{dtype}, {kv_dtype} cache"
        names = {"gpu": gpu, "operator": operator, "engine": engine, "version": version, "dtype": stored}
        forms = _forms(device, dtype, kv_dtype)
        yield fit_kernel(forms, rows, ("heads",), RANGED, SIZES, **names, variant=kernel)


def _forms(device: HardwareProfile, dtype: str, kv_dtype: str) -> list[Form]:
    def times(rows: Table, params: Mapping[str, float]) -> Float:
        return prefill_time_s(rows, device, dtype, PrefillParams(**params), kv_dtype, alone=True)

    return [Form(BOUNDS, tiling, times) for tiling in TILINGS]


def prefill_found(data_dir: Path) -> list[Found]:
    """All fits of the tables in ``data_dir``."""
    return list(fit_prefill(read_table(data_dir / "gpu_ops" / "attention_prefill.parquet")))


def prefill_heldout_report(data_dir: Path) -> list[dict[str, Any]]:
    """Fit everything anew; errors on head configurations left out, and on GPUs left out."""
    return both_reports(prefill_found(data_dir), "attention_prefill", "unseen head configurations")
