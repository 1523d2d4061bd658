"""The serving simulator against queueing theory, the estimate, and arithmetic by hand.

Statistical bounds are stated as standard errors of batch means (20 batches, the first one left out).
"""

from __future__ import annotations

import numpy as np
import pytest
from serving_toys import NONE, PLAIN, batch_means, in_system_s, poisson, run, tables
from toy_deployment import ToyCost, deployment

from specsim.estimate import predict
from specsim.search.exact.load import best_load_schedule
from specsim.sim.config import ServerConfig
from specsim.sim.policies.basic import FixedDraftLen
from specsim.sim.serve import serve
from specsim.tree import DraftTree
from specsim.workload.requests import Requests

SERVICES = {
    "M/D/1": lambda rng, n: np.full(n, 1000),
    "M/M/1": lambda rng, n: np.ceil(rng.exponential(1000, n)).astype(int),
    "M/G/1": lambda rng, n: rng.choice([100, 4000], n, p=[0.9, 0.1]),
}


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("load", [0.3, 0.7])
def test_one_at_a_time_is_the_pollaczek_khinchine_queue(name: str, load: float) -> None:
    """Requests of one token, whose whole service is their prompt: waiting is load E[S^2] / (2 E[S] (1 - load)).

    Source: Kleinrock 1975, Queueing Systems I, eq. 5.70.
    """
    rng = np.random.default_rng(1)
    prompts = SERVICES[name](rng, 12_000)
    service_s = prompts * 1e-3
    requests = poisson(load / service_s.mean(), prompts, 1, rng)
    done = run(requests, tables([1.0], prompt_token_s=1e-3), max_running=1, checks=False)
    expected = load * (service_s**2).mean() / (2 * service_s.mean() * (1 - load)) + service_s.mean()
    mean, error = batch_means(in_system_s(done))
    assert error / expected < 0.1
    assert mean == pytest.approx(expected, abs=4 * error)
    assert done.verdict == "stable"


@pytest.mark.parametrize("load", [0.5, 2.0])
def test_steps_that_take_all_who_wait_are_the_bulk_queue(load: float) -> None:
    """Steps of one second, however many are in it; a step takes whoever waits.

    Of the arrivals of a cycle (a step, and with probability exp(-rate) an idle time ended by an arrival), ``rate`` find
    a step under way and wait for half of it on average; one finds nobody, where there is an idle time.
    """
    rng = np.random.default_rng(2)
    requests = poisson(load, np.ones(12_000, dtype=int), 1, rng)
    done = run(requests, tables([1.0] * 64, prompt_s=1.0), max_running=64, checks=False)
    alone = np.exp(-load)
    expected = (alone * 1.0 + load * 1.5) / (load + alone)
    mean, error = batch_means(in_system_s(done))
    assert error / expected < 0.015
    assert mean == pytest.approx(expected, abs=4 * error)


def test_load_dependent_service_is_the_birth_death_chain() -> None:
    """Memoryless lengths of 60 tokens on average, steps that slow down with the batch: the same mean in the system."""
    rng, most = np.random.default_rng(3), 8
    step_s = 0.8 + 0.2 * np.arange(1, most + 1)
    lengths = rng.geometric(1 / 60, 12_000)
    rate = 0.7 * most / (step_s[-1] * 60)
    done = run(poisson(rate, np.ones_like(lengths), lengths, rng), tables(step_s, prompt_s=0.0), most, checks=False)
    expected = best_load_schedule(rate, 60 - 0.5, [1.0], step_s[:, None])  # the first token comes with the prompt
    mean, error = batch_means(in_system_s(done))
    assert error / mean < 0.04
    assert mean == pytest.approx(expected.mean_latency, abs=4 * error + 0.02 * mean)


@pytest.mark.parametrize("max_running", [1, 5])
def test_littles_law_inside_the_server(max_running: int) -> None:
    """Requests running, summed over the time of the steps, are the times inside, summed over the requests."""
    rng = np.random.default_rng(4)
    requests = poisson(0.3, rng.integers(1, 50, 300), rng.integers(1, 30, 300), rng)
    done = run(requests, tables(1 + 0.1 * np.arange(max_running)), max_running, keep_steps=True)
    assert done.steps is not None
    inside = (done.requests.finished_s - done.requests.admitted_s).sum()
    assert (done.steps.num_running * done.steps.duration_s).sum() == pytest.approx(inside, rel=1e-9)
    assert done.steps.num_emitted.sum() == requests.output_tokens.sum() == done.requests.output_tokens.sum()
    assert done.steps.prefill_tokens.sum() == requests.prompt_tokens.sum()
    assert done.steps.num_running.max() == max_running and done.steps.kv_blocks[-1] > 0


