"""Fit what whole servers add to their kernels' times, and judge it on models, engines and GPUs left out.

    python -m specsim.calibrate.serving_fits TABLE

refits ``hwprofiles/serving.json`` from a serving table, with the operators' fits as they are, and prints the errors.

Few numbers are fitted, each drawn towards its parent: all engines together start from the defaults of
``ServingParams``, every engine from all engines, every version from its engine. Deployments (model, engine, version,
GPU, devices) weigh alike, whatever their rows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from specsim.calibrate.accuracy import UNSTATED
from specsim.calibrate.limits import is_impossible
from specsim.calibrate.operators import heldout, quantile_90, select
from specsim.calibrate.serving import SERVING, TTFT, Priced, is_unexplained, mean_ttft_s, price_rows
from specsim.calibrate.tables import load_measured
from specsim.cost.fits import HeldOut, profile_name
from specsim.cost.serving import Load, ServingParams, StepTimes, closed_loop
from specsim.cost.serving_fits import FILE, Kind, ServingFit, ServingFits, load_serving_fits
from specsim.errors import InputError
from specsim.hardware import hwprofiles_dir, load_hardware
from specsim.work import Float

SOURCE: Final = "aiconfigurator-validation and InferenceMAX rows of ai-dynamo/aiconfigurator silicon_sample @095f58a"
PRIOR_SD: Final = {
    "memory": 0.04,
    "compute": 0.06,
    "launch": 0.2,
    "link": 0.3,
    "skew_s": 0.7,
    "step_s": 0.7,
    "seq_s": 0.5,
    "token_s": 0.5,
    "layer_s": 0.8,
}
"""Log spread of each number about its parent's: kernels were measured on the same devices, hosts were not."""
SEEN: Final = "served, seen"
NOISE: Final = 0.1
"""Log error of one row that is not the parameters': operators' fits, and what steady states leave out."""
ROWS_COUNTED: Final = 12
"""Rows of one deployment that count as if they were independent; further ones share their weight."""
CHILD_SD: Final = 0.7
_NAMES: Final = tuple(PRIOR_SD)
_MOST_STEPS: Final = 25
_FIRST_WAVES: Final = np.arange(0.0, 0.41, 0.02)
_OUTSIDE: Final = np.arange(0.0, 1.3, 0.1)
_NONE: Final = np.zeros(1)


class Known(NamedTuple):
    """Rows of one deployment with what was measured, seconds; NaN where a row has no time to the first token."""

    priced: Priced
    tpot_s: Float
    ttft_s: Float


class Node(NamedTuple):
    """What was fitted to one engine or version, before it is judged."""

    params: ServingParams
    first_wave: float
    outside: float
    log_sd: dict[str, float]
    points: int


Nodes = Mapping[tuple[str, str], Node]


def known_rows(path: Path) -> list[Known]:
    """Rows that a fit may use: predicted, measured, possible, and not of a campaign that nothing explains.

    Raises:
        InputError: when the table can not be read.
    """
    table = load_measured(path, "silicon_e2e")
    usable = (table.wrong == "") & ~np.isnan(table.measured_s) & ~is_unexplained(table.rows)
    rows = select(table.rows, usable)
    ttft = rows["ttft_ms"] * 1e-3 if "ttft_ms" in rows else np.full(len(rows["gpu"]), np.nan)
    found = list[Known]()
    for place, priced in price_rows(rows):
        if isinstance(priced, InputError):
            continue
        tpot, part, facts = rows["tpot_ms"][place] * 1e-3, {n: v[place] for n, v in rows.items()}, priced.facts
        possible = ~is_impossible(SERVING, part, load_hardware(profile_name(facts["gpu"])), facts, tpot)
        if possible.any():
            found.append(Known(priced.only(possible), tpot[possible], ttft[place][possible]))
    return found


