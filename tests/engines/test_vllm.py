"""Export to vLLM: exact words, refusals, and our copy of its rules."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.engines.plan import DraftPlan, UnexpressibleError
from specsim.engines.vllm import to_vllm
from specsim.engines.vllm_rules import check_schedule, check_vllm
from specsim.errors import InputError

VERSIONS = ["0.24.0", "0.28.0", "0.33.0"]
EAGLE = DraftPlan.chain("meta-llama/Llama-3.1-70B-Instruct", "eagle3", 4, draft="org/head-EAGLE3", tensor_parallel=4)
TIERS = ((1, 8, 4), (9, 32, 2), (33, 256, 0))


def read_command(command: str) -> DraftPlan:
    """The plan that a command says, read as a shell and as vLLM read it."""
    words = shlex.split(command)
    assert words[:2] == ["vllm", "serve"]
    flags = dict(zip(words[3::2], words[4::2], strict=True))
    config = json.loads(flags.get("--speculative-config", "{}"))
    tiers = config.get("num_speculative_tokens_per_batch_size")
    return DraftPlan.chain(
        words[2],
        config.get("method", "none"),
        config.get("num_speculative_tokens", 0),
        draft=config.get("model"),
        draft_len_by_batch=tiers and tuple(tuple(tier) for tier in tiers),
        tensor_parallel=int(flags["--tensor-parallel-size"]),
        draft_tensor_parallel=config.get("draft_tensor_parallel_size"),
        max_running=flags.get("--max-num-seqs"),
        survival=config.get("synthetic_acceptance_rates"),
    )


def test_the_worked_example_word_for_word() -> None:
    export = to_vllm(EAGLE.but(draft_len_by_batch=TIERS, draft_tensor_parallel=1), "0.33.0")
    assert export.config == {
        "method": "eagle3",
        "model": "org/head-EAGLE3",
        "num_speculative_tokens": 4,
        "draft_tensor_parallel_size": 1,
        "num_speculative_tokens_per_batch_size": [[1, 8, 4], [9, 32, 2], [33, 256, 0]],
    }
    assert export.command == (
        "vllm serve meta-llama/Llama-3.1-70B-Instruct --tensor-parallel-size 4 --speculative-config "
        '\'{"method": "eagle3", "model": "org/head-EAGLE3", "num_speculative_tokens": 4, '
        '"draft_tensor_parallel_size": 1, '
        '"num_speculative_tokens_per_batch_size": [[1, 8, 4], [9, 32, 2], [33, 256, 0]]}\''
    )
    assert any("without speculation" in note for note in export.notes)


def test_no_speculation_says_nothing_of_it() -> None:
    export = to_vllm(DraftPlan(target="org/m", max_running=64), "0.33.0")
    assert export.command == "vllm serve org/m --tensor-parallel-size 1 --max-num-seqs 64"
    assert export.config == {} and "no speculation" in export.notes[0]


def test_synthetic_acceptance_gives_our_rates_on_request_only() -> None:
    plan = EAGLE.but(survival=(0.8, 0.6, 0.4, 0.3))
    assert "synthetic_acceptance_rates" not in to_vllm(plan, "0.33.0").config
    config = to_vllm(plan, "0.33.0", synthetic=True).config
    assert config["rejection_sample_method"] == "synthetic"
    assert config["synthetic_acceptance_rates"] == [0.8, 0.6, 0.4, 0.3]
    with pytest.raises(InputError, match="survival: is required"):
        to_vllm(EAGLE, "0.33.0", synthetic=True)


def test_a_tree_is_refused_with_the_chain_of_its_depth() -> None:
    with pytest.raises(UnexpressibleError, match=r"chains only.*nearest expressible plan: eagle3 chain of 2") as error:
        to_vllm(EAGLE.but(parents=(-1, 0, 0, 1)), "0.33.0")
    assert error.value.nearest == EAGLE.but(parents=(-1, 0, 1))
    to_vllm(error.value.nearest, "0.33.0")


def test_medusa_is_refused_from_033_on() -> None:
    plan = DraftPlan.chain("lmsys/vicuna-7b-v1.3", "medusa", 3, draft="org/medusa")
    assert to_vllm(plan, "0.32.0").config["method"] == "medusa"
    with pytest.raises(UnexpressibleError, match=r"0\.33 has no medusa drafter.*no speculation") as error:
        to_vllm(plan, "0.33.0")
    assert error.value.nearest.drafter == "none"
    with pytest.raises(UnexpressibleError, match="takes no draft length by batch size with the medusa drafter"):
        to_vllm(plan.but(draft_len_by_batch=((1, 9, 3),)), "0.32.0")


@pytest.mark.parametrize(("draft", "closest"), [(2, 1), (3, 8), (16, 8)])
def test_the_draft_is_sharded_like_the_target_or_not_at_all(draft: int, closest: int) -> None:
    with pytest.raises(UnexpressibleError, match="1 or 8 devices") as error:
        to_vllm(EAGLE.but(tensor_parallel=8, draft_tensor_parallel=draft), "0.33.0")
    assert error.value.nearest.draft_tensor_parallel == closest


@pytest.mark.parametrize("version", ["0.19.1", "0.23.0", "0.34.0"])
def test_an_unknown_version_is_not_guessed(version: str) -> None:
    with pytest.raises(InputError, match="vllm version"):
        to_vllm(EAGLE, version)


def test_a_dotted_folder_was_a_python_class_before_028() -> None:
    plan = DraftPlan.chain("org/m", "draft_model", 2, draft="llama-160m-v1.0")
    to_vllm(plan, "0.28.0")
    with pytest.raises(InputError, match=r"write \./name"):
        to_vllm(plan, "0.24.0")


names = st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=20).filter(
    lambda text: text.isprintable() and not text.startswith("-")
)


@st.composite
def plans(draw: st.DrawFn, drafters: tuple[str, ...] = ("draft_model", "eagle", "eagle3", "mtp", "ngram")) -> DraftPlan:
    drafter = draw(st.sampled_from(drafters))
    lengths = draw(st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any))
    ends = draw(st.lists(st.integers(1, 500), min_size=len(lengths), max_size=len(lengths), unique=True).map(sorted))
    tiers = tuple(zip([1, *(end + 1 for end in ends)], ends, lengths, strict=False))
    tensor_parallel = draw(st.integers(1, 8))
    rates = draw(st.lists(st.floats(0, 1), min_size=max(lengths), max_size=max(lengths)))
    own_weights = drafter != "ngram"
    return DraftPlan.chain(
        draw(names),
        drafter,  # type: ignore[arg-type]
        max(lengths),
        draft=f"./{draw(names)}" if own_weights else None,
        draft_len_by_batch=draw(st.sampled_from([None, tiers])),
        tensor_parallel=tensor_parallel,
        draft_tensor_parallel=draw(st.sampled_from([None, 1, tensor_parallel])) if own_weights else None,
        max_running=draw(st.none() | st.integers(1, 512)),
        survival=tuple(round(rate, 6) for rate in sorted(rates, reverse=True)),
    )


@given(plan=plans(), version=st.sampled_from(VERSIONS))
def test_every_chain_is_exported_accepted_and_read_back(plan: DraftPlan, version: str) -> None:
    export = to_vllm(plan, version, synthetic=True)
    check_vllm(export.config, version, tensor_parallel=plan.tensor_parallel)
    assert read_command(export.command) == plan


MUTATIONS: list[tuple[dict[str, Any], str]] = [
    ({"speculative_token_tree": "[(0,)]"}, "no such key"),
    ({"disable_by_batch_size": 8}, "no such key"),
    ({"num_speculative_token": 4}, "no such key"),
    ({"tensor_parallel_size": 4}, "draft_tensor_parallel_size"),
    ({"method": "lookahead"}, "method: must be one of"),
    ({"method": None}, "method: must be one of"),
    ({"method": "medusa"}, "method: must be one of"),
    ({"model": None}, "model: is required"),
    ({"model": 7}, "model: must be"),
    ({"num_speculative_tokens": 0}, "integer >= 1"),
    ({"num_speculative_tokens": -1}, "integer >= 1"),
    ({"num_speculative_tokens": True}, "integer >= 1"),
    ({"num_speculative_tokens": 4.0}, "integer >= 1"),
    ({"draft_tensor_parallel_size": 2}, "must be 1 or 4"),
    ({"draft-tensor-parallel-size": 2}, "must be 1 or 4"),
    ({"prompt_lookup_min": 6, "prompt_lookup_max": 5}, "prompt_lookup_min: must be <="),
    ({"rejection_sample_method": "strict"}, "rejection_sample_method"),
    ({"draft_sample_method": "beam"}, "draft_sample_method"),
    ({"synthetic_acceptance_length": 2.0}, "must be synthetic"),
    ({"rejection_sample_method": "synthetic"}, "exactly one"),
    ({"rejection_sample_method": "synthetic", "synthetic_acceptance_length": 5.5}, r"in \[1, 5\]"),
    ({"rejection_sample_method": "synthetic", "synthetic_acceptance_rates": [1, 1, 1]}, "4 entries"),
    ({"rejection_sample_method": "synthetic", "synthetic_acceptance_rates": [0.5, 0.6, 0.1, 0]}, "not increase"),
    ({"rejection_sample_method": "synthetic", "synthetic_acceptance_rates": [1.5, 0.6, 0.1, 0]}, r"in \[0, 1\]"),
    ({"num_speculative_tokens_per_batch_size": []}, "non-empty"),
    ({"num_speculative_tokens_per_batch_size": {"1-8": 4}}, "non-empty list"),
    ({"num_speculative_tokens_per_batch_size": [[2, 8, 4]]}, "start at batch size 1"),
    ({"num_speculative_tokens_per_batch_size": [[1, 8, 4], [8, 9, 2]]}, "overlap"),
    ({"num_speculative_tokens_per_batch_size": [[1, 8]]}, "integers"),
    ({"num_speculative_tokens_per_batch_size": [[8, 1, 2]]}, "start <= end"),
    ({"num_speculative_tokens_per_batch_size": [[1, 8, 5]]}, "<= num_speculative_tokens 4"),
    ({"num_speculative_tokens_per_batch_size": [[1, 8, -1]]}, "K >= 0"),
    ({"method": "suffix", "num_speculative_tokens_per_batch_size": [[1, 8, 1]]}, "not read with method suffix"),
]


@pytest.mark.parametrize(("mutation", "message"), MUTATIONS)
def test_a_mutated_config_is_refused(mutation: dict[str, Any], message: str) -> None:
    config = {"method": "eagle3", "model": "org/head", "num_speculative_tokens": 4}
    assert check_vllm(config, "0.33.0", tensor_parallel=4) == []
    with pytest.raises(InputError, match=message):
        check_vllm(config | mutation, "0.33.0", tensor_parallel=4)


def test_keys_and_verifiers_belong_to_versions() -> None:
    config = {"method": "draft_model", "model": "a/b", "num_speculative_tokens": 3, "use_heterogeneous_vocab": True}
    check_vllm(config, "0.28.0")
    with pytest.raises(InputError, match=r"use_heterogeneous_vocab: vLLM 0\.24\.0 has no such key"):
        check_vllm(config, "0.24.0")
    check_vllm({"method": "ngram", "num_speculative_tokens": 3, "rejection_sample_method": "fly"}, "0.33.0")
    with pytest.raises(InputError, match="block, standard, synthetic"):
        check_vllm({"method": "ngram", "num_speculative_tokens": 3, "rejection_sample_method": "fly"}, "0.28.0")


def test_an_unsorted_schedule_is_sorted_as_vllm_sorts_it() -> None:
    assert check_schedule([[9, 32, 2], [1, 8, 4]], 4) == ["batch sizes above 32 keep K = 2"]
