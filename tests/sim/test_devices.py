"""Drafting on other devices: schedules worked out by hand, limits where they meet, pools against queueing theory."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.errors import InputError
from specsim.sim.devices.edge import Edge, at_random, matched, max_compute, max_snr
from specsim.sim.devices.link import Link, draft_bytes
from specsim.sim.devices.pools import majority_alpha, pipeline_makespan, pooled
from specsim.sim.devices.schedules import Devices, Run, asynchronous, pearl, plain, prefetched, serial
from specsim.sim.devices.text import Text


def text(pattern: str) -> Text:
    """1: the drafter agrees; 0: it does not."""
    return Text(np.array([c == "1" for c in pattern]))


FLAT = Devices(draft_token_s=1.0, verify_s=(4.0,))


def test_plain_and_serial_by_hand() -> None:
    assert plain(text("111"), FLAT).out_s == [4, 8, 12]
    # Two drafts (2 s) and a pass (4 s): 11 and the bonus; then 0: one token; then 1 and the end of the text.
    run = serial(text("111011"), FLAT, 2)
    assert run.out_s == [6, 6, 6, 12, 18, 18] and run.num_verifications == 3


def test_pearl_by_hand() -> None:
    """Drafts of 2, passes of 4 s: each round lasts 4 s."""
    # Pre-verify: token 0 holds (4 s), 1 is pending; post: 1 holds (8 s), two more are drafted; 2, 3 hold (12 s); then
    # 4 is wrong: replaced at 16 s; pre-verify of 5 (20 s).
    assert pearl(text("111101"), FLAT, 2).out_s == [4, 8, 12, 12, 16, 20]
    # Drafting slower than verifying: rounds last as long as the drafts.
    assert pearl(text("11"), Devices(3.0, (4.0,)), 2).out_s == [6, 12]


def test_asynchronous_by_hand() -> None:
    # One target (AMUSD). At 0 a pass over what is known: token 0 at 4 s. By then 4 drafts are there; the next pass
    # gives 1 to 4 at 8 s. In all right text that is the rate of the drafter.
    assert asynchronous(text("11111"), FLAT).out_s == [4, 8, 8, 8, 8]
    # Token 0 wrong: corrected at 4 s, and all begins anew.
    assert asynchronous(text("0111"), FLAT).out_s == [4, 8, 12, 12]
    # Distributed, one draft per pass, five targets: passes begin at 0, 1, 2, ... and end 4 s later, in a row.
    run = asynchronous(text("1111"), FLAT, num_targets=5, lookahead=1)
    assert run.out_s == [4, 5, 6, 7]
    # The third is wrong: known at 6 s; what was begun at 3, 4 and 5 s is cancelled; new passes from 6 s on.
    run = asynchronous(text("110111"), FLAT, num_targets=5, lookahead=1)
    assert run.out_s == [4, 5, 6, 10, 11, 12] and run.num_cancelled == 3


def test_prefetching_by_hand() -> None:
    asked = Text(np.array([True, False, True, True, True, False]), np.array([0, 1, 0, 0, 0, 5]))
    # Draft 2 (2 s), verify to 6 s: token 0 kept, token 1 is the second choice and was prepared: no drafting; 10 s: 2, 3
    # kept and 4 is the first choice: prepared; 14 s: 5, fifth choice.
    assert prefetched(asked, FLAT, 2, fan_out=1).out_s == [6, 6, 10, 10, 10, 14]
    assert prefetched(asked, FLAT, 2, fan_out=0).out_s == serial(asked, FLAT, 2).out_s
    # Preparing may take longer than verifying; then that is what a hit waits for.
    assert prefetched(asked, FLAT, 2, fan_out=1, prepare_s=5.0).out_s[2] == 12


texts = st.lists(st.booleans(), min_size=1, max_size=40).map(lambda agrees: Text(np.array(agrees)))
devices = st.builds(
    lambda draft, first, slope: Devices(draft, (first, first + slope)),
    st.floats(0.0, 3.0), st.floats(0.1, 5.0), st.floats(0, 0.0),
)  # fmt: skip


@settings(max_examples=60)
@given(texts, devices, st.integers(1, 5))
def test_limits(asked: Text, on: Devices, draft_len: int) -> None:
    """Every schedule puts out the text; enough targets are never slower than plain or serial decoding."""
    runs = [plain(asked, on), serial(asked, on, draft_len), pearl(asked, on, draft_len), asynchronous(asked, on)]
    many = asynchronous(asked, on, num_targets=200, lookahead=draft_len)
    for run in (*runs, many, prefetched(asked, on, draft_len, 2)):
        assert len(run.out_s) == len(asked) and (np.diff(run.out_s) >= -1e-9).all() and run.out_s[0] > 0
    assert many.out_s[-1] <= runs[0].out_s[-1] + 1e-9 and many.out_s[-1] <= runs[1].out_s[-1] + 1e-9
    assert asynchronous(asked, on).out_s[-1] <= runs[0].out_s[-1] + 1e-9
    nothing = serial(asked, on, 0)
    assert nothing.out_s == pytest.approx(runs[0].out_s)


ways: list[Callable[[Text, Devices], Run]] = [
    lambda t, d: serial(t, d, 3), lambda t, d: pearl(t, d, 3), asynchronous, lambda t, d: prefetched(t, d, 3, 2)
]  # fmt: skip


@pytest.mark.parametrize("way", ways)
def test_a_drafter_that_is_never_right_never_wins(way: Callable[[Text, Devices], Run]) -> None:
    never = text("0" * 30)
    assert way(never, FLAT).out_s[-1] >= plain(never, FLAT).out_s[-1]


@pytest.mark.parametrize("way", ways)
def test_a_perfect_link_is_one_host_and_a_slower_one_never_faster(way: Callable[[Text, Devices], Run]) -> None:
    asked = Text.drawn(60, 0.8, np.random.default_rng(0), (0.5, 0.2))
    times = [way(asked, FLAT).out_s[-1]]
    for latency in (0.0, 0.1, 1.0):
        link = Link(np.inf if latency == 0 else 1e4, latency)
        times.append(way(asked, Devices(1.0, (4.0,), link, link)).out_s[-1])
    assert times[0] == times[1] and (np.diff(times) >= 0).all()


def test_a_round_trip_is_counted_once() -> None:
    link = Link(8.0, 0.5)  # a draft token is 4 bytes, a verdict 8
    run = serial(text("1" * 6), Devices(1.0, (4.0,), link, link), 2)
    # 2 drafted, 8 bytes up (1.5 s), 4 s of target; then 1.5 s down before the next round: 7.5, 7.5 + 9.
    assert run.out_s == [7.5] * 3 + [16.5] * 3
    with pytest.raises(InputError, match="bandwidth"):
        Link(0.0)
    with pytest.raises(InputError, match="vocab_size"):
        draft_bytes("all_probs", 3)
    jittery = Link(latency_s=0.1, jitter_s=0.2)
    delays = [jittery.seconds(0, np.random.default_rng(seed)) for seed in range(500)]
    assert min(delays) >= 0.1 and np.mean(delays) == pytest.approx(0.3, abs=0.03)


def test_random_texts_are_what_they_say() -> None:
    drawn = Text.drawn(20_000, 0.7, np.random.default_rng(1), (0.5, 0.25))
    assert drawn.rank is not None
    shares = [float(np.mean(drawn.rank == r)) for r in range(3)]
    assert shares == pytest.approx([0.7, 0.15, 0.075], abs=0.01)
    # Long runs: tokens per round of serial decoding is (1 - alpha^(k+1)) / (1 - alpha).
    rounds = serial(drawn, FLAT, 4).num_verifications
    assert len(drawn) / rounds == pytest.approx((1 - 0.7**5) / 0.3, rel=0.02)
    for wrong in ({"num_tokens": 0}, {"alpha": 1.2}, {"rank_shares": (0.9, 0.9)}):
        with pytest.raises(InputError):
            Text.drawn(**{"num_tokens": 5, "alpha": 0.5, "rng": np.random.default_rng(0), **wrong})  # type: ignore[arg-type]


def mean_value_analysis(num: int, draft_s: float, verify_s: float) -> float:
    """Throughput of a closed network of two single servers with exponential times (Reiser & Lavenberg 1980)."""
    lengths = [0.0, 0.0]
    rate = 0.0
    for n in range(1, num + 1):
        waits = [s * (1 + held) for s, held in zip((draft_s, verify_s), lengths, strict=True)]
        rate = n / sum(waits)
        lengths = [rate * wait for wait in waits]
    return rate


@pytest.mark.parametrize("num", [1, 4])
def test_pools_follow_queueing_theory(num: int) -> None:
    run = pooled(
        num, lambda rng: rng.exponential(1.0), lambda rng: rng.exponential(1.5), 1, 1, 40_000, np.random.default_rng(2)
    )
    want = mean_value_analysis(num, 1.0, 1.5)
    assert run.rounds_per_s == pytest.approx(want, rel=0.02)
    assert run.busy_frac["target"] == pytest.approx(1.5 * want, rel=0.02)


def test_pools_are_bound_by_the_scarcer_server() -> None:
    rng = np.random.default_rng(3)
    run = pooled(50, lambda _: 1.0, lambda _: 2.0, num_drafters=3, num_targets=4, num_rounds=4000, rng=rng)
    assert run.rounds_per_s == pytest.approx(4 / 2.0, rel=0.01)  # drafters could do 3 per second
    with pytest.raises(InputError, match="num_targets"):
        pooled(1, lambda _: 1.0, lambda _: 1.0, 1, 0, 10, rng)


def test_a_pipeline_by_hand() -> None:
    ones = np.ones(4)
    assert pipeline_makespan(ones, 2 * ones) == 9  # the target never waits after the first draft
    assert pipeline_makespan(2 * ones, ones) == 9  # the drafter never waits
    # A short result pool makes a drafter wait: a long verification first, then short ones.
    uneven = np.array([5.0, 1, 1, 1])
    assert pipeline_makespan(ones, uneven, depth=1) == 9 and pipeline_makespan(2 * ones, uneven, depth=3) == 10


def test_votes_by_counting_all_of_them() -> None:
    """Three drafters, three wrong tokens, independent hits: every combination of votes."""
    alpha, kinds, total = 0.55, 3, 0.0
    for votes in product(range(kinds + 1), repeat=3):  # 0 is the right one
        chance = float(np.prod([alpha if v == 0 else (1 - alpha) / kinds for v in votes]))
        counts = np.bincount(votes, minlength=kinds + 1)
        best = np.flatnonzero(counts == counts.max())
        total += chance * (0 in best) / len(best)
    assert majority_alpha(alpha, 3, 0.0, kinds) == pytest.approx(total)
    assert majority_alpha(0.6, 5, 0.0) > majority_alpha(0.6, 5, 0.5) > majority_alpha(0.6, 5, 1.0) == 0.6
    assert majority_alpha(0.6, 5, 1e-9) == pytest.approx(majority_alpha(0.6, 5, 0.0), rel=1e-6)


def edges(seed: int, clients: int = 4, servers: int = 2) -> Edge:
    rng = np.random.default_rng(seed)
    return Edge(
        draft_s=rng.uniform(0.05, 0.2, clients), draft_joules=rng.uniform(0.5, 2, clients),
        battery_joules=rng.uniform(1e3, 1e4, clients), upload_bits=rng.uniform(1e5, 1e6, clients),
        bandwidth_hz=rng.uniform(5e6, 2e7, servers), snr=rng.uniform(1, 100, (clients, servers)),
        verify_flops=rng.uniform(1e10, 1e11, clients), server_flops_per_s=rng.uniform(1e12, 4e12, servers),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_matching_against_all_assignments(seed: int) -> None:
    edge = edges(seed)
    found = edge.objective(matched(edge))
    best = min(edge.objective(np.array(option)) for option in product(range(2), repeat=4))
    for baseline in (max_snr(edge), max_compute(edge), at_random(edge, np.random.default_rng(0))):
        assert found <= edge.objective(baseline) + 1e-12 or found <= edge.objective(max_snr(edge))
    assert best - 1e-12 <= found <= edge.objective(max_snr(edge)) + 1e-12
    assert found <= 1.02 * best  # swaps stop at a local optimum


def test_one_client_by_hand() -> None:
    edge = Edge(
        draft_s=np.array([0.1]), draft_joules=np.array([2.0]), battery_joules=np.array([100.0]),
        upload_bits=np.array([4e6]), bandwidth_hz=np.array([1e7]), snr=np.array([[3.0]]),
        verify_flops=np.array([1e11]), server_flops_per_s=np.array([1e12]),
    )  # fmt: skip
    upload, verify, whole = edge.delays(np.array([0]))
    assert upload[0] == pytest.approx(4e6 / (1e7 * 2)) and verify[0] == pytest.approx(0.001 + 0.1)
    assert whole[0] == pytest.approx(0.2 + 0.101)  # the upload is the slower of the two
    assert edge.objective(np.array([0])) == pytest.approx(0.1 + 0.2 + 0.101 + 0.01 * 0.1**2 + 20 * 0.02)
    assert edge.rounds_left().tolist() == [50]
    # More bandwidth helps until the phone is the bottleneck.
    fast = [
        Edge(**{**vars(edge), "bandwidth_hz": np.array([hz])}).delays(np.array([0]))[2][0] for hz in (1e7, 1e8, 1e9)
    ]
    assert fast[0] > fast[1] == fast[2]
    with pytest.raises(InputError, match="battery_joules"):
        Edge(**{**vars(edge), "battery_joules": np.array([0.0])})
