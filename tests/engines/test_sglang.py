"""Export to SGLang: exact flags, refusals, and our copy of its rules."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.dialect import TopkTree, captured_below, dialect, topk_capacity
from specsim.engines.plan import DraftPlan, UnexpressibleError
from specsim.engines.sglang import ADAPTIVE_FILE, to_sglang
from specsim.engines.sglang_rules import check_adaptive_table, check_sglang, parse_flags
from specsim.errors import InputError
from specsim.tree import DraftTree

VERSIONS = ["0.5.5", "0.5.14", "0.5.23"]
EAGLE = DraftPlan.chain("meta-llama/Llama-3.1-70B-Instruct", "eagle3", 4, draft="org/head", tensor_parallel=4)
TIERS = ((1, 8, 4), (9, 32, 2), (33, 256, 0))
KINDS = {"STANDALONE": "draft_model", "EAGLE": "eagle", "EAGLE3": "eagle3", "NEXTN": "mtp", "NGRAM": "ngram"}


def read_command(command: str, files: dict[str, str]) -> DraftPlan:
    """The plan that a command and its files say, read as a shell and as SGLang read them."""
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "sglang.launch_server"]
    flags = parse_flags(words[3:])
    drafter = KINDS[flags["--speculative-algorithm"]] if "--speculative-algorithm" in flags else "none"
    steps = int(flags.get("--speculative-num-steps", int(flags.get("--speculative-num-draft-tokens", 1)) - 1))
    topk, nodes = int(flags.get("--speculative-eagle-topk", 1)), int(flags.get("--speculative-num-draft-tokens", 1))
    tiers = None
    if "--speculative-adaptive" in flags:
        slots = json.loads(files[flags["--speculative-adaptive-config"]])
        starts = [int(key) for key in slots]
        # The table has no last end, so the plans below end their last tier where this says.
        ends = [start - 1 for start in starts[1:]] + [starts[-1]]
        tiers = tuple(zip(starts, ends, [slot["candidate_steps"][0] for slot in slots.values()], strict=True))
    return DraftPlan(
        target=flags["--model-path"],
        drafter=drafter,  # type: ignore[arg-type]
        draft=flags.get("--speculative-draft-model-path"),
        parents=DraftTree.chain(steps).parents if topk == 1 else (-1,),
        topk_tree=TopkTree(steps=steps, topk=topk, num_nodes=nodes) if topk > 1 else None,
        draft_len_by_batch=tiers,
        tensor_parallel=int(flags["--tp-size"]),
        max_running=flags.get("--max-running-requests"),  # type: ignore[arg-type]
    )


def test_a_chain_counts_its_root_word_for_word() -> None:
    export = to_sglang(EAGLE.but(max_running=64), "0.5.23")
    assert export.command == (
        "python -m sglang.launch_server --model-path meta-llama/Llama-3.1-70B-Instruct --tp-size 4 "
        "--max-running-requests 64 --speculative-algorithm EAGLE3 --speculative-draft-model-path org/head "
        "--speculative-num-steps 4 --speculative-eagle-topk 1 --speculative-num-draft-tokens 5"
    )
    assert export.notes == () and export.files == {}


def test_the_cap_on_running_requests_is_said() -> None:
    assert any("caps it at 48" in note for note in to_sglang(EAGLE, "0.5.23").notes)
    assert not any("48" in note for note in to_sglang(DraftPlan(target="org/m"), "0.5.23").notes)


def test_no_speculation_says_nothing_of_it() -> None:
    export = to_sglang(DraftPlan(target="org/m"), "0.5.5")
    assert export.command == "python -m sglang.launch_server --model-path org/m --tp-size 1"
    assert export.config == {} and "no speculation" in export.notes[0]


def test_a_grown_tree_is_a_triple() -> None:
    tree = TopkTree(steps=5, topk=4, num_nodes=8)
    config = to_sglang(EAGLE.but(parents=(-1,), topk_tree=tree), "0.5.5").config
    assert [config[f"--speculative-{name}"] for name in ("num-steps", "eagle-topk", "num-draft-tokens")] == [5, 4, 8]


def test_an_ngram_chain_leaves_steps_and_topk_to_the_trie() -> None:
    export = to_sglang(DraftPlan.chain("org/m", "ngram", 7), "0.5.23")
    assert export.config == {
        "--speculative-algorithm": "NGRAM",
        "--speculative-num-draft-tokens": 8,
        "--speculative-ngram-min-bfs-breadth": 1,
        "--speculative-ngram-max-bfs-breadth": 1,
    }


def test_the_schedule_is_a_table_of_single_candidates() -> None:
    export = to_sglang(EAGLE.but(draft_len_by_batch=TIERS), "0.5.23")
    assert json.loads(export.files[ADAPTIVE_FILE]) == {
        "1": {"candidate_steps": [4]},
        "9": {"candidate_steps": [2]},
        "33": {"candidate_steps": [0]},
    }
    assert export.command.endswith(
        "--speculative-num-draft-tokens 5 --speculative-adaptive --speculative-adaptive-config draft_len_by_batch.json"
    )


def test_tiers_must_end_on_captured_sizes() -> None:
    # 9 is padded to 10 and would get the second tier; 35 is padded to 40 and would get the third.
    with pytest.raises(UnexpressibleError, match="captured graph size") as error:
        to_sglang(EAGLE.but(draft_len_by_batch=((1, 9, 4), (10, 35, 2), (36, 99, 0))), "0.5.23")
    assert error.value.nearest.draft_len_by_batch == ((1, 8, 4), (9, 32, 2), (33, 99, 0))
    to_sglang(error.value.nearest, "0.5.23")


def test_a_tier_between_captured_sizes_is_lost_with_its_draft_length() -> None:
    with pytest.raises(UnexpressibleError) as error:
        to_sglang(EAGLE.but(draft_len_by_batch=((1, 8, 2), (9, 9, 4), (10, 99, 1))), "0.5.23")
    assert error.value.nearest == EAGLE.but(parents=(-1, 0, 1), draft_len_by_batch=((1, 8, 2), (9, 99, 1)))


@pytest.mark.parametrize(
    ("changes", "version", "reason"),
    [
        ({"drafter": "medusa"}, "0.5.23", "no medusa drafter"),
        ({"parents": (-1, 0, 0, 1)}, "0.5.23", "grows its trees at run time"),
        ({"draft_tensor_parallel": 1}, "0.5.23", "shards the draft over 4 devices here, not over 1"),
        ({"draft_len_by_batch": TIERS}, "0.5.9", "no draft length by batch size"),
        ({"draft_len_by_batch": TIERS, "drafter": "draft_model"}, "0.5.23", "with the draft_model drafter"),
    ],
)
def test_what_sglang_lacks_is_refused_with_the_nearest_plan(changes: Any, version: str, reason: str) -> None:
    with pytest.raises(UnexpressibleError, match=reason) as error:
        to_sglang(EAGLE.but(**changes), version)
    to_sglang(error.value.nearest, version)


def test_several_refusals_come_at_once() -> None:
    plan = EAGLE.but(parents=(-1, 0, 0, 1), draft_tensor_parallel=2, survival=(0.9, 0.5))
    with pytest.raises(UnexpressibleError, match=r"run time.* and .*shards") as error:
        to_sglang(plan, "0.5.23")
    assert error.value.nearest == EAGLE.but(
        parents=(-1,), topk_tree=TopkTree(steps=2, topk=2, num_nodes=4), draft_tensor_parallel=4
    )


names = st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=20).filter(
    lambda text: text.isprintable() and not text.startswith("-") and text == text.strip()
)


@st.composite
def plans(draw: st.DrawFn) -> DraftPlan:
    drafter = draw(st.sampled_from(["draft_model", "eagle", "eagle3", "mtp", "ngram"]))
    plan: dict[str, Any] = {
        "target": draw(names),
        "drafter": drafter,
        "draft": draw(names) if drafter != "ngram" else None,
        "tensor_parallel": draw(st.integers(1, 8)),
        "max_running": draw(st.none() | st.integers(1, 512)),
    }
    if drafter == "ngram" or draw(st.booleans()):
        return DraftPlan(**plan, parents=DraftTree.chain(draw(st.integers(1, 16))).parents)
    steps, topk = draw(st.integers(1, 8)), draw(st.integers(2, 8))
    nodes = draw(st.integers(2, topk_capacity(steps, topk)))
    return DraftPlan(**plan, topk_tree=TopkTree(steps=steps, topk=topk, num_nodes=nodes))


@given(plan=plans(), version=st.sampled_from(VERSIONS))
def test_every_plan_is_exported_accepted_and_read_back(plan: DraftPlan, version: str) -> None:
    export = to_sglang(plan, version)
    check_sglang(shlex.split(export.command)[3:], version)
    assert read_command(export.command, export.files) == plan


def route(slots: dict[str, Any], batch: int) -> int:
    """Steps that SGLang takes at ``batch``: padded up to a captured size, then the last slot at or below it."""
    row = dialect("sglang", "0.5.23")
    padded = next(size for size in range(batch, 5000) if captured_below(row, size) == size)
    return int(slots[str(max(int(key) for key in slots if int(key) <= padded))]["candidate_steps"][0])


@given(
    ends=st.lists(st.sampled_from([1, 2, 4, 8, 16, 32, 48, 64, 128, 256]), min_size=1, unique=True).map(sorted),
    lengths=st.lists(st.integers(0, 7), min_size=10, max_size=10),
)
def test_every_batch_gets_the_draft_length_of_its_tier(ends: list[int], lengths: list[int]) -> None:
    tiers = tuple(zip([1, *(end + 1 for end in ends)], ends, [lengths[0] + 1, *lengths[1:]], strict=False))
    plan = DraftPlan.chain(
        "t", "eagle", max(draft_len for _, _, draft_len in tiers), draft="d", draft_len_by_batch=tiers
    )
    slots = json.loads(to_sglang(plan, "0.5.23").files[ADAPTIVE_FILE])
    for start, end, draft_len in tiers:
        assert {route(slots, batch) for batch in range(start, end + 1)} == {draft_len}


BASE = (
    "--model-path m --speculative-algorithm EAGLE3 --speculative-draft-model-path d "
    "--speculative-num-steps 3 --speculative-eagle-topk 4 --speculative-num-draft-tokens 13"
)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("--model-path m ", "", "--model-path: is required"),
        ("--speculative-algorithm EAGLE3 ", "", "--speculative-algorithm: is required"),
        ("EAGLE3", "MEDUSA", "must be one of"),
        ("EAGLE3", "LOOKAHEAD", "must be one of"),
        ("--speculative-draft-model-path d ", "", "is required by EAGLE3"),
        ("--speculative-draft-model-path d", "--speculative-draft-model-path", "needs a value"),
        ("--speculative-num-steps 3 ", "", "must be given together"),
        ("--speculative-eagle-topk 4 ", "", "must be given together"),
        (" --speculative-num-draft-tokens 13", "", "must be given together"),
        ("topk 4", "topk 1", r"\+ 1 = 4"),
        ("topk 4", "topk 0", "integer >= 1"),
        ("steps 3", "steps x", "integer >= 1"),
        ("steps 3", "steps ٣", "integer >= 1"),
        ("tokens 13", "tokens 38", r"k\^2 = 37"),
        ("tokens 13", "tokens 1", r"in \[2"),
        ("tokens 13", "tokens 13 --speculative-num-draft-tokens 14", "given twice"),
        ("tokens 13", "tokens 13 --speculative-ngram-branch-length 8", "no such flag"),
        ("tokens 13", "tokens 13 --speculative-adaptive", "topk 1"),
        ("tokens 13", "tokens 13 --speculative-use-rejection-sampling", "topk 1"),
        ("tokens 13", "tokens 13 --speculative-adaptive-config f", "not read without"),
        ("tokens 13", "tokens 13 --speculative-accept-threshold-single 1.5", r"in \[0, 1\]"),
        ("tokens 13", "tokens 13 --max-running-requests 0", "integer >= 1"),
        ("EAGLE3", "NGRAM", "not read by NGRAM"),
    ],
)
def test_mutated_arguments_are_refused(before: str, after: str, message: str) -> None:
    assert len(check_sglang(BASE.split(), "0.5.23")) == 1  # the cap on running requests
    with pytest.raises(InputError, match=message):
        check_sglang(BASE.replace(before, after).split(), "0.5.23")


def test_a_tree_beyond_the_tight_limit_is_warned_of() -> None:
    warnings = check_sglang(BASE.replace("13", "14").split(), "0.5.23")
    assert any("above S k + 1 = 13" in warning for warning in warnings)


def test_flags_belong_to_versions() -> None:
    old = ["--model-path", "m", "--speculative-algorithm", "NGRAM", "--speculative-ngram-branch-length", "18"]
    check_sglang(old, "0.5.5")
    with pytest.raises(InputError, match=r"SGLang 0\.5\.23 has no such flag"):
        check_sglang(old, "0.5.23")
    with pytest.raises(InputError, match=r"SGLang 0\.5\.5 has no such flag"):
        check_sglang([*BASE.split(), "--speculative-use-rejection-sampling"], "0.5.5")


@pytest.mark.parametrize(
    "table",
    [
        [],
        {},
        {"candidate_steps": [1, 3, 7]},  # the flat form of older documentation, which 0.5.23 refuses
        {"1": {}},
        {"1": {"candidate_steps": []}},
        {"1": {"candidate_steps": [-1, 3]}},
        {"1": {"candidate_steps": [True]}},
        {"1": {"candidate_steps": [3.0]}},
        {"1": {"candidate_steps": [2]}},
        {"8": {"candidate_steps": [3]}},
        {"1": {"candidate_steps": [3]}, "01": {"candidate_steps": [3]}},
    ],
)
def test_a_wrong_adaptive_table_is_refused(table: Any) -> None:
    with pytest.raises(InputError):
        check_adaptive_table(table, 3)
