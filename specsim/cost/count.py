"""Operations of one pass on one device of a tensor-parallel group. Counting only: nothing here knows any hardware.

Sharding is Megatron's: heads, experts' width, MLP width and vocabulary are split over the devices, each layer ends its
attention and its MLP with an all-reduce, the LM head's logits are gathered (Shoeybi et al. 2019, arXiv:1909.08053).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from specsim.model import STORAGE_BITS, Gqa, LayerGroup, Mla, ModelSpec, MoeMlp, dtype_bytes
from specsim.work import AllReduce, Attention, AttentionCall, Elementwise, Experts, Float, Gemm, Op, Pass


def count_ops(model: ModelSpec, work: Pass, tp: int = 1, tokens: Float | None = None) -> Iterator[tuple[Op, int]]:
    """Each operation of the pass with how often it runs (once for every layer alike), per device.

    Args:
        model: The transformer's shape.
        work: The pass; its leading axes sweep, and the operations carry the same shape.
        tp: Devices that share the model by tensor parallelism.
        tokens: What the layers run on where a runtime pads the pass's tokens, shape [...]; attention and LM head skip
            the padding.
    """
    act, m = dtype_bytes(model.other_dtype), work.total_new_tokens if tokens is None else tokens
    yield Elementwise(m * model.hidden_size * act * 2, name="embedding"), 1
    if model.fusion_in_features:
        yield _plain(model, m, model.hidden_size, model.fusion_in_features, "fusion"), 1
    for group in model.layers:
        for op in _layer_ops(model, group, work, m, tp):
            yield op, group.count
        if tp > 1:
            yield AllReduce(m * model.hidden_size * act, tp), 2 * group.count
    yield from _head_ops(model, work, tp)


def attended(new_tokens: Float, context_tokens: Float, num_seqs: Float, window: int | None) -> tuple[Float, Float]:
    """Pairs (query, key) and keys read, summed over the sequences, shape [...].

    A query sees the context, the new tokens before it and itself: q c + q (q + 1) / 2 pairs. A tree's queries see
    fewer of each other; kernels mask and do not skip them. All queries of a sequence share one read of its keys.
    A window of w keys caps what each query sees at w and what is read at w + q - 1.

    >>> attended(np.array([4.0]), np.array([10.0]), np.array([2.0]), None)
    (array(100.), array(28.))
    """
    q, c = new_tokens, context_tokens
    pairs, keys = q * c + q * (q + 1) / 2, c + q
    if window is not None:
        pairs, keys = _windowed_pairs(q, c, window), np.minimum(keys, window + q - 1)
    return np.asarray(np.sum(num_seqs * pairs, axis=-1)), np.asarray(np.sum(num_seqs * keys, axis=-1))


def _windowed_pairs(q: Float, c: Float, window: int) -> Float:
    """Sum over i = 1..q of min(c + i, w): the first ``free`` queries see less than the window."""
    free = np.clip(window - c, 0, q)
    return np.asarray(free * c + free * (free + 1) / 2 + (q - free) * window)


def _layer_ops(model: ModelSpec, group: LayerGroup, work: Pass, m: Float, tp: int) -> Iterator[Op]:
    act, h = dtype_bytes(model.other_dtype), model.hidden_size
    if isinstance(group.attention, Gqa):
        yield from _gqa_ops(model, group.attention, work, m, tp)
    else:
        yield from _mla_ops(model, group.attention, work, m, tp)
    if isinstance(group.mlp, MoeMlp):
        yield from _moe_ops(model, group.mlp, m, tp)
    else:
        yield from _mlp_ops(model, group.mlp.intermediate_size / tp, group.mlp.gated, m, "mlp")
    # Norms with their residual add, rotary embedding with the cache write, activation: read and write once each.
    yield Elementwise(m * h * act * 4 * group.num_norms, launches=group.num_norms, name="norm")
    yield Elementwise(m * h / tp * act * 4, launches=2, name="rotary, activation")


def _sequences(work: Pass) -> tuple[Float, Float, Float]:
    return work.num_seqs, work.new_tokens, work.context_tokens


def _gqa_ops(model: ModelSpec, a: Gqa, work: Pass, m: Float, tp: int) -> Iterator[Op]:
    heads, kv_heads = a.num_heads / tp, max(1.0, a.num_kv_heads / tp)
    yield _attention_linear(model, m, (heads + 2 * kv_heads) * a.head_dim, a.in_features or model.hidden_size, "qkv")
    pairs, keys = attended(work.new_tokens, work.context_tokens, work.num_seqs, a.window_tokens)
    kv_bytes = 2 * kv_heads * a.head_dim * dtype_bytes(model.kv_dtype)
    width, window = 2 * a.head_dim, a.window_tokens
    call = AttentionCall(*_sequences(work), heads, kv_heads, a.head_dim, model.kv_dtype, window, width, width)
    yield Attention(pairs, keys, 4 * heads * a.head_dim, kv_bytes, model.other_dtype, call)
    yield _attention_linear(model, m, model.hidden_size, heads * a.head_dim, "attention out")


def _mla_ops(model: ModelSpec, a: Mla, work: Pass, m: Float, tp: int) -> Iterator[Op]:
    """Absorbed form (DeepSeek-V2, arXiv:2405.04434): queries meet the latent cache, which every device holds whole."""
    heads, latent = a.num_heads / tp, a.kv_lora_rank + a.qk_rope_dim
    if a.q_lora_rank:
        yield _attention_linear(model, m, a.q_lora_rank + latent, model.hidden_size, "query and latent down")
        yield _attention_linear(model, m, heads * (a.qk_nope_dim + a.qk_rope_dim), a.q_lora_rank, "query up")
    else:
        width = heads * (a.qk_nope_dim + a.qk_rope_dim) + latent
        yield _attention_linear(model, m, width, model.hidden_size, "query and latent down")
    yield _attention_linear(model, m, heads * a.qk_nope_dim, a.kv_lora_rank, "absorb query")
    pairs, keys = attended(work.new_tokens, work.context_tokens, work.num_seqs, None)
    kv_bytes = latent * dtype_bytes(model.kv_dtype)
    flop_width = latent + a.kv_lora_rank
    call = AttentionCall(*_sequences(work), heads, 1, a.kv_lora_rank, model.kv_dtype, None, latent, flop_width)
    yield Attention(pairs, keys, 2 * heads * flop_width, kv_bytes, model.other_dtype, call)
    yield _attention_linear(model, m, heads * a.v_head_dim, a.kv_lora_rank, "value up")
    yield _attention_linear(model, m, model.hidden_size, heads * a.v_head_dim, "attention out")


def _mlp_ops(model: ModelSpec, width: float, gated: bool, m: Any, name: str) -> Iterator[Op]:
    yield _linear(model, m, (2 if gated else 1) * width, model.hidden_size, f"{name} up")
    yield _linear(model, m, model.hidden_size, width, f"{name} down")


def _moe_ops(model: ModelSpec, mlp: MoeMlp, m: Float, tp: int) -> Iterator[Op]:
    yield _plain(model, m, mlp.num_experts + mlp.shared_gate, model.hidden_size, "router")
    matrices, inter = 3 if mlp.gated else 2, mlp.intermediate_size / tp
    sizes = mlp.num_experts, mlp.experts_per_token, model.hidden_size, inter, matrices
    yield Experts(m, *sizes, model.weight_dtype, model.weight_bits)
    if mlp.shared_intermediate_size:
        yield from _mlp_ops(model, mlp.shared_intermediate_size / tp, mlp.gated, m, "shared expert")


def _head_ops(model: ModelSpec, work: Pass, tp: int) -> Iterator[tuple[Op, int]]:
    """Logits where they are needed. A drafter that shares the target's LM head still reads it."""
    rows, vocab, copies = work.logit_tokens, model.lm_head_rows, 1
    if model.medusa_heads:
        vocab, copies = model.vocab_size, model.medusa_heads
        block = _plain(model, rows, model.hidden_size, model.hidden_size, "medusa block")
        yield block, model.medusa_heads * model.medusa_layers
    yield _plain(model, rows, vocab / tp, model.hidden_size, "lm head"), copies
    yield Elementwise(rows * vocab * 4 * 2, launches=2, name="sampling"), copies


def _linear(model: ModelSpec, m: Any, n: float, k: float, name: str) -> Gemm:
    return Gemm(m, n, k, model.weight_dtype, model.weight_bits, dtype_bytes(model.other_dtype), name=name)


def _attention_linear(model: ModelSpec, m: Any, n: float, k: float, name: str) -> Gemm:
    if model.attention_dtype is None:
        return _linear(model, m, n, k, name)
    bits = STORAGE_BITS[model.attention_dtype]
    return Gemm(m, n, k, model.attention_dtype, bits, dtype_bytes(model.other_dtype), name=name)


def _plain(model: ModelSpec, m: Any, n: float, k: float, name: str) -> Gemm:
    """A product whose weights are never quantised: router, fusion, heads."""
    act = dtype_bytes(model.other_dtype)
    return Gemm(m, n, k, model.other_dtype, 8 * act, act, name=name)
