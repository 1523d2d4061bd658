"""Logs made up for tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from specsim.workload.log import RequestLog, StepLog


def request_log(
    arrival_s: Any, ttft_s: Any = 0.5, decoding_s: Any = 1.0, output_tokens: Any = 11, **others: Any
) -> RequestLog:
    """Requests that were admitted on arrival and decoded in 5 rounds, unless said otherwise."""
    arrival = np.asarray(arrival_s, float)
    num = len(arrival)
    first = arrival + np.broadcast_to(ttft_s, num)
    columns = {
        "request": np.arange(num), "arrival_s": arrival, "admitted_s": arrival, "first_token_s": first,
        "finished_s": first + np.broadcast_to(decoding_s, num), "prompt_tokens": np.full(num, 100),
        "output_tokens": np.full(num, output_tokens), "num_rounds": np.full(num, 5), "num_drafted": np.full(num, 15),
        "num_accepted": np.full(num, 5), "num_preempted": np.zeros(num, int), "cached_tokens": np.zeros(num, int),
        "replica": np.zeros(num, int), "refused": np.zeros(num, int), "longest_itl_s": np.full(num, 0.3),
    }  # fmt: skip
    return RequestLog(**{**columns, **others})


def step_log(num: int = 4) -> StepLog:
    """Steps of half a second, one after another."""
    ones = np.ones(num, np.int64)
    return StepLog(
        start_s=np.arange(num) * 0.5, duration_s=np.full(num, 0.5), replica=0 * ones, num_running=2 * ones,
        num_waiting=ones, prefill_tokens=np.where(np.arange(num) == 0, 64, 0), draft_len=3.0 * ones,
        num_emitted=4 * ones, kv_blocks=np.arange(num) * 10, draft_s=np.full(num, 0.1),
    )  # fmt: skip
