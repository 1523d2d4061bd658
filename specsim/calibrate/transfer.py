"""What a device without a fit of its own gets: the mean of other devices' parameters, validated one GPU at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np

from specsim.calibrate.frame import DATE, Found, Unseen, report_rows
from specsim.calibrate.operators import SOURCE, heldout, quantile_90
from specsim.cost.fits import OperatorFit, profile_name
from specsim.hardware import load_hardware

ANY: Final = "any"
UNKNOWN_HALF_WIDTH: Final = 0.5
"""In log time, the least where no GPU of the same architecture was measured: too few architectures were to know how
an operator transfers between them. Assumed."""
VENDOR: Final = "NVIDIA"
"""Whose devices are averaged: launches and kernels of another vendor say nothing about these."""
_SAMPLE: Final = 4000


def transfer(found: Sequence[Found]) -> tuple[list[Unseen], list[OperatorFit]]:
    """Every kernel predicted from other GPUs' fits of the same operator and dtype; and the fits for a new device.

    A new device gets the mean logarithm over the fits of its architecture, named in ``engine``, or over all (``any``).
    """
    reports: list[Unseen] = []
    shipped: list[OperatorFit] = []
    kin = [f for f in found if load_hardware(profile_name(f.gpu)).vendor == VENDOR]
    for key in sorted({(f.fit.operator, f.fit.dtype) for f in kin}):
        members = [f for f in kin if (f.fit.operator, f.fit.dtype) == key]
        unseen = list(_predict_others(members, kin))
        reports += unseen
        shipped += _shipped(members, unseen, kin)
    return reports, shipped


def mean_params(fits: Sequence[tuple[str, OperatorFit]], arch: str) -> tuple[dict[str, float], dict[str, float]]:
    """Parameters for a device of ``arch`` from (architecture, fit) pairs, and the spread of their logarithms.

    Fits of the same architecture are used alone where there are any. What was held (rules, not speeds) comes from the
    fit with most points. The spread is over all fits.
    """
    kin = [pair for pair in fits if pair[0] == arch] or list(fits)
    best = max((fit for _, fit in kin), key=lambda fit: fit.points)
    names = [n for n in best.fitted if all(n in fit.params for _, fit in fits)]
    logs = {a: np.array([[np.log(f.params[n]) for n in names] for b, f in kin if b == a]) for a, _ in kin}
    mean = np.mean([rows.mean(axis=0) for rows in logs.values()], axis=0)
    spread = np.std([[np.log(f.params[n]) for n in names] for _, f in fits], axis=0)
    params = {**best.params, **dict(zip(names, np.exp(mean).tolist(), strict=True))}
    return params, dict(zip(names, spread.tolist(), strict=True))


def with_usual_efficiencies(params: dict[str, float], fits: Iterable[OperatorFit]) -> dict[str, float]:
    """Shares of the datasheet's rates raised to the median of the operator's kernels.

    A kernel that reaches a fifth of them on one architecture was not made for it, which says nothing about another.

    >>> slow, usual = {"dram_efficiency": 0.2, "launch_s": 1e-5}, {"dram_efficiency": 0.8}
    >>> from types import SimpleNamespace as Fit
    >>> with_usual_efficiencies(slow, [Fit(params=usual), Fit(params=usual), Fit(params=slow)])
    {'dram_efficiency': 0.8, 'launch_s': 1e-05}
    """
    known = list(fits)
    for name in ("dram_efficiency", "tensor_efficiency"):
        if name in params:
            usual = float(np.median([fit.params[name] for fit in known if name in fit.params]))
            params = {**params, name: max(params[name], usual)}
    return params


def _operator(fit: OperatorFit) -> str:
    return fit.operator.split()[0]


def _arch(found: Found) -> str:
    return load_hardware(profile_name(found.gpu)).arch


def _predict_others(members: Sequence[Found], every: Sequence[Found]) -> Iterator[Unseen]:
    pairs = []
    for one in members:
        others = [(_arch(f), f.fit) for f in members if f.gpu != one.gpu]
        if others:
            params, _ = mean_params(others, _arch(one))
            if _arch(one) not in [arch for arch, _ in others]:
                alike = [f.fit for f in every if f.gpu != one.gpu and _operator(f.fit) == _operator(one.fit)]
                params = with_usual_efficiencies(params, alike)
            measured = one.rows["latency_us"] * 1e-6
            chosen = np.random.default_rng(0).permutation(len(measured))[:_SAMPLE]
            rows = {name: values[chosen] for name, values in one.rows.items()}
            pairs.append((one, one.times(rows, params), measured[chosen]))
    for one, predicted, measured in pairs:
        apart = [np.log(m / p) for f, p, m in pairs if f.gpu != one.gpu]
        is_kin = any(_arch(f) == _arch(one) for f in members if f.gpu != one.gpu)
        width = max(quantile_90(np.concatenate(apart)), 0.0 if is_kin else UNKNOWN_HALF_WIDTH)
        yield Unseen(one.unseen.key, predicted, measured, np.full(len(measured), width))


def _shipped(members: Sequence[Found], unseen: Sequence[Unseen], every: Sequence[Found]) -> Iterator[OperatorFit]:
    pairs = [(_arch(f), f.fit) for f in members]
    errors = np.concatenate([np.log(u.measured_s / u.predicted_s) for u in unseen] or [np.zeros(0)])
    judged = None
    if len(errors):
        parts = [np.concatenate([getattr(u, n) for u in unseen]) for n in ("predicted_s", "measured_s", "half_width")]
        judged = heldout(*parts)
    first = members[0].fit
    known = quantile_90(errors) if len(errors) else UNKNOWN_HALF_WIDTH
    archs = sorted({a for a, _ in pairs})
    for arch in (*(archs if len(archs) > 1 else []), ANY):  # the mean of one architecture is the mean of all
        params, spread = mean_params(pairs, arch)
        if arch == ANY:
            params = with_usual_efficiencies(params, (f.fit for f in every if _operator(f.fit) == _operator(first)))
        ranges = {
            n: (min(f.fit.valid_range[n][0] for f in members), max(f.fit.valid_range[n][1] for f in members))
            for n in first.valid_range
        }
        yield OperatorFit(
            operator=first.operator,
            engine=arch,
            version="",
            dtype=first.dtype,
            variant=first.variant,
            params=params,
            fitted=tuple(spread),
            covariance=(tuple(sd**2 for sd in spread.values()),),
            log_sd=float(np.sqrt(np.mean(errors**2))) if len(errors) else UNKNOWN_HALF_WIDTH / 1.645,
            quantile_90=max(known, UNKNOWN_HALF_WIDTH) if arch == ANY else known,
            points=sum(f.fit.points for f in members),
            valid_range=ranges,
            heldout=judged,
            source=f"mean of the fits of measured GPUs: {SOURCE}",
            date=DATE,
        )


def both_reports(found: Sequence[Found], operator: str, split: str) -> list[dict[str, Any]]:
    """Rows of the accuracy page: errors on what the fits left out, and of devices predicted from other devices."""
    others, _ = transfer(found)
    return [
        *report_rows([f.unseen for f in found], operator, split),
        *report_rows(others, operator, "unseen GPU"),
    ]
