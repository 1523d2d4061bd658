"""``specsim serve``: play a load out on simulated replicas, with speculation and without, request by request."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specsim.cli import serve_options as options
from specsim.cli.output import AsJson, plain, print_json
from specsim.cli.serve_options import MAX_REQUESTS
from specsim.cli.tune import Devices, Hardware, Plot, Price, ScenarioName, show_infeasible, what_if
from specsim.errors import InfeasibleError, InputError

if TYPE_CHECKING:
    from specsim.plan.offered import Offered
    from specsim.plan.setup import Setup
    from specsim.scenario import Deployment
    from specsim.sim.serve import ServingRun

NumRequests = Annotated[
    int | None,
    typer.Option("--requests", min=1, max=MAX_REQUESTS, help="Requests to draw (1000), or to take of a trace (all)."),
]
Replicas = Annotated[int, typer.Option(min=1, max=1024, help="Servers alike, each on devices of its own.")]
Warmup = Annotated[
    float | None, typer.Option(min=0, help="Leave out who came earlier, seconds; else a tenth of the time of arrivals.")
]
Replications = Annotated[int, typer.Option(min=1, max=1000, help="Independent runs; intervals come from them.")]
Seed = Annotated[int, typer.Option(min=0, max=2**31, help="Of requests and outcomes: same seed, same records.")]
EngineUsed = Annotated[str | None, typer.Option("--engine", help="Price the steps of this engine: vllm@0.33.0.")]
Until = Annotated[float | None, typer.Option(help="End the run at this time, seconds.")]
Out = Annotated[Path | None, typer.Option(help="A new folder for records of requests and steps, as CSV.")]
Timeline = Annotated[Path | None, typer.Option(help="Write the first run for chrome://tracing or Perfetto, JSON.")]

STEPS_KEPT = 200_000
"""Requests up to which steps are kept, which the occupancy of the memory is read from, though nobody asked for them."""


@dataclass(eq=False)
class Played:
    """A setup and what its runs left; ``infeasible`` says why there are none."""

    setup: Setup
    runs: list[ServingRun] = field(default_factory=list)
    infeasible: str = ""


def serve(
    scenario: ScenarioName,
    workload: options.Workload = None,
    trace: options.TraceFile = None,
    trace_format: options.Format = None,
    columns: options.ColumnNames = None,
    time_unit: options.TimeUnit = 1.0,
    rate_scale: options.RateScale = 1.0,
    skip_bad: options.SkipBad = False,
    rate: options.Rate = None,
    burstiness: options.Burstiness = None,
    users: options.Users = None,
    think: options.Think = 0.0,
    burst: options.Burst = False,
    requests: NumRequests = None,
    draft_len: options.DraftLen = None,
    schedule: options.Schedule = None,
    control: options.Control = None,
    hardware: Hardware = None,
    tp: Devices = None,
    engine: EngineUsed = None,
    price: Price = None,
    replicas: Replicas = 1,
    admission: options.AdmissionName = "fcfs",
    routing: options.RoutingName = "least-loaded",
    max_running: options.MaxRunning = 256,
    token_budget: options.TokenBudget = 8192,
    prefill: options.Prefill = "mixed",
    prefix_cache: options.PrefixCache = True,
    preemption: options.Preemption = "recompute",
    swap_gb_per_s: options.SwapGbPerS = None,
    block_tokens: options.BlockTokens = 16,
    kv_blocks: options.KvBlocks = None,
    pipeline: options.Pipeline = 1,
    token_us: options.TokenUs = 0.0,
    ttft_slo: options.TtftSlo = None,
    tpot_slo: options.TpotSlo = None,
    warmup: Warmup = None,
    until: Until = None,
    replications: Replications = 1,
    seed: Seed = 0,
    out: Out = None,
    timeline: Timeline = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Serve a workload or a trace with speculation and without; print latencies, rates, goodput and the verdict."""
    from specsim.cli.serve_view import answer_of, show_serving
    from specsim.cli.tune_engine import engine_use, priced_on
    from specsim.plan.setup import Setup
    from specsim.scenario import find_scenario, resolve

    _check_files(out, timeline, plot)
    config = options.server_config(
        max_running, token_budget, prefill, prefix_cache, preemption, swap_gb_per_s, block_tokens, kv_blocks, pipeline,
        token_us, until,
    )  # fmt: skip
    arriving, left_out = offered_from(
        workload, trace, trace_format, columns, time_unit, rate_scale, skip_bad, rate, burstiness, users, think, burst,
        requests, seed, ttft_slo, tpot_slo,
    )  # fmt: skip
    asked = what_if(find_scenario(scenario), None, None, hardware, tp, price)
    asked = priced_on(asked, engine_use(engine)) if engine else asked
    try:
        deployment = resolve(asked)
    except InfeasibleError as error:
        show_infeasible("serve", asked, str(error), as_json)
        return
    named, how = options.control_from(
        draft_len, schedule, control, deployment, max_running, arriving.mean_context(), tpot_slo
    )
    policies = {"admission": options.admission_from(admission, arriving.requests(0)),
                "routing": options.routing_from(routing)}  # fmt: skip
    setups = [Setup(named, deployment, how, config, **policies)]  # type: ignore[arg-type]
    if how.max_draft_len:
        setups.insert(0, without_speculation(setups[0]))
    played = [Played(setup) for setup in setups]
    finished = _play(played, arriving, replicas, replications, out, bool(out or timeline or plot))
    settings = {
        "workload": workload or str(trace), "requests": len(arriving.requests(0)), "rate_per_s": rate, "users": users,
        "control": named, "replicas": replicas, "admission": admission, "routing": routing, "server": config,
        "ttft_slo_s": ttft_slo, "tpot_slo_s": tpot_slo, "replications": replications, "seed": seed,
    }  # fmt: skip
    answer = answer_of(played, arriving, replicas, warmup)
    answer = {"scenario": deployment.scenario, "settings": settings, **answer, "left_out": left_out}
    if out:
        (out / "summary.json").write_text(json.dumps(plain(answer), indent=2) + "\n", encoding="utf-8")
    if as_json:
        print_json("serve", answer)
    else:
        show_serving(deployment.scenario.name, answer)
    _draw(played, deployment, timeline, plot, ttft_slo, tpot_slo)
    if not finished:
        raise KeyboardInterrupt


