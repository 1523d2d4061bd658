"""A small network on top of an operator's formula: log(measured / formula) of the kernels that were measured.

Two hidden layers, shared by all kernels of an operator; every kernel shifts and weighs their units by numbers of its
own. For one kernel that is a plain network, and its matrices are made when the kernel is first asked for:

    correction = out . relu(second relu(first x + a) + b) + c,     time = formula x exp(trust x correction)

It corrects nothing but what it was trained for. ``trust`` falls to zero within two octaves of the trained columns,
and for weights or caches that no benchmark ever read from memory. Trained by ``specsim.calibrate.residual``.

Source: the inputs are ``specsim.cost.shape_features``; layers with a shift and a weight for each kernel are
feature-wise linear modulation (Perez et al. 2018, arXiv:1709.07871).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from specsim.cost.fits import OperatorFit
from specsim.cost.shape_features import MOST_HELD, Rows32
from specsim.hardware import HardwareProfile, hwprofiles_dir
from specsim.work import Float

CHUNK_ROWS: Final = 2048
"""Rows at a time: their hidden units stay in a core's cache."""
FADE_OCTAVES: Final = 2.0
MOST: Final = 1.0
"""A correction is at most a factor e: whatever asks for more is not a residual."""


class Network(NamedTuple):
    """The shared layers and, by kernel, what changes them.

    Attributes:
        keys: Device and fit of each kernel, ``device|operator|engine|version|dtype``.
        mean, scale: Of the features, shape [features].
        first, first_shift: Shapes [features, hidden], [kernels, hidden].
        weigh: Of the first hidden units, shape [kernels, hidden].
        second, second_shift: Shapes [hidden, hidden], [kernels, hidden].
        out, out_shift: Shapes [kernels, hidden], [kernels].
    """

    keys: tuple[str, ...]
    mean: Rows32
    scale: Rows32
    first: Rows32
    first_shift: Rows32
    weigh: Rows32
    second: Rows32
    second_shift: Rows32
    out: Rows32
    out_shift: Rows32


class Plain(NamedTuple):
    """The same for one kernel: matrices [hidden, inputs] and columns [inputs, 1] or [hidden, 1]."""

    mean: Rows32
    first: Rows32
    first_shift: Rows32
    second: Rows32
    second_shift: Rows32
    out: Rows32
    out_shift: float


def key_of(device: str, fit: OperatorFit) -> str:
    """What tells one kernel from another in a network's file."""
    return "|".join((device, *fit.key))


def residual_file(name: str) -> Path:
    """The bundled network of a group of operators: ``gemm``, ``layer_gemm``, ``attention_decode``."""
    return hwprofiles_dir() / f"residual.{name}.npz"


@lru_cache(maxsize=8)
def load_network(path: Path) -> Network:
    """A network from its file."""
    with np.load(path, allow_pickle=False) as data:
        arrays = {n: np.asarray(data[n], dtype=np.float32) for n in Network._fields if n != "keys"}
        return Network(keys=tuple(str(k) for k in data["keys"].tolist()), **arrays)


@lru_cache(maxsize=256)
def load_plain(name: str, key: str) -> Plain | None:
    """The bundled network for one kernel; None where it has not seen that kernel."""
    path = residual_file(name)
    if not path.is_file():
        return None
    network = load_network(path)
    return plain(network, network.keys.index(key)) if key in network.keys else None


def plain(network: Network, kernel: int) -> Plain:
    """Fold the features' scale and the kernel's own numbers into the matrices."""
    first = network.first / network.scale[:, None]
    return Plain(
        network.mean[:, None],  # taken off first: features far from zero would leave little of float32's digits
        np.ascontiguousarray(first.T),
        network.first_shift[kernel][:, None],
        np.ascontiguousarray((network.weigh[kernel][:, None] * network.second).T),
        network.second_shift[kernel][:, None],
        network.out[kernel],
        float(network.out_shift[kernel]),
    )


