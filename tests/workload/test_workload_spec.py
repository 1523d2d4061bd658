"""Requests drawn from a description: laws of gaps and lengths, conversations, shared text, and the same for a seed."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from specsim.documents import parse
from specsim.errors import InputError
from specsim.workload.arrivals import Burst, ClosedLoop, Gamma, Poisson, Uniform
from specsim.workload.lengths import Empirical, Fixed, LogNormal, paired
from specsim.workload.presets import preset, preset_names
from specsim.workload.spec import CHUNK, Turns, WorkloadSpec, fixed, generate, load_workload, stream


def spec(**others: object) -> WorkloadSpec:
    given = {"name": "toy", "source": "made up", "prompt": Fixed(tokens=100), "output": Fixed(tokens=10)}
    return WorkloadSpec(**{**given, **others})  # type: ignore[arg-type]


def test_poisson_gaps_are_exponential_and_gamma_gaps_have_their_burstiness() -> None:
    rng = np.random.default_rng(0)
    assert stats.kstest(Poisson(rate_per_s=5).gaps(20_000, rng), stats.expon(scale=0.2).cdf).pvalue > 0.01
    gaps = Gamma(rate_per_s=5, burstiness=0.5).gaps(20_000, rng)
    assert stats.kstest(gaps, stats.gamma(0.5, scale=0.4).cdf).pvalue > 0.01
    assert Uniform(rate_per_s=5).gaps(3, rng).tolist() == [0.2, 0.2, 0.2]
    assert not Burst().gaps(3, rng).any()


def test_lengths_follow_their_law_within_their_bounds() -> None:
    rng = np.random.default_rng(1)
    drawn = LogNormal(median=100, p90=1000, least=20, most=2000).draw(50_000, rng)
    assert drawn.min() == 20 and drawn.max() == 2000
    assert np.median(drawn) == pytest.approx(100, rel=0.03) and np.quantile(drawn, 0.9) == pytest.approx(1000, rel=0.05)
    assert set(Empirical(tokens=(3, 3, 9)).draw(100, rng).tolist()) == {3, 9}
    prompts, outputs = paired(np.array([1, 2]), np.array([10, 20]), 50, rng)
    assert (outputs == 10 * prompts).all()


def test_a_stream_is_what_generate_gives_and_a_seed_gives_the_same() -> None:
    asked = spec(arrivals=Poisson(rate_per_s=3), output=LogNormal(median=50, p90=90))
    num = 2 * CHUNK + 5
    pieces = list(stream(asked, num, np.random.default_rng(2)))
    assert [len(piece) for piece in pieces] == [CHUNK, CHUNK, 5]
    whole = generate(asked, num, np.random.default_rng(2))
    assert np.array_equal(np.concatenate([piece.arrival_s for piece in pieces]), whole.arrival_s)
    assert np.array_equal(np.concatenate([piece.output_tokens for piece in pieces]), whole.output_tokens)
    assert (np.diff(whole.arrival_s) > 0).all()


def test_a_turn_repeats_all_that_was_said_before() -> None:
    asked = spec(arrivals=Poisson(rate_per_s=1), turns=Turns(mean_turns=4, think_s=5), shared_prefix_tokens=32)
    got = generate(asked, 500, np.random.default_rng(3))
    assert got.session is not None and got.delay_s is not None and got.prefix_blocks is not None
    for one in range(int(got.session.max()) + 1):
        turns = np.flatnonzero(got.session == one)
        # Each turn adds its own 100 and the 10 of the answer before; the system prompt is said once.
        assert got.prompt_tokens[turns].tolist() == [132 + 110 * k for k in range(len(turns))]
        assert got.delay_s[turns[0]] == 0 and (got.delay_s[turns[1:]] > 0).all()
        for before, after in pairwise(turns):
            shorter, longer = got.prefix_blocks[before], got.prefix_blocks[after]
            assert longer[: len(shorter)] == shorter and len(longer) == got.prompt_tokens[after] // 16
    first = [ids[:3] for ids in got.prefix_blocks]
    assert {ids[:2] for ids in first} == {(0, 2)}  # the shared 32 tokens are the same two blocks for all
    assert len({ids[2] for ids in first}) == int(got.session.max()) + 1  # and the next block is each session's own


def test_samples_of_a_prompt_share_it_whole() -> None:
    got = generate(spec(samples_per_prompt=4, arrivals=Poisson(rate_per_s=1)), 10, np.random.default_rng(4))
    assert got.prefix_blocks is not None and len(got) == 10
    assert len(set(got.prefix_blocks)) == 3 and len(got.prefix_blocks[0]) == 100 // 16
    assert len(set(got.arrival_s.tolist())) == 3


def test_a_closed_loop_is_a_session_per_user() -> None:
    got = generate(fixed(8, 4, ClosedLoop(num_users=3, think_s=2)), 7, np.random.default_rng(5))
    assert got.session is not None and got.delay_s is not None
    assert got.session.tolist() == [0, 1, 2, 0, 1, 2, 0] and got.delay_s.tolist() == [0, 0, 0, 2, 2, 2, 2]


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_draws(name: str) -> None:
    got = generate(preset(name, Poisson(rate_per_s=2)), 200, np.random.default_rng(6))
    assert len(got) == 200 and got.prompt_tokens.min() >= 1


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"arrivals": {"kind": "poisson", "rate_per_s": 0}}, "arrivals.poisson.rate_per_s"),
        ({"arrivals": {"kind": "tides"}}, "arrivals"),
        ({"prompt": {"kind": "log_normal", "median": 5, "p90": 4}}, "prompt.log_normal"),
        ({"turns": {"mean_turns": 3}, "samples_per_prompt": 2}, ""),
        ({"colour": 1}, "colour"),
    ],
)
def test_what_is_wrong_is_named(wrong: dict[str, object], field: str) -> None:
    good = {"name": "toy", "source": "made up", "prompt": {"kind": "fixed", "tokens": 1}}
    with pytest.raises(InputError) as caught:
        parse(WorkloadSpec, {**good, "output": good["prompt"], **wrong}, "toy.toml")
    assert field in str(caught.value) and "\n" not in str(caught.value)


def test_a_workload_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\nsource = "measured"\n[arrivals]\nkind = "gamma"\nrate_per_s = 2\nburstiness = 0.5\n'
        '[prompt]\nkind = "empirical"\ntokens = [10, 20]\n[output]\nkind = "fixed"\ntokens = 5\n'
    )
    assert load_workload(path).arrivals == Gamma(rate_per_s=2, burstiness=0.5)
    with pytest.raises(InputError, match="num_requests: must be >= 1"):
        generate(load_workload(path), 0, np.random.default_rng(0))
    with pytest.raises(InputError, match="must be one of chat"):
        preset("poetry")
