"""Every method's row: what was measured beside what was predicted from other prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from specsim.cost.model import CostModel
from specsim.decoding import RULES, Draw, Rule
from specsim.decoding.law import law_table
from specsim.methods.catalogue import NamedMethod
from specsim.methods.round import Drafting, Situation, play
from specsim.tree import DraftTree
from specsim.validate.compare import Runs, mean_round_s, mean_tokens

RESAMPLES: Final = 2000
LEVEL: Final = 0.9

Float = NDArray[np.float64]
ByPrompt = Mapping[int, Sequence[float]]
"""Expected tokens of each recorded round, by prompt."""


@dataclass(frozen=True)
class Forecast:
    """What is said of a method before it is measured.

    Attributes:
        tokens_per_round: Mean, bonus token in.
        interval: That holds with probability 0.9 what as many prompts as are measured will show.
        round_s: Mean time of a round.
        simulated_tokens: Tokens per round in the synthetic world fitted to this drafter's records.
        how: Where ``tokens_per_round`` is from: "paths" (exact acceptance of each node of the tree on recorded
            drafts) or "process" (the policy run in the fitted synthetic world).
    """

    tokens_per_round: float
    interval: tuple[float, float]
    round_s: float
    simulated_tokens: float
    how: Literal["paths", "process"]


@dataclass(frozen=True)
class MethodRow:
    """One method, measured and predicted. Speed-ups are over plain decoding at the same temperature.

    Attributes:
        same_text: Whether greedy text was plain decoding's, token for token; None above temperature 0.
        total_variation: From the target's law over three tokens of a toy language; what the rule does, not this pair.
        draft_s, verify_s, host_s: Mean parts of a measured round.
        comment: How ours compares with a figure of the literature.
    """

    name: str
    source: str
    drafter: str
    settings: str
    rule: str
    knobs: dict[str, float]
    temperature: float
    lossless: bool
    total_variation: float
    same_text: bool | None
    num_rounds: int
    tokens_measured: float
    tokens_predicted: float
    tokens_interval: tuple[float, float]
    tokens_simulated: float
    predicted_by: str
    round_measured_s: float
    round_predicted_s: float
    draft_s: float
    verify_s: float
    host_s: float
    speedup_measured: float
    speedup_predicted: float
    comment: str = ""


@dataclass(frozen=True)
class Summary:
    """Mean absolute relative errors over the methods that draft, how often the interval held, the fastest lossless."""

    tokens_error: float
    round_error: float
    speedup_error: float
    coverage: float
    best: str = field(default="")


def row_of(
    method: NamedMethod,
    temperature: float,
    runs: Runs,
    plain: Runs,
    forecast: Forecast,
    plain_forecast: Forecast,
    same_text: bool | None,
    comment: str = "",
) -> MethodRow:
    """The row of one method, ``runs`` being its measured rounds by prompt and ``plain`` those of plain decoding."""
    records = [record for rounds in runs.values() for record in rounds]
    parts = np.mean([(r.draft_s, r.verify_s, r.host_s) for r in records], axis=0)
    tokens, round_s = mean_tokens(runs), mean_round_s(runs)
    return MethodRow(
        name=method.name,
        source=method.source,
        drafter=method.drafter,
        settings=method.settings,
        rule=method.rule,
        knobs=dict(method.knobs),
        temperature=temperature,
        lossless=method.lossless,
        total_variation=total_variation(method.rule, method.draw),
        same_text=same_text,
        num_rounds=len(records),
        tokens_measured=tokens,
        tokens_predicted=forecast.tokens_per_round,
        tokens_interval=forecast.interval,
        tokens_simulated=forecast.simulated_tokens,
        predicted_by=forecast.how,
        round_measured_s=round_s,
        round_predicted_s=forecast.round_s,
        draft_s=float(parts[0]),
        verify_s=float(parts[1]),
        host_s=float(parts[2]),
        speedup_measured=tokens * mean_round_s(plain) / round_s,
        speedup_predicted=forecast.tokens_per_round * plain_forecast.round_s / forecast.round_s,
        comment=comment,
    )


def summary(rows: Sequence[MethodRow]) -> Summary:
    """Over the methods that draft; those whose tokens are all accepted or none say nothing of intervals."""
    drafting = [row for row in rows if row.drafter != "none"]

    def error(predicted: str, measured: str) -> float:
        return float(np.mean([abs(getattr(r, predicted) / getattr(r, measured) - 1) for r in drafting]))

    inside = [row.tokens_interval[0] <= row.tokens_measured <= row.tokens_interval[1] for row in drafting]
    return Summary(
        tokens_error=error("tokens_predicted", "tokens_measured"),
        round_error=error("round_predicted_s", "round_measured_s"),
        speedup_error=error("speedup_predicted", "speedup_measured"),
        coverage=float(np.mean(inside)),
        best=max((row for row in rows if row.lossless), key=lambda row: row.speedup_measured).name,
    )


def mean_of(values: ByPrompt) -> float:
    """Mean over all rounds."""
    return float(np.mean([value for rounds in values.values() for value in rounds]))


def relative_interval(
    values: ByPrompt, num_prompts: int, rng: np.random.Generator, draw_variance: float = 0.0, num_tokens: int = 0
) -> tuple[float, float]:
    """Over the mean: where the mean of ``num_prompts`` other prompts lies with probability 0.9.

    Prompts are resampled twice: those recorded, for the error of their mean, and as many as will be measured, for the
    error of theirs; few prompts vary less than all would, so the spread is widened as Student's t is over the normal.
    Where values are expectations over the draws that accept tokens, the luck of these draws is added.

    Args:
        values: Of each recorded round.
        num_prompts: That will be measured.
        rng: Of resampling.
        draw_variance: Of a round's tokens about its value; 0 where values are the tokens themselves.
        num_tokens: That will be measured, all prompts together.

    >>> relative_interval({0: [2.0, 2.0], 1: [2.0]}, 4, np.random.default_rng(0))
    (1.0, 1.0)
    """
    sums = np.array([(sum(rounds), len(rounds)) for rounds in values.values()], dtype=float)

    def means(num: int) -> Float:
        totals = sums[rng.integers(len(sums), size=(RESAMPLES, num))].sum(axis=1)
        return np.asarray(totals[:, 0] / totals[:, 1])

    mean = sums[:, 0].sum() / sums[:, 1].sum()
    luck = np.sqrt(draw_variance * mean / max(num_tokens, 1)) * rng.standard_normal(RESAMPLES)
    spread = (means(len(sums)) + means(num_prompts) - 2 * mean) * _few(len(sums)) + luck
    ends = 1 + np.quantile(spread, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) / mean
    return float(ends[0]), float(ends[1])


def _few(num: int) -> float:
    """How much wider an interval from so many prompts is than their resampled spread: t over normal, n over n - 1."""
    from scipy.stats import norm, t

    if num < 2:
        return 1.0
    level = (1 + LEVEL) / 2
    return float(t.ppf(level, num - 1) / norm.ppf(level) * np.sqrt(num / (num - 1)))


def interval_around(tokens: float, relative: tuple[float, float], depth: int) -> tuple[float, float]:
    """The interval of a mean, within what a tree of this depth can emit."""
    low, high = (min(max(1.0, tokens * end), depth + 1.0) for end in relative)
    return low, high


def predicted_round_s(
    cost: CostModel, tree: DraftTree, drafting: Drafting, contexts: Sequence[float], pending: float
) -> float:
    """Mean seconds of a static tree's round at these contexts."""
    at = [Situation([context], [pending], [1]) for context in contexts]
    return float(np.mean([sum(float(cost.price(w).time_s) for w in play(tree, one, drafting)) for one in at]))


