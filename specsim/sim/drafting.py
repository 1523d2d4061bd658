"""What a replica's draft control says of its steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from specsim.errors import InputError
from specsim.sim import kernel
from specsim.sim.inside import Inside
from specsim.sim.kernel import CONTEXT, REQUEST, TODO
from specsim.sim.policies import StepView
from specsim.sim.ragged import ragged_time, view_of

Parts = tuple[float, float, float, float]
_NOTHING = np.zeros((0, kernel.NUM_INTS), dtype=np.int64)


class Drafting:
    """Asks the control as often as it wants to be asked, and tells it what its answers brought.

    Attributes:
        asks: Whether it is asked before each step.
        shapes: ``[max_running]`` of each request's next round, where they differ.
    """

    def __init__(self, inside: Inside) -> None:
        self.inside, self.control = inside, inside.rules.control
        self.asks = self.control.depends_on == "history"
        self.state = self.control.start()
        self.shapes = np.zeros(inside.rules.config.max_running, dtype=np.int64)
        self._chosen: dict[int, int] = {}
        self._view: StepView | None = None
        self._before = _NOTHING

    def choose(self, now_s: float, num_waiting: int) -> tuple[int, Parts]:
        """The shape of the next rounds; -1 and their time where requests differ."""
        if self.asks:
            return self._ask(now_s, num_waiting)
        known = self.inside.num_running if self.control.depends_on == "num_running" else 0
        if known not in self._chosen:
            view = self._seen(now_s, 0, np.zeros(0, dtype=bool))
            _, length = self.control.choose(self.state, view)
            self._chosen[known] = self._checked(length)
        return self._chosen[known], (0.0, 0.0, 0.0, 0.0)

    def observe(self, finished: int, left: int, step_s: float) -> None:
        """Tell the control what its step brought; rows keep their order, whether they stay or go."""
        if self._view is None:
            return
        at, before = self.inside, self._before
        gone = np.isin(before[:, REQUEST], at.done_ints[:finished, REQUEST])
        after = np.zeros(len(before), dtype=np.int64)
        after[gone] = at.done_ints[:finished, kernel.ACCEPTED]
        after[~gone] = at.ints[:left, kernel.ACCEPTED]
        kept = (after - before[:, kernel.ACCEPTED])[before[:, TODO] == 0]
        self.state = self.control.observe(self.state, kept, step_s)

    def _ask(self, now_s: float, num_waiting: int) -> tuple[int, Parts]:
        at, n, tables = self.inside, self.inside.num_running, self.inside.rules.tables
        none, self._view, self._before = (0.0, 0.0, 0.0, 0.0), None, at.ints[:n].copy()
        decoding = at.ints[:n, TODO] == 0
        if not decoding.any() or (not at.rules.limits.mixes and not decoding.all()):
            return 0, none
        self._view = self._seen(now_s, num_waiting, decoding)
        self.state, lengths = self.control.choose(self.state, self._view)
        if not isinstance(lengths, np.ndarray):
            return self._checked(lengths), none
        num, longest = int(decoding.sum()), len(tables.width) - 1
        if lengths.shape != (num,) or not ((lengths >= 0) & (lengths <= longest)).all():
            raise InputError("draft_len", f"must be one per decoding request, from 0 to {longest}", lengths)
        self.shapes[:n][decoding] = lengths
        time = ragged_time(tables, lengths, float(at.ints[:n][decoding, CONTEXT].mean()))
        return -1, (time.drafting, time.verifying, time.host, time.least)

    def _seen(self, now_s: float, num_waiting: int, decoding: Any) -> StepView:
        at, n = self.inside, len(decoding)
        rows, seconds, r = at.ints[:n][decoding], at.floats[:n][decoding], at.rules
        return view_of(
            now_s, at.num_running, num_waiting, at.free, rows, seconds, at.survival, at.bars, r.tables, r.latent
        )

    def _checked(self, length: Any) -> int:
        """Which shape a draft length is; a control that never varies has one shape only."""
        most = self.control.max_draft_len
        if not 0 <= int(length) <= most:
            raise InputError("draft_len", f"must be from 0 to {most}, the longest of its control", length)
        return int(length) if len(self.inside.rules.tables.width) > 1 else 0
