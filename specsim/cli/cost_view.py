"""``specsim cost`` for people: its tables and its roofline."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from specsim.cli.cost_rows import Row
from specsim.cost.model import PassCost
from specsim.cost.roofline import math_dtype
from specsim.estimate import LEVEL
from specsim.plots.roofline import Ceiling, Series, plot_roofline
from specsim.report import show, table
from specsim.units import format_si, format_time

_COLUMNS = (
    "new tokens",
    "batch",
    "context",
    "time",
    f"{LEVEL:.0%} interval",
    "FLOPs",
    "bytes",
    "FLOP/B",
    "bound",
    "memory",
)


def show_tables(priced: PassCost, passes: list[Row], runtime: str) -> None:
    """A table per model, and one per pass where operations were asked for."""
    where = _devices(priced)
    for role, model in priced.models.items():
        rows = [_cells(row) for row in passes if row["role"] == role]
        note = "Counts per device; bound: the largest part of the time and its share; memory: weights and cache."
        show(table(f"{role}: {model.name} on {where}, {runtime}", _COLUMNS, rows, note))
    for row in passes:
        if "ops" in row:
            show(_ops_table(row))


def draw(path: Path, priced: PassCost, passes: list[Row]) -> None:
    """The roofline of the device in the target's arithmetic, with every pass on it."""
    ops, target = priced.ops, priced.models["target"]
    dtype = math_dtype(target.weight_dtype, ops.hardware)
    ceilings = [
        Ceiling(f"datasheet, {dtype}", ops.hardware.mem_bw_bytes_per_s.value, ops.hardware.peak(dtype)),
        Ceiling("reached by kernels", ops.mem_bw_bytes_per_s, ops.flops_per_s(target.weight_dtype)),
    ]
    series = []
    for role, model in priced.models.items():
        rows = [row for row in passes if row["role"] == role]
        intensity = [float(row["intensity_flops_per_byte"]) for row in rows]
        reached = [float(row["flops"] / row["time_s"]) for row in rows]
        labels = [_label(row) for row in rows]
        series.append(Series(f"{role} {model.name}", intensity, reached, labels))
    plot_roofline(path, f"Passes on {_devices(priced)}, labelled with tokens x sequences", ceilings, series)


def _cells(row: Row) -> tuple[object, ...]:
    share = row["by_bound_s"][row["bound"]] / row["time_s"]
    return (
        *(row["new_tokens"], row["batch"], row["context_tokens"], format_time(row["time_s"])),
        f"{format_time(row['time_low_s'])} to {format_time(row['time_high_s'])}",
        *(format_si(row["flops"], "FLOP"), format_si(row["bytes"], "B"), f"{row['intensity_flops_per_byte']:.3g}"),
        f"{row['bound']} {share:.0%}",
        format_si(row["memory_bytes"], "B") + ("" if row["fits"] else ", does not fit"),
    )


def _ops_table(row: Row) -> Table:
    title = f"{row['role']}: {row['new_tokens']} new tokens x {row['batch']}, context {row['context_tokens']}"
    rows = [
        (
            *(op["name"], op["runs"], format_time(op["time_s"]), f"{op['time_s'] / row['time_s']:.1%}"),
            *(format_si(op["flops"], "FLOP"), format_si(op["bytes"], "B"), op["bound"]),
        )
        for op in row["ops"]
    ]
    return table(title, ("operation", "runs", "time", "share", "FLOPs", "bytes", "bound"), rows)


def _label(row: Row) -> str:
    return str(row["new_tokens"]) if row["batch"] == 1 else f"{row['new_tokens']}x{row['batch']}"


def _devices(priced: PassCost) -> str:
    name = priced.ops.hardware.name
    return f"{priced.tp} x {name}" if priced.tp > 1 else name
