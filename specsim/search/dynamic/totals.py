"""Rounds counted by what they cost: how often a pass runs so many tokens, policy by policy and block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from specsim.search.dynamic.text import Rounds, visits

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NUM_BLOCKS: Final = 16
"""Groups of requests; leaving out one at a time gives the errors."""
NUM_STARTS: Final = 8
WARM_ROOTS: Final = 10
"""Walks of each text, and roots before rounds are counted: a walk is then two or three rounds old."""
GRID: Final = 255
"""Token totals up to here are kept as they are, larger ones between as many points."""
DRAWN: Final = 256
LEAST_GROUPS: Final = 4
"""Rounds drawn from each block of requests to make batches of, and batches at least: large ones are much alike."""


@dataclass(frozen=True, eq=False)
class Visited:
    """The rounds of one policy, arrays ``[visit]`` in the order of requests.

    Args:
        request: Whose.
        weight: How many walks begin a round there.
        emitted: Tokens, bonus in.
        num_nodes: Verified, root in.
        widths: ``[visit, pass]`` nodes run.
    """

    request: Ints
    weight: Ints
    emitted: Floats
    num_nodes: Ints
    widths: Ints

    @property
    def is_steady(self) -> bool:
        """Whether all rounds are alike."""
        return bool(np.ptp(self.num_nodes) == 0 and np.ptp(self.emitted) == 0 and not np.ptp(self.widths, axis=0).any())


@dataclass(frozen=True, eq=False)
class Totals:
    """The rounds of all policies at one batch size, in numbers that prices multiply; ``[policy, block, ...]``.

    Args:
        batch: Sequences in a round.
        tokens: Sum of tokens that a sequence emits.
        rounds: Number of rounds.
        verified, verified_at: How often the target runs so many tokens, and how many, ``[point]``.
        drafted, drafted_at: Likewise the drafter's passes below the root.
        first, first_at: Likewise its first passes, over what the last round emitted.
        passes: Draft passes.
        speculating: Rounds that verify more than roots.
    """

    batch: int
    tokens: Floats
    rounds: Floats
    verified: Floats
    verified_at: Floats
    drafted: Floats
    drafted_at: Floats
    first: Floats
    first_at: Floats
    passes: Floats
    speculating: Floats


def visited_of(rounds: Rounds) -> Visited:
    """Those rounds that walks through the texts come by."""
    counts = visits(rounds.emitted, NUM_STARTS, WARM_ROOTS)
    request, root = np.nonzero(counts)
    at = (request, root)
    return Visited(request, counts[at], rounds.emitted[at], rounds.num_nodes[at], rounds.widths[at].astype(np.int16))


def block_of(request: Ints, num_requests: int) -> Ints:
    """The block of each request: equal runs of them."""
    return np.asarray(request * min(NUM_BLOCKS, num_requests) // num_requests)


def totals_of(visited: Sequence[Visited], batch: int, num_requests: int) -> Totals:
    """The rounds of several policies at one batch size."""
    num = min(NUM_BLOCKS, num_requests)
    events, sums = zip(*(_one(v, block_of(v.request, num_requests), num, batch) for v in visited), strict=True)
    grids = [_grid(max(int(passes[i][1].max(initial=1)) for passes in events)) for i in range(3)]
    verified, drafted, first = (np.stack([_counted(passes[i], grids[i], num) for passes in events]) for i in range(3))
    tokens, rounds, passes, speculating = (np.stack(part) for part in zip(*sums, strict=True))
    return Totals(batch, tokens, rounds, verified, grids[0], drafted, grids[1], first, grids[2], passes, speculating)


_Events = tuple[Ints, Ints, Floats]
"""Block, token total and weight of passes."""


def _one(v: Visited, block: Ints, num: int, batch: int) -> tuple[list[_Events], list[Floats]]:
    """One policy: target passes, draft passes below the root, first draft passes, and sums by block."""
    rounds, tokens = _sums(block, v.weight, num), _sums(block, v.weight * v.emitted, num)
    if batch == 1:
        # In the long run what one round emits is what the next one's drafter has pending.
        nodes, widths, pending, weight, of = v.num_nodes, v.widths, v.emitted, v.weight.astype(float), block
    elif v.is_steady:
        nodes, widths, pending = v.num_nodes * batch, v.widths * batch, v.emitted * batch
        weight, of = v.weight.astype(float), block
    else:
        place, of = _groups(block, v.weight, num, batch, seed=0)
        before, _ = _groups(block, v.weight, num, batch, seed=1)
        nodes, widths, pending = (
            v.num_nodes[place].sum(1),
            v.widths[place].sum(1, dtype=np.int64),
            v.emitted[before].sum(1),
        )
        weight = rounds[of] / _num_groups(batch)
    ran = widths[:, 1:] > 0
    which, _ = np.nonzero(ran)
    starts = widths[:, 0] > 0 if widths.shape[1] else np.zeros(len(nodes), dtype=bool)
    passes = _sums(of, weight * (ran.sum(axis=1) + starts), num)
    speculating = _sums(of, weight * (nodes > batch), num)
    events: list[_Events] = [
        (of, nodes, weight),
        (of[which], widths[:, 1:][ran], weight[which]),
        (of[starts], np.rint(pending[starts]).astype(np.int64), weight[starts]),
    ]
    return events, [tokens, rounds, passes, speculating]


def _sums(block: Ints, values: NDArray[Any], num: int) -> Floats:
    return np.asarray(np.bincount(block, weights=values, minlength=num), dtype=float)


def _groups(block: Ints, weight: Ints, num: int, batch: int, seed: int) -> tuple[Ints, Ints]:
    """Rounds ``[group, member]`` drawn from each block by weight, and the block of each group."""
    groups = _num_groups(batch)
    uniforms = np.random.default_rng(seed).random((num, groups * batch))
    copies = np.repeat(np.arange(len(weight)), weight)
    upto = np.concatenate(([0], np.cumsum(weight)))
    begins, ends = (upto[np.searchsorted(block, np.arange(num), side=side)] for side in ("left", "right"))
    place = copies[begins[:, None] + (uniforms * (ends - begins)[:, None]).astype(np.int64)]
    return place.reshape(num * groups, batch), np.repeat(np.arange(num), groups)


def _num_groups(batch: int) -> int:
    return max(LEAST_GROUPS, -(-DRAWN // batch))


def _grid(most: int) -> Floats:
    """Every total up to ``GRID``, else about as many points from 0 to ``most``."""
    return np.arange(most + 1.0) if most <= GRID else np.linspace(0.0, most, GRID + 1)


def _counted(events: _Events, grid: Floats, num: int) -> Floats:
    """``[block, point]`` weights; between two points a weight is shared so that the mean stays."""
    block, total, weight = events
    place = total / grid[1]
    below = np.minimum(place.astype(np.int64), len(grid) - 1)
    part = place - below
    slot = block * len(grid)
    size = num * len(grid)
    found = np.bincount(slot + below, weights=weight * (1 - part), minlength=size)
    above = np.minimum(below + 1, len(grid) - 1)
    found += np.bincount(slot + above, weights=weight * part, minlength=size)
    return np.asarray(found.reshape(num, len(grid)))
