"""The serving simulator against a real server: the shipped pair of models, decoding in batches on this processor.

    python benchmarks/serve_tiny.py

Step times and acceptance are measured while closed batches of other prompts are decoded; requests then arrive at both
servers at the same moments, with the same lengths. The clock is processor time, which drifts by half on a machine that
others use: so a second server that decodes the other prompts takes its steps in turns with the one that is foretold.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from specsim.acceptance import fit_spread
from specsim.acceptance.profile import AcceptanceProfile
from specsim.documents import parse
from specsim.executor.serving import BatchServer, Served
from specsim.executor.session import Session, quiet_torch
from specsim.scenario import Deployment, Scenario, resolve
from specsim.sim.config import ServerConfig
from specsim.sim.kernel import Tables
from specsim.sim.measured import measured_tables
from specsim.sim.policies.basic import FixedDraftLen
from specsim.sim.serve import serve
from specsim.tree import DraftTree
from specsim.workload.log import RequestLog
from specsim.workload.requests import Requests

Steps = Generator[None, None, Served]
DRAFT_LENS = (0, 2, 4)
BATCHES = (1, 4, 8)
LOADS = (0.7,)
"""Arrivals over what the server can take, as the simulator says it."""
OUTPUTS = (16, 49)
FFN_SIZE = None
"""The target as it is shipped: a round takes 2 ms, so that hundreds of requests can be served."""
REPEATS = 4
"""Simulations with other draws of acceptance, whose mean is compared."""


@dataclass(frozen=True, eq=False)
class Calibrated:
    """What was measured on the calibration prompts with one draft length."""

    deployment: Deployment
    tables: Tables


class Compared(NamedTuple):
    """Measured and predicted, by metric."""

    measured: dict[str, float]
    predicted: dict[str, float]

    def error(self, name: str) -> float:
        return self.predicted[name] / self.measured[name] - 1


def server(session: Session, draft_len: int, max_running: int, clock: Any) -> BatchServer:
    draft = session.draft if draft_len else None
    return BatchServer(session.target, draft, session.method(DraftTree.chain(draft_len)), max_running, clock)


def lengths(num: int, rng: np.random.Generator) -> list[int]:
    return [int(n) for n in rng.integers(*OUTPUTS, num)]


def sessions() -> tuple[Session, Session]:
    """For calibration and for comparison: other prompts, the same models."""
    names: tuple[Literal["calibrate", "validate"], ...] = ("calibrate", "validate")
    one, other = (Session(ffn_size=FFN_SIZE, split=split) for split in names)
    vars(other).update(target=one.target, draft=one.draft)
    return one, other


class OwnTime:
    """Processor time while it is told to go."""

    def __init__(self) -> None:
        self.spent_s, self.since_s = 0.0, time.thread_time()

    def __call__(self) -> float:
        return self.spent_s + time.thread_time() - self.since_s

    def go(self) -> None:
        self.since_s = time.thread_time()

    def stop(self) -> None:
        self.spent_s = self()


def closed(session: Session, draft_len: int, max_running: int, rng: np.random.Generator, clock: Any) -> Steps:
    """Prompts that are all there from the start, as many as make every batch up to ``max_running``."""
    num = 2 * max_running
    picked = [session.prompts[i] for i in rng.integers(0, len(session.prompts), num)]
    serving = server(session, draft_len, max_running, clock)
    return serving.stepping([0.0] * num, picked, lengths(num, rng))


def calibrate(session: Session, draft_len: int, largest: int) -> Calibrated:
    """Closed batches alone."""
    rng, found = np.random.default_rng(1), []
    for _ in range(3):
        found.append(finished(closed(session, draft_len, largest, rng, time.thread_time)))
    return known_from(found[1:], draft_len, largest)


def in_turns(serving: BatchServer, steps: Steps, begin: Callable[[Any], Steps]) -> tuple[Served, list[Served]]:
    """Both step by step; the second anew whenever it has finished, at least twice."""
    own, other = OwnTime(), OwnTime()
    own.stop()
    serving.clock = own
    found: list[Served] = []
    beside = begin(other)
    done: Served | None = None
    while done is None or len(found) < 2:
        if done is None:
            own.go()
            done = next_step(steps)
            own.stop()
        other.go()
        over = next_step(beside)
        other.stop()
        if over is not None:
            found.append(over)
            beside = begin(other)
    return done, found


def next_step(steps: Steps) -> Served | None:
    try:
        next(steps)
    except StopIteration as end:
        served: Served = end.value
        return served
    return None


def finished(steps: Steps) -> Served:
    while (done := next_step(steps)) is None:
        pass
    return done


def known_from(found: Sequence[Served], draft_len: int, largest: int) -> Calibrated:
    """Seconds of rounds by batch, of prompts on a line over their tokens; acceptance of the rounds."""
    columns = [(done.steps.num_running, done.steps.duration_s, done.steps.prefill_tokens) for done in found]
    inside, seconds, tokens = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    reads = tokens > 0
    per_token, base = np.polyfit(tokens[reads], seconds[reads], 1)
    seen = np.unique(inside[~reads])
    each_s = [trimmed(seconds[~reads & (inside == n)]) for n in seen]
    round_s = np.interp(np.arange(1, largest + 1), seen, each_s)
    tables = measured_tables([draft_len], [round_s], max(base, 0.0), max(per_token, 0.0))
    return Calibrated(deployment(draft_len, [rounds for done in found for rounds in done.rounds]), tables)


def trimmed(seconds: Any) -> float:
    """The mean without the slowest few in a hundred."""
    return float(np.mean(np.sort(seconds)[: max(1, round(0.98 * len(seconds)))]))


def deployment(draft_len: int, rounds: Sequence[Sequence[int]]) -> Deployment:
    """Only its acceptance matters: step times are given."""
    asked: dict[str, Any] = {
        "name": "the shipped pair",
        "hardware": "h100-sxm",
        "target": {"model": "llama-3.1-8b"},
        "drafter": {"kind": "draft_model", "model": "llama-3.2-1b"} if draft_len else {"kind": "none"},
        "acceptance": {"kind": "iid", "alpha": 0.5, "source": "replaced below"},
    }
    resolved = resolve(parse(Scenario, asked, "benchmark"))
    if not draft_len:
        return resolved
    emitted = np.concatenate([np.asarray(each) for each in rounds])
    survival = [float((emitted > depth + 1).mean()) for depth in range(draft_len)]
    profile = AcceptanceProfile.from_survival(survival, float(emitted.size))
    return replace(resolved, acceptance=replace(profile, spread=fit_spread(rounds, np.random.default_rng(0)).spread))


def predicted(known: Calibrated, draft_len: int, max_running: int, asked: Requests, seed: int) -> RequestLog:
    """One prompt a step, before anybody decodes on: as the executor's server does."""
    config = ServerConfig(max_running=max_running, mixes=False, chunks=False, token_budget=1, kv_blocks=10**7)
    tables = cut(known.tables, max_running)
    control = FixedDraftLen(draft_len)
    done = serve(known.deployment, asked, control=control, config=config, tables=tables, seed=seed, compiled=False)
    return done.requests


