"""What ``specsim tune`` says of a named engine and of the reasons: searched within its words, and without each term."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specsim.errors import InputError

if TYPE_CHECKING:
    from specsim.scenario import Deployment, EngineUse, Scenario
    from specsim.search.explain import Counterfactual, Explanation, Step
    from specsim.search.expressible import EngineBest, Expressed
    from specsim.search.tune import Tuning


def engine_use(text: str) -> EngineUse:
    """An engine and its version, as ``vllm@0.33.0``.

    >>> engine_use("vllm@0.33.0").version
    '0.33.0'
    >>> engine_use("vllm")
    Traceback (most recent call last):
    specsim.errors.InputError: engine: must be a name and a version, such as vllm@0.33.0, got 'vllm'
    """
    from specsim.dialect import dialect
    from specsim.documents import parse
    from specsim.scenario import EngineUse

    name, at, version = text.partition("@")
    if not at or not version:
        raise InputError("engine", "must be a name and a version, such as vllm@0.33.0", text)
    dialect(name, version)
    return parse(EngineUse, {"engine": name, "version": version}, "engine")


def priced_on(scenario: Scenario, use: EngineUse | None) -> Scenario:
    """The scenario on the engine's kernels and captured sizes, unless it names an engine itself."""
    from typing import get_args

    from specsim.cost.engine import Engine

    if use is None or scenario.engine is not None or use.engine not in get_args(Engine):
        return scenario
    return scenario.varied(engine=use.engine)


def engine_as_json(deployment: Deployment, tuning: Tuning, use: EngineUse, within: EngineBest) -> dict[str, Any]:
    """The best that the engine accepts."""
    from specsim.engines.answer import export_of

    export = export_of(deployment, use, within.best.tree, within.best.draft_tensor_parallel)
    return {
        "engine": use.engine,
        "version": use.version,
        "best": _expressed(within.best, within.plain_tokens_per_s),
        "loss": within.loss(tuning.best.tokens_per_s),
        "num_tried": within.num_tried,
        "refused": within.refused,
        "ranked": [_expressed(one, within.plain_tokens_per_s) for one in within.ranked],
        "command": export.command,
        "config": export.config,
        "files": export.files,
        "notes": export.notes,
    }


def _expressed(one: Expressed, plain: float) -> dict[str, Any]:
    from specsim.tree import DraftTree

    tree = one.tree
    return {
        "configuration": one.label,
        "draft_len": tree.num_drafted if isinstance(tree, DraftTree) else None,
        "topk_tree": None if isinstance(tree, DraftTree) else tree,
        "draft_tensor_parallel": one.draft_tensor_parallel,
        "tokens_per_round": one.tokens_per_round,
        "round_s": one.round_s,
        "tokens_per_s": one.tokens_per_s,
        "speedup": one.tokens_per_s / plain,
        "is_estimate": one.is_estimate,
    }


def explanation_as_json(why: Explanation) -> dict[str, Any]:
    """The counterfactuals and the steps between chains."""
    from dataclasses import asdict

    return {
        "decided_by": why.decided_by.term if why.decided_by else None,
        "counterfactuals": [asdict(one) for one in why.counterfactuals],
        "steps": [asdict(step) | {"pays": step.pays} for step in why.steps],
    }


def show_engine(deployment: Deployment, tuning: Tuning, use: EngineUse, within: EngineBest) -> None:
    """The best that the engine accepts, what else it could do, and the command."""
    from specsim.cli.tune import three_digits
    from specsim.engines.answer import export_of
    from specsim.report import show, table

    rows = [
        (o.label, f"{o.tokens_per_round:.2f}{' *' if o.is_estimate else ''}", three_digits(o.tokens_per_s),
         f"{o.tokens_per_s / within.plain_tokens_per_s:.2f}", o.draft_tensor_parallel)
        for o in within.ranked[:8]
    ]  # fmt: skip
    loss = within.loss(tuning.best.tokens_per_s)
    against = f"{abs(loss):.1%} {'slower' if loss >= 0 else 'faster'} than the best chain or static tree of any engine"
    note = f"{within.num_tried} configurations tried; the best is {against}."
    if any(o.is_estimate for o in within.ranked[:8]):
        note += " * of the average context: a tree that follows the context does better where confidence is right."
    columns = ("configuration", "tokens/round", "tokens/s", "speed-up", "draft on devices")
    show(table(f"What {within.engine} accepts", columns, rows, note))
    for reason in within.refused:
        show(f"  {reason}")
    export = export_of(deployment, use, within.best.tree, within.best.draft_tensor_parallel)
    show(f"  {export.command}", *(f"  note: {text}" for text in export.notes))


def show_explanation(why: Explanation) -> None:
    """Which term decided, and the first chain that was too long."""
    from specsim.report import show, table
    from specsim.search.explain import WORDS

    rows = [(f"if {WORDS[c.term]}", c.label, f"{c.speedup:.2f}", _gain(c)) for c in why.counterfactuals]
    said = f"The best is {why.best.tree.label}, {why.best.speedup:.2f} times plain decoding. "
    if why.decided_by is None:
        said += "No single term would change the choice."
    else:
        said += f"What decided is {why.decided_by.term}: without it {why.decided_by.label} would win."
    show(table("Why: the best of other worlds", ("world", "best there", "speed-up", "faster by"), rows, said))
    if why.last_step is not None:
        show(_step(why.last_step))


def _gain(one: Counterfactual) -> str:
    return f"{one.gain:.1%}" + ("" if one.changes else ", same choice")


def _step(step: Step) -> str:
    from specsim.units import format_time

    parts = {"drafting": step.draft_s, "verification": step.verify_s, "host work": step.host_s}
    costs = ", ".join(f"{name} {'-' if s < 0 else ''}{format_time(abs(s))}" for name, s in parts.items())
    return (
        f"From chain {step.draft_len - 1} to {step.draft_len}: {step.tokens:.3f} tokens more per round, worth "
        f"{format_time(step.worth_s)} at the speed reached, for {format_time(max(0.0, sum(parts.values())))} ({costs})."
    )
