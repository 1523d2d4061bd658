"""From the law of a round at each position of a text to the rounds that follow each other along it.

Rounds start where the last one ended, so easy stretches see few of them: a mean over all positions would count those
too often. The expected number of rounds that start at each position follows from the text's beginning by recursion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.acceptance.replay.answers import Exact
from specsim.errors import InputError

Array = NDArray[np.float64]

MIN_TEXTS: Final = 5
"""Fewer texts than this are cut into ``MIN_BLOCKS`` blocks, so that the interval has degrees of freedom; it then does
not see how texts differ from each other."""

MIN_BLOCKS: Final = 16

MIN_BLOCK_TOKENS: Final = 16
"""Shorter blocks would hold few rounds, whose neighbours are correlated."""


class Walk(NamedTuple):
    """Rounds along one text.

    Attributes:
        starts: ``[t]`` expected number of rounds that begin at each position.
        tokens: ``[t]`` expected tokens of a round that begins there.
    """

    starts: Array
    tokens: Array


def visits(reach: ArrayLike) -> Array:
    """Expected number of rounds that begin at each position, ``[t]``; 1 at the first.

    With u(0) = 1, a round at t that accepts k tokens hands on to t + k + 1:

        u(t + k + 1) += u(t) Pr(exactly k accepted from t)

    Args:
        reach: ``[t, k]`` probability, given the text, that at least k tokens are accepted from t; ``reach[t, 0] = 1``.

    >>> visits([[1.0, 0.5], [1.0, 0.5], [1.0, 0.5]]).tolist()
    [1.0, 0.5, 0.75]
    """
    table = np.asarray(reach, dtype=float)
    exactly = -np.diff(table, axis=1, append=0.0)
    total, width = table.shape
    starts = np.zeros(total + width + 1)
    starts[0] = 1.0
    for t in range(total):
        if starts[t]:
            starts[t + 1 : t + 1 + width] += starts[t] * exactly[t]
    return starts[:total]


def walk(reach: ArrayLike) -> Walk:
    """The rounds along a text, and what each of them brings, from ``reach[t, k]`` as in ``visits``."""
    table = np.asarray(reach, dtype=float)
    return Walk(visits(table), table.sum(axis=1))


def chain_rounds(reach: ArrayLike, draft_lens: Sequence[int]) -> Array:
    """Expected number of rounds that begin at each position, ``[t, len]``, for chains cut to each draft length.

    Args:
        reach: ``[t, k]`` as in ``visits``, k up to the longest draft.
        draft_lens: Each 0 or more, at most the longest k. A shorter draft is a truncation, given the text.

    >>> chain_rounds([[1.0, 0.5], [1.0, 0.5]], [0, 1]).sum(axis=0).tolist()
    [2.0, 1.5]
    """
    table, lens = np.asarray(reach, dtype=float), np.asarray(list(draft_lens), dtype=np.int64)
    if lens.size and not 0 <= lens.min() <= lens.max() < table.shape[1]:
        raise InputError("draft_lens", f"must be from 0 to {table.shape[1] - 1}", lens.tolist())
    total, width = table.shape
    is_tried = (np.arange(width)[:, None] <= lens).astype(float)
    starts = np.zeros((total + width + 1, lens.size))
    starts[0] = 1.0
    # Pr(exactly k) = reach(k) - reach(k + 1), the latter 0 beyond the draft: two runs of sums, one shifted by one.
    for t in range(total):
        at_least = table[t][:, None] * is_tried * starts[t]
        starts[t + 1 : t + 1 + width] += at_least
        starts[t + 1 : t + width] -= at_least[1:]
    return starts[:total]


def expected_rounds(accept: ArrayLike, draft_lens: Sequence[int]) -> dict[int, float]:
    """Expected rounds until a recorded text is out, for chains of each draft length; the last round may overshoot.

    Given the text, token t comes from an accepted draft with ``accept[t]``, independently of the others, wherever the
    rounds began; see ``forced.token_accept``. All draft lengths together take O(tokens x longest) times their number.

    Args:
        accept: ``[t]`` by token of the text; min(1, draft / target probability) of the token under the token rule.
        draft_lens: Draft lengths, each 0 or more.

    >>> expected_rounds([0.5, 0.5], [0, 1])
    {0: 2.0, 1: 1.5}
    """
    probs = np.asarray(accept, dtype=float)
    if not probs.size:
        return {length: 0.0 for length in draft_lens}
    longest = max(draft_lens, default=0)
    sums = chain_rounds(runs(probs, min(longest, probs.size)), [min(g, probs.size) for g in draft_lens]).sum(axis=0)
    return dict(zip(draft_lens, sums.tolist(), strict=True))


def runs(accept: Array, longest: int) -> Array:
    """``[t, k]`` product of ``accept`` over the k tokens from t on; tokens beyond the end count as accepted."""
    padded = np.concatenate((accept, np.ones(longest)))
    table = np.ones((len(accept), longest + 1))
    for k in range(longest):
        table[:, k + 1] = table[:, k] * padded[k : k + len(accept)]
    return table


def exact_rate(walks: Sequence[Walk], level: float) -> Exact:
    """Tokens per round over all walks, with its interval by the ratio's residuals over blocks.

    Blocks are the texts, or equal pieces of them where texts are fewer than five. With n and r the tokens and rounds of
    a block, and R their ratio over all, Var R = B / (B - 1) sum (n - R r)^2 / (sum r)^2; Student's t of B - 1 degrees.

    Source: Cochran 1977, Sampling Techniques, section 6.4 (ratio estimate of clusters).
    """
    if not 0 < level < 1:
        raise InputError("level", "must be between 0 and 1", level)
    blocks = np.concatenate([_blocks(one, len(walks)) for one in walks])
    tokens, rounds = blocks.sum(axis=0)
    value, longest = tokens / rounds, max(float(one.tokens.max()) for one in walks)
    low, high = 1.0, longest
    if len(blocks) > 1:
        from scipy.special import stdtrit

        spread = float(np.square(blocks[:, 0] - value * blocks[:, 1]).sum()) * len(blocks) / (len(blocks) - 1)
        half = float(stdtrit(len(blocks) - 1, (1 + level) / 2)) * np.sqrt(spread) / rounds
        low, high = max(1.0, value - half), value + half
    return Exact(float(value), float(low), float(high), level, rounds=float(rounds), tokens=float(tokens))


def _blocks(one: Walk, num_texts: int) -> Array:
    """``[block, (tokens, rounds)]`` of one text."""
    total = len(one.starts)
    pieces = 1 if num_texts >= MIN_TEXTS else -(-MIN_BLOCKS // num_texts)
    pieces = max(1, min(pieces, total // MIN_BLOCK_TOKENS))
    ends = np.linspace(0, total, pieces + 1).astype(int)[:-1]
    return np.stack([np.add.reduceat(one.starts * one.tokens, ends), np.add.reduceat(one.starts, ends)], axis=1)


def shortest_and_longest(fewest: Sequence[NDArray[np.int64]], most: Sequence[NDArray[np.int64]]) -> tuple[float, float]:
    """Least and largest tokens per round where a round from t accepts anything from ``fewest[t]`` to ``most[t]``.

    A ratio of sums over a path: the best path at a price per round decides whether the ratio can reach that price
    (Dinkelbach 1967), and its own ratio is the next price.

    >>> import numpy as np
    >>> shortest_and_longest([np.array([0, 0])], [np.array([1, 1])])
    (1.0, 2.0)
    """
    return tuple(_extreme(fewest, most, sign) for sign in (-1, 1))  # type: ignore[return-value]


def _extreme(fewest: Sequence[NDArray[np.int64]], most: Sequence[NDArray[np.int64]], sign: int) -> float:
    price = np.nan
    for _ in range(50):
        tokens = rounds = 0
        for low, high in zip(fewest, most, strict=True):
            new = _best_path(low, high, sign, 2.0 if np.isnan(price) else price)
            tokens, rounds = tokens + new[0], rounds + new[1]
        if tokens / rounds == price:
            break
        price = tokens / rounds
    return float(price)


def _best_path(low: NDArray[np.int64], high: NDArray[np.int64], sign: int, price: float) -> tuple[int, int]:
    """Tokens and rounds of the path with the largest ``sign * (tokens - price * rounds)``."""
    total, reach = len(low), int(high.max()) + 2
    value, choice = [0.0] * (total + reach), [0] * total
    lows, highs = low.tolist(), high.tolist()
    for t in range(total - 1, -1, -1):
        best, kept = -np.inf, 0
        for k in range(lows[t], highs[t] + 1):
            worth = sign * (k + 1) + value[t + k + 1]
            if worth > best:
                best, kept = worth, k
        value[t], choice[t] = best - sign * price, kept
    t = rounds = 0
    while t < total:
        t, rounds = t + choice[t] + 1, rounds + 1
    return t, rounds
