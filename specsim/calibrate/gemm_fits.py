"""Dense layers of the measured devices: fits with errors on unseen shapes, and what a device without a fit gets.

    python -m specsim.calibrate.gemm_fits DATA_DIR [DEVICE ...]

writes the fits into the devices' ``.fit.json`` and what transfers between devices into ``transferred.fit.json``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specsim.calibrate.gemm import (
    SMALL_M,
    Fitted,
    Rows,
    choose_kernels,
    fit_by_tokens,
    impossible,
    params_of,
    predict_by_tokens_s,
    predict_s,
)
from specsim.calibrate.operators import (
    SOURCE,
    VIDUR_SOURCE,
    groups,
    heldout,
    leave_out,
    quantile_90,
    read_table,
    save_operator_fits,
    select,
    widths_by_size,
)
from specsim.cost.fits import OperatorFit, profile_name
from specsim.cost.operators.gemm import ABOVE, FEW_TOKENS, GemmParams, format_of, sm_flops_per_s
from specsim.hardware import HardwareProfile, hardware_names, load_hardware
from specsim.work import Float

NUM_FOLDS: Final = 6
DATE: Final = "2026-11"
TOKEN_RANGES: Final = ((1, 16), (17, 64), (65, 128), (129, 256), (257, 512), (513, 16384))
EDGES: Final = (16, 64, 128, 256, 512)
"""Tokens up to which the intervals differ."""
TRANSFER_KERNELS: Final = {
    "bfloat16": "library",
    "float16": "library",
    "fp8": "by-tokens",
    "fp8_block": "whole-k-fine",
    "int8_wo": "library",
    "int4_wo": "library",
    "sq": "whole-k-vector-4",
    "nvfp4": "one-tile",
}
"""The family that a device without a fit is given, by dtype."""


class Group(NamedTuple):
    """Rows of one device, engine, version and dtype, with a mask of unseen rows for each fold."""

    gpu: str
    engine: str
    version: str
    dtype: str
    rows: Rows
    folds: tuple[NDArray[np.bool_], ...]
    source: str


def gemm_groups(data_dir: Path) -> Iterator[Group]:
    """The groups of ``gemm.parquet``, by values of n and k, and of ``vidur_layer_ops.parquet``, by whole models."""
    table = read_table(data_dir / "gpu_ops" / "gemm.parquet")
    for (gpu, engine, version, dtype), part in groups(table, ("gpu", "engine", "version", "dtype")).items():
        folds = leave_out(part, ("n", "k"), NUM_FOLDS)
        yield Group(gpu, engine, version, dtype, Rows(part, load_hardware(profile_name(gpu))), folds, SOURCE)
    table = read_table(data_dir / "gpu_ops" / "vidur_layer_ops.parquet")
    table["m"] = table["num_tokens"]
    for (gpu,), part in groups(select(table, table["n"] > 0), ("gpu",)).items():
        folds = tuple(part["model"] == model for model in np.unique(part["model"]))
        rows = Rows(part, load_hardware(profile_name(gpu)))
        yield Group(gpu, "vidur", "2024", "float16", rows, folds, VIDUR_SOURCE)


class Unseen(NamedTuple):
    """Rows left out of a fit, with what it predicted and the half-width of its interval in log time."""

    group: Group
    m: Float
    predicted_s: Float
    measured_s: Float
    half_width: Float

    @property
    def log_error(self) -> Float:
        return np.asarray(np.log(self.measured_s / self.predicted_s))


def fit_group(group: Group, max_rows: int = 2000) -> tuple[OperatorFit, Unseen]:
    """The fit of all rows of a group, with its errors on the rows that each fold left out.

    The family is chosen on rows that the first fold keeps. A fold's interval comes from the errors of the other folds.
    """
    table, device = group.rows
    seen = Rows(select(table, ~group.folds[0]), device)
    kernels = choose_kernels([seen], group.dtype)
    unseen = judged(group, by_fold(group, kernels, max_rows))
    whole = fit_by_tokens(group.rows, group.dtype, kernels, max_rows)
    return _operator_fit(group, whole, unseen), unseen


def by_fold(group: Group, kernels: str, max_rows: int) -> list[Float]:
    """Seconds of every row of the group by the fits that each fold's rows were left out of."""
    (table, device), near, found = group.rows, None, list[Float]()
    for fold in group.folds:
        fits = fit_by_tokens(Rows(select(table, ~fold), device), group.dtype, kernels, max_rows, near=near)
        near = fits[0].params, fits[1].params
        found.append(predict_by_tokens_s(table, device, group.dtype, fits))
    return found


