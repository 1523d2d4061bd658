"""The steps from the limit to a method multiply to the whole, whatever they are."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.acceptance.limits import limit_rate
from specsim.acceptance.waterfall import Times, Tokens, shares, waterfall
from specsim.errors import InputError

TAU, SECONDS = st.floats(1, 20), st.floats(1e-4, 1)


@given(st.tuples(TAU, TAU, TAU, TAU), st.tuples(SECONDS, SECONDS, SECONDS, SECONDS), SECONDS, st.integers(1, 64))
def test_factors_multiply_and_shares_add(
    taus: tuple[float, ...], seconds: tuple[float, ...], light_s: float, batch: int
) -> None:
    light = limit_rate([0.0, 3.0], [light_s, light_s], batch)
    for measured in (None, 12.5):
        steps = waterfall(light, Tokens(*taus), Times(*seconds), batch, measured)
        assert prod(step.factor for step in steps) == pytest.approx(steps[-1].tokens_per_s / steps[0].tokens_per_s)
        assert steps[1].tokens_per_s == pytest.approx(light.tokens_per_s)
        end = measured or batch * taus[3] / (seconds[1] + seconds[2] + seconds[3])
        assert steps[-1].tokens_per_s == pytest.approx(end)
        if not np.isclose(steps[-1].tokens_per_s, steps[1].tokens_per_s):
            assert sum(shares(steps).values()) == pytest.approx(1)


def test_by_hand() -> None:
    """Limit 3 tokens in 2 s; the method drafts less, 2.4 there, 2 by its drafter, 1.8 in its tree, 1.5 by its rule."""
    steps = waterfall(limit_rate([0.0, 2.0], [1.5, 2.0]), Tokens(2.4, 2.0, 1.8, 1.5), Times(1.5, 1.6, 0.3, 0.1))
    assert [round(step.tokens_per_s, 4) for step in steps] == [2.0, 1.5, 1.5, 1.25, 1.125, 0.9375, 0.7895, 0.75]
    assert [step.group for step in steps[1:]] == ["verify", "budget", "drafter", "tree", "rule", "overhead", "overhead"]


@pytest.mark.parametrize(
    ("tokens", "times", "measured"),
    [
        (Tokens(2, 2, 2, 0.5), Times(1, 1, 0, 0), None),
        (Tokens(2, 2, 2, 1), Times(0, 1, 0, 0), None),
        (Tokens(2, 2, 2, 1), Times(1, 1, -1, 0), None),
        (Tokens(2, 2, 2, 1), Times(1, 1, 0, 0), 0.0),
    ],
)
def test_nonsense_is_refused(tokens: Tokens, times: Times, measured: float | None) -> None:
    with pytest.raises(InputError):
        waterfall(limit_rate([0.0], [1.0]), tokens, times, 1, measured)
