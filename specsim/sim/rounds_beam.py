"""EAGLE-2 in the synthetic world, request by request in one compiled loop where numba is installed.

The same rounds as ``sim.rounds`` plays with the policy itself, node for node, several times as fast: nothing is made
into an array that is looked at once. What they do is told there; here it is told once more, in the order of one round.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.process import TextNodes, TokenProcess, node_types
from specsim.decoding import Eagle2

Ints = NDArray[np.int64]
Rounds = tuple[Ints, Ints, Ints]

STRIDE, FIRST, SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
SHARPEST: Final = np.float32(60.0)


def beam_rounds(
    process: TokenProcess, policy: Eagle2, roots: TextNodes, temperature: float, num: int, rng: np.random.Generator
) -> Rounds | None:
    """Tokens emitted, nodes drafted and nodes run, each ``[round, request]``; None without numba.

    At temperature 0 the rule is greedy, above it is one_hot.
    """
    compiled = _compiled()
    if compiled is None or policy.top_k > process.num_candidates:
        return None
    numbers = np.array(
        [
            process.sharpness, process.sharpness_sd, process.regime_gap, process.easy_share, process.divergence,
            process.divergence_sd, process.calibration, process.decay, process.request_sd, temperature,
        ],
        dtype=np.float32,
    )  # fmt: skip
    chance_easy = process.regime_steps[:, 1].astype(np.float32)
    key, is_easy, batch = roots.key.copy(), roots.is_easy.copy(), len(roots.key)
    begin, end = process.num_candidates + 0.5, max(process.vocab_size, process.num_candidates + 1) + 0.5
    tail = np.array([np.log(begin), np.log(end / begin)], dtype=np.float32)
    ranks = np.log(np.arange(1, process.num_candidates + 1)).astype(np.float32)
    out = np.zeros((num, 3, batch), dtype=np.int64)
    for number in range(num):
        uniforms = rng.random((batch, policy.limits.nodes), dtype=np.float32)
        compiled(
            numbers, chance_easy, tail, ranks, node_types(process), key, is_easy, roots.offset, uniforms,
            policy.top_k, policy.depth, policy.total_tokens, out[number],
        )  # fmt: skip
    return out[:, 0], out[:, 1], out[:, 2]


@cache
def _compiled() -> Callable[..., None] | None:
    try:
        import numba
    except ImportError:
        return None
    helpers: dict[str, Any] = {
        "_mixed": _mixed,
        "_is_easy": _is_easy,
        "_exponent": _exponent,
        "_law": _law,
        "_limit": _limit,
        "_best": _best,
    }
    fast = {name: numba.njit(function, cache=True) for name, function in helpers.items()}
    globals().update(fast)  # the loop below calls them by name
    loop: Callable[..., None] = numba.njit(_play, cache=True)
    return loop


def _mixed(parent: np.uint64, token: int) -> np.uint64:
    """Key of the child: the finaliser of SplitMix64."""
    key = parent + (np.uint64(token) + np.uint64(1)) * STRIDE
    key = (key ^ (key >> np.uint64(30))) * FIRST
    key = (key ^ (key >> np.uint64(27))) * SECOND
    return key ^ (key >> np.uint64(31))


def _is_easy(key: np.uint64, parent: Any, chance_easy: Any) -> Any:
    uniform = np.float32(key & np.uint64(0xFFFFFFFF)) * np.float32(2.0**-32)
    return uniform < (chance_easy[1] if parent else chance_easy[0])


def _exponent(numbers: Any, is_easy: Any, offset: Any, normal: Any) -> Any:
    """Of the target's law at temperature 1."""
    regime = np.float32(1) - numbers[3] if is_easy else -numbers[3]
    return min(numbers[0] * np.exp(numbers[2] * regime + numbers[8] * offset + numbers[1] * normal), SHARPEST)


def _law(exponent: Any, scale: Any, temperature: Any, tail: Any, ranks: Any, row: Any, law: Any) -> None:
    """Law of the candidates into ``law[K]``, and of all others into ``law[K]``'s last place."""
    num = len(ranks)
    exponent = min(exponent, SHARPEST) / temperature
    scale /= temperature
    largest = np.float32(-1e30)
    for i in range(num):
        law[i] = scale * row[i] - exponent * ranks[i]
        largest = max(largest, law[i])
    slope = (exponent - np.float32(1)) * tail[1]
    if abs(slope) < np.float32(1e-4):
        slope = np.float32(1e-4)
    log_rest = (np.float32(1) - exponent) * tail[0] + np.log(tail[1] * -np.expm1(-slope) / slope)
    total = np.float32(0)
    for i in range(num):
        law[i] = np.exp(law[i] - largest)
        total += law[i]
    law[num] = np.exp(log_rest - largest)
    total += law[num]
    for i in range(num + 1):
        law[i] /= total


