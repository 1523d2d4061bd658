"""The page of users' questions: every command of it runs, and says the words that the page marks."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from specsim.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "asks.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```bash\n(.*?)```\n\n(Look for .*?)(?=\n\n|\Z)", re.DOTALL)
ASKS = {int(one[1]): one[0] for one in re.finditer(r"^\*\*(\d+)\.\*\*.*?(?=^\*\*\d+\.\*\*|\Z)", PAGE, re.DOTALL | re.M)}


def answers(text: str) -> tuple[list[str], list[str]]:
    """The commands of an ask, and the words to look for in what they print."""
    found = BLOCK.search(text)
    assert found is not None, text[:200]
    return found[1].strip().splitlines(), re.findall(r"`([^`]+)`", found[2])


def test_every_ask_is_there_with_its_thread() -> None:
    assert list(ASKS) == list(range(1, 34))
    assert all("https://github.com/" in text for text in ASKS.values())


@pytest.mark.parametrize("number", ASKS)
def test_the_commands_answer(number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "200")
    commands, words = answers(ASKS[number])
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "specsim" and main(arguments) == 0, capsys.readouterr().err
    printed = " ".join(capsys.readouterr().out.split())
    assert words and [word for word in words if word not in printed] == []


def test_each_scenario_says_what_was_assumed() -> None:
    from specsim.scenario import load_scenario

    for path in sorted((ROOT / "docs" / "asks").glob("*.toml")):
        assert load_scenario(path).note, path.name
        assert f"docs/asks/{path.name}" in PAGE
