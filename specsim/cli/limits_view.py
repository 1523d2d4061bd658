"""What ``specsim limits`` answers, as tables and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.limits import NOT_COVERED, LimitEstimate, LimitRate, asymptote, ceiling_iid, published_bound
from specsim.acceptance.waterfall import Step, shares

if TYPE_CHECKING:
    from specsim.acceptance.limits_sampled import SampledCeilings
    from specsim.cli.limits_source import Surprisals
    from specsim.estimate import Estimate
    from specsim.scenario import Deployment
    from specsim.tree import DraftTree

Array = NDArray[np.float64]

BELIEF: Final = (
    "Temperature 0: these are of a drafter's belief in the target's choice, valid as far as the belief is calibrated."
)


@dataclass(frozen=True)
class Answer:
    """Everything that is printed.

    Attributes:
        known: The surprisals.
        accepted: ``[P]`` the limit, P from 0: of the texts, or the i.i.d. ceiling where only moments are known.
        estimate: Of the texts, at every P.
        light: The fastest on this deployment.
        sampled: Ceilings of sampled chains, where both laws are known.
        methods: Plain decoding, the best chain, the best tree, and what was asked for.
        explained: The configuration that ``steps`` break down.
        steps: From the limit to it.
        is_belief: At temperature 0.
    """

    known: Surprisals
    accepted: Array
    estimate: LimitEstimate | None
    light: LimitRate
    sampled: SampledCeilings | None
    methods: list[Estimate]
    explained: Estimate
    steps: tuple[Step, ...]
    is_belief: bool

    @property
    def notes(self) -> list[str]:
        """What the numbers do not cover, and what is odd about them."""
        notes = [BELIEF] if self.is_belief else []
        notes += NOT_COVERED
        source = "the texts' surprisals" if self.estimate else "the i.i.d. ceiling, since only moments are known"
        notes.append(f"The limit is {source}; its time is the target's pass alone: no drafting, no host, no memory "
                     "for the tree.")  # fmt: skip
        if self.estimate is not None and (cut := float(self.estimate.cut_share[self.light.num_drafted])) > 0.02:
            notes.append(f"{cut:.0%} of the windows end before the limit is reached: longer texts would tighten it.")
        if any(fraction_of(self, e) > 1 for e in self.methods):
            notes.append("A method accepts more than the limit: its acceptance and the surprisals are not of one "
                         "workload, or its drafts were sampled.")  # fmt: skip
        if self.steps[-1].group == "measured" and self.steps[-1].tokens_per_s > float(np.max(self.light.rates)):
            notes.append("The measured rate is above the limit: it is of another deployment or workload, or prices and "
                         "surprisals are off; shares of the loss then mean nothing.")  # fmt: skip
        return notes


def answer_of(
    deployment: Deployment,
    known: Surprisals,
    max_drafted: int,
    horizon: int | None,
    chosen: DraftTree | None,
    measured: float | None,
    is_belief: bool,
) -> Answer:
    """Work it out."""
    from specsim.estimate import predict
    from specsim.search.limit import limit_of, losses
    from specsim.search.tune import tune

    tuning = tune(deployment)
    drafting = [e for e in tuning.ranked if e.tree.num_drafted]
    chain = next((e for e in drafting if e.tree.is_chain), None)
    tree = next((e for e in drafting if not e.tree.is_chain), None)
    plain = next(e for e in tuning.ranked if not e.tree.num_drafted)
    asked = predict(deployment, chosen) if chosen is not None else None
    methods = [e for e in (plain, chain, tree, asked) if e is not None]
    drafted = np.arange(max(max_drafted, *(e.tree.num_drafted for e in methods)) + 1, dtype=np.int64)
    estimate = known.estimate(drafted, horizon)
    ceiling = np.concatenate(([0.0], ceiling_iid(known.mu, known.mu2, drafted[1:])))
    accepted = estimate.accepted if estimate is not None else np.minimum(ceiling, drafted)
    light = limit_of(deployment, accepted)
    sampled, cross = known.sampled(), known.cross_entropy
    explained = asked if asked is not None else tuning.best
    steps = losses(
        deployment,
        explained,
        accepted,
        drafter_share=None if cross is None else min(1.0, known.mu / cross),
        rule_accepted=_by_the_best_rule(explained, known, sampled),
        measured_tokens_per_s=measured,
    )
    return Answer(known, accepted, estimate, light, sampled, methods, explained, steps, is_belief)


def _by_the_best_rule(e: Estimate, known: Surprisals, sampled: SampledCeilings | None) -> float | None:
    """What the best rule would accept of a chain whose acceptance is an engine's, which verifies by the token rule.

    Where acceptance was recorded here, drafts were the most probable tokens, which no rule judges better.
    """
    length = e.tree.num_drafted
    if sampled is None or known.profile is not None or not e.tree.is_chain or not 0 < length <= len(sampled.token_rule):
        return None
    gain = float((1 + sampled.best_rule[length - 1]) / (1 + sampled.token_rule[length - 1]))
    return e.tokens_per_round * gain - 1


def fraction_of(answer: Answer, e: Estimate) -> float:
    """Accepted tokens over those of the limit at the same number drafted."""
    limit = float(answer.accepted[e.tree.num_drafted])
    return (e.tokens_per_round - 1) / limit if limit else 1.0


def _size_row(answer: Answer, size: int) -> dict[str, float | int | None]:
    known, estimate = answer.known, answer.estimate
    error = None if estimate is None or estimate.standard_error is None else float(estimate.standard_error[size])
    return {
        "num_drafted": size,
        "limit": None if estimate is None else float(estimate.accepted[size]),
        "standard_error": error,
        "ceiling_iid": float(ceiling_iid(known.mu, known.mu2, size)),
        "asymptote": float(asymptote(known.mu, known.mu2, size)),
        "published_bound": float(published_bound(known.mu, known.mu2, size)),
        "tokens_per_s": float(answer.light.rates[size]),
    }


def as_answer(answer: Answer, sizes: list[int]) -> dict[str, Any]:
    """The JSON answer."""
    known, light, sampled = answer.known, answer.light, answer.sampled
    return {
        "source": known.source,
        "mu": known.mu,
        "mu2": known.mu2,
        "cross_entropy": known.cross_entropy,
        "is_belief": answer.is_belief,
        "sizes": [_size_row(answer, size) for size in sizes],
        "best": {
            "num_drafted": light.num_drafted,
            "tokens_per_round": light.tokens_per_round,
            "verify_s": light.verify_s,
            "tokens_per_s": light.tokens_per_s,
            "speedup": light.tokens_per_s / light.rates[0],
        },
        "sampled_chains": None if sampled is None else sampled._asdict(),
        "methods": [
            {
                "configuration": e.tree.label,
                "num_drafted": e.tree.num_drafted,
                "tokens_per_round": e.tokens_per_round,
                "fraction_of_limit_tokens": fraction_of(answer, e),
                "tokens_per_s": e.tokens_per_s,
                "fraction_of_limit_rate": e.tokens_per_s / light.tokens_per_s,
            }
            for e in answer.methods
        ],
        "waterfall": {
            "configuration": answer.explained.tree.label,
            "steps": answer.steps,
            "shares": shares(answer.steps),
        },
        "not_covered": answer.notes,
    }


def show_answer(answer: Answer, sizes: list[int]) -> None:
    """Tables for people."""
    from specsim.report import show, table

    known, light = answer.known, answer.light
    title = (
        f"Speed of light: accepted draft tokens per round\n{known.source}\nmu {known.mu:.3f}, mu2 {known.mu2:.3f} nats"
    )
    rows = [_size_row(answer, size) for size in sizes]
    cells = [
        (r["num_drafted"], _limit_cell(r), f"{r['ceiling_iid']:.2f}", f"{r['asymptote']:.2f}",
         f"{r['published_bound']:.2f}", _digits(r['tokens_per_s']))
        for r in rows
    ]  # fmt: skip
    best = (
        f"Fastest: {_digits(light.tokens_per_s)} tokens/s with {light.num_drafted} draft tokens, "
        f"{light.tokens_per_round:.2f} tokens per round, {light.tokens_per_s / light.rates[0]:.2f} x plain decoding."
    )
    columns = ("draft tokens", "limit", "i.i.d. ceiling", "asymptote", "published slope", "tokens/s at the limit")
    show(table(title, columns, cells, best))
    if answer.sampled is not None:
        lengths = range(1, len(answer.sampled.token_rule) + 1)
        rules = [(n, *(f"{float(values[n - 1]):.3f}" for values in answer.sampled)) for n in lengths]
        show(table("Chains sampled from the drafter: accepted tokens", ("draft tokens", "token rule", "best rule",
                                                                        "any lossless rule"), rules))  # fmt: skip
        show(f"Cross-entropy of the target's tokens under the drafter: {known.cross_entropy:.3f} nats")
    show(table("Methods", ("configuration", "tokens/round", "of the limit's accepted", "tokens/s", "of the limit's"),
               [(e.tree.label, f"{e.tokens_per_round:.2f}", f"{fraction_of(answer, e):.0%}" if e.tree.num_drafted else
                 None, _digits(e.tokens_per_s), f"{e.tokens_per_s / light.tokens_per_s:.0%}")
                for e in answer.methods]))  # fmt: skip
    lost = shares(answer.steps)
    seen: set[str] = set()
    falls = []
    for step in answer.steps:
        share = None if step.group not in lost or step.group in seen else f"{lost[step.group]:.0%}"
        seen.add(step.group)
        falls.append((step.name, step.group, f"{step.tokens_per_round:.2f}", f"{1e3 * step.round_s:.2f}",
                      _digits(step.tokens_per_s), f"x{step.factor:.3f}", share))  # fmt: skip
    words = ("step", "loss", "tokens/round", "round ms", "tokens/s", "factor", "share of loss")
    show(table(f"Where it goes: {answer.explained.tree.label}", words, falls))
    for note in answer.notes:
        show(f"* {note}")


def _limit_cell(row: dict[str, float | int | None]) -> str | None:
    if row["limit"] is None:
        return None
    error = "" if row["standard_error"] is None else f" ± {row['standard_error']:.2f}"
    return f"{row['limit']:.2f}{error}"


def _digits(rate: float | int | None) -> str | None:
    if rate is None:
        return None
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
