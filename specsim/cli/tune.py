"""``specsim tune``: the best draft configuration of a deployment, why, and the flags that run it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specsim.cli.observed import Before, DraftInUse
from specsim.cli.output import AsJson, print_json
from specsim.errors import InputError

if TYPE_CHECKING:
    from specsim.engines.answer import EngineAnswer
    from specsim.estimate import Estimate
    from specsim.scenario import Deployment, EngineUse, Scenario
    from specsim.search.dynamic.beside import Beside
    from specsim.search.explain import Explanation
    from specsim.search.expressible import EngineBest
    from specsim.search.tune import Infeasible, Tuning

ScenarioName = Annotated[str, typer.Argument(help="A scenario: a TOML file, or the name of a bundled one.")]
Batch = Annotated[int | None, typer.Option(help="Sequences decoding together, instead of the scenario's.")]
Context = Annotated[int | None, typer.Option(help="Tokens behind each sequence, instead of the scenario's.")]
Hardware = Annotated[str | None, typer.Option(help="Device, instead of the scenario's.")]
Devices = Annotated[int | None, typer.Option("--tp", help="Devices that share the target, instead of the scenario's.")]
Top = Annotated[int, typer.Option(min=1, help="Rows to print.")]
Dynamic = Annotated[
    Path | None,
    typer.Option(
        help="Rank trees that grow by confidence, too: rounds of `specsim dynamic --table` in this .npz file."
    ),
]
Rows = Annotated[int | None, typer.Option("--top", min=1, help="Rows to print; 10 where left out.")]
Price = Annotated[float | None, typer.Option(help="USD per device and hour, instead of the scenario's.")]
Plot = Annotated[Path | None, typer.Option(help="Also draw it: a .png or .svg file.")]
EngineName = Annotated[
    str | None, typer.Option("--engine", help="Search what this engine accepts too, such as vllm@0.33.0.")
]
Explain = Annotated[bool, typer.Option("--explain", help="Also say which term decided, by searching without each.")]
TreePlot = Annotated[Path | None, typer.Option(help="Also draw the best tree: a .png or .svg file.")]
FromMetrics = Annotated[
    list[Path] | None,
    typer.Option(
        help="Learn from what an engine wrote (a scrape, a log, a benchmark) and tune again; may be repeated."
    ),
]
State = Annotated[Path | None, typer.Option(help="What was learned, kept in this file from run to run.")]
Out = Annotated[Path | None, typer.Option(help="Folder for the new flags, a file per engine of the scenario.")]


def tune(
    scenario: ScenarioName,
    batch: Batch = None,
    context: Context = None,
    hardware: Hardware = None,
    tp: Devices = None,
    price: Price = None,
    top: Rows = None,
    engine: EngineName = None,
    explain: Explain = False,
    dynamic: Dynamic = None,
    plot: Plot = None,
    tree_plot: TreePlot = None,
    from_metrics: FromMetrics = None,
    before: Before = None,
    state: State = None,
    draft_len: DraftInUse = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Rank draft configurations by predicted speed, with intervals and what bounds each; export the best."""
    from specsim.cli.from_metrics import tune_from_metrics
    from specsim.scenario import find_scenario

    about = {"top": top, "engine": engine, "explain": explain, "dynamic": dynamic, "plot": plot, "tree-plot": tree_plot}
    learning = {"before": before, "state": state, "draft-len": draft_len, "out": out}
    if from_metrics:
        _exclude(about, "can not go with --from-metrics")
        asked = what_if(find_scenario(scenario), batch, context, hardware, tp, price)
        tune_from_metrics(asked, from_metrics, before, state, draft_len, out, as_json)
        return
    _exclude(learning, "must go with --from-metrics")
    _tune(what_if(find_scenario(scenario), batch, context, hardware, tp, price), top or 10, engine, explain, dynamic,
          plot, tree_plot, as_json)  # fmt: skip


def _exclude(options: Mapping[str, object], limit: str) -> None:
    """Raise InputError where one of these options was given."""
    for name, value in options.items():
        if value not in (None, False):
            raise InputError(f"--{name}", limit)


