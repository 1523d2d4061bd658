"""Records written and read again, to the last digit; and what is wrong with a file."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from specsim.documents import parse
from specsim.errors import InputError
from specsim.workload.log import RequestLog
from specsim.workload.log_files import load_requests, save_log
from specsim.workload.spec import WorkloadSpec, generate
from specsim.workload.traces import Columns, load_trace


def log() -> RequestLog:
    times = np.array([0.1 + 0.2, 1 / 3, np.pi])
    columns = {f.name: times if f.type == "Floats" else np.array([1, 2, 3]) for f in fields(RequestLog)}
    return RequestLog(**{**columns, "finished_s": np.array([1e-300, np.nan, 2.0])})


def test_records_come_back_to_the_last_digit(tmp_path: Path) -> None:
    path = tmp_path / "requests.csv"
    save_log(log(), path)
    got = load_requests(path)
    for field in fields(RequestLog):
        np.testing.assert_array_equal(getattr(got, field.name), getattr(log(), field.name))
    with pytest.raises(InputError, match="new file"):
        save_log(log(), path)


def test_records_are_a_trace_to_play_again(tmp_path: Path) -> None:
    save_log(log(), tmp_path / "requests.csv")
    columns = Columns("arrival_s", "prompt_tokens", "output_tokens")
    got = load_trace(tmp_path / "requests.csv", "csv", columns=columns).requests
    assert got.prompt_tokens.tolist() == [1, 2, 3]
    assert got.arrival_s == pytest.approx(log().arrival_s - log().arrival_s[0])


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "requests.csv"
    save_log(log(), path)
    path.write_text(path.read_text().replace("\n2,", "\ntwo,"))
    with pytest.raises(InputError, match=r"requests.csv:3: request: must be a number, got 'two'"):
        load_requests(path)
    path.write_text("request\n1\n")
    with pytest.raises(InputError, match="must have the column"):
        load_requests(path)


def test_priorities_come_in_their_shares() -> None:
    asked = {
        "name": "toy", "source": "made up for a test", "prompt": {"kind": "fixed", "tokens": 9},
        "output": {"kind": "fixed", "tokens": 9},
    }  # fmt: skip
    rng = np.random.default_rng(0)
    priority = generate(parse(WorkloadSpec, {**asked, "priority_shares": [0.25, 0, 0.75]}, "toy"), 20_000, rng).priority
    assert priority is not None and np.bincount(priority.astype(int)) / 20_000 == pytest.approx(
        [0.25, 0, 0.75], abs=0.01
    )
    with pytest.raises(InputError, match="sum to 1"):
        parse(WorkloadSpec, {**asked, "priority_shares": [0.5]}, "toy")
