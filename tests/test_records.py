"""Records survive the file, and a file that is broken says where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.errors import InputError
from specsim.records import RoundRecord, load_records, round_record, save_records
from specsim.work import HostWork, Pass, Transfer, Work

RECORD = RoundRecord(
    request=3,
    method="chain 4",
    context_tokens=100,
    num_drafted=4,
    accepted_ranks=(0, 0),
    num_emitted=3,
    accept_prob=(0.9, 1.0, 0.25, 0.0),
    draft_s=0.001,
    verify_s=0.005,
    host_s=0.0005,
    clock="cpu",
)
GOOD = RECORD.model_dump(mode="json")
seconds = st.floats(0, 1e6)


@st.composite
def records(draw: st.DrawFn) -> RoundRecord:
    """Any record."""
    num_drafted = draw(st.integers(0, 6))
    ranks = tuple(draw(st.lists(st.integers(0, 9), max_size=num_drafted)))
    probs = st.lists(st.floats(0, 1), min_size=num_drafted, max_size=num_drafted)
    return RoundRecord(
        request=draw(st.integers(0, 2**40)),
        method=draw(st.text(st.characters(exclude_categories=["Cs"]))),
        context_tokens=draw(st.integers(0, 10**6)),
        num_drafted=num_drafted,
        accepted_ranks=ranks,
        num_emitted=len(ranks) + 1,
        accept_prob=draw(st.none() | probs.map(tuple)),
        draft_s=draw(seconds),
        verify_s=draw(seconds),
        host_s=draw(seconds),
        wall_s=draw(st.none() | seconds),
        clock=draw(st.sampled_from(["cpu", "wall", "model"])),
    )


@given(st.lists(records(), max_size=5), st.integers(0, 5))
def test_what_is_saved_is_loaded(tmp_path_factory: pytest.TempPathFactory, kept: list[RoundRecord], cut: int) -> None:
    path = tmp_path_factory.mktemp("records") / "rounds.jsonl"
    save_records(kept[:cut], path)
    save_records(kept[cut:], path)
    assert list(load_records(path)) == kept


def test_a_folder_is_no_file_of_records(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"can not be read"):
        list(load_records(tmp_path))
    with pytest.raises(InputError, match=r"^records: can not be written \(Is a directory\), got "):
        save_records([], tmp_path)


def test_counts_and_times_add_up() -> None:
    assert RECORD.num_accepted == 2
    assert RECORD.time_s == pytest.approx(0.0065, rel=1e-12)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"num_emitted": 2}, r"num_emitted must be accepted \+ 1 = 3"),
        ({"num_emitted": 0}, "num_emitted: Input should be greater than or equal to 1, got 0"),
        ({"num_drafted": 1}, "num_drafted must be >= the 2 accepted"),
        ({"num_drafted": 5}, "accept_prob must have num_drafted = 5 entries"),
        ({"accept_prob": [0.5, 0.5, 0.5, 1.5]}, "accept_prob.3: Input should be less than or equal to 1, got 1.5"),
        ({"accepted_ranks": [0, -1]}, "accepted_ranks.1: Input should be greater than or equal to 0, got -1"),
        ({"draft_s": -1e-9}, "draft_s: Input should be greater than or equal to 0"),
        ({"verify_s": "soon"}, "verify_s: Input should be a valid number"),
        ({"host_s": None}, "host_s: Input should be a valid number"),
        ({"clock": "sun"}, "clock: Input should be 'cpu', 'wall' or 'model', got 'sun'"),
        ({"num_emited": 3}, "num_emited: unknown key"),
    ],
)
def test_records_that_disagree_with_themselves_are_refused(change: dict[str, Any], line: str, tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | change) + "\n")
    with pytest.raises(InputError, match=rf"^rounds\.jsonl:2: .*{line}") as caught:
        list(load_records(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [1, 20, -2])
def test_a_truncated_last_line_is_named_and_those_before_it_are_read(length: int, tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    save_records([RECORD] * 3, path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:length])
    read = load_records(path)
    assert [next(read), next(read)] == [RECORD] * 2
    with pytest.raises(InputError, match=r"^rounds\.jsonl:3: not valid JSON \(is the file truncated\?\)$"):
        next(read)


def test_a_run_after_an_interruption_does_not_lose_its_first_record(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    save_records([RECORD], path)
    with path.open("a") as file:
        file.write('{"request": 1, "meth')
    save_records([RECORD], path)
    lines = path.read_text().splitlines()
    assert len(lines) == 3 and lines[0] == lines[2]


@pytest.mark.parametrize("text", ["\n", "[]\n", "3\n", "null\n", "{}\n", "[" * 100_000])
def test_lines_that_are_no_records_are_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    path.write_text(text)
    if text == "\n":
        assert list(load_records(path)) == []
        return
    with pytest.raises(InputError, match=r"^rounds\.jsonl:1: "):
        list(load_records(path))


def test_files_that_can_not_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^rounds\.jsonl: can not be read"):
        list(load_records(tmp_path / "rounds.jsonl"))
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"^binary\.jsonl: can not be read"):
        list(load_records(tmp_path / "binary.jsonl"))


def test_time_of_each_kind_of_work_is_summed() -> None:
    works: list[tuple[Work, float]] = [
        (Pass("draft", "draft", [2], [10]), 1.0),
        (HostWork("draft"), 0.25),
        (Pass("draft", "draft", [1], [12]), 2.0),
        (Pass("target", "verify", [3], [11]), 8.0),
        (HostWork("round", 3), 0.5),
        (Transfer(100.0), 0.125),
    ]
    facts = {"request": 0, "method": "chain 2", "context_tokens": 11, "num_drafted": 2}
    record = round_record(works, "wall", **facts, accepted_ranks=(0,), num_emitted=2)
    assert (record.draft_s, record.verify_s, record.host_s, record.time_s) == (3.0, 8.0, 0.875, 11.875)


TREE = {
    "num_drafted": 3, "parents": (0, 0, 1), "tokens": (5, 6, 7), "draft_probs": (0.5, 0.25, 1.0),
    "target_probs": (0.5, 0.5, 0.0), "accepted_ranks": (0, 0), "num_emitted": 3, "path": (1, 3),
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({}, ""),
        ({"parents": (0, 0)}, "parents must have num_drafted = 3 entries"),
        ({"draft_probs": (0.5,)}, "draft_probs must have num_drafted = 3 entries"),
        ({"parents": (0, 2, 1)}, "parents must come before their children"),
        ({"path": (1,)}, "path must hold the 2 accepted of 3 nodes"),
        ({"path": (1, 4)}, "path must hold the 2 accepted of 3 nodes"),
        ({"path": (2, 3)}, "path must go from parent to child"),
    ],
)
def test_what_was_drafted_and_kept_is_one_tree(change: dict[str, Any], line: str) -> None:
    times = {"draft_s": 0.1, "verify_s": 0.2, "host_s": 0.3, "clock": "cpu"}
    fields = {"request": 0, "method": "chain", "context_tokens": 9, **times, **TREE, **change}
    if line:
        with pytest.raises(ValueError, match=line):
            RoundRecord(**fields)
    else:
        assert RoundRecord(**fields).path == (1, 3)
