"""The accuracy page: errors of the bundled fits and of fits that had to guess, as Markdown with two plots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from specsim.cli import accuracy_words as words
from specsim.cli.accuracy import cells, percent
from specsim.errors import InputError

Row = dict[str, Any]
BF16_FLOOR: Final = 0.02
"""Mean absolute change of bf16 dense layers when the same engine is measured again: the measurements' README."""
OPERATORS: Final = ("gemm", "layer gemm", "attention_decode", "attention_prefill", "moe", "allreduce", "elementwise")
LEAST_ROWS: Final = 200
NUM_WORST: Final = 15
_COLUMNS: Final = ("rows", "mean", "median", "90 % below", "bias", "in 90 % interval")


def write_page(data: Path, out: Path) -> dict[str, Any]:
    """Make every error anew, write the page and its plots, and return their names with the rows behind them."""
    from specsim.calibrate.accuracy_rows import accuracy_rows
    from specsim.plots import check_plot_path

    images = out.parent / "images"
    try:
        images.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError("out", f"can not be made ({error.strerror})", str(out)) from None
    check_plot_path(images / "accuracy_operators.png")
    rows = accuracy_rows(data)
    plots = _draw(images, rows)
    out.write_text(page(rows), encoding="utf-8")
    return {"page": str(out), "plots": plots, "rows": rows}


def page(rows: Sequence[Row]) -> str:
    """The page as Markdown."""
    parts = [words.HEAD, _targets(rows)]
    parts += [
        "## Shapes never seen, on GPUs seen\n",
        _by_operator(rows, words.UNSEEN + words.CORRECTED),
        "",
        _grouped(rows, words.UNSEEN),
        "",
        _grouped(rows, words.CORRECTED),
    ]
    parts += ["\n## Worst groups, shapes never seen\n", _worst(rows)]
    parts += [words.GPU, _by_operator(rows, (words.UNSEEN_GPU, words.FROM_MEMORY)), ""]
    parts += [_grouped(rows, (words.UNSEEN_GPU,), ("gpu",)), words.TOKENS, _tokens(rows)]
    seen = _by_operator(rows, ("seen", "seen, corrected"))
    parts += ["\n## Shapes seen\n", seen, "", _grouped(rows, ("seen", "seen, corrected"))]
    parts += [words.SERVED, _served(rows)]
    parts += ["", words.FLOOR, _impossible(rows), words.MISSING]
    return "\n".join(parts)


