"""What engines write is read as they mean it; what contradicts itself is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_outputs import (
    AIPERF,
    LINES,
    LLAMA_LOG,
    LLAMA_METRICS,
    LLAMA_OLD_LOG,
    PER_REQUEST,
    SGLANG_LOG,
    SGLANG_NAMES,
    SPECULATIVE,
    TRT_METRICS,
    VLLM,
    VLLM_09_LOG,
    VLLM_BENCH,
    VLLM_LOG,
    VLLM_V0_LOG,
    lines,
    vllm_metrics,
)  # fmt: skip

from specsim.engines.imports import Observation, acceptance_of, merged, read_observations
from specsim.errors import InputError


def read(tmp_path: Path, text: str, before: str | None = None) -> list[Observation]:
    path, earlier = tmp_path / "seen", tmp_path / "before"
    path.write_text(text)
    if before is None:
        return read_observations(path)
    earlier.write_text(before)
    return read_observations(path, earlier)


def test_counters_of_a_scrape_and_between_two(tmp_path: Path) -> None:
    (seen,) = read(tmp_path, VLLM)
    assert (seen.num_drafts, seen.draft_len, seen.tokens_per_round) == (1000, 3, 2.65)
    assert seen.coverage == pytest.approx(1000 / 1250)  # 2900 tokens out, 1650 of them accepted drafts
    profile = acceptance_of([seen])
    assert profile.accept_prob[:, 0] == pytest.approx([0.8, 0.65, 330 / 520])
    assert profile.num_trials is not None and profile.num_trials.tolist() == [1000, 800, 520]
    (later,) = read(tmp_path, vllm_metrics(1500, 4500, (1200, 720, 430), 4400), before=VLLM)
    assert (later.num_drafts, later.num_accepted, later.num_generated) == (500, 700, 1500)
    (ranks,) = read(tmp_path, vllm_metrics(1000, 3000, (800, 520, 330), engines=4))  # data parallel: summed
    assert ranks.accepted_by_position == (800, 520, 330)


def test_other_engines_count_alike(tmp_path: Path) -> None:
    (llama,) = read(tmp_path, LLAMA_METRICS)
    assert (llama.source, llama.draft_len, llama.coverage) == ("llama.cpp counters", 4, 1.0)
    (trt,) = read(tmp_path, TRT_METRICS)
    assert trt.num_drafts == 100 and trt.draft_len is None
    # The third token was drafted in half the rounds: of the 30 that came so far 15 had one, 10 kept it.
    assert acceptance_of([trt]).accept_prob[:, 0] == pytest.approx([0.8, 30 / 80, 10 / 15])
    assert not any("low" in note for note in trt.notes)
    (varied,) = read(tmp_path, vllm_metrics(1000, 2500, (800, 520, 330)))
    assert varied.draft_len is None and any("low" in note for note in varied.notes)


def test_log_lines_of_three_generations(tmp_path: Path) -> None:
    (seen,) = read(tmp_path, VLLM_LOG)
    assert (seen.num_drafts, seen.draft_len, seen.num_running, seen.num_waiting) == (1000, 3, 8, 2)
    assert seen.tokens_per_s == 265 and seen.kv_used_frac == pytest.approx(0.095)
    assert seen.accepted_by_position == pytest.approx((800, 520, 330))
    (older,) = read(tmp_path, VLLM_09_LOG)
    assert older.num_drafts == 129 and older.tokens_per_round == pytest.approx(2.16, abs=0.005)
    (oldest,) = read(tmp_path, VLLM_V0_LOG)
    assert oldest.draft_len == 4 and oldest.num_drafts == 662
    (sglang,) = read(tmp_path, SGLANG_LOG)
    assert (sglang.draft_len, sglang.cuda_graph, sglang.context_tokens) == (3, True, 1280)
    assert sglang.step_s == pytest.approx(2.65 * 8 / 812.11)
    (llama,) = read(tmp_path, LLAMA_LOG)
    assert llama.draft_s == pytest.approx(0.0793 / 32, rel=1e-3) and llama.tokens_per_round == pytest.approx(
        2.94, abs=0.01
    )
    assert read(tmp_path, LLAMA_OLD_LOG)[0].tokens_per_round == pytest.approx(2.63)
    assert len(read(tmp_path, 3 * VLLM_LOG + SGLANG_LOG)) == 4  # pasted together


def test_rounds_are_preferred_and_exact(tmp_path: Path) -> None:
    (seen,) = read(tmp_path, json.dumps(PER_REQUEST))
    assert seen.ttft_s == pytest.approx(0.0412) and seen.tokens_per_round == 2.5
    profile = acceptance_of([seen])
    assert profile.accept_prob[:, 0] == pytest.approx([4 / 6, 3 / 4, 2 / 3])
    (record,) = read(tmp_path, json.dumps(AIPERF, indent=2))
    assert acceptance_of([record]).accept_prob == pytest.approx(profile.accept_prob)  # the histogram says the same


@pytest.mark.parametrize("names", SGLANG_NAMES)
def test_old_and_new_names_of_sglang(tmp_path: Path, names: dict[str, Any]) -> None:
    info = {"meta_info": {"spec_verify_ct": 6, "spec_accept_length": 2.67, "completion_tokens": 16, **names}}
    (seen,) = read(tmp_path, json.dumps(info))
    assert (seen.num_drafts, seen.num_accepted) == (6, 9)  # completion_tokens counts the prefill's token too


def test_benchmarks(tmp_path: Path) -> None:
    (seen,) = read(tmp_path, json.dumps(VLLM_BENCH))
    assert seen.tpot_s == 0.009 and seen.accepted_by_position == pytest.approx((800, 520, 330))
    assert len(read(tmp_path, json.dumps(VLLM_BENCH) + json.dumps(VLLM_BENCH, indent=1))) == 2  # --append-result
    plain = {**SPECULATIVE, "steps": 0, "topk": 0, "num_draft_tokens": 0, "acc_length": 1.0}
    tree = {**SPECULATIVE, "topk": 4, "num_draft_tokens": 16}
    base, chain, grown = read(tmp_path, lines(plain, SPECULATIVE, tree))
    assert base.tokens_per_round is None and chain.draft_len == 3 and grown.tree
    assert chain.tokens_per_s == pytest.approx(8 * 185.185)
    with pytest.raises(InputError, match="none of them does"):
        acceptance_of([base])
    info = {"internal_states": [{"avg_spec_accept_length": 2.4, "step_time_dict": {"1": [0.01, 0.02], "8": [0.03]}}]}
    assert [o.step_s for o in read(tmp_path, json.dumps(info))] == [None, pytest.approx(0.015), 0.03]
    (step,) = read(tmp_path, json.dumps(LINES["tensorrt-llm iteration"]))
    assert (step.draft_s, step.step_s, step.num_drafts) == (pytest.approx(0.0031), pytest.approx(0.0143), 8)
    (timing,) = read(tmp_path, json.dumps(LINES["llama.cpp timings"]))
    # 32 by the log of the same run: its last step had no room to draft.
    assert timing.num_drafts == 33 and timing.tpot_s == pytest.approx(0.22947 / 96)
    (wide,) = read(tmp_path, json.dumps(LINES["llama-batched-bench"]))
    assert (wide.num_running, wide.step_s) == (4, pytest.approx(0.200746 / 32))


def test_several_files_make_one_profile() -> None:
    short = Observation(source="a", num_drafts=100, num_accepted=100, accepted_by_position=(60, 40), num_drafted=200)
    long = Observation(source="b", num_drafts=100, num_accepted=130, accepted_by_position=(60, 40, 30), num_drafted=300)
    profile = acceptance_of([short, long])
    assert profile.accept_prob[:, 0] == pytest.approx([0.6, 2 / 3, 0.75])
    assert profile.num_trials is not None and profile.num_trials.tolist() == [200, 120, 40]
    both = merged([short, long])
    assert (both.num_drafts, both.accepted_by_position) == (200, (120, 80, 30))
    assert np.isclose(both.tokens_per_round or 0, 2.15)


def but(where: str, value: Any) -> dict[str, Any]:
    data = json.loads(json.dumps(PER_REQUEST))
    data["metrics"]["speculative_decoding"][where] = value
    return data


WRONG = {
    "counters go back": (vllm_metrics(900, 2700, (700, 500, 300)), VLLM),
    "positions rise": (vllm_metrics(1000, 3000, (500, 600, 400)), None),
    "positions do not add up": (VLLM.replace(" 1650.0", " 2650.0"), None),
    "not a number": (VLLM.replace(" 1650.0", " NaN"), None),
    "a negative count": (VLLM.replace(" 3000.0", " -3000"), None),
    "truncated scrape": (VLLM[: VLLM.index(" 1650.0")], None),
    "no speculation": ("vllm:generation_tokens_total 5\n", None),
    "histogram does not add up": (json.dumps(but("acceptance_histogram", [2, 1, 1, 1])), None),
    "histogram of other tokens": (json.dumps(but("acceptance_histogram", [1, 2, 1, 2])), None),
    "more accepted than drafted": (json.dumps(but("per_step_accepted", [0, 4, 1, 2, 2, 0])), None),
    "rounds of two lengths": (json.dumps(but("per_step_drafted", [3])), None),
    "NaN": (json.dumps(but("num_spec_steps", float("nan"))), None),
    "infinite": (json.dumps({**VLLM_BENCH, "output_throughput": float("inf")}), None),
    "text for a number": (json.dumps({**VLLM_BENCH, "mean_tpot_ms": "fast"}), None),
    "truncated": (json.dumps(PER_REQUEST)[:-30], None),
    "nested": ("[" * 200_000, None),
    "a huge number": ('{"metrics": {"speculative_decoding": {"num_spec_steps": ' + "9" * 10_000 + "}}}", None),
    "a large number": (json.dumps(but("num_spec_steps", 10**400)), None),
    "another format after": (lines(VLLM_BENCH, {"a": 1}), None),
    "nothing": ("", None),
    "prose": ("speculative decoding is fast\n", None),
    "a contradicting line": (VLLM_LOG.replace("Accepted: 1650", "Accepted: 9650"), None),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_clear_line(tmp_path: Path, case: str) -> None:
    text, before = WRONG[case]
    with pytest.raises(InputError) as caught:
        read(tmp_path, text, before)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700 and ("seen" in message or "num" in message)


def test_an_absent_or_a_large_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can not be read"):
        read_observations(tmp_path / "none")
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(65 * 1024 * 1024)
    with pytest.raises(InputError, match="must be at most"):
        read_observations(large)
