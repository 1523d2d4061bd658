"""What measuring more is worth: which uncertain quantity, if it were known, would change the choice, and by how much.

The expected value of partial perfect information about a quantity is what the best choice would gain on the mean if
the quantity were known before choosing::

    EVPPI = E over quantity [ max over candidates E[rate | quantity] ] - max over candidates E[rate]

The inner mean is a regression of the draws on the quantity. It is fitted on one half of the draws and chooses in the
other, so what is reported is what the rule that it found earns on draws that it has not seen: on the mean never more
than the true value.

Source: Strong, Oakley & Brennan 2014, "Estimating multiparameter partial expected value of perfect information".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.acceptance.profile import as_floats
from specsim.errors import InputError

Floats = NDArray[np.float64]

MOST_COLUMNS = 3
"""A quantity of more numbers is told by so many of its principal components."""
LEAST_DRAWS = 200


@dataclass(frozen=True)
class Worth:
    """The value of knowing one quantity.

    Args:
        name: Of it.
        gain: Mean rate that knowing it adds, relative to that of the best choice without; 0 where nothing was found.
        gain_sd: Standard error of that number, of the draws.
        changes: Share of draws in which knowing it changes the choice.
    """

    name: str
    gain: float
    gain_sd: float
    changes: float


def worth_of_knowing(rates: ArrayLike, quantities: Mapping[str, ArrayLike]) -> list[Worth]:
    """The value of perfect information about each quantity, most valuable first.

    Args:
        rates: ``[draw, candidate]``.
        quantities: By name, ``[draw]`` or ``[draw, number]``, of the same draws.

    Raises:
        InputError: for fewer than 200 draws, or quantities of another number of them.

    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.standard_normal((2, 4000))
    >>> worth = worth_of_knowing(np.stack([np.full(4000, 10.0), 10 + x + 0.1 * y], axis=1), {"y": y, "x": x})
    >>> [one.name for one in worth], abs(worth[0].gain - 0.0399) < 0.004  # phi(0) / 10
    (['x', 'y'], True)
    """
    table = as_floats("rates", rates, ndim=2)
    if len(table) < LEAST_DRAWS:
        raise InputError("rates", f"must be at least {LEAST_DRAWS} draws", len(table))
    highest = int(table.mean(axis=0).argmax())
    top = float(table[:, highest].mean())
    # Only candidates that are best in some draw can be chosen for what is known.
    useful = np.unique(np.append(table.argmax(axis=1), highest))
    gains = table[:, useful] - table[:, [highest]]
    found = []
    for name, values in quantities.items():
        features = _features(name, values, len(table))
        earned, changed = np.zeros(len(table)), np.zeros(len(table), dtype=bool)
        half = np.arange(len(table)) % 2 == 0
        for fitted, judged in ((half, ~half), (~half, half)):
            coef = np.linalg.lstsq(features[fitted], gains[fitted], rcond=None)[0]
            forecast = features[judged] @ coef
            choice = forecast.argmax(axis=1)
            choice = np.where(forecast.max(axis=1) > 0, choice, int(np.flatnonzero(useful == highest)[0]))
            earned[judged] = gains[judged][np.arange(int(judged.sum())), choice]
            changed[judged] = useful[choice] != highest
        sd = float(earned.std() / np.sqrt(len(table)) / top)
        found.append(Worth(name, max(0.0, float(earned.mean()) / top), sd, float(changed.mean())))
    return sorted(found, key=lambda worth: -worth.gain)


def _features(name: str, values: ArrayLike, num_draws: int) -> Floats:
    """Cubic in each column, with products of two: ``[draw, feature]``."""
    columns = np.array(values, dtype=np.float64)
    columns = columns[:, None] if columns.ndim == 1 else columns
    if columns.ndim != 2 or len(columns) != num_draws or not np.isfinite(columns).all():
        raise InputError(name, f"must be finite, for {num_draws} draws", columns.shape)
    columns = columns - columns.mean(axis=0)
    if columns.shape[1] > MOST_COLUMNS:
        left, size, _ = np.linalg.svd(columns, full_matrices=False)
        columns = (left * size)[:, :MOST_COLUMNS]
    spread = columns.std(axis=0)
    columns = np.clip(columns[:, spread > 1e-12] / spread[spread > 1e-12], -4, 4)
    products = [columns[:, i] * columns[:, j] for i, j in combinations(range(columns.shape[1]), 2)]
    parts = [np.ones(num_draws), *columns.T, *(columns**2).T, *(columns**3).T, *products]
    return np.stack(parts, axis=1)
