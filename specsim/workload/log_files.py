"""Records of a run as CSV files: one row per request or step, empty where a time is not known."""

from __future__ import annotations

import csv
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from specsim.errors import InputError
from specsim.workload.log import RequestLog, StepLog


def save_log(log: RequestLog | StepLog, path: Path) -> None:
    """Write a log to a new file, its columns named as the log's.

    Raises:
        InputError: where the file exists already or can not be written.
    """
    names = [field.name for field in fields(log)]
    columns = [_cells(getattr(log, name)) for name in names]
    try:
        with path.open("x", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(names)
            writer.writerows(zip(*columns, strict=True))
    except OSError as error:
        raise InputError("out", f"must be a new file ({error.strerror or error})", str(path)) from None


def load_requests(path: Path) -> RequestLog:
    """The requests that ``save_log`` wrote, to the last digit.

    Raises:
        InputError: for a file that is absent, lacks a column, or holds a malformed row; with its number.
    """
    kinds: dict[str, Any] = {
        field.name: np.float64 if field.type == "Floats" else np.int64 for field in fields(RequestLog)
    }
    columns: dict[str, list[Any]] = {name: [] for name in kinds}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            absent = [name for name in kinds if name not in (reader.fieldnames or ())]
            if absent:
                raise InputError(path.name, "must have the column", absent[0])
            for row in reader:
                for name, kind in kinds.items():
                    columns[name].append(_value(row[name], kind, f"{path.name}:{reader.line_num}: {name}"))
    except OSError as error:
        raise InputError(str(path), f"can not be read ({error.strerror or error})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(path.name, f"must be CSV in UTF-8 ({error})") from None
    return RequestLog(**{name: np.array(values, dtype=kinds[name]) for name, values in columns.items()})


def _cells(column: Any) -> list[Any]:
    values: list[Any] = column.tolist()
    return ["" if value != value else value for value in values]


def _value(text: str | None, kind: type, where: str) -> float | int:
    try:
        if kind is np.int64:
            return int(text or "")
        return float(text) if text else float("nan")
    except ValueError:
        raise InputError(where, "must be a number", text) from None
