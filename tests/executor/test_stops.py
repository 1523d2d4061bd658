"""A text ends at a token or at words, wherever tokens happen to be cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from specsim.errors import InputError
from specsim.executor.stops import Stops, end_tokens


class Letters:
    """Token n is the n-th letter."""

    def decode(self, tokens: list[int]) -> str:
        return "".join(chr(ord("a") + token) for token in tokens)


def ids(text: str) -> list[int]:
    return [ord(character) - ord("a") for character in text]


@pytest.mark.parametrize(
    ("stops", "kept", "text", "stop"),
    [
        (Stops(tokenizer=Letters()), "hello", "hello", ""),
        (Stops(frozenset(ids("l")), (), Letters()), "hel", "hel", "token 11"),
        (Stops(frozenset(), ("ll",), Letters()), "hell", "he", "'ll'"),
        (Stops(frozenset(), ("lo", "el"), Letters()), "hel", "h", "'el'"),
        (Stops(frozenset(ids("e")), ("ll",), Letters()), "he", "he", "token 4"),
        (Stops(frozenset(), ("xy",), Letters()), "hello", "hello", ""),
    ],
)
def test_a_text_is_cut_at_its_first_stop(stops: Stops, kept: str, text: str, stop: str) -> None:
    assert stops.cut(ids("say"), ids("hello")) == (ids(kept), text, stop)
    # Told round by round, in runs of any length, the stop is noticed in the round that completes it.
    for size in range(1, 6):
        noticed = next((end for end in (*range(size, 5, size), 5) if stops.reached(ids("hello")[:end], size)), None)
        assert (noticed is not None) == bool(stop)
        assert noticed is None or noticed - size < len(kept) <= noticed


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(InputError, match="stop: must not be empty text"):
        Stops(frozenset(), ("x", ""))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, set()),
        ({"config.json": {"eos_token_id": 2}}, {2}),
        ({"config.json": {"eos_token_id": None}}, set()),
        ({"config.json": {"eos_token_id": 2}, "generation_config.json": {"eos_token_id": [5, 6]}}, {5, 6}),
        ({"config.json": {"eos_token_id": 2}, "generation_config.json": {}}, {2}),
    ],
)
def test_a_checkpoint_says_what_ends_a_text(files: dict[str, Any], expected: set[int], tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert end_tokens(tmp_path) == expected


def test_end_tokens_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"eos_token_id": "</s>"}')
    with pytest.raises(InputError, match="eos_token_id: must be token ids, got '</s>'"):
        end_tokens(tmp_path)
