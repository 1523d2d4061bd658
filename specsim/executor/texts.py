"""A batch of texts being decoded: tokens, the target's cache, a drafter, each text's own randomness."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from specsim.decoding import Array
from specsim.errors import InputError
from specsim.executor.cache import KvCache
from specsim.executor.drafters.base import Drafter, Prompt
from specsim.executor.llama import Llama


@dataclass
class Texts:
    """The texts that are still running; ``requests[b]`` is which of the prompts row b continues.

    The target's cache holds each text but its newest token, the next root. ``finished`` holds, by request, the tokens
    of the texts that no longer run.
    """

    target: Llama
    drafter: Drafter | None
    tokens: list[list[int]]
    requests: list[int]
    cache: KvCache
    generators: list[torch.Generator]
    finished: dict[int, list[int]] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        return len(self.tokens)

    @property
    def max_context_tokens(self) -> int:
        """Longest text, drafted nodes included, that both models can follow."""
        own = self.target.shape.max_context_tokens
        limit = None if self.drafter is None else self.drafter.max_context_tokens
        return own if limit is None else min(own, limit)

    def roots(self) -> Array:
        """The newest token of each text, ``[B]``, on the host as ``method.on_host`` has it."""
        newest = np.array([text[-1] for text in self.tokens])
        return newest if self.target.device.type == "cpu" else torch.from_numpy(newest).to(self.target.device)

    def uniforms(self, *shape: int) -> torch.Tensor:
        """Numbers in [0, 1) ``[B, *shape]``, each row from its own generator, on the CPU so that devices agree."""
        drawn = [torch.rand(shape, generator=generator) for generator in self.generators]
        return (drawn[0][None] if len(drawn) == 1 else torch.stack(drawn)).to(self.target.device)

    def keep_rows(self, rows: list[int]) -> None:
        """Only these rows go on; the others have finished."""
        running = dict(zip(self.requests, self.tokens, strict=True))
        self.tokens = [self.tokens[row] for row in rows]
        self.requests = [self.requests[row] for row in rows]
        self.generators = [self.generators[row] for row in rows]
        self.finished |= {request: text for request, text in running.items() if request not in self.requests}
        if rows:
            self.cache.keep_rows(rows)
            if self.drafter is not None:
                self.drafter.keep_rows(rows)


def start(target: Llama, drafter: Drafter | None, prompts: list[list[int]], max_tokens: int, seed: int = 0) -> Texts:
    """Prefill the target with all of each prompt but its last token, which is the first root.

    Args:
        target: The model.
        drafter: What proposes; None for decoding without speculation.
        prompts: Token ids of each text.
        max_tokens: Slots laid out at once for each text; the caches grow where that is too little.
        seed: Row b draws its randomness from ``seed + b``, so that a text does not depend on its neighbours.

    Raises:
        InputError: for no prompt, an empty one, one with unknown tokens or beyond the context, or a seed out of range.
    """
    if not prompts:
        raise InputError("prompt", "must be at least one", prompts)
    if not 0 <= seed < 2**63 - len(prompts):
        raise InputError("seed", "must be from 0 to 2**63 - 1 less the number of texts", seed)
    generators = [torch.Generator().manual_seed(seed + row) for row in range(len(prompts))]
    cache = target.new_cache(max_tokens, len(prompts))
    texts = Texts(target, drafter, [list(p) for p in prompts], list(range(len(prompts))), cache, generators)
    for prompt in prompts:
        _check_prompt(prompt, target.shape.vocab_size, min(max_tokens, texts.max_context_tokens))
    _prefill(texts)
    return texts


@torch.inference_mode()
def _prefill(texts: Texts) -> None:
    target, drafter, cache = texts.target, texts.drafter, texts.cache
    lengths = [len(prompt) - 1 for prompt in texts.tokens]
    longest = max(lengths)
    padded = torch.tensor([text[:-1] + [0] * (longest - len(text) + 1) for text in texts.tokens], device=target.device)
    if longest:
        hidden = target.prefill(padded, cache)
        cache.keep([list(range(length)) for length in lengths])
    else:
        hidden = target.embedding.new_zeros(len(lengths), 0, target.shape.hidden_size)
    if drafter is not None:
        logits = target.logits(hidden) if drafter.needs_prompt_logits else None
        tokens = [list(text) for text in texts.tokens]
        drafter.start(Prompt(tokens, lengths, cache, hidden if drafter.needs_features else None, logits))


def _check_prompt(prompt: list[int], vocab_size: int, max_tokens: int) -> None:
    if not prompt:
        raise InputError("prompt", "must have at least one token", prompt)
    if len(prompt) >= max_tokens:
        raise InputError("prompt", f"must be shorter than the {max_tokens} tokens of the context", len(prompt))
    if not 0 <= min(prompt) <= max(prompt) < vocab_size:
        raise InputError("prompt", f"must hold tokens from 0 to {vocab_size - 1}", prompt)
