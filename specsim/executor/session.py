"""The shipped pair of models on real prompts: what calibration and validation run."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import torch

from specsim.errors import InputError
from specsim.executor.corpus import source_files
from specsim.executor.drafters.base import Drafter
from specsim.executor.drafters.model import ModelDrafter
from specsim.executor.llama import Llama, load_llama
from specsim.executor.machine import cpu_name
from specsim.executor.method import Method, Sampling, lossless_rule
from specsim.executor.recording import records_of
from specsim.executor.rounds import Round, decode, run_round
from specsim.executor.texts import Texts, start
from specsim.executor.vocabulary import load_tokenizer
from specsim.records import TimedRound
from specsim.tree import DraftTree

TINY: Final = Path(__file__).parent / "tiny"
"""The shipped target and draft, trained on the standard library's sources; ``recipe.json`` beside them says how."""

FFN_SIZE: Final = 8192
"""MLP width that the tiny target is extended to, with zeros: 33 M parameters, out of cache in fp32 (131 MB)."""

MAX_TOKENS: Final = 640
PROMPT_TOKENS: Final = (64, 128, 256)
"""Prompt lengths, in turn, so that the effect of context on time can be told."""


@dataclass
class Session:
    """Two models, prompts from held-out files, one decoding mode.

    Args:
        target_dir, draft_dir: Checkpoint directories.
        ffn_size: Width that the target's MLP is extended to; None leaves it.
        temperature: 0 decodes greedily; above it, chains use the token rule and trees recursive rejection.
        split: Which half of the held-out files prompts come from, so that acceptance and validation share none.
        seed: Of sampling, and of the accepted lengths that calibration forces.
        clock_name: Processor time of this thread, which other processes hardly touch, or the wall.
        device: Where the models run; off the processor only the wall tells, after the device has finished.
    """

    target_dir: Path = TINY / "target"
    draft_dir: Path = TINY / "draft"
    ffn_size: int | None = FFN_SIZE
    temperature: float = 0.0
    split: Literal["calibrate", "validate"] = "validate"
    seed: int = 0
    clock_name: Literal["cpu", "wall"] = "cpu"
    device: str = "cpu"

    @cached_property
    def target(self) -> Llama:
        return load_llama(self.target_dir, device=self.device, packed=True, ffn_size=self.ffn_size)

    @cached_property
    def draft(self) -> Llama:
        return load_llama(self.draft_dir, device=self.device)

    @cached_property
    def prompts(self) -> list[list[int]]:
        """Token ids of the beginning of each file, lengths in turn."""
        tokenizer = load_tokenizer(self.target_dir)
        files = source_files(held_out=True)[0 if self.split == "calibrate" else 1 :: 2]
        texts = [path.read_text(encoding="utf-8", errors="ignore") for path in files]
        found: list[list[int]] = []
        for text in texts:
            length = PROMPT_TOKENS[len(found) % len(PROMPT_TOKENS)]
            ids = tokenizer.encode(text[: 8 * length]).ids[:length]
            if len(ids) == length:
                found.append(ids)
        return found

    def method(self, tree: DraftTree) -> Method:
        """The lossless way of drafting this tree."""
        return Method(*lossless_rule(tree, self.temperature), Sampling(self.temperature))

    def generate(self, tree: DraftTree, prompt: int, num_tokens: int) -> Iterator[TimedRound]:
        """Decode ``num_tokens`` after a prompt, round by round, the separate draft model proposing."""
        yield from self.run(self.method(tree), ModelDrafter(self.target, self.draft), prompt, num_tokens)

    def run(self, method: Method, drafter: Drafter | None, prompt: int, num_tokens: int) -> Iterator[TimedRound]:
        """Decode ``num_tokens`` after a prompt by any method, round by round."""
        texts = self.start(drafter, prompt)
        begin = time.perf_counter()
        for done in decode(texts, method, num_tokens, self.clock):
            end = time.perf_counter()
            yield self._timed(done, prompt, end - begin)
            begin = time.perf_counter()

    def forced_rounds(self, tree: DraftTree, prompt: int, num_rounds: int) -> list[TimedRound]:
        """Rounds whose accepted length is drawn evenly from all paths: time at every state, whatever the drafter."""
        method, rounds = self.method(tree), []
        texts = self.start(ModelDrafter(self.target, self.draft), prompt)
        for number in range(num_rounds):
            node = int(torch.randint(tree.num_nodes, (1,), generator=texts.generators[0]))
            rounds.append(self._timed(run_round(texts, method, self.clock, forced=_path_to(tree, node)), prompt, 0.0))
            if number % 8 == 7:
                texts = self.start(ModelDrafter(self.target, self.draft), prompt)
        return rounds

    def start(self, drafter: Drafter | None, prompt: int) -> Texts:
        """The text of a prompt, both models having read it."""
        if not 0 <= prompt < len(self.prompts):
            raise InputError("prompt", f"must be from 0 to {len(self.prompts) - 1}", prompt)
        return start(self.target, drafter, [self.prompts[prompt]], MAX_TOKENS, self.seed + prompt)

    def clock(self) -> float:
        """Seconds of this thread's processor time, or of the wall."""
        if self.device != "cpu":
            torch.accelerator.synchronize()
        return time.thread_time() if self.clock_name == "cpu" else time.perf_counter()

    def __post_init__(self) -> None:
        if self.device != "cpu" and self.clock_name == "cpu":
            raise InputError("clock", f"must be wall on the device {self.device}", self.clock_name)

    def _timed(self, done: Round, prompt: int, wall_s: float) -> TimedRound:
        record = records_of(done, self.clock_name, wall_s)[0]
        return TimedRound(record.model_copy(update={"request": prompt}), tuple(done.timed))


def quiet_torch() -> None:
    """One thread: on a shared machine a descheduled second thread makes the first spin."""
    torch.set_num_threads(1)


def device_name(device: str) -> str:
    """What the device is called."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return cpu_name() if device == "cpu" else device


def versions() -> dict[str, str]:
    """What ran."""
    return {"python": platform.python_version(), "torch": torch.__version__}


def load_average() -> float:
    """Processes that want a processor, over the last minute; 0 where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _path_to(tree: DraftTree, node: int) -> list[int]:
    path = [node]
    while path[-1] > 0:
        path.append(tree.parents[path[-1]])
    return path[::-1]
