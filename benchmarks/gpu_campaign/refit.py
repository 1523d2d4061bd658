"""Fit what a campaign measured: a hardware profile, and fits with their errors on shapes that were left out.

    python benchmarks/gpu_campaign/refit.py DIR

writes ``<device>.toml``, ``<device>.fit.json`` and ``refit.json`` into DIR. The fits are ``specsim.calibrate``'s; their
parameters stand relative to the profile's peaks, which are a bundled datasheet's where there is one.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    _HERE = Path(__file__).resolve().parent
    sys.path[:0] = [str(_HERE.parent), str(_HERE.parents[1])]

import numpy as np

from gpu_campaign.campaign import write_tables
from specsim.calibrate.allreduce import RING
from specsim.calibrate.attention import RANGED, decode_forms, impossible, with_heads
from specsim.calibrate.elementwise import BOUNDS as BYTE_BOUNDS
from specsim.calibrate.elementwise import OPS
from specsim.calibrate.frame import Form, fit_kernel
from specsim.calibrate.gemm import Rows
from specsim.calibrate.gemm_fits import NUM_FOLDS, Group, fit_group
from specsim.calibrate.operators import Table, groups, save_operator_fits, select, split_unseen
from specsim.cli.calibrate import profile_as_toml
from specsim.cost.fits import OperatorFit, profile_name
from specsim.cost.operators.allreduce import AllReduceParams, allreduce_time_s
from specsim.cost.operators.attention import DecodeParams, decode_time_s, decode_variant
from specsim.cost.operators.elementwise import ElementwiseParams, elementwise_time_s, moved_bytes
from specsim.documents import parse
from specsim.errors import InputError
from specsim.hardware import HardwareProfile, hardware_names, load_hardware

SOURCE = "measured by benchmarks/gpu_campaign"
FAMILIES = {"sdpa_flash": "fa2", "sdpa_cudnn": "fa3", "sdpa_efficient": "triton", "sdpa_math": "triton"}
LEAST_ROWS = 24
PEAKS = ("fp32", "tf32", "bf16", "fp16", "fp8", "int8")


def refit(folder: Path) -> list[str]:
    """Profile and fits of the tables in a folder; a line for each, also for those that could not be made."""
    write_tables(folder)
    machine = json.loads((folder / "machine.json").read_text())
    lines, kept = [], []
    fields = profile_fields(folder, machine)
    device = parse(HardwareProfile, fields, "profile")
    (folder / f"{device.name}.toml").write_text(profile_as_toml(fields))
    for name, make in _fits(folder, device):
        try:
            fit = make()
        except (InputError, ValueError, IndexError, KeyError, np.linalg.LinAlgError) as error:
            lines.append(f"{name}: not fitted ({type(error).__name__}: {error})")
            continue
        fit = fit.model_copy(update={"source": SOURCE, "date": date.today().isoformat()})
        kept.append(fit)
        judged = fit.heldout
        errors = (
            f"unseen shapes: mape {judged.mape:.3f}, coverage {judged.coverage_90:.2f}" if judged else "none unseen"
        )
        lines.append(f"{name}: {fit.points} rows, {fit.variant}, {errors}")
    save_operator_fits(device.name, kept, folder)
    report = {fit.operator + " " + fit.dtype: fit.heldout.model_dump() if fit.heldout else None for fit in kept}
    (folder / "refit.json").write_text(json.dumps({"device": device.name, "lines": lines, "heldout": report}, indent=1))
    return [f"profile: {device.name}.toml", *lines]


def _fits(folder: Path, device: HardwareProfile) -> Iterator[tuple[str, Callable[[], OperatorFit]]]:
    for (engine, version, dtype), rows in _cut(folder / "gemm.csv", ("engine", "version", "dtype")):
        yield f"gemm {dtype}", _lazily(fit_gemm_rows, rows, device, engine, version, dtype)
    attention = _joined(folder / "attention_decode.csv", folder / "attention_verify.csv")
    for (engine, version, kernel, dtype), rows in attention:
        family = FAMILIES.get(kernel, "triton")
        variants = decode_variant(family, dtype, rows, device.num_sms.value)
        for variant in np.unique(variants):
            part = select(rows, variants == variant)
            name = f"attention_decode {family} {variant}"
            yield name, _lazily(fit_attention, part, device, family, str(variant), engine, version, dtype)
    for (engine, version, op, dtype), rows in _cut(folder / "layer_ops.csv", ("engine", "version", "op", "dtype")):
        if op in OPS:
            yield f"elementwise {op}", _lazily(fit_elementwise, rows, device, op, engine, version, dtype)
    for (version, kernel, dtype), rows in _cut(folder / "allreduce.csv", ("version", "kernel", "dtype")):
        yield f"allreduce {kernel}", _lazily(fit_allreduce, rows, device, kernel, version, dtype)


def _lazily(function: Callable[..., OperatorFit], *arguments: Any) -> Callable[[], OperatorFit]:
    return lambda: function(*arguments)


def fit_gemm_rows(rows: Table, device: HardwareProfile, engine: str, version: str, dtype: str) -> OperatorFit:
    """Dense layers; whole values of n and k are left out in turn."""
    _check_rows(rows)
    masks = [split_unseen(rows, ("n", "k"), fold) for fold in range(40)]
    useful = [mask for mask in masks if 0.05 < mask.mean() < 0.5][:NUM_FOLDS]
    if len(useful) < 2:
        raise InputError("gemm", "must have enough values of n and k to leave some out twice", len(useful))
    return fit_group(Group(device.name, engine, version, dtype, Rows(rows, device), tuple(useful), SOURCE))[0]


def fit_attention(
    rows: Table, device: HardwareProfile, family: str, variant: str, engine: str, version: str, dtype: str
) -> OperatorFit:
    """Decode and verification of one kernel together, caches rotated; how it splits several tokens' keys is tried."""
    rows = select(rows, rows["calls"] > 1)
    rows = with_heads(select(rows, ~impossible(rows, device, dtype)))
    _check_rows(rows)

    def times(rows: Table, params: Mapping[str, float]) -> Any:
        return decode_time_s(rows, device, dtype, DecodeParams(**params), resident=False)

    several = bool(np.any(rows["q_len"] > 1))
    ways = [{"verify_splits": s, "verify_packed": p} for s, p in product((0.0, 1.0), (0.0, 1.0))] if several else [{}]
    usual = decode_forms(device, dtype, family, variant)
    forms = [Form(form.bounds, {**form.held, **way}, times) for form in usual for way in ways]
    operator = f"attention_decode {family} {variant}"
    names = {"gpu": device.name, "operator": operator, "engine": engine, "version": version, "dtype": dtype}
    return fit_kernel(forms, rows, ("heads",), RANGED, **names, variant=variant).fit


