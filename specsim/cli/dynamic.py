"""``specsim dynamic``: trees that grow by the drafter's confidence, tuned, against the best static tree and oracles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specsim.cli.output import AsJson, print_json
from specsim.cli.tune import Batch, Context, Devices, Hardware, ScenarioName, Top, what_if

if TYPE_CHECKING:
    from specsim.scenario import Deployment
    from specsim.search.dynamic.table import DynamicTable
    from specsim.search.dynamic.tuning import DynamicTuning

TableFile = Annotated[
    Path | None,
    typer.Option("--table", help="Keep the policies' rounds in this .npz file, or take them from it where it exists."),
]
Requests = Annotated[int, typer.Option(min=16, max=4096, help="Texts that every policy decodes.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the texts.")]
WithCast = Annotated[bool, typer.Option("--cast/--no-cast", help="Also play CAST, whose trees follow from the costs.")]
Confidence = Annotated[float, typer.Option(help="Of the intervals, and that no better policy is left out.")]


def dynamic(
    scenario: ScenarioName,
    batch: Batch = None,
    context: Context = None,
    hardware: Hardware = None,
    tp: Devices = None,
    table: TableFile = None,
    requests: Requests = 64,
    seed: Seed = 0,
    cast: WithCast = True,
    confidence: Confidence = 0.95,
    top: Top = 8,
    as_json: AsJson = False,
) -> None:
    """Tune EAGLE-2, OPT-Tree, TALON, CAST, C2T and confidence stop on the process behind the scenario's acceptance."""
    from specsim.scenario import find_scenario, resolve
    from specsim.search.dynamic.cast import with_cast
    from specsim.search.dynamic.score import t_quantile
    from specsim.search.dynamic.tuning import tune_dynamic

    t_quantile(confidence, 2)  # refused before the work, not after it
    deployment = resolve(what_if(find_scenario(scenario), batch, context, hardware, tp, None))
    check_drafts(deployment)
    rounds = kept_table(deployment, table, requests, seed)
    limits = deployment.scenario.search
    if cast and deployment.drafting == "autoregressive":
        rounds = with_cast(rounds, deployment, limits.max_nodes, min(16, limits.max_nodes), limits.max_depth)
    tuning = tune_dynamic(deployment, rounds, confidence)
    marks = oracle(deployment, rounds)
    if as_json:
        print_json("dynamic", as_answer(deployment, tuning, marks))
    else:
        show_tuning(deployment, tuning, marks, top)


def check_drafts(deployment: Deployment) -> None:
    """Raise InputError where no drafter says how sure it is, or there is no room for a draft."""
    from specsim.errors import InputError

    s = deployment.scenario
    if s.drafter.kind in ("none", "ngram"):
        raise InputError("drafter.kind", "must be one that gives probabilities, for trees to grow by", s.drafter.kind)
    if deployment.acceptance.rank_order != "free":
        raise InputError("acceptance.rank_order", "must be free: these policies take the likeliest", "ordered")
    if s.search.max_nodes < 2 or s.search.max_depth < 1:
        raise InputError("search", "must leave room for a draft: 2 nodes and 1 level", s.search.max_nodes)


def kept_table(deployment: Deployment, file: Path | None, requests: int, seed: int) -> DynamicTable:
    """The rounds from the file, or played now and kept there."""
    if file is not None and file.exists():
        return checked_table(deployment, file)
    return _played(deployment, file, requests, seed)


def checked_table(deployment: Deployment, file: Path, option: str = "--table") -> DynamicTable:
    """The rounds from a file. Raises InputError where they are of another acceptance, temperature or search."""
    from specsim.errors import InputError
    from specsim.search.dynamic.table import load_table

    _check_suffix(file, option)
    table = load_table(file)
    if (table.note, table.temperature) != (_note(deployment), deployment.scenario.workload.temperature):
        raise InputError(option, "must hold rounds of this acceptance, temperature and search", file.name)
    return table


def _check_suffix(file: Path, option: str) -> None:
    from specsim.errors import InputError

    if file.suffix != ".npz":
        raise InputError(option, "must be an .npz file", file.name)


def _note(deployment: Deployment) -> str:
    """What the rounds of a table belong to."""
    from specsim.acceptance.trie import by_rank

    profile, limits = by_rank(deployment.acceptance), deployment.scenario.search
    return f"{profile.source}; {limits.max_nodes} nodes, depth {limits.max_depth}; {profile.accept_prob.tolist()}"


def _played(deployment: Deployment, file: Path | None, requests: int, seed: int) -> DynamicTable:
    from dataclasses import replace

    from specsim.acceptance.process_fit import fit_profile
    from specsim.acceptance.trie import by_rank
    from specsim.search.dynamic.gate import train_gate
    from specsim.search.dynamic.tuning import dynamic_grid, tuned_table

    s, profile = deployment.scenario, by_rank(deployment.acceptance)
    temperature, limits = s.workload.temperature, s.search
    if file is not None:
        _check_suffix(file, "--table")
    process = fit_profile(profile, temperature, sampled=False, num_possible=0).process
    gate = train_gate(process, temperature, limits.max_depth, 24, seed + 1)
    grid = dynamic_grid(limits.max_nodes, limits.max_depth, gate)
    played = tuned_table(process, grid, temperature, limits.max_nodes, limits.max_depth, requests, seed)
    played = replace(played, note=_note(deployment))
    if file is not None:
        played.save(file)
    return played