def fit_nodes(known: Sequence[Known]) -> dict[tuple[str, str], Node]:
    """Every engine and version, all of an engine (version ``*``) and all engines (``*``)."""
    nodes = {("*", "*"): _fit(known, ServingParams(), 1.0)}
    for engine in sorted({_fact(k, "engine") for k in known}):
        of_engine = [k for k in known if _fact(k, "engine") == engine]
        nodes[engine, "*"] = parent = _fit(of_engine, nodes["*", "*"].params, CHILD_SD)
        for version in sorted({_fact(k, "version") for k in of_engine}):
            of_version = [k for k in of_engine if _fact(k, "version") == version]
            nodes[engine, version] = _fit(of_version, parent.params, CHILD_SD, _OUTSIDE)
    return nodes


def _fact(known: Known, name: str) -> str:
    return str(known.priced.facts[name])


def _fit(known: Sequence[Known], parent: ServingParams, share: float, outside: Float = _NONE) -> Node:
    """Least squares of log errors, linear beyond ``NOISE`` (the pseudo-Huber loss), with a normal prior."""
    from scipy.optimize import least_squares

    times, tpot = _joined([k.priced.times for k in known]), np.concatenate([k.tpot_s for k in known])
    weights = np.sqrt(np.concatenate([np.full(len(k.tpot_s), _weight(len(k.tpot_s))) for k in known]))
    start = np.log([getattr(parent, name) for name in _NAMES])
    spread = np.array([PRIOR_SD[name] for name in _NAMES]) * share

    def residuals(theta: Float) -> Float:
        error = np.log(closed_loop(times, _params(theta)).tpot_s / tpot) / NOISE * weights
        linear = np.sign(error) * np.sqrt(2 * (np.sqrt(1 + error**2) - 1))
        return np.concatenate([linear, (theta - start) / spread])

    found = least_squares(residuals, start, diff_step=[1e-3] * len(start), max_nfev=_MOST_STEPS)
    params = _params(found.x)
    slopes: Float = np.asarray(found.jac, dtype=float)
    log_sd = np.sqrt(np.diag(np.linalg.inv(slopes.T @ slopes)))
    named = dict(zip(_NAMES, log_sd.tolist(), strict=True))
    return Node(params, *_waiting(times, params, known, outside), named, len(tpot))


def _weight(rows: int) -> float:
    return min(1.0, ROWS_COUNTED / rows)


def _params(theta: Float) -> ServingParams:
    return ServingParams(**dict(zip(_NAMES, np.exp(theta).tolist(), strict=True)))


def _joined(times: Sequence[StepTimes]) -> StepTimes:
    load = Load(*(np.concatenate(column) for column in zip(*(t.load for t in times), strict=True)))
    names = ("chunks", "mixes", "reduces", "layers", "decode", "prompt")
    return StepTimes(load, *(np.concatenate([getattr(t, name) for t in times]) for name in names))


def _waiting(times: StepTimes, params: ServingParams, known: Sequence[Known], most: Float) -> tuple[float, float]:
    """The share of the start and the requests outside under which times to the first token are least off.

    Requests outside are a habit of one campaign's server: they are tried for a version alone.
    """
    served, measured = closed_loop(times, params), np.concatenate([k.ttft_s for k in known])
    some = ~np.isnan(measured)
    if not some.any():
        return 0.0, 0.0
    tried = [(wave, outside) for wave in _FIRST_WAVES.tolist() for outside in most.tolist()]
    off = [np.mean(np.abs(np.log(mean_ttft_s(served, *pair) / measured))[some]) for pair in tried]
    return tried[int(np.argmin(off))]


class Left(NamedTuple):
    """Rows predicted without their group, seconds."""

    known: Known
    group: str
    tpot_s: Float
    ttft_s: Float


