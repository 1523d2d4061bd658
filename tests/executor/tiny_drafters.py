"""Every drafter on a tiny target, with random heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from tiny_models import SHAPE, pair, random_weights

from specsim.decoding import TreePolicy
from specsim.executor.drafters.base import Drafter
from specsim.executor.drafters.cascade import Cascade
from specsim.executor.drafters.eagle import Eagle
from specsim.executor.drafters.itself import SelfDrafter, early_exit, without
from specsim.executor.drafters.lookahead import Lookahead
from specsim.executor.drafters.lookup import PromptLookup
from specsim.executor.drafters.medusa import Medusa
from specsim.executor.drafters.model import ModelDrafter
from specsim.executor.drafters.recycling import TokenRecycling
from specsim.executor.llama import Llama
from specsim.executor.method import Method
from specsim.executor.rounds import Round, decode
from specsim.executor.texts import start

VOCAB = SHAPE.vocab_size


def random_medusa(num_heads: int = 4, dtype: torch.dtype = torch.float64, seed: int = 0) -> Medusa:
    generator, hidden = torch.Generator().manual_seed(seed), SHAPE.hidden_size
    sizes = {}
    for k in range(num_heads):
        sizes |= {f"{k}.0.linear.weight": (hidden, hidden), f"{k}.0.linear.bias": (hidden,)}
        sizes |= {f"{k}.1.weight": (VOCAB, hidden)}
    weights = {
        name: torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for name, size in sizes.items()
    }
    return Medusa(weights, num_heads, num_blocks=1)


def random_eagle(target: Llama, seed: int = 0) -> Eagle:
    shape = replace(target.shape, num_layers=1, tied_embeddings=True)
    weights = random_weights(shape, seed + 7)
    del weights["model.layers.0.input_layernorm.weight"]
    generator, hidden = torch.Generator().manual_seed(seed), shape.hidden_size
    fc = 0.5 * torch.randn(hidden, 2 * hidden, generator=generator, dtype=torch.float64)
    fc[:, hidden:] += torch.eye(hidden)
    bias = 0.1 * torch.randn(hidden, generator=generator, dtype=torch.float64)
    body = Llama(shape, weights | {"model.embed_tokens.weight": target.embedding}, target.dtype)
    return Eagle(target, body, fc.to(target.dtype), bias.to(target.dtype))


def drafters(target: Llama, draft: Llama) -> dict[str, Callable[[], Drafter]]:
    """By name, how to make each."""
    layers, other = target.shape.num_layers, pair(target.dtype, noise=0.3)[1]
    return {
        "model": lambda: ModelDrafter(target, draft),
        "eagle": lambda: random_eagle(target),
        "medusa": lambda: random_medusa(dtype=target.dtype),
        "early exit": lambda: SelfDrafter(target, early_exit(layers, 1)),
        "skipped": lambda: SelfDrafter(target, without(layers, attention=[1], mlp=[0])),
        "lookup": lambda: PromptLookup(VOCAB),
        "recycling": lambda: TokenRecycling(VOCAB, num_successors=4),
        "recycling from the prompt": lambda: TokenRecycling(VOCAB, num_successors=4, needs_prompt_logits=True),
        "lookahead": lambda: Lookahead(VOCAB, window=4, level=4, guesses=3),
        "cascade over lookup": lambda: Cascade(draft, PromptLookup(VOCAB), num_ahead=2),
        "cascade over lookahead": lambda: Cascade(draft, Lookahead(VOCAB, window=3, level=4, guesses=3), num_ahead=3),
        "cascade of cascades": lambda: Cascade(draft, Cascade(other, TokenRecycling(VOCAB), num_ahead=1), num_ahead=3),
    }


def decoded(
    target: Llama, drafter: Drafter | None, method: Method, prompts: list[list[int]], num_tokens: int, seed: int = 0
) -> tuple[list[list[int]], list[Round]]:
    """Every text as far as it went, and the rounds."""
    texts = start(target, drafter, prompts, max_tokens=100, seed=seed)
    found, rounds = [list(prompt) for prompt in prompts], []
    for done in decode(texts, method, num_tokens):
        rounds.append(done)
        for request, emitted in zip(done.requests, done.emitted, strict=True):
            found[request] += emitted
    return found, rounds


def greedily(policy: TreePolicy) -> Method:
    return Method(policy, "greedy")
