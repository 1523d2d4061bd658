"""A small model server: requests arrive, texts join and leave a batch. What simulators of servers are held to."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from math import nan

import numpy as np
import torch

from specsim.errors import InputError
from specsim.executor.cache import KvCache
from specsim.executor.drafters.base import Prompt
from specsim.executor.drafters.model import ModelDrafter
from specsim.executor.llama import Llama
from specsim.executor.method import Method
from specsim.executor.rounds import run_round
from specsim.executor.texts import Texts
from specsim.workload.log import RequestLog, StepLog

Clock = Callable[[], float]


@dataclass(frozen=True, eq=False)
class Served:
    """What serving left; times are seconds of the clock, idle ones skipped over as arrivals say.

    Args:
        requests, steps: As a simulated server leaves them; a prompt is a step of its own. ``kv_blocks`` are tokens.
        texts: ``[request]`` new tokens of each.
        rounds: ``[request]`` tokens that each of its rounds emitted, the overshoot of the last one included.
    """

    requests: RequestLog
    steps: StepLog
    texts: list[list[int]]
    rounds: list[list[int]]


@dataclass(eq=False)
class BatchServer:
    """Continuous batching on one thread: a step is one prompt, or a round of all who are inside.

    Whoever waits is taken in first, one prompt a step, as long as there is room; the prompt's step brings its first
    token. Decoding is greedy.

    Args:
        target: The model.
        draft: The model that drafts; None for plain decoding.
        method: How rounds are played.
        max_running: Most texts inside.
        clock: Reads seconds; processor time of the thread by default, which other programs hardly touch.

    Raises:
        InputError: for a method that needs a drafter that is missing, or a batch below 1.
    """

    target: Llama
    draft: Llama | None
    method: Method
    max_running: int
    clock: Clock = time.thread_time
    _texts: Texts | None = None
    _left: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_running < 1:
            raise InputError("max_running", "must be >= 1", self.max_running)
        if self.draft is None and not self.method.is_plain:
            raise InputError("draft", "must be given for a method that drafts", None)

    def serve(self, arrival_s: Sequence[float], prompts: Sequence[list[int]], output_tokens: Sequence[int]) -> Served:
        """Serve requests, sorted by arrival, until all are done.

        Raises:
            InputError: for columns of unequal lengths, arrivals that fall, or texts beyond the models' positions.
        """
        steps = self.stepping(arrival_s, prompts, output_tokens)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                served: Served = end.value
                return served

    def stepping(
        self, arrival_s: Sequence[float], prompts: Sequence[list[int]], output_tokens: Sequence[int]
    ) -> Generator[None, None, Served]:
        """``serve``, stopping after each step, for whoever has two servers take turns."""
        self._check(arrival_s, prompts, output_tokens)
        log, waiting = _Log(arrival_s, prompts), deque(range(len(prompts)))
        self._texts, self._left, skipped = None, {}, -self.clock()
        while waiting or self._left:
            now = self.clock() + skipped
            due = bool(waiting) and arrival_s[waiting[0]] <= now
            if due and len(self._left) < self.max_running:
                request, queued = waiting.popleft(), _num_due(waiting, arrival_s, now)
                log.admitted(request, now)
                self._prefill(request, prompts[request], output_tokens[request], log)
                end = self.clock() + skipped
                log.came([request], end)
                inside = len(self._left) + (output_tokens[request] == 1)
                log.step(now, end, inside, queued, len(prompts[request]), 0, 1)
            elif self._left:
                queued, inside = _num_due(waiting, arrival_s, now), len(self._left)
                requests, emitted, drafted = self._round()
                end = self.clock() + skipped
                used = log.decoded(requests, emitted, drafted, output_tokens, end)
                log.step(now, end, inside, queued, 0, drafted, used)
                self._drop_finished(log, output_tokens)
            else:
                skipped += arrival_s[waiting[0]] - now
                continue
            yield
        return log.served(output_tokens)

    @torch.inference_mode()
    def _prefill(self, request: int, prompt: list[int], output_tokens: int, log: _Log) -> None:
        """Both models read the prompt; the target answers its first token, and the text joins the others."""
        cache = self.target.new_cache(len(prompt) + output_tokens + 2 * self.method.policy.limits.depth + 2, 1)
        hidden = self.target.prefill(torch.tensor([prompt], device=self.target.device), cache)
        cache.keep([list(range(len(prompt)))])
        first = int(self.target.logits(hidden[:, -1:]).argmax())
        log.texts[request].append(first)
        if output_tokens == 1:
            return
        drafter = None if self.draft is None or self.method.is_plain else ModelDrafter(self.target, self.draft)
        tokens = [*prompt, first]
        if drafter is not None:
            drafter.start(Prompt([tokens], [len(prompt)], cache))
        generator = torch.Generator().manual_seed(request)
        new = Texts(self.target, drafter, [tokens], [request], cache, [generator])
        self._texts = new if self._texts is None else joined(self._texts, new)
        self._left[request] = output_tokens - 1

    def _round(self) -> tuple[list[int], list[list[int]], int]:
        assert self._texts is not None
        done = run_round(self._texts, self.method, self.clock)
        return done.requests, done.emitted, done.verified.tokens.shape[1] - 1

    def _drop_finished(self, log: _Log, output_tokens: Sequence[int]) -> None:
        assert self._texts is not None
        for request in list(self._left):
            self._left[request] = output_tokens[request] - len(log.texts[request])
            if self._left[request] == 0:
                del self._left[request]
        rows = [row for row, request in enumerate(self._texts.requests) if request in self._left]
        if not rows:
            self._texts = None
        elif len(rows) < self._texts.num_rows:
            self._texts.keep_rows(rows)

    def _check(self, arrival_s: Sequence[float], prompts: Sequence[list[int]], output_tokens: Sequence[int]) -> None:
        if not len(arrival_s) == len(prompts) == len(output_tokens):
            raise InputError("prompts", f"must be one per arrival ({len(arrival_s)})", len(prompts))
        if np.any(np.diff(arrival_s) < 0):
            raise InputError("arrival_s", "must not fall", float(np.diff(arrival_s).min()))
        most = min(model.shape.max_context_tokens for model in (self.target, self.draft) if model is not None)
        reach = self.method.policy.limits.depth + 1
        for prompt, more in zip(prompts, output_tokens, strict=True):
            if not prompt or more < 1 or len(prompt) + more + reach > most:
                raise InputError("prompt", f"must leave room in {most} positions, with its answer", len(prompt) + more)


class _Log:
    """Columns of the logs while they fill."""

    def __init__(self, arrival_s: Sequence[float], prompts: Sequence[list[int]]) -> None:
        self.arrival_s, self.prompts, size = arrival_s, prompts, len(prompts)
        self.times = {name: np.full(size, nan) for name in ("admitted", "first", "last", "longest")}
        self.counts = np.zeros((3, size), dtype=np.int64)
        self.texts: list[list[int]] = [[] for _ in prompts]
        self.rounds: list[list[int]] = [[] for _ in prompts]
        self.steps: list[tuple[float, ...]] = []

    def admitted(self, request: int, now: float) -> None:
        self.times["admitted"][request] = now

    def came(self, requests: list[int], end: float) -> None:
        first, last, longest = (self.times[name] for name in ("first", "last", "longest"))
        for request in requests:
            if np.isnan(first[request]):
                first[request] = end
            else:
                longest[request] = np.fmax(longest[request], end - last[request])
            last[request] = end

    def decoded(
        self, requests: list[int], emitted: list[list[int]], drafted: int, wanted: Sequence[int], end: float
    ) -> int:
        """Tokens of the round that were asked for."""
        self.came(requests, end)
        used = 0
        for request, new in zip(requests, emitted, strict=True):
            self.counts[:, request] += 1, drafted, len(new) - 1
            self.rounds[request].append(len(new))
            kept = new[: wanted[request] - len(self.texts[request])]
            self.texts[request] += kept
            used += len(kept)
        return used

    def step(self, *columns: float) -> None:
        """Start, end, texts inside, texts waiting, prompt tokens, drafted by each, tokens that came out."""
        self.steps.append(columns)

    def served(self, wanted: Sequence[int]) -> Served:
        size, none = len(self.prompts), np.zeros(len(self.prompts), dtype=np.int64)
        columns = np.array(self.steps).reshape(-1, 7).T
        inside, waiting, prompts, emitted = (columns[i].astype(np.int64) for i in (2, 3, 4, 6))
        requests = RequestLog(
            request=np.arange(size),
            arrival_s=np.asarray(self.arrival_s, dtype=float),
            admitted_s=self.times["admitted"],
            first_token_s=self.times["first"],
            finished_s=self.times["last"],
            prompt_tokens=np.array([len(prompt) for prompt in self.prompts], dtype=np.int64),
            output_tokens=np.array([len(text) for text in self.texts], dtype=np.int64),
            num_rounds=self.counts[0],
            num_drafted=self.counts[1],
            num_accepted=self.counts[2],
            num_preempted=none,
            cached_tokens=none,
            replica=none,
            refused=none,
            longest_itl_s=self.times["longest"],
        )
        steps = StepLog(
            columns[0], columns[1] - columns[0], np.zeros(len(inside), dtype=np.int64), inside, waiting, prompts,
            columns[5], emitted, np.zeros(len(inside), dtype=np.int64), np.full(len(inside), nan),
        )  # fmt: skip
        return Served(requests, steps, self.texts, self.rounds)


def joined(texts: Texts, more: Texts) -> Texts:
    """Both batches as one, the rows of ``more`` last; neither may be used after."""
    drafter = texts.drafter
    if isinstance(drafter, ModelDrafter) and isinstance(more.drafter, ModelDrafter):
        drafter.cache = _joined_cache(drafter.cache, more.drafter.cache)
        drafter.pending = drafter.pending + more.drafter.pending
    cache = _joined_cache(texts.cache, more.cache)
    return Texts(
        texts.target, drafter, texts.tokens + more.tokens, texts.requests + more.requests, cache,
        texts.generators + more.generators, texts.finished | more.finished,
    )  # fmt: skip


def _joined_cache(cache: KvCache, more: KvCache) -> KvCache:
    """Rows of both, laid out for the longer."""
    (layers, two, rows, heads, slots, dim), added = cache.kv.shape, more.kv.shape[2]
    size = layers, two, rows + added, heads, max(slots, more.capacity), dim
    kv = cache.kv.new_zeros(size)
    kv[:, :, :rows, :, : cache.text_end] = cache.kv[:, :, :, :, : cache.text_end]
    kv[:, :, rows:, :, : more.text_end] = more.kv[:, :, :, :, : more.text_end]
    whole = KvCache((layers, heads, dim), 0, 0, kv.dtype, kv.device)
    whole.kv = kv
    whole.rewind(cache.lengths + more.lengths)
    return whole


def _num_due(waiting: deque[int], arrival_s: Sequence[float], now: float) -> int:
    return sum(arrival_s[request] <= now for request in waiting)
