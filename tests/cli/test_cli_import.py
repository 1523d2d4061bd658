"""``specsim import``: what it prints for a scenario is the acceptance that the file holds."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import pytest
from pydantic import TypeAdapter

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))
from engine_outputs import BATCHED_BENCH, PER_REQUEST, VLLM, VLLM_LOG, lines

from specsim.acceptance.inputs import AcceptanceInput
from specsim.cli import main


def printed(capsys: pytest.CaptureFixture[str], *paths: Path) -> str:
    assert main(["import", *map(str, paths)]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("text", [VLLM, VLLM_LOG])
def test_the_section_is_what_a_scenario_reads(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "seen.txt"
    path.write_text(text)
    out = printed(capsys, path)
    said = tomllib.loads(out[out.index("[acceptance]") :])["acceptance"]
    profile = TypeAdapter(AcceptanceInput).validate_python(said).profile()
    assert profile.accept_prob[:, 0] == pytest.approx([0.8, 0.65, 330 / 520], abs=1e-5)
    assert main(["import", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["acceptance"] == said


def test_rounds_of_several_requests_keep_their_spread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "requests.jsonl"
    said = PER_REQUEST["metrics"]["speculative_decoding"]
    longer = {
        key: [2 * n for n in value] if key == "acceptance_histogram" else 2 * value for key, value in said.items()
    }
    longer["num_spec_tokens"] = 3
    path.write_text(lines(*[{"metrics": {"speculative_decoding": longer}}] * 12))
    out = printed(capsys, path)
    said = tomllib.loads(out[out.index("[acceptance]") :])["acceptance"]
    assert said["kind"] == "requests" and len(said["accepted"]) == 12
    assert TypeAdapter(AcceptanceInput).validate_python(said).profile().accept_prob[0, 0] == pytest.approx(4 / 6)


def test_times_alone_and_nothing_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench.jsonl"
    path.write_text(lines(BATCHED_BENCH))
    assert "times alone" in printed(capsys, path)
    path.write_text("hello\n")
    assert main(["import", str(path)]) == 2 and capsys.readouterr().err.count("\n") == 1
