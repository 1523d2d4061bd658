"""``priors`` from outside."""

from __future__ import annotations

import json

import pytest

from specsim.cli import main


def test_a_question_and_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["priors", "eagle3", "--target", "Qwen/Qwen3-32B", "--task", "humaneval", "--temperature", "0"]
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "specsim.priors/1" and found["task"] == "code" and found["dataset"] == "humaneval"
    assert len(found["accept_prob"]) == len(found["chains"]) and found["num_studies"] >= 4
    for row in found["chains"]:
        assert 0 <= row["accepted_90"][0] < row["accepted"] < row["accepted_90"][1] <= row["draft_len"]
    assert main(asked) == 0
    assert "Nearest published" in capsys.readouterr().out
    assert main(["priors", "--json"]) == 0
    listed = {row["method"]: row for row in json.loads(capsys.readouterr().out)["methods"]}
    assert listed["eagle3"]["as_profile"] and not listed["rest"]["as_profile"]
    assert main(["priors"]) == 0


@pytest.mark.parametrize(
    "args", [["eagle3"], ["eagle4", "--temperature", "0"], ["eagle3", "--temperature", "0", "--target", "gpt-2"]]
)
def test_refusals_are_one_line(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["priors", *args]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
