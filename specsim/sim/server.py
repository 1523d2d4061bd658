"""A replica: one process that admits requests, takes engine steps, and lets go of those that are done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import isnan
from typing import Any

import numpy as np
import simpy

from specsim.sim import kernel
from specsim.sim.drafting import Drafting
from specsim.sim.inside import Inside
from specsim.sim.jobs import Job, Rules, columns_of
from specsim.sim.kernel import BLOCKS, FULL, MISSING, REQUEST, Floats, Ints
from specsim.sim.policies.basic import FirstCome
from specsim.sim.recorder import Recorder, StepRecorder

_STRETCH = 1 << 40
_LOGGED = 1024


@dataclass(eq=False)
class Server:
    """One replica.

    Args:
        env: The clock; ``clock_s`` is the replica's own, without the rounding of relative waits.
        index: Its number.
        rules: See there.
        recorder, steps: Where records go.
        deliver: Called with the time at each step's end: whatever has arrived until then is submitted.
        horizon: Until when nothing can reach this replica.
        on_leave: Called with each request that is done and when, where a session waits for it.
        hand_over: Takes requests that a prefill replica has read, with their rows; None for a replica that decodes.
    """

    env: simpy.Environment
    index: int
    rules: Rules
    recorder: Recorder
    steps: StepRecorder | None
    deliver: Callable[[float], None]
    horizon: Callable[[Server], float]
    on_leave: Callable[[Server, Job, float], None]
    hand_over: Take | None = None
    waiting: deque[Job] = field(default_factory=deque)
    clock_s: float = 0.0
    num_steps: int = 0

    def __post_init__(self) -> None:
        self.inside = Inside(self.rules)
        self.drafting = Drafting(self.inside)
        self.log = np.zeros((_LOGGED if self.steps else 1, kernel.NUM_LOGGED))
        self.idle: simpy.Event | None = None
        self.in_flight: tuple[int, int] | None = None
        """Rows running and rows done once the stretch under way is over."""
        self._in_order = isinstance(self.rules.admission, FirstCome)

    @property
    def num_running(self) -> int:
        return self.inside.num_running

    def submit(self, job: Job) -> None:
        """Queue a request."""
        self.waiting.append(job)
        self.wake(job.arrival_s)

    def wake(self, now_s: float) -> None:
        """Look again whether there is something to do."""
        if self.idle is not None:
            self.clock_s = max(self.clock_s, now_s)
            self.idle.succeed()
            self.idle = None

    def serve(self) -> Iterator[Any]:
        """The process: stretches of steps for ever, asleep while there is nothing to do."""
        env, inside = self.env, self.inside
        while True:
            self.deliver(self.clock_s)
            blocked = self._admit()
            if not inside.num_running:
                if self.waiting and self.waiting[0].arrival_s > self.clock_s:
                    self.clock_s = self.waiting[0].arrival_s  # an event came early by a rounding
                    continue
                self.idle = env.event()
                yield self.idle
                continue
            self.in_flight = self._stretch(blocked)
            yield env.timeout(max(self.clock_s - env.now, 0.0))
            self.land()
            if self.rules.checks:
                inside.check()

    def _stretch(self, blocked: bool) -> tuple[int, int]:
        """Steps until something happens; how many then run, and how many are done."""
        r, at, preempted = self.rules, self.inside, False
        while True:
            lonely = r.by_step or self.drafting.asks or preempted or (bool(self.waiting) and not self._in_order)
            most = 1 if lonely else (_LOGGED if self.steps else _STRETCH)
            shape, given = self.drafting.choose(self.clock_s, len(self.waiting))
            start = self.clock_s
            (self.clock_s, steps, status, num_running, finished, free, at.pending) = r.advance(
                at.ints,
                at.floats,
                at.num_running,
                at.free,
                self.clock_s,
                self.horizon(self),
                most,
                r.limits.token_budget if blocked else 0,
                shape,
                self.drafting.shapes,
                given,
                at.bars,
                r.latent,
                r.limits,
                r.tables,
                at.done_ints,
                at.done_floats,
                self.log,
                self.steps is not None,
            )
            if steps:
                break
            assert status == FULL, "a step neither done nor without memory"
            job, moving_s = at.evict_last()
            self.clock_s += moving_s
            self.waiting.appendleft(job)
            preempted = True
        at.free = int(free)
        self.num_steps += int(steps)
        at.cache.shrink(at.free)
        if self.steps is not None:
            self.steps.write(self.log[:steps], self.index, len(self.waiting), r.num_blocks)
        if self.drafting.asks:
            self.drafting.observe(int(finished), num_running, self.clock_s - start)
        return int(num_running), int(finished)

    def _admit(self) -> bool:
        """Take in whom there is room for; whether what is left waits for prompts that are still to be read."""
        waiting, at = self.waiting, self.inside
        slots, budget = self.rules.config.max_running, self.rules.limits.token_budget
        if not self._in_order and waiting and at.num_running < slots:
            return self._admit_chosen()
        while waiting and at.num_running < slots and waiting[0].arrival_s <= self.clock_s:
            if at.pending >= budget:
                return True
            if not self._place(waiting[0]):
                return False
            waiting.popleft()
        return False

    def _admit_chosen(self) -> bool:
        jobs = [job for job in self.waiting if job.arrival_s <= self.clock_s]
        if not jobs:
            return False
        placed, at = set(), self.inside
        for index in self.rules.admission.order(columns_of(jobs), self.clock_s).tolist():
            full = at.num_running >= self.rules.config.max_running or at.pending >= self.rules.limits.token_budget
            if full or not self._place(jobs[index]):
                break
            placed.add(jobs[index].number)
        self.waiting = deque(job for job in self.waiting if job.number not in placed)
        return False

    def _place(self, job: Job) -> bool:
        moving_s = self.inside.place(job, self.clock_s)
        if isnan(moving_s):
            return False
        self.clock_s += moving_s
        return True

    def land(self) -> None:
        """The stretch under way is over: those who are done leave."""
        if self.in_flight is not None:
            self.inside.num_running, finished = self.in_flight
            self.in_flight = None
            if finished:
                self._leave(finished)

    def end(self) -> None:
        """Write down who is still inside, or waits."""
        ints, floats = self.inside.rows_left()
        done = (ints[:, MISSING] == 0) & (self.hand_over is None)
        self.recorder.write(ints[done], floats[done], self.index, 0)
        self.recorder.write(ints[~done], floats[~done], self.index, 2)
        for job in self.waiting:
            if job.number not in self.inside.jobs:
                self.recorder.write(*job.row(), -1 if job.ints is None else self.index, 2)

    def _leave(self, finished: int) -> None:
        at = self.inside
        ints, floats = at.done_ints[:finished], at.done_floats[:finished]
        if self.hand_over is None:
            self.recorder.write(ints, floats, self.index, 0)
        for place, (number, blocks, row) in enumerate(ints[:, [REQUEST, BLOCKS, kernel.ROW]].tolist()):
            job = at.jobs.pop(number)
            at.let_go(job, blocks, row)
            if self.hand_over is not None:
                self.hand_over(self, job, ints[place], floats[place])
            elif job.session >= 0:
                self.on_leave(self, job, self.clock_s)


Take = Callable[[Server, Job, Ints, Floats], None]
