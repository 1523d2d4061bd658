"""What a search proves beside its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.acceptance.profile import as_floats, checked_accept_prob, checked_probs
from specsim.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Certificate:
    """Why no candidate of the searched space does better.

    Args:
        kind: ``scan``: every candidate was evaluated. ``best_first``: the largest path probabilities form the best tree
            of each size. ``dynamic_program``: the best of each size by recursion over subtrees.
        bound: No candidate of the searched space exceeds this; equal to the answer, as all three are exact.
    """

    kind: Literal["scan", "best_first", "dynamic_program", "branch_and_bound"]
    bound: float


def checked_costs(field: str, costs: ArrayLike, num_needed: int | None = None, *, positive: bool = False) -> Array:
    """The first ``num_needed`` costs in seconds (None: all), finite and not negative (or positive).

    Raises:
        InputError: naming the first wrong entry, or the length that the search needs.
    """
    try:
        table = np.array(costs, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(field, "must be a list of numbers", costs) from None
    if table.ndim != 1 or len(table) < (num_needed or 0):
        raise InputError(field, f"must be a list of at least {num_needed or 0}, its shape is", table.shape)
    table = table[:num_needed]
    wrong = ~((table > 0 if positive else table >= 0) & (table < np.inf))
    if wrong.any():
        entry = int(wrong.argmax())
        raise InputError(f"{field}[{entry}]", f"must be {'>' if positive else '>='} 0 and finite", float(table[entry]))
    return table


def probs_or_none(field: str, probs: ArrayLike) -> Array:
    """A list of probabilities, possibly empty, or InputError."""
    if np.size(probs) == 0:
        return np.empty(0)
    return checked_probs(field, as_floats(field, probs, ndim=1))


def checked_table(accept_prob: ArrayLike) -> Array:
    """``accept_prob[depth - 1, rank]``; a list may have rows of different lengths: a depth offers as many ranks as its
    row has, and NaN stands behind them.

    Raises:
        InputError: naming what is wrong.

    >>> checked_table([[0.6, 0.3], [0.5]]).tolist()
    [[0.6, 0.3], [0.5, nan]]
    """
    if isinstance(accept_prob, np.ndarray) or not isinstance(accept_prob, list | tuple):
        return checked_accept_prob(accept_prob)
    lengths = [len(row) if isinstance(row, list | tuple | np.ndarray) else -1 for row in accept_prob]
    if not lengths:
        return np.empty((0, 1))
    if min(lengths) == max(lengths) != 0 or -1 in lengths:
        return checked_accept_prob(accept_prob)
    table = np.full((len(lengths), max(1, *lengths)), np.nan)
    for place, (row, length) in enumerate(zip(accept_prob, lengths, strict=True)):
        if length:
            table[place, :length] = checked_accept_prob([row])[0]
    return table


def rows_of(table: Array) -> list[list[float]]:
    """A table as ``checked_table`` takes it.

    >>> rows_of(np.array([[0.6, 0.3], [0.5, np.nan]]))
    [[0.6, 0.3], [0.5]]
    """
    return [row[np.isfinite(row)].tolist() for row in table]


def checked_count(field: str, count: int, at_least: int, at_most: int | None = None) -> int:
    """``count`` if it is in range, or InputError."""
    if count < at_least:
        raise InputError(field, f"must be >= {at_least}", count)
    if at_most is not None and count > at_most:
        raise InputError(field, f"must be <= {at_most}", count)
    return count
