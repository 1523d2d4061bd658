"""Published acceptance: conversions, the regression against a textbook form, refusals, coverage of studies left out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from specsim.acceptance import path_probs, tokens_interval
from specsim.acceptance.conventions import accepted_from, alpha_from, rank_rows
from specsim.acceptance.priors import PriorInput, find_prior, prior
from specsim.acceptance.priors_model import (
    MEAN,
    RESIDUAL_SD,
    WIDENING,
    Case,
    Model,
    case_of,
    covariance,
    model,
    without_study,
)
from specsim.acceptance.priors_table import facts, family_of
from specsim.acceptance.profile import AcceptanceProfile
from specsim.documents import parse
from specsim.errors import InputError
from specsim.tree import DraftTree
from specsim.trees_known import EAGLE_25


def test_every_row_is_a_fact_that_converts_to_its_alpha() -> None:
    for row in facts():
        assert row.source and row.study and row.value > 0 and row.family
        assert row.temperature is None or 0 <= row.temperature <= 1
        if row.shape is None:
            assert row.alpha is None
            continue
        accepted = accepted_from(row.value, row.convention, row.draft_len)
        assert row.alpha is not None and 0 < row.alpha < 1
        if row.nodes is None or row.nodes <= 128:  # the others take a while
            found = alpha_from(accepted, row.shape, row.draft_len, row.nodes, row.depth, row.method)
            assert row.alpha == pytest.approx(found, abs=1e-4), row.label


def test_conversions_by_hand_and_back() -> None:
    assert accepted_from(2.0, "tokens_without_bonus", None) == 2.0
    assert alpha_from(accepted_from(0.5, "alpha", 3), draft_len=3) == pytest.approx(0.5)
    assert alpha_from(accepted_from(0.25, "accepted_over_drafted", 3), draft_len=3) == pytest.approx(0.4525, abs=1e-4)
    table = AcceptanceProfile(rank_rows("eagle", 0.7, 5))
    assert alpha_from(float(path_probs(EAGLE_25, table).sum() - 1), "eagle-25") == pytest.approx(0.7, abs=1e-9)


def test_trees_convert_to_what_chains_of_the_same_drafter_have() -> None:
    """Published for EAGLE, MT-bench, temperature 0: chain of 5 and tree of 25 nodes, three targets."""
    for chain, tree in ((3.2, 3.94), (2.97, 3.68), (3.0, 3.62)):
        of_chain = alpha_from(chain - 1, draft_len=5)
        assert alpha_from(tree - 1, "eagle-25") == pytest.approx(of_chain, abs=0.03)


def test_the_guess_is_the_normal_law_given_the_rows() -> None:
    """On few rows, against the conditional law of one joint normal, written out."""
    some = [row for row in facts() if row.method == "medusa"][:6]
    small, asked = Model.of(some), Case("medusa", None, None, None, "code", None, 0.0, 4)
    cases = [*small.cases, asked]
    named = [Case(*("new" if value is None else value for value in case)) for case in cases]  # type: ignore[arg-type]
    joint = covariance(named, named) + RESIDUAL_SD**2 * np.eye(len(named))
    alpha = np.array([row.alpha for row in small.rows])
    y = np.log(alpha / (1 - alpha)) - MEAN
    gain = joint[-1, :-1] @ np.linalg.inv(joint[:-1, :-1])
    guess = small.guess([asked])
    assert guess.mean[0] == pytest.approx(MEAN + gain @ y)
    assert guess.sd[0] == pytest.approx(WIDENING * np.sqrt(joint[-1, -1] - gain @ joint[:-1, -1]))


def test_what_is_known_narrows_and_what_is_not_widens() -> None:
    def width(**known: str) -> float:
        low, _, high = find_prior("eagle3", temperature=0, **known).accepted(3)  # type: ignore[arg-type]
        return high - low

    any_of_all = width()
    assert width(target="llama-3.1-8b") < any_of_all and width(task="math") < any_of_all
    assert width(target="qwen3-32b") > width(target="qwen3-30b-a3b")  # of a known family, itself unknown
    published = "AQ-MedAI/Kimi-K2-Instruct-eagle3"
    with_draft = width(target="kimi-k2", task="gsm8k", draft=published)
    assert with_draft < 0.5 * width(target="kimi-k2", task="gsm8k")
    truth = next(r for r in facts() if (r.draft, r.dataset, r.draft_len) == (published, "gsm8k", 3))
    low, _, high = find_prior("eagle3", target="kimi-k2", task="gsm8k", temperature=0, draft=published).accepted(3)
    assert low < truth.value - 1 < high
    means = [find_prior("eagle2", task="chat", temperature=t).accepted(5)[1] for t in (0.0, 0.5, 1.0)]
    assert means == sorted(means, reverse=True)


def test_the_profile_says_what_the_prior_says() -> None:
    found = find_prior("eagle3", target="llama-3.1-8b", task="chat", temperature=0)
    profile = found.profile
    assert profile.max_depth == found.max_depth and profile.max_ranks == 1 and profile.num_trials is None
    assert (
        profile.accept_prob.tolist()
        == prior("eagle3", target="llama-3.1-8b", task="chat", temperature=0).accept_prob.tolist()
    )
    low, mean, high = tokens_interval(DraftTree.chain(4), profile, 0.9, np.random.default_rng(0))
    own = found.accepted(4)
    assert mean - 1 == pytest.approx(own[1], rel=0.04)
    assert low - 1 == pytest.approx(own[0], abs=0.15) and high - 1 >= own[2] - 0.05
    assert "published priors" in profile.source and "nearest" in profile.source
    assert found.nearest[0].method == "eagle3" and len(found.nearest) == 5


@pytest.mark.parametrize(
    ("asked", "field", "words"),
    [
        ({"method": "eagle4"}, "method", "nearest known are eagle"),
        ({"method": "rest"}, "method", "tokens per round only"),
        ({"method": "eagle3", "target": "falcon-7b"}, "target", "nearest known are"),
        ({"method": "mtp", "target": "qwen3-8b"}, "target", "qwen3.8-27b"),
        ({"method": "medusa", "task": "translation"}, "task", "nearest known are"),
        ({"method": "medusa", "temperature": 1.0}, "temperature", "published at (0)"),
        ({"method": "eagle3", "temperature": 1.5}, "temperature", "must lie among"),
        ({"method": "eagle3", "draft": "mine"}, "draft", "nearest known are"),
    ],
)
def test_what_nobody_published_is_refused_with_what_is_near(asked: dict[str, object], field: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        find_prior(**{"temperature": 0.0, **asked})  # type: ignore[arg-type]
    assert caught.value.field == field and words in str(caught.value)


def test_names_of_models() -> None:
    names = ("lmsys/vicuna-13b-v1.3", "mistralai/Mixtral-8x22B-Instruct-v0.1", "Qwen/Qwen3-32B")
    assert [family_of(name) for name in names] == ["vicuna", "mixtral", "qwen3"]


def test_as_input_of_a_scenario() -> None:
    said = {"kind": "prior", "method": "eagle3", "target": "llama-3.1-8b", "task": "chat", "temperature": 0}
    plain = parse(PriorInput, said, "x").profile()
    assert plain.max_ranks == 1 and plain.task_sd > 0.2
    shares = {"rank_shares": [0.3, 0.15], "rank_shares_source": "made up for tests", "extend_to_depth": 12}
    wide = parse(PriorInput, said | shares, "x").profile()
    assert wide.max_depth == 12 and wide.accept_prob[0, 1] == pytest.approx(0.3 * (1 - wide.accept_prob[0, 0]))
    assert wide.task_sd == plain.task_sd
    with pytest.raises(InputError):
        parse(PriorInput, {key: said[key] for key in ("kind", "method")}, "x")  # the temperature has no default
    with pytest.raises(InputError):
        parse(PriorInput, said | {"method": "eagle4"}, "x").profile()


def test_intervals_hold_where_a_whole_study_is_left_out() -> None:
    """90 % intervals, of rows and of studies each counted once; one, without its chat format, is far off."""
    held: dict[str, list[bool]] = {}
    reach = stats.norm.ppf(0.95)
    for study in {row.study for row in model().rows}:
        others = without_study(study)
        methods = {row.method for row in others.rows}
        rows = [row for row in model().rows if row.study == study and row.method in methods]
        if not rows:
            continue
        guess = others.guess([case_of(row) for row in rows])
        alpha = np.array([row.alpha for row in rows])
        apart = np.abs(np.log(alpha / (1 - alpha)) - guess.mean) / guess.sd
        held[study] = (apart < reach).tolist()
    every = np.concatenate(list(held.values()))
    assert len(held) >= 9 and len(every) > 350
    assert 0.85 <= every.mean() <= 0.95
    assert 0.85 <= np.mean([np.mean(found) for found in held.values()]) <= 0.97
