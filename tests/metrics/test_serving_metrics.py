"""Latencies by hand, intervals by how often they hold, and a timeline that other programs can read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from serving_logs import request_log, step_log

from specsim.errors import InputError
from specsim.metrics.serving import Target, kv_occupancy, latency, summary
from specsim.metrics.timeline import save_timeline


def test_latencies_by_hand() -> None:
    log = request_log([0.0, 2.0], ttft_s=[0.5, 1.5], admitted_s=np.array([0.25, 3.0]))
    assert latency(log, "ttft_s").tolist() == [0.5, 1.5]
    assert latency(log, "queueing_s").tolist() == [0.25, 1.0]
    assert latency(log, "tpot_s").tolist() == pytest.approx([0.1, 0.1])  # 1 s for the 10 tokens after the first
    assert latency(log, "itl_s").tolist() == pytest.approx([0.2, 0.2])  # in 5 pieces
    assert latency(log, "e2e_s").tolist() == [1.5, 2.5]
    assert np.isnan(latency(request_log([0.0], output_tokens=1), "tpot_s")).all()


def test_a_summary_by_hand() -> None:
    """Ten requests, one a second; the two of the warm-up and the one refused are left out."""
    log = request_log(np.arange(10.0), ttft_s=np.where(np.arange(10) == 9, 5.0, 0.5))
    log.refused[5], log.finished_s[5], log.first_token_s[5] = 1, np.nan, np.nan
    got = summary(log, warmup_s=2, target=Target(ttft_s=1.0, tpot_s=0.2), num_gpus=2, usd_per_s=0.001, power_w=700)
    assert (got.num_requests, got.num_refused, got.num_unfinished, got.num_preempted) == (7, 1, 0, 0)
    # From 2 s to 9 s: 2, 3, 4, 6 and 7 decode for a second inside, 1 and 8 for half a second; 9 is late.
    assert got.window_s == 7 and got.requests_per_s == pytest.approx(6 / 7)  # 1 ends inside, 8 does not
    assert got.tokens_per_s.value == pytest.approx(66 / 7)
    assert got.tokens_per_s_per_gpu == pytest.approx(33 / 7)
    assert got.goodput_per_s.value == pytest.approx(6 / 7) and got.attained.value == pytest.approx(6 / 7)
    assert got.mean["ttft_s"].value == pytest.approx((6 * 0.5 + 5) / 7)
    assert got.percentiles["ttft_s"][50.0].value == 0.5
    assert got.tokens_per_round == 2 and got.accepted_frac == pytest.approx(1 / 3)
    assert got.usd_per_million_tokens == pytest.approx(1000 * 7 / 66)
    assert got.joules_per_token == pytest.approx(700 * 7 / 66)
    # All at once: until the last token. With arrivals for longer than two requests take, the arrivals are the window.
    burst = summary(request_log(np.zeros(4), ttft_s=[0.5, 1, 2, 4]))
    assert burst.window_s == 5 and burst.requests_per_s == 0.8 and burst.tokens_per_s.value == pytest.approx(44 / 5)
    assert summary(request_log(np.arange(100.0)), warmup_s=10, cooldown_s=9).window_s == 80


def test_intervals_hold_as_often_as_they_say() -> None:
    """First-token times that wander (lag-1 correlation .8): intervals of mean and median from blocks of one run."""
    rng, held = np.random.default_rng(0), []
    for _ in range(150):
        noise = rng.standard_normal(1200)
        walk = np.empty(1200)
        walk[0] = noise[0] / 0.6
        for i in range(1, 1200):
            walk[i] = 0.8 * walk[i - 1] + noise[i]
        got = summary(request_log(np.arange(1200.0), ttft_s=np.exp(0.3 * walk)))
        truth = {"mean": float(np.exp(0.5 * 0.09 / 0.36)), "median": 1.0}
        mean, median = got.mean["ttft_s"], got.percentiles["ttft_s"][50.0]
        held.append((mean.low <= truth["mean"] <= mean.high, median.low <= truth["median"] <= median.high))
    assert (np.mean(held, axis=0) > 0.83).all() and (np.mean(held, axis=0) < 0.97).all()


def test_replications_and_too_little_data() -> None:
    runs = [request_log(np.arange(50.0), ttft_s=0.5 + 0.1 * i) for i in range(8)]
    got = summary(runs).mean["ttft_s"]
    # Independent means 0.5, ..., 1.2: the jackknife of equal runs is the standard error, times Student's t (7) .95.
    error = np.std([0.5 + 0.1 * i for i in range(8)], ddof=1) / np.sqrt(8)
    assert got.value == pytest.approx(0.85) and got.high - got.value == pytest.approx(1.8946 * error, rel=1e-3)
    assert np.isnan(summary(request_log([0.0, 1.0, 2.0])).mean["ttft_s"].low)
    with pytest.raises(InputError, match="warm-up"):
        summary(request_log([0.0, 1.0]), warmup_s=9)
    with pytest.raises(InputError, match="ttft_s"):
        Target(ttft_s=0)


def test_kv_occupancy_is_weighted_by_time() -> None:
    assert kv_occupancy(step_log(4), 60) == (0.25, 0.5)
    with pytest.raises(InputError):
        kv_occupancy(step_log(0), 60)


def test_the_timeline_is_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    save_timeline(request_log([0.0, 0.5]), step_log(), path)
    events = json.loads(path.read_text())["traceEvents"]
    steps = [e for e in events if e["ph"] == "X" and e["name"] != "draft"]
    assert [(e["ts"], e["dur"]) for e in steps] == [(i * 5e5, 5e5) for i in range(4)]
    assert steps[0]["name"] == "prefill + decode" and steps[1]["name"] == "decode"
    begun = [(e["id"], e["name"]) for e in events if e["ph"] == "b"]
    assert sorted(begun) == sorted((e["id"], e["name"]) for e in events if e["ph"] == "e") and len(begun) == 8
    assert {e["ph"] for e in events} == {"M", "X", "C", "b", "e"}
    with pytest.raises(InputError, match="can not be written"):
        save_timeline(request_log([0.0]), step_log(), tmp_path / "no" / "trace.json")
