"""``specsim export``: one given configuration of a scenario as an engine's flags, or why the engine can not run it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specsim.cli.generate import DraftLen, Widths, tree_from
from specsim.cli.output import AsJson, print_json
from specsim.cli.tune import ScenarioName
from specsim.errors import InputError

if TYPE_CHECKING:
    from specsim.engines.plan import DraftPlan, Export
    from specsim.scenario import Deployment
    from specsim.tree import DraftTree

Engine = Annotated[
    str,
    typer.Option(
        help="vllm, sglang, tensorrt-llm, llama.cpp, transformers, lmdeploy, mlc-llm or aiconfigurator (a planner)."
    ),
]
Version = Annotated[
    str,
    typer.Option(help="The engine's version: options change their meaning between versions. llama.cpp: its commit."),
]
Schedule = Annotated[
    str | None,
    typer.Option(help="Draft length by batch size, as 1-8:4,9-32:2,33-256:0; the last one holds above its end too."),
]
Synthetic = Annotated[
    bool,
    typer.Option(
        "--synthetic", help="Make the engine accept drafts as predicted, to test the predicted speed with it."
    ),
]
Out = Annotated[Path | None, typer.Option(help="Folder to write the files of the export into; it must exist.")]


def export(
    scenario: ScenarioName,
    engine: Engine,
    version: Version,
    draft_len: DraftLen = None,
    widths: Widths = None,
    schedule: Schedule = None,
    synthetic: Synthetic = False,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Write a chain or a tree for an engine; what it can not express is refused with the reason and the nearest."""
    from specsim.engines.answer import EXPORTERS, draft_plan
    from specsim.engines.plan import UnexpressibleError
    from specsim.scenario import find_scenario, resolve

    if engine not in EXPORTERS:
        raise InputError("engine", f"must be {', '.join(EXPORTERS)}", engine)
    tiers = None if schedule is None else parse_schedule(schedule)
    if tiers is not None and draft_len is None and widths is None:
        draft_len = max(length for _, _, length in tiers)
    tree = tree_from(draft_len, widths)
    deployment = resolve(find_scenario(scenario))
    plan = draft_plan(deployment, tree)
    if tiers is not None:
        plan = _scheduled(plan, tiers)
    try:
        written = EXPORTERS[engine](plan, version, synthetic=synthetic)
    except UnexpressibleError as error:
        _refuse(deployment, plan, f"{engine} {version}", error, as_json)
        return
    if out is not None:
        save_files(written, out)
    if as_json:
        print_json("export", {"export": written})
    else:
        show_export(written)


def parse_schedule(text: str) -> tuple[tuple[int, int, int], ...]:
    """Tiers from text.

    >>> parse_schedule("1-8:4, 9-32:2")
    ((1, 8, 4), (9, 32, 2))
    """
    import re

    found = [re.fullmatch(r"\s*(\d{1,6})-(\d{1,6}):(\d{1,4})\s*", part) for part in text.split(",")]
    if not all(found):
        raise InputError("schedule", "must be first-last:draft_len, separated by commas", text)
    return tuple((int(one[1]), int(one[2]), int(one[3])) for one in found if one is not None)


def _scheduled(plan: DraftPlan, tiers: tuple[tuple[int, int, int], ...]) -> DraftPlan:
    from specsim.documents import parse
    from specsim.engines.plan import DraftPlan

    return parse(DraftPlan, plan.model_dump() | {"draft_len_by_batch": tiers}, "schedule")


def _refuse(deployment: Deployment, plan: DraftPlan, name: str, error: Any, as_json: bool) -> None:
    """Say why, what comes nearest, and what that gives up."""
    from specsim.engines.plan import describe
    from specsim.report import show

    loss = predicted_loss(deployment, plan, error.nearest)
    if as_json:
        print_json("export", {"infeasible": error.reason, "nearest": error.nearest, "predicted_loss": loss})
        return
    lost = "what it gives up was not predicted"
    if loss is not None:
        lost = f"gives up {loss:.1%} of the predicted rate" if loss >= 0 else f"predicted to be {-loss:.1%} faster"
    show(f"{name} can not express it: {error.reason}", f"nearest: {describe(error.nearest)}; {lost}")


def predicted_loss(deployment: Deployment, plan: DraftPlan, nearest: DraftPlan) -> float | None:
    """Share of the rate given up by the nearest plan, both predicted; with a schedule, the mean over its tiers' ends.

    None for a tree that grows at run time, for one that is wider or deeper than acceptance is known, and where no batch
    size of the schedule fits.
    """
    from specsim.engines.causes import at_batch
    from specsim.errors import InfeasibleError
    from specsim.estimate import predict

    tiers = plan.draft_len_by_batch or nearest.draft_len_by_batch
    batches = [deployment.scenario.workload.batch] if tiers is None else sorted({b for tier in tiers for b in tier[:2]})
    losses = []
    for batch in batches:
        wanted, got = _shape_at(plan, batch), _shape_at(nearest, batch)
        if wanted is None or got is None:
            return None
        try:
            there = at_batch(deployment, batch)
            losses.append(1 - predict(there, got).tokens_per_s / predict(there, wanted).tokens_per_s)
        except InfeasibleError:
            continue
        except InputError:
            return None
    return sum(losses) / len(losses) if losses else None


def _shape_at(plan: DraftPlan, batch: int) -> DraftTree | None:
    """What the plan drafts at a batch size; None for a tree that grows at run time. Its last tier goes on."""
    from specsim.tree import DraftTree

    if plan.draft_len_by_batch is not None:
        lengths = [length for start, _, length in plan.draft_len_by_batch if start <= batch]
        return DraftTree.chain(lengths[-1])
    shape = plan.tree()
    return shape if isinstance(shape, DraftTree) else None


def save_files(written: Export, out: Path) -> None:
    """Write the files that the command names, all of them or, where one is there already, none."""
    if not out.is_dir():
        raise InputError("out", "must be a folder that exists", str(out))
    taken = [name for name in written.files if (out / name).exists()]
    if taken:
        raise InputError("out", "must not hold the file already", str(out / taken[0]))
    for name, text in written.files.items():
        try:
            (out / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError("out", f"can not be written ({error.strerror or error})", str(out / name)) from None


def show_export(written: Export) -> None:
    """The command with its environment, its notes and its files."""
    from specsim.report import show

    env = "".join(f"{name}={value} " for name, value in written.env.items())
    show(env + written.command, *(f"note: {note}" for note in written.notes))
    for name, text in written.files.items():
        show(f"{name}:", text)
