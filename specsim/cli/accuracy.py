"""``specsim accuracy``: how far predictions are from measurements, anyone's or those that the fits were made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from specsim.cli.output import AsJson, print_json
from specsim.errors import InputError


def accuracy(
    table: Annotated[Path | None, typer.Option(help="A CSV or Parquet table of measured operators.")] = None,
    fit: Annotated[Path | None, typer.Option(help="A .fit.json to go before the bundled fits of its device.")] = None,
    op: Annotated[str, typer.Option(help="What the table holds, where its columns do not say.")] = "",
    anchor: Annotated[
        Path | None, typer.Option(help="Measured points that whole passes of the same device and model start from.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Without --table: the folder of all measurements.")] = None,
    out: Annotated[Path, typer.Option(help="Without --table: the page to write; plots in images/ beside.")] = Path(
        "docs/accuracy.md"
    ),
    as_json: AsJson = False,
) -> None:
    """Predict every row of a table and say how far off; without one, write the accuracy page from the measurements.

    Errors are of single operators as benchmarks time them, of whole passes, or of served models. Rows that nothing
    predicts are counted under refused, those faster than the datasheet allows under impossible; neither is in errors.

    JSON: table, operators, rows, mape, median_ape, p90_ape, bias, coverage_90, groups{gpu, engine, dtype}{name},
    refused of rows and reasons, impossible of rows, by_gpu and mape_with_them, assumed; all errors are fractions.
    Served models are judged on time per output token; time to the first is under ttft, same names. Of whole passes,
    modes counts rows predicted from the datasheet and from a point of --anchor; without one, one_point has the errors
    (and mape_from_datasheet) of all rows but one of each device, engine, model and weights, that one measured.
    Without a table: page, plots, rows[].
    """
    if table is None:
        _page(data, out, as_json)
        return
    answer = _judged(table, op, fit, anchor)
    if as_json:
        print_json("accuracy", answer)
    else:
        _show(answer)


def _judged(path: Path, op: str, fit: Path | None, anchor: Path | None) -> dict[str, Any]:
    from specsim.calibrate.accuracy import judge, report, report_beside
    from specsim.calibrate.tables import load_measured
    from specsim.cost.fits import read_fit

    measured = load_measured(path, op)
    points = load_measured(anchor, "forward_consumer_edge").rows if anchor else None
    operators = sorted(set(measured.operator.tolist()))
    return {
        "table": str(path),
        "operators": operators,
        **report(judge(measured, read_fit(fit) if fit else None, anchor=points)),
        **report_beside(measured, points),
        "assumed": measured.assumed,
    }


def _show(answer: dict[str, Any]) -> None:
    from specsim.report import show, table

    columns = ("group", "rows", "mean error", "median", "90 % below", "bias", "in 90 % interval")
    rows = [("all", *cells(answer))]
    rows += [(f"{by} {name}", *cells(found)) for by, group in answer["groups"].items() for name, found in group.items()]
    show(table(f"Predicted against {answer['table']}: {', '.join(answer['operators'])}", columns, rows))
    refused, impossible = answer["refused"], answer["impossible"]
    if refused["rows"]:
        show(f"Refused: {refused['rows']} rows.", *(f"  {num}: {why}" for why, num in refused["reasons"].items()))
    if impossible["rows"]:
        where = ", ".join(f"{gpu} {num}" for gpu, num in impossible["by_gpu"].items())
        show(
            f"Left out as faster than the datasheet allows: {impossible['rows']} rows ({where}); "
            f"mean error with them {percent(impossible['mape_with_them'])}."
        )
    if "ttft" in answer:
        first = [("time to first token", *cells(answer["ttft"]))]
        show(table("Beside time per output token", columns, first))
    if "modes" in answer:
        show("Predicted " + ", ".join(f"{num} rows from {_MODES[mode]}" for mode, num in answer["modes"].items()) + ".")
    if "one_point" in answer:
        one = answer["one_point"]
        what = f"with the row of fewest tokens of each device and model measured ({one['anchors']} rows)"
        show(table(f"The others, {what}", columns, [("one measured point", *cells(one))]))
    if answer["assumed"]:
        show("Assumed: " + ", ".join(f"{name} {value}" for name, value in answer["assumed"].items()) + ".")


_MODES = {"datasheet": "the datasheet alone", "one_point": "the datasheet and a measured point"}


def cells(found: dict[str, Any]) -> tuple[str, ...]:
    """Rows, errors, bias and coverage as people read them."""
    return (
        str(found["rows"]),
        *(percent(found[name]) for name in ("mape", "median_ape", "p90_ape")),
        "-" if found["bias"] is None else f"{100 * found['bias']:+.1f} %",
        percent(found["coverage_90"]),
    )


def percent(fraction: float | None) -> str:
    """A fraction as people read it.

    >>> percent(0.0704), percent(None)
    ('7.0 %', '-')
    """
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


def _page(data: Path | None, out: Path, as_json: bool) -> None:
    from specsim.cli.accuracy_page import write_page

    if data is None:
        raise InputError(
            "data", "must name the folder of the measurements: without --table the whole page is made anew"
        )
    found = write_page(data, out)
    if as_json:
        print_json("accuracy.page", found)
    else:
        typer.echo("\n".join([found["page"], *found["plots"]]))
