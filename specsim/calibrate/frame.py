"""Fit one formula to one kernel's rows, and judge it on whole shapes that it did not see.

Rows are left out by family (a head configuration, an expert's size), in several folds. The half-width of a fold's
interval comes from the errors of the other folds, so its coverage is measured on shapes that neither fit nor interval
has seen. The parameters that are kept are then fitted to all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specsim.calibrate.operators import (
    SOURCE,
    Table,
    fit_params,
    heldout,
    leave_out,
    quantile_90,
    save_operator_fits,
    select,
    widths_by_size,
)
from specsim.cost.fits import HeldOut, OperatorFit
from specsim.work import Float

NUM_FOLDS: Final = 5
_LEAST_ROWS: Final = 12
DATE: Final = "2026-11"
PRIOR_WEIGHT: Final = 0.1
"""What a parameter pays, in log error of one row, for each factor e away from its start."""


@dataclass(frozen=True)
class Form:
    """A formula with what is fitted of it and what is held.

    Args:
        bounds: Start, least and most of every parameter that is fitted.
        held: The others, where they differ from the formula's own defaults.
        times: ``(rows, parameters) -> seconds`` of every row.
    """

    bounds: Mapping[str, tuple[float, float, float]]
    held: Mapping[str, float]
    times: Callable[[Table, Mapping[str, float]], Float]


@dataclass(frozen=True)
class Unseen:
    """Predictions of rows whose family was left out, seconds, with the half-width of their interval in log time."""

    key: Mapping[str, str]
    predicted_s: Float
    measured_s: Float
    half_width: Float


@dataclass(frozen=True)
class Found:
    """A kernel's fit on one device, its errors on what was left out, and the rows and formula that it was made of.

    ``folds`` has, for each fold that leaves something out, which rows, and the seconds of all rows by a fit without it.
    """

    gpu: str
    fit: OperatorFit
    unseen: Unseen
    rows: Table
    times: Callable[[Table, Mapping[str, float]], Float]
    folds: Mapping[int, tuple[NDArray[np.bool_], Float]] = field(default_factory=dict)


class Fitted(NamedTuple):
    """Parameters by name, and the covariance of the logarithms of those fitted, in the order of the bounds."""

    params: dict[str, float]
    covariance: Float
    loss: float


def fit_rows(
    form: Form, rows: Table, max_rows: int = 800, start: Mapping[str, float] | None = None, max_calls: int = 40
) -> Fitted:
    """Robust least squares in the logarithms of the parameters, on at most ``max_rows`` rows drawn at random."""
    measured = rows["latency_us"] * 1e-6
    if len(measured) > max_rows:
        chosen = np.sort(np.random.default_rng(0).choice(len(measured), max_rows, replace=False))
        rows = select(rows, np.isin(np.arange(len(measured)), chosen))
        measured = rows["latency_us"] * 1e-6
    names = list(form.bounds)
    begin, lower, upper = np.log(np.array([form.bounds[n] for n in names])).T
    if start is not None:
        begin = np.log([start[n] for n in names])
    floor = np.log(np.quantile(measured, 0.05))
    if "launch_s" in names and start is None:
        begin[names.index("launch_s")] = floor
    wanted = np.log(measured)

    usual = np.log(np.array([form.bounds[n][0] for n in names]))

    def log_time(theta: Float) -> Float:
        return np.log(form.times(rows, _params(names, theta, form.held)))

    def with_prior(theta: Float) -> Float:  # a parameter that the rows say nothing about stays where it started
        return np.append(log_time(theta), theta * PRIOR_WEIGHT)

    all_wanted = np.append(wanted, usual * PRIOR_WEIGHT)
    theta, covariance = fit_params(with_prior, begin, lower, upper, all_wanted, np.ones(len(all_wanted)), max_calls)
    loss = float(np.mean(np.abs(log_time(theta) - wanted)))
    return Fitted(_params(names, theta, form.held), covariance, loss)


def _params(names: Sequence[str], theta: Float, held: Mapping[str, float]) -> dict[str, float]:
    return {**dict(zip(names, np.exp(theta).tolist(), strict=True)), **held}


class Sizes(NamedTuple):
    """By what size intervals differ: columns that are multiplied, and the edges between ranges of their product."""

    columns: tuple[str, ...]
    edges: tuple[float, ...]


ALL_ALIKE: Final = Sizes(("latency_us",), ())
"""One interval for all sizes."""


def fit_kernel(
    forms: Sequence[Form],
    rows: Table,
    families: Sequence[str],
    ranged: Sequence[str],
    sizes: Sizes = ALL_ALIKE,
    **name: str,
) -> Found:
    """The best of the forms for these rows, fitted to all of them, with its errors on families left out.

    Args:
        forms: Tried on the rows that the first fold fits; the one with the least error there is used throughout.
        rows: Columns with ``latency_us``.
        families: Columns whose values are left out whole.
        ranged: Columns whose smallest and largest values bound where the fit was made.
        sizes: By what the intervals differ.
        name: ``operator, engine, version, dtype`` and so on of the fit; ``gpu`` only names the report.
    """
    masks = _folds(rows, families)
    first = select(rows, ~next(iter(masks.values()))) if masks else rows
    tried = [fit_rows(f, first, 400, None, 60) for f in forms]
    best = min(range(len(forms)), key=lambda i: tried[i].loss)
    form, start = forms[best], tried[best].params
    folds = {i: (mask, form.times(rows, _without(form, rows, mask, start))) for i, mask in masks.items()}
    whole = fit_rows(form, rows, 1600, start)
    gpu = name.pop("gpu")
    report = judged({"gpu": gpu, **name}, rows, folds, sizes)
    widths = None
    if len(report.measured_s):
        judged_by = heldout(report.predicted_s, report.measured_s, report.half_width)
        log_errors = np.log(report.measured_s / report.predicted_s)
        spread, width = float(np.std(log_errors)), quantile_90(log_errors)
        out = np.concatenate([np.flatnonzero(mask) for mask, _ in folds.values()])
        if sizes.edges:
            widths = widths_by_size({c: rows[c][out] for c in sizes.columns}, *sizes, log_errors)
    else:  # too few families to leave any out: nothing is known about unseen ones but the error on seen ones
        log_errors = np.log(rows["latency_us"] * 1e-6 / form.times(rows, whole.params))
        judged_by, spread, width = None, 2 * float(np.std(log_errors)), 2 * quantile_90(log_errors)
    ranges = {n: (float(np.min(rows[n])), float(np.max(rows[n]))) for n in ranged}
    facts: dict[str, Any] = {"source": SOURCE, "date": DATE, **name}
    fit = OperatorFit(
        params=whole.params,
        fitted=tuple(form.bounds),
        covariance=tuple(tuple(row) for row in whole.covariance.tolist()),
        log_sd=spread,
        quantile_90=width,
        widths=widths,
        points=len(rows["latency_us"]),
        valid_range=ranges,
        heldout=judged_by,
        **facts,
    )
    return Found(gpu, fit, report, rows, form.times, folds)


def _without(form: Form, rows: Table, mask: NDArray[np.bool_], start: Mapping[str, float]) -> dict[str, float]:
    return fit_rows(form, select(rows, ~mask), 800, start).params


def judged(
    key: Mapping[str, str], rows: Table, folds: Mapping[int, tuple[NDArray[np.bool_], Float]], sizes: Sizes
) -> Unseen:
    """What each fold left out, as predicted without it, with intervals by size from the other folds' errors.

    Nothing where there are fewer than two folds: then no fold has others.
    """
    measured = rows["latency_us"] * 1e-6
    out = [np.flatnonzero(mask) for mask, _ in folds.values()]
    if len(out) < 2:
        return Unseen(key, np.zeros(0), np.zeros(0), np.zeros(0))
    predicted = [seconds[part] for part, (_, seconds) in zip(out, folds.values(), strict=True)]
    errors = [np.log(measured[part] / seconds) for part, seconds in zip(out, predicted, strict=True)]
    half = []
    for i, part in enumerate(out):
        others = np.concatenate([o for j, o in enumerate(out) if j != i])
        known = np.concatenate([e for j, e in enumerate(errors) if j != i])
        widths = widths_by_size({c: rows[c][others] for c in sizes.columns}, *sizes, known)
        half.append(widths.at({c: rows[c][part] for c in sizes.columns}))
    return Unseen(key, np.concatenate(predicted), measured[np.concatenate(out)], np.concatenate(half))


def _folds(rows: Table, families: Sequence[str]) -> dict[int, NDArray[np.bool_]]:
    """The folds that leave something out and keep most; with few families none may."""
    masks = enumerate(leave_out(rows, families, NUM_FOLDS))
    return {i: mask for i, mask in masks if mask.any() and (~mask).sum() >= max(_LEAST_ROWS, mask.sum())}


def save_fits(found: Iterable[Found]) -> None:
    """Write fits beside the profiles of their devices."""
    by_device: dict[str, list[OperatorFit]] = {}
    for one in found:
        by_device.setdefault(one.gpu, []).append(one.fit)
    for gpu, fits in by_device.items():
        save_operator_fits(gpu, fits)


def report_rows(reports: Sequence[Unseen], operator: str, split: str) -> list[dict[str, Any]]:
    """Errors (fractions) of all, and by GPU, engine, dtype, fit (device, engine, version, dtype) and kernel."""
    keys: dict[str, Sequence[str]] = {
        "all": (),
        "gpu": ("gpu",),
        "engine": ("engine",),
        "dtype": ("dtype",),
        "fit": ("gpu", "engine", "version", "dtype"),
        "kernel": ("gpu", "engine", "version", "dtype", "operator"),
    }
    rows = []
    for by, names in keys.items():
        for row in summary(reports, names):
            group = " ".join(str(row.pop(name)) for name in names) or "all"
            rows.append({"operator": operator, "split": split, "by": by, "group": group, "tokens": "all", **row})
    return rows


def summary(reports: Iterable[Unseen], by: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each value of the keys in ``by``: how many rows were left out, and the errors on them as fractions.

    >>> one = Unseen({"gpu": "a"}, np.array([1.1]), np.array([1.0]), np.array([0.2]))
    >>> summary([one], ["gpu"])
    [{'gpu': 'a', 'mape': 0.1, 'median_ape': 0.1, 'p90_ape': 0.1, 'bias': 0.1, 'coverage_90': 1.0, 'rows': 1}]
    """
    pooled: dict[tuple[str, ...], list[Unseen]] = {}
    for report in reports:
        if len(report.measured_s):
            pooled.setdefault(tuple(report.key[k] for k in by), []).append(report)
    return [{**dict(zip(by, key, strict=True)), **_errors(found).model_dump()} for key, found in sorted(pooled.items())]


def _errors(found: Sequence[Unseen]) -> HeldOut:
    parts = (np.concatenate([getattr(u, n) for u in found]) for n in ("predicted_s", "measured_s", "half_width"))
    predicted, measured, half = parts
    return heldout(predicted, measured, half)
