"""``specsim plan``: how many devices a load needs to keep its latency targets, with speculation and without."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specsim.cli import serve_options as options
from specsim.cli.output import AsJson, print_json, whole_numbers
from specsim.cli.serve import EngineUsed, Seed, offered_from, progress, without_speculation
from specsim.cli.serve_options import MAX_REQUESTS
from specsim.cli.tune import Devices, Hardware, Price, ScenarioName, what_if
from specsim.errors import InfeasibleError, InputError

if TYPE_CHECKING:
    from specsim.plan import Capacity, Goal, Offered, Setup
    from specsim.scenario import Scenario

Attain = Annotated[float, typer.Option(min=0, max=1, help="Share of requests that must meet the targets.")]
Duration = Annotated[float, typer.Option(min=1, max=1e6, help="Seconds of arrivals of each run.")]
Replications = Annotated[int, typer.Option(min=1, max=100, help="Independent runs of each number of replicas.")]
MaxReplicas = Annotated[int, typer.Option(min=1, max=1024, help="No more replicas are tried.")]
Vary = Annotated[
    list[str] | None,
    typer.Option(help="Also answer for tp=1,2,4 or draft-len=2,4 or hardware=h100-sxm,h200; several may be said."),
]
VARIED = ("tp", "draft-len", "hardware")


def plan(
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
    duration: Duration = 300.0,
    ttft_slo: options.TtftSlo = None,
    tpot_slo: options.TpotSlo = None,
    attain: Attain = 0.95,
    draft_len: options.DraftLen = None,
    schedule: options.Schedule = None,
    control: options.Control = None,
    vary: Vary = None,
    hardware: Hardware = None,
    tp: Devices = None,
    engine: EngineUsed = None,
    price: Price = None,
    admission: options.AdmissionName = "fcfs",
    routing: options.RoutingName = "least-loaded",
    max_running: options.MaxRunning = 256,
    token_budget: options.TokenBudget = 8192,
    prefill: options.Prefill = "mixed",
    prefix_cache: options.PrefixCache = True,
    preemption: options.Preemption = "recompute",
    swap_gb_per_s: options.SwapGbPerS = None,
    block_tokens: options.BlockTokens = 16,
    pipeline: options.Pipeline = 1,
    token_us: options.TokenUs = 0.0,
    max_replicas: MaxReplicas = 64,
    replications: Replications = 4,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Find the least number of devices that keeps the targets under this load, with speculation and without."""
    from specsim.cli.plan_view import answer_of, show_plan
    from specsim.cli.tune_engine import engine_use, priced_on
    from specsim.metrics.serving import Target
    from specsim.plan import Goal, Setup
    from specsim.scenario import find_scenario, resolve

    if ttft_slo is None and tpot_slo is None:
        raise InputError("ttft_slo, tpot_slo", "must be said, one of them at least")
    config = options.server_config(
        max_running, token_budget, prefill, prefix_cache, preemption, swap_gb_per_s, block_tokens, None, pipeline,
        token_us,
    )  # fmt: skip
    arriving, _ = offered_from(
        workload, trace, trace_format, columns, time_unit, rate_scale, skip_bad, rate, burstiness, None, 0.0, False,
        _num_requests(rate, duration, workload), seed, ttft_slo, tpot_slo,
    )  # fmt: skip
    goal = Goal(Target(ttft_slo or float("inf"), tpot_slo or float("inf")), attain, replications)
    asked = what_if(find_scenario(scenario), None, None, hardware, tp, price)
    asked = priced_on(asked, engine_use(engine)) if engine else asked
    policies = {"admission": options.admission_from(admission, arriving.requests(0)),
                "routing": options.routing_from(routing)}  # fmt: skip
    found: list[Capacity | tuple[str, str]] = []
    for changed, length in _variants(vary or [], asked, draft_len):
        suffix = "".join(f", {name}={value}" for name, value in changed.items() if name != "draft-len")
        try:
            deployment = resolve(_with(asked, changed))
        except InfeasibleError as error:
            found.append((f"any{suffix}", str(error)))
            continue
        named, how = options.control_from(
            length, schedule, control, deployment, max_running, arriving.mean_context(), tpot_slo
        )
        setup = Setup(named + suffix, deployment, how, config, **policies)  # type: ignore[arg-type]
        for one in _sides(setup, suffix, {_name(each) for each in found}):
            found.append(_answered(one, arriving, goal, max_replicas))
    settings = {
        "workload": workload or str(trace), "requests": len(arriving.requests(0)), "rate_per_s": rate,
        "ttft_slo_s": ttft_slo, "tpot_slo_s": tpot_slo, "attain_frac": attain, "replications": replications,
        "seed": seed, "server": config, "admission": admission, "routing": routing,
    }  # fmt: skip
    answer = {"scenario": asked, "settings": settings, **answer_of(found)}
    if as_json:
        print_json("plan", answer)
    else:
        show_plan(asked.name, answer)


def _num_requests(rate: float | None, duration_s: float, workload: str | None) -> int | None:
    """As many as arrive in the time; of a trace all."""
    if workload is None:
        return None
    if rate is None:
        raise InputError("rate", "must be said: requests per second")
    if not 0 < rate * duration_s <= MAX_REQUESTS:
        limit = f"must be > 0, and bring at most {MAX_REQUESTS} requests in {duration_s:g} s"
        raise InputError("rate", limit, rate)
    return max(100, round(rate * duration_s))


def _variants(vary: list[str], asked: Scenario, draft_len: int | None) -> list[tuple[dict[str, Any], int | None]]:
    """Every combination of what is varied, and the draft length of each."""
    choices: dict[str, list[Any]] = {}
    for text in vary:
        name, _, values = text.partition("=")
        if name not in VARIED or name in choices:
            raise InputError("vary", f"must be one of {', '.join(VARIED)}, each once, as tp=1,2,4", text)
        named = [one.strip() for one in values.split(",")]
        choices[name] = list(named) if name == "hardware" else whole_numbers(f"vary {name}", values, name == "tp")
    if "draft-len" in choices and asked.drafter.kind == "none":
        raise InputError("vary", "needs a drafter to vary draft-len", asked.drafter.kind)
    combined = [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]
    if len(combined) > 100:
        raise InputError("vary", "must be at most 100 combinations", len(combined))
    return [(each, each.get("draft-len", draft_len)) for each in combined]


def _with(asked: Scenario, changed: dict[str, Any]) -> Scenario:
    names = {"tp": "tensor_parallel", "hardware": "hardware"}
    return asked.varied(**{names[name]: value for name, value in changed.items() if name in names})


def _sides(setup: Setup, suffix: str, known: set[str]) -> list[Setup]:
    """With speculation, and without where this was not answered yet."""
    from dataclasses import replace

    plain = without_speculation(setup)
    plain = replace(plain, name=plain.name + suffix)
    both = [plain, setup] if setup.control.max_draft_len else [plain]
    return [one for one in both if one.name not in known]


def _name(found: Capacity | tuple[str, str]) -> str:
    return found[0] if isinstance(found, tuple) else found.setup.name


def _answered(setup: Setup, arriving: Offered, goal: Goal, max_replicas: int) -> Capacity | tuple[str, str]:
    from specsim.plan import capacity

    try:
        with progress(None, setup.name) as told:
            return capacity(setup, arriving, goal, max_replicas, lambda replicas, left: told(left))
    except InfeasibleError as error:
        return setup.name, str(error)
