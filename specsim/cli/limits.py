"""``specsim limits``: the speed of light of a workload on a deployment, how far methods are from it, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specsim.cli.generate import tree_from
from specsim.cli.output import AsJson, print_json, whole_numbers
from specsim.cli.tune import Batch, Context, Devices, Hardware, Plot, ScenarioName, what_if
from specsim.errors import InputError

if TYPE_CHECKING:
    from specsim.cli.limits_source import Surprisals
    from specsim.scenario import Deployment, Scenario

Logprobs = Annotated[
    Path | None, typer.Option(help="JSON lines: of each text the target's logprobs of its own tokens, nats.")
]
Entropy = Annotated[str | None, typer.Option(help="mu,mu2: mean surprisal and mean square of it, nats.")]
Executor = Annotated[bool, typer.Option("--executor", help="Record them here, from the shipped models.")]
Belief = Annotated[
    bool, typer.Option("--belief", help="The surprisals are a drafter's belief in a greedy target (temperature 0).")
]
Temperature = Annotated[float | None, typer.Option(help="Instead of the scenario's.")]
MaxTokens = Annotated[int, typer.Option(min=1, max=16_384, help="Most draft tokens considered for the limit.")]
Sizes = Annotated[str, typer.Option(help="Numbers of draft tokens to print.")]
Horizon = Annotated[int | None, typer.Option(min=1, help="Tokens of each window of a text.")]
DraftLen = Annotated[int | None, typer.Option(help="Break down this chain, instead of the best configuration.")]
Widths = Annotated[str | None, typer.Option(help="Break down the tree of these widths, for instance 3,2,1.")]
Measured = Annotated[float | None, typer.Option(help="Measured tokens per second of all sequences, to end with.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the shipped models' texts.")]


def limits(
    scenario: ScenarioName,
    logprobs: Logprobs = None,
    entropy: Entropy = None,
    executor: Executor = False,
    belief: Belief = False,
    temperature: Temperature = None,
    batch: Batch = None,
    context: Context = None,
    hardware: Hardware = None,
    tp: Devices = None,
    max_tokens: MaxTokens = 1024,
    sizes: Sizes = "1,4,16,64,256,1024",
    horizon: Horizon = None,
    draft_len: DraftLen = None,
    widths: Widths = None,
    measured: Measured = None,
    seed: Seed = 0,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """The most that lossless speculation could give, what each method reaches of it, and where the rest is lost."""
    from specsim.cli.limits_view import answer_of, as_answer, show_answer
    from specsim.plots import check_plot_path
    from specsim.scenario import find_scenario

    if plot:
        check_plot_path(plot)
    asked = what_if(find_scenario(scenario), batch, context, hardware, tp, None)
    asked = asked.varied(temperature=temperature) if temperature is not None else asked
    shown = [size for size in whole_numbers("sizes", sizes, 1) if size <= max_tokens]
    if not shown:
        raise InputError("sizes", f"must be at most max-tokens ({max_tokens})", sizes)
    known = _surprisals(asked, logprobs, entropy, executor, belief, seed)
    chosen = None if draft_len is None and widths is None else tree_from(draft_len, widths)
    deployment = _deployment(asked, known)
    answer = answer_of(deployment, known, max_tokens, horizon, chosen, measured, belief)
    if as_json:
        print_json("limits", as_answer(answer, shown))
    else:
        show_answer(answer, shown)
    if plot:
        from specsim.plots.waterfall import plot_waterfall

        plot_waterfall(answer.steps, plot, f"{asked.name}\n{answer.explained.tree.label}: where the limit goes")


def _surprisals(
    scenario: Scenario, logprobs: Path | None, entropy: str | None, executor: bool, belief: bool, seed: int
) -> Surprisals:
    from specsim.cli.limits_source import from_executor, from_file, from_moments

    temperature = scenario.workload.temperature
    if temperature == 0 and not belief:
        limit = ("must be > 0, or say --belief: a greedy target has no entropy, so that only a drafter's belief in it "
                 "has a limit")  # fmt: skip
        raise InputError("workload.temperature", limit, temperature)
    if temperature > 0 and belief:
        raise InputError("belief", "must be left out above temperature 0", temperature)
    given = [name for name, value in (("logprobs", logprobs), ("entropy", entropy), ("executor", executor)) if value]
    if len(given) != 1:
        raise InputError("limits", "needs one of --logprobs, --entropy and --executor", given)
    if logprobs is not None:
        return from_file(logprobs)
    return from_moments(entropy) if entropy is not None else from_executor(temperature, seed)


def _deployment(scenario: Scenario, known: Surprisals) -> Deployment:
    """The deployment; where acceptance was measured with the surprisals, that instead of the scenario's."""
    from dataclasses import replace

    from specsim.scenario import resolve

    if known.profile is None:
        return resolve(scenario)
    limits: dict[str, Any] = scenario.search.model_dump()
    depth = known.profile.max_depth
    narrowed = {name: min(limits[name], depth) for name in ("max_draft_len", "max_depth")}
    asked = scenario.varied(search=limits | narrowed)
    return replace(resolve(asked), acceptance=known.profile)