def oracle(deployment: Deployment, table: DynamicTable) -> dict[str, float]:
    """Rates of rounds sized by who knows the target's law: of the drafter's candidates, and of the target's own."""
    import numpy as np

    from specsim.search.dynamic.oracle import Knows, hindsight, level_costs
    from specsim.search.tune import verify_costs

    limits, batch = deployment.scenario.search, deployment.scenario.workload.batch
    verify = verify_costs(deployment, limits.max_nodes)
    levels = np.concatenate(([0.0], np.cumsum(level_costs(deployment, limits.max_depth))))
    assert table.process is not None  # the tables of this command are played, not recorded
    found: dict[str, float] = {}
    knows: tuple[Knows, Knows] = ("drafter", "light")
    for who in knows:
        sizes = hindsight(
            table.process, table.temperature, who, limits.max_nodes, limits.max_depth,
            min(table.num_requests, 64), table.seed,
        )  # fmt: skip
        found[who] = batch * sizes.rate(verify, levels if who == "drafter" else 0 * levels)[0]
    return found


def show_tuning(deployment: Deployment, tuning: DynamicTuning, marks: dict[str, float], top: int) -> None:
    """Tables for people."""
    from specsim.cli.robust import rate_words
    from specsim.report import show, table
    from specsim.search.dynamic.tuning import label_of
    from specsim.units import format_time

    s, scores = deployment.scenario, tuning.scores
    where = f"batch {s.workload.batch}, context {s.workload.context_tokens:,} tokens"
    title = f"{s.name}\n{where}, temperature {tuning.table.temperature:g}"
    shown = list(dict.fromkeys([*tuning.order[:top], tuning.best, tuning.static]))
    rows = []
    for i in shown:
        parts = [format_time(float(p[i])) for p in (scores.draft_s, scores.verify_s, scores.host_s)]
        marked = [n for n, at in (("best that grows", tuning.best), ("best static", tuning.static)) if at == i]
        interval = f"{rate_words(tuning.low[i])} - {rate_words(tuning.high[i])}"
        rows.append((
            label_of(tuning.table.policies[i]), f"{scores.tokens_per_round[i]:.2f}", f"{scores.nodes[i]:.1f}", *parts,
            rate_words(scores.tokens_per_s[i]), interval, "yes" if tuning.may_be_best[i] else "no", ", ".join(marked),
        ))  # fmt: skip
    words = "policy,tokens/round,nodes,draft,verify,host,tokens/s,interval,may be best,"
    show(table(title, words.split(","), rows, _verdict(tuning)))
    names = {"drafter": "sizes chosen knowing the target's law", "light": "a free drafter that knows the target's law"}
    best = float(scores.tokens_per_s[tuning.order[0]])
    for who, rate in marks.items():
        show(f"Oracle, {names[who]}: {rate_words(rate)} tokens/s, {rate / best:.2f} of the best.")
    searched = ", ".join(f"{num} {kind}" for kind, num in tuning.certificate["searched"].items())
    show(f"Searched: {searched}; on {tuning.table.num_requests} texts.")
    for label, reason in tuning.refused:
        show(f"Not tried: {label}: {reason}.")


def _verdict(tuning: DynamicTuning) -> str:
    low, ratio, high = tuning.gain
    said = (
        f"Growing by confidence brings {ratio - 1:+.1%} over the best static tree ({low - 1:+.1%} to {high - 1:+.1%})"
    )
    num = int(tuning.may_be_best.sum())
    return f"{said}; {num} {'policy' if num == 1 else 'policies'} may be the best."


def as_answer(deployment: Deployment, tuning: DynamicTuning, marks: dict[str, float]) -> dict[str, Any]:
    """The JSON answer."""
    from specsim.search.dynamic.tuning import label_of

    low, ratio, high = tuning.gain
    scores = tuning.scores
    return {
        "scenario": deployment.scenario,
        "best_dynamic": label_of(tuning.table.policies[tuning.best]),
        "best_static": label_of(tuning.table.policies[tuning.static]),
        "gain": ratio,
        "gain_interval": (low, high),
        "oracle_tokens_per_s": marks,
        "certificate": tuning.certificate,
        "process": tuning.table.process,
        "policies": [
            {
                "configuration": label_of(tuning.table.policies[i]),
                "kind": tuning.table.policies[i].kind,  # type: ignore[attr-defined]
                "tokens_per_round": scores.tokens_per_round[i],
                "mean_nodes": scores.nodes[i],
                "draft_s": scores.draft_s[i],
                "verify_s": scores.verify_s[i],
                "host_s": scores.host_s[i],
                "tokens_per_s": scores.tokens_per_s[i],
                "tokens_per_s_interval": (tuning.low[i], tuning.high[i]),
                "may_be_best": tuning.may_be_best[i],
            }
            for i in tuning.order
        ],
        "refused": [{"configuration": label, "reason": reason} for label, reason in tuning.refused],
    }
