"""Time of tuning dynamic trees, with a kept table and without one, and of a robust choice.

    python benchmarks/bench_dynamic.py

One thread, processor time. The scenario is the bundled one of Llama-3.1-70B with an EAGLE-3 head on four H100.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from specsim.acceptance.process_fit import fit_profile
from specsim.decoding import ConfidenceChain, Eagle2, OptTree, StaticTree, Talon, TreePolicy
from specsim.scenario import Deployment, find_scenario, resolve
from specsim.search.dynamic.bookkeeping import policy_seconds
from specsim.search.dynamic.gate import train_gate
from specsim.search.dynamic.score import dynamic_prices, score
from specsim.search.dynamic.table import DynamicTable, load_table
from specsim.search.dynamic.tuning import dynamic_grid, race, tune_dynamic, tuned_table
from specsim.search.robust.draws import rate_draws
from specsim.search.tune import tune
from specsim.tree import DraftTree

SCENARIO = "llama-3.1-70b-4xh100-eagle3"
NODES, DEPTH, REQUESTS = 64, 8, 64
SEVERAL: list[Any] = [
    StaticTree(DraftTree.chain(6)),
    ConfidenceChain(6, 0.2, "token", "top"),
    Eagle2(4, 5, 16),
    Eagle2(10, 5, 60),
    OptTree(31, 0.1, 6),
    Talon(31, 0.03, 8, 6),
]


def timed(label: str, run: Callable[[], Any], times: int = 1) -> Any:
    began = time.process_time()
    for _ in range(times):
        found = run()
    print(f"  {label:58} {(time.process_time() - began) / times * 1e3:10.2f} ms")
    return found


def at_batch(batch: int) -> Deployment:
    return resolve(find_scenario(SCENARIO).varied(batch=batch))


def main() -> None:
    print(f"{platform.processor() or platform.machine()}, numpy {np.__version__}")
    asked = at_batch(8)
    process = timed(
        "fit the process to the acceptance table", lambda: fit_profile(asked.acceptance, 0.0, sampled=False)
    ).process
    gate = timed("train C2T's gate", lambda: train_gate(process, 0.0, DEPTH, 24, 1))
    grid = dynamic_grid(NODES, DEPTH, gate)
    table: DynamicTable = timed(
        f"table of {len(grid)} policies and the static trees, {REQUESTS} texts",
        lambda: tuned_table(process, grid, 0.0, NODES, DEPTH, REQUESTS, 0),
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "table.npz"
        timed("save it", lambda: table.save(file))
        table = timed("load it", lambda: load_table(file))
        print(f"  {'its file':58} {file.stat().st_size / 1e3:10.0f} kB")
    for batch in (1, 8, 32, 128):
        deployment = at_batch(batch)
        timed(f"batch {batch}: put rounds together", lambda b=batch: table.at_batch(b))
        prices = timed(f"batch {batch}: price list", lambda d=deployment: dynamic_prices(d, table))
        timed(f"batch {batch}: score {len(table.policies)} policies", lambda p=prices: score(table, p), 20)
        timed(f"batch {batch}: tune", lambda d=deployment: tune_dynamic(d, table))

    def played(policies: Sequence[TreePolicy], num_requests: int, seed: int) -> DynamicTable:
        return tuned_table(process, policies, 0.0, NODES, DEPTH, num_requests, seed)

    for looks in ((16, 16, 32), (16, 16, 32, 64)):
        raced = timed(f"race to {sum(looks)} texts, no table", lambda n=looks: race(asked, played, grid, looks=n))
        print(f"    dropped at each look: {raced.certificate['dropped_at_look']}")
    trees = [estimate.tree for estimate in tune(asked).ranked]
    drawn = timed(
        f"4000 draws of {len(trees)} configurations", lambda: rate_draws(asked, trees, np.random.default_rng(0))
    )
    timed("robust choice", drawn.choice, 5)
    timed("value of measuring", drawn.worth, 5)
    for vocab in (32_000, 128_256):
        spent = policy_seconds(SEVERAL, process, vocab)
        for policy, seconds in zip(SEVERAL, spent.tolist(), strict=True):
            label = f"own time of {policy.kind}, {policy.limits.nodes} nodes, {vocab} tokens"
            print(f"  {label:58} {seconds * 1e3:10.2f} ms")


if __name__ == "__main__":
    main()
