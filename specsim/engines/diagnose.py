"""Is this expected? What an engine shows of itself beside what was predicted for it, why, and what would do better."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from specsim.acceptance.profile import AcceptanceProfile, constant_alpha
from specsim.acceptance.trie import by_rank
from specsim.acceptance.uncertainty import tokens_draws, tokens_interval
from specsim.engines.causes import Cause, causes
from specsim.engines.imports.observation import Observation, acceptance_of
from specsim.errors import InputError
from specsim.estimate import LEVEL, Estimate, predict
from specsim.scenario import Deployment, Scenario, resolve
from specsim.search.tune import tune
from specsim.tree import DraftTree
from specsim.work import Cost, total


@dataclass(frozen=True)
class Quantity:
    """One figure, predicted with an interval, and observed where the engine told it."""

    name: str
    unit: str
    predicted: float
    low: float
    high: float
    observed: float | None

    @property
    def is_expected(self) -> bool | None:
        """Whether the observed figure lies in the interval; None where there is none."""
        # A bool, for numpy's own False is not False.
        return None if self.observed is None else bool(self.low <= self.observed <= self.high)


@dataclass(frozen=True)
class Better:
    """A chain, or no speculation, that is predicted to do better with the acceptance observed.

    ``gain``: its rate over that of the configuration in use, less 1, with its 90 % interval.
    """

    tree: DraftTree
    estimate: Estimate
    gain: float
    gain_low: float
    gain_high: float


@dataclass(frozen=True)
class Diagnosis:
    """The answer.

    Args:
        observed: What it is of.
        tree: The configuration in use.
        quantities: Predicted against observed.
        speedup: Over plain decoding, predicted with the acceptance observed, with its interval.
        break_even_tokens: Tokens per round from which on the configuration pays here.
        break_even_alpha: The same as acceptance of each token; None where no acceptance would do.
        causes: What keeps it from doing better, the largest first.
        better: None where the configuration in use is the best.
    """

    observed: Observation
    tree: DraftTree
    quantities: tuple[Quantity, ...]
    speedup: tuple[float, float, float]
    break_even_tokens: float
    break_even_alpha: float | None
    causes: tuple[Cause, ...]
    better: Better | None

    @property
    def verdict(self) -> str:
        """One sentence."""
        value, low, high = self.speedup
        unexpected = [q.name for q in self.quantities if q.is_expected is False]
        found = "what is observed is as predicted"
        if unexpected:
            found = f"what is observed is not as predicted ({', '.join(unexpected)})"
        how = "Slower than" if high < 1 else "Faster than" if low > 1 else "About as fast as"
        said = f"x{value:.2f} ({low:.2f} to {high:.2f})"
        return f"{how} no speculation: {said} is predicted with the acceptance observed; {found}."


def diagnose(
    scenario: Scenario,
    observed: Observation,
    *,
    draft_len: int | None = None,
    batch: int | None = None,
    context_tokens: int | None = None,
) -> Diagnosis:
    """Hold an observation against the prediction for a described deployment.

    Args:
        scenario: The deployment as described; its acceptance is what was expected.
        observed: What its engine showed, merged over the files.
        draft_len: Of the configuration in use, where the observation does not tell.
        batch, context_tokens: Sequences in a step and tokens behind each, where the observation does not tell; the
            scenario's, at last.

    Raises:
        InputError: where the draft length is nowhere to be found, nothing tells of acceptance, or for a batch below 1.
        InfeasibleError: where the deployment as described does not fit.
    """
    if batch is not None and batch < 1:
        raise InputError("batch", "must be >= 1", batch)
    length = draft_len or observed.draft_len or _mean_draft_len(observed)
    if not length:
        raise InputError("draft_len", "must be given: the engine's output does not tell it")
    running = batch or (round(observed.num_running) if observed.num_running else scenario.workload.batch)
    context = scenario.workload.context_tokens
    if context_tokens is not None:
        context = context_tokens
    elif observed.context_tokens is not None:
        context = round(observed.context_tokens)
    asked = scenario.varied(batch=max(running, 1), context_tokens=context)
    observed = with_step_time(observed, asked.workload.batch)
    tree, expected = DraftTree.chain(length), resolve(asked)
    seen = with_acceptance(expected, acceptance_of([observed]), length)
    before, now = predict(expected, tree), predict(seen, tree)
    plain = predict(seen, DraftTree.root_only())
    tau = _seconds(now.round) / _seconds(plain.round)
    return Diagnosis(
        observed,
        tree,
        tuple(_quantities(expected, before, now, observed)),
        (now.speedup, now.speedup_low, now.speedup_high),
        break_even_tokens=tau,
        break_even_alpha=constant_alpha(tau - 1, length) if tau <= length + 1 else None,
        causes=tuple(causes(expected, seen, tree, observed)),
        better=_better(seen, now),
    )


def with_step_time(observed: Observation, batch: int) -> Observation:
    """The observation with the time of a step, from the time per token or the throughput where it was not told."""
    tau = observed.tokens_per_round
    if observed.step_s is not None or tau is None:
        return observed
    if observed.tpot_s:
        step, how = observed.tpot_s * tau, "time per token"
    elif observed.tokens_per_s:
        step, how = tau * batch / observed.tokens_per_s, f"throughput of {batch} sequences"
    else:
        return observed
    note = f"the step time follows from the {how}: prompts between steps are in it"
    return observed.model_copy(update={"step_s": step, "notes": (*observed.notes, note)})


def with_acceptance(deployment: Deployment, seen: AcceptanceProfile, draft_len: int) -> Deployment:
    """The deployment with acceptance as observed: first ranks from the counts, the misses caught by others as before.

    Depths that were not drafted are taken to be like the last that was.
    """
    limits, known = deployment.scenario.search, by_rank(deployment.acceptance)
    deepest = max(limits.max_draft_len, limits.max_depth, draft_len, seen.max_depth)
    first = seen.extended(deepest) if deepest > seen.max_depth else seen
    before = known.extended(deepest) if deepest > known.max_depth else known
    share = before.accept_prob[:deepest, 1:] / np.maximum(1 - before.accept_prob[:deepest, :1], 1e-12)
    others = (1 - first.accept_prob) * np.minimum(share, 1)
    table = np.concatenate((first.accept_prob, others), axis=1)
    table /= np.maximum(table.sum(axis=1, keepdims=True), 1)
    profile = replace(first, accept_prob=table, rank_order=known.rank_order)
    return replace(deployment, acceptance=profile)


def _mean_draft_len(observed: Observation) -> int | None:
    if observed.num_drafts and observed.num_drafted:
        return max(1, round(observed.num_drafted / observed.num_drafts))
    rounds = observed.drafted_per_round
    return max((d for row in rounds for d in row), default=0) or None if rounds else None


def _quantities(expected: Deployment, before: Estimate, now: Estimate, observed: Observation) -> list[Quantity]:
    """Tokens per round by the expected acceptance; times by the observed one, so that each error is seen once."""
    tokens = tokens_interval(before.tree, expected.acceptance, LEVEL, np.random.default_rng(0))
    rate = observed.tokens_per_s
    if rate is None and observed.step_s:
        tau = observed.tokens_per_round or now.tokens_per_round
        rate = tau * expected.scenario.workload.batch / observed.step_s
    log_sd = expected.cost.log_sd
    found = [
        Quantity("tokens per round", "", before.tokens_per_round, tokens.lo, tokens.hi, observed.tokens_per_round),
        _timed("step time", now.round, log_sd, observed.step_s),
        _timed("drafting in it", now.draft, log_sd, observed.draft_s),
    ]
    low, high = (now.tokens_per_s * _seconds(now.round) / end for end in (found[1].high, found[1].low))
    return [*found, Quantity("tokens per second", "1/s", now.tokens_per_s, low, high, rate)]


def _timed(name: str, cost: Cost, log_sd: np.ndarray, observed: float | None) -> Quantity:
    seconds = _seconds(cost)
    if seconds == 0:
        return Quantity(name, "s", 0.0, 0.0, 0.0, observed)
    reach = NormalDist().inv_cdf((1 + LEVEL) / 2) * float(np.sqrt(np.max(cost.log_variance(log_sd))))
    return Quantity(name, "s", seconds, seconds * np.exp(-reach), seconds * np.exp(reach), observed)


def _better(seen: Deployment, now: Estimate) -> Better | None:
    # A chain is what every engine can run; which trees it takes is a question for ``tune --engine``.
    best = next(one for one in tune(seen).ranked if one.tree.is_chain)
    if best.tokens_per_s <= now.tokens_per_s * (1 + 1e-9):
        return None
    ratio = rate_ratio_draws(seen, best, now)
    low, high = np.quantile(ratio, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    gain = best.tokens_per_s / now.tokens_per_s
    return Better(best.tree, best, gain - 1, float(low) - 1, float(high) - 1)


def rate_ratio_draws(deployment: Deployment, one: Estimate, other: Estimate, size: int = 2000) -> np.ndarray:
    """Draws ``[size]`` of the rate of ``one`` over that of ``other``: the same acceptance tables and cost errors."""
    tokens = [tokens_draws(e.tree, deployment.acceptance, np.random.default_rng(0), size) for e in (one, other)]
    spent = [total([e.draft, e.verify, e.host]) for e in (one, other)]
    sd = float(np.sqrt(np.max(spent[0].log_ratio_variance(spent[1], deployment.cost.log_sd))))
    times = _seconds(spent[1]) / _seconds(spent[0]) * np.exp(sd * np.random.default_rng(1).standard_normal(size))
    return np.asarray(tokens[0] / tokens[1] * times)


def _seconds(cost: Cost) -> float:
    return float(np.max(cost.time_s))
