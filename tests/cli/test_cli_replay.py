"""``specsim replay``: a recording made, gone on with and read; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from specsim.cli import main

SMALL = ["--texts", "2", "--tokens", "12", "--prompt-tokens", "16", "--num-laws", "3", "--max-depth", "3"]


def answered(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert main(["replay", *args, "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert answer["schema"] == "specsim.replay/1"
    return answer


def test_a_recording_is_kept_and_read_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    eagle, folder = "eagle2 top_k=2 depth=2 total_tokens=6", str(tmp_path / "forest")
    chosen = ["--policy", eagle, "--policy", "chain 2", "--policy", "chain 0"]
    first = answered(capsys, *SMALL, *chosen, "--record", folder)
    assert (first["num_texts"], first["num_positions"]) == (2, 24)
    assert [row["kind"] for row in first["rows"]] == ["exact"] * 3
    assert first["rows"][2]["value"] == 1.0 and first["rows"][0]["nodes"] == 6.0
    assert 1 <= first["rows"][1]["low"] <= first["rows"][1]["value"] <= first["rows"][1]["high"] <= 4
    assert answered(capsys, *SMALL, *chosen, "--record", folder) == first
    again = answered(capsys, "--forest", folder, *chosen, "--policy", "chain 8", "--policy", "chain 2 block")
    assert again["rows"][:3] == first["rows"]
    bounds, refused = again["rows"][3:]
    assert bounds["kind"] == "bounds" and bounds["low"] <= bounds["high"] and "not recorded" in bounds["why"]
    assert refused["kind"] == "refused" and "own tokens were not recorded" in refused["why"]
    assert main(["replay", "--forest", folder, "--policy", "chain 2", "--policy", "chain 2 sampled"]) == 0
    shown = capsys.readouterr().out
    assert "24 positions of 2 texts" in shown and "exact" in shown and "chain 2 sampled: both models" in shown


def test_sampled_drafts_are_followed_along_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["chain 2", "chain 2 sampled", "chain 2 block", "widths 2,1 sampled"]
    chosen = [word for name in names for word in ("--policy", name)]
    rows = answered(capsys, *SMALL, *chosen, "--temperature", "1")["rows"]
    rules = ["one_hot", "token_rejection", "block_verification", "recursive_rejection"]
    assert [row["rule"] for row in rows] == rules and {row["kind"] for row in rows} == {"exact"}
    assert rows[2]["value"] >= rows[1]["value"] > 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--policy", "chain"], "policy: must be chain, its size, and perhaps sampled or block"),
        (["--policy", "chain x"], "policy: must be whole numbers"),
        (["--policy", "widths 2,1 block"], "policy: must be a chain to be judged as a block"),
        (["--policy", "eagle9"], "policy: must begin with one of"),
        (["--level", "1.5"], "level: must be between 0 and 1"),
        (["--forest", "nowhere"], "forest: must be a folder of recorded texts"),
        (["--forest", "a", "--record", "b"], "record: must be left out where forest is given"),
        (["--drafter", "recycling"], "drafter: must draft from the text alone"),
        (["--drafter", "none"], "drafter: must be one of"),
        (["--temperature", "-1", "--policy", "chain 1"], "temperature"),
    ],
)
def test_bad_input_is_one_line(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", *args]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and message in err


def test_nothing_that_can_be_replayed_is_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", *SMALL, "--policy", "chain 2 sampled"]) == 0
    assert "Infeasible: nothing that was asked for can be replayed" in capsys.readouterr().out