def leave_out(known: Sequence[Known], group: Callable[[Known], str]) -> list[Left]:
    """Every group predicted from the others; a group that leaves nothing is not judged."""
    left = list[Left]()
    for name in sorted({group(k) for k in known}):
        others = [k for k in known if group(k) != name]
        if not others:
            continue
        nodes = fit_nodes(others)
        for k in known:
            if group(k) == name:
                node = _nearest(nodes, k)
                served = closed_loop(k.priced.times, node.params)
                left.append(Left(k, name, served.tpot_s, mean_ttft_s(served, node.first_wave, node.outside)))
    return left


def _nearest(nodes: Nodes, known: Known) -> Node:
    engine, version = _fact(known, "engine"), _fact(known, "version")
    return nodes.get((engine, version)) or nodes.get((engine, "*")) or nodes["*", "*"]


SPLITS: Final[Mapping[str, Callable[[Known], str]]] = {
    "served, unseen models": lambda k: _fact(k, "model"),
    "served, unseen models of an engine": lambda k: f"{_fact(k, 'model')} {_fact(k, 'engine')}",
    "served, unseen GPU": lambda k: _fact(k, "gpu"),
    "served, unseen numbers of devices": lambda k: f"{_fact(k, 'tp')} devices",
}
"""What is left out whole. All dense rows of a campaign are of one model: a model left out is a campaign left out."""


def half_widths(left: Sequence[Left], ttft: bool = False) -> Float:
    """Of each row's interval, in log time, made of the other groups' errors only."""
    groups = np.concatenate([np.full(len(item.tpot_s), item.group, dtype="<U160") for item in left])
    log_errors, half = _log_errors(left, ttft), np.zeros(len(groups))
    for name in np.unique(groups):
        others = log_errors[(groups != name) & ~np.isnan(log_errors)]
        half[groups == name] = quantile_90(others) if len(others) else np.inf
    return half


def _log_errors(left: Sequence[Left], ttft: bool) -> Float:
    if ttft:
        return np.concatenate([np.log(item.known.ttft_s / item.ttft_s) for item in left])
    return np.concatenate([np.log(item.known.tpot_s / item.tpot_s) for item in left])


def _judged(left: Sequence[Left], ttft: bool) -> tuple[HeldOut, float]:
    """Errors of rows left out, and the half-width that holds 90 % of them all."""
    log_errors = _log_errors(left, ttft)
    some = ~np.isnan(log_errors)
    if not some.any():
        raise InputError("table", "must have times to the first token")
    measured = np.exp(log_errors[some])
    return heldout(np.ones(len(measured)), measured, half_widths(left, ttft)[some]), quantile_90(log_errors[some])


def heldout_rows(known: Sequence[Known]) -> list[dict[str, Any]]:
    """Errors on what is left out, by split, kind of model, and deployment's engine, model, devices and clients."""
    rows = list[dict[str, Any]]()
    for kind in ("dense", "experts"):
        mine = [k for k in known if k.priced.kind == kind]
        for split, group in SPLITS.items() if kind == "dense" else [*SPLITS.items()][:1]:
            left = leave_out(mine, group)
            for operator, ttft in ((f"{SERVING}, {kind}", False), (f"{TTFT}, {kind}", True)):
                rows += _by_group(left, operator, split, ttft)
    return rows


def seen_rows(known: Sequence[Known]) -> list[dict[str, Any]]:
    """Errors of the bundled fits on the rows that they were made of."""
    fits, rows = load_serving_fits(), list[dict[str, Any]]()
    for kind in ("dense", "experts"):
        left = list[Left]()
        for k in known:
            if k.priced.kind == kind:
                fit = k.priced.fit(fits)
                served = closed_loop(k.priced.times, fit.params)
                left.append(Left(k, kind, served.tpot_s, mean_ttft_s(served, fit.first_wave, fit.outside)))
        for operator, ttft in ((f"{SERVING}, {kind}", False), (f"{TTFT}, {kind}", True)):
            rows += _by_group(left, operator, SEEN, ttft)
    return rows


