"""Every method of the catalogue runs in the executor and in the simulator, is exact or labelled, and is predicted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from specsim.cli import main
from specsim.methods.catalogue import catalogue
from specsim.records import load_records

SCHEMA = {
    "schema", "settings", "device", "versions", "clock", "load_average", "summary", "rows", "plot",
}  # fmt: skip
TINY = ["--measure", "--quick", "--prompts", "2", "--tokens", "8", "--ffn-size", "0"]


def answer(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, object]:
    assert main(["methods", *args, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_the_list_needs_no_models_and_labels_every_rule(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys)
    assert found["schema"] == "specsim.methods/1"
    rows = found["methods"]
    assert isinstance(rows, list)
    assert len(rows) == len(catalogue(0.0)) + len(catalogue(1.0))
    for row in rows:
        assert (row["total_variation"] == 0.0) == row["lossless"], row["method"]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_names_tell_methods_apart(temperature: float) -> None:
    names = [named.name for named in catalogue(temperature)]
    assert len(names) == len(set(names))
    assert names[0] == "plain decoding"


@pytest.mark.parametrize("temperature", ["0", "1"])
def test_every_method_runs_in_both_worlds(capsys: pytest.CaptureFixture[str], tmp_path: Path, temperature: str) -> None:
    pytest.importorskip("torch")
    found = answer(capsys, *TINY, "--temperature", temperature, "--out", str(tmp_path))
    assert found.keys() == SCHEMA
    assert found["schema"] == "specsim.methods.measure/1"
    rows = found["rows"]
    assert isinstance(rows, list)
    assert [row["name"] for row in rows] == [named.name for named in catalogue(float(temperature))]
    for row in rows:
        low, high = row["tokens_interval"]
        assert 1 <= low <= row["tokens_predicted"] <= high, row["name"]
        assert row["tokens_simulated"] > 1 or row["drafter"] == "none", row["name"]
        assert row["round_measured_s"] > 0 and row["round_predicted_s"] > 0, row["name"]
        assert row["same_text"] in (True, None), row["name"]  # greedy text is plain decoding's, token for token
    plain = rows[0]
    assert plain["tokens_measured"] == plain["speedup_measured"] == 1
    assert {record.method for record in load_records(tmp_path / "methods.jsonl")} == {row["name"] for row in rows}
    assert (tmp_path / "methods.csv").read_text().count("\n") == len(rows) + 1


def test_what_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for args, word in (
        (["--prompts", "3"], "prompts"),
        (["--measure", "--only", "no such method", "--out", str(tmp_path)], "only"),
        (["--measure", "--prompts", "100000", "--out", str(tmp_path), "--ffn-size", "0"], "prompts"),
    ):
        assert main(["methods", *args]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {word}") and error.count("\n") == 1
