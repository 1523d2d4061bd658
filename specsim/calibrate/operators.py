"""The frame that every operator's fit hangs in: tables, the split by shape, least squares, intervals, the fit file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specsim.cost.fits import DeviceFit, HeldOut, OperatorFit, Widths, profile_name
from specsim.documents import parse, read_json
from specsim.errors import InputError
from specsim.hardware import hwprofiles_dir
from specsim.work import Float

Table = Mapping[str, NDArray[Any]]
REASON_CHARS: Final = 120


class Prediction(NamedTuple):
    """Seconds and half-width in log time of every row, NaN where refused; and the reason there, else an empty word."""

    time_s: Float
    half_width: Float
    refused: NDArray[np.str_]


SOURCE: Final = "ai-dynamo/aiconfigurator kernel tables @095f58a (Apache-2.0)"
VIDUR_SOURCE: Final = "microsoft/vidur profiling tables @7d47513 (MIT), kernel times of a profiler trace"
ROBUST_LOG_ERROR: Final = 0.1
"""Where the squared loss of a log error turns linear: about twice what repeating a measurement changes it."""


def read_table(path: Path, columns: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
    """Columns of a Parquet or CSV table by name; numbers as float64, words as str, truth values as bool.

    Raises:
        InputError: when absent or not a table, or when pyarrow (extra ``data``) is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow import csv, parquet
    except ImportError:
        raise InputError("table", "reading tables needs pyarrow: install specsim[data]", path.name) from None
    try:
        table = csv.read_csv(path) if path.suffix == ".csv" else parquet.read_table(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise InputError(path.name, f"can not be read as a table ({str(error).splitlines()[0]})") from None
    return {name: _column(table.column(name).combine_chunks()) for name in table.column_names}


def _column(values: Any) -> NDArray[Any]:
    import pyarrow as pa

    if pa.types.is_dictionary(values.type):  # one word per code, spread by code: no Python string per row
        words: NDArray[Any] = np.asarray(values.dictionary.to_pylist(), dtype=str)
        return np.asarray(words[np.asarray(values.indices)])
    if pa.types.is_string(values.type):
        return np.asarray(values.to_pylist(), dtype=str)
    if pa.types.is_boolean(values.type):
        return np.asarray(values.to_pylist(), dtype=bool)
    return np.asarray(values, dtype=float)


def select(table: Table, mask: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """The rows of a table where ``mask`` holds."""
    return {name: values[mask] for name, values in table.items()}


def groups(table: Table, keys: Sequence[str]) -> dict[tuple[str, ...], dict[str, NDArray[Any]]]:
    """The table cut by the values of ``keys``.

    >>> cut = groups({"gpu": np.array(["b", "a", "b"]), "m": np.array([1.0, 2.0, 3.0])}, ["gpu"])
    >>> {key: part["m"].tolist() for key, part in cut.items()}
    {('a',): [2.0], ('b',): [1.0, 3.0]}
    """
    codes = [np.unique(table[key], return_inverse=True) for key in keys]
    joint = np.ravel_multi_index([c for _, c in codes], [len(u) for u, _ in codes])
    result = {}
    for code in np.unique(joint):
        indices = np.unravel_index(code, [len(u) for u, _ in codes])
        name = tuple(str(u[i]) for (u, _), i in zip(codes, indices, strict=True))
        result[name] = select(table, joint == code)
    return result


def with_family(table: Table, name: str, columns: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The table with these columns together as one word ``name``: what ``split_unseen`` then leaves out whole.

    >>> with_family({"n_heads": np.array([32, 8]), "head_dim": np.array([128, 64])}, "heads", ["n_heads", "head_dim"])[
    ...     "heads"
    ... ].tolist()
    ['32/128', '8/64']
    """
    joint, code = np.unique(np.stack([table[column] for column in columns]), axis=1, return_inverse=True)
    words = np.array(["/".join(f"{value:g}" for value in column) for column in joint.T])
    return {**table, name: words[code.reshape(-1)]}


def split_unseen(table: Table, families: Sequence[str], fold: int = 0, share: float = 0.2) -> NDArray[np.bool_]:
    """Which rows are kept from the fit: whole values of each column in ``families``, never single rows.

    A value is unseen when its hash (with ``fold``) says so, so the same value is unseen in every table; a row is
    unseen when any of its values is.

    >>> split_unseen({"n": np.array([128, 1024, 128, 4096])}, ["n"], fold=4)
    array([False,  True, False, False])
    """
    unseen: NDArray[np.bool_] = np.zeros(len(next(iter(table.values()))), dtype=bool)
    for family in families:
        values, code = np.unique(table[family], return_inverse=True)
        texts = [f"{v:g}" if isinstance(v, int | float) else str(v) for v in values.tolist()]  # 128.0 is 128
        unseen |= np.array([_hash_share(f"{fold}:{family}:{text}") < share for text in texts])[code]
    return unseen


def leave_out(table: Table, families: Sequence[str], num_folds: int) -> tuple[NDArray[np.bool_], ...]:
    """For each fold the rows that it leaves out: every value of each column in ``families`` is left out by one fold.

    Which one its hash says, so a value belongs to the same fold in every table.

    >>> [mask.tolist() for mask in leave_out({"n": np.array([128, 1024, 128])}, ["n"], 2)]
    [[False, False, False], [True, True, True]]
    """
    result = [np.zeros(len(next(iter(table.values()))), dtype=bool) for _ in range(num_folds)]
    for family in families:
        values, code = np.unique(table[family], return_inverse=True)
        texts = [f"{v:g}" if isinstance(v, int | float) else str(v) for v in values.tolist()]
        folds = np.array([int(_hash_share(f"{family}:{text}") * num_folds) for text in texts])[code]
        for fold, mask in enumerate(result):
            mask |= folds == fold
    return tuple(result)


def _hash_share(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2.0**64


def fit_params(
    time_of: Callable[[Float], Float],
    theta0: Float,
    lower: Float,
    upper: Float,
    log_measured: Float,
    weights: Float,
    max_calls: int = 40,
) -> tuple[Float, Float]:
    """Robust least squares of log(predicted / measured): the parameters and their covariance.

    Args:
        time_of: ``theta`` (usually logarithms of physical parameters) -> log seconds of every row.
        theta0, lower, upper: Start and bounds, shape [params].
        log_measured, weights: Log seconds and weight of every row.
        max_calls: Steps of the solver; it stops earlier when nothing moves.

    The loss is soft_l1, so rows that a formula can not explain pull little. The covariance is that of the linearised
    problem with the robust residual variance; a parameter at its bound or without effect gets the width of its bounds.

    >>> line = fit_params(lambda t: t[0] + np.zeros(4), np.zeros(1), -np.ones(1), np.ones(1),
    ...                   np.array([0.5, 0.5, 0.5, 0.5]), np.ones(4))
    >>> round(float(line[0][0]), 3)
    0.5
    """
    from scipy.optimize import least_squares

    inside = np.clip(theta0, lower + 1e-6, upper - 1e-6)

    def residuals(theta: Float) -> Float:
        return (time_of(theta) - log_measured) * weights

    found = least_squares(
        residuals,
        inside,
        bounds=(lower, upper),
        loss="soft_l1",
        f_scale=ROBUST_LOG_ERROR,
        diff_step=[2e-2] * len(inside),  # waves and tiles make the time a staircase: smaller steps see no slope
        max_nfev=max_calls,
    )
    residual = found.fun
    variance = (1.4826 * np.median(np.abs(residual))) ** 2 * len(residual) / max(len(residual) - len(inside), 1)
    prior = np.diag(1.0 / (upper - lower) ** 2)
    jacobian: Float = np.asarray(found.jac, dtype=float)
    covariance = np.linalg.inv(jacobian.T @ jacobian / max(float(variance), 1e-12) + prior)
    return np.asarray(found.x, dtype=float), np.asarray(covariance, dtype=float)


def quantile_90(log_errors: Float) -> float:
    """Half-width that holds 90 % of |log errors|, with the finite-sample step of split conformal prediction.

    Source: Vovk et al. 2005; the ceil((n + 1) 0.9)-th smallest of n.

    >>> quantile_90(np.arange(1, 20) / 100.0)
    0.18
    """
    ordered = np.sort(np.abs(log_errors))
    return float(ordered[min(int(np.ceil((len(ordered) + 1) * 0.9)), len(ordered)) - 1])


LEAST_FOR_WIDTH: Final = 200
"""Rows of a size from which its own half-width is taken; fewer have that of all sizes."""


def widths_by_size(table: Table, columns: Sequence[str], edges: Sequence[float], log_errors: Float) -> Widths:
    """The half-width that held 90 % of the errors, for each range of the columns' product.

    >>> table = {"m": np.repeat([1.0, 100.0], 300)}
    >>> widths_by_size(table, ["m"], [16, 1000], np.repeat([0.1, 0.2], 300)).half_widths
    (0.1, 0.2, 0.2)
    """
    size = np.searchsorted(edges, np.prod([table[name] for name in columns], axis=0))
    parts = [log_errors[size == i] for i in range(len(edges) + 1)]
    found = tuple(quantile_90(part if len(part) >= LEAST_FOR_WIDTH else log_errors) for part in parts)
    return Widths(columns=tuple(columns), edges=tuple(edges), half_widths=found)


def heldout(predicted_s: Float, measured_s: Float, half_width: float | Float) -> HeldOut:
    """Errors and interval coverage of predictions; ``half_width`` in log time.

    >>> heldout(np.array([1.1, 0.9]), np.array([1.0, 1.0]), 0.1).coverage_90
    0.5
    """
    error = predicted_s / measured_s - 1.0
    covered = np.abs(np.log(predicted_s / measured_s)) <= half_width
    return HeldOut(
        mape=_short(np.mean(np.abs(error))),
        median_ape=_short(np.median(np.abs(error))),
        p90_ape=_short(np.quantile(np.abs(error), 0.9)),
        bias=_short(np.mean(error)),
        coverage_90=_short(np.mean(covered)),
        rows=len(error),
    )


def _short(value: Any) -> float:
    """Four significant digits: what a fit knows, in a file that stays small."""
    return float(f"{float(value):.4g}")


def rounded(fit: OperatorFit) -> OperatorFit:
    """The same fit in four significant digits."""
    update = {
        "params": {name: _short(value) for name, value in fit.params.items()},
        "covariance": tuple(tuple(float(f"{v:.2g}") for v in row) for row in _diagonal_alone(fit.covariance)),
        "log_sd": _short(fit.log_sd),
        "quantile_90": _short(fit.quantile_90),
        "widths": _short_widths(fit.widths),
    }
    if learned := fit.residual:
        short = {"log_sd": _short(learned.log_sd), "quantile_90": _short(learned.quantile_90)}
        update["residual"] = learned.model_copy(update={**short, "widths": _short_widths(learned.widths)})
    return fit.model_copy(update=update)


def _short_widths(widths: Widths | None) -> Widths | None:
    return widths and widths.model_copy(update={"half_widths": tuple(map(_short, widths.half_widths))})


def _diagonal_alone(covariance: Sequence[Sequence[float]]) -> Sequence[Sequence[float]]:
    """A diagonal matrix as one row."""
    matrix = np.array(covariance)
    if len(matrix) > 1 and not np.any(matrix - np.diag(np.diag(matrix))):
        return [np.diag(matrix).tolist()]
    return covariance


def save_operator_fits(device: str, fits: Iterable[OperatorFit], folder: Path | None = None) -> Path:
    """Add fits to the device's ``.fit.json``, replacing those with the same operator, engine, version and dtype.

    Fits of other operators stay as they are, so each operator's fit can be redone alone. Returns the file.
    """
    return merge_fits((folder or hwprofiles_dir()) / f"{profile_name(device)}.fit.json", device, fits)


def merge_fits(path: Path, device: str, fits: Iterable[OperatorFit]) -> Path:
    """The same into a file of any name.

    Raises:
        InputError: when the file is there and holds no fits, or those of another device.
    """
    name = profile_name(device)
    known = parse(DeviceFit, read_json(path), path.name) if path.is_file() else DeviceFit(device=name)
    if known.device != name:
        raise InputError(path.name, f"must hold fits of {name}", known.device)
    merged = known.merged(fits)
    short = (rounded(fit).model_dump(mode="json", exclude_none=True) for fit in merged.fits)
    lines = ",\n".join(map(json.dumps, short))  # diffs read
    partial = path.with_suffix(f".{os.getpid()}.part")
    partial.write_text(f'{{"device": {json.dumps(name)}, "fits": [\n{lines}\n]}}\n', encoding="utf-8")
    partial.replace(path)
    return path
