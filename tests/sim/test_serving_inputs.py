"""What a server refuses and how it ends; step times beside the prices that they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from serving_toys import NONE, PLAIN, poisson, run, tables
from toy_deployment import deployment, table

from specsim.errors import InfeasibleError, InputError
from specsim.methods.round import Situation, play
from specsim.scenario import Deployment
from specsim.sim.arrays import StepTime, round_time, with_prompts
from specsim.sim.config import ServerConfig
from specsim.sim.kv import num_blocks
from specsim.sim.policies.basic import FixedDraftLen
from specsim.sim.serve import serve
from specsim.sim.step_times import Rounds, step_tables
from specsim.tree import DraftTree
from specsim.work import Pass
from specsim.workload.log import RequestLog
from specsim.workload.requests import Requests

ONE_SECOND = tables([1.0] * 4)
EAGLE = {"kind": "eagle3", "model": "eagle3-llama-3.1-8b"}


def test_a_request_longer_than_the_memory_is_refused_with_its_reason() -> None:
    config = ServerConfig(kv_blocks=10, max_running=4)
    asked = Requests(np.arange(4.0), np.array([100, 151, 20, 131_072]), np.array([60, 10, 3, 1]))
    done = serve(NONE, asked, control=PLAIN, config=config, tables=ONE_SECOND, checks=True)
    assert done.requests.refused.tolist() == [0, 1, 0, 1]
    assert done.refusals[1] == "161 tokens with its drafts, where the KV memory holds 160"
    assert done.refusals[3] == "131073 tokens, where llama-3.1-8b has positions for 131072"
    assert done.verdict == "stable" and done.num_refused == 2 and done.num_finished == 2
    assert np.isnan(done.requests.finished_s[[1, 3]]).all() and done.requests.replica.tolist() == [0, -1, 0, -1]


def test_a_run_that_is_interrupted_keeps_its_records() -> None:
    def interrupted() -> Iterator[Requests]:
        yield Requests(np.arange(10.0), np.ones(10), np.full(10, 3))
        raise KeyboardInterrupt

    done = serve(NONE, interrupted(), control=PLAIN, config=ServerConfig(max_running=4), tables=ONE_SECOND)
    assert done.verdict == "interrupted" and "interrupted" in done.reason
    assert 0 < done.num_finished < 10 and len(done.requests) == done.num_requests
    assert (done.requests.refused[np.isnan(done.requests.finished_s)] == 2).all()


def test_a_time_limit_ends_the_run() -> None:
    config = ServerConfig(max_running=1, until_s=10.0)
    done = serve(
        NONE, Requests(np.zeros(9), np.ones(9), np.full(9, 4)), control=PLAIN, config=config, tables=ONE_SECOND
    )
    assert done.verdict == "stopped" and "still inside" in done.reason
    assert len(done.requests) == 9 and 2 <= done.num_finished <= 4


def test_nobody_comes() -> None:
    for requests in (Requests(np.zeros(0), np.zeros(0), np.zeros(0)), iter(())):
        done = serve(NONE, requests, control=PLAIN, tables=ONE_SECOND, config=ServerConfig(max_running=4))
        assert done.num_requests == len(done.requests) == 0 and done.verdict == "stable"


def test_what_can_not_be_served_is_refused() -> None:
    some = Requests(np.zeros(2), np.ones(2), np.ones(2))
    with pytest.raises(InputError, match=r"^drafter\.kind: must name a drafter to draft 2 tokens"):
        serve(NONE, some, control=FixedDraftLen(2))
    with pytest.raises(InputError, match=r"^draft_len: must be >= 0, got -1$"):
        FixedDraftLen(-1)
    with pytest.raises(InputError, match=r"^replicas: must be >= 1, got 0$"):
        serve(NONE, some, control=PLAIN, replicas=0)
    with pytest.raises(InputError, match=r"^swap_bytes_per_s"):
        serve(NONE, some, control=PLAIN, config=ServerConfig(preemption="swap"))
    shallow = deployment(acceptance=table((0.6,), (0.5,)), search={"max_draft_len": 2, "max_depth": 2})
    with pytest.raises(InputError, match=r"^tree depth: must be <= 2"):
        serve(shallow, some, control=FixedDraftLen(3))
    late = (Requests(np.array([s]), np.ones(1), np.ones(1)) for s in (2.0, 1.0))
    with pytest.raises(InputError, match=r"^requests: must come in order, at least 2 s, got"):
        serve(NONE, late, control=PLAIN, tables=ONE_SECOND, config=ServerConfig(max_running=4))
    odd = Requests(np.zeros(1), np.full(1, 99), np.ones(1), prefix_blocks=[(1, 2)], block_tokens=24)
    with pytest.raises(InputError, match=r"^block_tokens: must be a multiple of the server's block of 16"):
        serve(NONE, odd, control=PLAIN, tables=ONE_SECOND, config=ServerConfig(max_running=4))


def test_memory_is_what_the_ledger_leaves() -> None:
    """Llama-3.1-8B on H100: 0.9 x 80 GiB less 16.06 GB of weights, at 131,072 bytes per token; a head takes its share
    of both; a pipeline of two has twice the memory for the same weights."""
    plain, head = deployment(hardware="h100-sxm"), deployment(hardware="h100-sxm", drafter=EAGLE)
    usable = 0.9 * plain.hardware.mem_bytes.value
    assert num_blocks(plain, 16, has_drafter=False) == int((usable - 16_060_522_496) / (16 * 131_072))
    with_head = num_blocks(head, 16, has_drafter=True)
    assert with_head < num_blocks(head, 16, has_drafter=False) * 32 / 33
    both = num_blocks(plain, 16, has_drafter=False, stages=2)
    assert both == int((2 * usable - 16_060_522_496) / (16 * 131_072))
    memory = plain.hardware.mem_bytes.model_copy(update={"value": 17e9})
    small = replace(plain, hardware=plain.hardware.model_copy(update={"mem_bytes": memory}))
    with pytest.raises(InfeasibleError, match="memory"):
        num_blocks(small, 16, has_drafter=False)


def test_speculation_that_is_loaded_and_idle_costs_its_drafter() -> None:
    """With a control that may draft and does not, each step has a pass of the drafter more, and prompts one too."""
    asked = deployment(hardware="h100-sxm", drafter=EAGLE)
    plain = step_tables(asked, Rounds((DraftTree.chain(0),), 8, 2048, 512, has_drafter=False))
    idle = step_tables(asked, Rounds((DraftTree.chain(0),), 8, 2048, 512, has_drafter=True))
    extra = round_time(idle, 0, 4, 1000.0).total_s - round_time(plain, 0, 4, 1000.0).total_s
    one_pass = float(asked.cost.price(Pass("draft", "draft", [1], [1000], [4])).time_s)
    assert extra == pytest.approx(one_pass, rel=5e-3)
    assert len(plain.draft_prompts) == 1 and idle.draft_prompts.min() > 0


PLACES = {
    "dense": deployment(hardware="h100-sxm", engine="vllm", drafter=EAGLE),
    "a100": deployment(
        hardware="a100-80gb-sxm", engine="vllm", drafter={"kind": "none"}, target={"model": "llama-2-7b"}
    ),
    "experts": deployment(
        hardware="h200", engine="sglang", drafter={"kind": "ngram"}, target={"model": "qwen3-30b-a3b"}
    ),
    "two devices": deployment(hardware="h100-sxm", engine="vllm", drafter=EAGLE, tensor_parallel=2),
}


@pytest.mark.parametrize("name", PLACES)
def test_step_times_are_the_prices(name: str) -> None:
    """Interpolated steps beside priced ones at random places: below 0.1 % off on average, with prompts below 0.5 %.

    Chunks of at most 128 tokens after some context are left out: the cost model takes them for verifications and prices
    them together with the sequences that decode, where the tables have a kernel for either (1 % more on average).
    """
    asked = PLACES[name]
    lengths = (0, 3) if asked.scenario.drafter.kind != "none" else (0,)
    trees = tuple(DraftTree.chain(k) for k in lengths)
    known = step_tables(asked, Rounds(trees, 128, 16_384, 4096, has_drafter=False))
    rng = np.random.default_rng(0)
    rounds, mixed = list[float](), list[float]()
    for _ in range(120):
        shape, batch = int(rng.integers(len(trees))), int(2 ** rng.uniform(0, 7))
        context, prompt, before = (float(int(2**x)) for x in rng.uniform((4, 7.1, 0), (14, 11, 11)))
        time = round_time(known, shape, batch, context)
        exact = priced(asked, trees[shape], batch, context, None)
        rounds.append(time.total_s / exact - 1)
        tokens = batch * trees[shape].num_nodes
        both = with_prompts(known, time, tokens, int(prompt), before + (prompt + 1) / 2)
        mixed.append(both.total_s / priced(asked, trees[shape], batch, context, (prompt, before)) - 1)
    assert np.mean(np.abs(rounds)) < 0.001 and np.quantile(np.abs(rounds), 0.95) < 0.005
    assert np.mean(np.abs(mixed)) < 0.005 and np.quantile(np.abs(mixed), 0.9) < 0.015


def priced(asked: Deployment, tree: DraftTree, batch: int, context: float, prompt: tuple[float, float] | None) -> float:
    """A step straight from the cost model: the target's pass with its prompt, everything else of the round."""
    pending = 1.0
    if tree.num_drafted:
        tau = sum(0.8**i for i in range(tree.depth + 1))  # the acceptance of the toy deployment
        pending = tau
    seconds = 0.0
    for work in play(tree, Situation([context], [pending], [float(batch)]), asked.drafting):
        if isinstance(work, Pass) and work.role == "target" and prompt:
            new, contexts = [float(tree.num_nodes), prompt[0]], [context, prompt[1]]
            work = Pass("target", "prefill", new, contexts, [float(batch), 1.0])
        seconds += float(np.max(asked.cost.price(work).time_s))
    return seconds


def test_prompts_alone_are_priced_as_prompts() -> None:
    asked = PLACES["dense"]
    known = step_tables(asked, Rounds((DraftTree.chain(0),), 8, 16_384, 8192, has_drafter=True))
    nothing = StepTime(0.0, 0.0, known.step_s, 0.0)
    for prompt in (40, 512, 700, 5000):
        exact = sum(
            float(asked.cost.price(Pass(role, "prefill", [prompt], [0])).time_s) for role in ("target", "draft")
        )  # type: ignore[arg-type]
        found = with_prompts(known, nothing, 0, prompt, (prompt + 1) / 2).total_s - known.step_s
        assert found == pytest.approx(exact, rel=0.01)


def test_records_stream_in_chunks() -> None:
    rng, chunks = np.random.default_rng(0), list[RequestLog]()
    requests = poisson(5.0, np.ones(9000, dtype=int), 1, rng)
    done = run(requests, tables([0.1] * 64), 64, sink=chunks.append, checks=False, compiled=False)
    assert [len(chunk) for chunk in chunks] == [4096, 4096, 808] and len(done.requests) == 0
    assert np.array_equal(np.sort(np.concatenate([c.request for c in chunks])), np.arange(9000))
