"""The page of JSON answers names exactly the top-level keys that commands print."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from specsim.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "json.md"
LARGE, SMALL = "llama-3.1-70b-4xh100-eagle3", "llama-3.1-8b-agx-orin"
LOG = """\
Avg prompt throughput: 10.0 tokens/s, Avg generation throughput: 700.0 tokens/s, Running: 32 reqs, Waiting: 0 reqs
SpecDecoding metrics: Mean acceptance length: 1.95, Accepted: 3410 tokens, Drafted: 17950 tokens, \
Per-position acceptance rate: 0.500, 0.230, 0.120, 0.060, 0.040, Avg Draft acceptance rate: 19.0%
"""
COMMANDS: dict[str, list[str]] = {
    "tune/1": [f"tune {SMALL} --engine vllm@0.33.0 --explain"],
    "tune-load/1": [f"tune-load {SMALL} --max-batch 4 --engine vllm@0.33.0 --arrivals 0.01"],
    "tune-joint/1": [f"tune-joint {SMALL} --devices 1 --in-flight 1"],
    "sweep/1": [f"sweep {SMALL} --vary alpha=0.4,0.8 --workers 1"],
    "robust/1": [f"robust {SMALL} --draws 200"],
    "export/1": [
        f"export {SMALL} --engine vllm --version 0.33.0 --draft-len 4",
        f"export {LARGE} --engine vllm --version 0.33.0 --widths 2,1",
    ],
    "diagnose/1": [f"diagnose {LARGE} vllm.log"],
    "serve/1": [f"serve {SMALL} --workload chat --rate 0.05 --requests 20"],
    "plan/1": [f"plan {SMALL} --workload chat --rate 0.05 --tpot-slo 1 --duration 60"],
    "import/1": ["import vllm.log"],
    "limits/1": [f"limits {SMALL} --temperature 1 --entropy 0.86,3.31 --max-tokens 16 --sizes 4"],
    "priors/1": ["priors eagle3 --temperature 0"],
    "priors.list/1": ["priors"],
    "simulate/1": [f"simulate {SMALL} --draft-len 2 --requests 2 --output-tokens 8"],
    "cost/1": ["cost --hardware l4 --target llama-3.1-8b"],
    "hardware.list/1": ["hardware list"],
    "hardware.show/1": [f"hardware show {name}" for name in ("h100-sxm", "jetson-agx-orin-64gb", "rtx-4090")],
    "model.list/1": ["model list"],
    "model.show/1": ["model show llama-3.1-8b"],
    "methods/1": ["methods"],
    "replay/1": ["replay --texts 1 --tokens 4 --num-laws 2 --max-depth 2 --policy chain_2"],
    "generate/1": ["generate --draft-len 1 --tokens 2"],
}
MINUTES = {
    "tune.from_metrics/1", "dynamic/1", "methods.measure/1", "calibrate/1", "calibrate.from/1", "accuracy/1",
    "accuracy.page/1", "validate/1", "demo/1",
}  # fmt: skip
"""Schemas whose commands take minutes or measured tables; their own tests look at their keys."""


def documented() -> dict[str, set[str]]:
    """Top-level keys by schema, from the first cells of the page's tables.

    Names after the first of a cell stand under the same key, so only a cell whose first name is a top-level key adds
    its others.
    """
    found: dict[str, set[str]] = {}
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        title = re.match(r"`specsim\.(.*)`\n", section)
        if not title:
            continue
        keys: set[str] = set()
        for cell in re.findall(r"^\| (`.*?) \| ", section, re.MULTILINE):
            first, *rest = re.findall(r"`([^`]*)`", cell)
            nested = "." in first
            keys |= {re.split(r"[.\[]", name)[0] for name in ([first] if nested else [first, *rest])}
        found[title[1]] = keys
    return found


def test_every_schema_has_a_section_and_a_command() -> None:
    assert set(documented()) == set(COMMANDS) | MINUTES


@pytest.mark.parametrize("schema", COMMANDS)
def test_keys(schema: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if schema in ("replay/1", "generate/1"):
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    Path("vllm.log").write_text(LOG, encoding="utf-8")
    printed: set[str] = set()
    for command in COMMANDS[schema]:
        words = [word.replace("chain_", "chain ") for word in command.split()]
        assert main([*words, "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert next(iter(answer)) == "schema" and answer["schema"] == f"specsim.{schema}"
        printed |= answer.keys() - {"schema"}
    assert printed == documented()[schema]


def test_infeasible(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("tune", "tune-load"):
        assert main([command, LARGE, "--tp", "1", "--json"]) == 0
        assert json.loads(capsys.readouterr().out).keys() == {"schema", "status", "reason", "scenario"}
