"""Sweeps: every cell as it is alone, the same rows however they are worked off, and going on where one stopped."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from toy_deployment import fields, table

from specsim.documents import parse
from specsim.errors import InputError
from specsim.scenario import Scenario, resolve
from specsim.search import sweep as module
from specsim.search.sweep import cells_of, changed, identity, load_rows, sweep
from specsim.search.tune import tune

SEARCH = {"max_draft_len": 4, "max_nodes": 8, "max_depth": 4}
ASKED = parse(Scenario, fields(pricing="roofline", search=SEARCH, acceptance=table(*[(0.6, 0.2)] * 4)), "toy")
AXES: dict[str, list[Any]] = {
    "engine": ["vllm", "hf"],
    "batch": [1, 20, 1000],
    "alpha": [0.3, 0.8],
    "search.max_nodes": [3, 8],
}


def rows_of(**options: Any) -> list[dict[str, Any]]:
    return sorted(sweep(ASKED, AXES, **{"workers": 1} | options), key=lambda row: row["cell"])


def test_every_cell_is_what_it_is_alone() -> None:
    rows, cells = rows_of(), cells_of(ASKED, AXES)
    assert [row["cell"] for row in rows] == list(range(24)) and [row["settings"] for row in rows] == cells
    for row in rows:
        if row["settings"]["batch"] == 1000:
            assert row["status"] == "infeasible" and "memory" in row["reason"]
            continue
        alone = tune(resolve(changed(ASKED, row["settings"]))).best
        assert row["tokens_per_s"] == pytest.approx(alone.tokens_per_s, rel=1e-9)
        assert row["status"] == ("optimal" if row["gap"] <= 1e-9 else "bounded")


def test_rows_are_the_same_on_two_processes_and_in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rows_of()
    monkeypatch.setattr(module, "CHUNK", 5)
    assert rows_of(workers=2) == whole


def test_a_stopped_sweep_goes_on(tmp_path: Path) -> None:
    whole, told = rows_of(), []
    done = [row["cell"] for row in whole[:10]]
    rest = list(sweep(ASKED, AXES, workers=1, done=done, progress=lambda n, of: told.append((n, of))))
    assert sorted([*whole[:10], *rest], key=lambda row: int(row["cell"])) == whole
    assert told[0] == (10, 24) and told[-1] == (24, 24)
    key = identity(ASKED, AXES, None, 0)
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"sweep": key}), *map(json.dumps, whole[:10]), '{"cell": 10, "sett']  # cut short
    path.write_text("\n".join(lines))
    assert load_rows(path, key) == whole[:10]
    for text in ("", "[1]\n", json.dumps({"sweep": "another"})):
        path.write_text(text)
        with pytest.raises(InputError, match="must hold the same sweep"):
            load_rows(path, key)


def test_samples_are_drawn_from_the_grid_without_repetition() -> None:
    grid = cells_of(ASKED, AXES)
    drawn = cells_of(ASKED, AXES, sample=7, seed=3)
    assert len(drawn) == 7 and all(drawn.count(cell) == 1 and cell in grid for cell in drawn)
    assert drawn == cells_of(ASKED, AXES, sample=7, seed=3) != cells_of(ASKED, AXES, sample=7, seed=4)
    huge = {"batch": list(range(1, 2001)), "context_tokens": list(range(2000))}
    assert len(module._drawn(2000 * 2000, 50, 0)) == 50 and len(huge["batch"]) ** 2 > module.MAX_CELLS


def test_dask_gives_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the scheduler: what matters is that chunks go there and rows come back."""

    class Client:
        def __init__(self, address: str) -> None:
            if address != "tcp://there:8786":
                raise OSError("nobody there")

        def __enter__(self) -> Client:
            return self

        def __exit__(self, *_: object) -> None: ...

        def submit(self, work: Any, *args: Any) -> Any:
            return SimpleNamespace(result=lambda: work(*args))

    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace(Client=Client, as_completed=reversed))
    monkeypatch.setattr(module, "CHUNK", 10)
    assert rows_of(dask="tcp://there:8786") == rows_of()
    with pytest.raises(InputError, match="no scheduler answers"):
        rows_of(dask="tcp://elsewhere:1")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match="extra `distributed`"):
        rows_of(dask="tcp://there:8786")


@pytest.mark.parametrize(
    ("axes", "line"),
    [
        ({}, "axes: must name"),
        ({"batch": []}, "must have a value"),
        ({"batch": [1, 0]}, "batch"),
        ({"no_such": [1]}, "must be fields of a scenario"),
        ({"search.no_such": [1]}, "unknown key"),
        ({"no.such": [1]}, "must be fields of a scenario"),
        ({"alpha": [1.5]}, "alpha"),
        ({"alpha": ["x"]}, "alpha"),
        ({"hardware": [3]}, "hardware"),
    ],
)
def test_wrong_axes_are_refused(axes: dict[str, list[Any]], line: str) -> None:
    with pytest.raises(InputError, match=line):
        cells_of(ASKED, axes)


def test_wrong_samples_are_refused_and_cells_that_can_not_be_are_answers() -> None:
    with pytest.raises(InputError, match="sample"):
        cells_of(ASKED, {"batch": [1]}, sample=2)
    with pytest.raises(InputError, match="cells"):
        cells_of(ASKED, {"batch": list(range(1, 1502)), "context_tokens": list(range(1400))})
    axes: dict[str, list[Any]] = {"hardware": ["no-such-device"], "batch": [1, 2]}
    assert {row["status"] for row in sweep(ASKED, axes, workers=1)} == {"infeasible"}
    deep = list(sweep(ASKED, {"search.max_depth": [4, 9], "context_tokens": [64, 10**7]}, workers=1))
    assert sorted(row["status"] for row in deep) == ["bounded", "infeasible", "infeasible", "infeasible"]
