"""Requests that differ and rounds that remember, as a server's records show them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pytest
from serving_toys import tables
from toy_deployment import ToyCost, deployment

from specsim.acceptance import RequestSpread, fit_spread
from specsim.acceptance.emitted import emitted_distribution, tokens_per_round
from specsim.acceptance.profile import AcceptanceProfile
from specsim.scenario import Deployment
from specsim.sim.config import ServerConfig
from specsim.sim.kernel import Tables
from specsim.sim.policies import Ints, StepView
from specsim.sim.policies.basic import FixedDraftLen
from specsim.sim.serve import ServingRun, serve
from specsim.tree import DraftTree
from specsim.workload.requests import Requests

CONFIG = ServerConfig(max_running=50, token_budget=10**6, kv_blocks=10**9)
PROFILE = AcceptanceProfile(np.array([[0.7, 0.15], [0.75, 0.1], [0.8, 0.05], [0.7, 0.1]]))


@dataclass
class Watched:
    """Drafts ``max_draft_len`` tokens and writes down what each round of each request brought."""

    max_draft_len: int
    depends_on: Literal["history"] = "history"
    tokens: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def start(self) -> Ints:
        return np.zeros(0, dtype=np.int64)

    def choose(self, state: Ints, view: StepView) -> tuple[Ints, int]:
        self.foretold = view.would_accept
        return view.request, self.max_draft_len

    def observe(self, state: Ints, num_accepted: Ints, step_s: float) -> Ints:
        np.testing.assert_array_equal(num_accepted, self.foretold)
        for request, kept in zip(state.tolist(), num_accepted.tolist(), strict=True):
            self.tokens[request].append(kept + 1)
        return state


def known(*widths: int) -> Tables:
    """Steps of one second for every shape."""
    one = tables([1.0] * CONFIG.max_running)
    shape = (len(widths), CONFIG.max_running)
    return one._replace(
        drafting=np.zeros((*shape, 2)), verifying=np.ones((*shape, 2)), host_s=np.zeros(shape), least=np.zeros(shape),
        width=np.array(widths),
    )  # fmt: skip


def alike(spread: RequestSpread | None) -> Deployment:
    return replace(deployment(ToyCost()), acceptance=replace(PROFILE, spread=spread))


def played(asked: Deployment, control: Any, num: int, tokens: int = 200, **more: Any) -> ServingRun:
    requests = Requests(np.zeros(num), np.ones(num), np.full(num, tokens))
    return serve(asked, requests, control=control, config=CONFIG, **{"compiled": None, **more})


TREE = DraftTree.from_widths((2, 1, 1))


@pytest.mark.parametrize("tree", [DraftTree.chain(4), TREE], ids=["chain", "tree"])
def test_records_have_the_spread_that_was_fitted(tree: DraftTree) -> None:
    """Between requests, from a round to the next, and in the mean: within four standard errors of the fit's resamples
    (an interval of 90 % is 3.3 of them wide). What an oracle is told comes true."""
    asked, shapes = alike(RequestSpread(0.25, 0.35)), [DraftTree.chain(k) for k in range(tree.num_drafted)]
    more: dict[str, Any] = {"trees": (*shapes, tree), "tables": known(*range(tree.num_drafted + 1))}
    if tree is TREE:
        plain = tuple(DraftTree.chain(0) for _ in shapes)
        more = {"trees": (*plain, tree), "tables": known(*[0] * len(plain), tree.num_drafted)}
    control = Watched(tree.num_drafted)
    played(asked, control, 700, seed=3, **more)
    law, spread = emitted_distribution(tree, asked.acceptance), asked.acceptance.spread
    assert spread is not None
    rounds = [tokens[:-1] for _, tokens in sorted(control.tokens.items())]  # the last may be the one that ends it
    fitted = fit_spread(rounds, np.random.default_rng(0))
    wanted = (spread.between_sd(law), spread.lag1(law), tokens_per_round(tree, asked.acceptance))
    for found, true in zip((fitted.between_sd, fitted.lag1, fitted.tokens_per_round), wanted, strict=True):
        error = (found.hi - found.lo) / 3.29
        assert error < 0.05 * true
        assert found.value == pytest.approx(true, abs=4 * error)
    assert fitted.pmf == pytest.approx(law, abs=0.02)


@pytest.mark.parametrize("draft_len", [1, 4])
def test_the_mean_of_all_rounds_stays_and_requests_move_apart(draft_len: int) -> None:
    """Each request has as many tokens; so has each kind of them, and rounds in the mean have their law."""
    asked = alike(RequestSpread(0.25, 0.35))
    law = emitted_distribution(DraftTree.chain(draft_len), asked.acceptance)
    for spread in ("fitted", None):
        done = played(asked, FixedDraftLen(draft_len), 3000, tables=known(draft_len), spread=spread).requests
        each = 1 + done.num_accepted / done.num_rounds
        # Requests weighed by their rounds, whose number is their length over their mean.
        ratio = (done.num_accepted + done.num_rounds - law @ np.arange(len(law)) * done.num_rounds) / (
            done.num_rounds.mean()
        )
        assert ratio.mean() == pytest.approx(0, abs=4 * ratio.std() / np.sqrt(len(ratio)))
        used = asked.acceptance.spread if spread else RequestSpread(0.0, 0.0)
        assert used is not None
        expected = used.mean_variance(law, float(done.num_rounds.mean()))
        mean = np.average(each, weights=done.num_rounds)
        spread_of = np.average((each - mean) ** 2, weights=done.num_rounds)
        assert spread_of == pytest.approx(expected, rel=0.15)  # requests of unequal numbers of rounds


def test_a_request_is_what_it_is_whatever_is_drafted_for_it() -> None:
    """Common random numbers: of two draft lengths, hard requests are the same ones, nearly by rank."""
    asked = alike(RequestSpread(0.5, 0.0))
    one, four = (played(asked, FixedDraftLen(k), 300, tables=known(k), seed=1).requests for k in (1, 4))
    means = [log.num_accepted / log.num_rounds for log in (one, four)]
    assert np.corrcoef(*means)[0, 1] > 0.9
    other = played(asked, FixedDraftLen(4), 300, tables=known(4), seed=2).requests
    assert abs(np.corrcoef(means[1], other.num_accepted / other.num_rounds)[0, 1]) < 0.3


def test_own_acceptance_is_not_spread_twice() -> None:
    """Requests whose acceptance is given differ by that alone, unless a spread is asked for."""

    def survival(request: Ints, category: Ints) -> Any:
        return np.where(request % 2, 0.9, 0.2)[:, None] ** np.arange(1, 5)

    asked, control = alike(RequestSpread(0.5, 0.0)), FixedDraftLen(2)
    both: tuple[dict[str, Any], ...] = ({}, {"spread": None})
    given, none = (played(asked, control, 200, tables=known(2), survival=survival, **more).requests for more in both)
    np.testing.assert_array_equal(given.num_accepted, none.num_accepted)
    spread = played(asked, control, 200, tables=known(2), survival=survival, spread=RequestSpread(0.5, 0.0)).requests
    easy = spread.num_accepted / spread.num_rounds
    assert easy[1::2].std() > 3 * (given.num_accepted / given.num_rounds)[1::2].std()
