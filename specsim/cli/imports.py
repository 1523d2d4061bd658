"""``specsim import``: what an engine wrote, as counts, and as the acceptance section of a scenario."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from specsim.cli.observed import Before, Files, observed_in
from specsim.cli.output import AsJson, print_json

if TYPE_CHECKING:
    from specsim.engines.imports import Observation


def imports(files: Files, before: Before = None, as_json: AsJson = False) -> None:
    """Read an engine's counters, logs or results; print the counts, and an [acceptance] section for a scenario."""
    from specsim.engines.imports import acceptance_of, merged
    from specsim.errors import InputError

    seen = observed_in(files, before)
    whole = merged(seen)
    try:
        profile = acceptance_of(seen)
    except InputError:
        profile = None  # times alone are worth reading too
    section = None if profile is None else acceptance_section(seen, [path.name for path in files])
    if as_json:
        known = None if profile is None else {"accept_prob": profile.accept_prob, "num_trials": profile.num_trials}
        print_json("import", {"observations": seen, "merged": whole, "profile": known, "acceptance": section})
    else:
        show_observations(seen, section)


def acceptance_section(seen: list[Observation], names: list[str]) -> dict[str, Any]:
    """The same as a scenario's file says it: every round of every request where known, else counts by position."""
    import numpy as np

    from specsim.acceptance.spread_fit import FAR
    from specsim.engines.imports import acceptance_of

    sources = ", ".join(sorted({one.source for one in seen}))
    rounds = [row for one in seen for row in one.accepted_per_round or ()]
    fixed = {d for one in seen for row in one.drafted_per_round or () for d in row}
    source = f"{sources}: {', '.join(names)}"
    if sum(len(row) > FAR for row in rounds) > 1 and len(fixed) <= 1:  # enough to see how requests differ
        return {"kind": "requests", "accepted": [list(row) for row in rounds], "source": source}
    profile = acceptance_of(seen)
    trials = np.asarray(profile.num_trials)
    return {
        "kind": "table",
        "accept_prob": [[round(float(value), 6)] for value in profile.accept_prob[:, 0]],
        "num_trials": [round(float(value), 1) for value in trials],
        "source": source,
    }


def show_observations(seen: list[Observation], section: dict[str, Any] | None) -> None:
    """A row per observation, then the section."""
    from specsim.report import show, table
    from specsim.units import format_time

    def told(value: float | None, form: str = "{:.4g}") -> str:
        return "-" if value is None else form.format(value)

    rows = [
        (
            one.label or one.source, told(one.num_drafts), told(one.tokens_per_round, "{:.2f}"),
            "-" if one.draft_len is None else str(one.draft_len), told(one.num_running),
            "-" if one.step_s is None else format_time(one.step_s), told(one.tokens_per_s),
        )
        for one in seen[:40]
    ]  # fmt: skip
    columns = ("observation", "rounds", "tokens/round", "draft length", "running", "step", "tokens/s")
    sources = ", ".join(sorted({one.source for one in seen}))
    more = f"and {len(seen) - 40} more" if len(seen) > 40 else ""
    show(table(sources, columns, rows, more))
    for note in dict.fromkeys(note for one in seen for note in one.notes):
        show(f"note: {note}")
    if section is None:
        show("No acceptance in it: times alone.")
        return
    show("\nFor a scenario's file:\n", "[acceptance]")
    for key, value in section.items():
        show(f"{key} = {json.dumps(value)}")