def judged(group: Group, seconds: Sequence[Float]) -> Unseen:
    """What each fold left out, as predicted without it, with intervals by tokens from the other folds' errors."""
    table, device = group.rows
    measured, usable = table["latency_us"] * 1e-6, ~impossible(table, device, group.dtype)
    out = [np.flatnonzero(fold & usable) for fold in group.folds]
    errors = [np.log(measured[rows] / time_s[rows]) for rows, time_s in zip(out, seconds, strict=True)]
    half = []
    for i, rows in enumerate(out):
        others = [j for j in range(len(out)) if j != i]
        tokens = {"m": table["m"][np.concatenate([out[j] for j in others])]}
        widths = widths_by_size(tokens, ("m",), EDGES, np.concatenate([errors[j] for j in others]))
        half.append(widths.at({"m": table["m"][rows]}))
    rows = np.concatenate(out)
    predicted = np.concatenate([time_s[part] for part, time_s in zip(out, seconds, strict=True)])
    return Unseen(group, table["m"][rows], predicted, measured[rows], np.concatenate(half))


def with_errors(fit: OperatorFit, unseen: Unseen) -> OperatorFit:
    """The same fit with its errors on unseen shapes, and the intervals that follow from them."""
    errors = {
        "log_sd": float(np.std(unseen.log_error)),
        "quantile_90": quantile_90(unseen.log_error),
        "widths": widths_by_size({"m": unseen.m}, ("m",), EDGES, unseen.log_error),
        "heldout": heldout(unseen.predicted_s, unseen.measured_s, unseen.half_width),
    }
    return fit.model_copy(update=errors)


def _operator_fit(group: Group, fits: tuple[Fitted, Fitted], unseen: Unseen) -> OperatorFit:
    table = group.rows.table
    few, many = fits
    above = {ABOVE + name: value for name, value in many.params.model_dump().items() if name in many.names}
    zeros = np.zeros((len(few.names), len(many.names)))
    covariance = np.block([[few.covariance, zeros], [zeros.T, many.covariance]])
    fit = OperatorFit(
        operator="gemm",
        engine=group.engine,
        version=group.version,
        dtype=group.dtype,
        variant=few.kernels,
        params={**few.params.model_dump(exclude_defaults=True), **above},
        fitted=(*few.names, *(ABOVE + name for name in many.names)),
        covariance=tuple(tuple(row) for row in covariance.tolist()),
        log_sd=0.0,
        quantile_90=0.0,
        points=len(table["m"]),
        valid_range={name: (float(table[name].min()), float(table[name].max())) for name in ("m", "n", "k")},
        source=group.source,
        date=DATE,
    )
    return with_errors(fit, unseen)


class Source(NamedTuple):
    """Fits of one device, up to ``FEW_TOKENS`` and above; ``is_loop`` unless they are of whole layers in a trace."""

    gpu: str
    device: HardwareProfile
    fits: tuple[Fitted, Fitted]
    is_loop: bool = True


MATRIX_SMS: Final = {"Volta": "warp", "Ampere": "warp", "Ada": "warp", "Blackwell": "warp", "Hopper": "warp group"}
"""Who issues a matrix instruction, which decides the kernels' shape (tiles' steps, waves that overlap). Blackwell as in
RTX PRO 6000 (compute capability 12.0). Source: PTX ISA, mma.sync and wgmma."""
YEAR: Final = {"Volta": 2017, "Ampere": 2020, "Ada": 2022, "Hopper": 2022, "Blackwell": 2025}
"""Of the first products: newer memory controllers and kernels reach more of the bandwidth (0.76, 0.86, 0.92)."""


