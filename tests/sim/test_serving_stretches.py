"""Stretches advanced at once against steps taken one by one, in columns and in machine code: the same records."""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_deployment import deployment

from specsim.acceptance import RequestSpread
from specsim.sim.config import PrefillPool, ServerConfig
from specsim.sim.kernel import Tables
from specsim.sim.policies import Arriving, Floats, Ints, Replicas, StepView, Waiting
from specsim.sim.policies.basic import FixedDraftLen
from specsim.sim.serve import ServingRun, serve
from specsim.sim.setup import server_tables
from specsim.workload.log import RequestLog, StepLog
from specsim.workload.requests import Requests

ASKED = deployment(hardware="h100-sxm", engine="vllm", drafter={"kind": "eagle3", "model": "eagle3-llama-3.1-8b"})
SMALL = {"max_running": 12, "token_budget": 256}


@dataclass(frozen=True)
class ByBatch:
    """Fewer drafts the more are running."""

    max_draft_len: int = 4
    depends_on: Literal["num_running"] = "num_running"

    def start(self) -> None: ...

    def choose(self, state: None, view: StepView) -> tuple[None, int]:
        return None, max(0, 4 - view.num_running // 3)

    def observe(self, state: None, num_accepted: Ints, step_s: float) -> None: ...


@dataclass(frozen=True)
class Ragged:
    """Each request as many as its last round kept, and one more."""

    max_draft_len: int = 4
    depends_on: Literal["history"] = "history"

    def start(self) -> int:
        return 0

    def choose(self, state: int, view: StepView) -> tuple[int, Ints]:
        assert view.time_s(np.full(len(view.request), 2)) == pytest.approx(view.time_s(2))
        return state, np.minimum(view.would_accept + 1, self.max_draft_len)

    def observe(self, state: int, num_accepted: Ints, step_s: float) -> int:
        return state + int(num_accepted.sum())


@dataclass(frozen=True)
class ShortestFirst:
    def order(self, waiting: Waiting, now_s: float) -> Ints:
        return np.argsort(waiting.prompt_tokens, kind="stable")


@dataclass(frozen=True)
class Emptiest:
    """Prefix first, then room: looks at every column."""

    def start(self) -> None: ...

    def pick(self, state: None, replicas: Replicas, now_s: float, request: Arriving) -> tuple[None, int]:
        load = replicas.num_running + 2 * replicas.num_waiting - replicas.cached_tokens / 64
        return None, int(np.lexsort((-replicas.kv_free_blocks, load))[0])


def spread(request: Ints, category: Ints) -> Floats:
    """Every third request is hard."""
    alpha = np.where(request % 3 == 0, 0.3, 0.8)
    return alpha[:, None] ** np.arange(1, 5)


def requests(num: int, rate: float, seed: int = 0, **more: Any) -> Requests:
    rng = np.random.default_rng(seed)
    arrival_s = np.cumsum(rng.exponential(1 / rate, num))
    return Requests(arrival_s, rng.integers(20, 700, num), rng.integers(1, 60, num), **more)


def prefixes(num: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(1)
    return [tuple(100 * int(n) + i for i in range(30)) for n in rng.integers(0, 4, num)]


SESSIONS = {"session": np.arange(60) % 13 - 1, "delay_s": np.linspace(0, 0.3, 60), "prefix_blocks": prefixes(60)}
CASES: dict[str, dict[str, Any]] = {
    "plain": {"control": FixedDraftLen(0)},
    "chain": {"control": FixedDraftLen(3)},
    "by batch": {"control": ByBatch()},
    "ragged": {"control": Ragged()},
    "little memory": {"control": FixedDraftLen(2), "config": {"kv_blocks": 130}},
    "swapping": {"config": {"kv_blocks": 130, "preemption": "swap", "swap_bytes_per_s": 25e9}},
    "reserving": {"config": {"kv_blocks": 130, "reserves": True}},
    "prompts apart": {"control": FixedDraftLen(2), "config": {"mixes": False}},
    "prompts whole": {"config": {"chunks": False}},
    "prompts apart and whole": {"config": {"chunks": False, "mixes": False, "token_budget": 100}},
    "shortest first": {"admission": ShortestFirst()},
    "prefixes": {"requests": requests(60, 40.0, prefix_blocks=prefixes(60)), "config": {"kv_blocks": 150}},
    "sessions": {"requests": requests(60, 40.0, **SESSIONS), "replicas": 2, "routing": Emptiest()},
    "three replicas": {"requests": requests(90, 80.0), "replicas": 3, "routing": Emptiest()},
    "pipeline": {"config": {"pipeline_parallel": 2, "hop_s": 1e-4}},
    "own acceptance": {"control": FixedDraftLen(4), "survival": spread},
    "time limit": {"config": {"until_s": 1.0}},
    "alike": {"control": FixedDraftLen(4), "spread": RequestSpread(0.3, 0.4)},
    "alike, ragged": {"control": Ragged(), "spread": RequestSpread(0.3, -0.4)},
    "alike, own acceptance": {"control": ByBatch(), "survival": spread, "spread": RequestSpread(0.2, 0.3)},
    "handed over": {
        "control": FixedDraftLen(2),
        "requests": requests(60, 40.0, **SESSIONS),
        "config": {"kv_blocks": 130},
        "replicas": 2,
        "routing": Emptiest(),
        "prefill": PrefillPool(replicas=2, link_bytes_per_s=2e9, latency_s=1e-3),
    },
    "handed over at once": {"prefill": PrefillPool(replicas=1, link_bytes_per_s=None)},
}
SEVERAL = ("sessions", "three replicas", "pipeline", "handed over", "handed over at once")


def played(case: dict[str, Any], cache: dict[str, Tables] = {}, **more: Any) -> ServingRun:  # noqa: B006
    config = ServerConfig(**SMALL | case.get("config", {}))
    asked = {"control": FixedDraftLen(0), "requests": requests(60, 40.0)} | case | more
    key = f"{asked['control']} {config.token_budget} {config.pipeline_parallel}"
    if key not in cache:
        cache[key] = server_tables(ASKED, asked["control"], config)
    asked["config"], asked["tables"] = config, cache[key]
    return serve(ASKED, asked.pop("requests"), seed=5, keep_steps=True, **asked)


def same(one: RequestLog | StepLog, other: RequestLog | StepLog) -> None:
    for column in fields(one):
        left, right = getattr(one, column.name), getattr(other, column.name)
        if left.dtype == np.int64:
            np.testing.assert_array_equal(left, right, err_msg=column.name)
        else:
            np.testing.assert_allclose(left, right, rtol=1e-9, atol=0, err_msg=column.name)


@pytest.mark.parametrize("name", CASES)
def test_stretches_leave_the_records_that_steps_leave(name: str) -> None:
    by_step = played(CASES[name], by_step=True, compiled=False, checks=True)
    assert by_step.num_steps > 100 and by_step.steps is not None
    whole = played(CASES[name], compiled=False)
    assert whole.steps is not None
    same(by_step.requests, whole.requests)
    if name in SEVERAL:  # who waits is noted when a stretch begins
        assert whole.num_steps == by_step.num_steps
    if find_spec("numba"):
        compiled = played(CASES[name], compiled=True)
        same(by_step.requests, compiled.requests)
        assert compiled.num_steps == by_step.num_steps
        if name not in SEVERAL:
            assert compiled.steps is not None
            same(by_step.steps, compiled.steps)


def test_cases_do_what_they_say() -> None:
    assert played(CASES["little memory"]).requests.num_preempted.sum() > 2
    assert played(CASES["swapping"]).requests.num_preempted.sum() > 2
    assert played(CASES["reserving"]).requests.num_preempted.sum() == 0
    found = played(CASES["prefixes"]).requests
    assert found.cached_tokens.sum() > 0 and (found.cached_tokens < found.prompt_tokens).all()
    assert played(CASES["time limit"]).verdict == "stopped"
    steps = played(CASES["ragged"]).steps
    assert steps is not None and len(np.unique(steps.draft_len)) > 10
    own = played(CASES["own acceptance"]).requests
    hard = own.request % 3 == 0
    assert own.num_accepted[hard].sum() / own.num_rounds[hard].sum() < 0.6
    assert own.num_accepted[~hard].sum() / own.num_rounds[~hard].sum() > 1.8


def test_an_oracle_that_drafts_what_will_be_kept_loses_nothing() -> None:
    """Ragged asks for one more than will be kept: every round but those cut by the end keeps one less than it drafts,
    or all of four."""
    log = played(CASES["ragged"]).requests
    fixed = played({"control": FixedDraftLen(4)}).requests
    np.testing.assert_array_equal(log.num_accepted, fixed.num_accepted)  # draws hang on request and round alone
    assert (log.num_drafted <= log.num_accepted + log.num_rounds).all()


def test_same_seed_same_records_and_chunks_make_no_difference() -> None:
    asked = requests(60, 40.0)
    case = {"control": FixedDraftLen(3)}
    one, again = (played(case | {"requests": r}) for r in (asked, [asked[:7], asked[7:7], asked[7:]]))
    same(one.requests, again.requests)
    chunks: list[RequestLog] = []
    streamed = played(case, sink=chunks.append)
    assert len(streamed.requests) == 0 and streamed.num_finished == 60
    same(chunks[0], one.requests)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    kv_blocks=st.integers(60, 300),
    budget=st.sampled_from([40, 256]),
    flags=st.tuples(*[st.booleans()] * 4),
    draft_len=st.sampled_from([0, 3]),
)
def test_nothing_is_lost(
    seed: int, kv_blocks: int, budget: int, flags: tuple[bool, bool, bool, bool], draft_len: int
) -> None:
    """Requests, tokens and blocks are conserved after every stretch, whatever the server is told."""
    mixes, chunks, shares, reserves = flags
    more = {"prefix_blocks": prefixes(40)} if shares else {}
    config = {"kv_blocks": kv_blocks, "mixes": mixes, "chunks": chunks, "reserves": reserves, "token_budget": budget}
    asked = requests(40, 60.0, seed, **more)
    done = played(
        {"requests": asked, "config": config, "control": FixedDraftLen(draft_len)}, checks=True, compiled=False
    )
    log, served = done.requests, done.requests.refused == 0
    assert len(log) == 40 and done.num_refused == (~served).sum() == len(done.refusals)
    np.testing.assert_array_equal(log.output_tokens[served], asked.output_tokens[served])
    times = [log.arrival_s, log.admitted_s, log.first_token_s, log.finished_s]
    assert all((a[served] <= b[served]).all() for a, b in pairwise(times))
    room = kv_blocks * 16 - draft_len * 2
    assert ((asked.prompt_tokens + asked.output_tokens > room) == ~served).all()
    assert (log.num_accepted <= log.num_drafted).all()
    assert done.steps is not None and (done.steps.kv_blocks <= kv_blocks).all()
