"""What engines count, checked against itself and turned into a profile with its counts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from specsim.acceptance.profile import AcceptanceProfile, Array, as_floats
from specsim.errors import InputError


def profile_from_counters(
    accepted_by_position: ArrayLike,
    *,
    num_drafts: float | None = None,
    drafted_by_position: ArrayLike | None = None,
    num_accepted: float | None = None,
    num_drafted: float | None = None,
    source: str = "counters by position",
) -> AcceptanceProfile:
    """From draft tokens accepted at each position, counted over many rounds.

    vLLM, llama.cpp and LMDeploy export ``num_drafts`` and ``num_accepted_tokens_per_pos``; TensorRT-LLM drafted and
    accepted tokens by position, which alone are right where drafts have many lengths.

    Args:
        accepted_by_position: ``[position]``, position 0 the first draft token.
        num_drafts: Rounds with a draft, all of them as long as the positions; or give ``drafted_by_position``.
        drafted_by_position: ``[position]``, draft tokens proposed there.
        num_accepted: All accepted tokens, to check against.
        num_drafted: All proposed tokens, to check against.
        source: Where they come from.

    Raises:
        InputError: where the counters disagree, rise, or mix drafts of several lengths.

    >>> found = profile_from_counters([800, 520, 330], num_drafts=1000, num_accepted=1650, num_drafted=3000)
    >>> found.accept_prob[:, 0].round(3).tolist(), found.num_trials.tolist()
    ([0.8, 0.65, 0.635], [1000.0, 800.0, 520.0])
    """
    accepted = _checked_counts("accepted_by_position", accepted_by_position)
    _check_falling("accepted_by_position", accepted)
    if num_accepted is not None and abs(accepted.sum() - num_accepted) > 0.5:
        raise InputError("accepted_by_position", f"must sum to the {num_accepted:g} accepted tokens", accepted.sum())
    if (num_drafts is None) == (drafted_by_position is None):
        raise InputError("num_drafts", "must be given, or drafted_by_position in its place", num_drafts)
    if drafted_by_position is None:
        assert num_drafts is not None
        drafted = np.full(len(accepted), float(num_drafts))
        if num_drafted is not None and abs(drafted.sum() - num_drafted) > 0.5:
            limit = f"must be the {drafted.sum():g} of drafts of one length; of several, give drafted_by_position"
            raise InputError("num_drafted", limit, num_drafted)
    else:
        drafted = _checked_counts("drafted_by_position", drafted_by_position)
        if drafted.shape != accepted.shape:
            raise InputError("drafted_by_position", f"must be one for each of {len(accepted)} positions", len(drafted))
        _check_falling("drafted_by_position", drafted)
        if num_drafted is not None and abs(drafted.sum() - num_drafted) > 0.5:
            raise InputError("drafted_by_position", f"must sum to the {num_drafted:g} drafted tokens", drafted.sum())
    if (over := np.flatnonzero(accepted > drafted)).size:
        place = int(over[0])
        limit = f"must be at most the {drafted[place]:g} drafted"
        raise InputError(f"accepted_by_position[{place}]", limit, float(accepted[place]))
    if drafted[0] == 0:
        raise InputError("num_drafts", "must be > 0", 0)
    # Of drafts that stop early, those that end at a position are taken as accepted so far as often as the others.
    longer = np.divide(drafted[1:], drafted[:-1], out=np.zeros(len(drafted) - 1), where=drafted[:-1] > 0)
    trials = np.concatenate(([drafted[0]], np.maximum(accepted[:-1] * longer, accepted[1:])))
    return _from_trials(accepted, trials, source)


def profile_from_histogram(
    rounds_by_accepted: ArrayLike | Mapping[int, float],
    *,
    num_rounds: float | None = None,
    num_accepted: float | None = None,
    source: str = "histogram of accepted tokens",
) -> AcceptanceProfile:
    """From how many rounds accepted exactly 0, 1, 2, ... draft tokens (the bonus token not counted).

    vLLM's ``acceptance_histogram``, SGLang's ``spec_correct_drafts_histogram``, AIPerf's sparse one, Medusa's and
    Spec-Bench's lists of accepted lengths once counted (those have the bonus token in: subtract it). Of a tree the
    profile is that of a chain of its depth which does as well.

    Args:
        rounds_by_accepted: ``[accepted]``, or a map.
        num_rounds: All rounds, to check against.
        num_accepted: All accepted tokens, to check against.
        source: Where they come from.

    Raises:
        InputError: where the sums disagree, or only rounds that drafted nothing are counted.

    >>> found = profile_from_histogram([2, 1, 1, 2], num_rounds=6, num_accepted=9)
    >>> found.accept_prob[:, 0].round(3).tolist(), found.num_trials.tolist()
    ([0.667, 0.75, 0.667], [6.0, 4.0, 3.0])
    """
    counts = _checked_counts("rounds_by_accepted", _dense(rounds_by_accepted))
    if len(counts) < 2 or counts.sum() == 0:
        raise InputError("rounds_by_accepted", "must count rounds of 0 and of at least 1 accepted", counts.tolist())
    if num_rounds is not None and abs(counts.sum() - num_rounds) > 0.5:
        raise InputError("rounds_by_accepted", f"must sum to the {num_rounds:g} rounds", float(counts.sum()))
    accepted = float(counts @ np.arange(len(counts)))
    if num_accepted is not None and abs(accepted - num_accepted) > 0.5:
        raise InputError("rounds_by_accepted", f"must hold the {num_accepted:g} accepted tokens", accepted)
    at_least = np.cumsum(counts[::-1])[::-1]
    return _from_trials(at_least[1:], at_least[:-1], source)


def _from_trials(accepted: Array, trials: Array, source: str) -> AcceptanceProfile:
    alpha = np.divide(accepted, trials, out=np.zeros_like(accepted), where=trials > 0)
    # A position never tried is unknown, not zero: one trial's worth of nothing keeps its interval wide.
    return AcceptanceProfile(np.minimum(alpha, 1.0)[:, None], np.maximum(trials, 1.0), source)


def _dense(counts: ArrayLike | Mapping[int, float]) -> ArrayLike:
    if not isinstance(counts, Mapping):
        return counts
    if not counts or min(counts) < 0 or max(counts) > 4096:
        raise InputError("rounds_by_accepted", "must be of 0 to 4096 accepted tokens", list(counts))
    return [counts.get(number, 0.0) for number in range(max(counts) + 1)]


def _checked_counts(field: str, values: ArrayLike) -> Array:
    counts = as_floats(field, values, ndim=1)
    if (wrong := np.flatnonzero(~((counts >= 0) & (counts < np.inf)))).size:
        raise InputError(f"{field}[{int(wrong[0])}]", "must be >= 0 and finite", float(counts[wrong[0]]))
    return counts


def _check_falling(field: str, counts: Array) -> None:
    if (rising := np.flatnonzero(np.diff(counts) > 0)).size:
        place = int(rising[0]) + 1
        raise InputError(f"{field}[{place}]", f"must not rise, at most {counts[place - 1]:g}", float(counts[place]))
