"""What happened, in one format: the simulator and the executor write it, and readers can not tell who did."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from specsim.documents import Document, parse
from specsim.errors import InputError
from specsim.work import Pass, Work

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]


class RoundRecord(Document):
    """One round of one sequence: what was drafted, what was kept, and how long each part took.

    Attributes:
        request: Which request, by number.
        method: Label of the configuration, for instance "chain 4".
        context_tokens: Tokens in the target's cache when the round began.
        num_drafted: Draft tokens verified, root left out.
        accepted_ranks: Drafter's rank of each accepted token from the root down; its length is the number accepted.
        num_emitted: Tokens that the round added, bonus token included, before any limit cut them.
        accept_prob: For each verified node but the root, the probability (under the rule used, given that its parent
            was accepted) that it is the accepted child; absent where the rule's order makes it no single number.
        parents: Of each verified node but the root, its parent's number, the root being 0 and the next node 1.
        tokens: Their token ids.
        draft_probs: Probability of each under the law that the drafter gave after its parent.
        target_probs: The same under the target's law, at the temperature decoded with.
        path: Numbers of the accepted nodes, the root left out.
        num_seqs: Sequences that shared the round, this one among them; its times are the whole round's. Left out: 1.
        draft_s, verify_s, host_s: Parts of the round on ``clock``; their sum is the round.
        wall_s: The round on the wall clock, where it is another.
        clock: "cpu" (time of the executor's thread), "wall", or "model" (a cost model's).
    """

    request: Count
    method: str
    context_tokens: Count
    num_drafted: Count
    accepted_ranks: tuple[Count, ...]
    num_emitted: Annotated[int, Field(ge=1)]
    accept_prob: tuple[Probability, ...] | None = None
    parents: tuple[Count, ...] | None = None
    tokens: tuple[Count, ...] | None = None
    draft_probs: tuple[Probability, ...] | None = None
    target_probs: tuple[Probability, ...] | None = None
    path: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    num_seqs: Annotated[int, Field(ge=1)] | None = None
    draft_s: Seconds
    verify_s: Seconds
    host_s: Seconds
    wall_s: Seconds | None = None
    clock: Literal["cpu", "wall", "model"]

    @model_validator(mode="after")
    def _counts_agree(self) -> RoundRecord:
        if self.num_emitted != len(self.accepted_ranks) + 1:
            raise ValueError(f"num_emitted must be accepted + 1 = {len(self.accepted_ranks) + 1}")
        if len(self.accepted_ranks) > self.num_drafted:
            raise ValueError(f"num_drafted must be >= the {len(self.accepted_ranks)} accepted")
        for name in ("accept_prob", "parents", "tokens", "draft_probs", "target_probs"):
            if (values := getattr(self, name)) is not None and len(values) != self.num_drafted:
                raise ValueError(f"{name} must have num_drafted = {self.num_drafted} entries")
        return self

    @model_validator(mode="after")
    def _path_is_in_the_tree(self) -> RoundRecord:
        if self.parents is not None and any(parent > place for place, parent in enumerate(self.parents)):
            raise ValueError("parents must come before their children")
        if self.path is None:
            return self
        if len(self.path) != self.num_accepted or max(self.path, default=0) > self.num_drafted:
            raise ValueError(f"path must hold the {self.num_accepted} accepted of {self.num_drafted} nodes")
        if self.parents is not None and [self.parents[node - 1] for node in self.path] != [0, *self.path][:-1]:
            raise ValueError("path must go from parent to child")
        return self

    @property
    def num_accepted(self) -> int:
        """Draft tokens kept, bonus token left out."""
        return len(self.accepted_ranks)

    @property
    def time_s(self) -> float:
        """The whole round, on ``clock``."""
        return self.draft_s + self.verify_s + self.host_s


def save_records(records: Iterable[RoundRecord], path: Path) -> None:
    """Append records to a JSON-lines file, each line complete when written: an interrupted run keeps what it has.

    Where an interrupted run left half a line, records begin on a new one, so that none is lost to it.

    Raises:
        InputError: where the file can not be written; no records at all tell so before any work is done.
    """
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            if _ends_within_a_line(path):
                file.write("\n")
            for record in records:
                file.write(record.model_dump_json(exclude_none=True) + "\n")
    except OSError as error:
        raise InputError("records", f"can not be written ({error.strerror or error})", str(path)) from None


def load_records(path: Path) -> Iterator[RoundRecord]:
    """Records of a JSON-lines file. Raises InputError naming file and line of the first that is broken."""
    try:
        # Only newlines end a line: a label may hold what str.splitlines would also split at.
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path.name, f"can not be read ({error})") from None
    if lines == [""]:
        return
    for number, line in enumerate(lines, start=1):
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):
            raise InputError(f"{path.name}:{number}", "not valid JSON (is the file truncated?)") from None
        yield parse(RoundRecord, data, f"{path.name}:{number}")


def _ends_within_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1))
        return size > 0 and file.read(1) != b"\n"


@dataclass(frozen=True)
class TimedRound:
    """A record with the time of each piece of the round's work, in order: what calibration fits."""

    record: RoundRecord
    works: tuple[tuple[Work, float], ...]


def round_record(
    works: Iterable[tuple[Work, float]], clock: Literal["cpu", "wall", "model"], **facts: Any
) -> RoundRecord:
    """A record from timed work: draft passes, target passes, and the host's share, each summed."""
    parts = {"draft_s": 0.0, "verify_s": 0.0, "host_s": 0.0}
    for work, seconds in works:
        name = {"draft": "draft_s", "target": "verify_s"}[work.role] if isinstance(work, Pass) else "host_s"
        parts[name] += seconds
    return RoundRecord(clock=clock, **parts, **facts)
