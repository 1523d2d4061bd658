"""``specsim methods``: every decoding method there is; measured, each beside what was predicted for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from specsim.cli.measure import Out, Seed, made_folder
from specsim.cli.output import AsJson, plain, print_json
from specsim.errors import InputError

if TYPE_CHECKING:
    from specsim.validate.methods import MethodRow

Measure = Annotated[bool, typer.Option("--measure", help="Run every method for real, and hold predictions against it.")]
Quick = Annotated[bool, typer.Option("--quick", help="Fewer prompts and tokens: a look at everything in a minute.")]
Prompts = Annotated[int | None, typer.Option(min=2, help="Prompts that are measured.")]
Tokens = Annotated[int | None, typer.Option(min=8, max=320, help="Tokens decoded per prompt and method.")]
Temperature = Annotated[
    list[float] | None, typer.Option(min=0.0, max=5.0, help="May be given several times; 0 and 1 where left out.")
]
FfnSize = Annotated[
    int | None, typer.Option(min=0, help="MLP width that the target is extended to with zeros; 0 leaves it as it is.")
]
Only = Annotated[list[str] | None, typer.Option(help="Names of methods; may be given several times.")]

USUAL: Final = {
    "prompts": 6, "tokens": 48, "record_prompts": 12, "record_tokens": 64, "time_prompts": 2,
}  # fmt: skip
QUICK: Final = {
    "prompts": 3, "tokens": 24, "record_prompts": 4, "record_tokens": 32, "time_prompts": 2,
}  # fmt: skip
"""How much is run. Acceptance is recorded on the narrow target, where a round takes a few milliseconds."""


def methods(
    measure: Measure = False,
    quick: Quick = False,
    prompts: Prompts = None,
    tokens: Tokens = None,
    temperature: Temperature = None,
    ffn_size: FfnSize = None,
    only: Only = None,
    out: Out = Path("results"),
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """List the decoding methods; with --measure, run each and show what was predicted from other prompts."""
    from specsim.cli.methods_view import listing, show_listing, show_measured

    temperatures = temperature or [0.0, 1.0]
    if not measure:
        for name, value in (("prompts", prompts), ("tokens", tokens), ("ffn-size", ffn_size), ("only", only)):
            if value is not None:
                raise InputError(name, "is for --measure alone", value)
        found = listing(temperatures)
        if as_json:
            print_json("methods", {"methods": found})
        else:
            show_listing(found)
        return
    given = {"prompts": prompts, "tokens": tokens}
    amounts = (QUICK if quick else USUAL) | {name: value for name, value in given.items() if value is not None}
    rows, facts = run_methods(out, amounts, temperatures, ffn_size, only or [], seed)
    if as_json:
        print_json("methods.measure", facts)
    else:
        show_measured(rows, facts)


def run_methods(
    out: Path,
    amounts: dict[str, int],
    temperatures: list[float],
    ffn_size: int | None = None,
    only: list[str] | None = None,
    seed: int = 0,
) -> tuple[list[MethodRow], dict[str, Any]]:
    """Record, predict, measure; rows and facts are also kept in the folder, records as they are made.

    What an interrupted run of the same settings left in the folder is not done again.
    """
    from dataclasses import asdict

    from specsim.cli.methods_measure import rows_at
    from specsim.cli.methods_resume import Journal
    from specsim.cli.methods_run import Plan
    from specsim.cli.methods_view import as_markdown, draw_measured, write_csv
    from specsim.executor.session import FFN_SIZE, device_name, load_average, versions
    from specsim.validate.methods import summary

    made_folder(out)
    width = FFN_SIZE if ffn_size is None else ffn_size or None
    settings = amounts | {"temperatures": temperatures, "ffn_size": width, "seed": seed}
    journal = Journal(out / "methods.unfinished.jsonl", settings | {"only": only or [], "versions": versions()})
    if journal.num_done:
        typer.echo(f"Going on in {out}: {journal.num_done} runs are there already.", err=True)
    (out / "methods.acceptance.jsonl").unlink(missing_ok=True)
    journal.save_records(out / "methods.jsonl")
    rows: list[MethodRow] = []
    has_all = True
    for number in temperatures:
        plan = Plan(temperature=number, seed=seed, out=out, ffn_size=width, journal=journal, **amounts)
        found, is_whole = rows_at(plan, only or [])
        rows, has_all = rows + found, has_all and is_whole
    if has_all:
        journal.finish()
    facts = {
        "settings": settings,
        "device": device_name("cpu"), "versions": {name: str(version) for name, version in versions().items()},
        "clock": "cpu", "load_average": load_average(),
        "summary": {f"{t:g}": asdict(summary(own)) for t in temperatures if (own := at(rows, t))},
        "rows": [asdict(row) for row in rows],
    }  # fmt: skip
    write_csv(rows, out / "methods.csv")
    (out / "methods.md").write_text(as_markdown(rows), encoding="utf-8")
    facts["plot"] = draw_measured(rows, out / "methods.png")
    (out / "methods.json").write_text(json.dumps(plain(facts), indent=1) + "\n")
    return rows, facts


def at(rows: list[MethodRow], temperature: float) -> list[MethodRow]:
    """The rows of one temperature."""
    return [row for row in rows if row.temperature == temperature]
