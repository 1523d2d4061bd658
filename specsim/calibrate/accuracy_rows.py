"""All errors of the accuracy page, as rows: on shapes seen and unseen, and on GPUs unseen.

A row has ``operator, split, by, group, tokens`` and the errors as fractions. Unseen ones come from fits made anew
without the shapes (or the GPU) that they are judged on; seen ones from the bundled fits on the rows they were made of.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from specsim.calibrate.accuracy import GROUPS, Judged, by, errors, judge
from specsim.calibrate.allreduce import allreduce_heldout_report
from specsim.calibrate.attention import decode_found
from specsim.calibrate.elementwise import elementwise_heldout_report
from specsim.calibrate.frame import report_rows
from specsim.calibrate.gemm_fits import TOKEN_RANGES, gemm_unseen_gpu_report
from specsim.calibrate.moe import moe_heldout_report
from specsim.calibrate.prefill import prefill_heldout_report
from specsim.calibrate.residual_fits import CORRECTED, residual_heldout_report
from specsim.calibrate.serving_fits import heldout_rows, known_rows
from specsim.calibrate.serving_fits import seen_rows as served_rows
from specsim.calibrate.tables import load_measured
from specsim.calibrate.transfer import transfer
from specsim.errors import InputError

Row = dict[str, Any]
SEEN: Final = "seen"
FILES: Final = ("gemm", "attention_decode", "attention_prefill", "moe", "allreduce", "vidur_layer_ops")
REPORTS: Final = (
    prefill_heldout_report,
    moe_heldout_report,
    allreduce_heldout_report,
    elementwise_heldout_report,
)
GEMM_ROWS: Final = 1000
"""Rows of a GPU's dense layers from which others are predicted, to keep the page at minutes."""
_LAST: Final = "513-16384"


def accuracy_rows(data_dir: Path) -> list[Row]:
    """Every error of the page; a quarter of an hour on one core.

    Raises:
        InputError: when the folder does not hold the measured tables.
    """
    if not (data_dir / "gpu_ops").is_dir():
        raise InputError(
            "data", "must be a folder with the measured tables in gpu_ops/, which is not there", str(data_dir)
        )
    rows = [row for name in FILES for row in seen_rows(data_dir / "gpu_ops" / f"{name}.parquet")]
    for report in REPORTS:
        rows += report(data_dir)
    served = known_rows(data_dir / "gpu_ops" / "silicon_e2e.parquet")
    rows += [*heldout_rows(served), *served_rows(served)]
    others, _ = transfer(decode_found(data_dir))
    rows += report_rows(others, "attention_decode", "unseen GPU")
    return rows + residual_heldout_report(data_dir) + gemm_unseen_gpu_report(data_dir, GEMM_ROWS)


def seen_rows(path: Path) -> list[Row]:
    """Errors of the bundled fits on one table, by operator, and how many rows no datasheet allows."""
    table, layers, rows = load_measured(path), path.stem == "vidur_layer_ops", list[Row]()
    for residual in (False, True):
        judged = judge(table, residual=residual)
        for operator in np.unique(judged.operator).tolist():
            if not residual or operator in ("gemm", "attention_decode"):
                rows += _of_operator(judged, operator, layers, SEEN + CORRECTED * residual)
    return rows


def _layered(operator: str, layers: bool) -> str:
    return "layer gemm" if layers and operator == "gemm" else operator


def _of_operator(judged: Judged, operator: str, layers: bool, split: str) -> Iterator[Row]:
    mine = judged.operator == operator
    mask, name = mine & judged.usable, _layered(operator, layers)
    common = {"operator": name, "split": split}
    impossible = int((mine & judged.impossible).sum())
    yield {**common, "by": "all", "group": "all", "tokens": "all", **errors(judged, mask), "impossible": impossible}
    for kind in GROUPS:
        for group, found in by(judged, judged.rows[kind], mask).items():
            yield {**common, "by": kind, "group": group, "tokens": "all", **found}
    tokens = _tokens(judged, operator)
    if tokens is not None:
        for least, most in TOKEN_RANGES:
            label = f"{least}-{most}"
            within = mask & (tokens >= least) & (tokens <= (np.inf if label == _LAST else most))
            if within.any():
                yield {**common, "by": "all", "group": "all", "tokens": label, **errors(judged, within)}


def _tokens(judged: Judged, operator: str) -> NDArray[np.float64] | None:
    """New tokens of every row, all sequences together; None for an operator that has no tokens."""
    rows = judged.rows
    if operator.startswith("attention"):
        return np.asarray(rows["batch"] * rows["q_len"])
    name = "m" if operator == "gemm" else "num_tokens"
    return np.asarray(rows[name]) if name in rows else None
