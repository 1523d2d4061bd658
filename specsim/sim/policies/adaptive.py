"""Draft length from what was accepted so far: SGLang's controller, goodput, and an oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from specsim.errors import InputError
from specsim.sim.policies import DependsOn, Ints, StepView
from specsim.sim.policies.basic import Memoryless
from specsim.sim.policies.tables import sglang_slot

SGLANG_CANDIDATES: Final[Mapping[int, tuple[int, ...]]] = {1: (1, 3, 5, 7), 8: (0, 1, 3), 32: (0, 1), 64: (0,)}
"""SGLang 0.5.23's built-in candidates by batch-size slot."""
SGLANG_CAPTURED: Final = (1, 2, 4, *range(8, 257, 8))


@dataclass(frozen=True)
class SlotState:
    """What the controller remembers of one slot: the steps now, and accepted drafts, averaged."""

    steps: int
    ema: float | None = None
    num_verifies: int = 0


@dataclass(frozen=True)
class SglangState:
    """All slots seen so far, and the one that the last step was of."""

    slots: Mapping[int, SlotState] = field(default_factory=dict)
    last: int | None = None


@dataclass(frozen=True)
class SglangAdaptive:
    """SGLang's ``--speculative-adaptive``: step among candidates as the average of accepted drafts rises or falls.

    After ``warmup_batches`` verifications, every ``update_interval``: one candidate down while the average is at most
    the lower candidate - 0.5 + ``down_hysteresis`` (0.5 + ``down_hysteresis`` where the lower one is 0), else one up
    while it is above the candidate now - 0.5 + ``up_hysteresis``. From 0 nothing is observed, so the smallest positive
    candidate is tried again.

    Args:
        initial_steps: ``--speculative-num-steps``; where a slot does not have it, its nearest candidate.
        candidates: Steps by slot, sorted.
        captured: Batch sizes of captured graphs: a batch is rounded up to one before its slot is looked up.

    Source: SGLang 0.5.23's rules for adaptive speculative decoding, and its defaults.
    """

    initial_steps: int
    candidates: Mapping[int, Sequence[int]] = field(default_factory=lambda: dict(SGLANG_CANDIDATES))
    captured: Sequence[int] = SGLANG_CAPTURED
    ema_alpha: float = 0.2
    update_interval: int = 5
    warmup_batches: int = 10
    up_hysteresis: float = 0.0
    down_hysteresis: float = -0.25
    depends_on: DependsOn = "history"

    def __post_init__(self) -> None:
        if not self.candidates or any(not steps or min(steps) < 0 for steps in self.candidates.values()):
            raise InputError("candidates", "must have steps >= 0 for each slot", dict(self.candidates))
        if self.initial_steps not in {step for steps in self.candidates.values() for step in steps}:
            raise InputError("initial_steps", "must be one of the candidates", self.initial_steps)
        if not 0 < self.ema_alpha <= 1:
            raise InputError("ema_alpha", "must be in (0, 1]", self.ema_alpha)

    @property
    def max_draft_len(self) -> int:
        return max(step for steps in self.candidates.values() for step in steps)

    def start(self) -> SglangState:
        return SglangState()

    def choose(self, state: SglangState, view: StepView) -> tuple[SglangState, int]:
        slot = sglang_slot(sorted(self.candidates), self.captured, max(view.num_running, 1))
        nearest = min(self.candidates[slot], key=lambda steps: (abs(steps - self.initial_steps), steps))
        known = state.slots.get(slot, SlotState(nearest))
        return SglangState({**state.slots, slot: known}, slot), known.steps

    def observe(self, state: SglangState, num_accepted: Ints, step_s: float) -> SglangState:
        if state.last is None or not len(num_accepted):
            return state
        known, mean = state.slots[state.last], float(np.mean(num_accepted))
        ema = mean if known.ema is None else (1 - self.ema_alpha) * known.ema + self.ema_alpha * mean
        known = replace(known, ema=ema, num_verifies=known.num_verifies + 1)
        since = known.num_verifies - self.warmup_batches
        if since > 0 and since % self.update_interval == 0:
            known = self._updated(known, sorted(self.candidates[state.last]), ema)
        return SglangState({**state.slots, state.last: known}, state.last)

    def _updated(self, known: SlotState, candidates: Sequence[int], ema: float) -> SlotState:
        if known.steps == 0:  # nothing was drafted, so nothing was seen: start again
            return SlotState(next((steps for steps in candidates if steps > 0), 0))
        return replace(known, steps=self._stepped(candidates, known.steps, ema))

    def _stepped(self, candidates: Sequence[int], steps: int, ema: float) -> int:
        place = candidates.index(steps)
        while place > 0:
            below = candidates[place - 1]
            if ema > (below - 0.5 if below else 0.5) + self.down_hysteresis:
                break
            place -= 1
        if candidates[place] != steps:
            return candidates[place]
        while place + 1 < len(candidates) and ema > candidates[place] - 0.5 + self.up_hysteresis:
            place += 1
        return candidates[place]


