"""Train the small network of ``specsim.cost.residual``: numpy alone, one thread, the same every time.

Sources: AdamW, Loshchilov and Hutter 2019 (arXiv:1711.05101); the learning rate's single cycle, Smith and Topin 2019
(arXiv:1708.07120); dropout, Srivastava et al. 2014. The loss is Huber's with a corner at 2 % error, about what
measuring again changes: what is left is judged by its mean absolute error.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specsim.cost.residual import Network
from specsim.cost.shape_features import Rows32

HIDDEN: Final = 128
BATCH: Final = 1024
PEAK_RATE: Final = 5e-3
DECAY: Final = 0.1
HUBER: Final = 0.02
_WARM_UP: Final = 0.3
_LEAST_RATE: Final = 1e-3  # of the peak
_BETAS: Final = (0.9, 0.999)
_PER_KERNEL: Final = ("first_shift", "weigh", "second_shift", "out", "out_shift")

Weights = dict[str, Rows32]


class Rows(NamedTuple):
    """Features [rows, features], the kernel of each row, what is wanted of it, and its weight in the loss."""

    features: Rows32
    kernel: NDArray[np.int64]
    wanted: Rows32
    weight: Rows32


def train(rows: Rows, keys: tuple[str, ...], epochs: int, dropout: float, seed: int = 0) -> Network:
    """The network of these rows, for the kernels named by ``keys``.

    >>> rng = np.random.default_rng(1)
    >>> x = rng.normal(size=(4096, 2)).astype(np.float32)
    >>> kernel = rng.integers(0, 2, 4096)
    >>> wanted = (0.1 * np.maximum(x[:, 0], 0) * kernel).astype(np.float32)
    >>> found = train(Rows(x, kernel, wanted, np.ones(4096, np.float32)), ("a", "b"), epochs=20, dropout=0.0)
    >>> from specsim.cost.residual import evaluate, plain
    >>> bool(np.mean(np.abs(evaluate(plain(found, 1), x[kernel == 1].T) - wanted[kernel == 1])) < 0.01)
    True
    """
    rng = np.random.default_rng(seed)
    mean, scale = rows.features.mean(axis=0), rows.features.std(axis=0)
    varies = scale > 0  # a feature that is the same in every row has no say
    scale = np.where(varies, scale, np.float32(1))
    x = (rows.features - mean) / scale
    weights = _start(rng, x.shape[1], len(keys))
    moments = {name: (np.zeros_like(w), np.zeros_like(w)) for name, w in weights.items()}
    steps = max(len(x) // BATCH, 1)
    for step in range(epochs * steps):
        if step % steps == 0:
            order = rng.permutation(len(x))
        chosen = order[step % steps * BATCH :][:BATCH]
        chosen = chosen[np.argsort(rows.kernel[chosen], kind="stable")]  # a kernel's rows together: sums by slices
        batch = Rows(x[chosen], rows.kernel[chosen], rows.wanted[chosen], rows.weight[chosen])
        _adamw(weights, moments, _gradient(weights, batch, dropout, rng), step + 1, _rate(step / (epochs * steps)))
    weights["first"] *= varies[:, None]
    return _network(weights, keys, mean, scale)


def _start(rng: np.random.Generator, num_features: int, num_kernels: int) -> Weights:
    def normal(*shape: int, sd: float) -> Rows32:
        return rng.normal(0, sd, shape).astype(np.float32)

    return {
        "first": normal(num_features, HIDDEN, sd=(1 / num_features) ** 0.5),
        "second": normal(HIDDEN, HIDDEN, sd=(1 / HIDDEN) ** 0.5),
        "shared_first_shift": np.zeros((1, HIDDEN), np.float32),
        "shared_second_shift": np.zeros((1, HIDDEN), np.float32),
        "shared_out": normal(1, HIDDEN, sd=HIDDEN**-0.5),
        "first_shift": normal(num_kernels, HIDDEN, sd=0.05),
        "weigh": np.zeros((num_kernels, HIDDEN), np.float32),  # what is added to 1
        "second_shift": normal(num_kernels, HIDDEN, sd=0.05),
        "out": normal(num_kernels, HIDDEN, sd=0.05),
        "out_shift": np.zeros((num_kernels, 1), np.float32),
    }


def _gradient(w: Weights, rows: Rows, dropout: float, rng: np.random.Generator) -> Weights:
    """Forward, Huber's loss, and back; rows in the order of their kernels."""
    x, kernel = rows.features, rows.kernel
    masks = [_mask(rng, (len(x), HIDDEN), dropout) for _ in range(2)]
    before = x @ w["first"] + w["shared_first_shift"] + w["first_shift"][kernel]
    hidden = np.maximum(before, 0) * masks[0]
    weigh = 1 + w["weigh"][kernel]
    weighed = hidden * weigh
    second = np.maximum(weighed @ w["second"] + w["shared_second_shift"] + w["second_shift"][kernel], 0)
    last, out = second * masks[1], w["shared_out"] + w["out"][kernel]
    error = np.einsum("ij,ij->i", last, out) + w["out_shift"][kernel, 0] - rows.wanted
    back = (np.clip(error / HUBER, -1, 1) * rows.weight / np.float32(len(x)))[:, None].astype(np.float32)
    back_second = back * out * masks[1] * (second > 0)
    back_weighed = back_second @ w["second"].T
    back_first = back_weighed * weigh * masks[0] * (before > 0)
    by_kernel = {
        "first_shift": back_first,
        "weigh": back_weighed * hidden,
        "second_shift": back_second,
        "out": back * last,
        "out_shift": back,
    }
    starts = np.flatnonzero(np.diff(kernel, prepend=-1))
    sums = {name: np.zeros_like(w[name]) for name in _PER_KERNEL}
    for name, values in by_kernel.items():
        sums[name][kernel[starts]] = np.add.reduceat(values, starts, axis=0)
    shared = {f"shared_{n}": sums[n].sum(axis=0, keepdims=True) for n in ("first_shift", "second_shift", "out")}
    return {"first": x.T @ back_first, "second": weighed.T @ back_second, **shared, **sums}


