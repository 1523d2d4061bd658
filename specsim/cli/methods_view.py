"""Methods as tables, as Markdown, as CSV and as a picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specsim.cli.methods_notes import NOT_BUILT
from specsim.errors import InputError

if TYPE_CHECKING:
    from specsim.validate.methods import MethodRow


def listing(temperatures: Sequence[float]) -> list[dict[str, Any]]:
    """What there is, without running anything."""
    from specsim.decoding import RULES
    from specsim.methods.catalogue import catalogue
    from specsim.validate.methods import total_variation

    return [
        {
            "method": named.name, "temperature": temperature, "drafter": named.drafter, "policy": named.settings,
            "rule": named.rule, "lossless": named.lossless, "total_variation": total_variation(named.rule, named.draw),
            "knobs": RULES[named.rule].knobs | dict(named.knobs), "source": named.source,
        }
        for temperature in temperatures
        for named in catalogue(temperature)
    ]  # fmt: skip


def show_listing(found: Sequence[dict[str, Any]]) -> None:
    """Tables for people."""
    from specsim.report import show, table

    columns = ("method", "drafter", "policy", "rule", "lossless", "source")
    for temperature in dict.fromkeys(one["temperature"] for one in found):
        rows = [
            (one["method"], one["drafter"], one["policy"], rule_words(one["rule"], one["knobs"]),
             lossless_words(one["lossless"], one["total_variation"]), one["source"])
            for one in found if one["temperature"] == temperature
        ]  # fmt: skip
        show(table(f"Methods at temperature {temperature:g}", columns, rows))
    show("All run in the executor (specsim generate) and in the simulator; --measure runs them.", NOT_BUILT)


def rule_words(rule: str, knobs: dict[str, float]) -> str:
    """A rule with its knobs."""
    return " ".join([rule.replace("_", " "), *(f"{name} {value:g}" for name, value in knobs.items())])


def lossless_words(lossless: bool, total_variation: float) -> str:
    """Whether a rule is exact, or how far it is from it."""
    return "yes" if lossless else f"no, TV {total_variation:.2f}"


COLUMNS = ("method", "drafter", "lossless", "tokens/round", "predicted (90 %)", "simulated", "round ms", "predicted",
           "speed-up", "predicted")  # fmt: skip


def cells(row: MethodRow) -> tuple[str, ...]:
    """One row of the table."""
    low, high = row.tokens_interval
    exact = lossless_words(row.lossless, row.total_variation)
    return (
        row.name, row.drafter, "TEXT DIFFERS" if row.same_text is False else exact, f"{row.tokens_measured:.2f}",
        f"{row.tokens_predicted:.2f} ({low:.2f}-{high:.2f})", f"{row.tokens_simulated:.2f}",
        f"{1e3 * row.round_measured_s:.1f}", f"{1e3 * row.round_predicted_s:.1f}", f"{row.speedup_measured:.2f}",
        f"{row.speedup_predicted:.2f}",
    )  # fmt: skip


def show_measured(rows: Sequence[MethodRow], facts: dict[str, Any]) -> None:
    """Tables for people."""
    from specsim.report import show, table

    for temperature in dict.fromkeys(row.temperature for row in rows):
        own = [row for row in rows if row.temperature == temperature]
        title = f"Temperature {temperature:g} on {facts['device']}, processor time, load {facts['load_average']:.1f}"
        show(table(title, COLUMNS, [cells(row) for row in own]))
        show(*(f"{row.name}: {row.comment}." for row in own if row.comment), _errors(facts, temperature))
    show(NOT_BUILT, *([f"Plot: {facts['plot']}"] if facts["plot"] else []))


def _errors(facts: dict[str, Any], temperature: float) -> str:
    found = facts["summary"][f"{temperature:g}"]
    return (
        f"Mean error: tokens per round {found['tokens_error']:.1%}, round time {found['round_error']:.1%}, speed-up "
        f"{found['speedup_error']:.1%}; intervals held {found['coverage']:.0%}. Fastest lossless: {found['best']}."
    )


def as_markdown(rows: Sequence[MethodRow]) -> str:
    """A table for each temperature, and what compares with figures of the literature."""
    lines: list[str] = []
    for temperature in dict.fromkeys(row.temperature for row in rows):
        own = [row for row in rows if row.temperature == temperature]
        lines += [f"Temperature {temperature:g}:", "", "| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
        lines += ["| " + " | ".join(cells(row)) + " |" for row in own]
        lines += ["", *(f"* {row.name}: {row.comment}." for row in own if row.comment), ""]
    return "\n".join([*lines, NOT_BUILT]) + "\n"


def write_csv(rows: Sequence[MethodRow], path: Path) -> None:
    """All fields of all rows."""
    from specsim.validate.methods import MethodRow

    names = [field.name for field in fields(MethodRow)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_cell(getattr(row, name)) for name in names] for row in rows)


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        return " ".join(f"{key}={item:g}" for key, item in value.items())
    return f"{value[0]:.6g} {value[1]:.6g}" if isinstance(value, tuple) else value


def draw_measured(rows: Sequence[MethodRow], path: Path) -> str | None:
    """Draw where matplotlib is."""
    try:
        from specsim.plots.methods import plot_methods

        plot_methods(rows, path, "Every method on the shipped models: predicted from other prompts, and measured")
    except (ImportError, InputError):
        return None
    return str(path)
