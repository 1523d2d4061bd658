"""Every method of the catalogue runs in the executor and in the simulator, is exact or labelled, and is predicted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from specsim.cli import main
from specsim.methods.catalogue import NamedMethod, catalogue
from specsim.records import load_records

SCHEMA = {
    "schema", "settings", "device", "versions", "clock", "load_average", "summary", "rows", "plot",
}  # fmt: skip
TINY = ["--measure", "--quick", "--prompts", "2", "--tokens", "8", "--ffn-size", "0"]


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less is recorded and simulated than even --quick does: no test here looks at how good a prediction is."""
    from specsim.cli import methods, methods_world

    monkeypatch.setattr(methods, "QUICK", {**methods.QUICK, "record_prompts": 3, "record_tokens": 10})
    for name, value in (("NUM_REQUESTS", 16), ("NUM_ROUNDS", 3), ("CONTROL_ROUNDS", 6)):
        monkeypatch.setattr(methods_world, name, value)
    monkeypatch.setattr("specsim.acceptance.process_fit.NUM_TYPES", 64)


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


FEW = {
    "0": ("CAST", "SpecDec++ threshold", "Medusa, 63 nodes", "prompt lookup, chain of 4"),
    "1": ("RSD-S", "SpecTr, 4 chains of 3", "Medusa, 63 nodes, typical"),
}
"""Of each kind of policy and of world one."""


@pytest.mark.parametrize("temperature", ["0", "1"])
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["few", "every"])
def test_methods_run_in_both_worlds(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, temperature: str, every: bool
) -> None:
    pytest.importorskip("torch")
    only = () if every else FEW[temperature]
    asked = [word for name in only for word in ("--only", name)]
    found = answer(capsys, *TINY, "--temperature", temperature, "--out", str(tmp_path), *asked)
    assert found.keys() == SCHEMA
    assert found["schema"] == "specsim.methods.measure/1"
    rows = found["rows"]
    assert isinstance(rows, list)
    names = [named.name for named in catalogue(float(temperature))]
    assert [row["name"] for row in rows] == [name for name in names if every or name in (names[0], *only)]
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


def test_an_interrupted_run_goes_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut at the seventh of eight runs, then asked for again: the answer of one go, and nothing measured twice."""
    pytest.importorskip("torch")
    from specsim.cli.methods_run import Bench

    names = ["chain of 5", "prompt lookup, chain of 4", "Token Recycling, 80 nodes"]
    args = [*TINY, "--temperature", "0", *(word for name in names for word in ("--only", name))]
    whole = answer(capsys, *args, "--out", str(tmp_path / "whole"))
    rounds, calls, limit = Bench.rounds, [0], [7]

    def counted(self: Bench, named: NamedMethod, session: Any, *others: Any) -> Any:
        calls[0] += session is self.measuring
        if session is self.measuring and calls[0] == limit[0]:
            raise KeyboardInterrupt
        return rounds(self, named, session, *others)

    monkeypatch.setattr(Bench, "rounds", counted)
    answer(capsys, *args, "--out", str(tmp_path / "cut"))  # ends with the prompt that all have decoded
    unfinished = tmp_path / "cut" / "methods.unfinished.jsonl"
    with unfinished.open("a") as file:
        file.write('[["measuring", 0.0, "chain')  # a line that was cut
    calls[0], limit[0] = 0, 0
    again = answer(capsys, *args, "--out", str(tmp_path / "cut"))
    assert 2 <= calls[0] <= 3  # what a table learnt from the first prompt is learnt again, if its second was missing
    for one, other in zip(whole["rows"], again["rows"], strict=True):  # type: ignore[call-overload]
        for key in one.keys() - {"speedup_measured", "speedup_predicted"}:
            assert key.endswith("_s") or one[key] == other[key], (one["name"], key)
    assert not unfinished.exists()
    kept = [
        sorted(
            (r.method, r.request, r.context_tokens, r.tokens) for r in load_records(tmp_path / name / "methods.jsonl")
        )
        for name in ("whole", "cut")
    ]
    assert kept[0] == kept[1]