def without_speculation(setup: Setup) -> Setup:
    """The same servers without a drafter."""
    from dataclasses import replace

    from specsim.sim.policies.basic import FixedDraftLen

    return replace(setup, name="no speculation", control=FixedDraftLen(0))


def offered_from(
    workload: str | None,
    trace: Path | None,
    trace_format: str | None,
    columns: str | None,
    time_unit: float,
    rate_scale: float,
    skip_bad: bool,
    rate: float | None,
    burstiness: float | None,
    users: int | None,
    think: float,
    burst: bool,
    num_requests: int | None,
    seed: int,
    ttft_slo: float | None,
    tpot_slo: float | None,
) -> tuple[Offered, dict[str, Any]]:
    """What arrives, and what was left out of the trace."""
    from specsim.plan.offered import Offered

    for name, value in (("ttft_slo", ttft_slo), ("tpot_slo", tpot_slo)):
        if value is not None and not 0 < value < float("inf"):
            raise InputError(name, "must be > 0 and finite", value)
    if (workload is None) == (trace is None):
        raise InputError("workload", "must be said by either --workload or --trace")
    left_out: dict[str, Any] = {"malformed": [], "failed_when_recorded": 0}
    if trace is not None:
        if rate is not None or users is not None or burst:
            raise InputError("arrivals", "must be the trace's own: make it denser with --rate-scale")
        recorded, problems, num_failed = options.trace_from(
            trace, trace_format, columns, time_unit, skip_bad, rate_scale
        )
        left_out = {"malformed": list(problems), "failed_when_recorded": num_failed}
        return Offered(recorded, num_requests, seed, ttft_slo, tpot_slo), left_out
    if trace_format or columns or skip_bad or rate_scale != 1:
        raise InputError("trace", "must be said for the options of a trace")
    spec = options.workload_from(workload or "", rate, burstiness, users, think, burst)
    return Offered(spec, num_requests or 1000, seed, ttft_slo, tpot_slo), left_out


def _check_files(out: Path | None, timeline: Path | None, plot: Path | None) -> None:
    """Before the work: whether everything asked for can be written."""
    from specsim.plots import check_plot_path

    if plot:
        check_plot_path(plot)
    if timeline and (timeline.is_dir() or not timeline.parent.is_dir()):
        raise InputError("timeline", "must be a file in a folder that exists", str(timeline))
    if out:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError("out", "must be a new or empty folder", str(out))
        out.mkdir(parents=True, exist_ok=True)


def _play(
    played: list[Played], arriving: Offered, replicas: int, replications: int, out: Path | None, keep_steps: bool
) -> bool:
    """Run everything, one replication of all setups after the other; False where the user ended it."""
    num = len(arriving.requests(0))
    with progress(num * replications * len(played)) as told:
        for replication in range(replications):
            for one in played:
                keep = (out is not None) or (not replication and (keep_steps or num <= STEPS_KEPT))
                try:
                    run = one.setup.run(arriving, replication, replicas, keep_steps=keep, told=told)
                except InfeasibleError as error:
                    one.infeasible = str(error)
                    continue
                one.runs.append(run)
                if out:
                    _save(run, out, f"{'speculation' if one.setup.control.max_draft_len else 'plain'}-{replication}")
                if run.verdict == "interrupted":
                    return False
    return True


@contextmanager
def progress(total: int | None, words: str = "requests") -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's standard error; hears how many more requests are done, of a total if that is known."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(words, total=total)
        yield lambda more: bar.advance(task, more)


def _save(run: ServingRun, out: Path, name: str) -> None:
    from specsim.workload.log_files import save_log

    save_log(run.requests, out / f"{name}-requests.csv")
    if run.steps is not None:
        save_log(run.steps, out / f"{name}-steps.csv")


def _draw(
    played: list[Played],
    deployment: Deployment,
    timeline: Path | None,
    plot: Path | None,
    ttft_slo: float | None,
    tpot_slo: float | None,
) -> None:
    from specsim.cli.serve_view import short_name
    from specsim.metrics.timeline import save_timeline
    from specsim.plots.serving import plot_serving

    drawn = {
        short_name(p.setup.name): (p.runs[0].requests, p.runs[0].steps) for p in played if p.runs and p.runs[0].steps
    }
    known = {name: (log, steps) for name, (log, steps) in drawn.items() if steps is not None and len(steps)}
    if timeline and known:
        save_timeline(*list(known.values())[-1], timeline)
    if plot and known:
        plot_serving(known, plot, deployment.scenario.name, ttft_slo, tpot_slo)
