"""Serving policies as pure functions: against brute force, and against what engines were seen to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.errors import InputError
from specsim.sim.policies import Arriving, Replicas, StepView, Waiting
from specsim.sim.policies.adaptive import Goodput, Oracle, SglangAdaptive, SglangState
from specsim.sim.policies.admission import EarliestDeadline, PriorityFirst, ShortestFirst
from specsim.sim.policies.budget import BestBudget, SloBudget, TokenBudget, best_tokens
from specsim.sim.policies.routing import LeastLoaded, PrefixAware
from specsim.sim.policies.tables import ByBatch, sglang_table, tensorrt_llm_table, vllm_table


def view(
    survival: Any = None, time_s: Callable[[Any], float] = lambda lens: 1.0, num_running: int = 0, **others: Any
) -> StepView:
    survival = np.zeros((0, 8)) if survival is None else np.asarray(survival, float)
    num = len(survival)
    columns = {
        "now_s": 10.0, "num_running": num_running or num, "num_waiting": 0, "kv_free_blocks": 9,
        "request": np.arange(num), "context_tokens": np.full(num, 100), "tokens_out": np.full(num, 1),
        "missing_tokens": np.full(num, 50), "first_token_s": np.full(num, 10.0), "tpot_slo_s": np.full(num, np.inf),
        "survival": survival, "would_accept": np.zeros(num, int), "time_s": time_s,
    }  # fmt: skip
    return StepView(**{**columns, **others})


def test_admission_orders() -> None:
    waiting = Waiting(
        arrival_s=np.array([0.0, 1, 2, 3]),
        prompt_tokens=np.array([50, 10, 10, 30]),
        output_tokens=np.array([1, 90, 80, 5]),
        priority=np.array([1.0, 0, 1, 0]),
        ttft_slo_s=np.array([np.inf, 1.5, 9, 2]),
        num_preempted=np.zeros(4, np.int64),
    )
    assert ShortestFirst("prompt").order(waiting, 4).tolist() == [1, 2, 3, 0]
    assert ShortestFirst("total").order(waiting, 4).tolist() == [3, 0, 2, 1]
    assert PriorityFirst().order(waiting, 4).tolist() == [1, 3, 0, 2]
    assert EarliestDeadline().order(waiting, 4).tolist() == [3, 2, 0, 1]  # the second was due at 2.5
    no_targets = Waiting(**{**vars(waiting), "ttft_slo_s": np.full(4, np.inf)})
    assert EarliestDeadline().order(no_targets, 4).tolist() == [0, 1, 2, 3]


def test_one_plan_in_three_dialects() -> None:
    """4 up to 8 running, 2 up to 32, none above."""
    wanted = (4,) * 8 + (2,) * 24 + (0,) * 8
    assert vllm_table([(1, 8, 4), (9, 32, 2), (33, 256, 0)], 4, 40).draft_lens == wanted
    assert tensorrt_llm_table({8: 4, 32: 2}, "upper_bounds", 40).draft_lens == wanted
    assert tensorrt_llm_table({1: 4, 9: 2, 33: 0}, "lower_bounds", 40).draft_lens == wanted
    # Fed to the other meaning it is another plan: 4 at batch 1 alone, 2 up to 9, none after.
    assert tensorrt_llm_table({1: 4, 9: 2, 33: 0}, "upper_bounds", 40).draft_lens == (4,) + (2,) * 8 + (0,) * 31
    captured = [1, 2, 4, *range(8, 257, 8)]
    assert sglang_table({1: 4, 9: 2, 33: 0}, captured, 40).draft_lens == wanted
    # A boundary off the captured sizes moves: 5 to 7 are padded to 8.
    assert sglang_table({1: 4, 6: 2}, captured, 8).draft_lens == (4, 4, 4, 4, 2, 2, 2, 2)
    assert ByBatch((3, 1)).choose(None, view(num_running=7))[1] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: vllm_table([(2, 4, 3)], 3, 8),
        lambda: vllm_table([(1, 4, 3), (4, 8, 1)], 3, 8),
        lambda: vllm_table([(1, 4, -1)], 3, 8),
        lambda: tensorrt_llm_table({2: 4}, "lower_bounds", 8),
        lambda: sglang_table({}, [1, 2], 8),
        lambda: SglangAdaptive(initial_steps=2),
        lambda: ByBatch(()),
        lambda: TokenBudget(-1),
        lambda: Goodput(initial_alpha=1.0),
        lambda: PrefixAware(least_share=2),
    ],
)
def test_bad_configurations_are_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        wrong()


def drive(control: SglangAdaptive, accepted: Callable[[int], float], steps: int, batch: int = 1) -> list[int]:
    state, chosen = control.start(), []
    for _ in range(steps):
        state, draft_len = control.choose(state, view(num_running=batch))
        assert isinstance(state, SglangState)
        chosen.append(draft_len)
        state = control.observe(state, np.array([round(accepted(draft_len))] * batch), 0.01)
    return chosen


def test_sglang_steps_by_its_rules() -> None:
    control = SglangAdaptive(initial_steps=3)
    # All accepted: the average is the length itself, above length - .5, so after warm-up and one interval it goes up.
    rising = drive(control, lambda k: k, 40)
    assert rising[:15] == [3] * 15 and rising[15:20] == [5] * 5 and rising[-1] == 7
    # Nothing accepted: at slot 1 the smallest candidate is 1 (0 <= 1 - .5 - .25 is the rule to get there).
    assert drive(control, lambda k: 0, 40)[-1] == 1
    # At slot 8 it may go to 0, sees nothing there, and starts again with 1.
    wide = drive(control, lambda k: 0, 80, batch=8)
    assert wide[0] == 3 and 0 in wide and wide[wide.index(0) + 5 : wide.index(0) + 8] == [1, 1, 1]
    # 2.3 accepted of 3 lies between the thresholds 0.25 (down to 1) and 2.5 (up to 5).
    assert set(drive(control, lambda k: 2 if k == 3 else k, 60)) == {3}


def test_goodput_finds_the_best_length_and_shuts_off() -> None:
    """alpha .8 and a step of 1 + k / 4 have one best length, found within one; alpha .1 at .5 a token has none."""
    rates = [(1 - 0.8 ** (k + 1)) / 0.2 / (1 + k / 4) for k in range(9)]
    control, rng = Goodput(longest=8), np.random.default_rng(0)

    def run(alpha: float, cost: float, steps: int) -> list[int]:
        state, chosen = control.start(), []
        for _ in range(steps):
            state, k = control.choose(state, view(np.ones((16, 8)), lambda lens: 1 + cost * float(np.mean(lens))))
            chosen.append(k)
            kept = (np.cumprod(rng.random((16, max(k, 1))) < alpha, axis=1)).sum(1) if k else np.zeros(16)
            state = control.observe(state, kept.astype(int), 1.0)
        return chosen

    assert abs(int(np.median(run(0.8, 0.25, 400)[200:])) - int(np.argmax(rates))) <= 1
    off = run(0.1, 0.5, 400)
    assert off.count(0) > 300 and 0 < off[100:].count(1) < 20  # off, but it looks now and then


survivals = st.lists(st.lists(st.floats(0.05, 1), min_size=3, max_size=3), min_size=1, max_size=3).map(
    lambda rows: np.cumprod(np.array(rows), axis=1)
)


@given(survivals, st.integers(0, 9))
def test_the_likeliest_tokens_are_the_best_allocation(survival: np.ndarray, budget: int) -> None:
    lens = best_tokens(survival, budget)
    assert lens.sum() == min(budget, survival.size)
    reach = np.concatenate((np.zeros((len(survival), 1)), np.cumsum(survival, axis=1)), axis=1)

    def worth(option: Sequence[int]) -> float:
        return float(sum(reach[row, k] for row, k in enumerate(option)))

    options = [o for o in product(range(4), repeat=len(survival)) if sum(o) <= budget]
    assert worth(lens.tolist()) == pytest.approx(max(map(worth, options)))


@given(survivals)
def test_the_best_budget_has_the_best_rate(survival: np.ndarray) -> None:
    def time_s(lens: Any) -> float:
        return 1.0 + 0.2 * float(np.sum(lens))

    _, lens = BestBudget(longest=3).choose(None, view(survival, time_s))
    reach = np.concatenate((np.zeros((len(survival), 1)), np.cumsum(survival, axis=1)), axis=1)

    def rate(option: Sequence[int]) -> float:
        return (len(option) + sum(reach[row, k] for row, k in enumerate(option))) / time_s(np.array(option))

    best = max(rate(option) for option in product(range(4), repeat=len(survival)))
    assert rate(lens.tolist()) == pytest.approx(best)


def test_targets_come_before_throughput() -> None:
    survival = np.array([[0.9, 0.8, 0.7], [0.5, 0.25, 0.1], [0.5, 0.25, 0.1]])
    # Steps take 1 s. The second must put out 1.7 tokens by then, so two drafts; the third can not make its 5.
    slo = np.array([np.inf, 1 / 1.7, 1 / 5])
    asked = view(survival, tpot_slo_s=slo)
    assert SloBudget(2, longest=3).choose(None, asked)[1].tolist() == [0, 2, 0]
    assert SloBudget(4, longest=3).choose(None, asked)[1].tolist() == [2, 2, 0]
    assert TokenBudget(4, longest=3).choose(None, asked)[1].tolist() == [3, 1, 0]
    assert SloBudget(99, longest=3).choose(None, asked)[1].tolist() == [3, 3, 3]


def test_the_oracle_drafts_what_is_kept() -> None:
    asked = view(np.ones((2, 4)), lambda lens: 1 + 0.1 * float(np.sum(lens)), would_accept=np.array([4, 0]))
    assert Oracle(longest=4).choose(None, asked)[1].tolist() == [4, 0]
    dear = view(np.ones((2, 4)), lambda lens: 1 + 9 * float(np.max(lens)), would_accept=np.array([4, 0]))
    assert Oracle(longest=4).choose(None, dear)[1].tolist() == [0, 0]


def test_routing() -> None:
    asked = Arriving(0, prompt_tokens=100, output_tokens=10)
    seen = Replicas(np.array([9, 2, 2]), np.array([0, 1, 0]), np.full(3, 99), np.array([64, 0, 0]))
    assert LeastLoaded().pick(None, seen, 0, asked)[1] == 2
    assert PrefixAware().pick(None, seen, 0, asked)[1] == 0
    assert PrefixAware(most_apart=3).pick(None, seen, 0, asked)[1] == 2  # too far ahead
    assert PrefixAware(least_share=0.7).pick(None, seen, 0, asked)[1] == 2  # too small a hit
