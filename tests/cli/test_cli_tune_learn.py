"""``specsim tune --from-metrics`` and ``--dynamic`` from outside: what they print and write, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from specsim.acceptance.process import TokenProcess
from specsim.cli import main
from specsim.scenario import bundled_scenarios

SMALL = "llama-3.1-8b-agx-orin"


def scrape(alpha: float, draft_len: int, rounds: float) -> str:
    """Counters as vLLM writes them, of drafts that accept with ``alpha``."""
    head, labels = "vllm:spec_decode_num_", 'engine="0",model_name="m"'
    counts = [rounds * alpha ** (place + 1) for place in range(draft_len)]
    lines = [
        f"{head}drafts_total{{{labels}}} {rounds}",
        f"{head}draft_tokens_total{{{labels}}} {rounds * draft_len}",
        f"{head}accepted_tokens_total{{{labels}}} {sum(counts)}",
    ]
    places = [f'{head}accepted_tokens_per_pos_total{{{labels},position="{i}"}} {c}' for i, c in enumerate(counts)]
    return "\n".join([*lines, *places, ""])


def answer(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert main([*args, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refusal(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(list(args)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


def held(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its inode, which a rewrite changes."""
    return {p.name: (p.stat().st_ino, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


def test_a_loop_learns_moves_once_and_repeats_itself(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "first.prom").write_text(scrape(0.45, 8, 4000))
    kept = tmp_path / "kept"
    kept.mkdir()
    args = ["tune", SMALL, "--state", str(kept / "state.json"), "--out", str(kept)]
    first = answer(capsys, *args, "--from-metrics", str(tmp_path / "first.prom"))
    assert first["schema"] == "specsim.tune.from_metrics/1"
    assert first["changed"] and first["draft_len"] < first["draft_len_before"] == 8
    assert first["gain_90"][0] < first["gain"] < first["gain_90"][1] and first["regret_removed"] > 0.1
    written = json.loads((kept / "vllm.json").read_text())
    assert written["config"]["num_speculative_tokens"] == first["draft_len"] == first["state"]["draft_len"]
    files = held(kept)
    again = answer(capsys, *args, "--from-metrics", str(tmp_path / "first.prom"))
    assert again["learned"].startswith("seen before") and not again["changed"]
    assert again["draft_len"] == first["draft_len"] and again["exports"] == first["exports"]
    assert held(kept) == files  # not even written anew
    assert main([*args, "--from-metrics", str(tmp_path / "first.prom")]) == 0
    assert f"keep: chain {first['draft_len']}" in capsys.readouterr().out
    # Nobody restarted the server: it still shows the long drafts, so the advice stands.
    (tmp_path / "later.prom").write_text(scrape(0.45, 8, 9000))
    later = answer(
        capsys, *args, "--from-metrics", str(tmp_path / "later.prom"), "--before", str(tmp_path / "first.prom")
    )
    assert later["changed"] and later["draft_len_before"] == 8 and later["draft_len"] <= first["draft_len"]
    assert later["state"]["trials"][0] == pytest.approx(4000 + 5000)
    assert sorted(held(kept)) == ["sglang.json", "state.json", "vllm.json"]


def test_two_files_are_read_together(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name, rounds in (("a.prom", 1000), ("b.prom", 3000)):
        (tmp_path / name).write_text(scrape(0.6, 4, rounds))
    both = [f"--from-metrics={tmp_path / name}" for name in ("a.prom", "b.prom")]
    assert answer(capsys, "tune", SMALL, *both)["state"]["trials"][0] == pytest.approx(4000)
    assert "before: must go with one file" in refusal(capsys, "tune", SMALL, *both, f"--before={tmp_path / 'a.prom'}")


@pytest.mark.parametrize(
    "hostile",
    [
        "", "{" * 100_000, "[" * 100_000, "\x00\xff", '{"a": ' + "9" * 5000 + "}",
        scrape(0.6, 4, 1000).replace("600.0", "NaN"), scrape(0.6, 4, 1000).replace("600.0", "-1"),
        scrape(0.6, 4, 1000).replace("600.0", "1e999"), scrape(0.6, 4, 1000).replace("600.0", "5000"),
        'vllm:spec_decode_num_drafts_total{engine="0"} 10\n',
    ],
    ids=["empty", "nested", "lists", "bytes", "huge", "nan", "negative", "infinite", "too many", "cut"],
)  # fmt: skip
def test_a_hostile_file_leaves_nothing_written(
    hostile: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file.prom").write_bytes(hostile.encode("latin-1"))
    kept = tmp_path / "kept"
    kept.mkdir()
    args = ["--state", str(kept / "state.json"), "--out", str(kept)]
    refusal(capsys, "tune", SMALL, "--from-metrics", str(tmp_path / "file.prom"), *args)
    assert not held(kept)


def test_counters_that_go_backwards_and_wrong_places_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, rounds in (("old.prom", 5000), ("new.prom", 4000)):
        (tmp_path / name).write_text(scrape(0.6, 4, rounds))
    kept = tmp_path / "kept"
    kept.mkdir()
    learn = ["tune", SMALL, "--from-metrics", str(tmp_path / "new.prom")]
    refusal(capsys, *learn, "--before", str(tmp_path / "old.prom"), "--state", str(kept / "s.json"))
    assert "must be a folder" in refusal(capsys, *learn, "--out", str(tmp_path / "none"), "--state", str(kept / "s"))
    assert "state: must be in a folder" in refusal(
        capsys, *learn, "--state", str(tmp_path / "no" / "s.json"), "--out", str(kept)
    )
    (kept / "s.json").write_text('{"scenario": "another"}')
    before = held(kept)
    assert "scenario: must be" in refusal(capsys, *learn, "--state", str(kept / "s.json"), "--out", str(kept))
    assert held(kept) == before


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--from-metrics", "x", "--engine", "vllm@0.33.0"], "--engine: can not go with --from-metrics"),
        (["--from-metrics", "x", "--explain"], "--explain: can not go"),
        (["--from-metrics", "x", "--plot", "a.png"], "--plot: can not go"),
        (["--from-metrics", "x", "--tree-plot", "a.png"], "--tree-plot: can not go"),
        (["--from-metrics", "x", "--dynamic", "a.npz"], "--dynamic: can not go"),
        (["--from-metrics", "x", "--top", "3"], "--top: can not go"),
        (["--state", "s.json"], "--state: must go with --from-metrics"),
        (["--before", "x"], "--before: must go with"),
        (["--draft-len", "3"], "--draft-len: must go with"),
        (["--out", "."], "--out: must go with"),
        (["--from-metrics", "no-such-file"], "no-such-file"),
        (["--dynamic", "no-such-file.npz"], "no-such-file.npz"),
        (["--dynamic", "rounds.csv"], "--dynamic: must be an .npz file"),
    ],
)
def test_options_that_exclude_each_other_are_refused(
    more: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line in refusal(capsys, "tune", SMALL, *more)


def test_policies_that_grow_stand_in_the_same_ranking(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = SimpleNamespace(process=TokenProcess(num_candidates=6))  # a fit takes seconds, and has tests of its own
    monkeypatch.setattr("specsim.acceptance.process_fit.fit_profile", lambda *_, **__: usual)
    small = bundled_scenarios()[SMALL].read_text(encoding="utf-8").replace("max_nodes = 16", "max_nodes = 6")
    small = small.replace("max_draft_len = 8", "max_draft_len = 3").replace("max_depth = 8", "max_depth = 3")
    path, table = tmp_path / "small.toml", str(tmp_path / "t.npz")
    path.write_text(small, encoding="utf-8")
    played = answer(capsys, "dynamic", str(path), "--table", table, "--requests", "16", "--no-cast")
    without = answer(capsys, "tune", str(path))
    found = answer(capsys, "tune", str(path), "--dynamic", table)
    assert {key: value for key, value in found.items() if key not in ("ranking", "dynamic")} == without
    rates = [row["tokens_per_s"] for row in found["ranking"]]
    assert rates == sorted(rates, reverse=True)
    statics = [row["configuration"] for row in found["ranking"] if row["kind"] == "static"]
    assert statics == [row["configuration"] for row in without["ranked"]]
    grown, by_rate = found["dynamic"], {row["configuration"]: row for row in played["policies"]}
    assert len(grown["policies"]) + played["certificate"]["searched"]["static"] == len(played["policies"])
    like, scale = grown["compared_with"], grown["certificate"]["stands"]
    own = next(row for row in without["ranked"] if row["configuration"] == like)
    for row in grown["policies"]:
        assert row["speedup_low"] < row["speedup"] < row["speedup_high"]
        ratio = by_rate[row["label"]]["tokens_per_s"] / by_rate[like]["tokens_per_s"]
        assert row["tokens_per_s"] == pytest.approx(scale * ratio * own["tokens_per_s"])
        assert row["speedup"] / own["speedup"] == pytest.approx(scale * ratio)
        # An interval at least as wide as that of the tree it was compared with.
        assert row["speedup_high"] / row["speedup"] >= own["speedup_90"][1] / own["speedup"] * (1 - 1e-12)
    assert grown["certificate"]["kind"] == "scan" and 0 < scale <= 1
    assert main(["tune", str(path), "--dynamic", table, "--top", "4"]) == 0
    said = capsys.readouterr().out
    assert "Trees that grow:" in said and "grows" in said and f"compared with {like}" in said
    other = str(bundled_scenarios()["llama-3.1-70b-4xh100-eagle3"])
    assert "--dynamic: must hold rounds of this acceptance" in refusal(capsys, "tune", other, "--dynamic", table)
