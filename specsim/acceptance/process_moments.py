"""What is matched: the moments of rounds that verify a static tree, of a law and of recorded rounds, by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.process_rounds import Equal, StaticRounds
from specsim.errors import InputError
from specsim.records import RoundRecord
from specsim.tree import DraftTree

Array = NDArray[np.float64]

TOKENS: Final = "tokens per round"
LAG1: Final = "lag-1 correlation"
SPREAD: Final = "spread between requests"
CONFIDENCE: Final = (
    "mean confidence",
    "mean squared confidence",
    "mean confidence times accepted",
    "mean target probability",
)

WITHIN: Final = 1.3
"""Variance of a mean over rounds of one text, over that of independent ones: lag-1 correlations of 0.1 to 0.3 do it."""


def accepts(length: int) -> str:
    """Name of the share of rounds that accept so many or more."""
    return f"accepts {length} or more"


def cell(depth: int, rank: int) -> str:
    """Name of an entry of an acceptance table, depth from 1, rank from 0."""
    return f"depth {depth} rank {rank}"


def law_moments(law: StaticRounds, equal: Equal) -> dict[str, float]:
    """The moments of a law by name."""
    pmf, share = law.pmf(equal), law.share(equal)
    found = {TOKENS: law.tokens_per_round(equal), LAG1: law.lag1(equal), SPREAD: law.request_sd()}
    found |= {accepts(length): float(pmf[length:].sum()) for length in range(1, len(pmf))}
    tried, taken = float(share @ law.tried.sum(-1)), share @ law.accepted.sum(1)
    found |= {f"takes rank {rank}": float(taken[rank]) / tried for rank in range(1, law.accepted.shape[2])}
    found |= {name: float(v) / tried for name, v in zip(CONFIDENCE, share @ law.confidence, strict=True)}
    table = law.accept_prob(equal)
    return found | {cell(d + 1, r): float(table[d, r]) for d in range(table.shape[0]) for r in range(table.shape[1])}


class Sums(NamedTuple):
    """Sums over the rounds of one request: of ranks taken, of confidence and its square, of tried; and the lengths."""

    ranks: Array
    confidence: Array
    squares: Array
    tried: float
    lengths: Array


def sums_of_records(tree: DraftTree, records: Iterable[RoundRecord]) -> list[Sums]:
    """Request by request."""
    by_request: dict[int, list[RoundRecord]] = defaultdict(list)
    for record in records:
        by_request[record.request].append(record)
    return [_sums(tree, rounds) for rounds in by_request.values()]


def sums_of_lengths(lengths: Sequence[Sequence[int]]) -> list[Sums]:
    """The same where only the number of accepted tokens of each round is known, request by request."""
    nothing = np.full(4, np.nan)
    return [Sums(np.zeros(0), nothing, nothing, 0.0, np.array(one, dtype=float)) for one in lengths]


def _sums(tree: DraftTree, rounds: list[RoundRecord]) -> Sums:
    taken, sure, squares, tried = np.zeros(1 + max(tree.ranks)), np.zeros(4), np.zeros(4), 0.0
    first = {
        parent: node for node, (parent, rank) in enumerate(zip(tree.parents, tree.ranks, strict=True)) if rank == 0
    }
    for record in rounds:
        if record.num_drafted != tree.num_drafted or record.path is None or record.draft_probs is None:
            raise InputError("records", f"must verify {tree.label}, with path and draft_probs", record.method)
        for rank in record.accepted_ranks:
            taken[rank] += 1
        for node in (0, *record.path):
            if node not in first:
                continue
            child = first[node]
            c = record.draft_probs[child - 1]
            kept = record.accept_prob[child - 1] if record.accept_prob is not None else float(child in record.path)
            wanted = record.target_probs[child - 1] if record.target_probs is not None else np.nan
            one = np.array([c, c * c, c * kept, wanted])
            sure, squares, tried = sure + one, squares + one**2, tried + 1
    return Sums(taken, sure, squares, tried, np.array([record.num_accepted for record in rounds], dtype=float))


def observed(sums: Sequence[Sums], depth: int) -> dict[str, tuple[float, float]]:
    """Moments of recorded rounds with their standard errors.

    The errors are those of rounds given the requests: what other requests would have brought is not in them, but for
    the spread between requests and the correlation within.
    """
    lengths = [s.lengths for s in sums]
    every = np.concatenate(lengths)
    num, tried = len(every), sum(s.tried for s in sums)
    found = {}
    for length in range(1, depth + 1):
        found[accepts(length)] = _share(float((every >= length).sum()), num)
    if tried:
        ranks = np.sum([s.ranks for s in sums], axis=0)
        found |= {f"takes rank {rank}": _share(float(count), tried) for rank, count in enumerate(ranks) if rank}
        means = np.sum([s.confidence for s in sums], axis=0) / tried
        squares = np.sum([s.squares for s in sums], axis=0) / tried
        errors = np.sqrt(WITHIN * np.maximum(squares - means**2, 1e-6) / tried)
        found |= {
            name: (float(v), float(e)) for name, v, e in zip(CONFIDENCE, means, errors, strict=True) if np.isfinite(v)
        }
    return found | _between(lengths, every)


def _share(count: float, of: float) -> tuple[float, float]:
    # One half of an event more, so that what was never seen is no certainty.
    return count / of, float(np.sqrt(WITHIN * (count + 0.5) * (of - count + 0.5) / (of + 1) ** 2 / of))


def _between(lengths: list[Array], every: Array) -> dict[str, tuple[float, float]]:
    """Correlation of consecutive rounds, and spread of requests' means; both say little from few requests."""
    found: dict[str, tuple[float, float]] = {}
    mean, variance = every.mean(), every.var()
    some = [x for x in lengths if len(x) > 2]
    if some and variance > 0:
        weights = [len(x) for x in some]
        pairs = [np.mean((x[1:] - mean) * (x[:-1] - mean)) for x in some]
        found[LAG1] = float(np.average(pairs, weights=weights)) / variance, float(1.5 / np.sqrt(sum(weights)))
    if len(lengths) > 2:
        # Of the spread of means, what rounds within a request explain by chance is taken off.
        chance = WITHIN * float(np.mean([x.var() / len(x) for x in lengths]))
        total = float(np.var([x.mean() for x in lengths], ddof=1))
        between = np.sqrt(max(total - chance, 1e-4))
        # Of the variance of n means the relative error is sqrt(2 / (n - 1)).
        error = total * np.sqrt(2 / (len(lengths) - 1)) / (2 * max(between, 0.5 * np.sqrt(total)))
        found[SPREAD] = float(between), float(max(error, 1e-3))
    return found
