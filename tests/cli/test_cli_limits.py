"""``limits`` from outside: what it answers, what it refuses, and that its losses multiply to the whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from specsim.acceptance.limits import limit_from_logprobs
from specsim.cli import main
from specsim.plots import FORMATS

SMALL, RANKED = "llama-3.1-8b-agx-orin", "llama-3.1-70b-4xh100-eagle3"
WARM = ["limits", SMALL, "--temperature", "1"]


def answer(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert main([*args, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["schema"] == "specsim.limits/1"
    return found


def refusal(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(list(args)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of i.i.d. tokens, one of .6 and .4 each, under a drafter that has .5 and .5."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("limits") / "texts.jsonl"
    lines = []
    for _ in range(5):
        p = np.where(rng.random(1500) < 0.6, 0.6, 0.4)
        lines.append(json.dumps({"logprobs": np.log(p).tolist(), "draft_logprobs": [float(np.log(0.5))] * 1500}))
    path.write_text("\n".join(lines))
    return path


def test_logged_surprisals(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, *WARM, "--logprobs", str(texts), "--sizes", "1,3,64", "--max-tokens", "64")
    entropy = -(0.6 * np.log(0.6) + 0.4 * np.log(0.4))
    assert found["mu"] == pytest.approx(entropy, rel=0.02)
    assert found["cross_entropy"] == pytest.approx(np.log(2))
    rows = {row["num_drafted"]: row for row in found["sizes"]}
    assert rows[1]["limit"] == pytest.approx(0.6, abs=0.01) and rows[3]["limit"] == pytest.approx(1.36, abs=0.03)
    assert all(row["limit"] <= row["ceiling_iid"] + 0.05 for row in rows.values())
    assert found["sampled_chains"]["token_rule"][0] == pytest.approx(0.9, abs=0.01)
    best = found["best"]
    assert best["tokens_per_s"] >= max(row["tokens_per_s"] for row in rows.values()) and best["speedup"] > 1
    for method in found["methods"]:
        assert method["fraction_of_limit_rate"] == pytest.approx(method["tokens_per_s"] / best["tokens_per_s"])
    assert any("sampled" in note.lower() for note in found["not_covered"])
    assert any("one workload" in note for note in found["not_covered"])  # such text cannot be drafted so well


def test_losses_multiply_to_the_whole(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for extra in ([], ["--widths", "3,2,1"], ["--draft-len", "5", "--logprobs", str(texts), "--measured", "20"]):
        source = [] if "--logprobs" in extra else ["--entropy", "0.86,3.31"]
        command = [*WARM[:1], RANKED if "--widths" in extra else SMALL, *WARM[2:]]
        found = answer(capsys, *command, *source, *extra)
        steps = found["waterfall"]["steps"]
        names = [step["group"] for step in steps]
        assert names[:8] == ["flat", "verify", "budget", "drafter", "tree", "rule", "overhead", "overhead"]
        product = float(np.prod([step["factor"] for step in steps]))
        assert product == pytest.approx(steps[-1]["tokens_per_s"] / steps[0]["tokens_per_s"], rel=1e-12)
        assert steps[1]["tokens_per_s"] == pytest.approx(found["best"]["tokens_per_s"])
        assert sum(found["waterfall"]["shares"].values()) == pytest.approx(1)
        if not extra:
            assert steps[-1]["tokens_per_s"] == pytest.approx(max(m["tokens_per_s"] for m in found["methods"]))
            assert all(step["factor"] <= 1 + 1e-9 for step in steps)
        if "--measured" in extra:
            assert steps[-1]["tokens_per_s"] == pytest.approx(20) and names[-1] == "measured"
            assert steps[5]["factor"] < 1  # the token rule, against the best one


def test_a_greedy_target_has_a_limit_of_belief_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert "belief" in refusal(capsys, "limits", SMALL, "--entropy", "0.86,3.31")
    assert "belief" in refusal(capsys, *WARM, "--belief", "--entropy", "0.86,3.31")
    found = answer(capsys, "limits", SMALL, "--belief", "--entropy", "0.5,1.2")
    assert found["is_belief"] and "belief" in found["not_covered"][0]


def test_nonsense_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def file(text: str) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "x.jsonl").write_text(text)
        return str(folder / "x.jsonl")

    for args, word in (
        ([], "one of"),
        (["--entropy", "1,2", "--executor"], "one of"),
        (["--entropy", "1"], "entropy"),
        (["--entropy", "-1,2"], "entropy"),
        (["--entropy", "nan,2"], "entropy"),
        (["--entropy", "1,2", "--sizes", "2000"], "sizes"),
        (["--entropy", "1,2", "--measured", "0"], "measured"),
        (["--logprobs", str(tmp_path / "absent")], "absent"),
        (["--logprobs", str(tmp_path)], "can not be read"),
        (["--logprobs", file("")], "x.jsonl"),
        (["--logprobs", file("[0.5]")], "x.jsonl:1"),
        (["--logprobs", file("[-0.5, NaN]")], "x.jsonl:1"),
        (["--logprobs", file("[-0.5, true]\n")], "x.jsonl:1"),
        (["--logprobs", file("[-1]\n{oops")], "x.jsonl:2"),
        (["--logprobs", file('{"logprobs": [-1], "draft_logprobs": [-1, -2]}')], "draft_logprobs"),
        (["--logprobs", file('{"logprobs": [-1], "draft_logprobs": [-1]}\n[-1]')], "every text"),
        (["--logprobs", file("[0.0, 0.0]")], "certain"),
        (["--logprobs", file("[-1, -2]"), "--horizon", "3"], "horizon"),
    ):
        assert word in refusal(capsys, *WARM, *args), args


def test_tables_and_picture(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in FORMATS:
        path = tmp_path / f"light{suffix}"
        assert main([*WARM, "--logprobs", str(texts), "--max-tokens", "64", "--plot", str(path)]) == 0
        assert path.stat().st_size > 5000
    out = capsys.readouterr().out
    for words in ("Speed of light", "Chains sampled", "Methods", "Where it goes", "not bound by it"):
        assert words in out
    assert "plot" in refusal(capsys, *WARM, "--entropy", "1,2", "--plot", "a.pdf")


def test_shipped_models(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr("specsim.cli.limits_source.NUM_TEXTS", 6)
    monkeypatch.setattr("specsim.cli.limits_source.TEXT_TOKENS", 80)
    monkeypatch.setattr("specsim.cli.limits_source.PROFILE_PROMPTS", 1)
    monkeypatch.setattr("specsim.cli.limits_source.PROFILE_TOKENS", 48)
    found = answer(capsys, *WARM, "--executor", "--max-tokens", "128", "--sizes", "4,16")
    row = found["sizes"][1]
    assert 0 < row["limit"] <= row["ceiling_iid"] + 3 * row["standard_error"]
    assert found["cross_entropy"] > found["mu"]  # by the Kullback-Leibler divergence
    ceilings = [found["sampled_chains"][name][-1] for name in ("token_rule", "best_rule", "any_rule")]
    assert ceilings == sorted(ceilings)
    greedy = answer(capsys, "limits", SMALL, "--executor", "--belief", "--max-tokens", "128", "--sizes", "4,16")
    assert greedy["is_belief"] and greedy["sampled_chains"] is None


def test_the_estimator_is_the_librarys(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = [-np.array(json.loads(line)["logprobs"]) for line in texts.read_text().splitlines()]
    want = limit_from_logprobs(logs, np.arange(33)).accepted[32]
    found = answer(capsys, *WARM, "--logprobs", str(texts), "--max-tokens", "32", "--sizes", "32")
    assert found["sizes"][0]["limit"] == want


@pytest.mark.parametrize(("measured", "is_odd"), [("1e9", True), ("5", False)])
def test_a_rate_above_the_limit_is_said_to_be(measured: str, is_odd: bool, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, *WARM, "--entropy", "0.8,3", "--measured", measured)
    assert any("above the limit" in note for note in found["not_covered"]) == is_odd
