"""Requests as a server handles them, and the rules that all replicas share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, nan
from typing import Any, NamedTuple

import numpy as np

from specsim.sim import kernel
from specsim.sim.config import ServerConfig
from specsim.sim.kernel import MISSING, PROMPT, REQUEST, Floats, Ints, Latent, Limits, Tables
from specsim.sim.policies import Admission, DraftControl, Waiting


@dataclass(slots=True, eq=False)
class Job:
    """A request on its way through a server, as it came or as it was when it lost its place.

    ``has_cache``: a prefill replica read its prompt, and its cache comes along.
    """

    number: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    key: int
    session: int = -1
    prefix: tuple[int, ...] = ()
    priority: float = 0.0
    ttft_slo_s: float = inf
    tpot_slo_s: float = inf
    survival: Floats | None = None
    ints: Ints | None = None
    floats: Floats | None = None
    effect: float = 0.0
    step: float = 0.0
    has_cache: bool = False

    def row(self) -> tuple[Ints, Floats]:
        """Its rows of state, ``[1, columns]``, as of one that is not inside."""
        if self.ints is not None and self.floats is not None:
            return self.ints[None], self.floats[None]
        ints = np.zeros((1, kernel.NUM_INTS), dtype=np.int64)
        ints[0, [REQUEST, PROMPT, MISSING]] = self.number, self.prompt_tokens, self.output_tokens
        return ints, np.array([[self.arrival_s, nan, nan, nan, nan, self.tpot_slo_s, self.effect, self.step]])


class Rules(NamedTuple):
    """What all replicas of a deployment share.

    Args:
        config: As the user said it.
        tables: Seconds of steps.
        limits: Of a step.
        num_blocks: Blocks of KV memory of a replica.
        survival: ``[shape, depth]`` of requests that have none of their own.
        latent: How rounds of a request are alike.
        admission, control: The policies.
        blocks_per_identity: Blocks of KV memory behind one identity of a prefix.
        drops_last: Whether the last block of a prefix that is found is computed again, for a drafter's sake.
        longest_draft: Most tokens that a sequence drafts in a round.
        advance: ``kernel.advance`` or its like.
        by_step: Whether every engine step is an event of its own.
        swap_s_per_token: Of moving cache to the host or back.
        checks: Whether blocks are counted anew after each stretch.
        prefills: Whether prompts are all that a replica reads, for others to go on.
    """

    config: ServerConfig
    tables: Tables
    limits: Limits
    num_blocks: int
    survival: Floats
    latent: Latent
    admission: Admission
    control: DraftControl
    blocks_per_identity: int
    drops_last: bool
    longest_draft: int
    advance: Callable[..., Any]
    by_step: bool
    swap_s_per_token: float
    checks: bool
    prefills: bool = False


def columns_of(jobs: list[Job]) -> Waiting:
    """Requests that wait, as admission sees them."""
    return Waiting(
        arrival_s=np.array([job.arrival_s for job in jobs]),
        prompt_tokens=np.array([job.prompt_tokens for job in jobs]),
        output_tokens=np.array([job.output_tokens if job.ints is None else job.ints[MISSING] for job in jobs]),
        priority=np.array([job.priority for job in jobs]),
        ttft_slo_s=np.array([job.ttft_slo_s for job in jobs]),
        num_preempted=np.array([0 if job.ints is None else job.ints[kernel.PREEMPTED] for job in jobs]),
    )
