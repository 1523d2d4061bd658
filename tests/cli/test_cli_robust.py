"""``specsim robust`` and ``specsim dynamic``: what they print, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from specsim.acceptance.process import TokenProcess
from specsim.cli import main
from specsim.scenario import bundled_scenarios

JETSON = "llama-3.1-8b-agx-orin"


def answer(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(args) == 0
    return capsys.readouterr().out


def refusal(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(args) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said


def test_a_robust_choice_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(answer(capsys, "robust", JETSON, "--draws", "1000", "--json"))
    assert found["schema"] == "specsim.robust/1" and found["num_draws"] == 1000
    rows = {row["configuration"]: row for row in found["candidates"]}
    assert sum(row["prob_best"] for row in rows.values()) == pytest.approx(1)
    assert rows[found["highest"]]["tokens_per_s"] == max(row["tokens_per_s"] for row in rows.values())
    assert found["chosen"] in found["tied"] and found["highest"] in found["tied"]
    given_up = 1 - rows[found["chosen"]]["tokens_per_s"] / rows[found["highest"]]["tokens_per_s"]
    assert found["given_up"] == pytest.approx(given_up)
    assert min(row["worst_regret"] for row in rows.values()) == rows[found["least_worst_regret"]]["worst_regret"]
    names = [worth["name"] for worth in found["worth_of_knowing"]]
    assert {"acceptance", "verify time", "draft time"} <= set(names)
    gains = [worth["gain"] for worth in found["worth_of_knowing"]]
    assert gains == sorted(gains, reverse=True) and gains[0] <= found["perfect_information"] + 0.01


def test_a_robust_choice_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    said = answer(capsys, "robust", JETSON, "--draws", "500", "--top", "2")
    assert "chain 4" in said and "Choose chain 4." in said and "worst regret" in said
    assert "no speculation" not in said  # neither among the best two nor chosen


def test_without_a_drafter_there_is_one_choice(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = bundled_scenarios()[JETSON].read_text(encoding="utf-8")
    text = text.replace(
        'kind = "draft_model"\nmodel = "llama-3.2-1b"\nid = "meta-llama/Llama-3.2-1B-Instruct"', 'kind = "none"'
    )
    (tmp_path / "plain.toml").write_text(text, encoding="utf-8")
    assert "Choose no speculation." in answer(capsys, "robust", str(tmp_path / "plain.toml"), "--draws", "300")
    assert "gives probabilities" in refusal(capsys, "dynamic", str(tmp_path / "plain.toml"))


@pytest.mark.parametrize(
    ("args", "word"),
    [(("--level", "1.5"), "level"), (("--tie-level", "0"), "tie_level"), (("--draws", "10"), "--draws")],
)
def test_robust_refuses_in_one_line(capsys: pytest.CaptureFixture[str], args: tuple[str, str], word: str) -> None:
    assert word in refusal(capsys, "robust", JETSON, *args)


def test_dynamic_trees_are_tuned_and_their_table_kept(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = SimpleNamespace(process=TokenProcess(num_candidates=6))  # a fit takes seconds, and has tests of its own
    monkeypatch.setattr("specsim.acceptance.process_fit.fit_profile", lambda *_, **__: usual)
    small = bundled_scenarios()[JETSON].read_text(encoding="utf-8").replace("max_nodes = 16", "max_nodes = 6")
    small = small.replace("max_draft_len = 8", "max_draft_len = 3").replace("max_depth = 8", "max_depth = 3")
    (tmp_path / "small.toml").write_text(small, encoding="utf-8")
    asked = ("dynamic", str(tmp_path / "small.toml"), "--table", str(tmp_path / "t.npz"), "--requests", "16")
    found = json.loads(answer(capsys, *asked, "--json"))
    assert found["schema"] == "specsim.dynamic/1" and (tmp_path / "t.npz").exists()
    rates = [row["tokens_per_s"] for row in found["policies"]]
    assert rates == sorted(rates, reverse=True)
    kinds = {row["kind"] for row in found["policies"]}
    assert kinds == {"static", "eagle2", "opt_tree", "talon", "confidence_chain", "c2t", "cast"}
    assert sum(found["certificate"]["searched"].values()) == len(rates)
    assert found["oracle_tokens_per_s"]["drafter"] > 0.95 * rates[0]
    assert json.loads(answer(capsys, *asked, "--json")) == found
    some = json.loads(answer(capsys, "robust", asked[1], "--table", asked[3], "--draws", "300", "--json"))
    assert [row["kind"] for row in some["candidates"]].count("dynamic") == 3
    said = answer(capsys, *asked, "--batch", "4", "--no-cast")
    assert "best static" in said and "Not tried: ProPD" in said and "Oracle" in said
    assert "confidence" in refusal(capsys, *asked, "--confidence", "2")
    other = bundled_scenarios()["llama-3.1-70b-4xh100-eagle3"]
    assert "rounds of this acceptance" in refusal(capsys, "dynamic", str(other), "--table", str(tmp_path / "t.npz"))
    assert ".npz" in refusal(capsys, "dynamic", str(other), "--table", str(tmp_path / "t.txt"))