def pick(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """Rows that have all these values; a tuple names several."""
    return [
        row
        for row in rows
        if all(row[key] in value if isinstance(value, tuple) else row[key] == value for key, value in wanted.items())
    ]


def _table(first: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    columns = (*first, *_COLUMNS)
    lines = [columns, ["---"] * len(first) + ["---:"] * len(_COLUMNS), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _by_operator(rows: Sequence[Row], splits: tuple[str, ...]) -> str:
    found = pick(rows, by="all", tokens=("all", "small"), split=splits)
    found.sort(key=lambda r: (OPERATORS.index(r["operator"]), r["split"], r["tokens"]))
    few = {"all": "", "small": ", m <= 512"}
    return _table(("operator", "split"), ((r["operator"] + few[r["tokens"]], r["split"], *cells(r)) for r in found))


def _grouped(rows: Sequence[Row], splits: tuple[str, ...], keys: tuple[str, ...] = ("gpu", "engine", "dtype")) -> str:
    found = pick(rows, split=splits, by=keys, tokens="all")
    found.sort(key=lambda r: (OPERATORS.index(r["operator"]), keys.index(r["by"]), r["group"], r["split"]))
    lines = (
        (r["operator"] + ", corrected" * ("corrected" in r["split"]), r["by"], r["group"], *cells(r)) for r in found
    )
    return _table(("operator", "by", "group"), lines)


def _served(rows: Sequence[Row]) -> str:
    """Served models by split; then those left out by engine, model, devices and clients; the last sorted as numbers."""
    found = [r for r in rows if r["split"] in words.SERVED_SPLITS and r["by"] == "all"]
    found.sort(key=lambda r: (r["operator"], words.SERVED_SPLITS.index(r["split"])))
    whole = _table(("what", "split"), ((r["operator"], r["split"], *cells(r)) for r in found))
    keys = ("gpu", "engine", "model", "tp", "clients")
    parts = pick(rows, split=words.SERVED_SPLITS[1], by=keys, operator=("serving, dense", "serving ttft, dense"))
    parts.sort(key=lambda r: (r["operator"], keys.index(r["by"]), _leading(r["group"]), r["group"]))
    return (
        whole
        + "\n\n"
        + _table(("what", "by", "group"), ((r["operator"], r["by"], r["group"], *cells(r)) for r in parts))
    )


def _leading(group: str) -> int:
    first = group.split(" ")[0]
    return int(first) if first.isdigit() else 0


def _tokens(rows: Sequence[Row]) -> str:
    found = [
        r
        for r in pick(rows, by="all")
        if r["tokens"] not in ("all", "small") and r["split"] in (*words.UNSEEN, *words.CORRECTED, "seen")
    ]
    found.sort(key=lambda r: (OPERATORS.index(r["operator"]), r["split"], int(r["tokens"].split("-")[0])))
    worst = min((r for r in found if r["rows"] >= LEAST_ROWS), key=lambda r: r["coverage_90"], default=None)
    told = _table(("operator", "split", "tokens"), ((r["operator"], r["split"], r["tokens"], *cells(r)) for r in found))
    if worst is None:
        return told
    where = f"{worst['operator']}, {worst['split']}, {worst['tokens']} tokens"
    return f"{told}\n\nLowest coverage: {where}, {percent(worst['coverage_90'])}."


def _worst(rows: Sequence[Row]) -> str:
    found = [r for r in pick(rows, split=words.UNSEEN, by="fit", tokens="all") if r["rows"] >= LEAST_ROWS]
    found.sort(key=lambda r: -r["mape"])
    worst = _table(("operator", "group"), ((r["operator"], r["group"], *cells(r)) for r in found[:NUM_WORST]))
    spread = sorted(found, key=lambda r: r["coverage_90"])
    within = sum(0.85 <= r["coverage_90"] <= 0.95 for r in found)
    return (
        f"{worst}\n\nIntervals cover 85 to 95 % in {within} of the {len(found)} groups of {LEAST_ROWS} rows or more; "
        f"worst: {spread[0]['operator']} {spread[0]['group']}, {percent(spread[0]['coverage_90'])}.\n"
    )


def _impossible(rows: Sequence[Row]) -> str:
    found = [r for r in pick(rows, split="seen", by="all", tokens="all") if r.get("impossible")]
    total = ", ".join(f"{r['operator']} {r['impossible']}" for r in found) or "none"
    return (
        f"Rows faster than the datasheet allows: {total}.\n"
        "Errors on shapes seen leave them out, and so do the fits of dense layers and decode attention. Other fits,\n"
        "and errors on what those left out, have them in.\n"
    )


def _targets(rows: Sequence[Row]) -> str:
    lines: list[Sequence[str]] = [("what", "target", "reached", ""), ("---",) * 4]
    for what, most, where in words.TARGETS:
        reached = pick(rows, **{"by": "all", "tokens": "all", **where})[0]["mape"]
        lines.append((what, f"{100 * most:g} %", f"{100 * reached:.3g} %", "met" if reached <= most else "missed"))
    for what, splits, least, most in words.COVERED:
        reached = _pooled_coverage(rows, splits)
        worst = min(pick(rows, split=splits, by="gpu", tokens="all"), key=lambda r: r["coverage_90"])
        told = f"{percent(reached)} (lowest {worst['operator']} on {worst['group']}: {percent(worst['coverage_90'])})"
        verdict = "met" if least <= reached <= most else "missed"
        lines.append((what, f"{100 * least:g} to {100 * most:g} %", told, verdict))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n\n" + words.ANALYTIC


def _pooled_coverage(rows: Sequence[Row], splits: tuple[str, ...]) -> float:
    found = pick(rows, split=splits, by="all", tokens="all")
    return float(sum(r["coverage_90"] * r["rows"] for r in found) / sum(r["rows"] for r in found))


def _draw(images: Path, rows: Sequence[Row]) -> list[str]:
    from specsim.plots.accuracy import plot_by_operator, plot_by_tokens

    splits = {
        "seen": ("seen",),
        "shapes never seen": words.UNSEEN,
        "the same, corrected": words.CORRECTED,
        "GPU never seen": (words.UNSEEN_GPU,),
    }
    found = {
        label: {
            r["operator"]: r
            for name in OPERATORS
            for r in pick(rows, operator=name, split=names, by="all", tokens="all")
        }
        for label, names in splits.items()
    }
    first, second = images / "accuracy_operators.png", images / "accuracy_tokens.png"
    plot_by_operator(first, found, BF16_FLOOR)
    dense = [
        r
        for r in pick(rows, operator="gemm", split="unseen shapes, corrected", by="gpu")
        if r["tokens"] not in ("all", "small")
    ]
    ranges = sorted({r["tokens"] for r in dense}, key=lambda text: int(text.split("-")[0]))
    lines = {
        gpu: [next((r["mape"] for r in dense if r["group"] == gpu and r["tokens"] == t), None) for t in ranges]
        for gpu in sorted({r["group"] for r in dense})
    }
    plot_by_tokens(second, ranges, lines, BF16_FLOOR)
    return [str(first), str(second)]
