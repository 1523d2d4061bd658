"""Options of ``specsim serve`` and ``specsim plan`` turned into workloads, policies and configurations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from specsim.errors import InputError

if TYPE_CHECKING:
    from specsim.scenario import Deployment
    from specsim.sim.config import ServerConfig
    from specsim.sim.policies import Admission, DraftControl, Routing
    from specsim.workload.requests import Requests
    from specsim.workload.spec import WorkloadSpec

MAX_REQUESTS: Final = 2_000_000
TRACES: Final = "azure, burstgpt, mooncake, bailian, vidur, vllm_bench, csv"
CONTROLS: Final = "tuned, sglang-adaptive[:STEPS], goodput, tetris:TOKENS, dspark, slo:TOKENS, oracle"

Workload = Annotated[str | None, typer.Option(help="A preset (chat, code, rag, ...) or a TOML file of a workload.")]
TraceFile = Annotated[Path | None, typer.Option("--trace", help="Recorded requests instead, with their own times.")]
Format = Annotated[str | None, typer.Option("--format", help=f"Of the trace: {TRACES}.")]
ColumnNames = Annotated[
    str | None, typer.Option("--columns", help="Of a csv trace: names of arrival, prompt, output, as a,b,c.")
]
TimeUnit = Annotated[float, typer.Option("--time-unit", help="Seconds that a timestamp of 1 means in a csv trace.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out malformed lines of the trace, and say which.")]
RateScale = Annotated[float, typer.Option(help="Play the trace so many times as dense.")]
Rate = Annotated[float | None, typer.Option(help="Requests per second, Poisson.")]
Burstiness = Annotated[float | None, typer.Option(help="With --rate: gaps of a gamma law; 1 is Poisson, less bursts.")]
Users = Annotated[int | None, typer.Option(help="Users that each wait for the answer before they ask again.")]
Think = Annotated[float, typer.Option(help="With --users: seconds from an answer to the next request.")]
Burst = Annotated[bool, typer.Option("--burst", help="All requests at once.")]
DraftLen = Annotated[int | None, typer.Option(help="Draft this many tokens in every round.")]
Schedule = Annotated[str | None, typer.Option(help="Draft length by running requests: 1-8:4,9-32:2.")]
Control = Annotated[str | None, typer.Option(help=f"Else: {CONTROLS}. Left out: tuned.")]
AdmissionName = Annotated[
    Literal["fcfs", "shortest", "priority", "deadline"], typer.Option("--admission", help="Who is taken in first.")
]
RoutingName = Annotated[
    Literal["round-robin", "least-loaded", "prefix-aware"],
    typer.Option("--routing", help="Which replica takes a request."),
]
MaxRunning = Annotated[int, typer.Option(help="Most requests inside a replica.")]
TokenBudget = Annotated[int, typer.Option(help="Most tokens of a step.")]
Prefill = Annotated[
    Literal["mixed", "chunked", "whole"],
    typer.Option(help="Prompts cut and in the steps that decode; cut, in steps of their own; or whole, likewise."),
]
PrefixCache = Annotated[bool, typer.Option("--prefix-cache/--no-prefix-cache", help="Find equal prompts again.")]
Preemption = Annotated[
    Literal["recompute", "swap", "never"],
    typer.Option(help="When memory runs out; never: admit only where the whole answer has room."),
]
SwapGbPerS = Annotated[float | None, typer.Option(help="With --preemption swap: GB per second to the host.")]
BlockTokens = Annotated[int, typer.Option(help="Tokens of a block of KV memory.")]
KvBlocks = Annotated[int | None, typer.Option(help="Blocks of KV memory, instead of what the weights leave.")]
Pipeline = Annotated[int, typer.Option("--pp", help="Pipeline stages of a replica.")]
TokenUs = Annotated[float, typer.Option(help="Host time per token that comes out, microseconds; see the docs.")]
TtftSlo = Annotated[float | None, typer.Option(help="Target for the time to the first token, seconds.")]
TpotSlo = Annotated[float | None, typer.Option(help="Target for the time per token after it, seconds.")]


def server_config(
    max_running: int,
    token_budget: int,
    prefill: Literal["mixed", "chunked", "whole"],
    prefix_cache: bool,
    preemption: Literal["recompute", "swap", "never"],
    swap_gb_per_s: float | None,
    block_tokens: int,
    kv_blocks: int | None,
    pipeline: int,
    token_us: float,
    until: float | None = None,
) -> ServerConfig:
    """What each replica is told. Raises InputError naming the option."""
    from specsim.documents import parse
    from specsim.sim.config import ServerConfig

    if preemption == "swap" and swap_gb_per_s is None:
        raise InputError("swap_gb_per_s", "must be said where caches are swapped", None)
    fields: dict[str, Any] = {
        "max_running": max_running,
        "token_budget": token_budget,
        "mixes": prefill == "mixed",
        "chunks": prefill != "whole",
        "prefix_caching": prefix_cache,
        "reserves": preemption == "never",
        "preemption": "swap" if preemption == "swap" else "recompute",
        "swap_bytes_per_s": None if swap_gb_per_s is None else swap_gb_per_s * 1e9,
        "block_tokens": block_tokens,
        "kv_blocks": kv_blocks,
        "pipeline_parallel": pipeline,
        "token_s": token_us * 1e-6,
        "until_s": until,
    }
    return parse(ServerConfig, fields, "options")


def workload_from(
    name: str, rate: float | None, burstiness: float | None, users: int | None, think: float, burst: bool
) -> WorkloadSpec:
    """A preset or a file, with the arrivals said on the command line instead of its own, if any were said.

    Raises:
        InputError: for an unknown name, for arrivals said twice or by nobody, for numbers out of range.
    """
    from specsim.documents import parse
    from specsim.workload.presets import preset, preset_names
    from specsim.workload.spec import WorkloadSpec, load_workload

    is_file = name not in preset_names() and (Path(name).suffix == ".toml" or Path(name).is_file())
    spec = load_workload(Path(name)) if is_file else preset(name)
    arrivals = _arrivals(rate, burstiness, users, think, burst)
    if arrivals is not None:
        return parse(WorkloadSpec, {**spec.model_dump(), "arrivals": arrivals}, "options")
    if "arrivals" not in spec.model_fields_set:
        raise InputError("arrivals", "must be said by --rate, --users or --burst (or in the workload's file)")
    return spec


def _arrivals(
    rate: float | None, burstiness: float | None, users: int | None, think: float, burst: bool
) -> dict[str, Any] | None:
    if (rate is not None) + (users is not None) + burst > 1:
        raise InputError("arrivals", "must be one of --rate, --users and --burst")
    if burstiness is not None and rate is None:
        raise InputError("burstiness", "must come with --rate", burstiness)
    if rate is not None and burstiness is not None:
        return {"kind": "gamma", "rate_per_s": rate, "burstiness": burstiness}
    if rate is not None:
        return {"kind": "poisson", "rate_per_s": rate}
    if users is not None:
        return {"kind": "closed_loop", "num_users": users, "think_s": think}
    return {"kind": "burst"} if burst else None


def trace_from(
    path: Path, kind: str | None, columns: str | None, unit_s: float, skip_bad: bool, rate_scale: float
) -> tuple[Requests, tuple[str, ...], int]:
    """Requests of a file, what was left out of it, and how many had failed when they were recorded.

    Raises:
        InputError: for an unknown format, a malformed line (with its number), and what ``load_trace`` refuses.
    """
    from specsim.workload.traces import Columns, load_trace

    known = TRACES.split(", ")
    if kind not in known:
        raise InputError("format", f"must be one of {TRACES}", kind)
    if (columns is not None) != (kind == "csv"):
        raise InputError("columns", "must be said for a csv trace, and for no other", columns)
    named = None
    if columns is not None:
        names = [one.strip() for one in columns.split(",")]
        if len(names) != 3:
            raise InputError("columns", "must be three: of arrival, prompt tokens, output tokens", columns)
        named = Columns(names[0], names[1], names[2], unit_s)
    try:
        trace = load_trace(path, kind, skip_bad=skip_bad, columns=named, rate_scale=rate_scale)  # type: ignore[arg-type]
    except InputError as error:
        if "if you say so" in error.limit:
            limit = error.limit.replace("if you say so", "with --skip-bad")
            raise InputError(error.field, limit) from None
        raise
    return trace.requests, trace.problems, trace.num_failed


def control_from(
    draft_len: int | None,
    schedule: str | None,
    control: str | None,
    deployment: Deployment,
    max_running: int,
    context_tokens: int,
    tpot_slo: float | None,
) -> tuple[str, DraftControl]:
    """How much is drafted, and its name. Raises InputError for more than one answer, or one that can not be read."""
    from specsim.acceptance.inputs import MAX_DEPTH
    from specsim.sim.policies.basic import FixedDraftLen

    if sum(said is not None for said in (draft_len, schedule, control)) > 1:
        raise InputError("control", "must be one of --draft-len, --schedule and --control")
    if control is not None and control.startswith("slo") and tpot_slo is None:
        raise InputError("control", "by targets needs --tpot-slo", control)
    if draft_len is not None and draft_len > MAX_DEPTH:
        raise InputError("draft_len", f"must be <= {MAX_DEPTH}", draft_len)
    if draft_len is not None:
        return f"draft {draft_len}" if draft_len else "no speculation", FixedDraftLen(draft_len)
    if schedule is not None:
        return f"schedule {schedule.replace(' ', '')}", table_from(schedule, max_running)
    if deployment.scenario.drafter.kind == "none":
        return "no speculation", FixedDraftLen(0)
    return _named(control or "tuned", deployment, max_running, context_tokens)


def table_from(schedule: str, max_running: int) -> DraftControl:
    """Draft lengths by running requests, with vLLM's rule for gaps: what came before goes on.

    >>> table_from("1-2:4, 3-5:1", max_running=6).draft_lens
    (4, 4, 1, 1, 1, 1)
    >>> table_from("1-2:x", max_running=6)
    Traceback (most recent call last):
    specsim.errors.InputError: schedule: must be ranges and draft lengths like 1-8:4,9-32:2, got '1-2:x'
    """
    from specsim.sim.policies.tables import vllm_table

    entries = []
    for part in schedule.split(","):
        try:
            batches, _, length = part.partition(":")
            first, _, last = batches.partition("-")
            entries.append((int(first), int(last or first), int(length)))
        except ValueError:
            raise InputError("schedule", "must be ranges and draft lengths like 1-8:4,9-32:2", part.strip()) from None
    if max(last for _, last, _ in entries) > 10**6:
        raise InputError("schedule", "must end at 1000000 at most", schedule)
    try:
        return vllm_table(entries, max(length for *_, length in entries), max_running)
    except InputError as error:
        raise InputError("schedule", error.limit, error.value) from None


def _named(text: str, deployment: Deployment, max_running: int, context_tokens: int) -> tuple[str, DraftControl]:
    from specsim.sim.policies.adaptive import Goodput, Oracle, SglangAdaptive
    from specsim.sim.policies.budget import BestBudget, SloBudget, TokenBudget

    name, _, number = text.partition(":")
    longest = deployment.scenario.search.max_draft_len
    with_number = {"sglang-adaptive": 3, "tetris": None, "slo": None}
    if name in with_number:
        value = with_number[name] if not number else _count(text, number)
        if value is None:
            raise InputError("control", f"must say its draft tokens of a step, as {name}:64", text)
        if name == "sglang-adaptive":
            return text, SglangAdaptive(initial_steps=value)
        return text, (TokenBudget if name == "tetris" else SloBudget)(value, longest)
    if number or name not in ("tuned", "goodput", "dspark", "oracle"):
        raise InputError("control", f"must be one of {CONTROLS}", text)
    if name == "tuned":
        return _tuned(deployment, max_running, context_tokens)
    controls = {"goodput": Goodput, "dspark": BestBudget, "oracle": Oracle}
    made: DraftControl = controls[name](longest=longest)
    return name, made


def _count(text: str, number: str) -> int:
    if not number.isdigit() or len(number) > 9:
        raise InputError("control", "must have a whole number after its colon", text)
    return int(number)


def _tuned(deployment: Deployment, max_running: int, context_tokens: int) -> tuple[str, DraftControl]:
    """The schedule of ``specsim tune-load`` for this context."""
    from specsim.search.by_load import schedules_by_context
    from specsim.sim.policies.tables import ByBatch

    tiers = schedules_by_context(deployment, [context_tokens], max_running)[0].tiers.tiers
    said = ", ".join(f"{t.first}-{t.last}: {t.draft_len}" for t in tiers)
    lens = [t.draft_len for t in tiers for _ in range(t.first, t.last + 1)]
    return f"tuned ({said})", ByBatch(tuple(lens))


def admission_from(name: str, by: Requests) -> Admission:
    """Who is first. Raises InputError where no request says what the policy looks at."""
    from specsim.sim.policies.admission import EarliestDeadline, PriorityFirst, ShortestFirst
    from specsim.sim.policies.basic import FirstCome

    if name == "priority" and by.priority is None:
        raise InputError("admission", "by priority needs requests that have one: priority_shares of a workload", name)
    if name == "deadline" and by.ttft_slo_s is None:
        raise InputError("admission", "by deadline needs targets: --ttft-slo", name)
    known: dict[str, Admission] = {
        "fcfs": FirstCome(),
        "shortest": ShortestFirst(),
        "priority": PriorityFirst(),
        "deadline": EarliestDeadline(),
    }
    return known[name]


def routing_from(name: str) -> Routing:
    """Which replica takes a request."""
    from specsim.sim.policies.basic import RoundRobin
    from specsim.sim.policies.routing import LeastLoaded, PrefixAware

    known: dict[str, Routing] = {
        "round-robin": RoundRobin(),
        "least-loaded": LeastLoaded(),
        "prefix-aware": PrefixAware(),
    }
    return known[name]