class Transfer(NamedTuple):
    """Mean logarithms of parameters over architectures, each counted once, and their spread over all fits."""

    names: tuple[str, ...]
    mean: Float
    log_sd: Float

    @property
    def params(self) -> GemmParams:
        return params_of(self.names, self.mean)


def transfer(sources: Sequence[Source], device: HardwareProfile, above: bool = False) -> Transfer:
    """Parameters up to ``FEW_TOKENS``, or above, for a device without any of its own.

    From the same architecture where it has fits, else from those that issue matrix instructions alike, else from all;
    the launch then from all, and the share of the bandwidth from the nearest in years, whole layers included (their
    trace has no launch gap, so they tell nothing else). Times are carried over as clocks.
    """
    loops = [s for s in sources if s.is_loop]
    same = [s for s in loops if s.device.arch == device.arch]
    alike = [s for s in loops if MATRIX_SMS.get(s.device.arch) == MATRIX_SMS.get(device.arch)]
    memory = [s for s in sources if s.device.arch == device.arch] or _nearest(sources, device.arch)
    chosen = {"launch_s": same or loops, "dram_efficiency": memory}
    names = loops[0].fits[above].names
    mean = [_mean_log(chosen.get(name, same or alike or loops), name, device, above) for name in names]
    logs = np.array([[_log(s, name, device, above) for name in names] for s in loops])
    return Transfer(names, np.array(mean), np.std(logs, axis=0))


def _nearest(sources: Sequence[Source], arch: str) -> Sequence[Source]:
    if arch not in YEAR:
        return sources
    apart = [abs(YEAR[s.device.arch] - YEAR[arch]) if s.device.arch in YEAR else 99 for s in sources]
    return [s for s, years in zip(sources, apart, strict=True) if years == min(apart)]


def _mean_log(sources: Sequence[Source], name: str, device: HardwareProfile, above: bool) -> float:
    by_arch: dict[str, list[float]] = {}
    for source in sources:
        by_arch.setdefault(source.device.arch, []).append(_log(source, name, device, above))
    return float(np.mean([np.mean(values) for values in by_arch.values()]))


def _log(source: Source, name: str, device: HardwareProfile, above: bool) -> float:
    p = source.fits[above].params
    value = np.log(max(getattr(p, name), 1e-12))
    if name == "vector_bytes_per_clock" and p.vector_bytes_per_clock >= _memory_bytes_per_clock(source.device, p):
        # Memory hid how fast an SM streams: an SM with more of the memory to itself would load as from the L2.
        value = max(value, np.log(p.l2_bytes_per_flop * sm_flops_per_s(source.device) / source.device.clock_hz.value))
    if name.endswith("_s") and name not in ("host_s", "host_32_s"):
        value += np.log(source.device.clock_hz.value / device.clock_hz.value)
    return float(value)


def _memory_bytes_per_clock(device: HardwareProfile, p: GemmParams) -> float:
    """Of each SM, at the share of the bandwidth that layers reach."""
    return device.mem_bw_bytes_per_s.value * p.dram_efficiency / (device.num_sms.value * device.clock_hz.value)


def leave_one_gpu_out(found: Sequence[Group], max_rows: int = 2000) -> tuple[list[Unseen], list[OperatorFit]]:
    """Every graph-launched loop predicted from the other GPUs' fits; and the fits that a new device gets.

    The half-width for a GPU comes from the errors of the GPUs that are left when it is taken away. Only NVIDIA's
    devices are averaged: kernels of another vendor say nothing about these.
    """
    reports: list[Unseen] = []
    shipped: list[OperatorFit] = []
    usable = [g for g in found if g.rows.device.vendor == "NVIDIA" and np.all(g.rows.table.get("cuda_graph", True))]
    layers = [g for g in usable if g.engine == "vidur"]
    for dtype in sorted({g.dtype for g in usable if g.engine != "vidur"}):
        members = [g for g in usable if g.dtype == dtype and g.engine != "vidur"]
        also = layers if dtype in ("bfloat16", "float16") else []
        sources = [_source(group, TRANSFER_KERNELS[dtype], max_rows) for group in [*members, *also]]
        unseen = _predict_others(members, sources)
        reports += unseen
        shipped += _shipped(members, sources, unseen)
    return reports, shipped


