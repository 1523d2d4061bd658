"""``specsim tune-load``: the draft length for every batch size, in an engine's words, and what it does to a queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from specsim.cli.output import AsJson, print_json, whole_numbers
from specsim.cli.tune import Devices, Hardware, Plot, ScenarioName, show_infeasible, three_digits
from specsim.cli.tune_engine import engine_use, priced_on

if TYPE_CHECKING:
    from specsim.engines.plan import Export
    from specsim.scenario import Deployment, EngineUse
    from specsim.search.by_load import Policy, Schedule
    from specsim.search.points import PointBest

MaxBatch = Annotated[int, typer.Option(help="Largest number of running requests to answer for.")]
Contexts = Annotated[str | None, typer.Option("--context", help="Tokens behind each sequence; several with commas.")]
EngineName = Annotated[str | None, typer.Option("--engine", help="Whose words the schedule must fit: vllm@0.33.0.")]
Arrive = Annotated[float | None, typer.Option("--arrivals", help="Requests per second: also judge the queue.")]
Output = Annotated[float, typer.Option("--output-tokens", help="Mean tokens of a request, for the queue.")]
Least = Annotated[int | None, typer.Option(help="Least draft length; default 1 where off is costly to resume, else 0.")]
MaxTiers = Annotated[int, typer.Option(help="Most entries of the schedule.")]
Tolerance = Annotated[float, typer.Option(help="Mean share of the best rate that fewer entries may give up.")]
IdleMs = Annotated[float | None, typer.Option(help="What a step of length 0 takes longer with a draft loaded, ms.")]


def tune_load(
    scenario: ScenarioName,
    max_batch: MaxBatch = 256,
    context: Contexts = None,
    hardware: Hardware = None,
    tp: Devices = None,
    engine: EngineName = None,
    arrivals: Arrive = None,
    output_tokens: Output = 256.0,
    min_draft_len: Least = None,
    max_tiers: MaxTiers = 8,
    tolerance: Tolerance = 0.002,
    idle_ms: IdleMs = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Choose the draft length by the number of running requests, and by context; export it as a schedule."""
    from specsim.errors import InfeasibleError
    from specsim.plots import check_plot_path
    from specsim.report import show
    from specsim.scenario import find_scenario, resolve
    from specsim.search.by_load import Arrivals, schedules_by_context
    from specsim.search.points import best_at, point_of

    if plot:
        check_plot_path(plot)
    use = engine_use(engine) if engine else None
    said = {"hardware": hardware, "tensor_parallel": tp}
    found = find_scenario(scenario).varied(batch=1, **{name: v for name, v in said.items() if v is not None})
    asked = priced_on(found, use)
    contexts = [asked.workload.context_tokens] if context is None else whole_numbers("context", context, 0)
    options: dict[str, Any] = {
        "min_draft_len": min_draft_len, "max_tiers": max_tiers, "tolerance": tolerance,
        "idle_s": None if idle_ms is None else idle_ms / 1e3,
        "arrivals": None if arrivals is None else Arrivals(arrivals, output_tokens),
    }  # fmt: skip
    schedules: list[Schedule] = []
    refused: list[tuple[int, str]] = []
    for one_context in contexts:
        try:
            if not schedules:
                deployment = resolve(asked.varied(context_tokens=one_context))
            schedules += schedules_by_context(deployment, [one_context], max_batch, use, **options)
        except InfeasibleError as error:
            refused.append((one_context, str(error)))
    if not schedules:
        show_infeasible("tune-load", asked, refused[0][1], as_json)
        return
    exports = [_exported(deployment, one, use) if use else None for one in schedules]
    batches = shown_batches(max_batch)
    trees = [best_at(deployment, [point_of(deployment, b, one.context_tokens) for b in batches]) for one in schedules]
    if as_json:
        parts = [
            as_answer(one, export, batches, best) for one, export, best in zip(schedules, exports, trees, strict=True)
        ]
        not_fitting = [{"context_tokens": c, "reason": reason} for c, reason in refused]
        answer = {"status": "optimal", "scenario": asked, "engine": use, "schedules": parts, "infeasible": not_fitting}
        print_json("tune-load", answer)
    else:
        for one, export, best in zip(schedules, exports, trees, strict=True):
            show_schedule(asked.name, one, export, batches, best)
        for one_context, reason in refused:
            show(f"context {one_context:,} tokens: infeasible: {reason}")
    if plot:
        from specsim.plots.schedule import plot_schedules

        plot_schedules(asked.name, schedules, plot)


def shown_batches(largest: int) -> list[int]:
    """Doublings, and the largest.

    >>> shown_batches(6)
    [1, 2, 4, 6]
    """
    found = [1]
    while found[-1] * 2 < largest:
        found.append(found[-1] * 2)
    return found if largest == 1 else [*found, largest]


