"""Acceptance as people and engines have it, each turned into the one table ``accept_prob[depth, rank]``, or a trie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from specsim.acceptance.counters import profile_from_counters, profile_from_histogram
from specsim.acceptance.emitted import emitted_distribution
from specsim.acceptance.isotonic import concave_tokens, falling_survival, smoothed
from specsim.acceptance.priors import PriorInput
from specsim.acceptance.profile import AcceptanceProfile, RankOrder, constant_alpha
from specsim.acceptance.spread import RequestSpread
from specsim.acceptance.spread_fit import fit_spread, spread_from_totals
from specsim.acceptance.trie import PathTrie, trie_from_records
from specsim.documents import Document, read_json
from specsim.errors import InputError
from specsim.records import load_records
from specsim.tree import DraftTree

Prob = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[float, Field(ge=0)]
MAX_DEPTH = 512


class SpreadUse(Document):
    """How requests differ, measured on chains of ``draft_len`` under this same acceptance; see ``RequestSpread``.

    Attributes:
        between_sd: Standard deviation between requests of their mean tokens per round, sampling error removed.
        lag1: Correlation of a round's tokens with the next's about their request's mean.
        draft_len: Of the chains.
    """

    between_sd: float = Field(ge=0)
    lag1: float = Field(gt=-1, lt=1)
    draft_len: int = Field(ge=1, le=MAX_DEPTH)


class _Common(Document):
    """What every kind of input says of itself.

    Attributes:
        source: Where the numbers come from.
        task_sd: Spread between workloads, relative; see ``AcceptanceProfile``.
        extend_to_depth: Assume depths beyond the measured ones behave like the last, down to this depth.
        rank_shares: Where only the drafter's first choice was measured: share of its misses that its second, third, ...
            choice would have caught, at every depth. Opens the search to trees; an assumption, so name its source.
        rank_shares_source: Required with ``rank_shares``.
        isotonic: Let no rank be accepted more often than a better one, as it is but for chance.
        num_requests: Requests that the counts come from.
        request_spread: How these differ. With ``num_requests`` it widens the interval, for rounds of one request are
            alike; simulated requests then differ as much.
    """

    source: str = Field(min_length=12)
    task_sd: float = Field(default=0.0, ge=0, lt=1)
    extend_to_depth: int | None = Field(default=None, ge=1, le=MAX_DEPTH)
    rank_shares: tuple[Prob, ...] = ()
    rank_shares_source: str = ""
    isotonic: bool = False
    num_requests: float | None = Field(default=None, gt=0)
    request_spread: SpreadUse | None = None

    def finish(self, profile: AcceptanceProfile) -> AcceptanceProfile:
        """Apply what is common to all kinds."""
        if self.isotonic:
            profile = smoothed(profile)
        table = self._with_ranks(profile.accept_prob) if self.rank_shares else profile.accept_prob
        profile = replace(profile, accept_prob=table, source=self.source, task_sd=self.task_sd)
        if self.num_requests is not None:
            profile = replace(profile, num_requests=self.num_requests)
        if self.extend_to_depth:
            profile = profile.extended(self.extend_to_depth)
        return profile if self.request_spread is None else self._with_spread(profile, self.request_spread)

    def _with_spread(self, profile: AcceptanceProfile, said: SpreadUse) -> AcceptanceProfile:
        if profile.num_trials is not None and profile.num_requests is None:
            raise InputError("num_requests", "must say how many requests the counts come from, for they differ")
        pmf = emitted_distribution(DraftTree.chain(said.draft_len), profile)
        return replace(profile, spread=RequestSpread.measured(said.between_sd, said.lag1, pmf))

    def _with_ranks(self, table: np.ndarray) -> np.ndarray:
        if table.shape[1] != 1:
            raise InputError("rank_shares", "must be absent where the ranks were measured", self.rank_shares)
        if len(self.rank_shares_source) < 12:
            raise InputError("rank_shares_source", "must say where the shares come from", self.rank_shares_source)
        if sum(self.rank_shares) > 1:
            raise InputError("rank_shares", "must sum to at most 1", sum(self.rank_shares))
        return np.hstack([table, (1 - table) * np.array(self.rank_shares)])


class IidInput(_Common):
    """One rate for every draft token whose prefix was accepted."""

    kind: Literal["iid"]
    alpha: Prob
    max_depth: int = Field(default=16, ge=1, le=MAX_DEPTH)
    num_trials: float | None = Field(default=None, gt=0)

    def profile(self) -> AcceptanceProfile:
        return self.finish(AcceptanceProfile.iid(self.alpha, self.max_depth, self.num_trials))


class SurvivalInput(_Common):
    """Share of drafts whose first i tokens were all accepted, i = 1, 2, ... (vLLM's per-position rates).

    ``smooth``: the shares are noisy, and may rise.
    """

    kind: Literal["survival"]
    survival: tuple[Prob, ...] = Field(min_length=1, max_length=MAX_DEPTH)
    num_drafts: float | None = Field(default=None, gt=0)
    smooth: bool = False

    def profile(self) -> AcceptanceProfile:
        survival = falling_survival(self.survival) if self.smooth else np.array(self.survival)
        return self.finish(AcceptanceProfile.from_survival(survival, self.num_drafts))


class CountersInput(_Common):
    """Counters by position, as vLLM, llama.cpp, LMDeploy and TensorRT-LLM export them; see ``profile_from_counters``.

    Server counters live as long as the server: give the difference of two readings.
    """

    kind: Literal["counters"]
    accepted_by_position: tuple[Count, ...] = Field(min_length=1, max_length=MAX_DEPTH)
    num_drafts: float | None = Field(default=None, gt=0)
    drafted_by_position: tuple[Count, ...] | None = None
    num_accepted: Count | None = None
    num_drafted: Count | None = None

    def profile(self) -> AcceptanceProfile:
        return self.finish(
            profile_from_counters(
                self.accepted_by_position,
                num_drafts=self.num_drafts,
                drafted_by_position=self.drafted_by_position,
                num_accepted=self.num_accepted,
                num_drafted=self.num_drafted,
            )
        )


class HistogramInput(_Common):
    """Rounds by how many draft tokens they accepted, 0, 1, 2, ... (vLLM, SGLang, AIPerf; Medusa's, counted)."""

    kind: Literal["accept_histogram"]
    rounds_by_accepted: tuple[Count, ...] | dict[int, Count] = Field(min_length=1, max_length=MAX_DEPTH + 1)
    num_rounds: Count | None = None
    num_accepted: Count | None = None

    def profile(self) -> AcceptanceProfile:
        counts, rounds, accepted = self.rounds_by_accepted, self.num_rounds, self.num_accepted
        return self.finish(profile_from_histogram(counts, num_rounds=rounds, num_accepted=accepted))


class SweepInput(_Common):
    """Mean tokens per round measured for chains of several lengths: ``{"3" = 2.93, "5" = 3.55}``.

    ``smooth``: the means are noisy, and may fall or bend upwards.
    """

    kind: Literal["draft_len_sweep"]
    tokens_per_round: dict[int, float] = Field(min_length=1, max_length=64)
    num_drafts: float | None = Field(default=None, gt=0)
    smooth: bool = False

    def profile(self) -> AcceptanceProfile:
        means = concave_tokens(self.tokens_per_round) if self.smooth else self.tokens_per_round
        return self.finish(AcceptanceProfile.from_survival(survival_from_sweep(means), self.num_drafts))


class TableInput(_Common):
    """The table itself, by depth and rank, with how many accepted parents each depth was seen on."""

    kind: Literal["table"]
    accept_prob: tuple[tuple[Prob, ...], ...] = Field(min_length=1, max_length=MAX_DEPTH)
    num_trials: tuple[float, ...] | None = None
    rank_order: RankOrder = "free"

    def profile(self) -> AcceptanceProfile:
        width = max(len(row) for row in self.accept_prob)
        table = np.array([[*row, *[0.0] * (width - len(row))] for row in self.accept_prob])
        trials = None if self.num_trials is None else np.array(self.num_trials)
        return self.finish(AcceptanceProfile(table, trials, rank_order=self.rank_order))


class RanksInput(_Common):
    """One vector of rank probabilities for every depth, as Sequoia measures it, best rank first."""

    kind: Literal["rank_vector"]
    vector: tuple[Prob, ...] = Field(min_length=1, max_length=4096)
    max_depth: int = Field(ge=1, le=MAX_DEPTH)
    num_trials: float | None = Field(default=None, gt=0)
    rank_order: RankOrder = "free"

    def profile(self) -> AcceptanceProfile:
        profile = AcceptanceProfile.from_ranks(self.vector, self.max_depth, self.num_trials, rank_order=self.rank_order)
        return self.finish(profile)


class TopkInput(_Common):
    """Cumulative top-k accuracy of each head, as Medusa's training log prints it."""

    kind: Literal["cumulative_topk"]
    accuracy: tuple[tuple[Prob, ...], ...] = Field(min_length=1, max_length=64)
    num_trials: float | None = Field(default=None, gt=0)

    def profile(self) -> AcceptanceProfile:
        return self.finish(AcceptanceProfile.from_cumulative_topk(self.accuracy, self.num_trials))


class RequestsInput(_Common):
    """Each request by itself, so that the spread between them is known, and the interval honest about it.

    Attributes:
        accepted: Draft tokens that each round of each request accepted, in order (vLLM's ``per_step_accepted``).
        path: In place of ``accepted``, a JSON file that holds this list of lists.
        histograms: In place of both: rounds by accepted tokens, of each request.
        lag1: Required with ``histograms``, which do not hold it; see ``SpreadUse``.
    """

    kind: Literal["requests"]
    accepted: tuple[tuple[int, ...], ...] | None = None
    path: str | None = None
    histograms: tuple[tuple[Count, ...], ...] | None = None
    lag1: float | None = Field(default=None, gt=-1, lt=1)

    def profile(self) -> AcceptanceProfile:
        if sum(each is not None for each in (self.accepted, self.path, self.histograms)) != 1:
            raise InputError("accepted", "must be given, or path or histograms in its place, and only one of them")
        if self.request_spread is not None or self.num_requests is not None:
            raise InputError("request_spread", "must be absent where each request is given")
        rng = np.random.default_rng(0)
        if self.histograms is not None:
            if self.lag1 is None:
                raise InputError("lag1", "must be given: histograms do not hold the order of rounds")
            size = max(map(len, self.histograms))
            table = np.array([[*row, *[0.0] * (size - len(row))] for row in self.histograms])
            table = table[table.sum(axis=1) > 0]
            profile = profile_from_histogram(table.sum(axis=0))
            pmf, rounds = np.append(0.0, table.sum(axis=0) / table.sum()), table.sum(axis=1)
            fitted = spread_from_totals(rounds, rounds + table @ np.arange(size), pmf, self.lag1, rng)
        else:
            each = [np.asarray(row, dtype=np.float64) for row in self._lists() if row]
            fitted = fit_spread([row + 1 for row in each], rng)
            counts = np.bincount(np.concatenate(each).astype(np.int64))
            profile = profile_from_histogram(counts)
        return self.finish(replace(profile, spread=fitted.spread, num_requests=fitted.num_equal))

    def _lists(self) -> tuple[tuple[int, ...], ...]:
        if self.accepted is not None:
            return self.accepted
        rows = read_json(Path(str(self.path)))
        if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
            raise InputError(str(self.path), "must hold a list of lists of accepted tokens by round")
        return tuple(tuple(row) for row in rows)


class RecordsInput(_Common):
    """Recorded rounds with the shape of their trees: path counts, exact for every static tree of recorded paths.

    What is not recorded is not assumed, so nothing can be extended.

    Attributes:
        path: File of records, as ``--out`` of the commands that run models writes.
        method: Take only rounds of this method; all, where left out.
        rank_order: Of the candidates.
        count_probs: Count recorded acceptance probabilities in place of outcomes: the same mean with less noise.
    """

    kind: Literal["records"]
    path: str = Field(min_length=1)
    method: str | None = None
    rank_order: RankOrder = "free"
    count_probs: bool = False

    def profile(self) -> PathTrie:
        for name in ("extend_to_depth", "rank_shares", "isotonic", "num_requests"):
            if getattr(self, name):
                raise InputError(name, "must be absent where path counts are given", getattr(self, name))
        records = [r for r in load_records(Path(self.path)) if self.method in (None, r.method)]
        order, count = self.rank_order, self.count_probs
        trie = trie_from_records(records, self.source, rank_order=order, count_probs=count)
        trie = replace(trie, task_sd=self.task_sd)
        if self.request_spread is None:
            return trie
        said = self.request_spread
        pmf = emitted_distribution(DraftTree.chain(said.draft_len), trie)
        return replace(trie, spread=RequestSpread.measured(said.between_sd, said.lag1, pmf))


AcceptanceInput = Annotated[
    IidInput
    | SurvivalInput
    | CountersInput
    | HistogramInput
    | SweepInput
    | TableInput
    | RanksInput
    | TopkInput
    | RequestsInput
    | RecordsInput
    | PriorInput,
    Field(discriminator="kind"),
]


def survival_from_sweep(tokens_per_round: Mapping[int, float]) -> list[float]:
    """Survival by position from mean tokens per round at several draft lengths.

    Between two measured lengths the conditional acceptance is taken as constant: with S the survival at the shorter
    one, S (a + a^2 + ... + a^m) is the gain in tokens over the m positions between.

    Raises:
        InputError: where a longer draft emits fewer tokens, or more than full acceptance would.

    >>> [round(s, 3) for s in survival_from_sweep({1: 1.8, 3: 2.44 + 0.512})]
    [0.8, 0.64, 0.512]
    """
    survival: list[float] = []
    last, length = 1.0, 0
    for draft_len, tau in sorted(tokens_per_round.items()):
        if not 1 <= draft_len <= MAX_DEPTH:
            raise InputError("tokens_per_round", f"must be of lengths from 1 to {MAX_DEPTH}", draft_len)
        before, gap = (survival[-1] if survival else 1.0), draft_len - length
        if not last <= tau <= last + before * gap + 1e-9:
            limit = f"must be from {last:g} to {last + before * gap:g} tokens"
            raise InputError(f"tokens_per_round[{draft_len}]", limit, tau)
        alpha = constant_alpha((tau - last) / before, gap) if before else 0.0
        survival += [before * alpha**i for i in range(1, gap + 1)]
        last, length = tau, draft_len
    return survival
