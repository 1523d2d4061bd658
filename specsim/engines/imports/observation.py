"""What one stretch of an engine's life showed: counts first, times where the engine says them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Annotated, Final

import numpy as np
from pydantic import Field, model_validator

from specsim.acceptance.profile import AcceptanceProfile
from specsim.documents import Document
from specsim.errors import InputError

Count = Annotated[float, Field(ge=0, le=1e18)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
Positive = Annotated[float, Field(gt=0, le=1e15)]
Rounds = tuple[tuple[Annotated[int, Field(ge=0, le=100_000)], ...], ...]
ROUNDED: Final = 0.02
"""Engines print means with two or three digits: identities between printed numbers hold to this share."""


class Observation(Document):
    """Counts and means over one stretch: between two scrapes, one log line, one benchmark run, one request.

    Args:
        source: Engine and format.
        label: What tells it from the others of the file: a batch size, a line.
        num_drafts: Rounds in which something was drafted.
        num_drafted: Draft tokens proposed.
        num_accepted: Of these accepted; the bonus tokens are not among them.
        accepted_by_position: Rounds whose first, first two, ... draft tokens were all accepted: unconditional.
        drafted_by_position: Rounds that proposed at least one, two, ... tokens.
        accepted_per_round, drafted_per_round: Of every request its rounds in order: the only kind of output that shows
            how requests differ and how rounds follow each other.
        draft_len: Tokens proposed per round, where it is the same for all.
        tree: The rounds drafted trees: tokens proposed are nodes, and only the accepted length compares with chains.
        num_generated: Tokens that came out, of all requests.
        num_requests: Requests that this is of.
        num_running, num_waiting: Requests in a step and behind it, on average.
        step_s: One engine step; draft_s: its part that drafts.
        tokens_per_s: Output of the whole server.
        ttft_s, tpot_s: Means of the requests.
        kv_used_frac: Of the KV memory.
        cuda_graph: Whether steps ran captured.
        context_tokens: Mean context of a sequence.
        notes: What the numbers do not say, for people.

    Raises:
        ValueError: (InputError through ``parse``) where counts contradict each other.
    """

    source: str
    label: str = ""
    num_drafts: Count | None = None
    num_drafted: Count | None = None
    num_accepted: Count | None = None
    accepted_by_position: tuple[Count, ...] | None = None
    drafted_by_position: tuple[Count, ...] | None = None
    accepted_per_round: Rounds | None = None
    drafted_per_round: Rounds | None = None
    draft_len: Annotated[int, Field(ge=0, le=100_000)] | None = None
    tree: bool = False
    num_generated: Count | None = None
    num_requests: Count | None = None
    num_running: Count | None = None
    num_waiting: Count | None = None
    step_s: Seconds | None = None
    draft_s: Seconds | None = None
    tokens_per_s: Annotated[float, Field(ge=0, le=1e12)] | None = None
    ttft_s: Seconds | None = None
    tpot_s: Seconds | None = None
    kv_used_frac: Annotated[float, Field(ge=0, le=1.5)] | None = None
    cuda_graph: bool | None = None
    context_tokens: Count | None = None
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _counts_agree(self) -> Observation:
        drafts, drafted, accepted = self.num_drafts, self.num_drafted, self.num_accepted
        if None not in (drafted, accepted) and accepted > drafted * (1 + ROUNDED):  # type: ignore[operator]
            raise ValueError(f"num_accepted must be at most the {drafted:g} drafted, got {accepted:g}")
        positions = self.accepted_by_position
        if positions is None:
            return self
        if any(deeper > shallower * (1 + 1e-9) for shallower, deeper in pairwise(positions)):
            raise ValueError(f"accepted_by_position must not rise with the position, got {_few(positions)}")
        if drafts is not None and positions and positions[0] > drafts * (1 + 1e-9):
            raise ValueError(f"accepted_by_position[0] must be at most the {drafts:g} drafts, got {positions[0]:g}")
        if accepted is not None and abs(sum(positions) - accepted) > ROUNDED * max(accepted, 1):
            raise ValueError(f"accepted_by_position must sum to num_accepted {accepted:g}, got {sum(positions):g}")
        return self

    @model_validator(mode="after")
    def _rounds_agree(self) -> Observation:
        accepted, drafted = self.accepted_per_round, self.drafted_per_round
        if drafted is None:
            return self
        if accepted is None or [len(row) for row in accepted] != [len(row) for row in drafted]:
            raise ValueError("drafted_per_round must be one per round of accepted_per_round")
        if any(a > d for have, may in zip(accepted, drafted, strict=True) for a, d in zip(have, may, strict=True)):
            raise ValueError("accepted_per_round must be at most drafted_per_round")
        return self

    @property
    def tokens_per_round(self) -> float | None:
        """Mean tokens emitted by rounds that drafted, bonus token included.

        >>> Observation(source="toy", num_drafts=1000, num_accepted=1650).tokens_per_round
        2.65
        """
        if not self.num_drafts or self.num_accepted is None:
            return None
        return 1 + self.num_accepted / self.num_drafts

    @property
    def coverage(self) -> float | None:
        """Share of decoding steps that drafted: every step emits 1 + its accepted, so steps = generated - accepted."""
        if self.num_generated is None or self.num_accepted is None or self.num_drafts is None:
            return None
        steps = self.num_generated - self.num_accepted
        return min(1.0, self.num_drafts / steps) if steps > 0 else None


def acceptance_of(observations: Sequence[Observation]) -> AcceptanceProfile:
    """Acceptance by position, from the best that they hold: rounds, then counts by position, then a mean length.

    Rounds tell the trials of each position exactly, also where draft lengths vary. Counts by position without the
    drafted ones read low where lengths vary. A mean alone gives one alpha for all positions.

    Raises:
        InputError: where none of them says anything of acceptance.

    >>> seen = Observation(source="toy", accepted_per_round=((0, 3, 1, 2, 3, 0),), drafted_per_round=((3,) * 6,))
    >>> profile = acceptance_of([seen])
    >>> profile.accept_prob[:, 0].round(3).tolist(), profile.num_trials.tolist()
    ([0.667, 0.75, 0.667], [6.0, 4.0, 3.0])
    """
    for of in (_from_rounds, _from_positions, _from_means):
        found = [one for o in observations if (one := of(o)) is not None]
        if found:
            accepted, trials = _summed(found)
            keep = trials > 0
            source = f"{', '.join(sorted({o.source for o in observations}))} ({_HOW[of.__name__]})"
            return AcceptanceProfile.from_counts(
                np.minimum(accepted, trials)[keep][:, None], trials[keep], source=source
            )
    raise InputError("observations", "must tell how many draft tokens were accepted; none of them does")


_HOW: Final = {
    "_from_rounds": "every round",
    "_from_positions": "counts by position",
    "_from_means": "one rate for all positions, from mean lengths",
}
Pair = tuple[np.ndarray, np.ndarray]


def _summed(pairs: Iterable[Pair]) -> Pair:
    """Accepted and trials by position, of all, as long as the longest."""
    listed = list(pairs)
    depth = max(len(trials) for _, trials in listed)
    total = np.zeros((2, depth))
    for accepted, trials in listed:
        total[0, : len(accepted)] += accepted
        total[1, : len(trials)] += trials
    return total[0], total[1]


def _from_rounds(o: Observation) -> Pair | None:
    if o.accepted_per_round is None or o.tree:
        return None
    accepted = np.array([a for row in o.accepted_per_round for a in row])
    if not accepted.size:
        return None
    if o.drafted_per_round is not None:
        drafted = np.array([d for row in o.drafted_per_round for d in row])
    elif o.draft_len is not None:
        drafted = np.full(accepted.size, o.draft_len)
    else:
        return None
    positions = np.arange(1, int(drafted.max(initial=0)) + 1)[:, None]
    tried = (drafted >= positions) & (accepted >= positions - 1)
    return (tried & (accepted >= positions)).sum(1).astype(float), tried.sum(1).astype(float)


def _from_positions(o: Observation) -> Pair | None:
    if o.accepted_by_position is None or not o.num_drafts:
        return None
    accepted = np.array(o.accepted_by_position, float)
    trials = np.concatenate(([o.num_drafts], accepted[:-1]))
    if o.drafted_by_position is not None and len(o.drafted_by_position) >= len(accepted):
        # Of the drafts that were long enough as many had their first tokens accepted as of all: assumed.
        drafted = np.array(o.drafted_by_position[: len(accepted)], float)
        longer = np.divide(drafted[1:], drafted[:-1], out=np.ones(len(drafted) - 1), where=drafted[:-1] > 0)
        trials[1:] = np.maximum(trials[1:] * np.minimum(longer, 1), accepted[1:])
    return accepted, trials


def _from_means(o: Observation) -> Pair | None:
    tau = o.tokens_per_round
    if tau is None or not o.draft_len or o.tree:
        return None
    tau = min(tau, o.draft_len + 1.0)  # a mean that was rounded up
    profile = AcceptanceProfile.from_tokens_per_round(tau, o.draft_len, o.num_drafts)
    survival = np.cumprod(profile.accept_prob[:, 0])
    trials = float(o.num_drafts or 0) * np.concatenate(([1.0], survival[:-1]))
    return trials * profile.accept_prob[:, 0], trials


_SUMS: Final = ("num_drafts", "num_drafted", "num_accepted", "num_generated", "num_requests")
_MEANS: Final = (
    "num_running", "num_waiting", "step_s", "draft_s", "tokens_per_s", "ttft_s", "tpot_s", "kv_used_frac",
    "context_tokens",
)  # fmt: skip


def merged(observations: Sequence[Observation], source: str = "") -> Observation:
    """Several stretches as one: counts are summed, rounds gathered, means weighted by rounds (or alike without).

    Raises:
        InputError: for none at all.
    """
    if not observations:
        raise InputError("observations", "must be at least one")
    if len(observations) == 1:
        return observations[0]
    weights = np.array([o.num_drafts or 0 for o in observations], float)
    weights = weights if weights.any() else np.ones(len(observations))
    data: dict[str, object] = {"source": source or observations[0].source}
    for name in _SUMS:
        counts = [getattr(o, name) for o in observations]
        data[name] = None if any(one is None for one in counts) else float(sum(counts))
    for name in _MEANS:
        values = [(getattr(o, name), w) for o, w in zip(observations, weights, strict=True)]
        known = [(value, weight) for value, weight in values if value is not None]
        total = sum(weight for _, weight in known)
        data[name] = sum(value * weight for value, weight in known) / total if total > 0 else None
    for name in ("accepted_by_position", "drafted_by_position"):
        rows = [getattr(o, name) for o in observations]
        if all(row is not None for row in rows):
            depth = max(len(row) for row in rows)
            data[name] = tuple(float(sum(row[i] for row in rows if i < len(row))) for i in range(depth))
    for name in ("accepted_per_round", "drafted_per_round"):
        rows = [getattr(o, name) for o in observations]
        data[name] = tuple(r for row in rows for r in row) if all(row is not None for row in rows) else None
    lengths = {o.draft_len for o in observations}
    data["draft_len"] = lengths.pop() if len(lengths) == 1 else None
    data["tree"] = any(o.tree for o in observations)
    data["notes"] = tuple(dict.fromkeys(note for o in observations for note in o.notes))
    return Observation.model_validate(data)


def _few(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values[:8]) + (", ..." if len(values) > 8 else "")
