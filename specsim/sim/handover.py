"""From replicas that read prompts to replicas that decode: caches on their way over a link."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Any

import simpy

from specsim.sim.jobs import Job
from specsim.sim.kernel import BLOCKS, MISSING, PROMPT, Floats, Ints
from specsim.sim.recorder import Recorder
from specsim.sim.server import Server


@dataclass(eq=False)
class Handover:
    """Sends caches, one after another from each prefill replica, and holds their blocks there until they are sent.

    Args:
        env: The clock.
        token_s: Seconds on the link for a token of cache.
        latency_s: From the last byte sent to the request being ready to decode.
        route: The decode replica for a request, asked when its prompt is read.
        recorder: Takes requests whose one token came with the prompt.
        on_leave: As of ``Server``, for those.
    """

    env: simpy.Environment
    token_s: float
    latency_s: float
    route: Callable[[Job, float], Server]
    recorder: Recorder
    on_leave: Callable[[Server, Job, float], None]
    num_taken: int = 0
    num_delivered: int = 0
    next_s: float = inf
    _due: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _moving: dict[int, Job] = field(default_factory=dict)
    _free_at: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._order = count()

    def take(self, server: Server, job: Job, ints: Ints, floats: Floats) -> None:
        """A prompt has been read: its first token is out, its cache is sent to where the rest is decoded."""
        now_s, at = server.clock_s, server.inside
        if job.output_tokens == 1:
            self.recorder.write(ints[None], floats[None], server.index, 0)
            if job.session >= 0:
                self.on_leave(server, job, now_s)
            return
        self.num_taken += 1
        held = int(ints[BLOCKS]) - len(job.prefix) * server.rules.blocks_per_identity
        job.ints, job.floats, job.prefix, job.has_cache = ints.copy(), floats.copy(), (), True
        job.ints[MISSING] = job.output_tokens - 1
        to = self.route(job, now_s)
        sent_s = max(now_s, self._free_at.get(server.index, 0.0)) + self.token_s * float(ints[PROMPT])
        self._free_at[server.index] = sent_s
        self._moving[job.number] = job
        at.free -= held
        at.sending += held
        self._at(sent_s, lambda: _release(server, held, sent_s))
        self._at(sent_s + self.latency_s, lambda: self._deliver(to, job, sent_s + self.latency_s))

    @property
    def num_moving(self) -> int:
        """Requests on the link."""
        return len(self._moving)

    def deliver(self, now_s: float) -> None:
        """Do whatever is due by now."""
        while self.next_s <= now_s:
            _, _, action = heappop(self._due)
            self.next_s = self._due[0][0] if self._due else inf
            action()

    def end(self) -> None:
        """Write down what is still on its way."""
        assert self.num_taken == self.num_delivered + len(self._moving), "requests are lost or made on the link"
        for job in self._moving.values():
            self.recorder.write(*job.row(), -1, 2)

    def _deliver(self, to: Server, job: Job, now_s: float) -> None:
        del self._moving[job.number]
        self.num_delivered += 1
        job.arrival_s = now_s
        to.submit(job)

    def _at(self, due_s: float, action: Callable[[], None]) -> None:
        heappush(self._due, (due_s, next(self._order), action))
        self.next_s = self._due[0][0]

        def wait() -> Iterator[Any]:
            yield self.env.timeout(max(due_s - self.env.now, 0.0))
            self.deliver(due_s)

        self.env.process(wait())


def _release(server: Server, blocks: int, now_s: float) -> None:
    server.inside.sending -= blocks
    server.inside.free += blocks
    server.wake(now_s)
