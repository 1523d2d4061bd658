"""How far predictions are from a measured table: errors, bias and interval coverage, by group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specsim.calibrate.forwards import FORWARD, has_point, one_point_split, predict_forward
from specsim.calibrate.limits import is_impossible
from specsim.calibrate.operators import REASON_CHARS, Table, heldout, select
from specsim.calibrate.predict import predict_rows
from specsim.calibrate.serving import SERVING, TTFT, predict_serving
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


def judge(table: Measured, own: DeviceFit | None = None, residual: bool = True, anchor: Table | None = None) -> Judged:
    """Predict every row of a table, by the fits ``own`` of one device where they have the kernel.

    Without ``residual`` the formulas of operators stand alone. ``anchor`` has measured points that whole passes of the
    same device, engine, model and weights start from.
    """
    num = len(table.operator)
    time_s, half = np.full(num, np.nan), np.full(num, np.nan)
    refused, impossible = table.wrong.astype(f"<U{REASON_CHARS}"), np.zeros(num, dtype=bool)
    for operator in np.unique(table.operator[refused == ""]).tolist():
        mask = np.flatnonzero((table.operator == operator) & (refused == ""))
        part = {name: values[mask] for name, values in table.rows.items()}
        if operator in (SERVING, TTFT):
            found = predict_serving(operator, part)
        elif operator == FORWARD:
            found = predict_forward(part, anchor)
        else:
            found = predict_rows(operator, part, own, residual)
        time_s[mask], half[mask], refused[mask] = found
        known = found.refused == ""
        impossible[mask[known]] = _impossible(operator, select(part, known), table.measured_s[mask[known]])
    refused[(refused == "") & np.isnan(table.measured_s)] = "no measured time above 0"
    return Judged(table.rows, table.operator, time_s, half, table.measured_s, refused, impossible)


def _impossible(operator: str, rows: Table, measured_s: Float) -> NDArray[np.bool_]:
    keys = [name for name in ("gpu", "dtype", "kv_dtype", "op") if name in rows]
    if operator == SERVING:
        keys.append("model")
    elif operator == FORWARD:
        keys += ["model", "weights"]
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


def report_beside(table: Measured, anchor: Table | None = None) -> dict[str, Any]:
    """What a table holds beside what it is judged on.

    Of served models, time to the first token. Of whole passes, how many rows were predicted from the datasheet and how
    many from a measured point; and without an ``anchor``, how well the row of fewest tokens of each device, engine,
    model and weights would have served the others.
    """
    if FORWARD in table.operator:
        return _one_point(table, anchor)
    if "ttft_ms" not in table.rows or SERVING not in table.operator:
        return {}
    seconds = table.rows["ttft_ms"] * 1e-3
    first = table._replace(
        operator=np.where(table.operator == SERVING, TTFT, table.operator),
        measured_s=np.where((seconds > 0) & (table.operator == SERVING), seconds, np.nan),
    )
    return {"ttft": report(judge(first))}


def _one_point(table: Measured, anchor: Table | None) -> dict[str, Any]:
    judged = judge(table, anchor=anchor)
    if anchor is not None:
        by_point = judged.usable & has_point(table.rows, anchor)
        return {"modes": {"datasheet": int((judged.usable & ~by_point).sum()), "one_point": int(by_point.sum())}}
    found: dict[str, Any] = {"modes": {"datasheet": int(judged.usable.sum()), "one_point": 0}}
    anchors, served = one_point_split(table.rows, judged.usable)
    if not served.any():
        return found
    again = judge(table, anchor=select(table.rows, anchors))
    beside = {"anchors": int(anchors.sum()), "mape_from_datasheet": errors(judged, served)["mape"]}
    return {**found, "one_point": {**errors(again, served & again.usable), **beside}}


def _counted(reasons: NDArray[np.str_]) -> Mapping[str, Any]:
    return {"rows": len(reasons), "reasons": dict(Counter(reasons.tolist()).most_common())}
