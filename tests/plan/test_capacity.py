"""The least number of replicas: closed form, a walk from one upwards, and what no number of them can do."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from toy_deployment import ToyCost, deployment

from specsim.errors import InputError
from specsim.metrics.serving import Target
from specsim.plan import Goal, Offered, Setup, capacity, try_out
from specsim.sim.config import ServerConfig
from specsim.sim.policies.basic import FixedDraftLen
from specsim.workload.arrivals import Arrivals, Poisson, Uniform
from specsim.workload.spec import fixed


def setup(**config: Any) -> Setup:
    """A replica that takes a request at a time and one second for each."""
    devices = {"hardware": "h100-sxm", "tensor_parallel": 2, "price_usd_per_hour": 3.6}
    toy = deployment(ToyCost(target_s=1.0), drafter={"kind": "none"}, **devices)
    return Setup("plain", toy, FixedDraftLen(0), ServerConfig(max_running=1, kv_blocks=100, **config))


def offered(arrivals: Arrivals, num: int) -> Offered:
    return Offered(fixed(10, 1, arrivals), num, seed=0)


@pytest.mark.parametrize(("rate", "least"), [(0.9, 1), (2.5, 3), (7.5, 8)])
def test_even_arrivals_need_as_many_servers_as_come_in_a_service(rate: float, least: int) -> None:
    goal = Goal(Target(ttft_s=1.01), attain_frac=1.0, replications=1)
    got = capacity(setup(), offered(Uniform(rate_per_s=rate), 600), goal)
    assert got.best is not None and got.best.replicas == least and got.gpus == 2 * least
    assert got.best.summary is not None and got.best.summary.attained.value == 1
    assert got.best.summary.tokens_per_s_per_gpu == pytest.approx(rate / (2 * least), rel=0.01)
    usd = 2 * least * 3.6 / 3600 / rate  # per second, over tokens per second
    assert got.best.summary.usd_per_million_tokens == pytest.approx(1e6 * usd, rel=0.01)
    assert got.next_smaller is None or got.next_smaller.replicas == least - 1


def test_halving_finds_what_a_walk_finds() -> None:
    load, goal = offered(Poisson(rate_per_s=4.0), 600), Goal(Target(ttft_s=1.8), attain_frac=0.9, replications=2)
    got = capacity(setup(), load, goal)
    assert got.best is not None and got.best.replicas > 4  # more than keeps up at all
    one = setup()
    walked = [n for n in range(1, 10) if try_out(one, load, goal, n).enough]
    assert walked == list(range(got.best.replicas, 10))
    run = setup().run(load, 0, got.best.replicas)  # counted a second way: one run's share is near that of all
    wait_s = run.requests.first_token_s - run.requests.arrival_s
    assert got.best.summary is not None and (wait_s <= 1.8).mean() == pytest.approx(
        got.best.summary.attained.value, abs=0.05
    )


def test_a_target_below_one_service_is_not_bought_with_replicas() -> None:
    got = capacity(setup(), offered(Uniform(rate_per_s=2.5), 300), Goal(Target(ttft_s=0.9), replications=1))
    assert got.best is None and "keep up, and still" in got.reason and len(got.trials) < 6
    few = capacity(setup(), offered(Uniform(rate_per_s=9.5), 300), Goal(Target(ttft_s=2)), max_replicas=4)
    assert few.best is None and "with 4 replicas: unstable" in few.reason


def test_requests_that_fit_nowhere_are_the_reason() -> None:
    load = Offered(fixed(10_000, 1, Uniform(rate_per_s=1.0)), 100, seed=0)
    got = capacity(setup(), load, Goal(Target(ttft_s=5)))
    assert got.best is None and "no request could be served" in got.reason and "10001 tokens" in got.reason


def test_a_goal_says_what_is_wrong() -> None:
    for wrong in ({"attain_frac": 1.1}, {"replications": 0}, {"warmup_frac": -1.0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            Goal(Target(ttft_s=inf), **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_replicas"):
        capacity(setup(), offered(Uniform(rate_per_s=1.0), 10), Goal(Target(ttft_s=1)), max_replicas=0)
