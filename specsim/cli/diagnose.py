"""``specsim diagnose``: is what an engine shows expected, and why is it so?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from specsim.cli.observed import Before, DraftInUse, Files, observed_in
from specsim.cli.output import AsJson, print_json
from specsim.cli.tune import Batch, Context, ScenarioName

if TYPE_CHECKING:
    from specsim.engines.diagnose import Diagnosis, Quantity

Label = Annotated[
    str | None, typer.Option(help="Only what has this in its label, where a file holds several (a batch size, a line).")
]


def diagnose(
    scenario: ScenarioName,
    files: Files,
    before: Before = None,
    draft_len: DraftInUse = None,
    batch: Batch = None,
    context: Context = None,
    label: Label = None,
    as_json: AsJson = False,
) -> None:
    """Predicted against observed for a described deployment: is it expected, why, and what would do better."""
    from specsim.engines.diagnose import diagnose as answer
    from specsim.engines.imports import merged
    from specsim.errors import InputError
    from specsim.scenario import find_scenario

    asked = find_scenario(scenario)
    seen = [one for one in observed_in(files, before) if label is None or label in one.label]
    if not seen:
        raise InputError("label", "must be in a label of the file", label)
    found = answer(asked, merged(seen), draft_len=draft_len, batch=batch, context_tokens=context)
    if as_json:
        print_json("diagnose", as_answer(found))
    else:
        show_diagnosis(found)


def as_answer(found: Diagnosis) -> dict[str, Any]:
    """The JSON answer; ``gain`` and the speed-up's interval are relative rates."""
    better = found.better
    return {
        "verdict": found.verdict,
        "configuration": found.tree.label,
        "observed": found.observed,
        "quantities": [{**vars(q), "is_expected": q.is_expected} for q in found.quantities],
        "speedup": found.speedup[0],
        "speedup_90": found.speedup[1:],
        "break_even_tokens_per_round": found.break_even_tokens,
        "break_even_alpha": found.break_even_alpha,
        "causes": found.causes,
        "better": None
        if better is None
        else {
            "configuration": better.tree.label,
            "paths": better.tree.paths(),
            "gain": better.gain,
            "gain_90": (better.gain_low, better.gain_high),
        },
    }


def show_diagnosis(found: Diagnosis) -> None:
    """Tables for people."""
    from specsim.report import show, table

    show(found.verdict)
    rows = [(q.name, *_words(q)) for q in found.quantities]
    columns = ("", "predicted", "90 % interval", "observed", "expected?")
    show(table(f"{found.tree.label}: predicted against observed", columns, rows))
    if found.break_even_alpha is None:
        needs = f"{found.break_even_tokens:.2f} tokens per round, more than it can give"
    else:
        needs = f"{found.break_even_tokens:.2f} tokens per round: each token accepted at {found.break_even_alpha:.0%}"
    show(f"To pay at all, {found.tree.label} needs {needs}.")
    if found.causes:
        causes = [(c.name, f"{c.gain:+.0%}", c.why, c.cure) for c in found.causes]
        show(table("Causes, each taken away alone", ("cause", "gain without it", "figures", "what to change"), causes))
    if found.better is None:
        show("No configuration is predicted to do better.")
    else:
        b = found.better
        show(f"Better: {b.tree.label}, {b.gain:+.1%} ({b.gain_low:+.1%} to {b.gain_high:+.1%}).")
    for note in found.observed.notes:
        show(f"note: {note}")


def _words(q: Quantity) -> tuple[str, str, str, str]:
    from specsim.units import format_time

    def told(value: float) -> str:
        return format_time(value) if q.unit == "s" else f"{value:.3g}" if value < 1000 else f"{value:.0f}"

    answer = {None: "-", True: "yes", False: "no"}[q.is_expected]
    seen = "-" if q.observed is None else told(q.observed)
    return told(q.predicted), f"{told(q.low)} to {told(q.high)}", seen, answer