def fit_elementwise(
    rows: Table, device: HardwareProfile, op: str, engine: str, version: str, dtype: str
) -> OperatorFit:
    """One operation that moves bytes; whole models are left out in turn."""
    _check_rows(rows)
    columns = {**rows, "bytes": moved_bytes(op, rows)}

    def times(rows: Table, params: Mapping[str, float]) -> Any:
        return elementwise_time_s(rows, device, ElementwiseParams(**params))

    names = {"gpu": device.name, "operator": f"elementwise {op}", "engine": engine, "version": version, "dtype": dtype}
    return fit_kernel([Form(BYTE_BOUNDS, {}, times)], columns, ("model",), ("bytes",), **names, variant=op).fit


def fit_allreduce(rows: Table, device: HardwareProfile, kernel: str, version: str, dtype: str) -> OperatorFit:
    """The library's all-reduce; message sizes are left out in turn."""
    _check_rows(rows)

    def times(rows: Table, params: Mapping[str, float]) -> Any:
        return allreduce_time_s(rows, device, AllReduceParams(**params))

    names = {
        "gpu": device.name,
        "operator": f"allreduce {kernel}",
        "engine": "nccl",
        "version": version,
        "dtype": dtype,
    }
    form = Form(RING, {"limit_bytes": 0.0}, times)
    return fit_kernel([form], rows, ("bytes",), ("bytes", "n_gpus"), **names, variant=kernel).fit


def _check_rows(rows: Table) -> None:
    if len(rows["latency_us"]) < LEAST_ROWS:
        raise InputError("rows", f"must be at least {LEAST_ROWS}", len(rows["latency_us"]))


