"""Fit dense layers: of one device, or of several at once for devices that nobody measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specsim.calibrate.operators import Table, fit_params, select
from specsim.cost.operators.gemm import FEW_TOKENS, KERNELS, GemmParams, format_of, gemm_time_s, math_flops_per_s
from specsim.hardware import HardwareProfile
from specsim.work import Float

SMALL_M: Final = 512
LARGE_M_WEIGHT: Final = 0.4
"""Weight of rows above ``SMALL_M``: speculative decoding lives below."""
PRIOR_WEIGHT: Final = 0.3
"""What a parameter pays, in log error of one row, for each factor e away from its start."""

BOUNDS: Final = {  # start, least, most
    "launch_s": (2.5e-6, 3e-7, 1e-4),
    "tensor_efficiency": (0.85, 0.1, 1.2),
    "dram_efficiency": (0.85, 0.3, 1.05),
    "l2_bytes_per_flop": (0.018, 0.001, 0.2),
    "step_clocks": (2.0, 0.02, 10.0),
    "tile_s": (5e-7, 1e-9, 1e-5),
    "act_traffic": (0.5, 0.01, 10.0),
    "smooth_waves": (0.3, 0.005, 1.0),
    "l2_share": (0.6, 0.1, 1.5),
    "ragged_cost": (0.1, 0.01, 4.0),
    "ragged_memory": (0.05, 0.003, 2.0),
    "second_choice": (0.2, 0.01, 1.0),
    "split_s": (2e-6, 1e-8, 2e-5),
    "split_traffic": (0.3, 0.01, 10.0),
    "vector_s": (2e-6, 1e-8, 3e-5),
    "vector_bytes_per_clock": (20.0, 2.0, 500.0),
    "quantise_s": (1.5e-6, 1e-8, 3e-5),
    "quantise_row_s": (1e-9, 1e-11, 1e-7),
    "quantise_traffic": (0.5, 0.02, 20.0),
    "host_s": (3e-5, 5e-6, 5e-4),
    "host_32_s": (3e-5, 5e-6, 5e-4),
}
_BASE: Final = tuple(BOUNDS)[:11]
STARTS: Final[tuple[dict[str, float], ...]] = (
    {},
    {  # kernels with one large tile and an early launch: their steps hide nothing, their waves are whole
        "launch_s": 4e-6,
        "tensor_efficiency": 0.95,
        "l2_bytes_per_flop": 0.08,
        "step_clocks": 4.0,
        "tile_s": 2e-6,
        "act_traffic": 0.05,
        "smooth_waves": 0.05,
        "ragged_memory": 0.5,
    },
    {  # warp-specialised kernels: loads in time, waves that overlap
        "tensor_efficiency": 0.8,
        "l2_bytes_per_flop": 0.01,
        "step_clocks": 0.5,
        "tile_s": 1e-7,
        "act_traffic": 1.5,
        "smooth_waves": 0.9,
    },
)


class Rows(NamedTuple):
    """Measured rows (m, n, k, latency_us, ...) of one device."""

    table: Table
    device: HardwareProfile


class Fitted(NamedTuple):
    """A fit: its family, its parameters, and the covariance of the logarithms of those in ``names``.

    ``loss`` is the mean |log error| of the rows fitted up to ``SMALL_M`` tokens.
    """

    kernels: str
    params: GemmParams
    names: tuple[str, ...]
    covariance: Float
    loss: float


def param_names(dtype: str, kernels: str, eager: bool) -> tuple[str, ...]:
    """The parameters that rows of this dtype and family can tell.

    >>> param_names("bfloat16", "one-tile", eager=False) == tuple(BOUNDS)[:11]
    True
    """
    names = list(_BASE)
    if KERNELS[kernels].chooses:
        names += ["second_choice"]
    if KERNELS[kernels].splits:
        names += ["split_s", "split_traffic"]
    if KERNELS[kernels].vector_m:
        names += ["vector_s", "vector_bytes_per_clock"]
    if format_of(dtype).act_bytes < 2:
        names += ["quantise_s", "quantise_row_s", "quantise_traffic"]
    if eager:
        names += ["host_s", "host_32_s"]
    return tuple(names)


def fit_gemm(
    rows: Sequence[Rows],
    dtype: str,
    kernels: str,
    max_rows: int = 3000,
    max_calls: int = 40,
    starts: Sequence[Mapping[str, float]] = STARTS,
) -> Fitted:
    """One set of parameters for the rows of one or several devices, from the best of a few starts.

    Args:
        max_rows: Rows drawn of each device; a few thousand tell twenty parameters.
    """
    drawn = [Rows(_draw(part, dtype, max_rows), part.device) for part in rows]
    eager = not all(bool(np.all(part.table.get("cuda_graph", True))) for part in drawn)
    names = param_names(dtype, kernels, eager)
    fits = [_fit_from(drawn, dtype, kernels, names, start, max_calls) for start in starts]
    return min(fits, key=lambda fit: fit.loss)


def _fit_from(
    rows: Sequence[Rows], dtype: str, kernels: str, names: tuple[str, ...], start: Mapping[str, float], max_calls: int
) -> Fitted:
    usual, lower, upper = np.log(np.array([BOUNDS[name] for name in names])).T
    begin = np.log([max(start.get(name, BOUNDS[name][0]), 1e-15) for name in names])
    measured = np.concatenate([np.log(part.table["latency_us"] * 1e-6) for part in rows])
    small = np.concatenate([part.table["m"] <= SMALL_M for part in rows])
    weights = np.append(np.where(small, 1.0, LARGE_M_WEIGHT), np.full(len(names), PRIOR_WEIGHT))

    def log_time(theta: Float) -> Float:
        p = params_of(names, theta)
        times = [predict_s(part.table, part.device, dtype, p, kernels) for part in rows]
        return np.asarray(np.log(np.concatenate(times)))

    def with_prior(theta: Float) -> Float:  # a parameter that the rows say nothing about stays where it started
        return np.append(log_time(theta), theta)

    theta, covariance = fit_params(with_prior, begin, lower, upper, np.append(measured, usual), weights, max_calls)
    judged = small if small.any() else ~small
    loss = float(np.mean(np.abs(log_time(theta) - measured)[judged]))
    return Fitted(kernels, params_of(names, theta), names, covariance, loss)


def fit_by_tokens(
    rows: Rows,
    dtype: str,
    kernels: str,
    max_rows: int = 2000,
    max_calls: int = 40,
    near: tuple[GemmParams, GemmParams] | None = None,
) -> tuple[Fitted, Fitted]:
    """A fit of the rows up to ``FEW_TOKENS`` and one of the rows above; ``near`` is where to start them."""
    few = rows.table["m"] <= FEW_TOKENS
    parts = [Rows(select(rows.table, mask), rows.device) for mask in (few, ~few)]
    starts = [STARTS, STARTS] if near is None else [[p.model_dump()] for p in near]
    first, second = (
        fit_gemm([part], dtype, kernels, max_rows, max_calls, start) for part, start in zip(parts, starts, strict=True)
    )
    return first, second


def predict_by_tokens_s(table: Table, device: HardwareProfile, dtype: str, fits: tuple[Fitted, Fitted]) -> Float:
    """Seconds of each row from the fit for its number of tokens."""
    few, many = (predict_s(table, device, dtype, fit.params, fit.kernels) for fit in fits)
    return np.where(table["m"] <= FEW_TOKENS, few, many)


def choose_kernels(rows: Sequence[Rows], dtype: str, max_rows: int = 700, max_calls: int = 15) -> str:
    """The family that explains these rows best."""
    return min(KERNELS, key=lambda kernels: fit_gemm(rows, dtype, kernels, max_rows, max_calls).loss)


def params_of(names: Sequence[str], theta: Float) -> GemmParams:
    """Parameters from the logarithms of some; the others as their defaults."""
    return GemmParams(**dict(zip(names, np.exp(theta).tolist(), strict=True)))


def predict_s(table: Table, device: HardwareProfile, dtype: str, p: GemmParams, kernels: str) -> Float:
    """Seconds of each row of a loop benchmark, whose weights may stay in the L2."""
    return gemm_time_s(table, device, dtype, p, kernels, resident=True)


def impossible(table: Table, device: HardwareProfile, dtype: str) -> NDArray[np.bool_]:
    """Rows faster than the datasheet's arithmetic by more than 5 %, which no clock explains; not fitted."""
    flops = 2.0 * table["m"] * table["n"] * table["k"]
    return np.asarray(flops / math_flops_per_s(device, dtype) > 1.05e-6 * table["latency_us"])


def _draw(rows: Rows, dtype: str, max_rows: int) -> Table:
    usable = np.flatnonzero(~impossible(rows.table, rows.device, dtype))
    if len(usable) > max_rows:
        usable = np.sort(np.random.default_rng(0).choice(usable, max_rows, replace=False))
    return {name: values[usable] for name, values in rows.table.items()}
