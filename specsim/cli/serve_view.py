"""What ``specsim serve`` answers: figures with intervals, with speculation beside without, and the verdicts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from specsim.errors import InputError

if TYPE_CHECKING:
    from specsim.cli.serve import Played
    from specsim.metrics.serving import ServingSummary
    from specsim.plan.offered import Offered

LEVEL: Final = 0.9
SHOWN: Final = (
    ("ttft_s", "time to first token", (None, 50.0, 90.0, 99.0)),
    ("tpot_s", "time per token after it", (None, 50.0, 90.0, 99.0)),
    ("itl_s", "time between pieces", (None,)),
    ("longest_itl_s", "longest pause", (50.0, 99.0)),
    ("e2e_s", "whole request", (None, 99.0)),
    ("queueing_s", "waiting to be taken in", (None, 99.0)),
)
"""Latencies and what is shown of each: its mean (None), its percentiles."""


def answer_of(played: list[Played], arriving: Offered, replicas: int, warmup_s: float | None) -> dict[str, Any]:
    """Everything that is printed, as JSON has it: no NaN, seconds throughout."""
    from specsim.metrics.paired import ratios
    from specsim.metrics.serving import LATENCIES

    runs = [run for one in played for run in one.runs]
    last_s = max((float(run.requests.arrival_s.max(initial=0.0)) for run in runs), default=0.0)
    warmup = 0.1 * last_s if warmup_s is None else warmup_s
    answer: dict[str, Any] = {
        "warmup_s": warmup,
        "level": LEVEL,
        "acceptance": _acceptance(played[0]),
        "setups": [_setup(one, arriving, replicas, warmup) for one in played],
    }
    if len(played) == 2 and all(one.runs for one in played):
        pairs = [(b.requests, a.requests) for a, b in zip(played[0].runs, played[1].runs, strict=False)]
        try:
            compared = {kind: ratios(pairs, kind, warmup_s=warmup, level=LEVEL) for kind in LATENCIES}
        except InputError:  # no request that both finished; the verdicts say why
            compared = {}
        answer["ratios"] = known(compared)
    return answer


def _acceptance(one: Played) -> dict[str, Any]:
    spread = one.setup.deployment.acceptance.spread
    corr = None if spread is None else spread.request_corr
    return {"source": one.setup.deployment.acceptance.source, "request_corr": corr}


def _setup(one: Played, arriving: Offered, replicas: int, warmup_s: float) -> dict[str, Any]:
    if not one.runs:
        return {"name": one.setup.name, "infeasible": one.infeasible or "not run: the user ended it before"}
    runs, why = one.runs, Counter(reason for run in one.runs for reason in run.refusals.values())
    unlike = next((run for run in runs if run.verdict != "stable"), runs[0])
    return {
        "name": one.setup.name,
        "infeasible": None,
        "verdict": unlike.verdict,
        "reason": unlike.reason,
        "verdicts": dict(Counter(run.verdict for run in runs)),
        "num_requests": sum(run.num_requests for run in runs),
        "num_finished": sum(run.num_finished for run in runs),
        "num_refused": sum(run.num_refused for run in runs),
        "refusals": [{"request": n, "reason": text} for n, text in list(runs[0].refusals.items())[:10]],
        "refusal_reasons": dict(why.most_common(10)),
        "num_steps": sum(run.num_steps for run in runs),
        "duration_s": runs[0].duration_s,
        "kv_blocks": runs[0].kv_blocks,
        "kv_occupancy": _occupancy(one, replicas),
        "num_gpus": replicas * one.setup.gpus_per_replica,
        "summary": known(_summary(one, arriving, replicas, warmup_s)),
    }


def _occupancy(one: Played, replicas: int) -> dict[str, float] | None:
    """Of the memory of a replica, over time while it worked."""
    from specsim.metrics.serving import kv_occupancy

    steps = one.runs[0].steps
    if steps is None or not len(steps):
        return None
    lanes = one.setup.config.pipeline_parallel
    mean, most = kv_occupancy(steps, max(one.runs[0].kv_blocks // lanes, 1))
    return {"mean": mean, "most": most}


def _summary(one: Played, arriving: Offered, replicas: int, warmup_s: float) -> ServingSummary | None:
    from specsim.metrics.serving import Target, summary

    usd, watts = one.setup.usd_per_s_per_replica, one.setup.watts_per_replica
    slo = arriving.slo()
    try:
        return summary(
            [run.requests for run in one.runs],
            warmup_s=warmup_s,
            target=Target(slo[0] or math.inf, slo[1] or math.inf),
            num_gpus=replicas * one.setup.gpus_per_replica,
            usd_per_s=None if usd is None else usd * replicas,
            power_w=None if watts is None else watts * replicas,
            level=LEVEL,
        )
    except InputError:
        if any(run.num_finished for run in one.runs):
            raise
        return None  # nobody was served; the verdict and the refusals say why


def known(value: Any) -> Any:
    """Dataclasses as tables, and None for what is not known.

    >>> known({"a": float("nan"), 50.0: [1.5]})
    {'a': None, '50': [1.5]}
    """
    from dataclasses import fields, is_dataclass

    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {f"{key:g}" if isinstance(key, float) else str(key): known(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [known(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: known(getattr(value, field.name)) for field in fields(value)}
    return value.item() if hasattr(value, "item") else value


def show_serving(name: str, answer: dict[str, Any]) -> None:
    """Tables for people."""
    from specsim.report import show, table

    settings, setups = answer["settings"], answer["setups"]
    served = [one for one in setups if one["infeasible"] is None]
    title = f"{name}\n{settings['workload']}: {settings['requests']:,} requests"
    title += f", {settings['replications']} replications" if settings["replications"] > 1 else ""
    title += f", {settings['replicas']} replicas" if settings["replicas"] > 1 else ""
    with_figures = [one for one in served if one["summary"]]
    if with_figures:
        columns = ["", *(short_name(one["name"]) for one in with_figures)]
        compared = answer.get("ratios") if len(with_figures) == 2 else None
        rows = _rows(with_figures, compared, settings)
        said = f"± {answer['level']:.0%} intervals."
        said += f" Who came in the first {answer['warmup_s']:.4g} s is left out." if answer["warmup_s"] else ""
        show(table(title, [*columns, *(["ratio"] if compared else [])], rows, said))
    else:
        show(title)
    for one in setups:
        show(*_verdict(one))
    show(*_notes(answer))


def short_name(name: str) -> str:
    """A setup's name for a heading: a schedule in full is told below.

    >>> short_name("tuned (1-8: 4, 9-256: 2), tp=2"), short_name("draft 3")
    ('tuned schedule, tp=2', 'draft 3')
    """
    head, _, tail = name.partition(")")
    return f"tuned schedule{tail}" if head.startswith("tuned (") else name


def _rows(setups: list[dict[str, Any]], compared: dict[str, Any] | None, settings: dict[str, Any]) -> list[list[str]]:
    rows = []
    for kind, label, parts in SHOWN:
        for q in parts:
            figures = [_of(one["summary"]["mean"][kind], one["summary"]["percentiles"][kind], q) for one in setups]
            cells = [seconds(figure) for figure in figures]
            if compared:
                cells.append(_ratio(_of(compared[kind]["mean"], compared[kind]["percentiles"], q)))
            rows.append([f"{label}, {'mean' if q is None else f'p{q:g}'}", *cells])
    more: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("requests per second", lambda s: f"{s['requests_per_s']:.4g}"),
        ("tokens per second", lambda s: _number(s["tokens_per_s"])),
        ("tokens per second and device", lambda s: f"{s['tokens_per_s_per_gpu']:.4g}"),
    ]
    if settings["ttft_slo_s"] or settings["tpot_slo_s"]:
        more += [
            ("met the targets", lambda s: _share(s["attained"])),
            ("goodput: those per second", lambda s: _number(s["goodput_per_s"])),
        ]
    more += [
        ("tokens per round", lambda s: _or_dash(s["tokens_per_round"], ".3f")),
        ("drafts kept", lambda s: _or_dash(s["accepted_frac"], ".1%")),
        ("prompt tokens found again", lambda s: f"{s['cached_frac']:.1%}" if s["cached_frac"] else "-"),
        ("preemptions", lambda s: str(s["num_preempted"])),
        ("USD per million tokens", lambda s: _or_dash(s["usd_per_million_tokens"], ".3f")),
        ("joules per token, at most", lambda s: _or_dash(s["joules_per_token"], ".3g")),
    ]
    blank = [""] if compared else []
    for label, said in more:
        cells = [said(one["summary"]) for one in setups]
        if any(cell not in ("-", "") for cell in cells):
            rows.append([label, *cells, *blank])
    if all(one["kv_occupancy"] for one in setups):
        cells = [f"{one['kv_occupancy']['mean']:.1%}, {one['kv_occupancy']['most']:.1%}" for one in setups]
        rows.insert(-2, ["KV memory held, mean and most", *cells, *blank])
    return rows


def _of(mean: dict[str, Any], percentiles: dict[str, Any], q: float | None) -> dict[str, Any]:
    found: dict[str, Any] = mean if q is None else percentiles[f"{q:g}"]
    return found


def seconds(figure: dict[str, Any]) -> str:
    """A time with its interval, in one unit.

    >>> seconds({"value": 0.2, "low": 0.18, "high": 0.22}), seconds({"value": None})
    ('200 ± 20 ms', '-')
    >>> seconds({"value": 1.26, "low": 1.22, "high": 1.3})
    '1.26 ± 0.04 s'
    """
    value = figure["value"]
    if value is None:
        return "-"
    scale, unit = next((s, u) for s, u in ((1.0, "s"), (1e3, "ms"), (1e6, "us")) if value * s >= 1 or u == "us")
    return f"{_with_error(figure, scale)} {unit}"


def _with_error(figure: dict[str, Any], scale: float = 1.0) -> str:
    value = figure["value"] * scale
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    if figure.get("low") is None:
        return f"{value:,.{digits}f}"
    return f"{value:,.{digits}f} ± {(figure['high'] - figure['value']) * scale:,.{digits}f}"


def _number(figure: dict[str, Any]) -> str:
    return "-" if figure["value"] is None else _with_error(figure)


def _share(figure: dict[str, Any]) -> str:
    if figure["low"] is None:
        return f"{figure['value']:.1%}"
    return f"{figure['value']:.1%} ± {figure['high'] - figure['value']:.1%}"


def _ratio(figure: dict[str, Any]) -> str:
    if figure["value"] is None:
        return "-"
    error = "" if figure["low"] is None else f" ± {figure['high'] - figure['value']:.2f}"
    return f"{figure['value']:.2f}{error}"


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _verdict(one: dict[str, Any]) -> list[str]:
    if one["infeasible"] is not None:
        return [f"{one['name']}: no answer: {one['infeasible']}"]
    runs = sum(one["verdicts"].values())
    share = f" in {one['verdicts'][one['verdict']]} of {runs} runs" if runs > 1 else ""
    said = [f"{one['name']}: {one['verdict']}{share}" + (f": {one['reason']}." if one["reason"] else ".")]
    if one["num_refused"]:
        first = "; ".join(f"request {each['request']}: {each['reason']}" for each in one["refusals"][:3])
        said.append(f"  refused, for they can never be served: {one['num_refused']} of {one['num_requests']}: {first}")
    return said


def _notes(answer: dict[str, Any]) -> list[str]:
    corr, left_out = answer["acceptance"]["request_corr"], answer["left_out"]
    notes = [f"Acceptance: {answer['acceptance']['source']}"]
    notes.append(
        "Requests differ in acceptance as the scenario's spread says."
        if corr
        else "All requests are alike in acceptance: the scenario does not say how they differ (request_spread)."
    )
    if left_out["malformed"]:
        shown = "; ".join(left_out["malformed"][:3])
        notes.append(f"Malformed lines of the trace, left out: {len(left_out['malformed'])}: {shown}")
    if left_out["failed_when_recorded"]:
        notes.append(f"Requests that had failed when they were recorded, left out: {left_out['failed_when_recorded']}")
    return notes
