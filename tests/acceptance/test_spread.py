"""Requests that differ, rounds that remember: a round keeps its law, the spread is what was said, and fits find it."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from specsim.acceptance import (
    AcceptanceProfile,
    RequestSpread,
    RoundSampler,
    Sample,
    emitted_distribution,
    fit_spread,
    sample_rounds,
    spread_from_totals,
    stop_probs,
    tokens_interval,
    tokens_per_round,
)
from specsim.acceptance.spread import copula_covariance
from specsim.errors import InputError
from specsim.tree import DraftTree

CHAIN = DraftTree.chain(5)
PROFILE = AcceptanceProfile.from_survival([0.85, 0.7, 0.5, 0.3, 0.2])
PMF = emitted_distribution(CHAIN, PROFILE)
SPREAD = RequestSpread.measured(0.6, 0.15, PMF)
TRACE = "published/traces/specbench_yukiki_vicuna7b_eagle.jsonl"


def profile_with(spread: RequestSpread) -> AcceptanceProfile:
    return AcceptanceProfile(PROFILE.accept_prob, spread=spread)


def played(spread: RequestSpread, num_requests: int, num_rounds: int, seed: int = 0) -> np.ndarray:
    """Tokens ``[request, round]``."""
    rng = np.random.default_rng(seed)
    sampler = RoundSampler(CHAIN, profile_with(spread))
    states = sampler.requests(rng, num_requests, equal="rounds")
    return np.stack([sampler.tokens[sampler.draw(rng, states)] for _ in range(num_rounds)], axis=1)


def test_covariance_of_the_copula_by_the_bivariate_normal() -> None:
    """Cov = sum over thresholds of Phi2 - Phi Phi, evaluated by scipy."""
    law = np.array([0.0, 0.3, 0.25, 0.45])
    cuts = stats.norm.ppf(np.cumsum(law)[1:-1])
    for rho in (-0.6, 0.0, 0.2, 0.7, 0.95):
        both = stats.multivariate_normal([0, 0], [[1, rho], [rho, 1]])
        pairs = [both.cdf([a, b]) - stats.norm.cdf(a) * stats.norm.cdf(b) for a, b in itertools.product(cuts, cuts)]
        assert copula_covariance(law, rho) == pytest.approx(sum(pairs), abs=2e-5)
    tokens = np.arange(4)
    assert copula_covariance(law, 1.0) == pytest.approx(law @ tokens**2 - (law @ tokens) ** 2)


@given(st.floats(0.0, 0.9), st.floats(-0.2, 0.6), st.lists(st.floats(0.05, 1), min_size=2, max_size=8))
@settings(max_examples=40, deadline=None)
def test_what_is_measured_is_what_is_said(part: float, lag1: float, weights: list[float]) -> None:
    pmf = np.array([0.0, *weights]) / sum(weights)
    tokens = np.arange(len(pmf))
    sd = part * float(np.sqrt(pmf @ tokens**2 - (pmf @ tokens) ** 2))
    try:
        spread = RequestSpread.measured(sd, lag1, pmf)
    except InputError as error:
        assert error.field == "lag1"  # few laws can follow a negative correlation far
        assert lag1 < 0
        return
    assert spread.between_sd(pmf) == pytest.approx(sd, abs=1e-3)
    assert spread.lag1(pmf) == pytest.approx(lag1, abs=2e-3)
    if spread.step_corr >= 0:
        assert spread.mean_variance(pmf, 1e9) == pytest.approx(sd**2, abs=1e-3)
    assert spread.mean_variance(pmf, 1) == pytest.approx(pmf @ tokens**2 - (pmf @ tokens) ** 2)


def test_every_round_keeps_the_law_exactly() -> None:
    """Lone requests: their first and their third round, each node within 5 standard deviations, on a tree."""
    tree = DraftTree.from_paths([(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0)])
    profile = AcceptanceProfile([[0.5, 0.2], [0.6, 0.1], [0.7, 0.0]], spread=RequestSpread(0.4, 0.5))
    rng = np.random.default_rng(1)
    sampler, size = RoundSampler(tree, profile), 200_000
    states = sampler.requests(rng, size, equal="rounds")
    nodes = [sampler.draw(rng, states) for _ in range(3)]
    expected = stop_probs(tree, profile)
    for each in (nodes[0], nodes[2]):
        found = np.bincount(each, minlength=tree.num_nodes) / size
        assert (np.abs(found - expected) <= 5 * np.sqrt(expected * (1 - expected) / size) + 1e-12).all()


def test_simulated_requests_have_the_fitted_spread() -> None:
    """Between requests 0.6 tokens, lag-1 0.15: played, fitted and played again, each within its interval."""
    tokens = played(SPREAD, 600, 150)
    found = fit_spread(list(tokens), np.random.default_rng(2))
    assert found.between_sd.lo <= 0.6 <= found.between_sd.hi
    assert found.lag1.lo <= 0.15 <= found.lag1.hi
    assert found.between_sd.value == pytest.approx(0.6, rel=0.06)
    assert found.lag1.value == pytest.approx(0.15, abs=0.02)
    assert found.pooled_lag1.value == pytest.approx(SPREAD.pooled_lag1(PMF), abs=0.03)
    assert found.pmf == pytest.approx(PMF, abs=0.02)
    # The variance of the requests' means, memory and all, is what the two numbers say.
    assert tokens.mean(axis=1).var(ddof=1) == pytest.approx(SPREAD.mean_variance(PMF, 150), rel=0.2)


def test_totals_alone_find_the_same_spread() -> None:
    tokens = played(SPREAD, 600, 60, seed=3)
    found = spread_from_totals(np.full(600, 60), tokens.sum(axis=1), PMF, 0.15, np.random.default_rng(0))
    assert found.between_sd.value == pytest.approx(0.6, rel=0.07)
    assert found.between_sd.lo <= 0.6 <= found.between_sd.hi


def test_requests_of_equal_tokens_give_the_mean_over_all_their_rounds() -> None:
    """Tokens over rounds of requests that stop at 400 tokens; drawn for equal rounds it would read 3 % low."""
    rng = np.random.default_rng(4)
    sampler = RoundSampler(CHAIN, profile_with(SPREAD))
    ratios = {}
    for equal in ("tokens", "rounds"):
        states = sampler.requests(rng, 4000, equal=equal)  # type: ignore[arg-type]
        emitted, rounds = np.zeros(4000, np.int64), 0
        going = np.arange(4000)
        while going.size:
            emitted[going] += sampler.tokens[sampler.draw(rng, states, going)]
            rounds += len(going)
            going = going[emitted[going] < 400]
        ratios[equal] = emitted.sum() / rounds
    tau = tokens_per_round(CHAIN, PROFILE)
    assert ratios["tokens"] == pytest.approx(tau, rel=0.006)
    assert ratios["rounds"] < 0.98 * tau


def test_states_follow_their_requests() -> None:
    """A request keeps its nature, whichever rows play and leave; sample_rounds is the same thing for one step."""
    profile = profile_with(RequestSpread(0.98, 0.0))
    sampler, rng = RoundSampler(CHAIN, profile), np.random.default_rng(5)
    states = sampler.requests(rng, 3, equal="rounds")
    states.effect[:] = [-3, 0, 3]
    assert sampler.tokens[sampler.draw(rng, states, np.array([2, 0]))].tolist() == [6, 1]
    less = states.kept(np.array([False, True, True])).joined(sampler.requests(rng, 1, equal="tokens"))
    assert len(less) == 3
    assert less.effect[:2].tolist() == [0, 3]
    assert sample_rounds(CHAIN, profile, rng, less).shape == (3,)


def test_interval_of_a_mean_over_few_requests() -> None:
    """Means over 6 requests of 40 rounds fall into their 90 % interval 90 times in 100; independent rounds do not."""
    profile, sample = profile_with(SPREAD), Sample(6, 40)
    lo, _, hi = tokens_interval(CHAIN, profile, 0.9, np.random.default_rng(0), sample)
    means = played(SPREAD, 6 * 2000, 40, seed=6).reshape(2000, -1).mean(axis=1)
    assert np.mean((lo <= means) & (means <= hi)) == pytest.approx(0.9, abs=0.025)
    narrow = tokens_interval(CHAIN, PROFILE, 0.9, np.random.default_rng(0), sample)
    assert np.mean((narrow.lo <= means) & (means <= narrow.hi)) < 0.6


def test_counts_of_few_requests_are_worth_less() -> None:
    """Profiles from 30 requests of 40 rounds: the true mean is inside 85 to 95 times in 100 (binomial error 1.5)."""
    rng = np.random.default_rng(7)
    tokens = played(SPREAD, 30 * 400, 40, seed=8).reshape(400, -1)
    tau, inside, naive = tokens_per_round(CHAIN, PROFILE), 0, 0
    for rounds in tokens:
        at_least = np.array([(rounds > d).sum() for d in range(7)])
        counts = at_least[1:6, None], at_least[:5]
        found = AcceptanceProfile.from_counts(*counts)
        lo, _, hi = tokens_interval(CHAIN, found, 0.9, rng)
        naive += lo <= tau <= hi
        known = AcceptanceProfile(found.accept_prob, found.num_trials, spread=SPREAD, num_requests=30)
        lo, _, hi = tokens_interval(CHAIN, known, 0.9, rng)
        inside += lo <= tau <= hi
    assert 0.85 <= inside / 400 <= 0.95
    assert naive / 400 < 0.7


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="request_corr: must be >= 0 and < 1, got 1"):
        RequestSpread(1.0, 0.0)
    with pytest.raises(InputError, match=r"between_sd: must be >= 0 and < 0\.5, that of single rounds, got 0\.6"):
        RequestSpread.measured(0.6, 0.0, [0, 0.5, 0.5])
    with pytest.raises(InputError, match="requests: must hold at least two of more than 8 rounds"):
        fit_spread([[1, 2], [1] * 20], np.random.default_rng(0))
    with pytest.raises(InputError, match=r"requests\[1\]: must be whole numbers of tokens, 1 or more a round"):
        fit_spread([[1, 2], [0, 2]], np.random.default_rng(0))


@pytest.mark.skipif("SPECSIM_DATA" not in os.environ, reason="SPECSIM_DATA does not name the measurements")
def test_spec_bench_requests() -> None:
    """EAGLE on Spec-Bench, 480 questions: pooled lag-1 0.24 as published, most of it the questions' own means."""
    lines = (Path(os.environ["SPECSIM_DATA"]) / TRACE).read_text().splitlines()
    found = fit_spread([json.loads(line)["accept_lengths"] for line in lines], np.random.default_rng(0))
    assert found.pooled_lag1.value == pytest.approx(0.24, abs=0.01)
    assert found.between_sd.value == pytest.approx(0.56, abs=0.02)  # of the means as they are, 0.60
    assert found.lag1.value == pytest.approx(0.125, abs=0.01)
