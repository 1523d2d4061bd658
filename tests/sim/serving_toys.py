"""Step times that are known, and requests whose lengths are chosen, to hold the serving simulator to closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
from toy_deployment import ToyCost, deployment

from specsim.scenario import Deployment
from specsim.sim.config import ServerConfig
from specsim.sim.kernel import Tables
from specsim.sim.policies.basic import FixedDraftLen
from specsim.sim.serve import ServingRun, serve
from specsim.workload.requests import Requests

NONE: Deployment = deployment(ToyCost(), drafter={"kind": "none"})
PLAIN = FixedDraftLen(0)


def tables(round_s: Any, *, prompt_token_s: float = 0.0, prompt_s: float = 0.0) -> Tables:
    """A step that decodes n sequences takes ``round_s[n - 1]`` whatever their context, prompts add so much to it."""
    seconds = np.asarray(round_s, dtype=float)
    nodes = np.array([1.0, 1e7])
    flat = np.repeat((prompt_s + prompt_token_s * nodes)[:, None], 2, axis=1)
    return Tables(
        context=np.array([1.0, 1e7]),
        drafting=np.zeros((1, len(seconds), 2)),
        verifying=np.repeat(seconds[None, :, None], 2, axis=2),
        host_s=np.zeros((1, len(seconds))),
        least=np.zeros((1, len(seconds))),
        tokens=nodes,
        keys=np.array([1.0, 1e7]),
        layers=np.zeros(2),
        prompts=flat,
        draft_prompts=np.zeros((1, 1)),
        beside_s=0.0,
        step_s=0.0,
        eager_above=np.inf,
        eager_s=0.0,
        width=np.zeros(1, dtype=np.int64),
    )


def poisson(rate: float, prompts: Any, outputs: Any, rng: np.random.Generator) -> Requests:
    """As many requests as there are lengths."""
    arrival_s = np.cumsum(rng.exponential(1 / rate, np.size(prompts)))
    return Requests(arrival_s, prompts, np.broadcast_to(outputs, np.shape(prompts)))


def run(requests: Requests, known: Tables, max_running: int, **more: Any) -> ServingRun:
    """Plain decoding with memory for everyone and no bound on prompts."""
    config = ServerConfig(max_running=max_running, token_budget=10**6, kv_blocks=10**9)
    asked = {"control": PLAIN, "config": config, "tables": known, "compiled": None, "checks": True, **more}
    return serve(NONE, requests, **asked)


def in_system_s(done: ServingRun) -> np.ndarray:
    """From arrival to last token, of each request."""
    return done.requests.finished_s - done.requests.arrival_s


def batch_means(values: np.ndarray) -> tuple[float, float]:
    """Mean and its standard error."""
    means = np.array([part.mean() for part in np.array_split(values, 21)[1:]])
    return float(means.mean()), float(means.std(ddof=1) / np.sqrt(len(means)))