def accept_table(tree: DraftTree, path_probs: Float) -> Float:
    """``accept_prob[depth - 1, rank]`` from the probability that each node's path is accepted, ``[node]``.

    A rank's acceptance is averaged over the parents of its depth that have it, by how often each is reached.

    >>> accept_table(DraftTree((-1, 0, 0, 1)), np.array([1.0, 0.6, 0.3, 0.36])).round(3).tolist()
    [[0.6, 0.3], [0.6, 0.0]]
    """
    reached, kept = (np.zeros((tree.depth, max(tree.ranks) + 1)) for _ in range(2))
    for node in range(1, tree.num_nodes):
        place = int(tree.depths[node]) - 1, tree.ranks[node]
        reached[place] += path_probs[tree.parents[node]]
        kept[place] += path_probs[node]
    table = np.divide(kept, reached, out=np.zeros_like(kept), where=reached > 0)
    return np.asarray(table / np.maximum(table.sum(axis=1, keepdims=True), 1.0))


def total_variation(rule: Rule, draw: Draw) -> float:
    """What a rule shows on such drafts in the toy language of ``decoding.law`` at temperature 1; 0 if lossless."""
    return 0.0 if RULES[rule].lossless else _distances()[rule, draw]


@cache
def _distances() -> dict[tuple[str, str], float]:
    """Total variation by rule and draw."""
    return {(row.rule, row.draw): row.total_variation for row in law_table([(1.0, None)])}
