"""``specsim sweep``: one scenario with some answers varied over a grid, on all cores or a cluster."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specsim.cli.output import MAX_LIST, AsJson, print_json
from specsim.cli.tune import ScenarioName, three_digits
from specsim.errors import InputError

if TYPE_CHECKING:
    from specsim.search.sweep import Row

Vary = Annotated[list[str], typer.Option(help="NAME=VALUE,VALUE,..: an axis, such as batch=1,8,64 or alpha=0.6,0.8.")]
Sample = Annotated[int | None, typer.Option(min=1, help="So many cells of the grid, drawn at random; else all.")]
Seed = Annotated[int, typer.Option(min=0, help="Of that draw.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes; left out: one per core.")]
Dask = Annotated[str | None, typer.Option(help="Address of a Dask scheduler to send the work to.")]
Out = Annotated[Path | None, typer.Option(help="File of rows, one JSON object a line; an unfinished one goes on.")]
Top = Annotated[int, typer.Option(min=1, help="Rows to print.")]


def sweep(
    scenario: ScenarioName,
    vary: Vary,
    sample: Sample = None,
    seed: Seed = 0,
    workers: Workers = None,
    dask: Dask = None,
    out: Out = None,
    top: Top = 10,
    as_json: AsJson = False,
) -> None:
    """Tune every cell of a grid of scenarios: chains and static trees, each with its gap."""
    from specsim.scenario import find_scenario
    from specsim.search.sweep import identity, load_rows
    from specsim.search.sweep import sweep as swept

    axes = dict(_axis(text) for text in vary)
    asked = find_scenario(scenario)
    key = identity(asked, axes, sample, seed)
    rows = load_rows(out, key) if out and out.exists() else []
    found = swept(
        asked, axes, sample=sample, seed=seed, workers=workers, dask=dask,
        done=[row["cell"] for row in rows], progress=_progress,
    )  # fmt: skip
    rows = _kept(found, rows, out, key)
    if as_json:
        print_json("sweep", {"scenario": asked, "axes": axes, "sample": sample, "seed": seed, "rows": rows})
    else:
        show_rows(asked.name, rows, top)


def _axis(text: str) -> tuple[str, list[Any]]:
    """An axis from its text; values are numbers where they read as such.

    >>> _axis("batch=1,8"), _axis("hardware=h100-sxm, h200")
    (('batch', [1, 8]), ('hardware', ['h100-sxm', 'h200']))
    """
    name, equals, values = text.partition("=")
    if not equals or not name or not values:
        raise InputError("vary", "must be NAME=VALUE,VALUE,..", text)
    parts = [part.strip() for part in values.split(",")]
    if len(parts) > MAX_LIST:
        raise InputError("vary", f"must be at most {MAX_LIST} values", len(parts))
    return name.strip(), [_value(part) for part in parts]


def _value(text: str) -> Any:
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, int | float | bool) or found is None else text


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{done} of {total} cells" + ("\n" if done == total else ""))
        sys.stderr.flush()


def _kept(found: Any, rows: list[Row], out: Path | None, key: str) -> list[Row]:
    """All rows by cell; written as they come, so that a stopped sweep can go on, and in order at the end."""
    if out is None:
        return sorted([*rows, *found], key=lambda row: int(row["cell"]))
    try:
        _write(out, rows, key)
        with out.open("a", encoding="utf-8") as file:
            for row in found:
                rows.append(row)
                file.write(json.dumps(row) + "\n")
        rows.sort(key=lambda row: int(row["cell"]))
        _write(out, rows, key)
    except OSError as error:
        raise InputError("out", f"can not be written ({error.strerror or error})", str(out)) from None
    return rows


def _write(out: Path, rows: list[Row], key: str) -> None:
    """All rows at once: the file is either as before or as it shall be."""
    beside = out.with_name(out.name + ".part")
    lines = [json.dumps({"schema": "specsim.sweep.rows/1", "sweep": key}), *map(json.dumps, rows)]
    beside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(beside, out)


def show_rows(name: str, rows: list[Row], top: int) -> None:
    """The fastest rows over plain decoding, and how many there are of each kind."""
    from specsim.report import show, table

    answered = [row for row in rows if row["status"] != "infeasible"]
    best = sorted(answered, key=lambda row: -row["speedup"])[:top]
    columns = ("cell", "settings", "configuration", "speed-up", "tokens/s", "gap")
    shown = [
        (row["cell"], _said(row), row["configuration"], f"{row['speedup']:.2f}", three_digits(row["tokens_per_s"]),
         f"{row['gap']:.2%}")
        for row in best
    ]  # fmt: skip
    pays = sum(row["num_drafted"] > 0 for row in answered)
    dead = len(rows) - len(answered)
    note = f"{len(rows)} cells: drafting pays in {pays}, not in {len(answered) - pays}; {dead} can not run."
    show(table(f"{name}: the largest speed-ups", columns, shown, note))
    refused = next((row for row in rows if row["status"] == "infeasible"), None)
    if refused is not None:
        show(f"First that can not run ({_said(refused)}): {refused['reason']}")


def _said(row: Row) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row["settings"].items()
    )
