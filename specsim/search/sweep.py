"""Many scenarios: one question with some answers varied over a grid, or a sample of it, on all cores or a cluster.

Cells that share devices, models and engine are searched together, their passes priced in one call. What a cell answers
depends on nothing but the cell, so the rows are the same however the work is shared out, and a stopped sweep goes on
where it was.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

from specsim.acceptance.emitted import Acceptance
from specsim.acceptance.priors import PriorInput
from specsim.documents import parse
from specsim.errors import InfeasibleError, InputError, SpecsimError
from specsim.scenario import Deployment, Scenario, WorkloadUse, resolve
from specsim.search.exact.certificate import checked_count
from specsim.search.points import Point, PointBest, best_at, moved, point_of
from specsim.search.rounds import TIE
from specsim.tree import DraftTree

Settings = dict[str, Any]
Row = dict[str, Any]
CHUNK: Final = 256
"""Cells per piece of work: enough that pricing together pays, few enough that progress shows."""
MAX_CELLS: Final = 2_000_000
ALPHA: Final = "alpha"
"""The axis that replaces the acceptance by one i.i.d. rate."""


def sweep(
    scenario: Scenario,
    axes: Mapping[str, Sequence[Any]],
    *,
    sample: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    dask: str | None = None,
    done: Iterable[int] = (),
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Iterator[Row]:
    """Answers of all cells not yet ``done``, as they come; ``cell`` numbers them in the order of the grid.

    Args:
        scenario: The question; each cell changes it by its settings.
        axes: Values by name: a field of the workload or of the scenario (``batch``, ``hardware``, ...), one of their
            tables' (``search.max_nodes``), or ``alpha``. The last axis moves fastest.
        sample: So many cells drawn from the grid without repetition; None: all.
        seed: Of that draw.
        workers: Processes; None: one per core that this process may use. 1: none beside this one.
        dask: Address of a Dask scheduler to send the work to instead.
        progress: Told how many cells are done, of how many.

    Raises:
        InputError: for an unknown axis, a value that its field refuses, or too many cells.
    """
    cells = cells_of(scenario, axes, sample, seed)
    todo = sorted(set(range(len(cells))) - set(done))
    finished = len(cells) - len(todo)
    # Cells of one deployment side by side, so that a chunk resolves few.
    todo.sort(key=lambda number: (json.dumps(_shared(cells[number])), number))
    data = scenario.model_dump_json()
    chunks = [[(n, cells[n]) for n in todo[i : i + CHUNK]] for i in range(0, len(todo), CHUNK)]
    progress(finished, len(cells))
    for rows in _mapped(data, chunks, workers, dask):
        finished += len(rows)
        progress(finished, len(cells))
        yield from rows


def cells_of(
    scenario: Scenario, axes: Mapping[str, Sequence[Any]], sample: int | None = None, seed: int = 0
) -> list[Settings]:
    """The settings of every cell, checked value by value.

    >>> from specsim.scenario import find_scenario
    >>> cells_of(find_scenario("llama-3.1-8b-agx-orin"), {"batch": [1, 2], "alpha": [0.5]})
    [{'batch': 1, 'alpha': 0.5}, {'batch': 2, 'alpha': 0.5}]
    """
    if not axes:
        raise InputError("axes", "must name at least one")
    for name, values in axes.items():
        if not values:
            raise InputError(f"axes: {name}", "must have a value")
        for value in values:
            changed(scenario, {name: value})
    sizes = [len(values) for values in axes.values()]
    total = math.prod(sizes)
    if sample is None:
        checked_count("cells", total, 1, MAX_CELLS)
        places: Iterable[int] = range(total)
    else:
        checked_count("sample", sample, 1, min(total, MAX_CELLS))
        places = sorted(_drawn(total, sample, seed))
    return [
        {name: values[i] for (name, values), i in zip(axes.items(), _digits(place, sizes), strict=True)}
        for place in places
    ]


def changed(scenario: Scenario, settings: Settings) -> Scenario:
    """The scenario with a cell's settings. Raises InputError naming what its field refuses."""
    data = scenario.model_dump()
    for name, value in settings.items():
        if name == ALPHA:
            data["acceptance"] = _iid(scenario, value)
            continue
        path = ["workload", name] if name in WorkloadUse.model_fields else name.split(".")
        table = data
        for key in path[:-1]:
            table = table.get(key) if isinstance(table, dict) else None  # type: ignore[assignment]
        if not isinstance(table, dict) or (len(path) == 1 and path[0] not in Scenario.model_fields):
            raise InputError("axes", "must be fields of a scenario, or alpha", name)
        table[path[-1]] = value
    return parse(Scenario, data, "axes")


