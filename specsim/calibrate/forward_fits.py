"""Fit what engines with their own kernels reach, and judge it on models and GPUs that were left out.

    python -m specsim.calibrate.forward_fits DATA_DIR

fits ``gpu_ops/forward_consumer_edge.csv`` and writes the engine-wide fits into ``transferred.fit.json``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from specsim.calibrate.forwards import ASSUMED_CONTEXT, FORWARD, ONE_POINT, SAME, SPREADS, gradient, shift
from specsim.calibrate.frame import DATE
from specsim.calibrate.operators import groups, heldout, quantile_90, save_operator_fits
from specsim.calibrate.tables import load_measured
from specsim.cost.fits import OperatorFit, profile_name
from specsim.cost.forward import ENGINES, ForwardShape, build_of, counted, known_kind, price
from specsim.cost.packed import PackedParams
from specsim.hardware import load_hardware
from specsim.model import load_model
from specsim.model.formats import storage_format
from specsim.work import Float, Op

START: Final[Mapping[str, float]] = {
    "mem_float": 0.85,
    "mem_packed": 0.85,
    "mem_cache": 0.90,
    "vector_float": 0.3,
    "vector_packed": 0.3,
    "tensor_fp32": 0.7,
    "tensor_bf16": 0.7,
    "tensor_fp16": 0.7,
    "tensor_int8": 0.3,
    "tensor_fp4": 0.4,
    "tensor_w16": 0.15,
    "small_group": 0.7,
    "unpack_tokens": 16.0,
    "attention": 0.6,
    "graph_launches": 2.0,
    "eager_launches": 3.0,
    "edge_host": 3.0,
    "expert_spread": 0.8,
    "early": 1.5,
}
"""Where every fit begins, and stays where its rows say nothing: assumed, round numbers."""
PRIOR_WEIGHT: Final = 0.4
"""What a parameter pays, in log error of one row, for each factor e away from its start."""
FITTED: Final[Mapping[str, tuple[str, ...]]] = {
    "llama.cpp": tuple(name for name in START if name not in ("tensor_fp4", "tensor_w16")),
    "tensorrt-edge-llm": (
        *("mem_float", "mem_packed", "mem_cache", "tensor_fp4", "tensor_w16", "graph_launches", "eager_launches"),
    ),
}
SOURCE: Final = "published forward passes: llama.cpp pull requests, TensorRT-Edge-LLM's performance page, forums"


@dataclass(frozen=True)
class Rows:
    """Rows of one device, model, format, kind and source, with their operations and log seconds."""

    facts: Mapping[str, str]
    shape: ForwardShape
    ops: list[tuple[Op, int]]
    log_s: Float


class LeftOut(NamedTuple):
    """Predictions of a group that its fit has not seen: seconds, gradients, and what was measured."""

    rows: Rows
    predicted_s: Float
    gradient: Float


def forward_rows(path: Path, engine: str) -> list[Rows]:
    """The rows of one engine."""
    table = load_measured(path).rows
    named = np.array([ENGINES.get(word.lower(), "") for word in table["engine"].tolist()])
    mine = {name: values[named == engine] for name, values in table.items()}
    return [_rows(part, engine) for part in groups(mine, (*SAME, "kind", "source")).values()]


def _rows(part: Mapping[str, Any], engine: str) -> Rows:
    facts = {name: str(part[name][0]) for name in (*SAME, "kind", "source")}
    context = np.where(np.isnan(part["mean_context"]), ASSUMED_CONTEXT, part["mean_context"])
    shape = ForwardShape(
        load_hardware(profile_name(facts["gpu"])),
        load_model(facts["model"]),
        storage_format(facts["weights"]),
        known_kind(facts["kind"]),
        np.asarray(part["n_tokens"], dtype=float),
        context,
        engine,
        build_of(facts["source"]),
    )
    return Rows(facts, shape, counted(shape), np.log(np.asarray(part["latency_ms"], dtype=float) * 1e-3))


def fit_engine(rows: Sequence[Rows], engine: str, max_calls: int = 12) -> PackedParams:
    """Robust least squares of log time, every parameter drawn to ``START``."""
    from scipy.optimize import least_squares

    names = FITTED[engine]
    begin = np.log([START[name] for name in names])

    def params(theta: Float) -> PackedParams:
        return PackedParams(**{**START, **dict(zip(names, np.exp(theta).tolist(), strict=True))})

    def residuals(theta: Float) -> Float:
        p = params(theta)
        errors = [np.log(price(r.shape, p, r.ops).time_s) - r.log_s for r in rows]
        return np.concatenate([*errors, PRIOR_WEIGHT * (theta - begin)])

    return params(least_squares(residuals, begin, loss="soft_l1", f_scale=0.1, max_nfev=max_calls).x)


def left_out(rows: Sequence[Rows], engine: str, by: Callable[[Rows], str]) -> dict[str, list[LeftOut]]:
    """Predictions of each group by the fit to all others."""
    found = dict[str, list[LeftOut]]()
    for name in sorted({by(r) for r in rows}):
        params = fit_engine([r for r in rows if by(r) != name], engine)
        costs = [(r, price(r.shape, params, r.ops)) for r in rows if by(r) == name]
        found[name] = [LeftOut(r, cost.time_s, gradient(cost)) for r, cost in costs]
    return found


def log_errors(found: Sequence[LeftOut]) -> Float:
    """log(predicted / measured) from the datasheet."""
    return np.concatenate([np.log(f.predicted_s) - f.rows.log_s for f in found])


def one_point_errors(found: Sequence[LeftOut]) -> Float:
    """The same where the row of fewest tokens of each device, model and weights was measured; of all other rows."""
    kept = list[Float]()
    for _, parts in _grouped(found):
        n = np.concatenate([f.rows.shape.num_tokens for f in parts])
        g, errors = np.concatenate([f.gradient for f in parts]), log_errors(parts)
        anchor = np.arange(len(n)) == np.argmin(n)
        kept.append((errors + shift(g, g[anchor], -errors[anchor]))[~anchor])
    return np.concatenate(kept) if kept else np.zeros(0)


def _grouped(found: Sequence[LeftOut]) -> Iterator[tuple[tuple[str, ...], list[LeftOut]]]:
    keys = sorted({tuple(f.rows.facts[name] for name in SAME) for f in found})
    for key in keys:
        parts = [f for f in found if tuple(f.rows.facts[name] for name in SAME) == key]
        if sum(len(f.predicted_s) for f in parts) > 1:
            yield key, parts


BY: Final[Mapping[str, Callable[[Rows], str]]] = {
    "unseen models": lambda r: r.facts["model"],
    "unseen GPU": lambda r: r.facts["gpu"],
    "unseen model and weights": lambda r: f"{r.facts['model']} {r.facts['weights']}",
    "unseen source": lambda r: r.facts["source"],
}
_WIDTH_FROM: Final = ("unseen models", "unseen GPU")


def engine_fits(path: Path, engine: str) -> tuple[list[OperatorFit], list[dict[str, Any]]]:
    """The fit of an engine, alone and with one measured point, and the errors on what was left out."""
    rows = forward_rows(path, engine)
    errors, report = {FORWARD: list[Float](), ONE_POINT: list[Float]()}, list[dict[str, Any]]()
    for split, by in BY.items():
        if len({by(r) for r in rows}) < 2:
            continue
        found = left_out(rows, engine, by)
        for mode, errors_of in ((FORWARD, log_errors), (ONE_POINT, one_point_errors)):
            each = {name: found_errors for name, parts in found.items() if len(found_errors := errors_of(parts))}
            report += _judged({"engine": engine, "mode": mode, "split": split}, each) if len(each) > 1 else []
            errors[mode] += list(each.values()) if split in _WIDTH_FROM else []
    params = fit_engine(rows, engine)
    return [_fit(mode, engine, params, rows, np.concatenate(errors[mode])) for mode in errors], report


def _judged(key: Mapping[str, str], each: Mapping[str, Float]) -> Iterator[dict[str, Any]]:
    """Errors over all groups and of each; a group's interval is as wide as the others' errors."""
    wide = {n: quantile_90(np.concatenate([e for m, e in each.items() if m != n])) for n in each}
    joint, widths = (
        np.concatenate(list(each.values())),
        np.concatenate([np.full(len(e), wide[n]) for n, e in each.items()]),
    )
    yield {**key, "group": "all", **heldout(np.exp(joint), np.ones(len(joint)), widths).model_dump()}
    for name, errors in each.items():
        yield {**key, "group": name, **heldout(np.exp(errors), np.ones(len(errors)), wide[name]).model_dump()}


def _fit(mode: str, engine: str, params: PackedParams, rows: Sequence[Rows], errors: Float) -> OperatorFit:
    n = np.concatenate([r.shape.num_tokens for r in rows])
    width = quantile_90(errors)
    return OperatorFit(
        operator=mode,
        engine=engine,
        version="",
        dtype="any",
        params=params.model_dump() if mode == FORWARD else dict(SPREADS),
        fitted=FITTED[engine] if mode == FORWARD else (),
        log_sd=float(np.sqrt(np.mean(errors**2))),
        quantile_90=width,
        points=len(n),
        valid_range={"n_tokens": (float(n.min()), float(n.max()))},
        heldout=heldout(np.exp(errors), np.ones(len(errors)), width),
        source=SOURCE,
        date=DATE,
    )


def main(arguments: Sequence[str]) -> None:
    """Fit, write, and print the errors on what was left out."""
    path = Path(arguments[0]) / "gpu_ops" / "forward_consumer_edge.csv"
    for engine in FITTED:
        fits, report = engine_fits(path, engine)
        save_operator_fits("transferred", fits)
        for row in report:
            figures = ("mape", "median_ape", "p90_ape", "bias", "coverage_90", "rows")
            print(row["engine"], row["mode"], row["split"], row["group"], *(f"{f}={row[f]:.3g}" for f in figures))


if __name__ == "__main__":
    main(sys.argv[1:])
