"""Operator costs per second with intervals, vectorised on one core: formulas alone, and with learned corrections.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/bench_operators.py

The bar is 2e6 a second for the formula of dense layers and 5e5 with the correction. Shapes are drawn without
repetition; times are of this process's CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from specsim.cost.fits import load_fit
from specsim.cost.operators.attention import decode_from_fit
from specsim.cost.operators.gemm import gemm_from_fit
from specsim.hardware import load_hardware

ROWS = 200_000
REPEATS = 3


def gemms() -> dict[str, np.ndarray]:
    """Dense layers of 1 to 512 tokens."""
    rng = np.random.default_rng(0)
    tokens, sizes = rng.integers(1, 513, ROWS), 128 * rng.integers(1, 129, (2, ROWS))
    return {"m": tokens.astype(float), "n": sizes[0].astype(float), "k": sizes[1].astype(float)}


def decodes() -> dict[str, np.ndarray]:
    """Decode attention of 1 to 256 sequences with 32 query and 8 KV heads."""
    rng = np.random.default_rng(0)
    batch, context = rng.integers(1, 257, ROWS), rng.integers(16, 32768, ROWS)
    heads = {"n_heads": np.full(ROWS, 32.0), "n_kv_heads": np.full(ROWS, 8.0), "head_dim": np.full(ROWS, 128.0)}
    return {"batch": batch.astype(float), "q_len": np.ones(ROWS), "context": context.astype(float), **heads}


def per_second(price: Callable[[], tuple[np.ndarray, np.ndarray | float]]) -> float:
    best_s = np.inf
    for _ in range(REPEATS):
        start = time.process_time()
        seconds, half_width = price()
        _ = seconds * np.exp(-half_width), seconds * np.exp(half_width)
        best_s = min(best_s, time.process_time() - start)
    return ROWS / best_s


def main() -> None:
    dense, attention = gemms(), decodes()
    print(f"{'device':>14} {'engine':>8} {'dtype':>10} {'operator':>32} {'formula':>12} {'corrected':>12}")
    for name in ("h100-sxm", "rtx-pro-6000", "a100-80gb-sxm"):
        device = load_hardware(name)
        for fit in load_fit(name).fits:
            if fit.operator == "gemm":
                run, columns, what = gemm_from_fit, dense, f"gemm {fit.variant}"
            elif fit.operator.startswith("attention_decode") and fit.variant in ("grouped", "xqa"):
                run, columns, what = decode_from_fit, attention, fit.operator
            else:
                continue
            rates = [per_second(partial(run, columns, device, fit, residual=on)) for on in (False, True)]
            print(f"{name:>14} {fit.engine:>8} {fit.dtype:>10} {what:>32} {rates[0]:10.3g}/s {rates[1]:10.3g}/s")


if __name__ == "__main__":
    main()
