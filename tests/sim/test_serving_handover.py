"""Replicas that read prompts and replicas that decode: by hand, against queueing theory, and against one server.

Statistical bounds are stated as standard errors of batch means (20 batches, the first one left out).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_toys import NONE, PLAIN, batch_means, in_system_s, poisson, run, tables

from specsim.documents import parse
from specsim.errors import InputError
from specsim.model import kv_bytes_per_token
from specsim.sim.config import PrefillPool, ServerConfig
from specsim.sim.serve import serve
from specsim.workload.requests import Requests

AT_ONCE = PrefillPool(replicas=1, link_bytes_per_s=None)
ONE = ServerConfig(max_running=1, token_budget=10**6, kv_blocks=10**9)


def test_two_requests_by_hand() -> None:
    """Prompts take 5 s and 10 s, their caches 2 s and 4 s on a link that adds 1 s; steps take 1 s, of two 1.25 s."""
    bytes_per_s = kv_bytes_per_token(NONE.target) * 5.0
    pool = PrefillPool(replicas=1, link_bytes_per_s=bytes_per_s, latency_s=1.0, config=ONE)
    known = tables([1.0, 1.25], prompt_token_s=0.5)
    asked = Requests(np.array([1.0, 2.0]), np.array([10, 20]), np.array([14, 3]))
    done = run(asked, known, 2, keep_steps=True, prefill=pool)
    log = done.requests
    # Read until 6 and 16; there at 6 + 2 + 1 = 9 and 16 + 4 + 1 = 21, when the first has had 12 steps of its 13.
    assert log.admitted_s.tolist() == [1.0, 6.0]
    assert log.first_token_s.tolist() == [6.0, 16.0]
    assert log.finished_s.tolist() == [22.25, 23.25]
    assert log.longest_itl_s.tolist() == [4.0, 6.25]
    assert log.replica.tolist() == [0, 0]
    assert done.steps is not None
    assert done.steps.replica.tolist() == [1, 1, *[0] * 14]
    assert done.steps.start_s[-3:].tolist() == [20.0, 21.0, 22.25]


def test_a_link_sends_one_cache_after_another_and_blocks_are_held_until_then() -> None:
    """Room for one prompt of 16 tokens at a time, read in 1 s and sent in 3 s: the next is taken in when it is gone."""
    pool = PrefillPool(
        replicas=1,
        link_bytes_per_s=kv_bytes_per_token(NONE.target) * 16 / 3.0,
        config=ONE.model_copy(update={"kv_blocks": 1, "max_running": 4}),
    )
    asked = Requests(np.zeros(3), np.full(3, 16), np.full(3, 2))
    log = run(asked, tables([1.0] * 3, prompt_s=1.0), 3, prefill=pool).requests
    assert log.admitted_s.tolist() == [0.0, 4.0, 8.0]
    assert log.finished_s.tolist() == [5.0, 9.0, 13.0]
    wider = pool.model_copy(update={"config": ONE})
    log = run(asked, tables([1.0] * 3, prompt_s=1.0), 3, prefill=wider).requests
    assert log.first_token_s.tolist() == [1.0, 2.0, 3.0]
    assert log.finished_s.tolist() == [5.0, 8.0, 11.0]


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_first_tokens_are_those_of_a_server_of_prompts_alone(load: float) -> None:
    """M/D/1 in front, whatever is decoded behind it: waiting is load S / (2 (1 - load)).

    Source: Kleinrock 1975, Queueing Systems I, eq. 5.70.
    """
    rng = np.random.default_rng(1)
    prompts, known = np.full(12_000, 1000), tables([0.05], prompt_token_s=1e-3)
    asked = poisson(load, prompts, rng.integers(1, 6, len(prompts)), rng)
    pool = AT_ONCE.model_copy(update={"config": ONE})
    done = run(asked, known, 1, prefill=pool, checks=False)
    alone = run(Requests(asked.arrival_s, prompts, np.ones_like(prompts)), known, 1, checks=False)
    np.testing.assert_array_equal(done.requests.first_token_s, alone.requests.first_token_s)
    mean, error = batch_means(done.requests.first_token_s - asked.arrival_s)
    assert mean == pytest.approx(1 + load / (2 * (1 - load)), abs=4 * error)


def test_nothing_to_decode_is_prefill_alone() -> None:
    rng = np.random.default_rng(2)
    asked = poisson(0.6, rng.integers(500, 1500, 500), 1, rng)
    known = tables([1.0], prompt_token_s=1e-3)
    done, alone = run(asked, known, 1, prefill=AT_ONCE), run(asked, known, 1)
    np.testing.assert_array_equal(done.requests.finished_s, alone.requests.finished_s)
    assert done.num_steps == alone.num_steps and done.requests.replica.tolist() == [1] * 500


def test_memoryless_stages_are_queues_in_a_row() -> None:
    """M/M/1 into M/M/1: departures of the first are Poisson, so a request spends 1/(a - x) + 1/(b - x) inside.

    Source: Burke 1956, The output of a queuing system; Reich 1957 for times in both.
    """
    rng, rate, num = np.random.default_rng(3), 0.6, 20_000
    prompts = np.ceil(rng.exponential(1000, num)).astype(int)
    outputs = 1 + np.ceil(rng.exponential(120, num)).astype(int)
    known = tables([1 / 150], prompt_token_s=1e-3)
    pool = AT_ONCE.model_copy(update={"config": ONE})
    done = run(poisson(rate, prompts, outputs, rng), known, 1, prefill=pool, checks=False)
    read_s, decode_s = prompts.mean() * 1e-3, (outputs.mean() - 1) / 150
    expected = 1 / (1 / read_s - rate) + 1 / (1 / decode_s - rate)
    mean, error = batch_means(in_system_s(done))
    assert error / expected < 0.05
    assert mean == pytest.approx(expected, abs=4 * error)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    kv_blocks=st.integers(60, 200),
    pools=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    link=st.sampled_from([None, 1e6, 1e9]),
    latency_s=st.sampled_from([0.0, 0.3]),
    until_s=st.sampled_from([None, 2.0]),
)
def test_nothing_is_lost_on_the_way(
    seed: int, kv_blocks: int, pools: tuple[int, int], link: float | None, latency_s: float, until_s: float | None
) -> None:
    """Requests, tokens and blocks are conserved after every stretch; each time of a request follows the one before."""
    rng = np.random.default_rng(seed)
    asked = poisson(20.0, rng.integers(1, 600, 60), rng.integers(1, 30, 60), rng)
    config = ServerConfig(max_running=4, token_budget=500, kv_blocks=kv_blocks, until_s=until_s)
    pool = PrefillPool(replicas=pools[0], link_bytes_per_s=link, latency_s=latency_s)
    done = serve(
        NONE, asked, control=PLAIN, replicas=pools[1], config=config, prefill=pool, checks=True, compiled=False,
        tables=tables(0.01 + 0.002 * np.arange(4), prompt_token_s=1e-4), keep_steps=True,
    )  # fmt: skip
    log, served = done.requests, done.requests.refused == 0
    assert len(np.unique(log.request)) == done.num_requests == len(log)
    np.testing.assert_array_equal(log.output_tokens[served], asked.output_tokens[: len(log)][served])
    assert (np.diff([log.arrival_s, log.admitted_s, log.first_token_s, log.finished_s], axis=0)[:, served] >= 0).all()
    assert until_s is not None or log.refused.sum() == 0
    assert done.steps is not None and done.steps.num_emitted.sum() == log.output_tokens.sum()
    in_order = served & (log.output_tokens > 1)
    assert (log.replica[in_order] < pools[1]).all()
    kv_bytes = kv_bytes_per_token(NONE.target) * log.prompt_tokens
    least = log.first_token_s + latency_s + (kv_bytes / link if link else 0)
    assert (log.finished_s >= least - 1e-9)[in_order].all()


WRONG: dict[str, dict[str, Any]] = {
    "prefill.config": {"config": ServerConfig(block_tokens=32)},
    "replicas": {"replicas": 0},
    "link_bytes_per_s": {"link_bytes_per_s": 0.0},
}


@pytest.mark.parametrize("field", WRONG)
def test_wrong_pools_are_refused(field: str) -> None:
    with pytest.raises(InputError, match=field.replace(".", r"\.")):
        pool = parse(PrefillPool, {"replicas": 1, "link_bytes_per_s": None} | WRONG[field], "pool")
        run(Requests(np.zeros(1), np.ones(1), np.ones(1)), tables([1.0]), 1, prefill=pool)
