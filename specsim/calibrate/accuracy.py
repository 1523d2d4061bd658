"""How far predictions are from a measured table: errors, bias and interval coverage, by group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specsim.calibrate.limits import is_impossible
from specsim.calibrate.operators import Table, heldout, select
from specsim.calibrate.predict import REASON_CHARS, predict_rows
from specsim.calibrate.tables import Measured
from specsim.cost.fits import DeviceFit, profile_name
from specsim.errors import InputError
from specsim.hardware import load_hardware
from specsim.work import Float

GROUPS: Final = ("gpu", "engine", "dtype")
UNSTATED: Final = "unstated"


class Judged(NamedTuple):
    """Every row of a table with its prediction; NaN where refused.

    Attributes:
        rows: The columns.
        operator: Of each row.
        time_s, half_width: Predicted seconds, and half of the 90 % interval in log time.
        measured_s: Seconds.
        refused: Why a row has no prediction or no measurement, else an empty word.
        impossible: Rows faster than the datasheet allows; they are counted, and left out of the errors.
    """

    rows: Table
    operator: NDArray[np.str_]
    time_s: Float
    half_width: Float
    measured_s: Float
    refused: NDArray[np.str_]
    impossible: NDArray[np.bool_]

    @property
    def usable(self) -> NDArray[np.bool_]:
        return np.asarray((self.refused == "") & ~self.impossible)


def judge(table: Measured, own: DeviceFit | None = None, residual: bool = True) -> Judged:
    """Predict every row of a table, by the fits ``own`` of one device where they have the kernel.

    Without ``residual`` the formulas stand alone.
    """
    num = len(table.operator)
    time_s, half = np.full(num, np.nan), np.full(num, np.nan)
    refused, impossible = table.wrong.astype(f"<U{REASON_CHARS}"), np.zeros(num, dtype=bool)
    for operator in np.unique(table.operator[refused == ""]).tolist():
        mask = np.flatnonzero((table.operator == operator) & (refused == ""))
        part = {name: values[mask] for name, values in table.rows.items()}
        found = predict_rows(operator, part, own, residual)
        time_s[mask], half[mask], refused[mask] = found
        known = found.refused == ""
        impossible[mask[known]] = _impossible(operator, select(part, known), table.measured_s[mask[known]])
    refused[(refused == "") & np.isnan(table.measured_s)] = "no measured time (latency_us above 0)"
    return Judged(table.rows, table.operator, time_s, half, table.measured_s, refused, impossible)


def _impossible(operator: str, rows: Table, measured_s: Float) -> NDArray[np.bool_]:
    keys = [name for name in ("gpu", "dtype", "kv_dtype", "op") if name in rows]
    found = np.zeros(len(measured_s), dtype=bool)
    codes = np.stack([np.unique(rows[key], return_inverse=True)[1] for key in keys])
    for code in np.unique(codes, axis=1).T:
        mask = (codes == code[:, None]).all(axis=0)
        part = select(rows, mask)
        facts = {key: str(part[key][0]) for key in keys}
        found[mask] = is_impossible(operator, part, load_hardware(profile_name(facts["gpu"])), facts, measured_s[mask])
    return found


def errors(judged: Judged, mask: NDArray[np.bool_]) -> dict[str, Any]:
    """``rows, mape, median_ape, p90_ape, bias, coverage_90`` as fractions over some rows; null where there are none.

    Bias is the mean signed error: above zero, predictions are too slow.
    """
    num = int(mask.sum())
    if not num:
        return {"rows": 0, **dict.fromkeys(("mape", "median_ape", "p90_ape", "bias", "coverage_90"))}
    found = heldout(judged.time_s[mask], judged.measured_s[mask], judged.half_width[mask]).model_dump()
    return {"rows": num, **{name: value for name, value in found.items() if name != "rows"}}


def by(judged: Judged, words: NDArray[np.str_], mask: NDArray[np.bool_]) -> dict[str, dict[str, Any]]:
    """The errors of the rows of ``mask`` by the value of each row's word."""
    return {str(word) or UNSTATED: errors(judged, mask & (words == word)) for word in np.unique(words[mask])}


def report(judged: Judged, groups: Sequence[str] = GROUPS) -> dict[str, Any]:
    """Errors over all rows and by group, and what was left out and why."""
    usable = judged.usable
    if not len(usable):
        raise InputError("table", "must have at least one row")
    return {
        **errors(judged, usable),
        "groups": {name: by(judged, judged.rows[name], usable) for name in groups if name in judged.rows},
        "refused": _counted(judged.refused[judged.refused != ""]),
        "impossible": {
            "rows": int(judged.impossible.sum()),
            "by_gpu": dict(sorted(Counter(judged.rows["gpu"][judged.impossible].tolist()).items())),
            "mape_with_them": errors(judged, judged.refused == "")["mape"],
        },
    }


def _counted(reasons: NDArray[np.str_]) -> Mapping[str, Any]:
    return {"rows": len(reasons), "reasons": dict(Counter(reasons.tolist()).most_common())}
