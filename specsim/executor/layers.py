"""The parts of a layer: products, norms and rotary tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from specsim.executor.weights import LlamaShape, Rope

Linear = Callable[[torch.Tensor], torch.Tensor]
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Layer:
    """Projections (q, k, v fused; gate and up fused) and norms. ``qk_norm[heads + kv_heads, 1, head_dim]`` if any.

    EAGLE's first layer has no input norm.
    """

    qkv: Linear
    out: Linear
    gate_up: Linear
    down: Linear
    input_norm: torch.Tensor | None
    mlp_norm: torch.Tensor
    qk_norm: torch.Tensor | None


def make_layer(w: Weights, prefix: str, shape: LlamaShape, packed: bool) -> Layer:
    """The layer whose tensors begin with ``prefix``."""

    def joined(*names: str) -> Linear:
        biases = [w[key] for name in names if (key := f"{prefix}{name}.bias") in w]
        bias = torch.cat(biases) if biases else None
        return linear(torch.cat([w[f"{prefix}{name}.weight"] for name in names]), packed, bias)

    heads = {"q": shape.num_heads, "k": shape.num_kv_heads}
    norms = (
        [w[f"{prefix}self_attn.{name}_norm.weight"].expand(num, 1, -1) for name, num in heads.items()]
        if shape.qk_norm
        else []
    )
    return Layer(
        joined("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        joined("self_attn.o_proj"),
        joined("mlp.gate_proj", "mlp.up_proj"),
        joined("mlp.down_proj"),
        w.get(f"{prefix}input_layernorm.weight"),
        w[f"{prefix}post_attention_layernorm.weight"],
        torch.cat(norms) if norms else None,
    )


def linear(weight: torch.Tensor, packed: bool, bias: torch.Tensor | None = None) -> Linear:
    """Multiply by a weight. MKL's fp32 product is several times slower than oneDNN's at 2-8 tokens on some CPUs."""
    if packed and weight.dtype == torch.float32 and weight.device.type == "cpu":
        try:
            multiply = torch.ops.mkldnn._linear_pointwise
            stored = torch.ops.mkldnn._reorder_linear_weight(weight, 4)
            return lambda x: multiply(x, stored, bias, "none", [], "")
        except (AttributeError, RuntimeError):  # a private operator: absent in some builds
            pass
    return lambda x: functional.linear(x, weight, bias)


def rotary_tables(
    shape: LlamaShape, num_positions: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin ``[position, head_dim]``, in fp32 as in Transformers (Su et al. 2021, arXiv:2104.09864)."""
    exponent = torch.arange(0, shape.head_dim, 2, dtype=torch.int64).float() / shape.head_dim
    angles = torch.arange(num_positions).float()[:, None] * _slowed(1 / shape.rope_theta**exponent, shape.rope)
    full = torch.cat([angles, angles], dim=-1)
    return full.cos().to(device, dtype), full.sin().to(device, dtype)


def _slowed(frequencies: torch.Tensor, rope: Rope | None) -> torch.Tensor:
    """Frequencies for longer texts: all divided by the factor, or (Llama 3.1) the long waves alone, with a ramp.

    Source: Chen et al. 2023 (arXiv:2306.15595) for the first; the release of Llama 3.1 for the second.
    """
    if rope is None:
        return frequencies
    if rope.kind == "linear":
        return frequencies / rope.factor
    turns = rope.original_context_tokens * frequencies / (2 * math.pi)
    kept = ((turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)).clamp(0, 1)
    return (1 - kept) * frequencies / rope.factor + kept * frequencies


def half_turned(x: torch.Tensor) -> torch.Tensor:
    """The other component of each pair, as rotation needs it."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([-b, a], dim=-1)
