"""Recorded load in the formats that others publish: one row per request, read line by line.

A row that can not be read is named with its number. The rest is used only where ``skip_bad`` says so.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from specsim.errors import InputError
from specsim.workload.requests import Requests

TraceFormat = Literal["azure", "burstgpt", "mooncake", "bailian", "vidur", "sharegpt", "vllm_bench", "csv"]
MAX_TOKENS: Final = 100_000_000
MAX_LINE: Final = 4 * 1024 * 1024


class Row(NamedTuple):
    """One request as a trace tells it."""

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    session: str | None = None
    blocks: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Trace:
    """What a file held.

    Args:
        requests: Its requests, sorted by arrival, the first at 0.
        problems: One line per row that was left out, with its number and the reason.
        num_failed: Rows of requests that failed when they were recorded (no output); left out as well.
    """

    requests: Requests
    problems: tuple[str, ...]
    num_failed: int


class BadRow(ValueError):
    """Why a row can not be used."""


class Failed(Exception):
    """The row is of a request that failed."""


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a CSV of any origin; ``time_unit_s`` is what a timestamp of 1 means."""

    arrival: str = "arrived_at"
    prompt: str = "num_prefill_tokens"
    output: str = "num_decode_tokens"
    time_unit_s: float = 1.0


def load_trace(
    path: Path,
    kind: TraceFormat,
    *,
    skip_bad: bool = False,
    max_requests: int | None = None,
    columns: Columns | None = None,
    num_tokens: Callable[[str], int] | None = None,
    rate_scale: float = 1.0,
) -> Trace:
    """Requests of a recorded trace.

    Args:
        path: The file.
        kind: ``azure``: LLM inference traces of 2023 and 2024, CSV; ``burstgpt``: CSV, by its header; ``mooncake``:
            JSONL in milliseconds, 512 tokens per hash; ``bailian``: JSONL in seconds, 16 tokens per hash, turns of one
            conversation chained by ``parent_chat_id``; ``vidur``: its processed CSV; ``csv``: any, by ``columns``;
            ``sharegpt``: JSON of conversations without times, first question and answer of each, counted by
            ``num_tokens``; ``vllm_bench``: the result of `vllm bench serve --save-detailed`.
        skip_bad: Use the rest where rows are malformed; the trace then says which were left out.
        max_requests: Read no more rows than this.
        columns: For ``csv``.
        num_tokens: Length of a text in tokens; ShareGPT needs it, no other does.
        rate_scale: Arrivals this much denser.

    Raises:
        InputError: for a file that can not be read, has none of the columns, or holds a malformed row; with its number.
    """
    if not 0 < rate_scale < float("inf"):
        raise InputError("rate_scale", "must be > 0 and finite", rate_scale)
    rows, problems, failed = [], [], 0
    for place, read in islice(_readers(path, kind, columns, num_tokens), max_requests):
        try:
            rows.append(_checked(read()))
        except Failed:
            failed += 1
        except (BadRow, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            problem = f"{path.name}:{place}: {_reason(error)}"
            if not skip_bad:
                raise InputError(f"{path.name}:{place}", f"{_reason(error)} (the rest is used if you say so)") from None
            problems.append(problem)
    if not rows:
        raise InputError(path.name, "must hold at least one request that can be used")
    return Trace(_requests(rows, kind, rate_scale), tuple(problems), failed)


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"lacks {error.args[0]}"
    return " ".join(str(error).split())[:200]


def _checked(row: Row) -> Row:
    if not np.isfinite(row.arrival_s):
        raise BadRow(f"timestamp must be finite, got {row.arrival_s}")
    if row.output_tokens == 0:
        raise Failed
    for name, tokens in (("prompt tokens", row.prompt_tokens), ("output tokens", row.output_tokens)):
        if not 1 <= tokens <= MAX_TOKENS:
            raise BadRow(f"{name} must be from 1 to {MAX_TOKENS}, got {tokens}")
    return row


def _requests(rows: list[Row], kind: TraceFormat, rate_scale: float) -> Requests:
    order = np.argsort([row.arrival_s for row in rows], kind="stable")
    rows = [rows[place] for place in order]
    arrival = (np.array([row.arrival_s for row in rows]) - rows[0].arrival_s) / rate_scale
    session = None
    if any(row.session is not None for row in rows):
        numbers: dict[str, int] = {}
        session = np.array([-1 if r.session is None else numbers.setdefault(r.session, len(numbers)) for r in rows])
    blocks = [row.blocks or () for row in rows] if any(row.blocks for row in rows) else None
    return Requests(
        arrival,
        np.array([row.prompt_tokens for row in rows]),
        np.array([row.output_tokens for row in rows]),
        session=session,
        prefix_blocks=blocks,
        block_tokens=512 if kind == "mooncake" else 16,
    )


Reader = tuple[str, Callable[[], Row]]


def _readers(
    path: Path, kind: TraceFormat, columns: Columns | None, num_tokens: Callable[[str], int] | None
) -> Iterator[Reader]:
    """Each row's place in the file, and what reads it."""
    if kind in ("sharegpt", "vllm_bench"):
        yield from _whole(path, kind, num_tokens)
        return
    if kind in ("mooncake", "bailian"):
        parse = _Chats().row if kind == "bailian" else _mooncake
        for number, line in enumerate(_lines(path), start=1):
            if line.strip():
                yield str(number), lambda line=line: parse(_json_object(line))  # type: ignore[misc]
        return
    yield from _csv(path, kind, columns or Columns())


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            while line := file.readline(MAX_LINE):
                yield line
    except OSError as error:
        raise InputError(str(path), f"can not be read ({error.strerror or error})") from None


def _json_object(line: str) -> dict[str, Any]:
    data = json.loads(line)
    if not isinstance(data, dict):
        raise BadRow("must be a JSON object")
    return data


def _whole_number(value: Any, name: str) -> int:
    number = float(value)
    if not number.is_integer():
        raise BadRow(f"{name} must be a whole number, got {value}")
    return int(number)


def _mooncake(data: dict[str, Any]) -> Row:
    blocks = tuple(_whole_number(one, "hash_ids") for one in data.get("hash_ids", ()))
    session = data.get("session_id")
    return Row(
        float(data["timestamp"]) / 1000,
        _whole_number(data["input_length"], "input_length"),
        _whole_number(data["output_length"], "output_length"),
        None if session is None else str(session),
        blocks,
    )


class _Chats:
    """Turns of Bailian's traces name the turn before; their conversation is that one's."""

    def __init__(self) -> None:
        self._root: dict[str, str] = {}

    def row(self, data: dict[str, Any]) -> Row:
        chat, parent = str(data["chat_id"]), str(data["parent_chat_id"])
        root = chat if parent == "-1" else self._root.get(parent, parent)
        self._root[chat] = root
        row = _mooncake({**data, "timestamp": float(data["timestamp"]) * 1000})
        return row._replace(session=root)


def _csv(path: Path, kind: TraceFormat, columns: Columns) -> Iterator[Reader]:
    lines = csv.reader(_lines(path))
    try:
        header = [name.strip().lstrip("\ufeff") for name in next(lines, [])]
    except csv.Error as error:
        raise InputError(path.name, f"not valid CSV ({error})") from None
    arrival, prompt, output = _CSV_COLUMNS.get(kind, (columns.arrival, columns.prompt, columns.output))
    absent = [name for name in (arrival, prompt, output) if name not in header]
    if absent:
        raise InputError(path.name, f"must have the column {absent[0]}, its header is", ",".join(header)[:200])
    places = [header.index(name) for name in (arrival, prompt, output)]
    unit = columns.time_unit_s if kind == "csv" else 1.0
    when = _timestamp if kind == "azure" else lambda text: float(text) * unit

    def read(fields: list[str]) -> Row:
        if len(fields) <= max(places):
            raise BadRow(f"has {len(fields)} fields of {len(header)} (is the file truncated?)")
        at, asked, answered = (fields[place] for place in places)
        return Row(when(at), _whole_number(asked, prompt), _whole_number(answered, output))

    while True:
        try:
            fields = next(lines, None)
        except csv.Error as error:
            yield str(lines.line_num), _raiser(str(error))
            continue
        if fields is None:
            return
        if fields:
            yield str(lines.line_num), lambda fields=fields: read(fields)  # type: ignore[misc]


def _raiser(why: str) -> Callable[[], Row]:
    def read() -> Row:
        raise BadRow(why)

    return read


_CSV_COLUMNS: Final = {
    "azure": ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    "burstgpt": ("Timestamp", "Request tokens", "Response tokens"),
    "vidur": ("arrived_at", "num_prefill_tokens", "num_decode_tokens"),
}


def _timestamp(text: str) -> float:
    """Seconds since 1970 of an ISO time, with any number of digits in its fraction; without offset it is UTC."""
    head, dot, tail = text.strip().partition(".")
    digits = len(tail) - len(tail.lstrip("0123456789"))
    when = datetime.fromisoformat(head + tail[digits:])
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return when.timestamp() + (float(f"0.{tail[:digits]}") if dot and digits else 0.0)


def _whole(path: Path, kind: TraceFormat, num_tokens: Callable[[str], int] | None) -> Iterator[Reader]:
    """Formats that are one JSON value."""
    text = "".join(_lines(path))
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(path.name, "not valid JSON (is the file truncated?)") from None
    if kind == "sharegpt":
        yield from _sharegpt(path, data, num_tokens)
        return
    names = ("start_times", "input_lens", "output_lens")
    if not isinstance(data, dict) or not all(isinstance(data.get(name), list) for name in names):
        raise InputError(path.name, f"must hold lists {', '.join(names)}: save it with --save-detailed")
    starts, asked, answered = (data[name] for name in names)
    if not len(starts) == len(asked) == len(answered):
        raise InputError(path.name, "start_times, input_lens and output_lens must be of one length", len(starts))
    for place, row in enumerate(zip(starts, asked, answered, strict=True)):
        yield f"[{place}]", lambda row=row: Row(float(row[0]), int(row[1]), int(row[2]))  # type: ignore[misc]


def _sharegpt(path: Path, data: Any, num_tokens: Callable[[str], int] | None) -> Iterable[Reader]:
    if num_tokens is None:
        raise InputError("num_tokens", "must be given for ShareGPT: its file holds texts, not lengths")
    if not isinstance(data, list):
        raise InputError(path.name, "must be a JSON list of conversations")

    def read(one: Any) -> Row:
        turns = one["conversations"]
        if len(turns) < 2:
            raise Failed  # no answer to measure
        asked, answered = (num_tokens(str(turn["value"])) for turn in turns[:2])
        return Row(0.0, asked, answered)

    for place, one in enumerate(data):
        yield f"[{place}]", lambda one=one: read(one)  # type: ignore[misc]
