"""The best trees of all sizes and depth limits at once, where every prefix of a sorted list is a tree.

A node's path probability is at most its parent's, and at most that of its elder siblings when ranks are sorted. So the
n - 1 largest path probabilities, ties in favour of parents, form a tree with the root, and no other tree of n nodes has
a larger sum, which is its tokens per round. The trees of one depth limit are nested.

The usual heap would be run once per depth limit. Here each depth's largest probabilities are listed once, in order,
and merged into the list of the depth limit before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from specsim.search.exact.certificate import Array

Ints = NDArray[np.int64]
Path = tuple[int, ...]


class _Level(NamedTuple):
    """The largest path probabilities of one depth, descending, elders before their younger siblings."""

    probs: Array
    parents: Ints  # place of each one's parent in the level above
    ranks: Ints


class _Pool(NamedTuple):
    """The largest path probabilities down to one depth, descending, parents before their children."""

    probs: Array
    depths: Ints
    places: Ints  # in the level of its depth


def best_first_trees(
    accept_prob: Array, max_nodes: int, *, sort_ranks: bool
) -> tuple[Array, Callable[[int, int], list[Path]]]:
    """Most tokens per round ``[depth limit, nodes - 1]``, NaN where no tree is so large, and each such tree's paths.

    Args:
        accept_prob: ``[depth - 1, rank]``, NaN behind the last rank of a depth that offers fewer.
        max_nodes: Largest tree, root in.
        sort_ranks: May children be of any ranks; otherwise rows must not rise with rank.
    """
    levels, pools = [], [_Pool(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))]
    above = np.ones(1)
    for padded in accept_prob:
        row = padded[~np.isnan(padded)]
        order = np.argsort(-row, kind="stable") if sort_ranks else np.arange(len(row))
        levels.append(_next_level(above, row[order], order, max_nodes - 1))
        above = levels[-1].probs
        pools.append(_merged(pools[-1], levels[-1], len(levels), max_nodes - 1))
    tokens = np.full((len(pools), max_nodes), np.nan)
    for limit, pool in enumerate(pools):
        tokens[limit, : len(pool.probs) + 1] = 1 + np.concatenate(([0.0], np.cumsum(pool.probs)))
    return tokens, lambda limit, num_nodes: _paths(levels, pools[limit], num_nodes)


def _next_level(above: Array, row: Array, rank_of: NDArray[np.intp], num_kept: int) -> _Level:
    """Children of the level ``above``; the j-th child of the i-th parent has (i + 1)(j + 1) - 1 pairs before it."""
    num_children = np.minimum(len(row), num_kept // np.arange(1, len(above) + 1))
    parents = np.repeat(np.arange(len(above)), num_children)
    sorted_ranks = np.arange(len(parents)) - np.repeat(np.cumsum(num_children) - num_children, num_children)
    probs = above[parents] * row[sorted_ranks]
    kept = np.argsort(-probs, kind="stable")[:num_kept]
    return _Level(probs[kept], parents[kept], rank_of[sorted_ranks[kept]])


def _merged(pool: _Pool, level: _Level, depth: int, num_kept: int) -> _Pool:
    """Stable, so that of equal probabilities the shallower comes first."""
    probs = np.concatenate((pool.probs, level.probs))
    kept = np.argsort(-probs, kind="stable")[:num_kept]
    depths = np.concatenate((pool.depths, np.full(len(level.probs), depth)))
    places = np.concatenate((pool.places, np.arange(len(level.probs))))
    return _Pool(probs[kept], depths[kept], places[kept])


def _paths(levels: list[_Level], pool: _Pool, num_nodes: int) -> list[Path]:
    path_of: dict[tuple[int, int], Path] = {(0, 0): ()}
    for depth, place in zip(pool.depths[: num_nodes - 1].tolist(), pool.places.tolist(), strict=False):
        level = levels[depth - 1]
        above = path_of[depth - 1, int(level.parents[place])]
        path_of[depth, place] = (*above, int(level.ranks[place]))
    return list(path_of.values())[1:]
