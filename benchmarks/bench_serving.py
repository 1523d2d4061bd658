"""Speed of the serving simulator, in CPU seconds of one core, records included.

    python benchmarks/bench_serving.py            # the table below
    python benchmarks/bench_serving.py metrics    # with all metrics and their intervals computed as well
    python benchmarks/bench_serving.py process    # a whole process with 1,000 requests

The workload is the one on which Vidur's event loop does 1,150 requests per CPU second with metrics on, and 2,700
saturated, on one core: one replica, Llama-2-7B on A100, prompts of 512 tokens, answers of 128, Poisson arrivals.
"""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from specsim.documents import parse
from specsim.metrics.serving import Target, kv_occupancy, summary
from specsim.scenario import Deployment, Scenario, resolve
from specsim.sim.config import ServerConfig
from specsim.sim.policies.basic import FixedDraftLen
from specsim.sim.serve import ServingRun, serve
from specsim.sim.setup import server_tables
from specsim.workload.requests import Requests

CONFIG = ServerConfig(max_running=128, token_budget=2048)
REPEATS = 3


def deployment(draft_len: int = 0) -> Deployment:
    drafter = {"kind": "eagle", "model": "eagle-llama-2-7b-chat"} if draft_len else {"kind": "none"}
    asked: dict[str, Any] = {
        "name": "Llama-2-7B on A100",
        "hardware": "a100-80gb-sxm",
        "engine": "vllm",
        "target": {"model": "llama-2-7b"},
        "drafter": drafter,
        "acceptance": {"kind": "iid", "alpha": 0.7, "source": "chosen for this benchmark"},
    }
    return resolve(parse(Scenario, asked, "benchmark"))


def poisson(num: int, rate: float, output_tokens: int = 128, seed: int = 0) -> Requests:
    arrival_s = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, num))
    return Requests(arrival_s, np.full(num, 512), np.full(num, output_tokens))


def chunked(num: int, rate: float, output_tokens: int) -> Iterator[Requests]:
    """The same in chunks that are made when they are due."""
    rng, start = np.random.default_rng(0), 0.0
    for _ in range(num // 1000):
        arrival_s = start + np.cumsum(rng.exponential(1 / rate, 1000))
        start = float(arrival_s[-1])
        yield Requests(arrival_s, np.full(1000, 512), np.full(1000, output_tokens))


def timed(asked: Deployment, requests: Any, draft_len: int, **more: Any) -> tuple[float, ServingRun]:
    control = FixedDraftLen(draft_len)
    tables = server_tables(asked, control, CONFIG)
    start = time.process_time()
    run = serve(asked, requests, control=control, config=CONFIG, tables=tables, **more)
    return time.process_time() - start, run


def row(name: str, draft_len: int, num: int, rate: float, **more: Any) -> None:
    asked = deployment(draft_len)
    timed(asked, poisson(200, rate), draft_len, **more)  # loads what is compiled
    best = min(
        (timed(asked, poisson(num, rate, seed=s), draft_len, **more) for s in range(REPEATS)), key=lambda r: r[0]
    )
    seconds, run = best
    print(f"{name:44} {num / seconds:9,.0f} requests/s {run.num_steps / seconds:9,.0f} steps/s  {run.verdict}")


def table() -> None:
    print(platform.platform(), platform.python_version())
    for num in (1000, 5000):
        row(f"8 per second, {num:,} requests, compiled", 0, num, 8.0, compiled=True)
    row("8 per second, 1,000 requests, numpy", 0, 1000, 8.0, compiled=False)
    row("8 per second, 5,000, every step kept", 0, 5000, 8.0, compiled=True, keep_steps=True)
    row("40 per second (saturated), compiled", 0, 5000, 40.0, compiled=True)
    row("8 per second, chains of 3, compiled", 3, 5000, 8.0, compiled=True)
    row("8 per second, 500 requests, step by step", 0, 500, 8.0, compiled=False, by_step=True)
    seconds, run = timed(deployment(), chunked(100_000, 3.0, 500), 0, compiled=True, sink=lambda log: None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"100,000 requests of 500 tokens, streamed: {seconds:.1f} s, {run.num_steps:,} steps, peak {peak:.0f} MiB")


def with_metrics() -> None:
    """Steps kept, then every figure of a report: latencies, percentiles, rates, their intervals, memory held."""
    asked = deployment()
    timed(asked, poisson(200, 8.0), 0, compiled=True)
    for num, rate, vidurs in ((1000, 8.0, 1150), (5000, 8.0, 1150), (5000, 40.0, 2700)):
        best = min(_measured(asked, num, rate, seed) for seed in range(REPEATS))
        ratio = num / best / vidurs
        print(
            f"{rate:3.0f} per second, {num:,} requests, metrics on {num / best:9,.0f} requests/s, {ratio:.0f} x Vidur's"
        )


def _measured(asked: Deployment, num: int, rate: float, seed: int) -> float:
    seconds, run = timed(asked, poisson(num, rate, seed=seed), 0, compiled=True, keep_steps=True)
    start = time.process_time()
    assert run.steps is not None
    summary(run.requests, warmup_s=10.0, target=Target(ttft_s=1.0, tpot_s=0.05))
    kv_occupancy(run.steps, run.kv_blocks)
    return seconds + time.process_time() - start


def whole_process() -> None:
    run = serve(deployment(), poisson(1000, 8.0), control=FixedDraftLen(0), config=CONFIG)
    print(f"{run.num_finished} requests, the process so far: {time.process_time():.2f} CPU seconds")


if __name__ == "__main__":
    {"process": whole_process, "metrics": with_metrics}.get("".join(sys.argv[1:]), table)()
