"""Serve requests on simulated replicas, and say whether they kept up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import inf, sqrt
from typing import Any, Literal

import simpy

from specsim.acceptance import RequestSpread
from specsim.errors import InputError, SpecsimError
from specsim.scenario import Deployment
from specsim.sim.arrivals import Arrivals, SurvivalOf, chunks_of
from specsim.sim.config import PrefillPool, ServerConfig
from specsim.sim.handover import Handover
from specsim.sim.jobs import Job, Rules
from specsim.sim.kernel import Tables
from specsim.sim.natures import Natures
from specsim.sim.policies import Admission, DraftControl, Routing
from specsim.sim.policies.basic import FirstCome, RoundRobin
from specsim.sim.pool import Pool
from specsim.sim.recorder import Recorder, Sink, StepRecorder
from specsim.sim.server import Server, Take
from specsim.sim.setup import cache_bytes_per_token, prefill_rules, rules_of, shapes_of
from specsim.tree import DraftTree
from specsim.workload.log import RequestLog, StepLog
from specsim.workload.requests import Requests

Verdict = Literal["stable", "unstable", "interrupted", "stopped"]


@dataclass(frozen=True, eq=False)
class ServingRun:
    """What a run left.

    Args:
        requests: Of all requests that arrived and that no sink took.
        steps: Engine steps, where asked for.
        verdict: ``unstable`` where the queue grew as long as requests came; ``stopped`` at the time limit;
            ``interrupted`` by the user.
        reason: The verdict in words; empty where it is stable.
        refusals: Why requests were refused, by their number; the first hundred of them.
        num_requests, num_finished, num_refused: Requests that arrived, got their answer, could never get it.
        num_steps: Engine steps of all replicas.
        duration_s: From the start to the last step's end.
        kv_blocks: Blocks of KV memory of a replica.
    """

    requests: RequestLog
    steps: StepLog | None
    verdict: Verdict
    reason: str
    refusals: dict[int, str]
    num_requests: int
    num_finished: int
    num_refused: int
    num_steps: int
    duration_s: float
    kv_blocks: int


def serve(
    deployment: Deployment,
    requests: Requests | Iterable[Requests],
    *,
    control: DraftControl,
    replicas: int = 1,
    admission: Admission = FirstCome(),  # noqa: B008  # a value
    routing: Routing = RoundRobin(),  # noqa: B008
    config: ServerConfig = ServerConfig(),  # noqa: B008
    seed: int = 0,
    survival: SurvivalOf | None = None,
    trees: tuple[DraftTree, ...] | None = None,
    tables: Tables | None = None,
    sink: Sink | None = None,
    keep_steps: bool = False,
    by_step: bool = False,
    compiled: bool | None = None,
    checks: bool = False,
    prefill: PrefillPool | None = None,
    spread: RequestSpread | Literal["fitted"] | None = "fitted",
) -> ServingRun:
    """Serve requests until all are done, or the queue outgrows every bound.

    Args:
        deployment: A resolved scenario; its workload is not looked at.
        requests: What arrives; chunks of it in order of arrival, for streams that would not fit in memory.
        control: How much is drafted.
        replicas: Servers alike, each on devices of its own.
        admission, routing: Who is first, and which replica takes whom.
        config: Of each replica.
        seed: Of outcomes: a round's depends on seed, request and number of the round alone, whatever the policies do.
        survival: Acceptance of single requests; the deployment's profile for all where left out. Chains only.
        trees: What is drafted at draft length 0, 1, ...; chains where left out. A control that always says the same
            length needs that one to be there only.
        tables: Seconds of steps, as ``step_tables`` makes them of this deployment and config; made anew if left out.
        sink: Receives records in chunks, when requests leave; the run then keeps none.
        keep_steps: Whether the run keeps a record of every step.
        by_step: Every engine step an event of its own: slower, and the same records.
        compiled: Whether stretches run in machine code (numba); None: once it is worth it and where it is installed.
        checks: Assert after each stretch that requests, tokens and blocks are conserved.
        prefill: Replicas that read the prompts, beside ``replicas`` that decode; None: each does both. Their numbers in
            the records follow those of the others.
        spread: How requests differ and rounds remember; ``fitted``: as the deployment's acceptance says, if it does and
            no ``survival`` is given; None: rounds are drawn by themselves.

    Raises:
        InputError: for wrong numbers, or drafts that the acceptance can not judge.
        InfeasibleError: when the weights leave no memory for a block of KV cache.
    """
    if replicas < 1:
        raise InputError("replicas", "must be >= 1", replicas)
    stream, identity_tokens = chunks_of(requests)
    shapes = shapes_of(control, trees)
    if spread == "fitted":
        spread = deployment.acceptance.spread if survival is None else None
    rules = rules_of(
        deployment, config, shapes, admission, control, identity_tokens, tables, compiled, by_step, checks, spread
    )
    natures = None
    if spread is not None:
        natures = Natures(spread, deployment.acceptance, max(shapes, key=lambda tree: tree.num_drafted))
    run = _Run(deployment, rules, replicas, routing, Recorder(sink), StepRecorder() if keep_steps else None, prefill)
    return run.play(stream, seed, survival, natures, identity_tokens if config.prefix_caching else 0)


@dataclass(eq=False)
class _Run:
    """Replicas and what reaches them, on one clock; a pipeline's lanes are servers of one replica."""

    deployment: Deployment
    rules: Rules
    replicas: int
    routing: Routing
    recorder: Recorder
    steps: StepRecorder | None
    prefill: PrefillPool | None
    refusals: dict[int, str] = field(default_factory=dict)

    def play(
        self,
        stream: Iterator[Requests],
        seed: int,
        survival: SurvivalOf | None,
        natures: Natures | None,
        identity_tokens: int,
    ) -> ServingRun:
        config, env = self.rules.config, simpy.Environment()
        self.until_s = inf if config.until_s is None else config.until_s
        self.arrivals = arrivals = Arrivals(
            env, stream, seed, survival, self._why_not, self._route, self._refuse, config.max_waiting,
            self._num_waiting, identity_tokens, natures,
        )  # fmt: skip
        self.handover: Handover | None = None
        self.decoding = self.reading = self._pool(env, self.rules, self.replicas)
        if self.prefill is not None:
            self.handover = self._handover(env, self.prefill)
            rules = prefill_rules(self.rules, self.prefill)
            self.reading = self._pool(env, rules, self.prefill.replicas, self.handover.take)
        self.servers = self.decoding.servers + (self.reading.servers if self.handover else [])
        env.process(_told(arrivals.send()))
        for server in self.servers:
            env.process(_told(server.serve()))
        interrupted = False
        try:
            env.run(config.until_s)
        except KeyboardInterrupt:
            interrupted = True
        except _Wrong as wrong:
            raise wrong.args[0] from None
        return self._result(interrupted)

    def _pool(self, env: simpy.Environment, rules: Rules, replicas: int, hand_over: Take | None = None) -> Pool:
        lanes, first = rules.config.pipeline_parallel, self.replicas if hand_over else 0
        horizon = self._decode_horizon if self.prefill is not None and hand_over is None else self._horizon
        deliver = self.arrivals.deliver if self.prefill is None else self._deliver
        servers = [
            Server(
                env, first + n // lanes, rules, self.recorder, self.steps, deliver, horizon, self.arrivals.left,
                hand_over,
            )
            for n in range(replicas * lanes)
        ]  # fmt: skip
        return Pool(servers, replicas, lanes, self.routing)

    def _handover(self, env: simpy.Environment, pool: PrefillPool) -> Handover:
        token_s = 0.0
        if pool.link_bytes_per_s is not None:
            has_drafter = self.rules.control.max_draft_len > 0
            token_s = cache_bytes_per_token(self.deployment, has_drafter) / pool.link_bytes_per_s
        return Handover(env, token_s, pool.latency_s, self.decoding.route, self.recorder, self.arrivals.left)

    def _deliver(self, now_s: float) -> None:
        assert self.handover is not None
        self.arrivals.deliver(now_s)
        self.handover.deliver(now_s)

    def _result(self, interrupted: bool) -> ServingRun:
        for server in self.servers:
            server.land()
            server.end()
        if self.handover is not None:
            self.handover.end()
        inside = sum(len(s.waiting) + s.num_running for s in self.servers)
        verdict, reason = verdict_of(self.arrivals, inside + (self.handover.num_moving if self.handover else 0))
        if interrupted:
            verdict, reason = "interrupted", "the run was interrupted; its records go as far as it came"
        requests = self.recorder.finish()
        done, refused, cut = self.recorder.counts
        if interrupted and len(requests):
            done, refused = int((requests.refused == 0).sum()), int((requests.refused == 1).sum())
        assert interrupted or done + refused + cut == self.arrivals.num_arrived, "requests are lost or made"
        return ServingRun(
            requests=requests,
            steps=self.steps.finish() if self.steps else None,
            verdict=verdict,
            reason=reason,
            refusals=self.refusals,
            num_requests=self.arrivals.num_arrived,
            num_finished=done,
            num_refused=refused,
            num_steps=sum(server.num_steps for server in self.servers),
            duration_s=max(server.clock_s for server in self.servers),
            kv_blocks=self.rules.num_blocks * self.rules.config.pipeline_parallel,
        )

    def _horizon(self, server: Server) -> float:
        """Until when nothing can reach a server: the next arrival, an answer elsewhere that a session waits for, or a
        cache that has been sent."""
        until = min(self.arrivals.next_s, self.until_s)
        if self.arrivals.num_held and len(self.servers) > 1:
            others = (s.clock_s for s in self.servers if s is not server and s.num_running)
            until = min(until, min(others, default=inf))
        return until if self.handover is None else min(until, self.handover.next_s)

    def _decode_horizon(self, server: Server) -> float:
        """Until when no cache can reach a server: one is read at the earliest when a prefill replica's steps end."""
        reading = (s.clock_s for s in self.reading.servers if s.num_running)
        return min(self._horizon(server), min(reading, default=inf))

    def _num_waiting(self) -> int:
        return sum(len(server.waiting) for server in self.servers)

    def _route(self, job: Job, now_s: float) -> Server:
        return self.reading.route(job, now_s)

    def _why_not(self, prompt_tokens: int, output_tokens: int) -> str:
        """Why a request can never be served; empty where it can."""
        longest, limits = prompt_tokens + output_tokens, self.rules.limits
        most = self.deployment.target.max_context_tokens
        if most is not None and longest > most:
            return f"{longest} tokens, where {self.deployment.target.name} has positions for {most}"
        slots = self.rules.num_blocks * limits.block_tokens
        needed = longest + self.rules.longest_draft + limits.lookahead
        if needed > slots:
            return f"{needed} tokens with its drafts, where the KV memory holds {slots}"
        slots = self.reading.servers[0].rules.num_blocks * limits.block_tokens
        too_long = prompt_tokens > slots
        return f"a prompt of {prompt_tokens} tokens, where the memory of prefill holds {slots}" if too_long else ""

    def _refuse(self, job: Job, why: str) -> None:
        if len(self.refusals) < 100:
            self.refusals[job.number] = why
        self.recorder.write(*job.row(), replica=-1, refused=1)


