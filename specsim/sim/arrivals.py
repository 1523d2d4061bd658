"""Requests on their way to replicas: in order of arrival, a later turn of a session after the answer before it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf
from typing import Any, Final, Protocol

import numpy as np
import simpy

from specsim.errors import InputError
from specsim.sim.jobs import Job
from specsim.sim.kernel import Floats, Ints
from specsim.sim.natures import Natures
from specsim.sim.server import Server
from specsim.workload.requests import Requests

_SAMPLES: Final = 512


class SurvivalOf(Protocol):
    """Acceptance of single requests."""

    def __call__(self, request: Ints, category: Ints) -> Floats:
        """``[N, depth]`` probability that at least so many draft tokens of a round are kept, for requests by number.

        ``category`` is that of the request, -1 where none was said; the depth is that of the longest draft or more.
        """
        ...


@dataclass(eq=False)
class Arrivals:
    """The process that hands requests to replicas when they are due.

    Args:
        env: The clock.
        chunks: What is still to come, in order.
        seed: Of the requests' draws.
        survival: Of each request, where the deployment's is not everyone's.
        fits: Why a request (prompt, output tokens) can never be served; empty where it can.
        route: The replica for a request.
        refuse: Called with a request that is refused, and why.
        max_waiting: More that wait end the run.
        num_waiting: How many wait now.
        identity_tokens: Tokens behind one identity of a prefix; 0 where prefixes are not looked at.
        natures: How requests differ; None where none does.
    """

    env: simpy.Environment
    chunks: Iterator[Requests]
    seed: int
    survival: SurvivalOf | None
    fits: Callable[[int, int], str]
    route: Callable[[Job, float], Server]
    refuse: Callable[[Job, str], None]
    max_waiting: int
    num_waiting: Callable[[], int]
    identity_tokens: int = 0
    natures: Natures | None = None
    next_s: float = inf
    num_arrived: int = 0
    overflowed: bool = False
    samples: list[tuple[float, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._jobs: Iterator[tuple[Job, float]] = self._read()
        self._next: tuple[Job, float] | None = None
        self._due: list[tuple[float, int, Job]] = []
        self._turns: dict[int, deque[tuple[Job, float]]] = {}
        self._ended: dict[int, float] = {}
        self._stride, self._number, self._last_s = 1, 0, 0.0
        self.num_held = 0
        self._step_on()

    def send(self) -> Iterator[Any]:
        """The process."""
        while self.next_s < inf:
            at = self.next_s
            if at > self.env.now:
                yield self.env.timeout(at - self.env.now)
            self.deliver(at)

    def deliver(self, now_s: float) -> None:
        """Hand over whatever is due by now."""
        while self.next_s <= now_s:
            if self._due and self._due[0][0] <= self.next_s:
                _, _, job = heappop(self._due)
                self._hand_over(job, job.arrival_s)
                self._look_ahead()
                continue
            assert self._next is not None
            job, delay_s = self._next
            self._step_on()
            if job.session < 0:
                self._hand_over(job, job.arrival_s)
            else:
                self._take_turn(job, delay_s)

    def left(self, server: Server, job: Job, now_s: float) -> None:
        """A turn of a session was answered: the next one may be sent."""
        following = self._next_turn(job, now_s)
        if following is not None and following.prefix and self.identity_tokens:
            whole = (job.prompt_tokens + job.output_tokens - 1) // self.identity_tokens
            server.inside.cache.remember(following.prefix[:whole])
            server.inside.cache.shrink(server.inside.free)

    def _take_turn(self, job: Job, delay_s: float) -> None:
        if job.session in self._turns:
            self._turns[job.session].append((job, delay_s))
            self.num_held += 1
            return
        self._turns[job.session] = deque()
        due = max(job.arrival_s, self._ended.get(job.session, -inf) + delay_s)
        if due <= job.arrival_s:
            self._hand_over(job, due)
        else:
            self._send_later(job, due)

    def _next_turn(self, job: Job, now_s: float) -> Job | None:
        held = self._turns[job.session]
        if not held:
            del self._turns[job.session]
            self._ended[job.session] = now_s
            return None
        following, delay_s = held.popleft()
        self.num_held -= 1
        self._send_later(following, max(following.arrival_s, now_s + delay_s))
        return following

    def _send_later(self, job: Job, due_s: float) -> None:
        job.arrival_s = due_s
        heappush(self._due, (due_s, job.number, job))
        self._look_ahead()

        def wait() -> Iterator[Any]:
            yield self.env.timeout(max(due_s - self.env.now, 0.0))
            self.deliver(due_s)

        self.env.process(wait())

    def _hand_over(self, job: Job, now_s: float) -> None:
        self.num_arrived += 1
        if why := self.fits(job.prompt_tokens, job.output_tokens):
            self.refuse(job, why)
            if job.session >= 0:
                self._next_turn(job, now_s)
            return
        self.route(job, now_s).submit(job)
        if self.num_arrived % self._stride == 0:
            self._sample(now_s)

    def _sample(self, now_s: float) -> None:
        """How many wait, at every so many arrivals: at most twice ``_SAMPLES`` of them."""
        waiting = self.num_waiting()
        self.samples.append((now_s, self.num_arrived, waiting))
        if len(self.samples) >= 2 * _SAMPLES:
            self.samples = self.samples[1::2]
            self._stride *= 2
        if waiting > self.max_waiting:
            self.overflowed = True
            self._next, self._jobs, self._due = None, iter(()), []
            self.next_s = inf

    def _step_on(self) -> None:
        self._next = next(self._jobs, None)
        self._look_ahead()

    def _look_ahead(self) -> None:
        arriving = self._next[0].arrival_s if self._next else inf
        self.next_s = min(arriving, self._due[0][0]) if self._due else arriving

    def _read(self) -> Iterator[tuple[Job, float]]:
        for chunk in self.chunks:
            size = len(chunk)
            if size and chunk.arrival_s[0] < self._last_s:
                raise InputError("requests", f"must come in order, at least {self._last_s:g} s", chunk.arrival_s[0])
            numbers = np.arange(self._number, self._number + size)
            self._number += size
            self._last_s = float(chunk.arrival_s[-1]) if size else self._last_s
            columns = (chunk.arrival_s, chunk.prompt_tokens, chunk.output_tokens, keys(self.seed, numbers))
            plain = zip(numbers.tolist(), *(column.tolist() for column in columns), strict=True)
            if not self._has_more(chunk):
                yield from ((Job(*fields), 0.0) for fields in plain)
                continue
            yield from self._with_more(chunk, [Job(*fields) for fields in plain])

    def _has_more(self, chunk: Requests) -> bool:
        said = (chunk.session, chunk.prefix_blocks, chunk.priority, chunk.ttft_slo_s, chunk.tpot_slo_s)
        return self.survival is not None or self.natures is not None or any(column is not None for column in said)

    def _with_more(self, chunk: Requests, jobs: list[Job]) -> Iterator[tuple[Job, float]]:
        numbers = np.array([job.number for job in jobs], dtype=np.int64)
        category = np.full(len(jobs), -1) if chunk.category is None else chunk.category
        own = None if self.survival is None else self.survival(numbers, category)
        if self.natures is not None:
            effects, steps = self.natures.of(np.array([job.key for job in jobs], dtype=np.int64))
            for job, effect, step in zip(jobs, effects.tolist(), steps.tolist(), strict=True):
                job.effect, job.step = effect, step
        for name in ("priority", "ttft_slo_s", "tpot_slo_s"):
            if (column := getattr(chunk, name)) is not None:
                for job, value in zip(jobs, column.tolist(), strict=True):
                    setattr(job, name, value if value == value else inf)
        for row, job in enumerate(jobs):
            if chunk.session is not None:
                job.session = int(chunk.session[row])
            if chunk.prefix_blocks is not None and self.identity_tokens:
                job.prefix = chunk.prefix_blocks[row][: job.prompt_tokens // chunk.block_tokens]
            if own is not None:
                job.survival = own[row]
            yield job, 0.0 if chunk.delay_s is None else float(chunk.delay_s[row])


def keys(seed: int, numbers: Ints) -> Ints:
    """Where the draws of each request begin: the same for a request of one seed, whatever becomes of it.

    >>> len(set(keys(0, np.arange(1000)).tolist()) | set(keys(1, np.arange(1000)).tolist()))
    2000
    """
    z = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0xD1342543DE82EF95)
    z ^= np.array([seed], dtype=np.uint64) * np.uint64(0xA24BAED4963EE407) + np.uint64(0x9FB21C651E98DF25)
    z = (z ^ (z >> np.uint64(32))) * np.uint64(0xDABA0B6EB09322E3)
    z = (z ^ (z >> np.uint64(32))) * np.uint64(0xDABA0B6EB09322E3)
    return np.asarray((z ^ (z >> np.uint64(32))).view(np.int64))


def chunks_of(requests: Requests | Iterable[Requests]) -> tuple[Iterator[Requests], int]:
    """The chunks, and the tokens of an identity of a prefix, which must be one for all."""
    stream = iter((requests,) if isinstance(requests, Requests) else requests)
    first = next(stream, None)
    if first is None:
        return iter(()), 0
    size = first.block_tokens

    def all_chunks() -> Iterator[Requests]:
        yield first
        for chunk in stream:
            if chunk.prefix_blocks is not None and chunk.block_tokens != size:
                raise InputError("block_tokens", f"must be {size} in all chunks of requests", chunk.block_tokens)
            yield chunk

    return all_chunks(), size if first.prefix_blocks is not None else 0