def cut(tables: Tables, largest: int) -> Tables:
    batches = {name: getattr(tables, name)[:, :largest] for name in ("drafting", "verifying", "host_s", "least")}
    return tables._replace(**batches)


def metrics(log: RequestLog) -> dict[str, float]:
    several = log.output_tokens > 1
    tpot_s = (log.finished_s - log.first_token_s)[several] / (log.output_tokens[several] - 1)
    return {
        "tokens/s": float(log.output_tokens.sum() / (log.finished_s.max() - log.arrival_s.min())),
        "TPOT": float(tpot_s.mean()),
        "TTFT": float((log.first_token_s - log.arrival_s).mean()),
        "e2e": float((log.finished_s - log.arrival_s).mean()),
    }


def capacity(known: Calibrated, draft_len: int, max_running: int, asked: Requests) -> float:
    """Requests per second when all are there from the start."""
    at_once = Requests(np.zeros(len(asked)), asked.prompt_tokens, asked.output_tokens)
    return len(asked) / float(predicted(known, draft_len, max_running, at_once, 0).finished_s.max())


def compare(pair: tuple[Session, Session], draft_len: int, max_running: int, load: float, num: int) -> Compared:
    """Serve ``num`` requests for real and in simulation."""
    (calibrating, session), rng = pair, np.random.default_rng(2)
    picked = [session.prompts[i] for i in rng.integers(0, len(session.prompts), num)]
    prompts, outputs = np.array([len(prompt) for prompt in picked]), np.array(lengths(num, rng))
    gaps_s = rng.exponential(1.0, num)
    rough = calibrate(calibrating, draft_len, max_running)
    rate = load * capacity(rough, draft_len, max_running, Requests(np.zeros(num), prompts, outputs))
    asked = Requests(np.cumsum(gaps_s) / rate, prompts, outputs)
    serving, beside_rng = server(session, draft_len, max_running, time.thread_time), np.random.default_rng(3)
    steps = serving.stepping(asked.arrival_s.tolist(), picked, asked.output_tokens.tolist())
    done, beside = in_turns(
        serving, steps, lambda clock: closed(calibrating, draft_len, max_running, beside_rng, clock)
    )
    known = known_from(beside, draft_len, max_running)
    logs = [metrics(predicted(known, draft_len, max_running, asked, s)) for s in range(REPEATS)]
    return Compared(metrics(done.requests), {name: float(np.mean([log[name] for log in logs])) for name in logs[0]})


def main(num: int) -> None:
    quiet_torch()
    errors: dict[str, list[float]] = {}
    pair = sessions()
    for draft_len in DRAFT_LENS:
        for max_running in BATCHES:
            for load in LOADS:
                row = compare(pair, draft_len, max_running, load, num)
                cells = [f"{row.measured[m]:9.4g} {row.error(m):+7.1%}" for m in row.measured]
                print(f"| {draft_len} | {max_running} | {load} | " + " | ".join(cells) + " |", flush=True)
                for name in row.measured:
                    errors.setdefault(name, []).append(row.error(name))
    for name, found in errors.items():
        each = np.array(found)
        print(f"{name}: mean {each.mean():+.1%}, off on average {abs(each).mean():.1%}, worst {abs(each).max():.1%}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 30)
