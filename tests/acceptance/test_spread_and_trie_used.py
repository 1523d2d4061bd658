"""The simulator, the estimate and their scenarios with requests that differ, and with path counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from toy_deployment import ToyCost, deployment, table

from specsim.acceptance import (
    PathTrie,
    RequestSpread,
    Sample,
    emitted_distribution,
    fit_spread,
    path_probs,
    tokens_per_round,
)
from specsim.calibrate.acceptance import spread_from_records
from specsim.estimate import predict
from specsim.sim.closed_loop import simulate
from specsim.tree import DraftTree

CHAIN = DraftTree.chain(4)
ROWS = ((0.7,), (0.6,), (0.7,), (0.5,))
SEARCH = {"max_draft_len": 4, "max_depth": 4}


def toy(**acceptance: Any) -> Any:
    return deployment(ToyCost(host_s={"step": 0.5}), acceptance=table(*ROWS, **acceptance), search=SEARCH)


def test_simulated_requests_differ_as_measured() -> None:
    """300 requests of 300 tokens: spread and memory as said, and the mean over all rounds that of the table."""
    spread = {"between_sd": 0.5, "lag1": 0.2, "draft_len": 4}
    simulated = simulate(toy(request_spread=spread), CHAIN, 300, 300, np.random.default_rng(0), concurrency=30)
    found = spread_from_records(simulated, np.random.default_rng(1))
    assert found.between_sd.lo <= 0.5 <= found.between_sd.hi
    assert found.lag1.lo <= 0.2 <= found.lag1.hi
    assert found.between_sd.value == pytest.approx(0.5, abs=0.06)
    tau = tokens_per_round(CHAIN, toy().acceptance)
    assert found.tokens_per_round.value == pytest.approx(tau, rel=0.04)
    alike = fit_spread_of(simulate(toy(), CHAIN, 300, 300, np.random.default_rng(0), concurrency=30))
    assert alike.between_sd.value < 0.15
    assert abs(alike.lag1.value) < 0.03


def fit_spread_of(records: Any) -> Any:
    by_request: dict[int, list[int]] = {}
    for record in records:
        by_request.setdefault(record.request, []).append(record.num_emitted)
    return fit_spread(list(by_request.values()), np.random.default_rng(0))


def test_an_estimate_for_few_requests_is_less_sure() -> None:
    spread = toy(request_spread={"between_sd": 0.5, "lag1": 0.2, "draft_len": 4})

    def width(of: Any, sample: Sample | None) -> float:
        found = predict(of, CHAIN, sample=sample)
        return found.speedup_high / found.speedup_low

    assert width(spread, None) == pytest.approx(1)  # the table is exact, and the costs are
    wide = width(spread, Sample(10, 100))
    assert wide > width(spread, Sample(100, 100)) > 1
    assert wide > 1.5 * (width(toy(), Sample(10, 100)) - 1) + 1
    # Ten requests: the standard deviation of their mean, relative, is that of the logarithm.
    pmf, tau = emitted_distribution(CHAIN, spread.acceptance), tokens_per_round(CHAIN, spread.acceptance)
    sd = np.sqrt(RequestSpread.measured(0.5, 0.2, pmf).mean_variance(pmf, 100) / 10) / tau
    assert np.log(wide) == pytest.approx(2 * 1.645 * sd, rel=0.08)


def test_path_counts_answer_in_place_of_a_table() -> None:
    """The same rounds as table and as trie of the whole tree: the same estimate, the same simulation."""
    tree = DraftTree.from_widths((2, 2, 1, 1))
    by_table = deployment(ToyCost(), acceptance=table((0.6, 0.2), (0.5, 0.2), (0.7, 0.0), (0.5, 0.0)), search=SEARCH)
    trie = PathTrie.from_path_probs(tree, path_probs(tree, by_table.acceptance), 1e9)
    by_path = replace(by_table, acceptance=trie)
    for each in (CHAIN, tree, DraftTree((-1, 0, 0, 1))):
        assert predict(by_path, each).tokens_per_round == pytest.approx(predict(by_table, each).tokens_per_round)
        first, second = (simulate(d, each, 4, 30, np.random.default_rng(0)) for d in (by_path, by_table))
        assert [r.accepted_ranks for r in first] == [r.accepted_ranks for r in second]
        assert first[0].accept_prob == pytest.approx(second[0].accept_prob)
