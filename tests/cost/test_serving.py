"""The steady state of a busy server: worked by hand, and against a server of few lines that plays every step."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.cost.model import pass_cost
from specsim.cost.serving import (
    NUM_SIZES,
    SCHEDULING,
    Load,
    Scheduling,
    ServingParams,
    StepTimes,
    cache_slots,
    closed_loop,
    solve,
    step_times,
)
from specsim.cost.serving_fits import load_serving_fits
from specsim.errors import InputError
from specsim.hardware import load_hardware
from specsim.model import load_model


def _load(clients: float, prompt: float, output: float, slots: float = 1e9) -> Load:
    return Load(*np.array([[clients], [prompt], [output], [slots]]))


def _times(load: Load, mixes: float) -> StepTimes:
    ones = np.ones(1)
    return StepTimes(load, ones, ones * mixes, ones, ones, np.ones((1, NUM_SIZES, 6)), np.ones((1, NUM_SIZES, 6)))


def _solved(clients: float, output: float, base_s: float, seq_s: float, prompt_s: float, mixes: bool) -> list[float]:
    """Time per token, time to first and running sequences where a step of n takes base + n seq, a prompt more."""
    sizes = clients ** np.linspace(0, 1, NUM_SIZES)[None, :]
    step = base_s + seq_s * sizes
    served = solve(_times(_load(clients, 1000, output), mixes), step, prompt_s + step * mixes)
    return [float(served.tpot_s[0]), float(served.ttft_s[0]), float(served.running[0])]


def _played(clients: int, output: int, base_s: float, seq_s: float, prompt_s: float, mixes: bool) -> list[float]:
    """The same from playing every step: one prompt at a time, answers of 0.5 to 1.5 of the mean length."""
    rng = np.random.default_rng(7)
    waiting = deque([0.0] * clients)  # when each came
    running: list[list[float]] = []  # came, first token, tokens missing, tokens
    now, done, busy = 0.0, list[tuple[float, float]](), list[tuple[float, float]]()
    while len(done) < 60 * clients:
        came = waiting.popleft() if waiting else None
        both = mixes or came is None
        seconds = (base_s + seq_s * len(running)) * both + prompt_s * (came is not None)
        now += seconds
        busy.append((seconds, len(running)))
        for sequence in running if both else []:
            sequence[2] -= 1
        for ended in [s for s in running if s[2] <= 0]:
            done.append(((now - ended[1]) / ended[3], ended[1] - ended[0]))
            running.remove(ended)
            waiting.append(now)
        if came is not None:
            tokens = float(rng.integers(output // 2, output * 3 // 2 + 1) - 1)
            running.append([came, now, tokens, tokens])
    late = np.array(done[20 * clients :])
    return [*late.mean(axis=0).tolist(), float(np.average([n for _, n in busy], weights=[s for s, _ in busy]))]


def test_one_client_waits_for_nobody() -> None:
    assert _solved(1, 200, 0.010, 0.0, 0.050, True) == pytest.approx([0.010, 0.060, 1.0], rel=1e-4)


@pytest.mark.parametrize("mixes", [True, False])
@pytest.mark.parametrize(("clients", "output", "base_s", "seq_s"), [(8, 200, 0.010, 0.0), (32, 200, 0.006, 1e-4)])
def test_the_fixed_point_is_what_playing_every_step_gives(
    clients: int, output: int, base_s: float, seq_s: float, mixes: bool
) -> None:
    solved, played = (f(clients, output, base_s, seq_s, 0.030, mixes) for f in (_solved, _played))
    assert solved[0] == pytest.approx(played[0], rel=0.03)
    assert solved[1] == pytest.approx(played[1], rel=0.30)  # arrivals are more even than the queue's formula has it
    assert solved[2] == pytest.approx(played[2], rel=0.05)


def test_prompts_that_fill_the_server_set_its_pace() -> None:
    """40 clients, prompts of 100 ms for 20 tokens: a request ends every 100 ms, whatever a step takes."""
    tpot, ttft, _ = _solved(40, 21, 0.001, 0.0, 0.100, False)
    assert (ttft + 20 * tpot) / 40 == pytest.approx(0.100, rel=0.05)


def test_sequences_without_room_wait_outside() -> None:
    h200, model = load_hardware("h200"), load_model("llama-3.1-70b")
    load = _load(64, 8192, 1024)
    slots = cache_slots(h200, model, 2, load, Scheduling(reserves=True))
    # 0.9 (150.1 - 141.1 / 2) GB over (8192 + 1024) tokens of 327680 / 2 bytes: 47 at once
    assert float(slots[0]) == pytest.approx(0.9 * (150.11e9 - 70.55e9) / (9216 * 163840), rel=0.01)
    few, all_of_them = (
        closed_loop(
            step_times(pass_cost(h200, {"target": model}, tp=2), load._replace(slots=s), Scheduling(), 80, 2),
            ServingParams(),
        )
        for s in (slots, load.slots)
    )
    assert few.running[0] < 48 < all_of_them.running[0] and few.ttft_s[0] > 10 * all_of_them.ttft_s[0]


@given(clients=st.floats(1, 500), output=st.floats(8, 4000), prompt_s=st.floats(1e-3, 1), seq_s=st.floats(0, 1e-3))
def test_more_clients_are_never_served_faster(clients: float, output: float, prompt_s: float, seq_s: float) -> None:
    few, more = (_solved(c, output, 0.01, seq_s, prompt_s, True) for c in (clients, clients * 1.5))
    few_s, more_s = (ttft + (output - 1) * tpot for tpot, ttft, _ in (few, more))
    assert more_s >= few_s * 0.999  # some moves from tokens to the wait for the first
    assert more[0] >= few[0] * 0.98 and few[0] > 0.0099 and few[1] > 0.99 * prompt_s and 0 < few[2] <= clients + 1e-6


def test_every_host_time_and_multiplier_slows_the_server() -> None:
    cost = pass_cost(load_hardware("h100-sxm"), {"target": load_model("llama-3.1-8b")}, tp=2, engine="trtllm")
    times = step_times(cost, _load(64, 2048, 256), SCHEDULING["trtllm"], 32, 2)
    usual = ServingParams()
    for name, value in usual.model_dump().items():
        slower = closed_loop(times, usual.model_copy(update={name: value * 3})).tpot_s
        assert slower > closed_loop(times, usual).tpot_s, name


def test_counts_below_one_are_refused_with_their_name() -> None:
    cost = pass_cost(load_hardware("h100-sxm"), {"target": load_model("llama-3.1-8b")})
    with pytest.raises(InputError, match="output_tokens"):
        step_times(cost, _load(4, 100, 0), Scheduling(), 32)


def test_a_version_without_a_fit_gets_its_engines_and_an_engine_without_one_that_of_all() -> None:
    fits = load_serving_fits()
    assert fits.find("dense", "trtllm", "9.9").version == "*" and fits.find("dense", "mlc").engine == "*"
    assert 0.9 < fits.find("dense").params.memory < 1.1  # bandwidth was measured already
