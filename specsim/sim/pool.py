"""Replicas of one kind, and which of them takes a request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from specsim.errors import InputError
from specsim.sim.jobs import Job
from specsim.sim.policies import Arriving, Replicas, Routing
from specsim.sim.server import Server


@dataclass(eq=False)
class Pool:
    """Servers, as many in a row of each replica as its pipeline has lanes.

    Args:
        servers: ``[replicas * lanes]``.
        replicas, lanes: How many.
        routing: The policy, asked where there are several replicas.
    """

    servers: list[Server]
    replicas: int
    lanes: int
    routing: Routing

    def __post_init__(self) -> None:
        self._routed = self.routing.start()

    def route(self, job: Job, now_s: float) -> Server:
        """The server for a request: the policy's replica, and of its lanes the emptiest."""
        if len(self.servers) == 1:
            return self.servers[0]
        chosen = 0
        if self.replicas > 1:
            arriving = Arriving(job.number, job.prompt_tokens, job.output_tokens, job.session, job.priority)
            self._routed, chosen = self.routing.pick(self._routed, self._columns(job), now_s, arriving)
            if not 0 <= chosen < self.replicas:
                raise InputError("replica", f"must be from 0 to {self.replicas - 1}, as routing was asked", chosen)
        lanes = self.servers[chosen * self.lanes : (chosen + 1) * self.lanes]
        return min(lanes, key=lambda server: server.num_running + len(server.waiting))

    def _columns(self, job: Job) -> Replicas:
        rules = self.servers[0].rules
        each = rules.blocks_per_identity * rules.limits.block_tokens
        found = [(s.num_running, len(s.waiting), s.inside.free, _hits(s, job) * each) for s in self.servers]
        rows = np.array(found, dtype=np.int64).reshape(self.replicas, self.lanes, 4)
        running, waiting, free = rows[:, :, :3].sum(axis=1).T
        return Replicas(running, waiting, free, rows[:, :, 3].max(axis=1))


def _hits(server: Server, job: Job) -> int:
    return server.inside.cache.num_hits(job.prefix) if job.prefix else 0