def test_two_requests_by_hand() -> None:
    """Steps of 1 s; prompts of 10 tokens add 5 s. The second comes at 5.5, while the first one's prompt is read."""
    known = tables([1.0, 1.25], prompt_token_s=0.5)
    done = run(Requests(np.array([1.0, 5.5]), np.array([10, 10]), np.array([4, 2])), known, 2, keep_steps=True)
    # 1 to 6: prompt. 6 to 12: the second prompt beside the first one's decoding. Then both, then the first alone.
    log = done.requests
    assert log.admitted_s.tolist() == [1.0, 6.0]
    assert log.first_token_s.tolist() == [6.0, 12.0]
    assert log.finished_s.tolist() == [14.25, 13.25]
    assert log.longest_itl_s.tolist() == [6.0, 1.25]
    assert log.num_rounds.tolist() == [3, 1] and log.replica.tolist() == [0, 0]
    assert done.steps is not None
    assert done.steps.duration_s.tolist() == [5.0, 6.0, 1.25, 1.0]
    assert done.steps.num_running.tolist() == [1, 2, 2, 1]


TOY = deployment(
    ToyCost(host_s={"step": 0.5, "round": 0.25}),
    acceptance={"kind": "iid", "alpha": 0.7, "source": "made up for tests"},
)


@pytest.mark.parametrize("draft_len", [0, 3])
def test_one_at_a_time_is_the_estimate(draft_len: int) -> None:
    """Time per round exactly, tokens per round within four standard errors."""
    predicted = predict(TOY, DraftTree.chain(draft_len))
    requests = Requests(np.zeros(40), np.full(40, 100), np.full(40, 400))
    done = serve(
        TOY, requests, control=FixedDraftLen(draft_len), config=ServerConfig(max_running=1), compiled=False, checks=True
    ).requests
    decoding_s = done.finished_s - done.first_token_s
    assert decoding_s / done.num_rounds == pytest.approx(float(np.max(predicted.round.time_s)), rel=1e-12)
    per_round = 1 + done.num_accepted / done.num_rounds
    reach = 4 * per_round.std(ddof=1) / np.sqrt(len(per_round)) + 1e-12
    assert per_round.mean() == pytest.approx(predicted.tokens_per_round, abs=float(reach))


def test_one_at_a_time_is_the_estimate_on_a_priced_device() -> None:
    """Within 1 %, as contexts grow by 100 tokens around the estimate's 8,192."""
    asked = deployment(workload={"batch": 1, "context_tokens": 8192}, hardware="h100-sxm")
    requests = Requests(np.zeros(30), np.full(30, 8142), np.full(30, 101))
    done = serve(asked, requests, control=FixedDraftLen(4), config=ServerConfig(max_running=1), compiled=False).requests
    round_s = (done.finished_s - done.first_token_s) / done.num_rounds
    assert round_s.mean() == pytest.approx(float(np.max(predict(asked, DraftTree.chain(4)).round.time_s)), rel=0.01)


def test_load_beyond_capacity_ends_and_is_called_unstable() -> None:
    rng = np.random.default_rng(5)
    done = run(poisson(1.5, np.ones(3000, dtype=int), 1, rng), tables([1.0], prompt_s=1.0), max_running=1, checks=False)
    assert done.verdict == "unstable" and "the queue grew from" in done.reason
    assert done.num_finished == 3000

    late = iter(Requests(np.full(100, float(n)), np.ones(100), np.ones(100)) for n in range(10**9))
    config = ServerConfig(max_running=1, max_waiting=2000, kv_blocks=1000)
    done = serve(NONE, late, control=PLAIN, config=config, tables=tables([1.0], prompt_s=1.0), compiled=False)
    assert done.verdict == "unstable" and "more than 2000 requests waited" in done.reason
    assert (done.requests.refused == 2).sum() + done.num_finished == done.num_requests
