"""Time of whole tunings and sweeps beside the straightforward way: every configuration estimated on its own.

    python benchmarks/bench_tune.py [--cells 10000] [--workers 2]

``tune``: one scenario whole, as three commands answer it: all chains and static trees at its own batch size with
intervals, explained; every batch size up to 256 (chains, trees, and a schedule with its queue); every configuration
that an engine accepts. The bars are 1 s on one core, and 100 s for 1e4 cells on two. The straightforward way calls
``predict`` for each configuration and batch size; it is timed on a share of them and scaled up.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from specsim.dialect import TopkTree
from specsim.estimate import predict
from specsim.scenario import Deployment, bundled_scenarios, find_scenario, resolve
from specsim.search.by_load import Arrivals, schedule
from specsim.search.explain import explain
from specsim.search.expressible import best_expressible
from specsim.search.points import best_at, moved, point_of
from specsim.search.sweep import sweep
from specsim.search.tune import tune
from specsim.tree import DraftTree

BATCHES = 256
ALONE = 60
"""Estimates that the straightforward way is timed on."""
AXES: dict[str, list[Any]] = {
    "hardware": ["h100-sxm", "h200", "a100-80gb-sxm"],
    "engine": ["vllm", "sglang"],
    "tensor_parallel": [4, 8],
    "batch": [1, 2, 4, 8, 16, 32, 64, 128],
    "context_tokens": [512, 2048, 8192],
    "alpha": [round(0.3 + 0.02 * step, 2) for step in range(35)],
}


def timed(work: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    """The least CPU seconds of several runs after one to warm up, and what the last answered."""
    answer, times = work(), []
    for _ in range(repeats):
        start = time.process_time()
        answer = work()
        times.append(time.process_time() - start)
    return min(times), answer


def tunings(name: str) -> None:
    asked = find_scenario(name)
    print(f"\n{asked.name}")
    for use in asked.export:
        here = resolve(asked.varied(engine=use.engine))
        points = [point_of(here, batch) for batch in range(1, BATCHES + 1)]
        load = Arrivals(0.05, 256.0)
        alone, answer = timed(partial(tune, here))
        parts = {
            "one batch size": alone,
            "explained": timed(partial(explain, here, answer))[0],
            f"{BATCHES} batch sizes, all shapes": timed(partial(best_at, here, points))[0],
            "schedule and queue": timed(partial(schedule, here, BATCHES, use, arrivals=load))[0],
        }
        parts["engine"], within = timed(partial(best_expressible, here, use))
        words = ", ".join(f"{part} {seconds * 1e3:.0f} ms" for part, seconds in parts.items())
        print(f"  {use.engine} {use.version}: {sum(parts.values()):.2f} s whole ({words})")
        each = straightforward(here, [e.tree for e in answer.ranked])
        trees = len(answer.ranked)
        runtime = sum(isinstance(one.tree, TopkTree) for one in within.ranked)
        count = BATCHES * trees + within.num_tried
        print(
            f"    one by one: {each * 1e3:.1f} ms an estimate, {count} of them (the same {trees} at each batch size, "
            f"{within.num_tried} for the engine, {runtime} kinds of run-time tree): {each * count:.0f} s"
        )


def straightforward(deployment: Deployment, trees: list[DraftTree]) -> float:
    """Seconds of an estimate on its own."""
    rng = np.random.default_rng(0)
    which, batches = rng.integers(0, len(trees), ALONE).tolist(), rng.integers(1, 65, ALONE).tolist()
    places = [(moved(deployment, batch=b), trees[i]) for i, b in zip(which, batches, strict=True)]
    seconds, _ = timed(lambda: [predict(here, tree) for here, tree in places], repeats=1)
    return seconds / ALONE


def sweeps(cells: int, workers: int) -> None:
    asked = find_scenario("llama-3.1-70b-4xh100-eagle3")
    for number in sorted({1, workers}):
        share = cells if number == workers else max(1, cells // 10)
        start, cpu = time.perf_counter(), cpu_s()
        rows = list(sweep(asked, AXES, sample=share, workers=number))
        seconds, cpu = time.perf_counter() - start, cpu_s() - cpu
        gaps = [row["gap"] for row in rows if row["status"] != "infeasible"]
        print(
            f"sweep of {share} cells on {number} processes: {seconds:.1f} s on the wall, {cpu:.1f} s of processors "
            f"({cpu / share * 1e3:.2f} ms each); "
            f"gap at most {max(gaps):.2%}, {np.mean(gaps):.3%} on the mean; {share - len(gaps)} can not run"
        )


def cpu_s() -> float:
    """Processor seconds of this process and of those it has waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}")
    for name in bundled_scenarios():
        tunings(name)
    print()
    sweeps(given.cells, given.workers)


if __name__ == "__main__":
    main()