def _source(group: Group, kernels: str, max_rows: int) -> Source:
    fits = fit_by_tokens(group.rows, group.dtype, kernels, max_rows)
    return Source(group.gpu, group.rows.device, fits, is_loop=group.engine != "vidur")


def _predict_others(members: Sequence[Group], sources: Sequence[Source]) -> list[Unseen]:
    result = []
    for group in members:
        table, device = group.rows
        others = [s for s in sources if s.gpu != group.gpu]
        if any(s.is_loop for s in others):
            kernels = TRANSFER_KERNELS[group.dtype]
            few, many = (
                predict_s(table, device, group.dtype, transfer(others, device, above).params, kernels)
                for above in (False, True)
            )
            predicted = np.where(table["m"] <= FEW_TOKENS, few, many)
            measured = table["latency_us"] * 1e-6
            result.append(Unseen(group, table["m"], predicted, measured, np.zeros(len(measured))))
    return [u._replace(half_width=np.full(len(u.m), _width_of_others(result, u.group.gpu))) for u in result]


def _width_of_others(reports: Sequence[Unseen], gpu: str) -> float:
    """From GPUs in the same position: with another GPU of their architecture to predict them from, or without."""
    mine = next(u.group for u in reports if u.group.gpu == gpu)
    others = [u for u in reports if u.group.gpu != gpu]
    like = [u for u in others if _has_kin(u.group, reports) == _has_kin(mine, reports)]
    return quantile_90(np.concatenate([u.log_error for u in like or others or reports]))


def _has_kin(group: Group, reports: Sequence[Unseen]) -> bool:
    arch = group.rows.device.arch
    return any(u.group.rows.device.arch == arch and u.group.gpu != group.gpu for u in reports)


def _shipped(members: Sequence[Group], sources: Sequence[Source], unseen: Sequence[Unseen]) -> Iterator[OperatorFit]:
    """A fit for each architecture of a bundled profile, and one for any other, named by ``engine``."""
    dtype = members[0].dtype
    tables = [g.rows.table for g in members]
    known = {g.rows.device.arch for g in members}
    for arch, device in _typical_devices():
        like = [u for u in unseen if _has_kin(u.group, unseen) == (arch in known)] or unseen
        errors = np.concatenate([u.log_error for u in like]) if like else np.array([0.5])
        few, many = (transfer(sources, device, above) for above in (False, True))
        above = {ABOVE + name: value for name, value in many.params.model_dump().items() if name in many.names}
        yield OperatorFit(
            operator="gemm",
            engine=arch,
            version="",
            dtype=dtype,
            variant=TRANSFER_KERNELS[dtype],
            params={**few.params.model_dump(exclude_defaults=True), **above},
            fitted=(*few.names, *(ABOVE + name for name in many.names)),
            covariance=((*(few.log_sd**2).tolist(), *(many.log_sd**2).tolist()),),
            log_sd=float(np.sqrt(np.mean(errors**2))),
            quantile_90=quantile_90(errors),
            points=sum(len(t["m"]) for t in tables),
            valid_range={
                c: (min(t[c].min() for t in tables), max(t[c].max() for t in tables)) for c in ("m", "n", "k")
            },
            heldout=_pooled(unseen) if unseen else None,
            source=f"mean of the fits of other GPUs: {members[0].source}",
            date=DATE,
        )


