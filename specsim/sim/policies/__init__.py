"""What a server asks while it runs: who is admitted next, how much is drafted, which replica takes a request.

Policies are values: frozen dataclasses whose fields are their configuration. They see columns, answer with numbers, and
know neither the clock nor each other. Nothing here has a default: whoever serves names its policies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Waiting:
    """Requests that wait to be taken in, in the order in which they came; preempted ones stand where they came.

    Args:
        arrival_s: ``[W]`` when each arrived.
        prompt_tokens, output_tokens: ``[W]`` tokens to be read, and to come out still, as far as they were said.
        priority: ``[W]`` lower first; 0 where none was said.
        ttft_slo_s: ``[W]`` target for the first token; infinite where none was said.
        num_preempted: ``[W]`` times that each lost its cache.
    """

    arrival_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    priority: Floats
    ttft_slo_s: Floats
    num_preempted: Ints


class Admission(Protocol):
    """Who is taken in first."""

    def order(self, waiting: Waiting, now_s: float) -> Ints:
        """Indices of waiting requests, the first to be admitted first; one that is left out waits on.

        The server admits in this order until something is full: it never skips one that does not fit.
        """
        ...


@dataclass(frozen=True, eq=False)
class StepView:
    """What draft control may know when a step begins. ``[N]``: requests that decode in it, in order of admission.

    Args:
        now_s: When the step begins.
        num_running: Requests in the step, those that still read their prompt included.
        num_waiting: Requests outside.
        kv_free_blocks: Blocks of KV memory that nobody holds.
        request: ``[N]`` their numbers.
        context_tokens: ``[N]`` tokens in the cache of each.
        tokens_out: ``[N]`` tokens that came out so far, the prompt's own first one included.
        missing_tokens: ``[N]`` tokens still to come.
        first_token_s: ``[N]`` when the first token of each came out.
        tpot_slo_s: ``[N]`` target for the time per token after the first; infinite where none was said.
        survival: ``[N, D]`` probability that at least so many of a request's draft tokens (1, ..., D) are kept, as a
            perfectly calibrated drafter would know it.
        would_accept: ``[N]`` how many of D draft tokens will be kept in this round: for oracles alone.
        time_s: Seconds of the step for a draft length, one for all or one per request; without its prompts.
    """

    now_s: float
    num_running: int
    num_waiting: int
    kv_free_blocks: int
    request: Ints
    context_tokens: Ints
    tokens_out: Ints
    missing_tokens: Ints
    first_token_s: Floats
    tpot_slo_s: Floats
    survival: Floats
    would_accept: Ints
    time_s: Callable[[int | Ints], float]


DependsOn = Literal["nothing", "num_running", "history"]


class DraftControl(Protocol):
    """How many tokens each request drafts in a step.

    ``depends_on`` says what the answer depends on. Of a control that depends on ``nothing`` or on ``num_running``, the
    server asks once for all steps until a request comes or goes, with columns of no rows in the view, and never calls
    ``observe``; of one that depends on its ``history`` (or on anything else in the view) it asks before every step.
    """

    @property
    def depends_on(self) -> DependsOn:
        """What the answer depends on."""
        ...

    @property
    def max_draft_len(self) -> int:
        """The longest draft that it ever asks for; at 0 no drafter is loaded."""
        ...

    def start(self) -> Any:
        """The state of a server that has done nothing yet."""
        ...

    def choose(self, state: Any, view: StepView) -> tuple[Any, int | Ints]:
        """The next state, and the draft length of all requests or of each, ``[N]``."""
        ...

    def observe(self, state: Any, num_accepted: Ints, step_s: float) -> Any:
        """The next state, after a step that kept so many draft tokens of each request, ``[N]``, and took ``step_s``."""
        ...


@dataclass(frozen=True, eq=False)
class Replicas:
    """Replicas as a router sees them, ``[R]``.

    Args:
        num_running, num_waiting: Requests inside, and in the queue.
        kv_free_blocks: Blocks of KV memory that nobody holds.
        cached_tokens: Leading tokens of the prompt in question that each replica's prefix cache has.
    """

    num_running: Ints
    num_waiting: Ints
    kv_free_blocks: Ints
    cached_tokens: Ints


@dataclass(frozen=True)
class Arriving:
    """The request to be routed.

    Args:
        request: Its number.
        prompt_tokens, output_tokens: Its lengths, as far as they were said.
        session: The conversation that it belongs to; -1 for none.
        priority: Lower first; 0 where none was said.
    """

    request: int
    prompt_tokens: int
    output_tokens: int
    session: int = -1
    priority: float = 0.0


class Routing(Protocol):
    """Which replica takes a request. ``start`` and the returned state carry what a router remembers."""

    def start(self) -> Any:
        """The state of a router that has routed nothing yet."""
        ...

    def pick(self, state: Any, replicas: Replicas, now_s: float, request: Arriving) -> tuple[Any, int]:
        """The next state, and the index of the replica."""
        ...
