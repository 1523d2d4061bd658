"""What engines count: read right, kept with its number, refused where it does not add up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from specsim.acceptance import (
    PathTrie,
    RequestSpread,
    RoundSampler,
    emitted_distribution,
    profile_from_counters,
    profile_from_histogram,
    tokens_interval,
    tokens_per_round,
)
from specsim.acceptance.inputs import AcceptanceInput
from specsim.acceptance.profile import AcceptanceProfile
from specsim.errors import InputError
from specsim.records import RoundRecord, save_records
from specsim.tree import DraftTree

READ: TypeAdapter[Any] = TypeAdapter(AcceptanceInput)


def read(**said: Any) -> Any:
    return READ.validate_python({"source": "made up for tests", **said}).profile()


@pytest.mark.parametrize(
    ("counted", "tokens", "first"),
    [
        # vLLM's sample of three positions: 1 + 1650 / 1000 tokens.
        ({"kind": "counters", "accepted_by_position": [800, 520, 330], "num_drafts": 1000, "num_accepted": 1650,
          "num_drafted": 3000}, 2.65, 1000),
        # llama.cpp, captured: 684 of 335 drafts.
        ({"kind": "counters", "accepted_by_position": [267, 197, 126, 94], "num_drafts": 335, "num_accepted": 684},
         1 + 684 / 335, 335),
        # vLLM of one request: six rounds, nine accepted; AIPerf's sparse form of it.
        ({"kind": "accept_histogram", "rounds_by_accepted": [2, 1, 1, 2], "num_rounds": 6, "num_accepted": 9}, 2.5, 6),
        ({"kind": "accept_histogram", "rounds_by_accepted": {"0": 2, "1": 1, "2": 1, "3": 2}}, 2.5, 6),
    ],
)  # fmt: skip
def test_engines_counts(counted: dict[str, Any], tokens: float, first: float) -> None:
    profile = read(**counted)
    tree = DraftTree.chain(profile.max_depth)
    assert tokens_per_round(tree, profile) == pytest.approx(tokens)
    assert profile.num_trials[0] == first
    lo, _, hi = tokens_interval(tree, profile, 0.9, np.random.default_rng(0))
    assert lo < tokens < hi


def test_drafts_of_many_lengths_need_what_was_drafted_where() -> None:
    """1000 drafts, half of them of two tokens, 0.8 and then 0.5 accepted: TensorRT-LLM counts both by position."""
    profile = profile_from_counters([800, 200], drafted_by_position=[1000, 500])
    assert profile.accept_prob[:, 0] == pytest.approx([0.8, 0.5])
    assert profile.num_trials is not None and profile.num_trials.tolist() == [1000, 400]
    with pytest.raises(InputError, match="num_drafted: must be the 2000 of drafts of one length; of several, give"):
        profile_from_counters([800, 200], num_drafts=1000, num_drafted=1500)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"accepted_by_position": [5, 6], "num_drafts": 9}, r"accepted_by_position\[1\]: must not rise, at most 5"),
        (
            {"accepted_by_position": [5, 3], "num_drafts": 4},
            r"accepted_by_position\[0\]: must be at most the 4 drafted",
        ),
        ({"accepted_by_position": [5, 3], "num_drafts": 9, "num_accepted": 9}, "must sum to the 9 accepted tokens"),
        ({"accepted_by_position": [5, -1], "num_drafts": 9}, r"accepted_by_position\[1\]: must be >= 0 and finite"),
        ({"accepted_by_position": [5, 3]}, "num_drafts: must be given, or drafted_by_position in its place"),
        ({"accepted_by_position": [5], "drafted_by_position": [9, 9]}, "must be one for each of 1 positions, got 2"),
    ],
)
def test_counters_that_do_not_add_up(counts: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        profile_from_counters(**counts)


def test_histograms_that_do_not_add_up() -> None:
    with pytest.raises(InputError, match="rounds_by_accepted: must sum to the 7 rounds, got 6"):
        profile_from_histogram([2, 1, 1, 2], num_rounds=7)
    with pytest.raises(InputError, match="rounds_by_accepted: must hold the 8 accepted tokens, got 9"):
        profile_from_histogram([2, 1, 1, 2], num_accepted=8)
    with pytest.raises(InputError, match="must count rounds of 0 and of at least 1 accepted"):
        profile_from_histogram({0: 4})


def test_heads_and_vectors_keep_their_counts() -> None:
    heads = read(kind="cumulative_topk", accuracy=[[0.56, 0.67], [0.32, 0.42]], num_trials=500)
    assert heads.num_trials.tolist() == [500, 500]
    ranks = read(kind="rank_vector", vector=[0.6, 0.1, 0.2], max_depth=3, num_trials=667, isotonic=True)
    assert ranks.accept_prob[2] == pytest.approx([0.6, 0.15, 0.15])
    assert ranks.tied_from == 1
    sweep = read(kind="draft_len_sweep", tokens_per_round={"1": 1.8, "2": 2.3, "4": 3.5}, smooth=True)
    assert tokens_per_round(DraftTree.chain(4), sweep) == pytest.approx(3.5)
    shares = read(kind="survival", survival=[0.8, 0.4, 0.5], num_drafts=10, smooth=True)
    assert shares.accept_prob[:, 0] == pytest.approx([0.8, 0.45 / 0.8, 1.0])


def simulated_requests() -> list[list[int]]:
    truth = AcceptanceProfile.from_survival([0.8, 0.6, 0.45])
    pmf = emitted_distribution(DraftTree.chain(3), truth)
    truth = AcceptanceProfile(truth.accept_prob, spread=RequestSpread.measured(0.5, 0.1, pmf))
    sampler, rng = RoundSampler(DraftTree.chain(3), truth), np.random.default_rng(0)
    states = sampler.requests(rng, 200, equal="rounds")
    return np.stack([sampler.tokens[sampler.draw(rng, states)] - 1 for _ in range(60)], axis=1).tolist()  # type: ignore[no-any-return]


def test_each_request_by_itself_tells_the_spread() -> None:
    accepted = simulated_requests()
    profile = read(kind="requests", accepted=accepted)
    pmf = emitted_distribution(DraftTree.chain(3), profile)
    assert profile.spread.between_sd(pmf) == pytest.approx(0.5, abs=0.06)
    assert profile.spread.lag1(pmf) == pytest.approx(0.1, abs=0.04)
    assert profile.num_requests == pytest.approx(200, rel=0.2)
    histograms = [np.bincount(row, minlength=4).tolist() for row in accepted]
    again = read(kind="requests", histograms=histograms, lag1=0.1)
    assert again.accept_prob == pytest.approx(profile.accept_prob)
    assert again.spread.between_sd(pmf) == pytest.approx(0.5, abs=0.06)
    said = read(kind="counters", accepted_by_position=[800, 600, 450], num_drafts=1000, num_requests=20,
                request_spread={"between_sd": 0.5, "lag1": 0.1, "draft_len": 3})  # fmt: skip
    tree, rng = DraftTree.chain(3), np.random.default_rng(0)
    alone = read(kind="counters", accepted_by_position=[800, 600, 450], num_drafts=1000)
    wide, narrow = (tokens_interval(tree, known, 0.9, rng) for known in (said, alone))
    assert wide.hi - wide.lo > 2 * (narrow.hi - narrow.lo)
    with pytest.raises(InputError, match="num_requests: must say how many requests the counts come from"):
        read(kind="counters", accepted_by_position=[8], num_drafts=10,
             request_spread={"between_sd": 0.2, "lag1": 0.1, "draft_len": 1})  # fmt: skip
    with pytest.raises(InputError, match="lag1: must be given: histograms do not hold the order of rounds"):
        read(kind="requests", histograms=histograms)
    with pytest.raises(InputError, match="accepted: must be given, or path or histograms"):
        read(kind="requests")


def test_records_become_path_counts(tmp_path: Any) -> None:
    def record(ranks: tuple[int, ...], path: tuple[int, ...]) -> RoundRecord:
        return RoundRecord(
            request=0, method="tree", context_tokens=1, num_drafted=3, accepted_ranks=ranks, parents=(0, 0, 1),
            path=path, num_emitted=len(ranks) + 1, draft_s=0, verify_s=0, host_s=0, clock="cpu",
        )  # fmt: skip

    save_records([record((0, 0), (1, 3)), record((1,), (2,)), record((), ()), record((0,), (1,))], tmp_path / "r.jsonl")
    trie = read(kind="records", path=str(tmp_path / "r.jsonl"))
    assert isinstance(trie, PathTrie)
    assert trie.path_probs(DraftTree((-1, 0, 0, 1))).tolist() == [1, 0.5, 0.25, 0.25]
    with pytest.raises(InputError, match="extend_to_depth: must be absent where path counts are given, got 5"):
        read(kind="records", path=str(tmp_path / "r.jsonl"), extend_to_depth=5)
    with pytest.raises(ValidationError, match="path"):
        read(kind="records")
