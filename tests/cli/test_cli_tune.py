"""``tune``, ``export``, ``simulate`` from outside: what they answer, in which keys, and flags for a shell."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from specsim import metrics
from specsim.cli import main
from specsim.records import load_records
from specsim.scenario import bundled_scenarios, find_scenario

SMALL = "llama-3.1-8b-agx-orin"
LARGE = "llama-3.1-70b-4xh100-eagle3"
SIMULATE = ["simulate", SMALL, "--requests", "8", "--output-tokens", "40"]


def answer(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    """The JSON of a command that must succeed."""
    assert main([*args, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["schema"] == f"specsim.{args[0]}/1"
    return found


def refusal(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line of a command that must refuse."""
    assert main(list(args)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and err.strip().isprintable()
    return err


def flags(command: str) -> list[str]:
    """Words of a command as a shell would split it, with nothing left that a shell would act on."""
    words = shlex.split(command)
    assert shlex.join(words) == command
    return words


@pytest.mark.parametrize("name", bundled_scenarios())
def test_tune(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "tune", name)
    assert found.keys() == {
        "schema", "status", "scenario", "best", "gap", "ranked", "infeasible", "acceptance", "exports",
        "certificate",
    }  # fmt: skip
    best = found["best"]
    assert best == found["ranked"][0]
    assert best.keys() >= {
        "configuration", "paths", "draft_len", "tokens_per_round", "draft_s", "verify_s", "host_s", "by_bound_s",
        "bound", "speedup", "speedup_90", "tokens_per_s", "time_per_token_s",
    }  # fmt: skip
    assert best["speedup_90"][0] < best["speedup"] < best["speedup_90"][1] and best["speedup"] > 1.5
    assert sum(best["by_bound_s"].values()) == pytest.approx(best["draft_s"] + best["verify_s"] + best["host_s"])
    assert best["bound"] == max(best["by_bound_s"], key=best["by_bound_s"].__getitem__)
    plain = [e for e in found["ranked"] if e["configuration"] == "no speculation"]
    assert [(e["speedup"], e["paths"], e["draft_len"]) for e in plain] == [(1.0, [], 0)]
    assert found["scenario"]["name"] == find_scenario(name).name
    assert [(e["engine"], e["version"]) for e in found["exports"]] == [("vllm", "0.33.0"), ("sglang", "0.5.23")]
    for export in found["exports"]:
        assert 1 - export["tokens_per_s"] / best["tokens_per_s"] == pytest.approx(export["loss"], abs=1e-12)
        static = [e for e in found["ranked"] if e["configuration"] == export["configuration"]]
        assert [e["tokens_per_s"] for e in static] == pytest.approx([export["tokens_per_s"]] * len(static))
        assert static or export["is_estimate"]  # a tree that the engine grows stands in no ranking of fixed ones
        assert (export["loss"] > 0) == (export["configuration"] != best["configuration"]) == bool(export["refused"])


def test_engine_flags(capsys: pytest.CaptureFixture[str]) -> None:
    vllm, sglang = answer(capsys, "tune", LARGE)["exports"]
    said = flags(vllm["command"])
    assert said[:5] == ["vllm", "serve", "meta-llama/Llama-3.1-70B-Instruct", "--tensor-parallel-size", "4"]
    assert json.loads(said[said.index("--speculative-config") + 1]) == vllm["config"]
    chain = int(vllm["configuration"].removeprefix("chain "))
    assert vllm["config"] == {
        "method": "eagle3", "model": "yuhuili/EAGLE3-LLaMA3.3-Instruct-70B", "num_speculative_tokens": chain,
    }  # fmt: skip
    said = flags(sglang["command"])
    assert said[:3] == ["python", "-m", "sglang.launch_server"]
    assert said[said.index("--speculative-algorithm") + 1] == "EAGLE3"
    steps, nodes = (int(said[said.index(f"--speculative-num-{n}") + 1]) for n in ("steps", "draft-tokens"))
    topk = int(said[said.index("--speculative-eagle-topk") + 1])
    assert sglang["configuration"] == f"top-k tree: steps {steps}, topk {topk}, {nodes} nodes"  # SGLang counts the root


def test_what_if_changes_the_question(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "tune", SMALL, "--batch", "4", "--context", "512", "--hardware", "h100-sxm")
    assert found["scenario"]["workload"] == {"batch": 4, "context_tokens": 512, "temperature": 0.0}
    assert found["scenario"]["hardware"] == "h100-sxm"
    assert found["best"]["tokens_per_s"] > 4 * answer(capsys, "tune", SMALL)["best"]["tokens_per_s"]


def test_tables_say_what_the_json_says(capsys: pytest.CaptureFixture[str]) -> None:
    best = answer(capsys, "tune", LARGE)["best"]
    assert main(["tune", LARGE, "--top", "2"]) == 0
    shown = capsys.readouterr().out
    assert f"Best: {best['configuration']}." in shown and f"{best['speedup']:.2f}" in shown
    assert "no speculation" in shown and "--speculative-config" in shown
    assert "Llama-3.1-70B on 4 x H100" in shown and "?" not in shown.splitlines()[0]


def test_export_of_a_chain(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "export", SMALL, "--engine", "vllm", "--version", "0.33.0", "--draft-len", "3")["export"]
    assert found.keys() == {"engine", "version", "command", "config", "env", "files", "notes"}
    assert found["config"]["num_speculative_tokens"] == 3
    assert json.loads(flags(found["command"])[-1]) == found["config"]


def test_an_export_that_is_impossible_is_an_answer_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    tree = ["export", LARGE, "--engine", "vllm", "--version", "0.33.0", "--widths", "3,2"]
    found = answer(capsys, *tree)
    assert "drafts chains only" in found["infeasible"] and found["nearest"]["parents"] == [-1, 0, 1]
    assert main(tree) == 0
    assert "can not express it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--engine", "tgi", "--version", "1", "--draft-len", "1"], "engine: must be vllm, sglang, tensorrt-llm, "),
        (["--engine", "vllm", "--version", "0.33.0"], "give either it or widths"),
        (["--engine", "vllm", "--version", "0.33.0", "--draft-len", "1", "--widths", "2"], "must be left out"),
        (["--engine", "vllm", "--version", "0.33.0", "--draft-len", "-1"], "draft_len: must be >= 0, got -1"),
        (["--engine", "vllm", "--version", "0.33.0", "--widths", "2,x"], "widths: must be whole numbers"),
        (["--engine", "vllm", "--version", "0.33.0", "--widths", "9,9,9,9,9"], "branching: must give at most"),
        (["--engine", "vllm", "--version", "zero", "--draft-len", "1"], "zero"),
    ],
)
def test_wrong_exports_are_refused(options: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert line in refusal(capsys, "export", SMALL, *options)


def changed(tmp_path: Path, *changes: tuple[str, str]) -> str:
    """The small scenario with some of its text changed, as a file."""
    text = bundled_scenarios()[SMALL].read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "changed.toml"
    path.write_text(text)
    return str(path)


def test_names_that_a_shell_would_act_on_are_quoted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "x'; $(touch owned) && `id` #"
    path = changed(
        tmp_path, ("meta-llama/Llama-3.1-8B-Instruct", hostile), ("meta-llama/Llama-3.2-1B-Instruct", hostile)
    )
    for export in answer(capsys, "tune", path)["exports"]:
        assert hostile in flags(export["command"])
    said = answer(capsys, "export", path, "--engine", "vllm", "--version", "0.33.0", "--draft-len", "2")["export"]
    assert json.loads(flags(said["command"])[-1])["model"] == hostile


@pytest.mark.parametrize("name", ["--trust-remote-code", "two\\nlines", "\\u001b[2J"])
def test_names_that_an_engine_would_act_on_are_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = changed(tmp_path, ("meta-llama/Llama-3.1-8B-Instruct", name))
    assert "target must" in refusal(capsys, "tune", path)
    assert "target must" in refusal(
        capsys, "export", path, "--engine", "sglang", "--version", "0.5.23", "--draft-len", "0"
    )


def test_nothing_is_drafted_without_a_drafter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drafter = 'kind = "draft_model"\nmodel = "llama-3.2-1b"\nid = "meta-llama/Llama-3.2-1B-Instruct"'
    path = changed(tmp_path, (drafter, 'kind = "none"'))
    found = answer(capsys, "tune", path)
    assert [e["configuration"] for e in found["ranked"]] == ["no speculation"]
    assert all("--speculative" not in e["command"] for e in found["exports"])
    options = ["--engine", "vllm", "--version", "0.33.0"]
    assert "none" in refusal(capsys, "export", path, *options, "--draft-len", "2")
    assert "drafter.kind" in refusal(capsys, "simulate", path, "--draft-len", "2")


def test_simulate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rounds.jsonl"
    found = answer(capsys, *SIMULATE, "--draft-len", "3", "--seed", "5", "--out", str(out))
    assert found.keys() == {
        "schema", "scenario", "settings", "configuration", "num_rounds", "tokens_per_round", "tokens_per_s",
        "time_per_token_s", "accepted_counts", "elapsed_s", "prefill_s", "predicted",
    }  # fmt: skip
    assert found["settings"] == {"requests": 8, "output_tokens": 40, "seed": 5, "records": str(out)}
    records = list(load_records(out))
    assert len(records) == found["num_rounds"] == sum(found["accepted_counts"])
    assert found["tokens_per_round"] == metrics.tokens_per_round(records)
    assert found["elapsed_s"] == pytest.approx(found["prefill_s"] + sum(r.time_s for r in records))
    assert found["predicted"].keys() == {"tokens_per_round", "tokens_per_s", "time_per_token_s"}
    spread = 4 * np.std([r.num_emitted for r in records]) / np.sqrt(len(records))
    assert found["tokens_per_round"] == pytest.approx(found["predicted"]["tokens_per_round"], abs=float(spread))
    again = answer(capsys, *SIMULATE, "--draft-len", "3", "--seed", "5")
    assert again["accepted_counts"] == found["accepted_counts"]
    assert "must be a new file (File exists)" in refusal(capsys, *SIMULATE, "--draft-len", "3", "--out", str(out))
    assert len(list(load_records(out))) == len(records)


def test_simulate_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", LARGE, "--widths", "3,2", "--requests", "8", "--output-tokens", "20"]) == 0
    shown = capsys.readouterr().out
    assert "tree 10 nodes, depth 2" in shown and "Draft tokens kept" in shown and "8 in flight" in shown


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--draft-len", "9"], "tree depth: must be <= 8"),
        (["--widths", "2"], "tree rank: must be < 1"),
        ([], "give either it or widths"),
        (["--draft-len", "1", "--requests", "0"], "--requests"),
        (["--draft-len", "1", "--output-tokens", "0"], "--output-tokens"),
        (["--draft-len", "1", "--output-tokens", "1000000"], "output_tokens: must be <= 130048"),
        (["--draft-len", "1", "--seed", "-1"], "--seed"),
        (["--draft-len", "1", "--requests", "1", "--out", "no/such/folder/x"], "out: must be a new file (No such"),
        (["--draft-len", "1", "--requests", "1", "--out", "x" * 5000], "out: must be a new file (File name too long)"),
    ],
)
def test_wrong_simulations_are_refused(options: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert line in refusal(capsys, "simulate", SMALL, *options)


def test_a_schedule_is_exported_in_the_engines_own_dialect(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ["export", SMALL, "--engine", "vllm", "--version", "0.33.0", "--schedule", "1-8:4,9-32:2"]
    config = answer(capsys, *asked, "--synthetic")["export"]["config"]
    assert config["num_speculative_tokens_per_batch_size"] == [[1, 8, 4], [9, 32, 2]]
    assert config["rejection_sample_method"] == "synthetic" and len(config["synthetic_acceptance_rates"]) == 4
    assert "tiers from 1 without gaps" in refusal(capsys, *asked[:-1], "2-8:4")
    assert "first-last:draft_len" in refusal(capsys, *asked[:-1], "eight")
    hf = [
        "export",
        SMALL,
        "--engine",
        "transformers",
        "--version",
        "5.23.0",
        "--draft-len",
        "4",
        "--out",
        str(tmp_path),
    ]
    assert answer(capsys, *hf)["export"]["config"]["num_assistant_tokens"] == 4
    assert (tmp_path / "assistant_generation_config.json").is_file()
    assert "must not hold the file already" in refusal(capsys, *hf)


def test_the_nearest_plan_says_what_it_gives_up(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "export", LARGE, "--engine", "llama.cpp", "--version", "0c1e57098", "--widths", "2,1")
    assert 0 < found["predicted_loss"] < 1 and "chains only" in found["infeasible"]
