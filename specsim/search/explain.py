"""Which term decided: the same search with one term taken away, each priced and searched anew.

No sensitivity is guessed: taking a term away is another deployment, whose best configuration is found like the first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, Literal

import numpy as np

from specsim.acceptance.profile import AcceptanceProfile
from specsim.cost.model import CostModel
from specsim.estimate import Estimate
from specsim.scenario import Deployment
from specsim.search.expressible import EngineBest
from specsim.search.tune import Tuning, tune
from specsim.tree import DraftTree
from specsim.work import Cost, Float, HostWork, Pass, Work

Term = Literal["draft cost", "verification growth", "host work", "acceptance decay", "acceptance", "memory", "engine"]
WORDS: Final[dict[Term, str]] = {
    "draft cost": "draft passes took no time",
    "verification growth": "verifying many tokens took as long as one",
    "host work": "the host's work of a round took no time",
    "acceptance decay": "every depth were accepted as the first is",
    "acceptance": "every first choice were accepted",
    "memory": "memory had no end",
    "engine": "the engine accepted everything",
}


_PARTS: Final = ("draft", "verify", "host")


@dataclass(frozen=True)
class Counterfactual:
    """The best of another world.

    Args:
        term: What was taken away.
        label, num_drafted: Its best configuration.
        tokens_per_s, speedup: Of that; over plain decoding, which no term taken away changes.
        gain: How much faster than the true best.
        changes: Whether another configuration wins.
    """

    term: Term
    label: str
    num_drafted: int
    tokens_per_s: float
    speedup: float
    gain: float
    changes: bool


@dataclass(frozen=True)
class Step:
    """One draft token more, from a chain to the next.

    Args:
        draft_len: Of the longer one.
        tokens: What it adds to the tokens of a round.
        draft_s, verify_s, host_s: What it adds to its time.
        worth_s: What these tokens are worth in time at the shorter chain's speed; it pays if that is more than it adds.
    """

    draft_len: int
    tokens: float
    draft_s: float
    verify_s: float
    host_s: float
    worth_s: float

    @property
    def pays(self) -> bool:
        """Whether the longer chain is faster."""
        return self.worth_s > self.draft_s + self.verify_s + self.host_s


@dataclass(frozen=True)
class Explanation:
    """Why the best is the best.

    Args:
        best: What won.
        counterfactuals: By falling gain.
        decided_by: The term whose absence changes the choice and gains most; None where none changes it.
        steps: From each chain to the next.
    """

    best: Estimate
    counterfactuals: tuple[Counterfactual, ...]
    decided_by: Counterfactual | None
    steps: tuple[Step, ...]

    @property
    def last_step(self) -> Step | None:
        """The first step that no longer pays; None where all do."""
        return next((step for step in self.steps if not step.pays), None)


def explain(deployment: Deployment, tuning: Tuning, engine: EngineBest | None = None) -> Explanation:
    """Search again without each term, and take the chains apart step by step.

    Args:
        deployment, tuning: A question and its answer.
        engine: What an engine can do of it, where the question was restricted to one: its best is then explained.

    >>> from specsim.scenario import find_scenario, resolve
    >>> asked = resolve(find_scenario("llama-3.1-8b-agx-orin"))
    >>> explain(asked, tune(asked)).decided_by.term
    'draft cost'
    """
    best, rate = tuning.best, tuning.best.tokens_per_s
    if engine is not None:
        rate = engine.best.tokens_per_s
    plain = tuning.plain.tokens_per_s
    found: list[tuple[Term, str, int, float, bool]] = []
    for term, world in _worlds(deployment, tuning).items():
        other = tune(world).best
        changes = other.tree != best.tree
        found.append((term, other.tree.label, other.tree.num_drafted, other.tokens_per_s, changes))
    if engine is not None and engine.best.tree != best.tree:
        found.append(("engine", best.tree.label, best.tree.num_drafted, best.tokens_per_s, True))
    counterfactuals = sorted(
        (Counterfactual(t, said, num, r, r / plain, r / rate - 1, changes) for t, said, num, r, changes in found),
        key=lambda c: -c.gain,
    )
    deciding = [c for c in counterfactuals if c.changes and c.term != "acceptance"]
    return Explanation(best, tuple(counterfactuals), deciding[0] if deciding else None, tuple(_steps(tuning)))


@dataclass(frozen=True)
class WithoutTerm:
    """Another cost model, to which one term is free."""

    cost: CostModel
    term: Term

    @property
    def log_sd(self) -> Float:
        """As of the model within."""
        return self.cost.log_sd

    def price(self, work: Work) -> Cost:
        """The work's cost, or none."""
        if self.term == "draft cost" and isinstance(work, Pass) and work.role == "draft":
            return self.cost.price(work).scaled(0.0)
        if self.term == "verification growth" and isinstance(work, Pass) and work.role == "target":
            return self.cost.price(replace(work, new_tokens=np.ones_like(work.new_tokens)))
        if self.term == "host work" and isinstance(work, HostWork) and work.kind != "step":
            return self.cost.price(work).scaled(0.0)
        return self.cost.price(work)


def _worlds(deployment: Deployment, tuning: Tuning) -> dict[Term, Deployment]:
    if deployment.scenario.drafter.kind == "none":
        return {}
    terms: tuple[Term, ...] = ("draft cost", "verification growth", "host work")
    worlds: dict[Term, Deployment] = {t: replace(deployment, cost=WithoutTerm(deployment.cost, t)) for t in terms}
    profile = deployment.acceptance
    first = profile.accept_prob[0]
    sure = np.zeros_like(first)
    sure[0] = 1.0
    rows: tuple[tuple[Term, Any], ...] = (("acceptance decay", first), ("acceptance", sure))
    for term, row in rows:
        same = AcceptanceProfile.from_ranks(row, profile.max_depth, rank_order=profile.rank_order)
        worlds[term] = replace(deployment, acceptance=same)
    if tuning.infeasible:
        more = deployment.hardware.mem_bytes.model_copy(update={"value": 1e18})
        hardware = deployment.hardware.model_copy(update={"mem_bytes": more})
        worlds["memory"] = replace(deployment, hardware=hardware)
    return worlds


def _steps(tuning: Tuning) -> list[Step]:
    chains = sorted((e for e in tuning.ranked if _is_chain(e.tree)), key=lambda e: e.tree.num_drafted)
    steps = []
    for a, b in pairwise(chains):
        draft_s, verify_s, host_s = (_seconds(getattr(b, x)) - _seconds(getattr(a, x)) for x in _PARTS)
        tokens = b.tokens_per_round - a.tokens_per_round
        steps.append(Step(b.tree.num_drafted, tokens, draft_s, verify_s, host_s, tokens * a.time_per_token_s))
    return steps


def _is_chain(tree: DraftTree) -> bool:
    return tree.is_chain and not any(tree.ranks)


def _seconds(cost: Cost) -> float:
    return float(np.max(cost.time_s))