@dataclass(frozen=True)
class Goodput:
    """The draft length with the most expected tokens per second of the step, by the acceptance seen lately.

    alpha is estimated from all rounds, older ones weighted down by ``memory`` per step; a length of 0 shows nothing, so
    every ``probe_every`` steps one token is drafted.

    Source: SmartSpec / TurboSpec (arXiv:2406.14066): goodput = sum of (1 - alpha^(k+1)) / (1 - alpha) over step time.
    """

    longest: int = 8
    initial_alpha: float = 0.7
    memory: float = 0.98
    probe_every: int = 50
    depends_on: DependsOn = "history"

    def __post_init__(self) -> None:
        if not 0 < self.initial_alpha < 1 or not 0 < self.memory <= 1:
            raise InputError("initial_alpha, memory", "must be in (0, 1) and (0, 1]", (self.initial_alpha, self.memory))

    @property
    def max_draft_len(self) -> int:
        return self.longest

    def start(self) -> tuple[float, float, int, int]:
        """Accepted and tried positions, remembered; the length of the last step; steps since something was drafted."""
        return 10 * self.initial_alpha, 10.0, 0, 0

    def choose(self, state: tuple[float, float, int, int], view: StepView) -> tuple[Any, int]:
        accepted, tried, _, idle = state
        alpha = accepted / tried
        lengths = np.arange(self.longest + 1)
        tokens = np.cumsum(alpha**lengths)
        rates = [tokens[k] / view.time_s(int(k)) for k in lengths]
        best = int(np.argmax(rates))
        idle = idle + 1 if best == 0 else 0
        if idle >= self.probe_every and self.longest:
            best, idle = 1, 0
        return (accepted, tried, best, idle), best

    def observe(self, state: tuple[float, float, int, int], num_accepted: Ints, step_s: float) -> Any:
        accepted, tried, draft_len, idle = state
        if not draft_len or not len(num_accepted):
            return state
        kept = float(np.sum(num_accepted))
        # A round that stopped early tried one position more than it kept.
        tries = kept + float(np.sum(num_accepted < draft_len))
        return self.memory * accepted + kept, self.memory * tried + tries, draft_len, idle


@dataclass(frozen=True)
class Oracle(Memoryless):
    """Draft just what will be kept, where the step is better for it: the bound of any control by length.

    Of all common caps on the length the one with the most tokens per second is taken.
    """

    longest: int = 8
    depends_on: DependsOn = "history"

    @property
    def max_draft_len(self) -> int:
        return self.longest

    def choose(self, state: Any, view: StepView) -> tuple[Any, Ints]:
        options = [np.minimum(view.would_accept, cap) for cap in range(self.longest + 1)]
        rates = [(drafts.sum() + len(drafts)) / view.time_s(drafts) for drafts in options]
        return state, options[int(np.argmax(rates))]
