"""Passes priced per second: whole sweeps at once, beside one call per pass.

    python benchmarks/bench_cost.py

``fitted`` sums fitted operators, as scenarios do; ``sharp`` is the textbook's roofline, ``smooth`` one with a fitted
corner. A sweep varies new tokens, context and batch of Llama-3.1-8B and Mixtral 8x7B on an H100. Times are of this
process's CPU, best of several. The bar is 2e5 fitted passes per second and 1e6 with the sharp corner, on a quiet core.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable

import numpy as np

from specsim.cost.engine import class_of_params
from specsim.cost.model import PassCost, pass_cost
from specsim.cost.params import transferred_params
from specsim.cost.roofline import Roofline
from specsim.hardware import load_hardware
from specsim.model import load_model
from specsim.work import Pass

SWEEP = 100_000
CHUNK = 2048
"""Passes per call: their arrays stay in the cache of a core."""
ALONE = 500
REPEATS = 5


def passes(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """New tokens, context and batch of ``number`` passes, shape [number, 1] each."""
    rng = np.random.default_rng(0)
    return tuple(rng.integers(low, high, (number, 1)).astype(float) for low, high in ((1, 65), (0, 8193), (1, 65)))


def best_s(work: Callable[[], None], repeats: int = REPEATS) -> float:
    """CPU seconds of the quickest of several runs."""
    times_s = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times_s.append(time.process_time() - start)
    return min(times_s)


def vectorised_per_s(cost: PassCost) -> float:
    new, context, batch = passes(SWEEP)

    def sweep() -> None:
        for first in range(0, len(new), CHUNK):
            part = slice(first, first + CHUNK)
            cost.price(Pass("target", "verify", new[part], context[part], batch[part]))

    return len(new) / best_s(sweep)


def one_by_one_per_s(cost: PassCost) -> float:
    rows = list(zip(*(column[:, 0] for column in passes(ALONE)), strict=True))

    def loop() -> None:
        for new, context, batch in rows:
            cost.price(Pass("target", "verify", [new], [context], [batch]))

    return len(rows) / best_s(loop)


def main() -> None:
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}")
    print(f"{'model':>14} {'pricing':>7} {'at once':>12} {'one by one':>12} {'ratio':>7}")
    hardware = load_hardware("h100-sxm")
    for name in ("llama-3.1-8b", "mixtral-8x7b"):
        for pricing in ("fitted", "sharp", "smooth"):
            roofline = Roofline(hardware, transferred_params(hardware, "graph"), sharp=pricing == "sharp")
            cost = PassCost({"target": load_model(name)}, roofline, class_of_params(roofline.params))
            if pricing == "fitted":
                cost = pass_cost(hardware, cost.models)
            at_once, alone = vectorised_per_s(cost), one_by_one_per_s(cost)
            print(f"{name:>14} {pricing:>7} {at_once:10.3g}/s {alone:10.3g}/s {at_once / alone:6.0f}x")


if __name__ == "__main__":
    main()
