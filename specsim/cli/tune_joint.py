"""``specsim tune-joint``: which drafter, on how many devices, in which format, and how much to draft."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from specsim.cli.output import AsJson, print_json, whole_numbers
from specsim.cli.tune import Context, Hardware, Plot, Price, ScenarioName, three_digits, what_if
from specsim.errors import InputError

if TYPE_CHECKING:
    from specsim.model import Dtype
    from specsim.search.joint import JointAnswer, Needs, Option

Gpus = Annotated[int, typer.Option("--devices", min=1, help="Devices in all, split into replicas.")]
InFlight = Annotated[str, typer.Option(help="Requests in flight on all devices; several with commas.")]
Candidates = Annotated[Path | None, typer.Option(help="TOML file of further drafters, each a [[candidate]].")]
Groups = Annotated[str | None, typer.Option("--tp", help="Devices of a replica to try; left out: all that divide.")]
DraftGroups = Annotated[
    str | None,
    typer.Option("--draft-tp", help="Devices of a replica that share the draft, to try; left out: one, and all."),
]
Formats = Annotated[str | None, typer.Option(help="Formats of the target's weights to try besides the scenario's.")]
MaxTpot = Annotated[float | None, typer.Option(min=0, help="Milliseconds per token of a sequence, at most.")]
Top = Annotated[int, typer.Option(min=1, help="Rows to print for each number in flight.")]


def tune_joint(
    scenario: ScenarioName,
    devices: Gpus,
    in_flight: InFlight = "1,8,64",
    candidates: Candidates = None,
    tp: Groups = None,
    draft_tp: DraftGroups = None,
    weights: Formats = None,
    max_tpot_ms: MaxTpot = None,
    context: Context = None,
    hardware: Hardware = None,
    price: Price = None,
    top: Top = 5,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Search drafters, tensor parallelism, replicas and formats together; say what each drafter needs to pay."""
    from specsim.plots import check_plot_path
    from specsim.scenario import find_scenario
    from specsim.search.joint import joint_search, load_candidates

    if plot:
        check_plot_path(plot)
    asked = what_if(find_scenario(scenario), None, context, hardware, None, price)
    answer = joint_search(
        asked,
        devices,
        whole_numbers("in_flight", in_flight, 1),
        candidates=load_candidates(candidates) if candidates else (),
        tensor_parallel=whole_numbers("tp", tp, 1) if tp else None,
        draft_tensor_parallel=whole_numbers("draft_tp", draft_tp, 1) if draft_tp else None,
        weights=[None, *_formats(weights)],
        max_time_per_token_s=None if max_tpot_ms is None else max_tpot_ms / 1e3,
    )
    if as_json:
        print_json("tune-joint", {"scenario": asked, "devices": devices} | as_answer(answer))
    else:
        show_joint(asked.name, devices, answer, top)
    if plot and answer.options:
        from specsim.plots.pareto import plot_pareto

        plot_pareto(f"{asked.name}\n{devices} devices", answer, plot)


def _formats(text: str | None) -> list[Dtype]:
    from specsim.model import Dtype

    found: list[Any] = [part.strip() for part in text.split(",")] if text else []
    for one in found:
        if one not in get_args(Dtype):
            raise InputError("weights", f"must be of {', '.join(get_args(Dtype))}", one)
    return found


def as_answer(answer: JointAnswer) -> dict[str, Any]:
    """The JSON answer."""
    from specsim.search.rounds import TIE

    status: dict[str, Any] = {"status": "bounded" if any(o.best.gap > TIE for o in answer.options) else "optimal"}
    if not answer.options:
        status = {"status": "infeasible", "reason": answer.refused[0].reason}
    return {
        **status,
        "options": [_option(option) for option in answer.options],
        "front": [_option(option) for option in answer.front],
        "refused": [{**r.setup._asdict(), "in_flight": r.in_flight, "reason": r.reason} for r in answer.refused],
        "needs": [_need(one) for one in answer.needs],
    }


def _option(option: Option) -> dict[str, Any]:
    best = option.best
    return {
        **option.setup._asdict(),
        "in_flight": option.in_flight,
        "batch": option.batch,
        "configuration": best.tree.label,
        "paths": best.tree.paths(),
        "tokens_per_round": best.tokens_per_round,
        "speedup": best.speedup,
        "gap": best.gap,
        "tokens_per_s": option.tokens_per_s,
        "time_per_token_s": option.time_per_token_s,
        "usd_per_million_tokens": option.usd_per_million_tokens,
    }


def _need(one: Needs) -> dict[str, Any]:
    needs = one.needs
    return {
        "drafter": one.drafter,
        "setup": one.setup._asdict(),
        "in_flight": one.in_flight,
        "batch": one.batch,
        "alpha": needs.alpha,
        "draft_len": needs.draft_len,
        "has_alpha": needs.has_alpha,
        "pays": needs.pays,
        "by_draft_len": [None if value != value else value for value in needs.by_draft_len.tolist()],
    }


def show_joint(name: str, devices: int, answer: JointAnswer, top: int) -> None:
    """Tables for people."""
    from specsim.report import show, table

    for number in dict.fromkeys(option.in_flight for option in answer.options):
        options = answer.at(number)
        priced = options[0].usd_per_million_tokens is not None
        words = "setup,batch,configuration,speed-up,tokens/s,time per token,USD/Mtoken"
        columns = words.split(",") if priced else words.split(",")[:-1]
        rows = [_row(option)[: len(columns)] for option in options[:top]]
        title = f"{name}\n{devices} devices, {number} requests in flight"
        show(table(title, columns, rows, f"{len(options)} setups fit."))
    if answer.needs:
        names = ("drafter", "in flight", "needs acceptance", "has", "of chain", "pays")
        show(table("What a drafter needs to pay", names, [_needs_row(one) for one in answer.needs]))
    if answer.refused:
        rows = [(r.setup.label, "any" if r.in_flight is None else r.in_flight, r.reason) for r in answer.refused]
        show(table("Refused", ("setup", "in flight", "why"), rows))


def _row(option: Option) -> tuple[object, ...]:
    from specsim.units import format_time

    usd, best = option.usd_per_million_tokens, option.best
    return (
        option.setup.label, option.batch, best.tree.label, f"{best.speedup:.2f}", three_digits(option.tokens_per_s),
        format_time(option.time_per_token_s), None if usd is None else f"{usd:.3f}",
    )  # fmt: skip


def _needs_row(one: Needs) -> tuple[object, ...]:
    needs = one.needs
    if needs.alpha is None:
        return one.drafter, one.in_flight, "more than 1", "-", "-", "never"
    has = "not known" if needs.has_alpha is None else f"{needs.has_alpha:.3f}"
    pays = {True: "yes", False: "no", None: "not known"}[needs.pays]
    return one.drafter, one.in_flight, f"{needs.alpha:.3f}", has, needs.draft_len, pays
