"""The inner loop of the search over ordered ranks; compiled where numba is installed and the tables are long."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import numpy as np

from specsim.search.exact.certificate import Array

LONG: Final = 256
"""Tables from which compiling, or loading what was compiled, is worth its half second."""


def with_first(first: Array, rest: Array, max_nodes: int) -> Array:
    """Best sum of a first subtree of 1.. nodes and a ``rest`` of 0.. nodes, by their total from 0.

    >>> with_first(np.array([0.5, 0.9]), np.array([0.0, 0.6]), max_nodes=9).tolist()
    [0.0, 0.5, 1.1, 1.5]
    """
    best = np.full(min(len(first) + len(rest), max_nodes + 1), -np.inf)
    best[0] = 0.0
    if min(len(first), len(rest)) >= LONG and (compiled := _compiled()) is not None:
        compiled(first, rest, best)
        return best
    for num_first, value in enumerate(first[: len(best) - 1], start=1):
        part = best[num_first : num_first + len(rest)]
        np.maximum(part, value + rest[: len(part)], out=part)
    return best


@cache
def _compiled() -> Callable[[Array, Array, Array], None] | None:
    try:
        import numba
    except ImportError:  # an extra
        return None

    def loop(first: Any, rest: Any, best: Any) -> None:
        for i in range(min(len(first), len(best) - 1)):
            for j in range(min(len(rest), len(best) - 1 - i)):
                best[i + 1 + j] = max(best[i + 1 + j], first[i] + rest[j])

    fast: Callable[[Array, Array, Array], None] = numba.njit(loop, cache=True)
    return fast
