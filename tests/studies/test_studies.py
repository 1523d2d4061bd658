"""Every study runs, gives the figures that it is committed with, and says what its README says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")
STUDIES = Path(__file__).resolve().parents[2] / "studies"


def run(name: str, out: Path) -> Any:
    """Figures of a quick run; its picture must be there too."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, STUDIES / name / "study.py", "--quick", "--out", out]
    subprocess.run(command, check=True, timeout=120, capture_output=True, cwd=out, env=environment)
    (picture,) = out.glob("*.png")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    return json.loads((out / "figures.json").read_text(encoding="utf-8"))


def expected(name: str) -> Any:
    return json.loads((STUDIES / name / "expected.json").read_text(encoding="utf-8"))


def leaves(tree: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a document with its place in it."""
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(value, f"{at}.{key}")
    else:
        yield at, tree


def assert_alike(found: Any, committed: Any) -> None:
    """Counts and words equal; other numbers within one percent, relative errors within one point."""
    one, other = dict(leaves(found)), dict(leaves(committed))
    assert one.keys() == other.keys()
    for place, value in one.items():
        if isinstance(value, float):
            assert value == pytest.approx(other[place], rel=0.01, abs=0.01), place
        else:
            assert value == other[place], place


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Any]:
    return {(c["gpu"], c["batch"]): c for c in run("best_draft_by_gpu", tmp_path_factory.mktemp("best_draft"))}


def test_best_draft_by_gpu_gives_its_figures(cells: dict[tuple[str, int], Any]) -> None:
    committed = {(c["gpu"], c["batch"]): c for c in expected("best_draft_by_gpu")}
    assert_alike(list(cells.values()), [committed[place] for place in cells])


def test_the_best_draft_shrinks_as_the_batch_grows() -> None:
    committed = expected("best_draft_by_gpu")
    for gpu in {c["gpu"] for c in committed}:
        mine = sorted((c for c in committed if c["gpu"] == gpu and "best" in c), key=lambda c: c["batch"])
        for key in ("chain_len", "nodes", "speedup"):
            values = [c[key] for c in mine]
            assert values == sorted(values, reverse=True), (gpu, key)
            assert values[-1] < values[0]


def test_findings_on_the_best_draft(cells: dict[tuple[str, int], Any]) -> None:
    """Trees win at batch 1, chains at 64; a tree for batch 1 is a loss there; one cell does not fit."""
    gpus = {gpu for gpu, _ in cells}
    assert [place for place, c in cells.items() if "infeasible" in c] == [("rtx-4090", 64)]
    assert all(cells[gpu, 1]["speedup"] > 1.2 * cells[gpu, 1]["chain_speedup"] for gpu in gpus)
    for gpu in gpus - {"rtx-4090"}:
        assert cells[gpu, 64]["best"] == f"chain {cells[gpu, 64]['chain_len']}"
        assert cells[gpu, 64]["kept_speedup"] < 0.5
    # the best draft stops before a step of the dense layers, 64 or 128 tokens of 8 sequences
    sizes = {gpu: cells[gpu, 8]["nodes"] for gpu in gpus}
    assert sizes == {"rtx-4090": 8, "a100-80gb-sxm": 8, "jetson-agx-orin-64gb": 8, "h100-sxm": 16}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run("published_rounds", tmp_path_factory.mktemp("published"))


def test_published_rounds_gives_its_figures(published: Any) -> None:
    assert_alike(published, expected("published_rounds"))


def test_findings_on_published_rounds(published: Any) -> None:
    """Held-out times within seven percent on the mean, speed-ups within nine; a round too cheap under load."""
    held_out = published["summary"]["held out"]
    assert held_out["mape"] < 0.07
    assert held_out["cost_mape"] < 0.09
    assert abs(held_out["bias"]) < 0.04
    assert held_out["within_frac"] >= 0.9
    assert published["summary"]["held out, rounds"]["num_rows"] == 4
    loads = {(row["gpu"], row["batch"]): row["predicted"] / row["measured"] for row in published["loads"]}
    assert all(0.75 < ratio < 0.88 for (_, batch), ratio in loads.items() if 16 <= batch <= 64)
    assert loads["gh200", 8] < 0.95
    assert 1.1 < loads["gh200", 128] < 1.3
    assert 1.0 < loads["gh200", 256] < 1.15
