"""One plan in the words of TensorRT-LLM, llama.cpp, Transformers, LMDeploy, MLC-LLM and aiconfigurator."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from specsim.dialect import TopkTree, dialect
from specsim.engines.answer import EXPORTERS
from specsim.engines.llamacpp import check_llamacpp, detected_version, to_llamacpp
from specsim.engines.plan import DraftPlan, UnexpressibleError, mean_accepted
from specsim.engines.sglang import to_sglang
from specsim.engines.small_surfaces import (
    check_transformers,
    to_aiconfigurator,
    to_lmdeploy,
    to_mlc,
    to_transformers,
)
from specsim.engines.tensorrt_llm import check_tensorrt_llm, to_tensorrt_llm, yaml_of
from specsim.errors import InputError
from specsim.tree import DraftTree

TIERS = ((1, 8, 4), (9, 32, 2), (33, 64, 0))
NEWEST = {"vllm": "0.33.0", "sglang": "0.5.23", "tensorrt-llm": "1.4.0rc1", "llama.cpp": "0c1e57098", "transformers": "5.23.0", "lmdeploy": "0.18.0", "mlc-llm": "04e38057", "aiconfigurator": "0.12.0"}  # fmt: skip  # noqa: E501


def chain(drafter: str = "eagle3", draft_len: int = 4, **others: Any) -> DraftPlan:
    draft = None if drafter in ("ngram", "mtp") else "org/head"
    return DraftPlan.chain("org/target", drafter, draft_len, draft=draft, **others)  # type: ignore[arg-type]


def yaml_read(text: str) -> dict[str, Any]:
    """The subset of YAML that is written: mappings by indentation, JSON scalars, whole numbers as keys."""
    root: dict[Any, Any] = {}
    stack: list[tuple[int, dict[Any, Any]]] = [(-1, root)]
    for line in text.splitlines():
        depth, (key, _, value) = len(line) - len(line.lstrip()), line.strip().partition(":")
        while stack[-1][0] >= depth:
            stack.pop()
        name: Any = int(key) if key.isdecimal() else key
        stack[-1][1][name] = {} if not value else json.loads(value)
        if not value:
            stack.append((depth, stack[-1][1][name]))
    return root


def test_tensorrt_llm_reversed_its_schedule() -> None:
    """The plan of 4 up to 8, 2 up to 32 and none above, by the last batch size of each tier."""
    plan = chain(draft_len_by_batch=TIERS, tensor_parallel=2, max_running=128)
    written = to_tensorrt_llm(plan, "1.4.0rc1")
    read = yaml_read(written.files["trtllm.yaml"])
    assert read["speculative_config"]["draft_len_schedule"] == {8: 4, 32: 2}
    assert (read["tensor_parallel_size"], read["max_batch_size"]) == (2, 128)
    assert any("16888" in note for note in written.notes)
    # Where the last tier drafts, it holds up to all that may run: above its last key TensorRT-LLM drafts nothing.
    lasting = chain(draft_len_by_batch=((1, 8, 4), (9, 32, 2)), max_running=128)
    assert to_tensorrt_llm(lasting, "1.4.0").config["draft_len_schedule"] == {8: 4, 128: 2}
    # 1.2 may mean either: only one length with an end is written, in a word that never changed.
    with pytest.raises(UnexpressibleError) as caught:
        to_tensorrt_llm(plan, "1.2.1")
    nearest = to_tensorrt_llm(caught.value.nearest, "1.2.1").config
    assert nearest == {"decoding_type": "Eagle3", "max_draft_len": 4, "speculative_model_dir": "org/head", "max_concurrency": 32}  # fmt: skip  # noqa: E501
    for unknown in ("1.3.0rc5", "1.5.0", "1.1.0", "latest"):
        with pytest.raises(InputError, match="version"):
            to_tensorrt_llm(plan, unknown)


def test_tensorrt_llm_grows_trees_within_its_limit() -> None:
    tree = DraftPlan(target="t", drafter="eagle3", draft="d", topk_tree=TopkTree(steps=3, topk=4, num_nodes=13))
    config = to_tensorrt_llm(tree, "1.3.0").config
    assert (config["max_draft_len"], config["dynamic_tree_max_topK"], config["max_total_draft_tokens"]) == (3, 4, 12)
    with pytest.raises(UnexpressibleError, match="at most 13 nodes") as caught:
        to_tensorrt_llm(tree.but(topk_tree=TopkTree(steps=3, topk=4, num_nodes=30)), "1.3.0")
    assert caught.value.nearest.topk_tree == TopkTree(steps=3, topk=4, num_nodes=13)
    assert to_tensorrt_llm(chain("mtp", 2), "1.2.1").config == {"decoding_type": "MTP", "num_nextn_predict_layers": 2}
    assert to_tensorrt_llm(chain("mtp", 2), "1.3.0").config == {"decoding_type": "MTP", "max_draft_len": 2}


GOOD = {"decoding_type": "Eagle3", "max_draft_len": 4, "speculative_model": "m"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"decoding_type": "Medusa"}, "decoding_type"),
        ({"num_speculative_tokens": 4}, "num_speculative_tokens"),
        ({"max_draft_len": 0}, "max_draft_len"),
        ({"speculative_model": None}, "speculative_model"),
        ({"use_dynamic_tree": True}, "dynamic_tree_max_topK"),
        ({"use_dynamic_tree": True, "dynamic_tree_max_topK": 2, "max_total_draft_tokens": 9}, "max_total_draft_tokens"),
        ({"draft_len_schedule": {8: 3, 32: 2}}, "draft_len_schedule"),
        ({"draft_len_schedule": {8: 4, 32: 5}}, "draft_len_schedule"),
        ({"draft_len_schedule": {0: 4}}, "draft_len_schedule"),
        ({"draft_len_schedule": {8: 4}, "max_concurrency": 8}, "draft_len_schedule"),
        ({"max_concurrency": 0}, "max_concurrency"),
    ],
)
def test_tensorrt_llm_rules(change: Mapping[str, Any], field: str) -> None:
    check_tensorrt_llm(GOOD)
    with pytest.raises(InputError) as caught:
        check_tensorrt_llm({**GOOD, **change})
    assert caught.value.field == field


def test_llamacpp() -> None:
    written = to_llamacpp(
        chain("draft_model", 3, confidence_stop=0.6, survival=(0.8, 0.6, 0.4)), "0c1e57098", synthetic=True
    )
    words = "--spec-type draft-simple --spec-draft-model org/head --spec-draft-n-max 3 --spec-draft-p-min 0.6"
    assert words in written.command and "--spec-synth-rates 0.8,0.6,0.4" in written.command
    assert to_llamacpp(chain("ngram", 8), "0c1e57098").config["--spec-ngram-simple-size-m"] == 8
    with pytest.raises(UnexpressibleError, match="no draft length by batch size"):
        to_llamacpp(chain(draft_len_by_batch=TIERS), "0c1e57098")
    with pytest.raises(InputError, match="must be 0c1e57098"):
        to_llamacpp(chain(), "b7000")
    with pytest.raises(InputError, match="older --draft-max"):
        detected_version("--draft-max, --draft, --draft-n N   number of tokens to draft (default: 16)")


@pytest.mark.parametrize(
    "argv",
    [
        ["--draft-max", "4"],
        ["--spec-type", "medusa"],
        ["--spec-draft-n-max", "-1"],
        ["--spec-draft-p-min", "1.5"],
        ["--spec-type", "draft-simple"],
        ["--spec-draft-n-max", "3", "--spec-synth-rates", "0.5,0.6,0.4"],
        ["--spec-draft-n-max", "3", "--spec-synth-rates", "0.5,0.4"],
    ],
)
def test_llamacpp_rules(argv: list[str]) -> None:
    with pytest.raises(InputError):
        check_llamacpp(argv)


def test_transformers_is_told_on_the_assistant() -> None:
    written = to_transformers(chain("draft_model", 5, confidence_stop=0.4), "5.23.0")
    assert json.loads(written.files["assistant_generation_config.json"]) == {
        "num_assistant_tokens": 5,
        "num_assistant_tokens_schedule": "constant",
        "assistant_confidence_threshold": 0.4,
    }
    assert "num_assistant_tokens" not in written.command.split("model.generate")[1]  # ignored there
    assert "prompt_lookup_num_tokens=10" in to_transformers(chain("ngram", 10), "5.23.0").command
    for wrong in ({"num_assistant_tokens": -3}, {"num_assistant_tokens_schedule": "bogus"}, {"assistant_confidence_threshold": 7.0}, {"num_tokens": 3}):  # fmt: skip  # noqa: E501
        with pytest.raises(InputError):
            check_transformers(wrong)


def test_the_smaller_surfaces() -> None:
    assert "--speculative-num-draft-tokens 3" in to_lmdeploy(chain(draft_len=3), "0.18.0").command
    assert to_mlc(chain("medusa", 4), "04e38057").config["speculative_mode"] == "medusa"
    assert to_mlc(DraftPlan(target="t"), "04e38057").config == {"speculative_mode": "disable"}
    planner = to_aiconfigurator(chain("mtp", 3, survival=(0.8, 0.6, 0.4)), "0.12.0")
    assert planner.config == {"--nextn": 3, "--nextn-accepted": 1.8}
    with pytest.raises(InputError, match="survival"):
        to_aiconfigurator(chain("mtp", 3), "0.12.0")


def test_synthetic_acceptance_counts_as_each_engine_does() -> None:
    """Survival .8, .6, .4: 1.8 accepted, 2.8 emitted."""
    plan = chain(draft_len=3, survival=(0.8, 0.6, 0.4))
    assert mean_accepted(plan) == pytest.approx(1.8)
    assert to_sglang(plan, "0.5.23", synthetic=True).env["SGLANG_SIMULATE_ACC_LEN"] == "2.8"  # bonus in
    assert to_tensorrt_llm(plan, "1.4.0", synthetic=True).env == {"TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS": "1.8"}
    assert EXPORTERS["vllm"](plan, "0.33.0", synthetic=True).config["synthetic_acceptance_rates"] == [0.8, 0.6, 0.4]
    for engine in ("transformers", "lmdeploy", "mlc-llm"):
        with pytest.raises(InputError, match="synthetic"):
            EXPORTERS[engine](plan.but(drafter="draft_model"), NEWEST[engine], synthetic=True)


@pytest.mark.parametrize("engine", EXPORTERS)
def test_what_can_not_be_said_names_a_plan_that_can(engine: str) -> None:
    """A branching static tree with everything at once: no engine has words for it, all have for its nearest."""
    tree = DraftTree((-1, 0, 0, 1, 1, 2, 3))
    plan = DraftPlan(
        target="t", drafter="mtp", parents=tree.parents, tensor_parallel=4, draft_tensor_parallel=2,
        confidence_stop=0.5, survival=(0.8, 0.5, 0.2),
    )  # fmt: skip
    with pytest.raises(UnexpressibleError) as caught:
        EXPORTERS[engine](plan, NEWEST[engine])
    nearest = caught.value.nearest
    nearest = nearest if nearest.survival or nearest.drafter == "none" else nearest.but(survival=(0.8, 0.5, 0.2))
    assert EXPORTERS[engine](nearest, NEWEST[engine]).engine == engine


@pytest.mark.parametrize("engine", EXPORTERS)
@pytest.mark.parametrize("version", ["", "0", "9.9.9", "latest", "1.2.3rc1", "\x00"])
def test_no_version_is_guessed(engine: str, version: str) -> None:
    with pytest.raises(InputError, match="version"):
        dialect(engine, version)


def test_plain_decoding_is_a_plan_everywhere() -> None:
    export: Callable[..., Any]
    for engine, export in EXPORTERS.items():
        written = export(DraftPlan(target="org/target"), NEWEST[engine])
        assert "spec" not in json.dumps(written.config) or engine == "mlc-llm"


def test_yaml_is_what_it_was() -> None:
    document = {"a": 1, "b": {"c": True, "d": {8: 4}, "e": 'say "x: #y"'}}
    assert yaml_read(yaml_of(document)) == document
