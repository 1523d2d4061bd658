"""Intervals of means over other prompts, and acceptance tables from the nodes of a tree."""

from __future__ import annotations

import numpy as np
import pytest

from specsim.acceptance import AcceptanceProfile, path_probs
from specsim.calibrate.method_times import MethodCost, fit_pass_times
from specsim.methods.round import Situation, play
from specsim.tree import DraftTree
from specsim.validate.methods import accept_table, relative_interval
from specsim.work import Pass


def test_a_table_gives_its_own_nodes_back() -> None:
    tree = DraftTree.from_widths((3, 2, 1))
    table = np.array([[0.5, 0.2, 0.1], [0.4, 0.3, 0.0], [0.6, 0.0, 0.0]])
    assert accept_table(tree, path_probs(tree, AcceptanceProfile(table))) == pytest.approx(table)


def test_the_interval_holds_what_other_prompts_show() -> None:
    """Prompts differ with deviation 0.3 about 3, rounds within them with 1: 90 % intervals hold 80 to 97 % of means."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(200):

        def prompts(num: int) -> dict[int, list[float]]:
            means = 3 + 0.3 * rng.standard_normal(num)
            return {p: list(mean + rng.standard_normal(20)) for p, mean in enumerate(means)}

        seen, new = prompts(12), prompts(6)
        centre = np.mean(list(seen.values()))
        low, high = (centre * end for end in relative_interval(seen, 6, rng))
        held += low <= np.mean(list(new.values())) <= high
    assert 0.8 * 200 <= held <= 0.97 * 200


def test_pass_times_come_back_from_what_they_made() -> None:
    """Steps in the token count, a part per token of context, and a first pass that costs more."""

    def truth(tokens: int, context: float, is_first: bool) -> float:
        return 1e-3 * (5 + tokens + 3 * (tokens > 4)) + 2e-6 * context + 4e-4 * is_first

    timed = [
        (Pass("draft", "draft", [n], [c], 1.0, (0,) if first else (1,)), truth(n, c, first))
        for n in (1, 2, 3, 4, 5, 6, 8, 16, 64) for c in (50.0, 200.0, 300.0) for first in (True, False)
    ]  # fmt: skip
    times = fit_pass_times(timed)
    for work, seconds in timed:
        assert float(times.time_s(work)) == pytest.approx(seconds, rel=0.03)


def test_a_window_rides_in_the_targets_pass_and_the_host_is_paid_once() -> None:
    passes = [Pass("target", "verify", [n], [0.0]) for n in (1, 2, 4, 8, 16) for _ in range(9)]
    target = fit_pass_times((one, 0.01 * float(one.total_new_tokens)) for one in passes)
    works = list(play(DraftTree.chain(3), Situation([0.0]), "lookup"))
    for window in (0, 5):
        cost = MethodCost(target, None, host_s=0.5, window_tokens=window)
        assert sum(float(cost.price(work).time_s) for work in works) == pytest.approx(
            0.5 + 0.01 * (4 + window), rel=1e-3
        )