def _mask(rng: np.random.Generator, shape: tuple[int, int], dropout: float) -> Rows32 | np.float32:
    if dropout == 0:
        return np.float32(1)
    kept = rng.integers(0, 256, shape, dtype=np.uint8) >= round(256 * dropout)
    return np.asarray(kept * np.float32(1 / (1 - round(256 * dropout) / 256)), dtype=np.float32)


def _rate(share: float) -> float:
    """Learning rate at a share of all steps: a cosine up, a cosine down."""
    if share < _WARM_UP:
        return PEAK_RATE * (0.04 + 0.96 * (1 - math.cos(math.pi * share / _WARM_UP)) / 2)
    down = (1 + math.cos(math.pi * (share - _WARM_UP) / (1 - _WARM_UP))) / 2
    return PEAK_RATE * (_LEAST_RATE + (1 - _LEAST_RATE) * down)


def _adamw(w: Weights, moments: dict[str, tuple[Rows32, Rows32]], gradient: Weights, step: int, rate: float) -> None:
    first, second = (1 - beta**step for beta in _BETAS)
    for name, value in w.items():
        slope, (mean, square) = gradient[name], moments[name]
        mean += (1 - _BETAS[0]) * (slope - mean)
        square += (1 - _BETAS[1]) * (slope * slope - square)
        value *= 1 - rate * DECAY
        value -= (rate / first) * mean / (np.sqrt(square / second) + 1e-8)


def _network(w: Weights, keys: tuple[str, ...], mean: Rows32, scale: Rows32) -> Network:
    return Network(
        keys=keys,
        mean=mean,
        scale=scale,
        first=w["first"],
        first_shift=w["shared_first_shift"] + w["first_shift"],
        weigh=1 + w["weigh"],
        second=w["second"],
        second_shift=w["shared_second_shift"] + w["second_shift"],
        out=w["shared_out"] + w["out"],
        out_shift=w["out_shift"][:, 0],
    )
