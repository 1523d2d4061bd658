"""Who is inside a replica: for each request a row of state and blocks of KV memory."""

from __future__ import annotations

from math import nan

import numpy as np

from specsim.errors import InputError
from specsim.sim import kernel
from specsim.sim.jobs import Job, Rules
from specsim.sim.kernel import BLOCKS, CONTEXT, MISSING, OUT, PROMPT, REQUEST, TODO, Floats, Ints
from specsim.sim.kv import PrefixCache
from specsim.sim.natures import normal_quantiles


class Inside:
    """Rows of those who run, in order of admission, and the memory of a replica.

    Args:
        rules: See there.

    Attributes:
        ints, floats: ``[max_running, ...]`` the rows; the first ``num_running`` count.
        done_ints, done_floats: Where ``kernel.advance`` puts the rows of those who finish.
        jobs: Requests inside, by number.
        free: Blocks that nobody holds.
        sending: Blocks of requests that have left, held until their cache has been sent.
        pending: Prompt tokens still to be read.
        survival: ``[row, shape, depth]``; row 0 is shared by all who have none of their own.
        bars: The same as what draws are held against.
    """

    def __init__(self, rules: Rules) -> None:
        slots = rules.config.max_running
        self.rules = rules
        self.ints = np.zeros((slots, kernel.NUM_INTS), dtype=np.int64)
        self.floats = np.zeros((slots, kernel.NUM_FLOATS))
        self.done_ints, self.done_floats = self.ints - 1, self.floats.copy()
        self.jobs: dict[int, Job] = {}
        self.num_running = self.pending = self.sending = 0
        self.free = rules.num_blocks
        self.cache = PrefixCache(rules.blocks_per_identity)
        self.survival = rules.survival[None].copy()
        self.bars = self._barred(self.survival)
        self._rows = list[int]()

    def place(self, job: Job, now_s: float) -> float:
        """Give a request memory and a row, if there is room.

        Returns:
            Seconds that moving its cache in takes; NaN where there is no room.
        """
        r, saved = self.rules, job.ints
        hits = self.cache.num_hits(job.prefix) if job.prefix else 0
        tokens = job.prompt_tokens if saved is None else int(saved[PROMPT] + saved[OUT])
        each = r.blocks_per_identity * r.limits.block_tokens
        if hits and r.drops_last:
            hits -= 1
        cached = min(hits * each, (tokens - 1) // each * each)
        whole = job.prompt_tokens + job.output_tokens + r.longest_draft if r.config.reserves else tokens
        blocks = -(-(whole + r.limits.lookahead) // r.limits.block_tokens)
        new = blocks - len(job.prefix) * r.blocks_per_identity
        new += self.cache.num_taken(job.prefix) if job.prefix else 0
        if new > self.free:
            return nan
        if job.prefix:
            self.cache.hold(job.prefix)
        self.free -= new
        n, row, moving_s = self.num_running, self._row(job), 0.0
        if saved is None:
            missing = 1 if r.prefills else job.output_tokens
            self.ints[n] = (
                job.number, job.prompt_tokens, cached, missing, tokens - cached, 0, blocks,
                0, 0, 0, 0, row, job.key, 0, cached,
            )  # fmt: skip
            self.floats[n] = (job.arrival_s, now_s, nan, nan, nan, job.tpot_slo_s, job.effect, job.step)
            self.pending += tokens - cached
        else:
            self.ints[n], self.floats[n] = saved, job.floats
            self.ints[n, [BLOCKS, kernel.ROW]] = blocks, row
            if job.has_cache:
                job.has_cache = False
            elif r.config.preemption == "swap":
                moving_s = float(saved[CONTEXT]) * r.swap_s_per_token
            else:
                self.ints[n, [CONTEXT, TODO]] = cached, tokens - cached
            self.pending += int(self.ints[n, TODO])
        self.jobs[job.number] = job
        self.num_running += 1
        return moving_s

    def let_go(self, job: Job, blocks: int, row: int) -> None:
        """Take back what a request held."""
        self.free += blocks - len(job.prefix) * self.rules.blocks_per_identity
        if job.prefix:
            self.free += self.cache.release(job.prefix)
        if row:
            self._rows.append(row)

    def evict_last(self) -> tuple[Job, float]:
        """Take memory from the request that was admitted last.

        Returns:
            It, as it was, and the seconds that moving its cache out takes.

        Raises:
            InputError: where it is the only one.
        """
        if self.num_running < 2:
            raise InputError("kv_blocks", "must hold the longest request and its drafts", self.rules.num_blocks)
        last, moving_s = self.num_running - 1, 0.0
        saved = self.ints[last].copy()
        job = self.jobs.pop(int(saved[REQUEST]))
        self.let_go(job, int(saved[BLOCKS]), int(saved[kernel.ROW]))
        if self.rules.config.preemption == "swap":
            moving_s = float(saved[CONTEXT]) * self.rules.swap_s_per_token
            job.prefix = ()
        saved[kernel.PREEMPTED] += 1
        self.pending -= int(saved[TODO])
        job.ints, job.floats = saved, self.floats[last].copy()
        self.num_running = last
        return job, moving_s

    def rows_left(self) -> tuple[Ints, Floats]:
        """Rows of all who are inside when a run ends.

        An interrupt may have come between a stretch and what follows from it: rows that moved up then stand twice, and
        those that are done stand where they were put last.
        """
        n, done = self.num_running, self.done_ints[:, MISSING] == 0
        ints = np.concatenate([self.ints[:n], self.done_ints[done]])
        floats = np.concatenate([self.floats[:n], self.done_floats[done]])
        inside = np.isin(ints[:, REQUEST], np.fromiter(self.jobs, dtype=np.int64))
        rows = np.flatnonzero(inside)[np.sort(np.unique(ints[inside, REQUEST], return_index=True)[1])]
        return ints[rows], floats[rows]

    def check(self) -> None:
        """Assert that blocks and tokens are conserved."""
        rows, r = self.ints[: self.num_running], self.rules
        shared = sum(len(job.prefix) for job in self.jobs.values()) * r.blocks_per_identity
        held = int(rows[:, BLOCKS].sum()) - shared + self.cache.held_blocks + self.sending
        assert held + self.free == r.num_blocks, "blocks of KV memory are lost or made"
        assert self.free >= 0 and len(self.jobs) == self.num_running, "requests are lost or made"
        assert (rows[:, MISSING] > 0).all(), "a request stays that is done"
        whole = rows[:, TODO] == 0
        assert (rows[whole, CONTEXT] == rows[whole, PROMPT] + rows[whole, OUT] - 1).all(), "tokens are lost or made"
        assert (rows[:, BLOCKS] * r.limits.block_tokens >= rows[:, CONTEXT]).all(), "a context without memory"

    def _row(self, job: Job) -> int:
        """Where the survival of its drafts stands: with all others', or in a row of its own."""
        if job.survival is None:
            return 0
        if not self._rows:
            more = min(max(len(self.survival), 8), self.rules.config.max_running + 1)
            self._rows = list(range(len(self.survival) + more - 1, len(self.survival) - 1, -1))
            self.survival = np.concatenate([self.survival, np.zeros((more, *self.survival.shape[1:]))])
            self.bars = self._barred(self.survival)
        row = self._rows.pop()
        depth = np.arange(self.survival.shape[2])
        self.survival[row] = job.survival[: len(depth)] * (depth < self.rules.tables.width[:, None])
        if self.rules.latent.is_on:
            self.bars[row] = self._barred(self.survival[row])
        return row

    def _barred(self, survival: Floats) -> Floats:
        return normal_quantiles(survival) if self.rules.latent.is_on else survival
