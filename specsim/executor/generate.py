"""Decode prompts with a checkpoint, shipped or the user's own, by any method."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from specsim.errors import InputError
from specsim.executor.drafters.base import Drafter
from specsim.executor.llama import Llama, load_llama
from specsim.executor.method import Method
from specsim.executor.recording import records_of
from specsim.executor.rounds import Round, check_depth, decode
from specsim.executor.session import TINY
from specsim.executor.stops import Stops, end_tokens
from specsim.executor.texts import Texts, start
from specsim.executor.vocabulary import load_tokenizer
from specsim.records import save_records

DTYPES: Final = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Generation:
    """What to decode.

    Args:
        prompts: Texts to continue, all at once.
        method: How.
        num_tokens: Tokens wanted of each.
        seed: Of sampling; each prompt has randomness of its own.
        stop_strings: Pieces of text that end a continuation, and are left out of it.
        stop_tokens: Token ids that end one, beside those that the checkpoint names.
    """

    prompts: tuple[str, ...]
    method: Method
    num_tokens: int
    seed: int = 0
    stop_strings: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()


def load_target(directory: Path, dtype: str, device: str) -> Llama:
    """A target in the named type, on a device that computes."""
    if dtype not in DTYPES:
        raise InputError("dtype", f"must be one of {', '.join(DTYPES)}", dtype)
    return load_llama(directory, DTYPES[dtype], usable_device(device), packed=dtype == "fp32")


def generate_text(
    wanted: Generation,
    target: Llama,
    drafter: Drafter | None,
    target_dir: Path = TINY / "target",
    records: Path | None = None,
) -> dict[str, Any]:
    """Texts and counts. All is checked before anything is decoded.

    Raises:
        InputError: for a prompt that is no text or does not fit, a tree deeper than the drafter proposes, stops that
            are empty, records that can not be written.
    """
    tokenizer = load_tokenizer(target_dir)
    stops = Stops(end_tokens(target_dir) | set(wanted.stop_tokens), wanted.stop_strings, tokenizer)
    for prompt in wanted.prompts:
        _check_prompt(prompt)
    if records:
        save_records([], records)
    ids = [tokenizer.encode(prompt).ids for prompt in wanted.prompts]
    longest = max(map(len, ids), default=0) + wanted.num_tokens + wanted.method.policy.limits.depth
    texts = start(target, drafter, ids, longest, wanted.seed)
    check_depth(texts, wanted.method)
    begin = time.perf_counter()
    rounds = [(done.requests, done.emitted) for done in _recorded(wanted, texts, stops, records)]
    seconds = time.perf_counter() - begin
    ends = [stops.cut(prompt, texts.finished[b][len(prompt) :][: wanted.num_tokens]) for b, prompt in enumerate(ids)]
    emitted = sum(len(new) for _, news in rounds for new in news)
    row_rounds = sum(len(requests) for requests, _ in rounds)
    return {
        "text": wanted.prompts[0] + ends[0][1],
        "texts": [prompt + text for prompt, (_, text, _) in zip(wanted.prompts, ends, strict=True)],
        "stopped_by": [stop for _, _, stop in ends],
        "configuration": wanted.method.label,
        "rule": wanted.method.rule,
        "num_rounds": len(rounds),
        "num_emitted": emitted,
        "tokens_per_round": emitted / row_rounds if row_rounds else 0.0,
        "tokens_per_s": emitted / seconds,
        "time_s": seconds,
    }


def _recorded(wanted: Generation, texts: Texts, stops: Stops, path: Path | None) -> Iterator[Round]:
    """Rounds, each written before the next one begins."""
    seen = {request: len(text) for request, text in zip(texts.requests, texts.tokens, strict=True)}
    starts = dict(seen)

    def ends(request: int, text: list[int]) -> bool:
        num_new, seen[request] = len(text) - seen[request], len(text)
        return num_new > 0 and stops.reached(text[starts[request] :], num_new)

    for done in decode(texts, wanted.method, wanted.num_tokens, time.perf_counter, ends):
        if path:
            save_records(records_of(done, "wall"), path)
        yield done


def _check_prompt(prompt: str) -> None:
    """Bytes that are no UTF-8 reach a program as surrogates, which no tokenizer takes."""
    for place, character in enumerate(prompt):
        if unicodedata.category(character) in ("Cc", "Cs") and not character.isspace():
            raise InputError("prompt", f"must be text, its character {place} is", character)


def usable_device(name: str) -> str:
    """The name of a device that computes. Raises InputError for one that is absent, and for ``meta``, which does not.

    >>> usable_device("cpu")
    'cpu'
    """
    try:
        (torch.zeros(1, device=name) + 1).item()
    except (RuntimeError, AssertionError) as error:
        raise InputError("device", f"can not be used by this torch ({str(error).splitlines()[0]})", name) from None
    return name
