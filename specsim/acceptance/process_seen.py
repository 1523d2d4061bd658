"""What was measured of a drafter, in whatever form, as moments with their standard errors: what a process is fitted to.

Each function is one form that people have: a rate, tokens per round, survival by position, a histogram, lengths of
recorded rounds, records of the executor, an acceptance table (which rank vectors and Medusa's tables become).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from specsim.acceptance.process_moments import (
    TOKENS,
    WITHIN,
    Array,
    accepts,
    cell,
    observed,
    sums_of_lengths,
    sums_of_records,
)
from specsim.acceptance.process_rounds import Equal
from specsim.acceptance.profile import AcceptanceProfile, as_floats, checked_probs
from specsim.errors import InputError
from specsim.records import RoundRecord
from specsim.tree import DraftTree

ROUNDS: Final = 1000.0
"""Rounds behind figures that do not say how many."""

MODEL_ERROR: Final = 0.005
"""No moment is trusted beyond this: the world is not the models, and figures are rounded."""


@dataclass(frozen=True)
class Seen:
    """What was measured with one static tree.

    Attributes:
        tree: What was verified; its ranks are the drafter's.
        temperature: Of the target.
        sampled: Candidates were drawn and judged by rejection; else the best, and the target's choice was followed.
        moments: By name (see ``process_moments``), value and standard error.
        num_rounds: Rounds behind them.
        num_requests: Requests behind them, those of more rounds counting more; None where unknown.
        equal: What all requests have the same number of.
    """

    tree: DraftTree
    temperature: float
    sampled: bool
    moments: dict[str, tuple[float, float]]
    num_rounds: float
    num_requests: int | None
    equal: Equal = "tokens"

    @property
    def depth(self) -> int:
        """Deepest level that the moments tell of."""
        if TOKENS in self.moments:
            return self.tree.depth
        told = [int(name.split()[1]) for name in self.moments if name.startswith(("accepts", "depth"))]
        return max(told, default=self.tree.depth)

    @property
    def needs_confidence(self) -> bool:
        """Whether moments tell how sure the drafter was."""
        return any(name.startswith("mean ") for name in self.moments)


@dataclass(frozen=True)
class Recorded:
    """Rounds that all verified one static tree.

    Args:
        tree: What they verified.
        records: The rounds of each request in order.
        temperature: Of the target.
        sampled: Candidates were drawn and judged by rejection (``static_rounds`` says the same).
        equal: What all requests have the same number of.
    """

    tree: DraftTree
    records: Sequence[RoundRecord]
    temperature: float
    sampled: bool
    equal: Equal = "tokens"


def seen_records(recorded: Recorded) -> Seen:
    """From records that hold paths and draft probabilities.

    Raises:
        InputError: for no rounds, rounds of another tree, or fewer than 3 requests.
    """
    if not recorded.records:
        raise InputError("records", "must hold at least one round of each tree", 0)
    sums = sums_of_records(recorded.tree, recorded.records)
    if len(sums) < 3:
        raise InputError("records", "must be of at least 3 requests, to tell how far these differ", len(sums))
    moments = observed(sums, recorded.tree.depth)
    where = recorded.tree, recorded.temperature, recorded.sampled
    return Seen(*where, moments, len(recorded.records), alike([one.lengths for one in sums]), recorded.equal)


def alike(lengths: Sequence[Sequence[int] | Array]) -> int:
    """How many requests of equally many rounds would tell as much of the mean over rounds (Kish 1965).

    >>> alike([[1] * 10, [2] * 10]), alike([[1] * 30, [2] * 10, [0] * 10])
    (2, 2)
    """
    counts = np.array([len(one) for one in lengths], dtype=float)
    return round(float(counts.sum() ** 2 / (counts**2).sum()))


def seen_lengths(
    lengths: Sequence[Sequence[int]], tree: DraftTree, temperature: float = 0.0, *, sampled: bool = False
) -> Seen:
    """From the accepted tokens (bonus token out) of each round, request by request, in order.

    >>> seen = seen_lengths([[2, 0, 1], [1, 2, 2], [0, 0, 1]], DraftTree.chain(2))
    >>> round(seen.moments["accepts 1 or more"][0], 3), seen.num_requests
    (0.667, 3)
    """
    if not lengths or not all(len(one) for one in lengths):
        raise InputError("lengths", "must hold at least one round of each request", 0)
    if (longest := max(max(one) for one in lengths)) > tree.depth:
        raise InputError("lengths", f"must be at most {tree.depth}, the depth of the tree", longest)
    moments = observed(sums_of_lengths(lengths), tree.depth)
    return Seen(tree, temperature, sampled, moments, sum(len(one) for one in lengths), alike(lengths))


def seen_tokens(
    tokens_per_round: float, tree: DraftTree, temperature: float = 0.0, *, sampled: bool = False,
    num_rounds: float | None = None,
) -> Seen:  # fmt: skip
    """From mean tokens per round alone, bonus token in.

    >>> seen_tokens(2.5, DraftTree.chain(3)).moments["tokens per round"][0]
    2.5
    """
    if not 1 <= tokens_per_round <= tree.depth + 1:
        raise InputError("tokens_per_round", f"must be from 1 to {tree.depth + 1}, the depth and one", tokens_per_round)
    rounds = num_rounds or ROUNDS
    share = (tokens_per_round - 1) / tree.depth
    # Accepted tokens spread like a share of the depth at most: near 0 and near all of it they hardly spread.
    sd = tree.depth * np.sqrt(WITHIN * max(share * (1 - share), 1e-3) / rounds)
    moments = {TOKENS: (tokens_per_round, float(np.hypot(sd, MODEL_ERROR * tree.depth**0.5)))}
    return Seen(tree, temperature, sampled, moments, rounds, None)


def seen_rate(
    accepted_over_drafted: float, draft_len: int, temperature: float = 0.0, *, sampled: bool = False,
    num_rounds: float | None = None,
) -> Seen:  # fmt: skip
    """From the share of drafted tokens that were accepted, as engines log it, of chains of this length."""
    if not 0 <= accepted_over_drafted <= 1:
        raise InputError("accepted_over_drafted", "must be a probability from 0 to 1", accepted_over_drafted)
    tokens = 1 + draft_len * accepted_over_drafted
    return seen_tokens(tokens, DraftTree.chain(draft_len), temperature, sampled=sampled, num_rounds=num_rounds)


def seen_survival(
    survival: Sequence[float] | Array, temperature: float = 0.0, *, sampled: bool = False,
    num_rounds: float | None = None, draft_len: int | None = None,
) -> Seen:  # fmt: skip
    """From the share of drafts whose first i tokens were all accepted, i = 1, 2, ... (vLLM's counters by position).

    ``draft_len``: of the chains that were drafted, where positions at the end are left out. Rounds of longer chains
    begin elsewhere in the text, so the same position is accepted less or more often than in shorter ones.
    """
    values = checked_probs("survival", as_floats("survival", survival, ndim=1))
    if (np.diff(values) > 0).any():
        raise InputError("survival", "must not rise", values.tolist())
    rounds = num_rounds or ROUNDS
    moments = {accepts(i + 1): (float(v), _error(float(v), rounds)) for i, v in enumerate(values)}
    if draft_len is not None and draft_len < len(values):
        raise InputError("draft_len", f"must be at least {len(values)}, the positions", draft_len)
    return Seen(DraftTree.chain(draft_len or len(values)), temperature, sampled, moments, rounds, None)


def seen_histogram(
    counts: Sequence[float] | Array, tree: DraftTree, temperature: float = 0.0, *, sampled: bool = False
) -> Seen:
    """From ``counts[n]`` rounds that accepted n tokens, bonus token out.

    >>> seen = seen_histogram([50, 30, 20], DraftTree.chain(2))
    >>> seen.moments["accepts 2 or more"][0], seen.num_rounds
    (0.2, 100.0)
    """
    numbers = as_floats("counts", counts, ndim=1)
    if (numbers < 0).any() or not numbers.sum() > 0 or len(numbers) > tree.depth + 1:
        raise InputError("counts", f"must be {tree.depth + 1} counts, one of them above 0", numbers.tolist())
    upto = np.pad(numbers, (0, tree.depth + 1 - len(numbers)))[::-1].cumsum()[::-1] / numbers.sum()
    rounds = float(numbers.sum())
    moments = {accepts(i): (float(upto[i]), _error(float(upto[i]), rounds)) for i in range(1, tree.depth + 1)}
    return Seen(tree, temperature, sampled, moments, rounds, None)


def seen_profile(profile: AcceptanceProfile, temperature: float = 0.0, *, sampled: bool = False) -> Seen:
    """From a table by depth and rank, as of a chain whose every node also has the other ranks as leaves.

    A table of heads that were not conditioned on accepted parents (Medusa's) has its depths as drift; its
    error between workloads (``task_sd``) counts once, on every entry.
    """
    tree = _comb(profile.max_depth, profile.max_ranks)
    trials = np.full(profile.max_depth, ROUNDS) if profile.num_trials is None else np.maximum(profile.num_trials, 1)
    moments = {
        cell(d + 1, r): (float(p), float(np.hypot(_error(float(p), float(trials[d])), profile.task_sd * p * (1 - p))))
        for (d, r), p in np.ndenumerate(profile.accept_prob)
    }
    return Seen(tree, temperature, sampled, moments, float(trials[0]), None, "rounds")


def _error(share: float, trials: float) -> float:
    return float(np.hypot(np.sqrt(WITHIN * (share * (1 - share) + 0.5 / trials) / trials), MODEL_ERROR))


def _comb(depth: int, num_ranks: int) -> DraftTree:
    """A chain of first candidates whose every node also has the others as leaves."""
    spine = [(0,) * level for level in range(depth)]
    return DraftTree.from_paths([(*path, rank) for path in spine for rank in range(num_ranks)])
