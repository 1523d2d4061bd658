"""Requests as they arrive: columns, one entry per request, sorted by arrival."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specsim.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Requests:
    """Requests, sorted by arrival. What is None was not said of any of them.

    Args:
        arrival_s: ``[N]`` when each arrives, seconds from the start of the run, never decreasing. Of a later turn of a
            session, its think time is in ``delay_s`` and ``arrival_s`` is the earliest it may come.
        prompt_tokens: ``[N]`` tokens of the prompt, at least 1; turns of a session repeat what came before.
        output_tokens: ``[N]`` tokens to be generated, at least 1.
        session: ``[N]`` number of the conversation that the request is a turn of; -1: of none.
        delay_s: ``[N]`` a turn is sent this long after the answer to the turn before it; 0 for first turns.
        prefix_blocks: Of each request, identities of the leading whole blocks of its prompt: equal ones are equal text.
        block_tokens: Tokens per identity of ``prefix_blocks``.
        category: ``[N]`` number of the kind of text; what it means for acceptance is the deployment's matter.
        priority: ``[N]`` lower is served first where admission looks at it.
        ttft_slo_s, tpot_slo_s: ``[N]`` latency targets of each; NaN for one without.

    Raises:
        InputError: naming the column, the value and the limit.

    >>> asked = Requests(np.array([0.0, 0.5]), np.array([100, 20]), np.array([10, 10]))
    >>> len(asked), asked[1:].arrival_s.tolist()
    (2, [0.5])
    """

    arrival_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    session: Ints | None = None
    delay_s: Floats | None = None
    prefix_blocks: Sequence[tuple[int, ...]] | None = None
    block_tokens: int = 16
    category: Ints | None = None
    priority: Floats | None = None
    ttft_slo_s: Floats | None = None
    tpot_slo_s: Floats | None = None

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, _column(name, values, kind, np.size(self.arrival_s)))
        if (self.arrival_s < 0).any() or not np.isfinite(self.arrival_s).all():
            raise InputError("arrival_s", "must be >= 0 and finite", float(np.min(self.arrival_s)))
        if (falls := np.flatnonzero(np.diff(self.arrival_s) < 0)).size:
            row = int(falls[0]) + 1
            raise InputError(
                f"arrival_s[{row}]", f"must not fall, at least {self.arrival_s[row - 1]:g}", float(self.arrival_s[row])
            )
        for name in ("prompt_tokens", "output_tokens"):
            if (short := np.flatnonzero(getattr(self, name) < 1)).size:
                raise InputError(f"{name}[{int(short[0])}]", "must be >= 1", int(getattr(self, name)[short[0]]))
        if self.prefix_blocks is not None and len(self.prefix_blocks) != len(self):
            raise InputError("prefix_blocks", f"must be one per request ({len(self)})", len(self.prefix_blocks))
        if self.block_tokens < 1:
            raise InputError("block_tokens", "must be >= 1", self.block_tokens)

    def __len__(self) -> int:
        return int(self.arrival_s.size)

    def __getitem__(self, rows: slice) -> Requests:
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        cut = {n: v if v is None or n == "block_tokens" else v[rows] for n, v in columns.items()}
        return Requests(**cut)


_KINDS = {
    "arrival_s": np.float64,
    "prompt_tokens": np.int64,
    "output_tokens": np.int64,
    "session": np.int64,
    "delay_s": np.float64,
    "category": np.int64,
    "priority": np.float64,
    "ttft_slo_s": np.float64,
    "tpot_slo_s": np.float64,
}


def _column(name: str, values: object, kind: type, size: int) -> NDArray[Any]:
    try:
        column: NDArray[Any] = np.array(values, dtype=kind)
    except (TypeError, ValueError, OverflowError):
        raise InputError(name, "must be numbers, one per request", values) from None
    if column.shape != (size,):
        raise InputError(name, f"must be one per request ({size})", column.shape)
    column.flags.writeable = False
    return column