def _best(values: Any, begin: int, end: int, num: int, found: Any) -> int:
    """Places of the ``num`` largest positive of ``values[begin:end]``, best first, ties to the first; how many."""
    count = 0
    for place in range(begin, end):
        value = values[place]
        if value <= 0 or (count == num and value <= values[found[count - 1]]):
            continue
        at = count if count < num else num - 1
        while at > 0 and values[found[at - 1]] < value:
            found[at] = found[at - 1]
            at -= 1
        found[at] = place
        count = min(count + 1, num)
    return count


def _limit(values: Any, count: int, num: int) -> tuple[Any, int]:
    """The ``num``-th largest of ``values[:count]``, and how many of those equal to it are among the largest."""
    if count <= num:
        return np.float32(0), count
    limit = np.partition(values[:count], count - num)[count - num]
    above = 0
    for value in values[:count]:
        if value > limit:
            above += 1
    return limit, num - above


def _play(
    numbers: Any, chance_easy: Any, tail: Any, ranks: Any, table: Any, key: Any, is_easy: Any, offset: Any,
    uniforms: Any, top_k: int, depth: int, total: int, out: Any,
) -> None:  # fmt: skip
    """One round of every request: ``key`` and ``is_easy`` become the next roots', ``out[3, request]`` is counted."""
    divergence, divergence_sd, calibration, decay = numbers[4], numbers[5], numbers[6], numbers[7]
    temperature, one = numbers[9], np.float32(1)
    num, size = len(ranks), 1 + top_k + depth * top_k * top_k
    law = np.empty(num + 1, dtype=np.float32)
    place, order = np.empty(size, dtype=np.int64), np.empty(top_k, dtype=np.int64)
    parent, token, first = (
        np.empty(size, dtype=np.int64),
        np.empty(size, dtype=np.int64),
        np.empty(size, dtype=np.int64),
    )
    path, keys, easy = np.empty(size, dtype=np.float32), np.empty(size, dtype=np.uint64), np.empty(size, dtype=np.bool_)
    frontier = np.empty(top_k, dtype=np.int64)
    for row in range(len(key)):
        keys[0], easy[0], path[0], first[0], parent[0] = key[row], is_easy[row], one, -1, -1
        frontier[0], width, count, run = 0, 1, 1, 0
        for level in range(depth + 1):
            begin = count
            for f in range(width):
                node = frontier[f]
                if level > 0:
                    keys[node] = _mixed(keys[parent[node]], token[node])
                    easy[node] = _is_easy(keys[node], easy[parent[node]], chance_easy)
                drawn = table[np.int64(keys[node] >> np.uint64(40)) & (len(table) - 1)]
                exponent = _exponent(numbers, easy[node], offset[row], drawn[num])
                scale = divergence * np.exp(divergence_sd * drawn[num + 1]) * (one + decay * np.float32(level))
                _law(exponent * calibration, scale, one, tail, ranks, drawn, law)
                run += 1
                first[node] = count
                # As the policy: candidates of no probability are padding, which keeps its place.
                kept = _best(law, 0, num, top_k, order)
                for child in range(top_k):
                    parent[count], first[count] = node, -1
                    token[count] = order[child] if child < kept else -1
                    path[count] = min(path[node] * law[order[child]], path[node]) if child < kept else np.float32(0)
                    count += 1
            if level < depth:
                width = _best(path, begin, count, top_k, frontier)
                if width == 0:
                    break
        limit, ties = _limit(path, count, total)
        position = 0
        for node in range(count):
            place[node] = -1
            if path[node] > limit or (path[node] == limit and path[node] > 0 and ties > 0):
                if path[node] == limit:
                    ties -= 1
                place[node] = position
                position += 1
        out[1, row], out[2, row], node, emitted = position - 1, run, 0, 1
        here, here_easy = keys[0], easy[0]
        while True:
            chosen = 0
            if temperature > 0:
                drawn = table[np.int64(here >> np.uint64(40)) & (len(table) - 1)]
                exponent = _exponent(numbers, here_easy, offset[row], drawn[num])
                _law(exponent, np.float32(0), temperature, tail, ranks, drawn, law)
                left = uniforms[row, place[node]]
                while chosen < num and left >= law[chosen]:
                    left -= law[chosen]
                    chosen += 1
                if chosen == num:
                    chosen = num + 1  # the target's lump, which stands after the drafter's
            # The next node of the text, drafted or not.
            here = _mixed(here, chosen)
            here_easy = _is_easy(here, here_easy, chance_easy)
            following = -1
            if first[node] >= 0:
                for child in range(first[node], first[node] + top_k):
                    if token[child] == chosen and place[child] >= 0:
                        following = child
            if following < 0:
                break
            node = following
            emitted += 1
        out[0, row] = emitted
        key[row], is_easy[row] = here, here_easy
