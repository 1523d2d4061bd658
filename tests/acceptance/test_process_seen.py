"""Whatever form the same rounds are told in, the process found makes the same tokens."""

from __future__ import annotations

import numpy as np
import pytest

from specsim.acceptance.process import TokenProcess
from specsim.acceptance.process_fit import OWN_MODEL, fit
from specsim.acceptance.process_greedy import greedy_accept
from specsim.acceptance.process_rounds import node_means, sample_static_rounds, static_rounds
from specsim.acceptance.process_seen import (
    Seen,
    alike,
    seen_histogram,
    seen_lengths,
    seen_profile,
    seen_rate,
    seen_survival,
    seen_tokens,
)
from specsim.acceptance.profile import AcceptanceProfile
from specsim.acceptance.tables import MEDUSA_HEADS
from specsim.errors import InputError
from specsim.tree import DraftTree

CHAIN = DraftTree.chain(4)
WORLD = TokenProcess(decay=0.05)


def greedy(process: TokenProcess, tree: DraftTree) -> float:
    return static_rounds(process, tree, 0.0, sampled=False, with_confidence=False).tokens_per_round("tokens")


def test_ranks_of_the_best_token_without_laws_are_those_of_the_laws() -> None:
    """Against an argsort of every node's law: both are means over the same noise, spread otherwise."""
    offsets, tree = np.array([-1.0, 0.0, 1.5]), DraftTree.from_widths((4, 4, 4))
    for process in (TokenProcess(decay=0.1), TokenProcess(divergence=2.5, sharpness=3.2, sharpness_sd=0.3)):
        slow = node_means(process, tree, 0.0, offsets, sampled=False, num_types=1 << 14).accept
        np.testing.assert_allclose(greedy_accept(process, offsets, 3, 4), slow, atol=0.01)


def forms() -> list[tuple[str, Seen]]:
    """3000 rounds of 30 requests, told in each form."""
    emitted = sample_static_rounds(WORLD, CHAIN, 0.0, 100, 30, np.random.default_rng(0), sampled=False)
    accepted = emitted.T - 1
    counts = np.bincount(accepted.ravel(), minlength=5)
    survival = counts[::-1].cumsum()[::-1][1:] / counts.sum()
    num = float(accepted.size)
    profile = AcceptanceProfile.from_survival(survival, num)
    return [
        ("lengths", seen_lengths(accepted.tolist(), CHAIN)),
        ("histogram", seen_histogram(counts, CHAIN)),
        ("survival", seen_survival(survival, num_rounds=num)),
        ("tokens", seen_tokens(1 + accepted.mean(), CHAIN, num_rounds=num)),
        ("rate", seen_rate(accepted.mean() / 4, 4, num_rounds=num)),
        ("profile", seen_profile(profile)),
    ]


@pytest.mark.parametrize(("name", "seen"), forms())
def test_every_form_is_reproduced_with_its_goodness_of_fit(name: str, seen: Seen) -> None:
    found = fit([seen])
    assert found.p_value > 0.01 and max(abs(moment.residual) for moment in found.moments) < 3, name
    assert found.process.divergence > 0 and set(found.told) == set(OWN_MODEL)
    # Nothing here was told of how sure the drafter is.
    assert found.told["calibration"] < 0.1
    assert abs(greedy(found.process, CHAIN) / greedy(WORLD, CHAIN) - 1) < 0.05


def test_more_rounds_tell_more() -> None:
    short, long = (fit([seen_survival([0.8, 0.65, 0.55], num_rounds=n)]) for n in (100, 100_000))
    spread = [np.std([greedy(process, DraftTree.chain(3)) for process in one.possible]) for one in (short, long)]
    assert spread[0] > 3 * spread[1]


def test_rank_tables_of_heads() -> None:
    """Medusa's five heads: 25 numbers by nine parameters, two points off in the mean."""
    found = fit([seen_profile(AcceptanceProfile.from_cumulative_topk(MEDUSA_HEADS["vicuna-7b"]))])
    assert max(abs(m.fitted - m.observed) for m in found.moments) < 0.08
    assert np.mean([abs(m.fitted - m.observed) for m in found.moments]) < 0.03
    assert found.process.decay > 0.2  # each head sees less


def test_requests_of_unequal_length_count_for_fewer() -> None:
    assert alike([[0] * 5] * 8) == 8 and alike([[0] * 100, [0] * 10, [0] * 10]) == 1


def test_what_can_not_be_seen() -> None:
    with pytest.raises(InputError, match="tokens_per_round: must be from 1 to 5"):
        seen_tokens(6.0, CHAIN)
    with pytest.raises(InputError, match="survival: must not rise"):
        seen_survival([0.5, 0.6])
    with pytest.raises(InputError, match="draft_len: must be at least 2"):
        seen_survival([0.5, 0.4], draft_len=1)
    with pytest.raises(InputError, match="counts: must be 5 counts"):
        seen_histogram([1, 2, 3, 4, 5, 6], CHAIN)
    with pytest.raises(InputError, match="lengths: must be at most 4"):
        seen_lengths([[5]], CHAIN)
    with pytest.raises(InputError, match="accepted_over_drafted: must be a probability"):
        seen_rate(1.2, 3)
    with pytest.raises(InputError, match="seen: must hold at least one moment"):
        fit([])
