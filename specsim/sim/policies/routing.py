"""Which replica takes a request. ``RoundRobin`` is in ``basic``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from specsim.errors import InputError
from specsim.sim.policies import Arriving, Replicas


@dataclass(frozen=True)
class LeastLoaded:
    """The replica with the fewest requests inside and in the queue; of equal ones the first."""

    def start(self) -> None:
        return None

    def pick(self, state: Any, replicas: Replicas, now_s: float, request: Arriving) -> tuple[Any, int]:
        return state, int(np.argmin(replicas.num_running + replicas.num_waiting))


@dataclass(frozen=True)
class PrefixAware:
    """The replica that has most of the prompt cached, unless loads differ too much; then the least loaded.

    Args:
        least_share: A hit counts from this share of the prompt on.
        most_apart: Requests by which the chosen replica may be ahead of the least loaded one.
    """

    least_share: float = 0.1
    most_apart: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.least_share <= 1 or self.most_apart < 0:
            raise InputError(
                "least_share, most_apart", "must be from 0 to 1, and >= 0", (self.least_share, self.most_apart)
            )

    def start(self) -> None:
        return None

    def pick(self, state: Any, replicas: Replicas, now_s: float, request: Arriving) -> tuple[Any, int]:
        load = replicas.num_running + replicas.num_waiting
        best = int(np.lexsort((load, -replicas.cached_tokens))[0])
        hits = replicas.cached_tokens[best] >= max(self.least_share * request.prompt_tokens, 1)
        if hits and load[best] - load.min() <= self.most_apart:
            return state, best
        return LeastLoaded().pick(state, replicas, now_s, request)