def _exported(deployment: Deployment, one: Schedule, use: EngineUse) -> Export | None:
    """The schedule in the engine's words; a plain command where it never drafts, None where the drafter is unknown."""
    from specsim.dialect import dialect
    from specsim.engines.answer import EXPORTERS, draft_plan
    from specsim.search.by_load import as_sharded
    from specsim.tree import DraftTree

    most = len(one.draft_len_by_batch)
    deployment = as_sharded(deployment, dialect(use.engine, use.version))
    plan = draft_plan(deployment, DraftTree.chain(one.longest)).but(max_running=most)
    tiers = [tuple(tier) for tier in one.tiers.tiers]
    if one.longest and len(tiers) > 1:
        plan = plan.but(draft_len_by_batch=tiers)
    return EXPORTERS[use.engine](plan, use.version)


def as_answer(one: Schedule, export: Export | None, batches: list[int], best: list[PointBest]) -> dict[str, Any]:
    """One schedule as JSON."""
    table = one.table
    rates = table.rates[: table.largest]
    return {
        "context_tokens": one.context_tokens,
        "tiers": [tier._asdict() for tier in one.tiers.tiers],
        "loss": one.tiers.loss,
        "worst_loss": one.tiers.worst_loss,
        "worst_batch": one.tiers.worst_batch,
        "draft_len_by_batch": one.draft_len_by_batch,
        "pays": one.pays,
        "largest_batch": table.largest,
        "largest_batch_without": table.largest_plain,
        "idle_s": table.idle_s,
        "draft_lens": table.draft_lens,
        "tokens_per_s": rates,
        "plain_tokens_per_s": table.plain_rates[: table.largest_plain],
        "best_of_any_shape": [
            {"batch": b, **(_shape(answer) if not answer.reason else {"infeasible": answer.reason})}
            for b, answer in zip(batches, best, strict=True)
        ],
        "policies": [_policy(policy) for policy in one.policies],
        "notes": one.notes,
        "export": export,
    }


def _shape(answer: PointBest) -> dict[str, Any]:
    return {
        "configuration": answer.tree.label,
        "paths": answer.tree.paths(),
        "tokens_per_s": answer.tokens_per_s,
        "speedup": answer.speedup,
        "gap": answer.gap,
        "chain_len": answer.chain_len,
        "chain_tokens_per_s": answer.chain_tokens_per_s,
    }


def _policy(policy: Policy) -> dict[str, Any]:
    queue = policy.queue
    if queue is None:
        return {"policy": policy.name, "infeasible": policy.reason}
    return {
        "policy": policy.name,
        "mean_in_system": queue.mean_in_system,
        "mean_latency_s": queue.mean_latency,
        "utilisation": queue.utilisation,
    }


def show_schedule(name: str, one: Schedule, export: Export | None, batches: list[int], best: list[PointBest]) -> None:
    """Tables for people."""
    from specsim.report import show, table

    rates, lens = one.table.rates, one.table.draft_lens
    rows: list[tuple[object, ...]] = []
    for batch, answer in zip(batches, best, strict=True):
        if batch > one.table.largest:
            rows.append((batch, "-", "-", "-", "-", answer.reason or "fits only without a draft"))
            continue
        length, fastest = one.tiers.draft_len(batch), one.draft_len_by_batch[batch - 1]
        rate = float(rates[batch - 1, lens.index(length)])
        gain = rate / float(one.table.plain_rates[batch - 1])
        rows.append((batch, fastest, length, three_digits(rate), f"{gain:.2f}", _told(answer)))
    columns = ("running", "fastest length", "in the schedule", "tokens/s", "speed-up", "best of any shape")
    entries = len(one.tiers.tiers)
    note = (
        f"{entries} {'entry' if entries == 1 else 'entries'}, {one.tiers.loss:.2%} below the fastest on the mean, "
        f"{one.tiers.worst_loss:.1%} at worst (at {one.tiers.worst_batch})."
    )
    show(table(f"{name}\ncontext {one.context_tokens:,} tokens", columns, rows, note))
    show("Schedule: " + ", ".join(f"{t.first}-{t.last}: {t.draft_len}" for t in one.tiers.tiers))
    show(_pays(one))
    for text in one.notes:
        show(f"note: {text}")
    if one.policies:
        names = ("policy", "in system", "latency", "load")
        show(table("Under arrivals", names, [_queue_row(policy) for policy in one.policies]))
    if export is not None:
        show(export.command, *(f"note: {text}" for text in export.notes))
        for file, text in export.files.items():
            show(f"{file}:", text)


def _told(answer: PointBest) -> str:
    if answer.reason:
        return answer.reason
    shape = f"{answer.tree.label}, {answer.speedup:.2f}"
    return shape if answer.gap < 5e-4 else f"{shape} (within {answer.gap:.1%})"


def _pays(one: Schedule) -> str:
    largest = one.table.largest
    if not one.pays:
        return "It never pays: serve without a draft."
    ranges = ", ".join(f"{a}-{b}" for a, b in one.pays)
    loaded = f"; with a draft loaded {largest} sequences fit, without {one.table.largest_plain}"
    return f"It pays at {ranges} running, of 1-{largest}{loaded}."


def _queue_row(policy: Policy) -> tuple[str, str, str, str]:
    from specsim.units import format_time

    queue = policy.queue
    if queue is None:
        return policy.name, "-", "-", policy.reason
    return policy.name, f"{queue.mean_in_system:.2f}", format_time(queue.mean_latency), f"{queue.utilisation:.0%}"
