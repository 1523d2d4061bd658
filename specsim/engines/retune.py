"""Search again with what was learned; move only where it pays, so that a loop does not swing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from specsim.acceptance.trie import by_rank
from specsim.engines.answer import export_of
from specsim.engines.diagnose import rate_ratio_draws, with_acceptance
from specsim.engines.imports.observation import Observation, merged
from specsim.engines.learn import LearnedState, learn, posterior
from specsim.engines.plan import Export
from specsim.errors import InputError
from specsim.estimate import LEVEL, Estimate, predict
from specsim.scenario import Scenario, resolve
from specsim.search.tune import tune
from specsim.tree import DraftTree

LEAST_GAIN: Final = 0.02
"""A change must promise as much: restarting a server costs something."""
LEAST_PROBABILITY: Final = 0.8
"""And must be better with this probability."""


@dataclass(frozen=True)
class Retuning:
    """What to run from now on.

    Args:
        state: To be kept for the next time.
        told: What the new evidence did.
        acceptance_source: Where the acceptance now comes from.
        before, chosen: The configuration in use, and from now on.
        changed: Whether they differ.
        gain, gain_90: Rate of the chosen one over the one before, less 1.
        best_gain: The same of the best alternative, chosen or not.
        regret_removed: Mean over what acceptance may be of the rate gained, relatively; 0 where nothing changes.
        time_factor: Observed over predicted step time, where it was observed.
        exports: For each engine that the scenario names.
    """

    state: LearnedState
    told: str
    acceptance_source: str
    before: Estimate
    chosen: Estimate
    changed: bool
    gain: float
    gain_90: tuple[float, float]
    best_gain: float
    regret_removed: float
    time_factor: float | None
    exports: tuple[Export, ...]


def retune(
    scenario: Scenario, state: LearnedState, observations: list[Observation], mark: str, draft_len: int | None = None
) -> Retuning:
    """Learn, search chains again, and decide.

    Args:
        scenario: The deployment; its acceptance is the prior.
        state: What was learned before.
        observations: New evidence.
        mark: Its fingerprint: evidence that was seen before changes nothing.
        draft_len: Of the configuration in use, where neither new evidence nor state tells: what a server shows that it
            drafts is what it runs, whatever it was told.

    Raises:
        InputError: where the draft length in use is nowhere to be found.
        InfeasibleError: where the deployment does not fit.
    """
    seen = merged(observations)
    shown = None if mark in state.seen else seen.draft_len
    length = next((known for known in (shown, state.draft_len, draft_len, seen.draft_len) if known is not None), None)
    if length is None:
        raise InputError("draft_len", "must be given: neither the state nor the engine's output tells it")
    running = round(seen.num_running) if seen.num_running else scenario.workload.batch
    expected = resolve(scenario.varied(batch=max(running, 1)))
    in_use = DraftTree.chain(length)
    step_s = float(np.max(predict(expected, in_use).round.time_s))
    state, told = learn(state, observations, mark, step_s)
    now = with_acceptance(expected, posterior(state, by_rank(expected.acceptance)), max(length, 1))
    before, tuning = predict(now, in_use), tune(now)
    best = next(one for one in tuning.ranked if one.tree.is_chain)
    draws = rate_ratio_draws(now, best, before)
    best_gain = best.tokens_per_s / before.tokens_per_s - 1
    changed = best_gain >= LEAST_GAIN and float(np.mean(draws > 1)) >= LEAST_PROBABILITY
    chosen = best if changed else before
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - 1 if changed else (0.0, 0.0)
    factor = float(np.exp(state.log_time[0])) if state.log_time[1] else None
    return Retuning(
        state=state.model_copy(update={"draft_len": chosen.tree.num_drafted}),
        told=told,
        acceptance_source=now.acceptance.source,
        before=before,
        chosen=chosen,
        changed=changed,
        gain=best_gain if changed else 0.0,
        gain_90=(float(low), float(high)),
        best_gain=best_gain,
        regret_removed=float(np.mean(draws)) - 1 if changed else 0.0,
        time_factor=factor,
        exports=tuple(export_of(now, use, chosen.tree) for use in scenario.export),
    )
