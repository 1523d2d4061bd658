"""The plainest policy of each kind: first come first served, always as many drafts, each replica in turn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from specsim.errors import InputError
from specsim.sim.policies import Arriving, DependsOn, Ints, Replicas, StepView, Waiting


@dataclass(frozen=True)
class FirstCome:
    """First come, first served; who was preempted comes back in the order of arrival."""

    def order(self, waiting: Waiting, now_s: float) -> Ints:
        """As they came."""
        return np.arange(waiting.arrival_s.size)


class Memoryless:
    """Of a draft control that answers from the view alone."""

    def start(self) -> None:
        """Remembers nothing."""

    def observe(self, state: None, num_accepted: Ints, step_s: float) -> None:
        """Learns nothing."""


@dataclass(frozen=True)
class FixedDraftLen(Memoryless):
    """Every request drafts ``draft_len`` tokens in every round; 0 is plain decoding.

    Raises:
        InputError: for a negative length.
    """

    draft_len: int

    def __post_init__(self) -> None:
        if self.draft_len < 0:
            raise InputError("draft_len", "must be >= 0", self.draft_len)

    @property
    def depends_on(self) -> DependsOn:
        """Nothing."""
        return "nothing"

    @property
    def max_draft_len(self) -> int:
        """The length itself."""
        return self.draft_len

    def choose(self, state: None, view: StepView) -> tuple[None, int]:
        """The same every time."""
        return None, self.draft_len


@dataclass(frozen=True)
class RoundRobin:
    """Each replica in turn."""

    def start(self) -> int:
        """The first one is next."""
        return 0

    def pick(self, state: int, replicas: Replicas, now_s: float, request: Arriving) -> tuple[int, int]:
        """The next one."""
        index = state % replicas.num_running.size
        return index + 1, index
