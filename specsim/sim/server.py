"""A replica: one process that admits requests, takes engine steps, and lets go of those that are done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import nan
from typing import Any

import numpy as np
import simpy

from specsim.errors import InputError
from specsim.sim import kernel
from specsim.sim.jobs import Job, Rules, columns_of
from specsim.sim.kernel import BLOCKS, CONTEXT, FULL, MISSING, OUT, PROMPT, REQUEST, TODO, Ints
from specsim.sim.kv import PrefixCache
from specsim.sim.policies import DraftControl, StepView
from specsim.sim.policies.basic import FirstCome
from specsim.sim.ragged import ragged_time, view_of
from specsim.sim.recorder import Recorder, StepRecorder

_STRETCH = 1 << 40
_LOGGED = 1024
_NOTHING = np.zeros((0, kernel.NUM_INTS), dtype=np.int64)


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
    """

    env: simpy.Environment
    index: int
    rules: Rules
    recorder: Recorder
    steps: StepRecorder | None
    deliver: Callable[[float], None]
    horizon: Callable[[Server], float]
    on_leave: Callable[[Server, Job, float], None]
    waiting: deque[Job] = field(default_factory=deque)
    jobs: dict[int, Job] = field(default_factory=dict)
    num_running: int = 0
    clock_s: float = 0.0
    num_steps: int = 0

    def __post_init__(self) -> None:
        r = self.rules
        slots = r.config.max_running
        self.ints = np.zeros((slots, kernel.NUM_INTS), dtype=np.int64)
        self.floats = np.zeros((slots, kernel.NUM_FLOATS))
        self.done_ints, self.done_floats = self.ints - 1, self.floats.copy()
        self.log = np.zeros((_LOGGED if self.steps else 1, kernel.NUM_LOGGED))
        self.free = r.num_blocks
        self.cache = PrefixCache(r.blocks_per_identity)
        self.pending = 0
        self.survival = r.survival[None].copy()
        self.rows = list[int]()
        self.state = r.control.start()
        self.idle: simpy.Event | None = None
        self.in_flight: tuple[int, int] | None = None
        """Rows running and rows done once the stretch under way is over."""
        self._chosen: dict[int, int] = {}
        self._shapes = np.zeros(slots, dtype=np.int64)
        self._in_order = isinstance(r.admission, FirstCome)

    def submit(self, job: Job) -> None:
        """Queue a request."""
        self.waiting.append(job)
        if self.idle is not None:
            self.clock_s = max(self.clock_s, job.arrival_s)
            self.idle.succeed()
            self.idle = None

    def serve(self) -> Iterator[Any]:
        """The process: stretches of steps for ever, asleep while there is nothing to do."""
        env = self.env
        while True:
            self.deliver(self.clock_s)
            blocked = self._admit()
            if not self.num_running:
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
                self.check()

    def _stretch(self, blocked: bool) -> tuple[int, int]:
        """Steps until something happens; how many then run, and how many are done."""
        r, preempted = self.rules, False
        while True:
            asks = r.control.depends_on == "history"
            lonely = r.by_step or asks or preempted or (bool(self.waiting) and not self._in_order)
            most = 1 if lonely else (_LOGGED if self.steps else _STRETCH)
            shape, given, view = self._choose()
            before = self.ints[: self.num_running].copy() if asks else _NOTHING
            start = self.clock_s
            (self.clock_s, steps, status, num_running, finished, free, self.pending) = r.advance(
                self.ints,
                self.floats,
                self.num_running,
                self.free,
                self.clock_s,
                self.horizon(self),
                most,
                r.limits.token_budget if blocked else 0,
                shape,
                self._shapes,
                given,
                self.survival,
                r.limits,
                r.tables,
                self.done_ints,
                self.done_floats,
                self.log,
                self.steps is not None,
            )
            if steps:
                break
            assert status == FULL, "a step neither done nor without memory"
            self._preempt()
            preempted = True
        self.free = int(free)
        self.num_steps += int(steps)
        self.cache.shrink(self.free)
        if self.steps is not None:
            self.steps.write(self.log[:steps], self.index, len(self.waiting), r.num_blocks)
        if view is not None:
            self._observe(before, int(finished), num_running, self.clock_s - start)
        return int(num_running), int(finished)

    # Admission

    def _admit(self) -> bool:
        """Take in whom there is room for; whether what is left waits for prompts that are still to be read."""
        waiting, budget = self.waiting, self.rules.limits.token_budget
        if not self._in_order and waiting and self.num_running < self.rules.config.max_running:
            return self._admit_chosen()
        while waiting and self.num_running < self.rules.config.max_running and waiting[0].arrival_s <= self.clock_s:
            if self.pending >= budget:
                return True
            if not self._place(waiting[0]):
                return False
            waiting.popleft()
        return False

    def _admit_chosen(self) -> bool:
        jobs = [job for job in self.waiting if job.arrival_s <= self.clock_s]
        if not jobs:
            return False
        placed = set()
        for index in self.rules.admission.order(columns_of(jobs), self.clock_s).tolist():
            full = self.num_running >= self.rules.config.max_running or self.pending >= self.rules.limits.token_budget
            if full or not self._place(jobs[index]):
                break
            placed.add(jobs[index].number)
        self.waiting = deque(job for job in self.waiting if job.number not in placed)
        return False

    def _place(self, job: Job) -> bool:
        """Give a request memory and a row, if there is room."""
        r, saved = self.rules, job.ints
        hits = self.cache.num_hits(job.prefix) if job.prefix else 0
        tokens = job.prompt_tokens if saved is None else int(saved[PROMPT] + saved[OUT])
        swapped = saved is not None and r.config.preemption == "swap"
        each = r.blocks_per_identity * r.limits.block_tokens
        if hits and r.drops_last:
            hits -= 1
        cached = min(hits * each, (tokens - 1) // each * each)
        whole = job.prompt_tokens + job.output_tokens + r.longest_draft if r.config.reserves else tokens
        blocks = -(-(whole + r.limits.lookahead) // r.limits.block_tokens)
        new = blocks - len(job.prefix) * r.blocks_per_identity
        new += self.cache.num_taken(job.prefix) if job.prefix else 0
        if new > self.free:
            return False
        if job.prefix:
            self.cache.hold(job.prefix)
        self.free -= new
        n = self.num_running
        row = self._row(job)
        if saved is None:
            self.ints[n] = (
                job.number, job.prompt_tokens, cached, job.output_tokens, tokens - cached, 0, blocks,
                0, 0, 0, 0, row, job.key, 0, cached,
            )  # fmt: skip
            self.floats[n] = (job.arrival_s, self.clock_s, nan, nan, nan, job.tpot_slo_s)
            self.pending += tokens - cached
        else:
            self.ints[n], self.floats[n] = saved, job.floats
            self.ints[n, [BLOCKS, kernel.ROW]] = blocks, row
            if swapped:
                self.clock_s += float(saved[CONTEXT]) * r.swap_s_per_token
            else:
                self.ints[n, [CONTEXT, TODO]] = cached, tokens - cached
            self.pending += int(self.ints[n, TODO])
        self.jobs[job.number] = job
        self.num_running += 1
        return True

    def _row(self, job: Job) -> int:
        """Where the survival of its drafts stands: with all others', or in a row of its own."""
        if job.survival is None:
            return 0
        if not self.rows:
            more = min(max(len(self.survival), 8), self.rules.config.max_running + 1)
            self.rows = list(range(len(self.survival) + more - 1, len(self.survival) - 1, -1))
            self.survival = np.concatenate([self.survival, np.zeros((more, *self.survival.shape[1:]))])
        row = self.rows.pop()
        depth = np.arange(self.survival.shape[2])
        self.survival[row] = job.survival[: len(depth)] * (depth < self.rules.tables.width[:, None])
        return row

    # Leaving

    def land(self) -> None:
        """The stretch under way is over: those who are done leave."""
        if self.in_flight is not None:
            self.num_running, finished = self.in_flight
            self.in_flight = None
            if finished:
                self._leave(finished)

    def end(self) -> None:
        """Write down who is still inside, or waits.

        An interrupt may have come between a stretch and what follows from it: rows that moved up then stand twice, and
        those that are done stand where they were put last.
        """
        n = self.num_running
        ints = np.concatenate([self.ints[:n], self.done_ints[self.done_ints[:, MISSING] == 0]])
        floats = np.concatenate([self.floats[:n], self.done_floats[self.done_ints[:, MISSING] == 0]])
        inside = np.isin(ints[:, REQUEST], np.fromiter(self.jobs, dtype=np.int64))
        rows = np.flatnonzero(inside)[np.sort(np.unique(ints[inside, REQUEST], return_index=True)[1])]
        done = ints[rows, MISSING] == 0
        self.recorder.write(ints[rows[done]], floats[rows[done]], self.index, 0)
        self.recorder.write(ints[rows[~done]], floats[rows[~done]], self.index, 2)
        for job in self.waiting:
            if job.number not in self.jobs:
                self.recorder.write(*job.row(), -1 if job.ints is None else self.index, 2)

    def _leave(self, finished: int) -> None:
        ints, floats = self.done_ints[:finished], self.done_floats[:finished]
        self.recorder.write(ints, floats, self.index, 0)
        for number, blocks, row in ints[:, [REQUEST, BLOCKS, kernel.ROW]].tolist():
            job = self.jobs.pop(number)
            self._let_go(job, blocks, row)
            if job.session >= 0:
                self.on_leave(self, job, self.clock_s)

    def _let_go(self, job: Job, blocks: int, row: int) -> None:
        self.free += blocks - len(job.prefix) * self.rules.blocks_per_identity
        if job.prefix:
            self.free += self.cache.release(job.prefix)
        if row:
            self.rows.append(row)

    def _preempt(self) -> None:
        """Take memory from the request that was admitted last; it goes back to the front of the queue."""
        if self.num_running < 2:
            raise InputError("kv_blocks", "must hold the longest request and its drafts", self.rules.num_blocks)
        last = self.num_running - 1
        saved = self.ints[last].copy()
        job = self.jobs.pop(int(saved[REQUEST]))
        self._let_go(job, int(saved[BLOCKS]), int(saved[kernel.ROW]))
        if self.rules.config.preemption == "swap":
            self.clock_s += float(saved[CONTEXT]) * self.rules.swap_s_per_token
            job.prefix = ()
        saved[kernel.PREEMPTED] += 1
        self.pending -= int(saved[TODO])
        job.ints, job.floats = saved, self.floats[last].copy()
        self.waiting.appendleft(job)
        self.num_running = last

    # Draft control

    def _choose(self) -> tuple[int, tuple[float, float, float, float], StepView | None]:
        """The shape of the next rounds; -1 with their time where requests differ; the view, where one was asked for."""
        r, n, none = self.rules, self.num_running, (0.0, 0.0, 0.0, 0.0)
        if r.control.depends_on != "history":
            known = n if r.control.depends_on == "num_running" else 0
            if known not in self._chosen:
                view = view_of(self.clock_s, n, 0, self.free, _NOTHING, self.floats[:0], self.survival, r.tables)
                _, length = r.control.choose(self.state, view)
                self._chosen[known] = _checked(length, len(r.tables.width), r.control)
            return self._chosen[known], none, None
        decoding = self.ints[:n, TODO] == 0
        if not decoding.any() or (not r.limits.mixes and not decoding.all()):
            return 0, none, None
        rows, seconds = self.ints[:n][decoding], self.floats[:n][decoding]
        view = view_of(self.clock_s, n, len(self.waiting), self.free, rows, seconds, self.survival, r.tables)
        self.state, lengths = r.control.choose(self.state, view)
        if not isinstance(lengths, np.ndarray):
            return _checked(lengths, len(r.tables.width), r.control), none, view
        if lengths.shape != (len(rows),) or not ((lengths >= 0) & (lengths < len(r.tables.width))).all():
            raise InputError(
                "draft_len", f"must be one per decoding request, from 0 to {len(r.tables.width) - 1}", lengths
            )
        self._shapes[:n][decoding] = lengths
        time = ragged_time(r.tables, lengths, float(rows[:, CONTEXT].mean()))
        return -1, (time.drafting, time.verifying, time.host, time.least), view

    def _observe(self, before: Ints, finished: int, left: int, step_s: float) -> None:
        """Tell the control what its step brought; rows keep their order, whether they stay or go."""
        gone = np.isin(before[:, REQUEST], self.done_ints[:finished, REQUEST])
        after = np.zeros(len(before), dtype=np.int64)
        after[gone] = self.done_ints[:finished, kernel.ACCEPTED]
        after[~gone] = self.ints[:left, kernel.ACCEPTED]
        kept = (after - before[:, kernel.ACCEPTED])[before[:, TODO] == 0]
        self.state = self.rules.control.observe(self.state, kept, step_s)

    def check(self) -> None:
        """Assert that blocks and tokens are conserved."""
        rows = self.ints[: self.num_running]
        shared = sum(len(job.prefix) for job in self.jobs.values()) * self.rules.blocks_per_identity
        held = int(rows[:, BLOCKS].sum()) - shared + self.cache.held_blocks
        assert held + self.free == self.rules.num_blocks, "blocks of KV memory are lost or made"
        assert self.free >= 0 and len(self.jobs) == self.num_running, "requests are lost or made"
        assert (rows[:, MISSING] > 0).all(), "a request stays that is done"
        whole = rows[:, TODO] == 0
        assert (rows[whole, CONTEXT] == rows[whole, PROMPT] + rows[whole, OUT] - 1).all(), "tokens are lost or made"
        assert (rows[:, BLOCKS] * self.rules.limits.block_tokens >= rows[:, CONTEXT]).all(), "a context without memory"


def _checked(length: Any, shapes: int, control: DraftControl) -> int:
    """Which shape a draft length is; a control that never varies has one shape only."""
    if not 0 <= int(length) <= control.max_draft_len:
        raise InputError("draft_len", f"must be from 0 to {control.max_draft_len}, the longest of its control", length)
    return int(length) if shapes > 1 else 0
