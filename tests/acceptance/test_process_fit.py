"""The fit finds what was planted, and says how sure it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from specsim.acceptance.process import TokenProcess
from specsim.acceptance.process_fit import FittedProcess, fit_profile, fit_records
from specsim.acceptance.process_rounds import static_rounds
from specsim.acceptance.process_seen import Recorded
from specsim.acceptance.profile import AcceptanceProfile
from specsim.decoding import Eagle2, StaticTree
from specsim.errors import InputError
from specsim.sim.rounds import SyntheticMethod, simulate_rounds
from specsim.sim.rounds_predict import predict_tokens
from specsim.tree import DraftTree

PLANTED = TokenProcess(
    sharpness=3.0, sharpness_sd=0.6, regime_gap=1.0, persistence=0.85, divergence=1.5, calibration=1.1, request_sd=0.2
)


def recorded(process: TokenProcess, draft_lens: Sequence[int]) -> list[Recorded]:
    """Greedy chains."""
    parts = []
    for draft_len in draft_lens:
        tree = DraftTree.chain(draft_len)
        method = SyntheticMethod(StaticTree(tree), "greedy", 0.0)
        rng = np.random.default_rng(draft_len)
        rounds = simulate_rounds(process, method, 60, 40, rng, with_records=True)
        parts.append(Recorded(tree, rounds.records, 0.0, sampled=False, equal="rounds"))
    return parts


@pytest.fixture(scope="module")
def fit() -> FittedProcess:
    """Of chains of 1 to 3 tokens."""
    return fit_records(recorded(PLANTED, (1, 2, 3)))


def test_planted_numbers_are_found(fit: FittedProcess) -> None:
    """Those that greedy chains tell; each within 3 of the standard deviations that the fit states, or a tenth."""
    assert fit.chi2_per_moment < 1.5
    for name in ("sharpness", "regime_gap", "divergence", "request_sd", "persistence", "calibration"):
        planted, found = getattr(PLANTED, name), getattr(fit.process, name)
        spread = np.std([getattr(process, name) for process in fit.possible])
        assert abs(found - planted) < 3 * spread + 0.1 * planted, name


def test_short_chains_predict_long_ones_where_regimes_persist(fit: FittedProcess) -> None:
    """Fitted at 1 to 3, chains of 7 come within 4 % and lengths, correlation and spread with them."""
    tree = DraftTree.chain(7)
    truth, ours = (static_rounds(p, tree, 0.0, sampled=False) for p in (PLANTED, fit.process))
    tokens = truth.tokens_per_round("tokens")
    mean, lo, hi = predict_tokens(fit, tree, "greedy")
    assert abs(mean / tokens - 1) < 0.04 and lo < mean < hi and hi - lo < 0.2 * mean
    assert 0.97 * lo < tokens < 1.03 * hi
    np.testing.assert_allclose(ours.pmf("tokens"), truth.pmf("tokens"), atol=0.03)
    assert abs(ours.lag1("tokens") - truth.lag1("tokens")) < 0.08
    # A rate fitted to the first token reads low: the longer a stretch, the easier it was.
    alpha = truth.accept_prob("tokens")[0, 0]
    assert abs((1 - alpha**8) / (1 - alpha) / tokens - 1) > abs(mean / tokens - 1)


def test_chains_predict_dynamic_trees(fit: FittedProcess) -> None:
    method = SyntheticMethod(Eagle2(4, 4, 16), "greedy", 0.0)
    truth = simulate_rounds(PLANTED, method, 30, 200, np.random.default_rng(5))
    tokens = truth.tokens_per_round_of_equal_texts
    mean, lo, hi = predict_tokens(fit, method.policy, "greedy")
    assert abs(mean / tokens - 1) < 0.06 and lo < tokens < hi


def test_a_table_alone_is_reproduced() -> None:
    table = static_rounds(PLANTED, DraftTree.from_widths((3, 3, 3)), 1.0, sampled=False, num_types=1024)
    profile = AcceptanceProfile(table.accept_prob("rounds"), np.array([2000.0, 1000.0, 500.0]))
    found = fit_profile(profile, 1.0, sampled=False)
    assert max(abs(moment.observed - moment.fitted) for moment in found.moments) < 0.03
    assert len(found.possible) > 10 and found.num_rounds == 2000


def test_what_can_not_be_fitted() -> None:
    with pytest.raises(InputError, match="records: must hold at least one round of each tree"):
        fit_records([])
    part = recorded(PLANTED, (1,))[0]
    with pytest.raises(InputError, match="must be of at least 3 requests"):
        fit_records([Recorded(part.tree, part.records[:10], 0.0, sampled=False)])
    with pytest.raises(InputError, match="records: must verify chain 2"):
        fit_records([Recorded(DraftTree.chain(2), part.records, 0.0, sampled=False)])
