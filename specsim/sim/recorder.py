"""Records of a run, written in chunks: to a sink where one is given, else kept until the end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from specsim.sim import kernel
from specsim.sim.kernel import Floats, Ints
from specsim.workload.log import RequestLog, StepLog

Sink = Callable[[RequestLog], None]
CHUNK = 4096
_REPLICA, _REFUSED = kernel.NUM_INTS, kernel.NUM_INTS + 1


class Recorder:
    """Rows of state turned into a ``RequestLog``.

    Args:
        sink: Receives each full chunk, its requests in order of their numbers; what it got is forgotten here.
    """

    def __init__(self, sink: Sink | None) -> None:
        self._sink = sink
        self._chunks: list[RequestLog] = []
        self._ints = np.zeros((CHUNK, kernel.NUM_INTS + 2), dtype=np.int64)
        self._floats = np.zeros((CHUNK, kernel.NUM_FLOATS))
        self._filled = 0
        self.counts = [0, 0, 0]
        """Requests written by what became of them, as ``RequestLog.refused`` numbers it."""

    def write(self, ints: Ints, floats: Floats, replica: int, refused: int) -> None:
        """Append rows of state, of requests that have left."""
        while len(ints):
            room = min(CHUNK - self._filled, len(ints))
            rows = slice(self._filled, self._filled + room)
            self._ints[rows, : kernel.NUM_INTS], self._floats[rows] = ints[:room], floats[:room]
            self._ints[rows, _REPLICA], self._ints[rows, _REFUSED] = replica, refused
            self._filled += room
            self.counts[refused] += room
            ints, floats = ints[room:], floats[room:]
            if self._filled == CHUNK:
                self._flush()

    def finish(self) -> RequestLog:
        """All requests that no sink took, in order of their numbers."""
        self._flush()
        columns = {name: [getattr(chunk, name) for chunk in self._chunks] for name in RequestLog.__dataclass_fields__}
        if not self._chunks:
            return _log(self._ints[:0], self._floats[:0])
        order = np.unique(np.concatenate(columns["request"]), return_index=True)[1]  # twice at most by an interrupt
        return RequestLog(**{name: np.concatenate(parts)[order] for name, parts in columns.items()})

    def _flush(self) -> None:
        if self._filled:
            order = np.argsort(self._ints[: self._filled, kernel.REQUEST], kind="stable")
            log = _log(self._ints[order], self._floats[order])
            (self._sink or self._chunks.append)(log)
        self._filled = 0


def _log(ints: Ints, floats: Floats) -> RequestLog:
    def count(column: int) -> Ints:
        return ints[:, column].copy()

    def seconds(column: int) -> Floats:
        return floats[:, column].copy()

    return RequestLog(
        request=count(kernel.REQUEST),
        arrival_s=seconds(kernel.ARRIVAL),
        admitted_s=seconds(kernel.ADMITTED),
        first_token_s=seconds(kernel.FIRST),
        finished_s=np.where(ints[:, kernel.MISSING] == 0, floats[:, kernel.LAST], np.nan),
        prompt_tokens=count(kernel.PROMPT),
        output_tokens=count(kernel.OUT),
        num_rounds=count(kernel.ROUNDS),
        num_drafted=count(kernel.DRAFTED),
        num_accepted=count(kernel.ACCEPTED),
        num_preempted=count(kernel.PREEMPTED),
        cached_tokens=count(kernel.CACHED),
        replica=count(_REPLICA),
        refused=count(_REFUSED),
        longest_itl_s=seconds(kernel.LONGEST),
    )


class StepRecorder:
    """Engine steps of all replicas."""

    def __init__(self) -> None:
        self._parts: list[tuple[Floats, int, int, int]] = []

    def write(self, log: Floats, replica: int, num_waiting: int, num_blocks: int) -> None:
        """Append what a stretch logged."""
        self._parts.append((log.copy(), replica, num_waiting, num_blocks))

    def finish(self) -> StepLog:
        """All steps, in order of time."""
        rows = np.concatenate([part[0] for part in self._parts] or [np.zeros((0, kernel.NUM_LOGGED))])
        sizes = [len(part[0]) for part in self._parts]
        replica, waiting, blocks = (
            np.repeat(np.array([part[i] for part in self._parts], dtype=np.int64), sizes) for i in (1, 2, 3)
        )
        order = np.lexsort((replica, rows[:, 0]))
        ints = rows.astype(np.int64)
        return StepLog(
            start_s=rows[order, 0],
            duration_s=rows[order, 1],
            replica=replica[order],
            num_running=ints[order, 2],
            num_waiting=waiting[order],
            prefill_tokens=ints[order, 3],
            draft_len=rows[order, 4],
            num_emitted=ints[order, 5],
            kv_blocks=blocks[order] - ints[order, 6],
            draft_s=rows[order, 7],
        )
