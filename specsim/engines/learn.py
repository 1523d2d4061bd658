"""Acceptance and time learned from an engine's own numbers, scrape after scrape, and kept between runs.

Safe to run from cron: a file seen before changes nothing, the state is replaced whole or not at all, and what drifts is
told apart from what scatters.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import Field

from specsim.acceptance.profile import AcceptanceProfile
from specsim.documents import Document, parse, read_json
from specsim.engines.imports.observation import Observation, acceptance_of, merged
from specsim.errors import InputError

MEMORY_ROUNDS: Final = 50_000.0
"""Rounds that the past counts for at most: older ones fade as new ones come."""
PRIOR_ROUNDS: Final = 200.0
"""Rounds that what the scenario says counts for at most: it was measured elsewhere."""
DESIGN_EFFECT: Final = 4.0
"""Rounds of one request are alike, so counts are worth fewer independent ones. Requests of Spec-Bench differ by 0.6 to
1.0 tokens per round; with some tens of rounds each this is the order of it."""
DRIFT_Z: Final = 4.0
"""Standard deviations from which on a difference is drift: one false alarm in 16,000 positions."""
MAX_SEEN: Final = 1000
Count = Annotated[float, Field(ge=0, le=1e18)]


class LearnedState(Document):
    """What was learned so far.

    Args:
        form: Of this file.
        scenario: Name of the scenario that it is of.
        draft_len: Of the configuration in use; None before the first choice.
        accepted, trials: By position.
        log_time: Mean log of observed over predicted step time, and how many observations it is from.
        seen: Hashes of the files that it was learned from, the newest last.
        num_drifts: Times that the past was dropped.
    """

    form: Literal["specsim.learned/1"] = "specsim.learned/1"
    scenario: str
    draft_len: int | None = Field(default=None, ge=0, le=100_000)
    accepted: tuple[Count, ...] = ()
    trials: tuple[Count, ...] = ()
    log_time: tuple[float, Count] = (0.0, 0.0)
    seen: tuple[str, ...] = ()
    num_drifts: int = Field(default=0, ge=0)


def load_state(path: Path, scenario: str) -> LearnedState:
    """The state of an earlier run, or a new one where there is none.

    Raises:
        InputError: for a file that is none, or of another scenario.
    """
    if not path.exists():
        return LearnedState(scenario=scenario)
    state = parse(LearnedState, read_json(path), path.name)
    if state.scenario != scenario:
        raise InputError(f"{path.name}: scenario", f"must be {scenario!r}", state.scenario)
    if len(state.accepted) != len(state.trials):
        raise InputError(f"{path.name}: trials", f"must be one per position ({len(state.accepted)})", len(state.trials))
    return state


def save_state(state: LearnedState, path: Path) -> None:
    """Replace the file whole. Raises InputError where it can not be written."""
    replace_file(path, json.dumps(state.model_dump(), indent=1) + "\n", "state")


def replace_file(path: Path, text: str, field: str) -> None:
    """Replace a file whole: a reader, or an interrupted run, sees the old one or the new one.

    Raises:
        InputError: naming ``field``, where it can not be written.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=path.name, dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise InputError(field, f"can not be written ({error.strerror or error})", str(path)) from None


def fingerprint(*paths: Path) -> str:
    """Of the files' contents: the same files are the same evidence, whatever their names.

    Raises:
        InputError: for a file that can not be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(str(path), f"can not be read ({error.strerror or error})") from None
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:32]


def learn(
    state: LearnedState, observations: list[Observation], mark: str, predicted_step_s: float | None
) -> tuple[LearnedState, str]:
    """The state with new evidence in it, and a line on what it did.

    Counts are added to those of before, which fade; where they contradict them by more than chance allows, the past is
    dropped. The same evidence again changes nothing.

    Args:
        state: Of before.
        observations: Of the files read.
        mark: Their fingerprint.
        predicted_step_s: Of the configuration in use; None where times are not compared.
    """
    if mark in state.seen:
        return state, "seen before: nothing learned"
    new = acceptance_of(observations)
    trials = np.asarray(new.num_trials)
    accepted = new.accept_prob[:, 0] * trials
    deepest = max(len(trials), len(state.trials))
    past = np.zeros((2, deepest))
    past[:, : len(state.trials)] = (state.accepted, state.trials) if state.trials else np.zeros((2, 0))
    came = np.zeros((2, deepest))
    came[:, : len(trials)] = accepted, trials
    worst = drift_z(past, came)
    drifted = worst > DRIFT_Z
    fade = 0.0 if drifted else min(1.0, max(0.0, MEMORY_ROUNDS - came[1, 0]) / max(past[1, 0], 1e-9))
    total = past * fade + came
    update = {
        "accepted": tuple(total[0].tolist()),
        "trials": tuple(total[1].tolist()),
        "log_time": _learned_time(state.log_time, observations, predicted_step_s),
        "seen": (*state.seen, mark)[-MAX_SEEN:],
        "num_drifts": state.num_drifts + drifted,
    }
    told = f"drift: {worst:.1f} standard deviations from before, which was dropped" if drifted else "learned"
    return state.model_copy(update=update), told


def drift_z(past: np.ndarray, came: np.ndarray) -> float:
    """The largest difference between positions' rates, in standard deviations; ``[2, D]`` accepted and trials each.

    >>> past = np.array([[800.0], [1000.0]])
    >>> round(drift_z(past, np.array([[700.0], [1000.0]])), 2)
    2.58
    """
    both = (past[1] > 0) & (came[1] > 0)
    if not both.any():
        return 0.0
    rates = [pair[0, both] / pair[1, both] for pair in (past, came)]
    pooled = np.clip((past[0, both] + came[0, both]) / (past[1, both] + came[1, both]), 1e-6, 1 - 1e-6)
    variance = pooled * (1 - pooled) * DESIGN_EFFECT * (1 / past[1, both] + 1 / came[1, both])
    return float(np.max(np.abs(rates[0] - rates[1]) / np.sqrt(variance)))


def _learned_time(
    before: tuple[float, float], observations: list[Observation], predicted_step_s: float | None
) -> tuple[float, float]:
    seen = merged(observations).step_s
    if predicted_step_s is None or not seen:
        return before
    mean, count = before
    weight = min(count, 20.0)  # the last twenty or so
    return (mean * weight + float(np.log(seen / predicted_step_s))) / (weight + 1), count + 1


def posterior(state: LearnedState, prior: AcceptanceProfile) -> AcceptanceProfile:
    """Acceptance of first choices: what the scenario said, worth a few rounds, and all that was learned.

    Counts are divided by the design effect, so that intervals are as wide as rounds that resemble each other make them.
    """
    depth = max(prior.max_depth, len(state.trials))
    wide = prior.extended(depth) if depth > prior.max_depth else prior
    alpha = wide.accept_prob[:, 0]
    held = np.full(depth, PRIOR_ROUNDS) if wide.num_trials is None else np.minimum(wide.num_trials, PRIOR_ROUNDS)
    if prior.task_sd > 0:
        # A relative spread between workloads is worth the trials whose binomial spread is as large.
        held = np.minimum(held, (1 - alpha) / np.maximum(alpha * prior.task_sd**2, 1e-9))
    accepted, trials = alpha * held, held.copy()
    known = len(state.trials)
    accepted[:known] += np.array(state.accepted) / DESIGN_EFFECT
    trials[:known] += np.array(state.trials) / DESIGN_EFFECT
    source = f"learned from {state.trials[0] if state.trials else 0:.0f} rounds; before: {prior.source}"
    return AcceptanceProfile.from_counts(accepted[:, None], np.maximum(trials, 1e-9), source=source)
