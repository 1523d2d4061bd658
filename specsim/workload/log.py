"""What became of requests, and what the engine did meanwhile: columns that metrics read, whoever wrote them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from specsim.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RequestLog:
    """One entry per request, in the order of ``request``; times are seconds from the start of the run.

    Args:
        request: ``[N]`` its number.
        arrival_s: ``[N]`` when it arrived.
        admitted_s: ``[N]`` when it was first taken in by the engine; NaN if never.
        first_token_s: ``[N]`` when its first token was out; NaN if none was.
        finished_s: ``[N]`` when its last token was out; NaN if it was not finished.
        prompt_tokens, output_tokens: ``[N]`` tokens read, and tokens that came out.
        num_rounds, num_drafted, num_accepted: ``[N]`` of its decoding rounds.
        num_preempted: ``[N]`` times that it lost its KV cache.
        cached_tokens: ``[N]`` tokens of its prompt found in the prefix cache.
        replica: ``[N]`` which replica served it; -1 for none.
        refused: ``[N]`` 0: served; 1: longer than the KV memory or the model can hold; 2: the run ended before it.
        longest_itl_s: ``[N]`` longest wait between two pieces of its output; NaN with less than two.
    """

    request: Ints
    arrival_s: Floats
    admitted_s: Floats
    first_token_s: Floats
    finished_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    num_rounds: Ints
    num_drafted: Ints
    num_accepted: Ints
    num_preempted: Ints
    cached_tokens: Ints
    replica: Ints
    refused: Ints
    longest_itl_s: Floats

    def __post_init__(self) -> None:
        _same_length(self)

    def __len__(self) -> int:
        return int(self.request.size)


@dataclass(frozen=True, eq=False)
class StepLog:
    """One entry per engine step that was kept, in order of time: the timeline and the time series.

    Args:
        start_s, duration_s: ``[S]`` seconds.
        replica: ``[S]`` whose step.
        num_running, num_waiting: ``[S]`` requests in the step, and requests that wait to be taken in.
        prefill_tokens: ``[S]`` prompt tokens computed in the step.
        draft_len: ``[S]`` tokens drafted per sequence, the mean where they differ; 0 for plain decoding.
        num_emitted: ``[S]`` tokens that came out, all sequences together.
        kv_blocks: ``[S]`` blocks of KV memory held at the end of the step.
        draft_s: ``[S]`` part of the step that drafting took.
    """

    start_s: Floats
    duration_s: Floats
    replica: Ints
    num_running: Ints
    num_waiting: Ints
    prefill_tokens: Ints
    draft_len: Floats
    num_emitted: Ints
    kv_blocks: Ints
    draft_s: Floats

    def __post_init__(self) -> None:
        _same_length(self)

    def __len__(self) -> int:
        return int(self.start_s.size)


def _same_length(log: RequestLog | StepLog) -> None:
    sizes = {f.name: np.size(getattr(log, f.name)) for f in fields(log)}
    first, *others = sizes.items()
    for name, size in others:
        if size != first[1]:
            raise InputError(name, f"must be as long as {first[0]} ({first[1]})", size)
