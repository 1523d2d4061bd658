"""What real engines made of our exports: the record is whole, and our own rules still agree with all of it.

The slow tests ask the engines again, where the environment names one; see studies/engine_checks.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from specsim.engines.llamacpp import check_llamacpp
from specsim.errors import InputError

CHECKS = Path(__file__).resolve().parents[2] / "studies" / "engine_checks"
ENGINES = ("vllm", "sglang")
NOT_ASKED = ("ImportError", "ModuleNotFoundError", "AttributeError", "OSError")
"""A launch that ends so was not judged: something of the environment was missing."""


def recorded(name: str) -> Any:
    return json.loads((CHECKS / f"{name}.json").read_text(encoding="utf-8"))


def cases_of(engine: str) -> list[dict[str, Any]]:
    """The launches as our exporters and rules have them today."""
    spec = importlib.util.spec_from_file_location("engine_check_cases", CHECKS / "cases.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: list[dict[str, Any]] = module.CASES[engine]()
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_the_record_is_of_todays_exports(engine: str) -> None:
    record, today = recorded(engine), cases_of(engine)
    assert set(record["versions"]) == {engine, "torch", "transformers"} and record["date"]
    keys = ("name", "by", "argv", "files", "differs")
    assert [[row[key] for key in keys] for row in record["cases"]] == [[row[key] for key in keys] for row in today]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_verdict_is_ours_or_differs_for_a_stated_reason(engine: str) -> None:
    for row, today in zip(recorded(engine)["cases"], cases_of(engine), strict=True):
        assert not row["why"].startswith(NOT_ASKED), row["name"]
        assert (today["ours"] != row["engine"]) == bool(row["differs"]), row["name"]
        if row["by"] == "exporter":
            assert row["engine"] == "accept", row["name"]
    assert sum(row["engine"] == "reject" for row in recorded(engine)["cases"]) >= 10


def test_vllm_reads_the_lengths_that_were_meant() -> None:
    made = {row["name"]: row["made"] for row in recorded("vllm")["cases"]}
    assert made["EAGLE-3 chain"]["num_speculative_tokens"] == 5
    assert made["n-gram, synthetic"]["rejection_sample_method"] == "synthetic"
    table = made["EAGLE-3 by batch"]["draft_len_by_batch"]
    assert [table[size] for size in ("1", "8", "9", "32", "33", "64")] == [4, 4, 2, 2, 0, 0]


def test_sglang_counts_the_root_and_keeps_the_cap() -> None:
    made = {row["name"]: row["made"] for row in recorded("sglang")["cases"]}
    assert made["EAGLE-3 chain"]["speculative_num_draft_tokens"] == 6
    assert made["a chain that forgets its root"]["speculative_num_draft_tokens"] == 4  # 3 was asked for
    assert made["EAGLE-3 by batch"]["speculative_adaptive"] is True
    assert made["EAGLE-3 chain"]["max_running_requests"] == 64


def check_llama_record(record: Any) -> None:
    """A llama.cpp server accepts what the executor accepts, at the rates asked for, and refuses what we refuse."""
    for chain in record["chains"]:
        mean = chain["tokens_per_round"]
        # Near its limit of tokens the server drafts less, the executor does not: a round or two of each prompt.
        assert mean["log"] == pytest.approx(mean["executor"], rel=0.02)
        assert mean["metrics"] == pytest.approx(mean["log"], rel=0.005)
        assert mean["timings"] == pytest.approx(mean["log"], rel=0.025)
        assert all(prompt["same_tokens"] == prompt["num_tokens"] for prompt in chain["prompts"])
    synthetic = record["synthetic"]
    for asked, got in zip(synthetic["asked"], synthetic["realised"], strict=True):
        assert abs(got - asked) < 4 * math.sqrt(asked * (1 - asked) / synthetic["num_drafts"])
    for words, answer in record["refused"].items():
        with pytest.raises(InputError):
            check_llamacpp(words.split())
        assert (answer["engine"] == "accept") == bool(answer["differs"]), words


def test_llamacpp_accepts_what_was_predicted() -> None:
    check_llama_record(recorded("llamacpp"))


def named(variable: str) -> str:
    """The program that the environment names; without it there is nothing to ask."""
    program = os.environ.get(variable)
    if not program:
        pytest.skip(f"no engine to ask: set {variable} (studies/engine_checks/README.md says to what)")
    return program


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_the_engine_says_so_again(engine: str, tmp_path: Path) -> None:
    python = named(f"SPECSIM_{engine.upper()}_PYTHON")
    out = tmp_path / "record.json"
    subprocess.run([sys.executable, CHECKS / "record.py", engine, python, "--out", out], check=True, timeout=1500)
    again = json.loads(out.read_text(encoding="utf-8"))["cases"]
    assert [row["engine"] for row in again] == [row["engine"] for row in recorded(engine)["cases"]]


@pytest.mark.slow
def test_the_server_decodes_so_again(tmp_path: Path) -> None:
    server = named("SPECSIM_LLAMA_SERVER")
    for package in ("gguf", "torch", "safetensors"):
        pytest.importorskip(package)
    out = tmp_path / "record.json"
    subprocess.run([sys.executable, CHECKS / "ask_llamacpp.py", server, out], check=True, timeout=900)
    check_llama_record(json.loads(out.read_text(encoding="utf-8")))
