"""Draft length by batch size, as each engine defines it: the same table means different things to each.

All become one dense lookup; the functions are the engines' rules.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from specsim.errors import InputError
from specsim.sim.policies import DependsOn, StepView
from specsim.sim.policies.basic import Memoryless


@dataclass(frozen=True)
class ByBatch(Memoryless):
    """``draft_lens[n - 1]`` tokens where n requests share a step; beyond the last entry, that entry."""

    draft_lens: tuple[int, ...]
    depends_on: DependsOn = "num_running"

    def __post_init__(self) -> None:
        if not self.draft_lens or min(self.draft_lens) < 0:
            raise InputError("draft_lens", "must be draft lengths >= 0, one at least", self.draft_lens)

    @property
    def max_draft_len(self) -> int:
        return max(self.draft_lens)

    def choose(self, state: Any, view: StepView) -> tuple[Any, int]:
        return state, self.draft_lens[min(max(view.num_running, 1), len(self.draft_lens)) - 1]


def vllm_table(entries: Sequence[tuple[int, int, int]], max_draft_len: int, max_batch: int) -> ByBatch:
    """vLLM's ``num_speculative_tokens_per_batch_size``: ``[start, end, K]``, both ends included.

    A gap, and what comes after the last entry, keeps the K before it; K is cut to ``num_speculative_tokens``. The batch
    is the number of requests scheduled in the step, prefills included.

    Source: vLLM 0.33.0, ``v1/spec_decode/dynamic/utils.py``.

    >>> vllm_table([(1, 2, 4), (4, 5, 1)], max_draft_len=3, max_batch=6).draft_lens
    (3, 3, 3, 1, 1, 1)
    """
    if not entries or entries[0][0] != 1:
        raise InputError("entries", "must begin at batch size 1", [list(entry) for entry in entries[:1]])
    lens: list[int] = []
    for start, end, draft_len in entries:
        if start <= len(lens) or end < start or draft_len < 0:
            limit = "must be sorted [start, end, K] without overlap, K >= 0"
            raise InputError("entries", limit, [start, end, draft_len])
        lens += [lens[-1]] * (start - 1 - len(lens)) if lens else []
        lens += [min(draft_len, max_draft_len)] * (end - start + 1)
    return ByBatch(tuple((lens + [lens[-1]] * max_batch)[:max_batch]))


def tensorrt_llm_table(
    schedule: Mapping[int, int], keys_are: Literal["upper_bounds", "lower_bounds"], max_batch: int
) -> ByBatch:
    """TensorRT-LLM's ``draft_len_schedule``, whose meaning was reversed.

    ``upper_bounds`` (1.3 and later): K up to that batch size, nothing beyond the last. ``lower_bounds`` (before): K
    from that batch size on.

    Source: TensorRT-LLM pull requests 8194 and 10860.

    >>> tensorrt_llm_table({2: 4, 4: 1}, "upper_bounds", 6).draft_lens
    (4, 4, 1, 1, 0, 0)
    >>> tensorrt_llm_table({1: 4, 3: 1, 5: 0}, "lower_bounds", 6).draft_lens
    (4, 4, 1, 1, 0, 0)
    """
    keys = sorted(schedule)
    if not keys or keys[0] < 1 or min(schedule.values()) < 0:
        raise InputError("schedule", "must map batch sizes >= 1 to draft lengths >= 0", dict(schedule))
    if keys_are == "lower_bounds":
        if keys[0] != 1:
            raise InputError("schedule", "must begin at batch size 1", keys[0])
        return ByBatch(tuple(schedule[keys[bisect_right(keys, batch) - 1]] for batch in range(1, max_batch + 1)))
    places = [bisect_left(keys, batch) for batch in range(1, max_batch + 1)]
    return ByBatch(tuple(schedule[keys[place]] if place < len(keys) else 0 for place in places))


def sglang_slot(slots: Sequence[int], captured: Sequence[int], batch: int) -> int:
    """Which of the sorted ``slots`` a batch goes to: rounded up to a captured size, then down to a slot.

    Source: SGLang 0.5.23, observed with slots 1, 8, 33 and captured sizes 1, 2, 4, 8, 16, ...: batches 5 to 7 use the
    slot 8.

    >>> [sglang_slot([1, 8, 33], [1, 2, 4, 8, 16, 32, 64], batch) for batch in (4, 5, 33, 100)]
    [1, 8, 33, 33]
    """
    place = bisect_left(captured, batch)
    padded = captured[place] if place < len(captured) else batch
    return slots[max(bisect_right(slots, padded) - 1, 0)]


def sglang_table(draft_len_by_slot: Mapping[int, int], captured: Sequence[int], max_batch: int) -> ByBatch:
    """SGLang's ``--speculative-adaptive-config`` with one candidate per slot, which makes it a fixed table.

    >>> sglang_table({1: 4, 4: 1}, captured=[1, 2, 4, 8], max_batch=6).draft_lens
    (4, 4, 1, 1, 1, 1)
    """
    slots = sorted(draft_len_by_slot)
    if not slots or slots[0] < 1 or min(draft_len_by_slot.values()) < 0:
        raise InputError("draft_len_by_slot", "must map batch sizes >= 1 to steps >= 0", dict(draft_len_by_slot))
    sizes = sorted(captured)
    return ByBatch(tuple(draft_len_by_slot[sglang_slot(slots, sizes, batch)] for batch in range(1, max_batch + 1)))