def run_cells(scenario_json: str, cells: Sequence[tuple[int, Settings]]) -> list[Row]:
    """Answers of some cells, those of one deployment together. A cell that can not be is an answer with its reason."""
    scenario = Scenario.model_validate_json(scenario_json)
    rows: list[Row] = []
    groups: dict[str, list[tuple[int, Settings]]] = {}
    for number, settings in cells:
        groups.setdefault(json.dumps(_shared(settings)), []).append((number, settings))
    for key, members in groups.items():
        found: list[tuple[int, Settings, Point]] = []
        try:
            base = _base(scenario_json, key)
        except SpecsimError as error:
            rows += [_refused(number, settings, str(error)) for number, settings in members]
            continue
        profiles: dict[str, Acceptance] = {}
        for number, settings in members:
            try:
                found.append((number, settings, _point(base, scenario, settings, profiles)))
            except SpecsimError as error:
                rows.append(_refused(number, settings, str(error)))
        answers = best_at(base, [point for _, _, point in found]) if found else []
        rows += [_row(number, settings, point, a) for (number, settings, point), a in zip(found, answers, strict=True)]
    return sorted(rows, key=lambda row: row["cell"])


def identity(scenario: Scenario, axes: Mapping[str, Sequence[Any]], sample: int | None, seed: int) -> str:
    """What makes two sweeps the same, as a short hash."""
    said = [scenario.model_dump(mode="json"), [[name, list(values)] for name, values in axes.items()], sample, seed]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def load_rows(path: Path, wanted: str) -> list[Row]:
    """Rows that an earlier run of the same sweep left in a file; a last line cut short is left out.

    Raises:
        InputError: where the file holds another sweep, or none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(str(path), f"can not be read ({error})") from None
    rows = [row for row in map(_parsed, lines) if row is not None]
    if not rows or rows[0].get("sweep") != wanted:
        raise InputError(str(path), "must hold the same sweep (scenario, axes, sample and seed), or be a new file")
    return [row for row in rows[1:] if "cell" in row]


def _parsed(line: str) -> Row | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _mapped(
    data: str, chunks: Sequence[Sequence[tuple[int, Settings]]], workers: int | None, dask: str | None
) -> Iterator[list[Row]]:
    """Rows of each chunk, as they come."""
    if dask is not None:
        yield from _on_dask(data, chunks, dask)
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    number = min(cores if workers is None else checked_count("workers", workers, 1, 1024), len(chunks))
    if number <= 1:
        for chunk in chunks:
            yield run_cells(data, chunk)
        return
    with ProcessPoolExecutor(number) as pool:
        waiting = [pool.submit(run_cells, data, chunk) for chunk in chunks]
        for one in as_completed(waiting):
            yield one.result()


def _on_dask(data: str, chunks: Sequence[Sequence[tuple[int, Settings]]], address: str) -> Iterator[list[Row]]:
    try:
        distributed = import_module("distributed")
    except ImportError:
        raise InputError("dask", "needs the extra `distributed`", address) from None
    try:
        client = distributed.Client(address)
    except (OSError, ValueError) as error:
        raise InputError("dask", f"no scheduler answers ({error})", address) from None
    with client:
        waiting = [client.submit(run_cells, data, chunk) for chunk in chunks]
        for one in distributed.as_completed(waiting):
            yield one.result()


@lru_cache(maxsize=8)
def _base(scenario_json: str, shared: str) -> Deployment:
    """The deployment of a group of cells, at a point where it fits if it can anywhere."""
    asked = changed(Scenario.model_validate_json(scenario_json), json.loads(shared))
    nothing = {"max_draft_len": 0, "max_nodes": 1, "max_depth": 0}  # the cells have their own limits
    smallest = asked.varied(batch=1, context_tokens=0, search=nothing)
    return resolve(smallest)


def _shared(settings: Settings) -> Settings:
    """The settings that decide what is loaded; the others only move the point within it."""
    return {name: value for name, value in settings.items() if not _moves(name)}


def _moves(name: str) -> bool:
    return name in (*WorkloadUse.model_fields, ALPHA) or name.split(".")[0] in ("acceptance", "search", "workload")


def _point(base: Deployment, scenario: Scenario, settings: Settings, profiles: dict[str, Acceptance]) -> Point:
    """A cell's point; cells of the same acceptance share their profile, and so its trees."""
    asked = changed(scenario, settings)
    w = asked.workload
    here = moved(base, batch=w.batch, context_tokens=w.context_tokens)
    drafts = asked.drafter.kind != "none"
    key = asked.acceptance.model_dump_json()
    if key not in profiles:
        profiles[key] = asked.acceptance.profile()
    profile = profiles[key]
    deepest = max(asked.search.max_draft_len, asked.search.max_depth) if drafts else 0
    if deepest > profile.max_depth:
        raise InputError("search", f"must be at most {profile.max_depth} deep, as acceptance is known", deepest)
    with suppress(InfeasibleError):  # found again, tree by tree
        here.check(DraftTree.chain(deepest))
    return point_of(here)._replace(
        acceptance=profile,
        max_draft_len=asked.search.max_draft_len if drafts else 0,
        max_nodes=asked.search.max_nodes if drafts else 1,
        max_depth=asked.search.max_depth if drafts else 0,
    )


