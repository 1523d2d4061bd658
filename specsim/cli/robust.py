"""``specsim robust``: which configuration to choose where acceptance and times are uncertain, and what to measure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from specsim.cli.output import AsJson, print_json
from specsim.cli.tune import Batch, Context, Devices, Hardware, ScenarioName, Top, what_if

if TYPE_CHECKING:
    from specsim.scenario import Deployment
    from specsim.search.robust.choice import RobustChoice
    from specsim.search.robust.draws import RateDraws
    from specsim.search.robust.value import Worth
    from specsim.tree import DraftTree

NUM_DYNAMIC: Final = 3
TEXTS: Final = 64
"""Policies that grow by confidence to consider, and texts to play where there is no table yet."""

TableFile = Annotated[
    Path | None,
    typer.Option(
        "--table", help="Consider trees that grow, too: rounds of `specsim dynamic --table` in this .npz file."
    ),
]
Level = Annotated[float, typer.Option(help="Of the intervals, and of the corners that the worst regret is over.")]
TieLevel = Annotated[float, typer.Option(help="Configurations tie whose ratio's interval at this level holds 1.")]
Draws = Annotated[int, typer.Option(min=200, max=1_000_000, help="Worlds to draw.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the draws.")]


def robust(
    scenario: ScenarioName,
    batch: Batch = None,
    context: Context = None,
    hardware: Hardware = None,
    tp: Devices = None,
    level: Level = 0.9,
    tie_level: TieLevel = 0.68,
    draws: Draws = 4000,
    seed: Seed = 0,
    table: TableFile = None,
    top: Top = 8,
    as_json: AsJson = False,
) -> None:
    """Choose a draft configuration under uncertainty: chances, regrets, ties, and what a measurement would be worth."""
    import numpy as np

    from specsim.scenario import find_scenario, resolve
    from specsim.search.robust.draws import rate_draws
    from specsim.search.tune import tune

    deployment = resolve(what_if(find_scenario(scenario), batch, context, hardware, tp, None))
    trees = [estimate.tree for estimate in tune(deployment).ranked]
    if table is None:
        drawn = rate_draws(deployment, trees, np.random.default_rng(seed), draws)
    else:
        drawn = _with_dynamic(deployment, trees, table, draws, seed)
    choice, worth = drawn.choice(level, tie_level), drawn.worth()
    if as_json:
        print_json("robust", as_answer(deployment, drawn, choice, worth))
    else:
        show_choice(deployment, choice, worth, top)


def _with_dynamic(deployment: Deployment, trees: list[DraftTree], file: Path, draws: int, seed: int) -> RateDraws:
    """Draws of the trees, and of the best policies that grow by confidence."""
    from contextlib import suppress

    import numpy as np

    from specsim.acceptance.emitted import check_tree_fits
    from specsim.cli.dynamic import check_drafts, kept_table
    from specsim.decoding import StaticTree
    from specsim.errors import InputError
    from specsim.search.dynamic.tuning import tune_dynamic
    from specsim.search.robust.draws import rate_draws
    from specsim.search.robust.dynamic import with_dynamic

    check_drafts(deployment)
    tuning = tune_dynamic(deployment, kept_table(deployment, file, TEXTS, 0))
    static = tuning.table.policies[tuning.static]
    assert isinstance(static, StaticTree)
    rng = np.random.default_rng(seed)
    with suppress(InputError):  # a tree that acceptance does not speak of is no candidate
        check_tree_fits(static.tree, deployment.acceptance)
        trees = list(dict.fromkeys([*trees, static.tree]))
    return with_dynamic(rate_draws(deployment, trees, rng, draws), trees, tuning, NUM_DYNAMIC, rng)


def show_choice(deployment: Deployment, choice: RobustChoice, worth: list[Worth], top: int) -> None:
    """Tables for people."""
    from specsim.report import show, table

    s = deployment.scenario
    title = f"{s.name}\nbatch {s.workload.batch}, context {s.workload.context_tokens:,} tokens, {s.runtime} runtime"
    order = sorted(range(len(choice.candidates)), key=lambda i: -choice.mean_rate[i])
    shown = list(dict.fromkeys([*order[:top], choice.chosen, choice.min_max]))
    columns = (
        "configuration",
        "tokens/s",
        f"{choice.level:.0%} interval",
        "best in",
        "mean regret",
        "worst regret",
        "",
    )
    show(table(title, columns, [_row(choice, i) for i in shown], verdict(choice)))
    found = [w for w in worth if w.gain > 2 * w.gain_sd]
    rest = [w.name for w in worth if w.gain <= 2 * w.gain_sd]
    if found:
        title = f"What measuring is worth (knowing all: {choice.perfect_information:.2%} of the rate)"
        rows = [(w.name, f"{w.gain:.2%}", f"{w.changes:.0%}") for w in found]
        show(table(title, ("if this were known exactly", "gain", "changes the choice in"), rows))
    if rest:
        show(f"Not found to change the choice for the better: {_listed(rest)}.")


def _listed(names: list[str]) -> str:
    """
    >>> _listed(["host time", "acceptance at depth 3", "acceptance at depth 1"])
    'host time, acceptance at depths 1, 3'
    """
    prefix = "acceptance at depth "
    depths = sorted(int(name.removeprefix(prefix)) for name in names if name.startswith(prefix))
    said = [name for name in names if not name.startswith(prefix)]
    if depths:
        said.append(f"{prefix.strip()}{'s' if len(depths) > 1 else ''} {', '.join(map(str, depths))}")
    return ", ".join(said)


def rate_words(value: float) -> str:
    """A rate in four digits, or all of those before the point.

    >>> rate_words(11234.4), rate_words(18.751)
    ('11,234', '18.75')
    """
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def verdict(choice: RobustChoice) -> str:
    """The choice in words."""
    label = choice.candidates[choice.chosen].label
    said = f"Choose {label}."
    if choice.is_tie:
        others = len(choice.tied) - 1
        said += f" {others} more {'ties' if others == 1 else 'tie'} with it within the uncertainty; it is the simplest"
        said += f", and gives up {choice.given_up:.1%} of the highest mean rate." if choice.given_up > 5e-4 else "."
    if choice.min_max != choice.chosen:
        said += f" Least worst regret: {choice.candidates[choice.min_max].label}."
    return said


def _row(choice: RobustChoice, i: int) -> tuple[str, ...]:
    marks = [name for name, place in (("chosen", choice.chosen), ("highest", choice.highest)) if place == i]
    marks += ["least worst regret"] if choice.min_max == i else []
    marks += ["tie"] if choice.is_tie and i in choice.tied and not marks else []
    return (
        choice.candidates[i].label,
        rate_words(choice.mean_rate[i]),
        f"{rate_words(choice.low[i])} - {rate_words(choice.high[i])}",
        f"{choice.prob_best[i]:.0%}",
        f"{choice.expected_regret[i]:.1%}",
        f"{choice.max_regret[i]:.1%}",
        ", ".join(marks),
    )


def as_answer(deployment: Deployment, drawn: RateDraws, choice: RobustChoice, worth: list[Worth]) -> dict[str, Any]:
    """The JSON answer."""
    return {
        "scenario": deployment.scenario,
        "level": choice.level,
        "tie_level": choice.tie_level,
        "num_draws": len(drawn.tokens),
        "chosen": choice.candidates[choice.chosen].label,
        "highest": choice.candidates[choice.highest].label,
        "least_worst_regret": choice.candidates[choice.min_max].label,
        "tied": [choice.candidates[i].label for i in choice.tied],
        "given_up": choice.given_up,
        "perfect_information": choice.perfect_information,
        "candidates": [
            {
                "configuration": candidate.label,
                "kind": candidate.kind,
                "num_nodes": candidate.num_nodes,
                "tokens_per_s": choice.mean_rate[i],
                "tokens_per_s_interval": (choice.low[i], choice.high[i]),
                "prob_best": choice.prob_best[i],
                "expected_regret": choice.expected_regret[i],
                "worst_regret": choice.max_regret[i],
            }
            for i, candidate in enumerate(choice.candidates)
        ],
        "worth_of_knowing": worth,
    }
