"""A run as a trace that chrome://tracing and Perfetto open: steps by replica, requests as they wait and decode."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from specsim.errors import InputError
from specsim.workload.log import RequestLog, StepLog

Event = dict[str, Any]


def save_timeline(requests: RequestLog, steps: StepLog, path: Path) -> None:
    """Write the JSON object format of the Trace Event specification: times in microseconds.

    A replica is a process: its steps are slices, its counters running and waiting requests and KV blocks. A request is
    an asynchronous slice with its queueing, its prompt and its decoding inside.

    Raises:
        InputError: where the file can not be written.
    """
    try:
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
            for number, event in enumerate(events(requests, steps)):
                file.write((",\n" if number else "") + json.dumps(event, allow_nan=False))
            file.write("\n]}\n")
    except OSError as error:
        raise InputError("timeline", f"can not be written ({error.strerror or error})", str(path)) from None


def events(requests: RequestLog, steps: StepLog) -> Iterator[Event]:
    """The events of a run, in no particular order, as the format allows."""
    for replica in np.unique(np.concatenate((steps.replica, requests.replica[requests.replica >= 0]))):
        yield {"ph": "M", "pid": int(replica), "name": "process_name", "args": {"name": f"replica {replica}"}}
    for step in range(len(steps)):
        yield from _step(steps, step)
    for row in range(len(requests)):
        yield from _request(requests, row)


def _step(steps: StepLog, at: int) -> Iterator[Event]:
    start, drafted = float(steps.start_s[at]) * 1e6, float(steps.draft_s[at]) * 1e6
    where = {"pid": int(steps.replica[at]), "tid": 0}
    prefill, whole = int(steps.prefill_tokens[at]), float(steps.duration_s[at]) * 1e6
    args = {
        "running": int(steps.num_running[at]),
        "prefill_tokens": prefill,
        "draft_len": float(steps.draft_len[at]),
        "emitted": int(steps.num_emitted[at]),
    }
    name = "prefill + decode" if prefill and args["emitted"] else "prefill" if prefill else "decode"
    yield {"ph": "X", "name": name, "ts": start, "dur": whole, "args": args, **where}
    if drafted > 0:
        yield {"ph": "X", "name": "draft", "ts": start, "dur": min(drafted, whole), "args": {}, **where}
    counts = {"running": args["running"], "waiting": int(steps.num_waiting[at])}
    yield {"ph": "C", "name": "requests", "ts": start, "args": counts, **where}
    yield {"ph": "C", "name": "KV blocks", "ts": start, "args": {"held": int(steps.kv_blocks[at])}, **where}


def _request(log: RequestLog, row: int) -> Iterator[Event]:
    times = [float(column[row]) * 1e6 for column in (log.arrival_s, log.admitted_s, log.first_token_s, log.finished_s)]
    if not np.isfinite(times).all():
        return
    common = {"cat": "request", "id": int(log.request[row]), "pid": max(int(log.replica[row]), 0), "tid": 1}
    args = {"prompt_tokens": int(log.prompt_tokens[row]), "output_tokens": int(log.output_tokens[row])}
    names = (f"request {log.request[row]}", "waiting", "prompt", "decoding")
    spans = ((times[0], times[3]), *pairwise(times))
    for name, (begin, end) in zip(names, spans, strict=True):
        yield {"ph": "b", "name": name, "ts": begin, "args": args, **common}
        yield {"ph": "e", "name": name, "ts": end, **common}
