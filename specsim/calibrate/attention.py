"""Fit decode attention, kernel by kernel, and say how well head configurations that were left out are predicted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from specsim.calibrate.frame import Form, Found, Sizes, fit_kernel
from specsim.calibrate.operators import Table, groups, read_table, select, with_family
from specsim.cost.fits import profile_name
from specsim.cost.operators.attention import KV_BYTES, DecodeParams, decode_time_s, decode_variant, kernel_family
from specsim.hardware import HardwareProfile, hardware_names, load_hardware
from specsim.work import Float

BOUNDS: Final = {  # start, least, most
    "launch_s": (8e-6, 1e-6, 6e-5),
    "dim_exponent": (0.1, 1e-3, 1.5),
    "odd_dim_s": (1e-6, 1e-8, 3e-5),
    "start_row_s": (1e-9, 1e-11, 1e-6),
    "copy_s": (1e-6, 1e-8, 1e-5),
    "split_s": (1e-6, 1e-8, 3e-5),
    "split_log_s": (5e-7, 1e-9, 1e-5),
    "wave_s": (2e-6, 5e-8, 6e-5),
    "row_s": (5e-8, 1e-10, 3e-6),
    "block_s": (1e-7, 1e-10, 1e-5),
    "sm_bytes_per_clock": (20.0, 1.0, 300.0),
    "tensor_efficiency": (0.5, 0.003, 1.0),
    "dram_efficiency": (0.9, 0.3, 1.0),
    "l2_speedup": (2.0, 1.01, 12.0),
    "l2_share": (0.8, 0.1, 2.0),
    "p_norm": (3.0, 1.0, 12.0),
    "ramp_s": (3e-6, 1e-8, 4e-5),
    "seq_s": (1e-8, 1e-10, 1e-5),
}
_SPLIT: Final = tuple({"max_splits": n, "ctas_per_sm": c} for n in (8.0, 16.0, 32.0, 128.0) for c in (1.0, 2.0))
_NEVER: Final = {"max_splits": 1.0, "splits": 0.0}
_ALWAYS: Final = tuple({"max_splits": 8.0, "ctas_per_sm": c} for c in (4.0, 8.0))  # Triton splits by eight, free or not
RULES: Final[tuple[dict[str, float], ...]] = (*_SPLIT, *_ALWAYS, _NEVER)
"""Split rules tried for each kernel; the one with the least error on the rows that are fitted is kept."""

FAMILY_RULES: Final[Mapping[str, dict[str, float]]] = {
    # verify_splits, verify_packed: how several query tokens are handled, from the kernels' own sources
    "fa2": {"verify_splits": 0.0, "verify_packed": 0.0},
    "fa3": {},
    "fa4": {},
    "flashinfer": {"row_step": 16.0},
    "triton": {"verify_splits": 0.0},
    "trtllm": {"row_step": 16.0},
}


def decode_groups(table: Table) -> Iterator[tuple[str, str, str, str, str, str, dict[str, NDArray[Any]]]]:
    """Device, engine, version, cache dtype, kernel family, variant and its rows; devices without a profile skipped."""
    for (gpu, engine, version, kernel, dtype), rows in groups(
        table, ("gpu", "engine", "version", "kernel", "kv_dtype")
    ).items():
        if profile_name(gpu) not in hardware_names():
            continue
        device = load_hardware(profile_name(gpu))
        family = str(kernel_family(engine, device.arch, rows, kernel)[0])
        variants = decode_variant(family, dtype, rows, device.num_sms.value)
        for variant in np.unique(variants):
            yield gpu, engine, version, dtype, family, str(variant), select(rows, variants == variant)


def decode_forms(device: HardwareProfile, dtype: str, family: str, variant: str) -> list[Form]:
    """The forms tried for one kernel: the same formula under different split rules."""
    held = dict(FAMILY_RULES[family])
    if variant.startswith("mmha"):
        held["packed"] = 0.0
    if family == "flashinfer" and variant in ("mha", "narrow"):
        held["row_step"] = 1.0
    tiles = (64.0, 128.0) if variant == "wide" else (64.0,)

    def times(rows: Table, params: Mapping[str, float]) -> Float:
        return decode_time_s(rows, device, dtype, DecodeParams(**params), resident=True)

    return [Form(BOUNDS, {**held, **rule, "tile_rows": rows}, times) for rule in RULES for rows in tiles]


def fit_decode(table: Table) -> Iterator[Found]:
    """Fit and errors on unseen head configurations of every kernel in a table of decode attention."""
    for gpu, engine, version, dtype, family, variant, rows in decode_groups(with_heads(table)):
        device = load_hardware(profile_name(gpu))
        rows = select(rows, ~impossible(rows, device, dtype))
        forms = decode_forms(device, dtype, family, variant)
        operator = f"attention_decode {family} {variant}"
        names = {"gpu": gpu, "operator": operator, "engine": engine, "version": version, "dtype": dtype}
        yield fit_kernel(forms, rows, ("heads",), RANGED, SIZES, **names, variant=variant)


def impossible(table: Table, device: HardwareProfile, dtype: str) -> NDArray[np.bool_]:
    """Rows faster than the datasheet's bandwidth although their cache exceeds the whole L2."""
    keys = table["context"] + table["q_len"]
    num_bytes = 2 * table["batch"] * keys * table["n_kv_heads"] * table["head_dim"] * KV_BYTES[dtype]
    too_fast = num_bytes / device.mem_bw_bytes_per_s.value > 1.05 * table["latency_us"] * 1e-6
    return np.asarray(too_fast & (num_bytes > 1.5 * device.l2_bytes.value))


SIZES: Final = Sizes(("batch", "q_len"), (16, 64, 128, 256))
RANGED: Final = ("batch", "q_len", "context", "n_heads", "n_kv_heads", "head_dim")


def with_heads(table: Table) -> dict[str, NDArray[Any]]:
    """The table with its head configuration as one word: what is held out is whole configurations."""
    return with_family(table, "heads", ("n_heads", "n_kv_heads", "head_dim"))


def decode_found(data_dir: Path) -> list[Found]:
    """All fits of the tables in ``data_dir``."""
    return list(fit_decode(read_table(data_dir / "gpu_ops" / "attention_decode.parquet")))