def _iid(scenario: Scenario, alpha: Any) -> dict[str, Any]:
    depth = max(scenario.search.max_draft_len, scenario.search.max_depth, 1)
    own = scenario.acceptance
    ranks = {"rank_shares": own.rank_shares, "rank_shares_source": own.rank_shares_source} if own.rank_shares else {}
    # A prior's spread is between studies, and of the one rate that is put in its place they say nothing.
    task_sd = 0.0 if isinstance(own, PriorInput) else own.task_sd
    said = {"kind": "iid", "alpha": alpha, "max_depth": depth, "task_sd": task_sd}
    return {**said, **ranks, "source": "an axis of the sweep"}


def _drawn(total: int, sample: int, seed: int) -> set[int]:
    rng = np.random.default_rng(seed)
    if total <= MAX_CELLS:
        return set(rng.choice(total, sample, replace=False).tolist())
    found: set[int] = set()
    while len(found) < sample:  # of a grid too large to list, repetitions are rare
        found |= {int(x) for x in (rng.random(sample - len(found)) * total)}
    return found


def _digits(place: int, sizes: Sequence[int]) -> list[int]:
    """The place in each axis, the last moving fastest.

    >>> [_digits(place, [2, 3]) for place in (0, 1, 5)]
    [[0, 0], [0, 1], [1, 2]]
    """
    found: list[int] = []
    for size in reversed(sizes):
        place, digit = divmod(place, size)
        found.append(digit)
    return found[::-1]


def _row(number: int, settings: Settings, point: Point, answer: PointBest) -> Row:
    if answer.reason:
        return _refused(number, settings, answer.reason)
    tree = answer.tree
    return {
        "cell": number,
        "settings": settings,
        "status": "optimal" if answer.gap <= TIE else "bounded",
        "configuration": tree.label,
        "num_drafted": tree.num_drafted,
        "depth": tree.depth,
        "tokens_per_round": answer.tokens_per_round,
        "tokens_per_s": answer.tokens_per_s,
        "time_per_token_s": answer.round_s / answer.tokens_per_round,
        "speedup": answer.speedup,
        "gap": answer.gap,
        "chain_len": answer.chain_len,
        "chain_tokens_per_s": answer.chain_tokens_per_s,
    }


def _refused(number: int, settings: Settings, reason: str) -> Row:
    return {"cell": number, "settings": settings, "status": "infeasible", "reason": reason}