def _tune(
    asked: Scenario,
    top: int,
    engine: str | None,
    explain: bool,
    dynamic: Path | None,
    plot: Path | None,
    tree_plot: Path | None,
    as_json: bool,
) -> None:
    from specsim.cli.tune_engine import engine_use, priced_on
    from specsim.cli.tune_grown import dynamic_beside, grown_as_json
    from specsim.engines.answer import export_best
    from specsim.errors import InfeasibleError
    from specsim.plots import check_plot_path
    from specsim.scenario import resolve
    from specsim.search import tune as search
    from specsim.search.explain import explain as explained
    from specsim.search.expressible import best_expressible

    for path in filter(None, (plot, tree_plot)):
        check_plot_path(path)
    use = engine_use(engine) if engine else None
    asked = priced_on(asked, use)
    try:
        deployment = resolve(asked)
    except InfeasibleError as error:
        show_infeasible("tune", asked, str(error), as_json)
        return
    tuning = search.tune(deployment)
    grown = dynamic_beside(deployment, dynamic) if dynamic else None
    exports = [export_best(deployment, tuning, one) for one in asked.export]
    within = best_expressible(deployment, use) if use else None
    why = explained(deployment, tuning, within) if explain else None
    if as_json:
        more = _more(deployment, tuning, use, within, why) | (grown_as_json(tuning, grown) if grown else {})
        print_json("tune", as_answer(deployment, tuning, exports) | more)
    else:
        show_tuning(deployment, tuning, exports, top, grown)
        _show_more(deployment, tuning, use, within, why)
    if plot:
        from specsim.plots.tuning import plot_tuning

        plot_tuning(deployment, tuning, plot)
    if tree_plot:
        from specsim.plots.trees import plot_tree

        plot_tree(asked.name, tuning.best.tree, deployment.acceptance, tree_plot)


def show_infeasible(command: str, asked: Scenario, reason: str, as_json: bool) -> None:
    """That nothing can run is an answer, with its reason."""
    from specsim.report import show

    if as_json:
        print_json(command, {"status": "infeasible", "reason": reason, "scenario": asked})
    else:
        show(f"{asked.name}\nInfeasible: {reason}")


def _more(
    deployment: Deployment, tuning: Tuning, use: EngineUse | None, within: EngineBest | None, why: Explanation | None
) -> dict[str, Any]:
    from specsim.cli.tune_engine import engine_as_json, explanation_as_json

    found: dict[str, Any] = {}
    if use and within:
        found["engine"] = engine_as_json(deployment, tuning, use, within)
    return found | ({"explanation": explanation_as_json(why)} if why else {})


def _show_more(
    deployment: Deployment, tuning: Tuning, use: EngineUse | None, within: EngineBest | None, why: Explanation | None
) -> None:
    from specsim.cli.tune_engine import show_engine, show_explanation

    if use and within:
        show_engine(deployment, tuning, use, within)
    if why:
        show_explanation(why)


def what_if(
    scenario: Scenario,
    batch: int | None,
    context: int | None,
    hardware: str | None,
    tp: int | None,
    price: float | None,
) -> Scenario:
    """The scenario with what was said on the command line instead of what it says."""
    workload = {"batch": batch, "context_tokens": context}
    said = {**workload, "hardware": hardware, "tensor_parallel": tp, "price_usd_per_hour": price}
    return scenario.varied(**{name: value for name, value in said.items() if value is not None})


def show_tuning(
    deployment: Deployment, tuning: Tuning, exports: list[EngineAnswer], top: int, grown: Beside | None = None
) -> None:
    """Tables for people."""
    from specsim.cli.tune_grown import grown_row, grown_words, ranking
    from specsim.estimate import Estimate
    from specsim.report import show, table

    s = deployment.scenario
    title = f"{s.name}\nbatch {s.workload.batch}, context {s.workload.context_tokens:,} tokens, {s.runtime} runtime"
    plain = next(e for e in tuning.ranked if not e.tree.num_drafted)
    everyone = ranking(tuning, grown)
    shown = [*everyone[:top], *(e for e in (tuning.best, plain) if e not in everyone[:top])]
    words = "configuration,tokens/round,draft,verify,host,speed-up,90 % interval,tokens/s,bound,USD/Mtoken"
    columns = words.split(",") if plain.usd_per_million_tokens else words.split(",")[:-1]
    usd_per_s = deployment.usd_per_s
    rows = [(_row(e) if isinstance(e, Estimate) else grown_row(e, usd_per_s))[: len(columns)] for e in shown]
    verdict = _verdict(tuning, of="recorded paths" if _is_counted(deployment) else "", beside=grown is not None)
    show(table(title, columns, rows, verdict))
    if tuning.infeasible:
        show(table("Infeasible", ("configuration", "why"), _by_reason(tuning.infeasible)))
    if grown:
        show(grown_words(tuning, grown))
    show(f"Acceptance: {deployment.acceptance.source}")
    if getattr(s.acceptance, "rank_shares_source", ""):
        show(f"Ranks below the first are assumed: {s.acceptance.rank_shares_source}")
    for answer in exports:
        show_export(answer)


def show_export(answer: EngineAnswer) -> None:
    """The command, what it gives up, and what to know."""
    from specsim.report import show

    show(f"\n{answer.export.engine} {answer.export.version}: {answer.chosen.label}")
    if answer.refused:
        show(f"  not the best ({answer.refused}); this gives up {answer.loss:.1%} of its rate")
    show(f"  {answer.export.command}")
    for note in answer.export.notes:
        show(f"  note: {note}")


