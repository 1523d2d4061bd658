"""``specsim priors``: what publications say of acceptance where you have measured nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from specsim.cli.output import AsJson, print_json

if TYPE_CHECKING:
    from specsim.acceptance.priors import Prior

Method = Annotated[str | None, typer.Argument(help="How it drafts, for instance eagle3; left out, what is known.")]
Target = Annotated[str | None, typer.Option(help="The model; left out, any.")]
Task = Annotated[str | None, typer.Option(help="Kind of text or data set; left out, any.")]
Temperature = Annotated[float | None, typer.Option(help="From 0 to 1; needed with a method.")]
Draft = Annotated[str | None, typer.Option(help="The drafter's weights as published; left out, others.")]


def priors(
    method: Method = None,
    target: Target = None,
    task: Task = None,
    temperature: Temperature = None,
    draft: Draft = None,
    as_json: AsJson = False,
) -> None:
    """Published acceptance of a method, as a profile with an interval and the measurements nearest to the question."""
    from specsim.acceptance.priors import find_prior
    from specsim.errors import InputError

    if method is None:
        _list(as_json)
        return
    if temperature is None:
        raise InputError("temperature", "must be given: acceptance falls with it")
    found = find_prior(method, target=target, task=task, temperature=temperature, draft=draft)
    if as_json:
        print_json("priors", as_answer(found))
    else:
        _show(found)


def as_answer(found: Prior) -> dict[str, Any]:
    """The JSON answer; accepted tokens are without the bonus token."""
    profile, case = found.profile, found.case
    return {
        "method": case.method,
        "target": case.target,
        "task": case.task,
        "dataset": case.dataset,
        "temperature": case.temperature,
        "num_studies": found.num_studies,
        "accept_prob": profile.accept_prob,
        "task_sd": profile.task_sd,
        "source": profile.source,
        "chains": [_chain(found, length) for length in range(1, found.max_depth + 1)],
        "nearest": [fact.label for fact in found.nearest],
    }


def _chain(found: Prior, draft_len: int) -> dict[str, Any]:
    low, mean, high = found.accepted(draft_len)
    a_low, a_mid, a_high = found.alpha(draft_len)
    return {"draft_len": draft_len, "accepted": mean, "accepted_90": (low, high), "alpha": a_mid,
            "alpha_90": (a_low, a_high)}  # fmt: skip


def _show(found: Prior) -> None:
    from specsim.report import show, table

    case = found.case
    title = (
        f"{case.method} on {case.target or 'any target'}, {case.dataset or case.task or 'any task'}, "
        f"temperature {case.temperature:g}"
    )
    rows = [_chain(found, length) for length in range(1, found.max_depth + 1)]
    cells = [
        (row["draft_len"], f"{1 + row['accepted']:.2f}", "{:.2f} - {:.2f}".format(*(1 + x for x in row["accepted_90"])),
         f"{row['alpha']:.2f}", "{:.2f} - {:.2f}".format(*row["alpha_90"]))
        for row in rows
    ]  # fmt: skip
    columns = ("draft length", "tokens/round", "90 % interval", "alpha", "90 % interval")
    show(table(title, columns, cells, "The interval is for the mean of one more study, whose drafter is not known."))
    show("Nearest published:")
    for fact in found.nearest:
        show(f"* {fact.label}; {fact.source}")


def _list(as_json: bool) -> None:
    """Methods of the table, with what each was published for."""
    from specsim.acceptance.priors_table import facts
    from specsim.report import show, table

    known: list[dict[str, Any]] = []
    for method in sorted({fact.method for fact in facts()}):
        rows = [fact for fact in facts() if fact.method == method]
        usable = [fact for fact in rows if fact.alpha is not None and fact.temperature is not None]
        known.append({
            "method": method,
            "num_rows": len(rows),
            "num_studies": len({fact.study for fact in rows}),
            "as_profile": bool(usable),
            "families": sorted({fact.family for fact in rows}),
            "tasks": sorted({fact.task for fact in rows}),
            "temperatures": sorted({fact.temperature for fact in usable if fact.temperature is not None}),
        })  # fmt: skip
    if as_json:
        print_json("priors.list", {"methods": known})
        return
    cells = [
        (k["method"], k["num_rows"], k["num_studies"], "yes" if k["as_profile"] else "no", ", ".join(k["families"]),
         ", ".join(k["tasks"]), ", ".join(f"{t:g}" for t in k["temperatures"]))
        for k in known
    ]  # fmt: skip
    columns = ("method", "rows", "studies", "profile", "families", "tasks", "temperatures")
    show(table("Published acceptance", columns, cells))