def _typical_devices() -> Iterator[tuple[str, HardwareProfile]]:
    """For each architecture its profile with the median clock, and the same of all of them for any other."""
    nvidia = [d for d in map(load_hardware, hardware_names()) if d.vendor == "NVIDIA"]
    for arch in sorted({d.arch for d in nvidia}):
        yield arch, _with_median_clock([d for d in nvidia if d.arch == arch])
    yield "any", _with_median_clock(nvidia).model_copy(update={"arch": "any"})


def _with_median_clock(devices: Sequence[HardwareProfile]) -> HardwareProfile:
    return sorted(devices, key=lambda d: d.clock_hz.value)[len(devices) // 2]


def _pooled(parts: Sequence[Unseen]) -> Any:
    predicted, measured, half = (
        np.concatenate([getattr(u, name) for u in parts]) for name in ("predicted_s", "measured_s", "half_width")
    )
    return heldout(predicted, measured, half)


def from_memory(unseen: Unseen) -> Unseen:
    """The rows whose weights, all copies together, can not be in the L2."""
    table, device = unseen.group.rows
    held = table.get("weight_copies", 1) * table["n"] * table["k"] * format_of(unseen.group.dtype).weight_bytes
    return _where(unseen, held > device.l2_bytes.value)


def up_to(unseen: Unseen, least: float, most: float) -> Unseen:
    """The rows of a range of tokens."""
    return _where(unseen, (unseen.m >= least) & (unseen.m <= most))


def _where(u: Unseen, mask: NDArray[np.bool_]) -> Unseen:
    return Unseen(u.group, u.m[mask], u.predicted_s[mask], u.measured_s[mask], u.half_width[mask])


def report_rows(reports: Sequence[Unseen], split: str) -> list[dict[str, Any]]:
    """Errors (fractions) by GPU, engine, dtype and token range; ``small`` pools up to 512 tokens, ``all`` all."""
    keys: Mapping[str, Callable[[Group], str]] = {
        "all": lambda g: "all",
        "gpu": lambda g: g.gpu,
        "engine": lambda g: g.engine,
        "dtype": lambda g: g.dtype,
        "fit": lambda g: f"{g.gpu} {g.engine} {g.version} {g.dtype}",
    }
    ranges = {f"{a}-{b}": (a, b) for a, b in TOKEN_RANGES} | {"small": (1, SMALL_M), "all": (1, np.inf)}
    rows = []
    for by, key in keys.items():
        for name in sorted({key(u.group) for u in reports}):
            for tokens, (least, most) in ranges.items():
                parts = [up_to(u, least, most) for u in reports if key(u.group) == name]
                if sum(len(u.m) for u in parts):
                    errors = _pooled(parts).model_dump()
                    rows.append(
                        {"operator": "gemm", "split": split, "by": by, "group": name, "tokens": tokens, **errors}
                    )
    return rows


def gemm_unseen_gpu_report(data_dir: Path, max_rows: int = 2000) -> list[dict[str, Any]]:
    """Fit everything anew and report errors on unseen GPUs, and there with weights from memory."""
    others, _ = leave_one_gpu_out(list(gemm_groups(data_dir)), max_rows)
    return [
        *report_rows(others, "unseen GPU"),
        *report_rows([from_memory(u) for u in others], "unseen GPU, weights from memory"),
    ]


def main(arguments: Sequence[str]) -> None:
    """Fit, write, and print one line a fit."""
    wanted = set(arguments[1:])
    found = list(gemm_groups(Path(arguments[0])))
    for group in found:
        if not wanted or group.gpu in wanted:
            fit, unseen = fit_group(group)
            save_operator_fits(group.gpu, [fit])
            small = _pooled([up_to(unseen, 1, SMALL_M)])
            print(
                group.gpu,
                *fit.key[1:],
                fit.variant,
                f"m <= {SMALL_M}: {small.mape:.3f}, all: {fit.heldout}",
                flush=True,
            )
    reports, shipped = leave_one_gpu_out(found)
    save_operator_fits("transferred", shipped)
    for row in report_rows([from_memory(u) for u in reports], "unseen GPU, weights from memory"):
        if row["tokens"] == "small":
            print(row)


if __name__ == "__main__":
    main(sys.argv[1:])