def _row(e: Estimate) -> tuple[object, ...]:
    from specsim.units import format_time

    times = [
        format_time(float(part.time_s.max())) if part.time_s.any() else "-" for part in (e.draft, e.verify, e.host)
    ]
    interval = f"{e.speedup_low:.2f} - {e.speedup_high:.2f}"
    return (
        _shape(e), f"{e.tokens_per_round:.2f}", *times, f"{e.speedup:.2f}", interval, three_digits(e.tokens_per_s),
        e.bound, None if e.usd_per_million_tokens is None else f"{e.usd_per_million_tokens:.3f}",
    )  # fmt: skip


def three_digits(rate: float) -> str:
    """
    >>> three_digits(4321.0), three_digits(99.96), three_digits(0.04321)
    ('4320', '100', '0.0432')
    """
    rounded = float(f"{rate:.3g}")
    return f"{rounded:.{max(0, 2 - math.floor(math.log10(rounded)))}f}"


def _by_reason(infeasible: list[Infeasible]) -> list[tuple[str, str]]:
    """Configurations that fail alike in one row."""
    by_reason: dict[str, list[str]] = {}
    for one in infeasible:
        by_reason.setdefault(one.reason, []).append(one.tree.label)
    return [
        (labels[0] if len(labels) == 1 else f"{len(labels)} configurations: {labels[0]} to {labels[-1]}", reason)
        for reason, labels in by_reason.items()
    ]


def _shape(e: Estimate) -> str:
    widths = "/".join(str(w) for w in e.tree.widths[1:])
    return e.tree.label if e.tree.is_chain else f"{e.tree.label} ({widths})"


def _is_counted(deployment: Deployment) -> bool:
    """Whether acceptance is known of recorded paths alone."""
    from specsim.acceptance.trie import PathTrie

    return isinstance(deployment.acceptance, PathTrie)


def _verdict(tuning: Tuning, of: str, beside: bool) -> str:
    best = tuning.best
    which = f"chain or tree of {of}" if of else "chain or tree"
    said = f"Best{' static' if beside else ''}: {best.tree.label}. "
    said += f"No other {which} that fits is more than {tuning.gap:.1%} faster."
    simplest = min(tuning.tied, key=lambda e: e.tree.num_drafted)
    if simplest is not best:
        said += f" {simplest.tree.label} is within 1 % of it and simpler."
    return said


def as_answer(deployment: Deployment, tuning: Tuning, exports: list[EngineAnswer]) -> dict[str, Any]:
    """The JSON answer."""
    from specsim.search.rounds import TIE

    return {
        "status": "optimal" if tuning.gap <= TIE else "bounded",
        "scenario": deployment.scenario,
        "best": estimate_as_json(tuning.best),
        "gap": tuning.gap,
        "certificate": {
            "chains": "scan",
            "trees": tuning.kind,
            "bound_tokens_per_s": tuning.rate_bound,
            "of": "recorded paths" if _is_counted(deployment) else "all paths",
        },
        "ranked": [estimate_as_json(e) for e in tuning.ranked],
        "infeasible": [{"configuration": i.tree.label, "reason": i.reason} for i in tuning.infeasible],
        "acceptance": {
            "accept_prob": deployment.acceptance.accept_prob,
            "source": deployment.acceptance.source,
            "task_sd": deployment.acceptance.task_sd,
        },
        "exports": [
            {
                "engine": a.export.engine,
                "version": a.export.version,
                "configuration": a.chosen.label,
                "tokens_per_s": a.chosen.tokens_per_s,
                "is_estimate": a.chosen.is_estimate,
                "command": a.export.command,
                "config": a.export.config,
                "files": a.export.files,
                "notes": a.export.notes,
                "loss": a.loss,
                "refused": a.refused,
            }
            for a in exports
        ],
    }


def estimate_as_json(e: Estimate) -> dict[str, Any]:
    """One configuration; seconds are per round, ``time_per_token_s`` per token and sequence."""
    from specsim.work import BOUNDS

    return {
        "configuration": e.tree.label,
        "paths": e.tree.paths(),
        "draft_len": e.tree.num_drafted if e.tree.is_chain else None,
        "tokens_per_round": e.tokens_per_round,
        "draft_s": float(e.draft.time_s.max()),
        "verify_s": float(e.verify.time_s.max()),
        "host_s": float(e.host.time_s.max()),
        "by_bound_s": dict(zip(BOUNDS, e.round.by_bound.reshape(-1, len(BOUNDS))[0].tolist(), strict=True)),
        "bound": e.bound,
        "speedup": e.speedup,
        "speedup_90": (e.speedup_low, e.speedup_high),
        "tokens_per_s": e.tokens_per_s,
        "time_per_token_s": e.time_per_token_s,
        "usd_per_million_tokens": e.usd_per_million_tokens,
    }
