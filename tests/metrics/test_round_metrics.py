"""Metrics of records, by hand."""

from __future__ import annotations

import pytest

from specsim import metrics
from specsim.errors import InputError
from specsim.records import RoundRecord


def record(num_accepted: int, time_s: float) -> RoundRecord:
    return RoundRecord(
        request=0, method="chain 4", context_tokens=10, num_drafted=4, accepted_ranks=(0,) * num_accepted,
        num_emitted=num_accepted + 1, draft_s=time_s / 4, verify_s=time_s / 2, host_s=time_s / 4, clock="wall",
    )  # fmt: skip


ROUNDS = [record(4, 2.0), record(0, 1.0), record(0, 1.0)]


def test_rates_are_ratios_of_sums_by_hand() -> None:
    # 5 + 1 + 1 tokens in 4 seconds; the mean of the rounds' own rates, 1.5, would be wrong.
    assert metrics.tokens_per_round(ROUNDS) == pytest.approx(7 / 3)
    assert metrics.tokens_per_s(ROUNDS) == pytest.approx(7 / 4)
    assert metrics.tokens_per_s(ROUNDS, concurrency=6) == pytest.approx(6 * 7 / 4)
    assert metrics.time_per_token_s(ROUNDS) == pytest.approx(4 / 7)
    assert metrics.accepted_counts(ROUNDS).tolist() == [2, 0, 0, 0, 1]


def test_no_records_have_no_metrics() -> None:
    for metric in (metrics.tokens_per_round, metrics.tokens_per_s, metrics.time_per_token_s, metrics.accepted_counts):
        with pytest.raises(InputError, match=r"^records: must hold at least one round, got 0$"):
            metric([])
    with pytest.raises(InputError, match=r"^concurrency: must be >= 1, got 0$"):
        metrics.tokens_per_s(ROUNDS, 0)