def _by_group(left: Sequence[Left], operator: str, split: str, ttft: bool) -> list[dict[str, Any]]:
    """All, then by what a deployment is; the rows of a group share the intervals of the whole."""
    if not left:
        return []
    predicted = np.concatenate([item.ttft_s if ttft else item.tpot_s for item in left])
    measured = np.concatenate([item.known.ttft_s if ttft else item.known.tpot_s for item in left])
    half, some = _widths(left, split, ttft), ~np.isnan(measured)
    clients = np.concatenate([item.known.priced.times.load.concurrency for item in left])
    words = {"all": np.full(len(some), "all", dtype="<U160")}
    for name in ("gpu", "engine", "model", "tp"):
        parts = [
            np.full(len(item.tpot_s), f"{item.known.priced.facts[name]:{'g' * (name == 'tp')}}", dtype="<U160")
            for item in left
        ]
        words[name] = np.concatenate(parts)
    least = 4 ** np.floor(np.log(clients) / np.log(4) + 1e-9).astype(int)
    words["clients"] = np.array([f"{c} to {4 * c - 1}" for c in least.tolist()])
    found = list[dict[str, Any]]()
    for by, values in words.items():
        for value in np.unique(values).tolist():
            mask = some & (values == value)
            if mask.any():
                judged = heldout(predicted[mask], measured[mask], half[mask]).model_dump()
                found.append(
                    {
                        "operator": operator,
                        "split": split,
                        "by": by,
                        "group": value or UNSTATED,
                        "tokens": "all",
                        **judged,
                    }
                )
    return found


def _widths(left: Sequence[Left], split: str, ttft: bool) -> Float:
    """Of rows left out, from the other groups; of rows seen, those of their fits."""
    if split != SEEN:
        return half_widths(left, ttft)
    fits, name = load_serving_fits(), "ttft_quantile_90" if ttft else "quantile_90"
    return np.concatenate([np.full(len(x.tpot_s), getattr(x.known.priced.fit(fits), name)) for x in left])


def serving_fits(known: Sequence[Known]) -> ServingFits:
    """Every fit, with its interval and errors from models left out."""
    fits = list[ServingFit]()
    kinds: tuple[Kind, ...] = ("dense", "experts")
    for kind in kinds:
        mine = [k for k in known if k.priced.kind == kind]
        left = leave_out(mine, SPLITS["served, unseen models of an engine"]) if mine else []
        if not left:
            continue
        (tpot, tpot_width), (ttft, ttft_width) = _judged(left, ttft=False), _judged(left, ttft=True)
        common = {
            "kind": kind,
            "quantile_90": tpot_width,
            "ttft_quantile_90": ttft_width,
            "heldout": tpot,
            "ttft_heldout": ttft,
            "source": SOURCE,
            "date": "2026-11",
        }
        for (engine, version), node in fit_nodes(mine).items():
            fits.append(ServingFit(engine=engine, version=version, **node._asdict(), **common))
    if not fits:
        raise InputError("table", "must have rows of at least two models or engines")
    return ServingFits(fits=tuple(fits))


def save(fits: ServingFits, path: Path | None = None) -> Path:
    """Write the file, one fit a line, four digits a number."""
    file = path or hwprofiles_dir() / FILE
    lines = ",\n".join(json.dumps(_short(fit.model_dump(mode="json"))) for fit in fits.fits)
    file.write_text(f'{{"fits": [\n{lines}\n]}}\n', encoding="utf-8")
    return file


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _short(item) for name, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main(arguments: Sequence[str]) -> None:
    """Fit, write, and print the errors."""
    known = known_rows(Path(arguments[0]))
    print(save(serving_fits(known)))
    load_serving_fits.cache_clear()
    for row in [*heldout_rows(known), *seen_rows(known)]:
        figures = ("rows", "mape", "median_ape", "bias", "coverage_90")
        print(row["operator"], row["split"], row["by"], row["group"], *(f"{n}={row[n]:.3g}" for n in figures))


if __name__ == "__main__":
    main(sys.argv[1:])
