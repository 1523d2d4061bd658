"""What a measuring run has done so far, kept in its folder, so that one that was interrupted goes on where it was.

Recorded acceptance is not kept: it follows from the seed, and is made again. Times differ from run to run, and some
policies follow from them, so they are kept as well as what was measured.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specsim.methods.catalogue import NamedMethod
from specsim.records import RoundRecord, TimedRound, save_records
from specsim.work import HostWork, Pass, Work

Key = tuple[str, float, str, int]
"""Part of the run ("timing" or "measuring"), temperature, method and prompt."""


@dataclass(frozen=True)
class Done:
    """One method on one prompt: its rounds and the tokens that it emitted."""

    rounds: list[TimedRound]
    tokens: list[int]


class Journal:
    """The file of what has been done under these settings; what was done under others is forgotten.

    A last line that an interruption cut is left out, and its work done again.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self._done = path, {}  # type: tuple[Path, dict[Key, Done]]
        header = json.dumps(settings, sort_keys=True)
        lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
        if not lines or lines[0] != header:
            path.write_text(header + "\n", encoding="utf-8")
            return
        whole = lines[1:-1]  # what follows the last newline is empty, or was cut
        for line in whole:
            key, tokens, rounds = json.loads(line)
            self._done[(key[0], key[1], key[2], key[3])] = Done([_round(*one) for one in rounds], tokens)
        path.write_text("\n".join([header, *whole, ""]), encoding="utf-8")

    @property
    def num_done(self) -> int:
        """Methods on prompts, of all parts of the run."""
        return len(self._done)

    def kept(self, part: str, temperature: float, named: NamedMethod, num_prompts: int) -> dict[int, Done]:
        """What has been done of a method, by prompt. One that learns from text to text is all done or not."""
        keys = [(part, temperature, named.name, prompt) for prompt in range(num_prompts)]
        found = {key[3]: self._done[key] for key in keys if key in self._done}
        return found if named.drafter != "recycling" or len(found) == num_prompts else {}

    def add(self, part: str, temperature: float, named: NamedMethod, prompt: int, done: Done) -> None:
        """Write it down."""
        key, rounds = (part, temperature, named.name, prompt), [_row(one) for one in done.rounds]
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([key, done.tokens, rounds]) + "\n")

    def save_records(self, path: Path) -> None:
        """All measured records so far, into a new file."""
        path.unlink(missing_ok=True)
        measured = [done for key, done in self._done.items() if key[0] == "measuring"]
        save_records([one.record for done in measured for one in done.rounds], path)

    def finish(self) -> None:
        """Forget all: the run has ended."""
        self.path.unlink(missing_ok=True)


def _row(timed: TimedRound) -> tuple[dict[str, Any], list[Any]]:
    record = timed.record.model_dump(mode="json", exclude_none=True)
    return record, [[_facts(work), seconds] for work, seconds in timed.works]


def _round(record: dict[str, Any], works: list[Any]) -> TimedRound:
    return TimedRound(RoundRecord.model_validate(record), tuple((_work(*facts), seconds) for facts, seconds in works))


def _facts(work: Work) -> list[Any]:
    if isinstance(work, Pass):
        counts = [values.tolist() for values in (work.new_tokens, work.context_tokens, work.num_seqs)]
        return [work.role, work.kind, *counts, work.nodes]
    assert isinstance(work, HostWork)
    return [work.kind, work.num_nodes]


def _work(*facts: Any) -> Work:
    if len(facts) == 2:
        return HostWork(*facts)
    role, kind, new, context, seqs, nodes = facts
    return Pass(role, kind, new, context, seqs, tuple(nodes))
