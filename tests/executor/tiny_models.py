"""Random Llamas of a few thousand weights, as checkpoints on disk and as a target with a draft that resembles it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from specsim.decoding import Rule, StaticTree
from specsim.decoding.state import Draw
from specsim.executor.drafters.model import ModelDrafter
from specsim.executor.llama import Llama
from specsim.executor.method import Method, Sampling
from specsim.executor.texts import Texts, start
from specsim.executor.weights import LlamaShape, expected_tensors
from specsim.tree import DraftTree

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 12,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
SHAPE = LlamaShape(
    hidden_size=16,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    intermediate_size=24,
    vocab_size=12,
    max_context_tokens=128,
    rope_theta=10000.0,
    norm_eps=1e-5,
    tied_embeddings=False,
)


def random_weights(shape: LlamaShape, seed: int, scale: float = 0.5) -> dict[str, torch.Tensor]:
    """fp64 weights: norms near 1, the rest large enough that laws are far from uniform and depend on the context."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, size in expected_tensors(shape).items():
        noise = torch.randn(size, generator=generator, dtype=torch.float64)
        weights[name] = 1 + 0.1 * noise if "norm" in name else scale * noise
    return weights


def save_checkpoint(
    directory: Path, weights: dict[str, torch.Tensor], dtype: torch.dtype = torch.float32, **config: Any
) -> Path:
    """``CONFIG`` with the given keys changed (dropped where None), and the weights, as a checkpoint directory."""
    directory.mkdir(parents=True, exist_ok=True)
    kept = {key: value for key, value in (CONFIG | config).items() if value is not None}
    (directory / "config.json").write_text(json.dumps(kept))
    stored = {name: tensor.to(dtype).contiguous() for name, tensor in weights.items()}
    save_file(stored, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def pair(
    dtype: torch.dtype = torch.float64,
    vocab_size: int = 12,
    noise: float = 0.1,
    seed: int = 0,
    scale: float = 0.5,
    num_layers: int = 2,
) -> tuple[Llama, Llama]:
    """A target, and a draft that is the target with noise on its weights: it agrees often, not always."""
    shape = replace(SHAPE, vocab_size=vocab_size, num_layers=num_layers)
    weights, other = (random_weights(shape, s, scale) for s in (seed, seed + 1000))
    near = {name: tensor + noise * other[name] for name, tensor in weights.items()}
    return Llama(shape, weights, dtype), Llama(shape, near, dtype)


def static(tree: DraftTree, draw: Draw = "top", rule: Rule = "greedy", temperature: float = 0.0) -> Method:
    """A static tree with a rule."""
    return Method(StaticTree(tree, draw), rule, Sampling(temperature))


def begin(models: tuple[Llama, Llama], *prompts: list[int], seed: int = 0, max_tokens: int = 128) -> Texts:
    """Texts of these prompts, the second model drafting for the first."""
    target, draft = models
    return start(target, ModelDrafter(target, draft), list(prompts), max_tokens, seed)


def plain_logits(model: Llama, tokens: list[int]) -> torch.Tensor:
    """Logits ``[n, V]`` of a text, run at once in a cache of its own."""
    cache = model.new_cache(len(tokens) + 1)
    return model.logits(model.prefill(torch.tensor([tokens]), cache))[0]


def greedy_text(model: Llama, prompt: list[int], num_tokens: int) -> list[int]:
    """Plain greedy decoding with no cache to get wrong: the whole text is run again for every token."""
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(int(plain_logits(model, tokens)[-1].argmax()))
    return tokens