def evaluate(net: Plain, features: Rows32) -> Rows32:
    """Correction in log time of each row; ``features`` of shape [features, rows].

    Below, the second row is 0.1 x 2 x (3 - 1) + 0.05.

    >>> unit = np.ones((1, 1), np.float32)
    >>> net = Plain(unit, unit, 0 * unit, 2 * unit, 0 * unit, np.full(1, 0.1, np.float32), 0.05)
    >>> evaluate(net, np.array([[0.0, 3.0]], np.float32)).astype(float).round(2).tolist()
    [0.05, 0.45]
    """
    hidden = net.first @ (features - net.mean)
    hidden += net.first_shift
    np.maximum(hidden, 0, out=hidden)
    hidden = net.second @ hidden
    hidden += net.second_shift
    np.maximum(hidden, 0, out=hidden)
    return np.asarray(np.clip(net.out @ hidden + np.float32(net.out_shift), -MOST, MOST), dtype=np.float32)


def within(columns: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]]) -> Float:
    """1 inside the ranges of the rows that were trained on, 0 two octaves outside any, straight in log between.

    A column that had one value only is trusted there alone.

    >>> within({"m": np.array([6.0, 2.0, 3.0, 1.0, 12.0])}, {"m": (2.0, 3.0)}).round(2).tolist()
    [0.5, 1.0, 1.0, 0.5, 0.0]
    >>> within({"q_len": np.array([1.0, 2.0])}, {"q_len": (1.0, 1.0)}).tolist()
    [1.0, 0.0]
    """
    trust: Any = 1.0
    for name, (least, most) in ranges.items():
        x = np.asarray(columns[name], dtype=float)
        below, above = np.log2(max(least, 1.0) / np.maximum(x, 1e-9)), np.log2(np.maximum(x, 1e-9) / most)
        octaves = FADE_OCTAVES if most > least else 1.0
        trust = trust * np.clip(1.0 - np.maximum(below, above) / octaves, 0.0, 1.0)
    return np.asarray(trust, dtype=float)


def corrected(
    seconds: Float,
    half_width: Float | float,
    columns: Mapping[str, Any],
    device: HardwareProfile,
    fit: OperatorFit,
    features: Callable[[Mapping[str, Any], HardwareProfile, Any], Rows32],
    held_bytes: Any,
    resident: bool,
) -> tuple[Float, Float | float]:
    """The formula's seconds and half-widths with the fit's learned correction; as they were where it has none.

    Args:
        columns: Arrays of the rows' shape, or of one value.
        features: Of ``specsim.cost.shape_features``.
        held_bytes: Of each row's weights or cache once. In a loop they stay in the L2 where all copies fit; where they
            must come from memory and no loop had them do so, nothing is corrected.
    """
    learned = fit.residual
    net = load_plain(learned.network, key_of(device.name, fit)) if learned else None
    if learned is None or net is None:
        return seconds, half_width
    copies = columns["weight_copies"] if resident and "weight_copies" in columns else learned.copies
    over_l2 = np.broadcast_to(np.asarray(copies * held_bytes / device.l2_bytes.value, dtype=float), seconds.shape)
    trust = np.broadcast_to(within(columns, fit.valid_range), seconds.shape)
    if learned.copies and not resident:
        trust = trust * np.clip(np.log2(np.maximum(over_l2, 1e-9)) + 1.0, 0.0, 1.0)
    seen = np.full(seconds.shape, 2.0**MOST_HELD) if not (resident and learned.copies) else over_l2
    log_s = np.empty(seconds.size)
    flat = {name: np.ravel(np.broadcast_to(columns[name], seconds.shape)) for name in fit.valid_range}
    for first in range(0, seconds.size, CHUNK_ROWS):
        part = slice(first, first + CHUNK_ROWS)
        rows = {name: values[part] for name, values in flat.items()}
        log_s[part] = evaluate(net, features(rows, device, np.ravel(seen)[part]))
    width = learned.quantile_90 if learned.widths is None else learned.widths.at(columns)
    time_s = seconds * np.exp(log_s.reshape(seconds.shape) * trust)
    return time_s, np.asarray(width * trust + half_width * (1.0 - trust))