class _Wrong(Exception):
    """Carries an error out of a process: SimPy makes errors anew from their arguments, which ours are not made of."""


def _told(process: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from process
    except SpecsimError as error:
        raise _Wrong(error) from error


def verdict_of(arrivals: Arrivals, num_inside: int) -> tuple[Verdict, str]:
    """Whether the replicas kept up: the queue may not have grown by more than chance while the later half came.

    In a stable queue that stands still on average, arrivals and departures of n requests differ by some sqrt(2 n); four
    times that, and 2 % of the arrivals, count as growth.
    """
    if arrivals.overflowed:
        return "unstable", f"more than {arrivals.max_waiting} requests waited, and the run was ended"
    later = arrivals.samples[len(arrivals.samples) // 2 :]
    if len(later) > 1:
        (start_s, first, before), (end_s, last, after) = later[0], later[-1]
        came, grown = last - first, after - before
        if end_s > start_s and grown > max(0.02 * came, 4 * sqrt(2 * came)):
            rate = came / (end_s - start_s)
            return "unstable", (
                f"of {rate:.4g} requests per second that came in the later half, {rate * (1 - grown / came):.4g} were "
                f"taken in; the queue grew from {before} to {after}"
            )
    return ("stopped", f"{num_inside} requests were still inside at the time limit") if num_inside else ("stable", "")
