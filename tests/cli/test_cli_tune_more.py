"""``tune`` within an engine and explained, ``tune-load``, ``tune-joint`` and ``sweep`` from outside."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from specsim.cli import main
from specsim.dialect import DIALECTS, Dialect
from specsim.plots import FORMATS

SMALL = "llama-3.1-8b-agx-orin"
LARGE = "llama-3.1-70b-4xh100-eagle3"
DRAFTERS = """
[[candidate]]
name = "lookup"
drafter = {kind = "ngram"}
acceptance = {kind = "iid", alpha = 0.2, source = "made up for tests"}
"""


def answer(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert main([*args, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["schema"] == f"specsim.{args[0]}/1"
    return found


def shown(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(list(args)) == 0
    return capsys.readouterr().out


def refusal(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(list(args)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_tune_within_an_engine_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "tune", LARGE, "--engine", "sglang@0.5.23", "--explain")
    within, why = found["engine"], found["explanation"]
    assert found["scenario"]["engine"] == "sglang"  # priced on its kernels and captured sizes
    assert within["best"] == within["ranked"][0] and within["best"]["topk_tree"] and within["best"]["is_estimate"]
    flags = shlex.split(within["command"])
    assert int(flags[flags.index("--speculative-eagle-topk") + 1]) == within["best"]["topk_tree"]["topk"]
    assert within["loss"] == pytest.approx(1 - within["best"]["tokens_per_s"] / found["best"]["tokens_per_s"])
    terms = {c["term"]: c for c in why["counterfactuals"]}
    assert terms.keys() >= {"draft cost", "verification growth", "host work", "acceptance decay", "engine"}
    assert why["decided_by"] in terms and terms[why["decided_by"]]["changes"]
    out = shown(capsys, "tune", LARGE, "--engine", "vllm@0.33.0", "--explain", "--top", "1")
    assert "What vllm 0.33 accepts" in out and "What decided is" in out and "drafts chains only" in out


def test_what_does_not_fit_is_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("tune", "tune-load"):
        found = answer(capsys, command, LARGE, "--tp", "1")
        assert found["status"] == "infeasible" and "memory: needs" in found["reason"]
        assert "Infeasible: memory" in shown(capsys, command, LARGE, "--tp", "1")
    found = answer(capsys, "tune-joint", LARGE, "--devices", "8", "--in-flight", "8", "--max-tpot-ms", "0.001")
    assert found["status"] == "infeasible" and not found["options"] and found["refused"]


def test_tune_load(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    args = [
        "tune-load", LARGE, "--max-batch", "96", "--engine", "sglang@0.5.23", "--context", "512,4096",
        "--arrivals", "2", "--output-tokens", "300",
    ]  # fmt: skip
    found = answer(capsys, *args, "--plot", str(tmp_path / "load.png"))
    assert (tmp_path / "load.png").stat().st_size > 10_000
    assert [one["context_tokens"] for one in found["schedules"]] == [512, 4096]
    for one in found["schedules"]:
        slots = json.loads(one["export"]["files"]["draft_len_by_batch.json"])
        assert [int(start) for start in slots] == [tier["first"] for tier in one["tiers"]]
        assert [slot["candidate_steps"][0] for slot in slots.values()] == [tier["draft_len"] for tier in one["tiers"]]
        assert 0 <= one["loss"] <= 0.002 + 1e-6 and one["loss"] <= one["worst_loss"]
        queues = {p["policy"]: p["mean_in_system"] for p in one["policies"]}
        assert queues["fastest at each batch size"] <= min(queues.values()) * (1 + 1e-9)
        assert queues["no speculation loaded"] < queues["loaded, draft length 0"]
    out = shown(capsys, *args)
    assert "Schedule: 1-" in out and "Under arrivals" in out and "It pays at" in out
    vllm = answer(capsys, "tune-load", SMALL, "--max-batch", "100", "--engine", "vllm@0.33.0", "--min-draft-len", "1")
    (one,) = vllm["schedules"]
    tiers = one["export"]["config"]["num_speculative_tokens_per_batch_size"]
    assert tiers == [list(tier.values()) for tier in one["tiers"]] and all(tier[2] >= 1 for tier in tiers)


@pytest.mark.parametrize("row", DIALECTS, ids=lambda row: row.name)
def test_every_engine_may_be_named(row: Dialect, capsys: pytest.CaptureFixture[str]) -> None:
    version = row.last_version if not row.is_numbered or row.last_version.count(".") == 2 else f"{row.last_version}.0"
    name = f"{row.engine}@{version}"
    found = answer(capsys, "tune", SMALL, "--engine", name)
    within, speaks = found["engine"], "draft_model" in row.methods
    assert within["engine"] == row.engine and within["command"] and (within["num_tried"] > 1) == speaks
    assert (
        (within["best"]["speedup"] > 1.5) == speaks == (not any("no draft_model" in why for why in within["refused"]))
    )
    (one,) = answer(capsys, "tune-load", SMALL, "--max-batch", "8", "--engine", name)["schedules"]
    assert one["export"]["engine"] == row.engine and one["export"]["command"]
    assert (max(tier["draft_len"] for tier in one["tiers"]) > 0) == (speaks and row.max_batch is None)


def test_one_context_that_does_not_fit_leaves_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["tune-load", SMALL, "--hardware", "l4", "--max-batch", "4", "--context", "100000,512"]
    found = answer(capsys, *args)
    assert [one["context_tokens"] for one in found["schedules"]] == [512]
    assert [(one["context_tokens"], "memory" in one["reason"]) for one in found["infeasible"]] == [(100_000, True)]
    assert "context 100,000 tokens: infeasible: memory" in shown(capsys, *args)


def test_tune_joint(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    drafters = tmp_path / "drafters.toml"
    drafters.write_text(DRAFTERS)
    args = ["tune-joint", SMALL, "--hardware", "h100-sxm", "--devices", "2", "--in-flight", "2,64"]
    found = answer(capsys, *args, "--candidates", str(drafters), "--weights", "fp8", "--plot", str(tmp_path / "f.svg"))
    assert (tmp_path / "f.svg").read_text().startswith("<?xml")
    assert {(o["drafter"], o["tensor_parallel"], o["replicas"]) for o in found["options"]} == {
        (name, tp, 2 // tp) for name in ("draft_model", "lookup") for tp in (1, 2)
    }
    assert len(found["options"]) == 20 and {o["weights"] for o in found["options"]} == {None, "fp8"}
    assert {(n["drafter"], n["in_flight"]) for n in found["needs"]} == {
        (name, number) for name in ("draft_model", "lookup") for number in (2, 64)
    }
    assert all(n["pays"] == (n["has_alpha"] > n["alpha"]) for n in found["needs"])
    out = shown(capsys, *args, "--price", "2")
    assert "What a drafter needs to pay" in out and "USD/Mtoken" in out
    assert "weights: must be of" in refusal(capsys, *args, "--weights", "fp5")
    assert "must divide the 2 devices" in refusal(capsys, *args, "--tp", "3")
    one = answer(capsys, *args, "--draft-tp", "1", "--in-flight", "2")
    assert {o["draft_tensor_parallel"] for o in one["options"]} == {1}
    assert "draft_tp: must be whole numbers" in refusal(capsys, *args, "--draft-tp", "some")


def test_sweep(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    args = ["sweep", SMALL, "--vary", "batch=1,64,5000", "--vary", "alpha=0.2,0.8", "--workers", "1", "--out", str(out)]
    found = answer(capsys, *args)
    assert [row["cell"] for row in found["rows"]] == list(range(6))
    assert [row["status"] for row in found["rows"]] == ["optimal"] * 4 + ["infeasible"] * 2
    whole = out.read_text()
    lines = whole.splitlines()
    assert [json.loads(line) for line in lines[1:]] == found["rows"]
    out.write_text("\n".join([*lines[:3], lines[3][:20]]))  # stopped in the middle of a line
    assert "6 cells" in shown(capsys, *args) and out.read_text() == whole
    assert "must hold the same sweep" in refusal(capsys, *args[:-2], "--seed", "1", "--sample", "2", "--out", str(out))


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["tune", SMALL, "--engine", "vllm"], "engine: must be a name and a version"),
        (["tune", SMALL, "--engine", "vllm@9"], "version"),
        (["tune", SMALL, "--tree-plot", "tree.txt"], "plot: must end in"),
        (["tune-load", SMALL, "--max-batch", "0"], "max_batch: must be >= 1"),
        (["tune-load", SMALL, "--context", "x"], "context: must be whole numbers"),
        (["tune-load", SMALL, "--context", "1000000"], "workload.context_tokens"),
        (["tune-load", SMALL, "--tolerance", "nan"], "tolerance"),
        (["tune-load", SMALL, "--max-batch", "4", "--arrivals", "0"], "arrival_rate"),
        (["tune-joint", SMALL, "--devices", "1", "--in-flight", "0"], "in_flight"),
        (["tune-joint", SMALL, "--devices", "1", "--candidates", "none.toml"], "none.toml"),
        (["sweep", SMALL, "--vary", "batch"], "vary: must be NAME=VALUE"),
        (["sweep", SMALL, "--vary", "batch=many"], "batch"),
        (["sweep", SMALL, "--vary", "batch=1", "--sample", "2"], "sample: must be <= 1"),
        (["sweep", SMALL, "--vary", "batch=1", "--out", "no/such/folder"], "out: can not be written"),
    ],
)
def test_wrong_questions_are_refused(args: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert line in refusal(capsys, *args)


def test_trees_are_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for suffix in FORMATS:
        path = tmp_path / f"tree{suffix}"
        shown(
            capsys, "tune", LARGE, "--batch", "1", "--tree-plot", str(path), "--plot", str(tmp_path / f"tune{suffix}")
        )
        assert path.stat().st_size > 10_000
