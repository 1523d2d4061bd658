"""Ratios of two runs of the same requests: by hand, and tighter than those of runs apart."""

from __future__ import annotations

import numpy as np
import pytest
from serving_logs import request_log

from specsim.errors import InputError
from specsim.metrics.paired import ratios
from specsim.metrics.serving import blocks_of


def test_a_ratio_of_shared_luck_has_no_error() -> None:
    rng = np.random.default_rng(0)
    slow = rng.exponential(1.0, 400)
    pair = (request_log(np.arange(400.0), ttft_s=slow / 2), request_log(np.arange(400.0), ttft_s=slow))
    got = ratios([pair], "ttft_s")
    assert (got.mean.value, got.mean.low, got.mean.high) == pytest.approx((0.5, 0.5, 0.5))
    assert got.percentiles[99.0].value == pytest.approx(0.5)


def test_only_requests_that_both_finished_count() -> None:
    first = request_log([0.0, 1.0, 2.0], ttft_s=[1.0, 2.0, 9.0])
    second = request_log([0.0, 1.0, 2.0], ttft_s=[4.0, 4.0, 1.0])
    second.first_token_s[2] = np.nan
    assert ratios([(first, second)], "ttft_s").mean.value == pytest.approx(3 / 8)
    assert ratios([(first, second)], "ttft_s", warmup_s=0.5).mean.value == pytest.approx(0.5)
    with pytest.raises(InputError, match="both runs finished"):
        ratios([(first, second)], "ttft_s", warmup_s=1.5)


def test_blocks_are_runs_once_there_are_enough_of_them() -> None:
    assert np.bincount(blocks_of([40, 60])).tolist() == [4] * 10 + [6] * 10
    assert np.bincount(blocks_of([4, 6, 5, 5])).tolist() == [4, 6, 5, 5]
    assert blocks_of([0, 3]).tolist() == [0, 1, 2]
