"""Who is taken in first. ``FirstCome`` is in ``basic``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from specsim.sim.policies import Ints, Waiting


@dataclass(frozen=True)
class ShortestFirst:
    """The shortest first, by ``prompt``, ``output`` or their sum ``total``; of equal ones who came first.

    Output lengths are as far as they were said: a real server would have to predict them.

    >>> prompts, outputs, nothing = np.array([90, 10]), np.array([5, 5]), np.zeros(2)
    >>> waiting = Waiting(np.array([0.0, 1.0]), prompts, outputs, nothing, nothing, np.zeros(2, int))
    >>> ShortestFirst("prompt").order(waiting, now_s=2.0).tolist()
    [1, 0]
    """

    by: Literal["prompt", "output", "total"] = "total"

    def order(self, waiting: Waiting, now_s: float) -> Ints:
        prompt, output = waiting.prompt_tokens, waiting.output_tokens
        length = {"prompt": prompt, "output": output, "total": prompt + output}[self.by]
        return np.lexsort((waiting.arrival_s, length))


@dataclass(frozen=True)
class PriorityFirst:
    """The lowest ``priority`` first; of equal ones who came first."""

    def order(self, waiting: Waiting, now_s: float) -> Ints:
        return np.lexsort((waiting.arrival_s, waiting.priority))


@dataclass(frozen=True)
class EarliestDeadline:
    """Whose first token is due first; who can not make it any more goes behind those who can.

    Serving a request whose target is already missed costs one that can still be met. Without targets this is first
    come, first served.
    """

    def order(self, waiting: Waiting, now_s: float) -> Ints:
        due = waiting.arrival_s + waiting.ttft_slo_s
        return np.lexsort((waiting.arrival_s, due, due < now_s))
