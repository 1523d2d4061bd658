"""Adjustments: what the law says by hand, that it meets published pairs left out, bounds by brute force, refusals."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from specsim.acceptance.adjustments import (
    TEMPERATURE_SHIFT,
    TEMPERATURE_SHIFT_SD,
    at_context,
    at_temperature,
    with_draft_vocabulary,
    with_weights,
)
from specsim.acceptance.priors_table import Fact, facts
from specsim.acceptance.profile import AcceptanceProfile
from specsim.errors import InputError


def published_pairs() -> list[tuple[Fact, Fact]]:
    """Rows that differ in nothing but their temperature, 0 and above."""
    alike: dict[tuple[object, ...], list[Fact]] = defaultdict(list)
    for row in facts():
        if row.alpha is not None and row.temperature is not None:
            key = (row.method, row.target, row.draft, row.dataset, row.shape, row.draft_len, row.nodes, row.depth)
            alike[(*key, row.study)].append(row)
    found = []
    for rows in alike.values():
        cold = [row for row in rows if row.temperature == 0]
        found += [(cold[0], row) for row in rows if cold and row.temperature]
    return found


def logit(alpha: float | None) -> float:
    assert alpha is not None
    return float(np.log(alpha / (1 - alpha)))


def test_the_shift_is_the_mean_of_published_pairs_and_meets_those_left_out() -> None:
    pairs = published_pairs()
    slopes: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for cold, warm in pairs:
        assert warm.temperature is not None
        slopes[cold.study, cold.method, cold.target].append(
            (logit(warm.alpha) - logit(cold.alpha)) / warm.temperature**2
        )
    means = {key: float(np.mean(values)) for key, values in slopes.items()}
    assert len(pairs) == 65 and len(means) == 16
    assert pytest.approx(np.mean(list(means.values())), abs=1e-3) == TEMPERATURE_SHIFT
    assert pytest.approx(np.std(list(means.values()), ddof=1), abs=1e-3) == TEMPERATURE_SHIFT_SD
    errors, before = [], []
    for cold, warm in pairs:
        assert cold.alpha is not None and warm.alpha is not None and warm.temperature is not None
        others = [mean for key, mean in means.items() if key != (cold.study, cold.method, cold.target)]
        moved = 1 / (1 + np.exp(-(logit(cold.alpha) + np.mean(others) * warm.temperature**2)))
        errors.append(abs(moved - warm.alpha))
        before.append(abs(cold.alpha - warm.alpha))
    assert np.mean(errors) < 0.032 and np.mean(before) > 0.068


def test_temperature_there_and_back() -> None:
    profile = AcceptanceProfile.from_ranks([0.7, 0.15], 3)
    warm = at_temperature(profile, 0, 1)
    assert np.log(warm.accept_prob[0, 0] / (1 - warm.accept_prob[0, 0])) == pytest.approx(
        logit(0.7) + TEMPERATURE_SHIFT
    )
    assert warm.accept_prob[0, 1] / (1 - warm.accept_prob[0, 0]) == pytest.approx(0.5)  # its share of the misses
    np.testing.assert_allclose(at_temperature(warm, 1, 0).accept_prob, profile.accept_prob)
    same = at_temperature(profile, 0.5, 0.5)
    np.testing.assert_allclose(same.accept_prob, profile.accept_prob)
    assert same.task_sd == 0 < at_temperature(profile, 0, 0.5).task_sd < warm.task_sd
    for certain in (0.0, 1.0):
        assert at_temperature(AcceptanceProfile.iid(certain, 2), 0, 1).accept_prob[0, 0] == certain


def test_draft_vocabulary_bounds_every_world_of_tokens() -> None:
    """Random laws of a drafter and tokens that it keeps: acceptance of its first choice stays within the ends."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        target, draft = rng.dirichlet(np.full(8, 0.5), size=(2, 30))
        inside = rng.random(8) < 0.7
        inside[0] = True
        before = np.take_along_axis(target, draft.argmax(1)[:, None], 1).mean()
        coverage = target[:, inside].sum(1).mean()
        after = np.take_along_axis(target, np.where(inside, draft, -1).argmax(1)[:, None], 1).mean()
        profile = AcceptanceProfile.iid(float(before), 1)
        low = with_draft_vocabulary(profile, float(coverage), "low").accept_prob[0, 0]
        high = with_draft_vocabulary(profile, float(coverage), "high").accept_prob[0, 0]
        assert low <= after + 1e-12 and low <= high and after <= coverage + 1e-12


def test_what_no_source_supports_is_refused() -> None:
    profile = AcceptanceProfile.iid(0.8, 3)
    assert with_weights(profile, "bf16", "bf16") is profile
    for call, words in (
        (lambda: with_weights(profile, "bf16", "int4"), "no published law"),
        (lambda: at_context(profile, "eagle3", 2000, 8000), "8192"),
        (lambda: at_context(profile, "sparse_self", 4000, 200_000), "100000"),
        (lambda: at_temperature(profile, 0, 1.5), "from 0 to 1"),
        (lambda: with_draft_vocabulary(profile, 0.0, "low"), "coverage"),
    ):
        with pytest.raises(InputError, match=words):
            call()
