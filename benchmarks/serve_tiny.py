"""The serving simulator against a real server: the shipped pair of models, decoding in batches on this processor.

    python benchmarks/serve_tiny.py

Step times are measured while closed batches of other prompts are decoded, acceptance on the rounds of those prompts.
Then requests arrive at both servers at the same moments, with the same lengths. The clock is the thread's processor
time, so that other programs disturb little; what they evict from the cache remains.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
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


def server(session: Session, draft_len: int, max_running: int) -> BatchServer:
    draft = session.draft if draft_len else None
    return BatchServer(session.target, draft, session.method(DraftTree.chain(draft_len)), max_running)


def lengths(num: int, rng: np.random.Generator) -> list[int]:
    return [int(n) for n in rng.integers(*OUTPUTS, num)]


def sessions() -> tuple[Session, Session]:
    """For calibration and for comparison: other prompts, the same models."""
    names: tuple[Literal["calibrate", "validate"], ...] = ("calibrate", "validate")
    one, other = (Session(ffn_size=FFN_SIZE, split=split) for split in names)
    vars(other).update(target=one.target, draft=one.draft)
    return one, other


def calibrate(session: Session, draft_len: int, num: int = 40, largest: int = max(BATCHES)) -> Calibrated:
    """Closed batches of the session's prompts, all there from the start: every batch up to the largest."""
    rng = np.random.default_rng(1)
    rows, rounds = [], []
    warm = server(session, draft_len, 2)
    warm.serve([0.0] * 3, session.prompts[:3], [16] * 3)
    for max_running in range(1, largest + 1):
        share = max(2 * max_running, num * max_running // sum(range(1, largest + 1)))
        picked = [session.prompts[i] for i in rng.integers(0, len(session.prompts), share)]
        done = server(session, draft_len, max_running).serve([0.0] * share, picked, lengths(share, rng))
        rows.append(np.array([done.steps.num_running, done.steps.duration_s, done.steps.prefill_tokens]).T)
        rounds += done.rounds
    steps = np.concatenate(rows)
    reads = steps[:, 2] > 0
    tokens, seconds = steps[reads, 2], steps[reads, 1]
    per_token, base = np.polyfit(tokens, seconds, 1)
    round_s = [trimmed(steps[~reads & (steps[:, 0] == n), 1]) for n in range(1, largest + 1)]
    tables = measured_tables([draft_len], [round_s], max(base, 0.0), max(per_token, 0.0))
    return Calibrated(deployment(draft_len, rounds), tables)


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


def compare(session: Session, known: Calibrated, draft_len: int, max_running: int, load: float, num: int) -> Compared:
    """Serve ``num`` requests for real and in simulation."""
    rng = np.random.default_rng(2)
    picked = [session.prompts[i] for i in rng.integers(0, len(session.prompts), num)]
    prompts, outputs = np.array([len(prompt) for prompt in picked]), np.array(lengths(num, rng))
    gaps_s = rng.exponential(1.0, num)
    rate = load * capacity(known, draft_len, max_running, Requests(np.zeros(num), prompts, outputs))
    asked = Requests(np.cumsum(gaps_s) / rate, prompts, outputs)
    measured = run(session, draft_len, max_running, asked, picked).requests
    logs = [metrics(predicted(known, draft_len, max_running, asked, s)) for s in range(REPEATS)]
    return Compared(metrics(measured), {name: float(np.mean([log[name] for log in logs])) for name in logs[0]})


def run(session: Session, draft_len: int, max_running: int, asked: Requests, picked: list[list[int]]) -> Served:
    return server(session, draft_len, max_running).serve(asked.arrival_s.tolist(), picked, asked.output_tokens.tolist())


def main(num: int) -> None:
    quiet_torch()
    errors: dict[str, list[float]] = {}
    calibrating, validating = sessions()
    for draft_len in DRAFT_LENS:
        known = calibrate(calibrating, draft_len)
        acceptance = known.deployment.acceptance
        print(f"draft length {draft_len}: rounds of 1 and 8 {1e3 * known.tables.verifying[0, [0, -1], 0]} ms", end="")
        print(f", acceptance {acceptance.accept_prob[:, 0].round(3)}, {acceptance.spread}" if draft_len else "")
        for max_running in BATCHES:
            for load in LOADS:
                row = compare(validating, known, draft_len, max_running, load, num)
                cells = [f"{row.measured[m]:9.4g} {row.error(m):+7.1%}" for m in row.measured]
                print(f"| {draft_len} | {max_running} | {load} | " + " | ".join(cells) + " |", flush=True)
                for name in row.measured:
                    errors.setdefault(name, []).append(row.error(name))
    for name, found in errors.items():
        each = np.array(found)
        print(f"{name}: mean {each.mean():+.1%}, off on average {abs(each).mean():.1%}, worst {abs(each).max():.1%}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 30)
