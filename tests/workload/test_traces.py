"""Traces in the formats that their publishers use, made up here line by line; and what is wrong with a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from specsim.errors import InputError
from specsim.workload.traces import Columns, Trace, load_trace

AZURE_2023 = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
)
AZURE_2024 = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-12 00:00:00.001+00:00,100,10\n2024-05-12 00:00:02+00:00,200,20\n"
)
BURST = (
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,a,1,GPT-4,472,18,490,Conversation log\n"
    "45,b,1,ChatGPT,1087,0,1087,API log\n"
    "118,a,1,GPT-4,417,276,693,Conversation log\n"
)
MOONCAKE = (
    '{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}\n'
    '{"timestamp": 28000, "input_length": 600, "output_length": 5, "hash_ids": [46]}\n'
)
BAILIAN = (
    '{"chat_id": 159, "parent_chat_id": -1, "timestamp": 61.5, "input_length": 131, '
    '"output_length": 453, "type": "text", "turn": 1, "hash_ids": [1, 2]}\n'
    '{"chat_id": 160, "parent_chat_id": 159, "timestamp": 90, "input_length": 700, "output_length": '
    '5, "type": "text", "turn": 2, "hash_ids": [1, 2, 3]}\n'
)


def read(tmp_path: Path, text: str, kind: str, **others: object) -> Trace:
    path = tmp_path / "trace"
    path.write_text(text)
    return load_trace(path, kind, **others)  # type: ignore[arg-type]


def test_azure(tmp_path: Path) -> None:
    got = read(tmp_path, AZURE_2023, "azure").requests
    assert got.arrival_s == pytest.approx([0, 4.314579], abs=1e-6)
    assert got.prompt_tokens.tolist() == [374, 396] and got.output_tokens.tolist() == [44, 109]
    assert read(tmp_path, AZURE_2024, "azure", rate_scale=2.0).requests.arrival_s == pytest.approx([0, 0.9995])


def test_burstgpt_is_read_by_its_header_and_failures_are_left_out(tmp_path: Path) -> None:
    got = read(tmp_path, BURST, "burstgpt")
    assert got.num_failed == 1 and got.problems == ()
    assert got.requests.arrival_s.tolist() == [0, 113] and got.requests.output_tokens.tolist() == [18, 276]


def test_hashed_blocks_and_conversations(tmp_path: Path) -> None:
    got = read(tmp_path, MOONCAKE, "mooncake").requests
    assert got.arrival_s == pytest.approx([0, 0.518]) and got.block_tokens == 512
    assert got.prefix_blocks == [(46, 47), (46,)] and got.session is None
    chats = read(tmp_path, BAILIAN, "bailian").requests
    assert chats.arrival_s == pytest.approx([0, 28.5]) and chats.block_tokens == 16
    assert chats.session is not None and chats.session.tolist() == [0, 0]


def test_texts_are_counted_and_a_benchmark_is_replayed(tmp_path: Path) -> None:
    talk = [{"id": "x", "conversations": [{"from": "human", "value": "a b c"}, {"from": "gpt", "value": "d e"}]}]
    lonely = [{"id": "y", "conversations": [{"from": "human", "value": "a"}]}]
    got = read(tmp_path, json.dumps(talk + lonely), "sharegpt", num_tokens=lambda text: len(text.split()))
    assert (got.requests.prompt_tokens.tolist(), got.requests.output_tokens.tolist(), got.num_failed) == ([3], [2], 1)
    with pytest.raises(InputError, match="num_tokens"):
        read(tmp_path, json.dumps(talk), "sharegpt")
    bench = {"start_times": [105.0, 104.0], "input_lens": [7, 8], "output_lens": [3, 4], "request_rate": "inf"}
    replay = read(tmp_path, json.dumps(bench), "vllm_bench").requests
    assert replay.arrival_s.tolist() == [0, 1] and replay.prompt_tokens.tolist() == [8, 7]
    with pytest.raises(InputError, match="--save-detailed"):
        read(tmp_path, json.dumps({"duration": 3}), "vllm_bench")


def test_any_csv_by_its_columns(tmp_path: Path) -> None:
    text = "when_ms,in,out\n1500,10,2\n500,20,4\n"
    got = read(tmp_path, text, "csv", columns=Columns("when_ms", "in", "out", time_unit_s=1e-3)).requests
    assert got.arrival_s.tolist() == [0, 1] and got.prompt_tokens.tolist() == [20, 10]
    with pytest.raises(InputError, match="must have the column arrived_at"):
        read(tmp_path, text, "vidur")


BROKEN = [
    ("azure", AZURE_2023 + "2023-11-16 18:16", "4"),
    ("azure", AZURE_2023 + "yesterday,1,2\n", "4"),
    ("burstgpt", BURST.replace("472", "-472"), "2"),
    ("burstgpt", BURST.replace("472", "1e99"), "2"),
    ("burstgpt", BURST.replace("5,a", "nan,a"), "2"),
    ("mooncake", MOONCAKE[:-20], "2"),
    ("mooncake", MOONCAKE + "[" * 100_000 + "\n", "3"),
    ("mooncake", MOONCAKE + '{"timestamp": 1}\n', "3"),
    ("mooncake", MOONCAKE + '{"timestamp": 1, "input_length": ' + "9" * 5000 + ', "output_length": 1}\n', "3"),
]


@pytest.mark.parametrize(("kind", "text", "place"), BROKEN)
def test_a_broken_line_is_named_and_the_rest_used_only_if_asked(
    tmp_path: Path, kind: str, text: str, place: str
) -> None:
    with pytest.raises(InputError, match=f"trace:{place}: ") as caught:
        read(tmp_path, text, kind)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    got = read(tmp_path, text, kind, skip_bad=True)
    assert len(got.problems) == 1 and got.problems[0].startswith(f"trace:{place}: ") and len(got.requests) >= 1


def test_an_empty_or_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one request"):
        read(tmp_path, "", "mooncake")
    with pytest.raises(InputError, match="can not be read"):
        load_trace(tmp_path / "none", "azure")