def read_csv(path: Path) -> dict[str, Any]:
    """Columns of a table of the campaign: numbers as float64, true and false as bool, the rest as words."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: _column([row[name] for row in rows]) for name in rows[0]} if rows else {}


def _column(words: list[str]) -> Any:
    if set(words) <= {"true", "false"}:
        return np.array([word == "true" for word in words])
    try:
        return np.array([float(word) if word else np.nan for word in words])
    except ValueError:
        return np.array(words)


def _cut(path: Path, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    if path.is_file() and (table := read_csv(path)):
        yield from groups({**table, "version": table["version"].astype(str)}, keys).items()


def _joined(*paths: Path) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    tables = [table for path in paths if path.is_file() and (table := read_csv(path))]
    if tables:
        shared = [name for name in tables[0] if all(name in table for table in tables)]
        whole = {name: np.concatenate([table[name] for table in tables]) for name in shared}
        keys = ("engine", "version", "kernel", "kv_dtype")
        yield from groups({**whole, "version": whole["version"].astype(str)}, keys).items()


def profile_fields(folder: Path, machine: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a ``HardwareProfile``: a bundled datasheet's with what was read here, or all of it measured."""
    name = profile_name(machine["gpu"])
    here = f"{SOURCE} on {machine['device']}, torch {machine['torch']}, {date.today().isoformat()}"
    read = {
        "num_sms": machine.get("num_sms"),
        "l2_bytes": machine.get("l2_bytes"),
        "mem_bytes": machine.get("mem_bytes"),
        "launch_overhead_s": launch_s(folder),
    }
    seen = {field: _figure(value) for field, value in read.items() if value}
    if name in hardware_names():
        known = load_hardware(name).model_dump(exclude_none=True)
        return {**known, **seen, "sources": {**known["sources"], "campaign": here}}
    return {**_measured(folder, machine, name), **seen, "sources": {"campaign": here}}


def _measured(folder: Path, machine: Mapping[str, Any], name: str) -> dict[str, Any]:
    clock = _number(machine.get("driver", {}).get("clocks.max.sm"), 1e6)
    guess = "an assumption: the device did not say"
    bandwidth = best(folder / "bandwidth.csv", "bytes_per_s", {"op": "copy", "resident": "false"})
    return {
        "name": name,
        "vendor": "unknown" if machine["device"].startswith("cpu") else "NVIDIA",
        "arch": machine.get("arch", "other"),
        "form": "unknown",
        "kind": kind_of(machine["device"]),
        "note": "No datasheet: peaks and bandwidth are what plain products and copies reached.",
        "unified_memory": kind_of(machine["device"]) in ("edge", "cpu"),
        "mem_bytes": {"value": 1e9, "source": guess, "kind": "assumed"},
        "l2_bytes": {"value": 4e6, "source": guess, "kind": "assumed"},
        "num_sms": {"value": 1.0, "source": guess, "kind": "assumed"},
        "clock_hz": {"value": 1.5e9, "source": guess, "kind": "assumed"} if clock is None else _figure(clock),
        "launch_overhead_s": {"value": 2.5e-6, "source": guess, "kind": "assumed"},
        "mem_bw_bytes_per_s": _figure(bandwidth),
        "peak_flops_per_s": {dtype: _figure(rate) for dtype, rate in peaks(folder, bandwidth).items()},
    }


def peaks(folder: Path, bandwidth: float) -> dict[str, float]:
    """Best rate by dtype; one that came out slower than a wider one, or below a FLOP a byte, is left out."""
    found: dict[str, float] = {}
    for dtype in PEAKS:
        rate = best(folder / "peak.csv", "flops_per_s", {"dtype": dtype})
        wider = {"fp16": ("tf32",), "int8": ()}.get(dtype, tuple(d for d in found if d != "int8"))
        if rate >= max([bandwidth, *(found[d] for d in wider if d in found)]):
            found[dtype] = rate
    if not found:
        raise InputError("peak", "must have been measured in some dtype", "none")
    return found


def best(path: Path, column: str, wanted: Mapping[str, str]) -> float:
    """The largest value of a column among the rows with these words; 0 without any."""
    if not path.is_file():
        return 0.0
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if all(row[name] == word for name, word in wanted.items())]
    return max((float(row[column]) for row in rows), default=0.0)


def launch_s(folder: Path) -> float:
    """Seconds of a kernel of a long chain in a graph; 0 where none was measured in a graph."""
    path = folder / "launch.csv"
    if not path.is_file():
        return 0.0
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["op"] == "kernel_chain" and row["cuda_graph"] == "true"]
    rows.sort(key=lambda row: float(row["num_kernels"]))
    return float(rows[-1]["per_kernel_us"]) * 1e-6 if rows else 0.0


def kind_of(device: str) -> str:
    """A guess from the name.

    >>> kind_of("NVIDIA GeForce RTX 4090"), kind_of("NVIDIA H200")
    ('consumer', 'datacenter')
    """
    for word, kind in (
        ("cpu", "cpu"),
        ("GeForce", "consumer"),
        ("Orin", "edge"),
        ("Thor", "edge"),
        ("RTX", "workstation"),
    ):
        if word in device:
            return kind
    return "datacenter"


def _number(word: str | None, unit: float) -> float | None:
    """What the driver printed; None where it printed no number."""
    try:
        return float(word or "") * unit
    except ValueError:
        return None


def _figure(value: float) -> dict[str, Any]:
    return {"value": float(value), "source": "campaign", "kind": "measured"}


if __name__ == "__main__":
    print(*refit(Path(sys.argv[1])), sep="\n")
