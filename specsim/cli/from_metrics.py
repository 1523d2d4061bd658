"""``specsim tune --from-metrics``: learn from the engine's own numbers, search again, write the new flags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specsim.cli.observed import observed_in
from specsim.cli.output import print_json
from specsim.errors import InputError

if TYPE_CHECKING:
    from specsim.engines.retune import Retuning
    from specsim.scenario import Scenario


def tune_from_metrics(
    scenario: Scenario,
    files: list[Path],
    before: Path | None,
    state: Path | None,
    draft_len: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Answer the command; ``out`` gets a file per engine, replaced only where the choice is a new one."""
    from specsim.engines.learn import LearnedState, fingerprint, load_state, save_state
    from specsim.engines.retune import retune

    if out is not None and not out.is_dir():
        raise InputError("out", "must be a folder that exists", str(out))
    if state is not None and not state.parent.is_dir():
        raise InputError("state", "must be in a folder that exists", str(state))
    known = LearnedState(scenario=scenario.name) if state is None else load_state(state, scenario.name)
    mark = fingerprint(*files, *([before] if before else []))
    found = retune(scenario, known, observed_in(files, before), mark, draft_len)
    if out is not None:
        _write(found, out)
    if state is not None and found.state != known:
        save_state(found.state, state)
    if as_json:
        print_json("tune.from_metrics", as_answer(found))
    else:
        show_retuning(found)


def as_answer(found: Retuning) -> dict[str, Any]:
    """The JSON answer."""
    return {
        "learned": found.told,
        "changed": found.changed,
        "draft_len": found.chosen.tree.num_drafted,
        "draft_len_before": found.before.tree.num_drafted,
        "speedup": found.chosen.speedup,
        "gain": found.gain,
        "gain_90": found.gain_90,
        "regret_removed": found.regret_removed,
        "time_factor": found.time_factor,
        "exports": found.exports,
        "state": found.state,
    }


def show_retuning(found: Retuning) -> None:
    """Lines for people, and for a log."""
    from specsim.cli.export import show_export
    from specsim.report import show

    show(f"{found.told}; acceptance: {found.acceptance_source}")
    low, high = found.gain_90
    if found.changed:
        show(
            f"change: {found.before.tree.label} to {found.chosen.tree.label}, "
            f"{found.gain:+.1%} ({low:+.1%} to {high:+.1%}); regret removed {found.regret_removed:.1%}"
        )
    else:
        show(
            f"keep: {found.chosen.tree.label}; the best alternative promises {found.best_gain:+.1%}, too little to move"
        )
    if found.time_factor is not None:
        show(f"steps take {found.time_factor:.2f} times what was predicted")
    for export in found.exports:
        show_export(export)


def _write(found: Retuning, out: Path) -> None:
    from specsim.engines.learn import replace_file

    for export in found.exports:
        path = out / f"{export.engine}.json"
        text = json.dumps(export.model_dump(), indent=2, sort_keys=True) + "\n"
        if not path.is_file() or path.read_bytes() != text.encode():
            replace_file(path, text, "out")
