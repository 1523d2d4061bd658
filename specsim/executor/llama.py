"""A Llama by hand: few operations a layer, a cache it owns, any mask over the newest tokens, B texts at once.

Written for small token counts, where a framework's dispatch would cost more than the arithmetic. Mistral, Qwen2 and
Qwen3 are the same but for biases and for norms of queries and keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch.nn import functional

from specsim.errors import InputError
from specsim.executor.cache import KvCache, TailMask, round_mask
from specsim.executor.graphs import Graphs, LayerInputs
from specsim.executor.layers import Weights, half_turned, linear, make_layer, rotary_tables
from specsim.executor.weights import LlamaShape, read_shape, read_weights

Sublayers = Sequence[tuple[bool, bool]]
"""For each layer, whether its attention and its MLP run; what is left out passes its input on."""


COUNTED: Final = 8192
"""Positions that are numbered once: to number those of a small pass anew takes as long as one of its operations."""


class Llama:
    """The model, ready to run.

    Args:
        shape, weights: What it is.
        dtype, device: Where, and in which type, it computes.
        packed: Weights in oneDNN's layout, for fp32 on a CPU.
        graphs: On a CUDA device, replay passes over few tokens as graphs (see ``graphs``); False launches each kernel.
    """

    def __init__(
        self,
        shape: LlamaShape,
        weights: Weights,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        packed: bool = False,
        graphs: bool = True,
    ) -> None:
        self.shape, self.dtype, self.device = shape, dtype, torch.device(device)
        w = {name: t.to(self.device, dtype) for name, t in weights.items()}
        self.embedding = w["model.embed_tokens.weight"]
        self.final_norm = w["model.norm.weight"]
        self.lm_head = linear(w.get("lm_head.weight", self.embedding), packed)
        self.layers = [make_layer(w, f"model.layers.{i}.", shape, packed) for i in range(shape.num_layers)]
        self._causal_masks: dict[int, TailMask] = {}
        self._counted = torch.arange(min(shape.max_context_tokens, COUNTED), device=self.device)[None]
        self.cos, self.sin = rotary_tables(shape, 0, dtype, self.device)
        on_gpu = self.device.type == "cuda" and torch.cuda.is_available()
        self.graphs = Graphs(shape.num_heads // shape.num_kv_heads) if graphs and on_gpu else None

    def new_cache(self, max_tokens: int, num_rows: int = 1) -> KvCache:
        """Room for this many tokens of so many texts. Raises InputError beyond the model's context."""
        limit = self.shape.max_context_tokens
        if not 1 <= max_tokens <= limit:
            raise InputError("context", f"must be from 1 to {limit} tokens, the model's limit", max_tokens)
        size = (self.shape.num_layers, self.shape.num_kv_heads, self.shape.head_dim)
        return KvCache(size, num_rows, max_tokens, self.dtype, self.device)

    def forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, cache: KvCache, mask: TailMask | None = None
    ) -> torch.Tensor:
        """Logits ``[B, n, V]`` of new tokens, see ``hidden``."""
        return self.logits(self.hidden(tokens, positions, cache, mask))

    def hidden(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        cache: KvCache,
        mask: TailMask | None = None,
        sublayers: Sublayers | None = None,
    ) -> torch.Tensor:
        """Append ``tokens[B, n]`` at rotary ``positions[B or 1, n]``; what the LM head reads, ``[B, n, H]``.

        Without a mask a token sees its text and all of the round: right for one token per row only. A layer whose
        attention is left out writes nothing to its part of the cache.
        """
        x = self.run(self.embedding[tokens], positions, cache, mask, sublayers)
        return functional.rms_norm(x, (self.shape.hidden_size,), self.final_norm, self.shape.norm_eps)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The LM head: ``[..., H]`` to ``[..., V]`` in the model's dtype."""
        return self.lm_head(hidden)

    @torch.inference_mode()
    def run(
        self,
        x: torch.Tensor,
        positions: torch.Tensor,
        cache: KvCache,
        mask: TailMask | None = None,
        sublayers: Sublayers | None = None,
    ) -> torch.Tensor:
        """The layers alone, from embeddings ``[B, n, H]`` to what the final norm reads; else as ``hidden``."""
        s, n = self.shape, x.shape[1]
        start, end = cache.append(n)
        group = s.num_heads // s.num_kv_heads
        if self.cos.shape[0] < end:
            self.cos, self.sin = rotary_tables(s, max(2 * end, cache.capacity), self.dtype, self.device)
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        seen = round_mask(cache, group) if mask is None else mask.over(cache, group)
        given = LayerInputs(x, cos, sin, slice(start, end), seen, end)
        if self.graphs is not None and sublayers is None:
            found = self.graphs.run(lambda inputs: self._layers(inputs, cache.kv), given, cache.kv)
            if found is not None:
                return found
        return self._layers(given, cache.kv, sublayers)

    def _layers(self, given: LayerInputs, memory: torch.Tensor, sublayers: Sublayers | None = None) -> torch.Tensor:
        s, x, (rows, n, _) = self.shape, given.x, given.x.shape
        group, rotated = s.num_heads // s.num_kv_heads, s.num_heads + s.num_kv_heads
        cos, sin, slots, seen, end = given.cos, given.sin, given.slots, given.seen, given.end
        for index, (layer, kv) in enumerate(zip(self.layers, memory, strict=True)):
            attends, mixes = (True, True) if sublayers is None else sublayers[index]
            if attends:
                h = x
                if layer.input_norm is not None:
                    h = functional.rms_norm(x, (s.hidden_size,), layer.input_norm, s.norm_eps)
                qkv = layer.qkv(h).view(rows, n, rotated + s.num_kv_heads, s.head_dim).transpose(1, 2)
                qk, v = qkv[:, :rotated], qkv[:, rotated:]
                if layer.qk_norm is not None:
                    qk = functional.rms_norm(qk, (s.head_dim,), None, s.norm_eps) * layer.qk_norm
                qk = qk * cos + half_turned(qk) * sin
                kv[0, :, :, slots], kv[1, :, :, slots] = qk[:, s.num_heads :], v
                # Queries that share a KV head lie one after another: grouped attention without a copy of the cache.
                q = qk[:, : s.num_heads].reshape(rows, s.num_kv_heads, group * n, s.head_dim)
                a = functional.scaled_dot_product_attention(q, kv[0, :, :, :end], kv[1, :, :, :end], attn_mask=seen)
                x = x + layer.out(a.view(rows, s.num_heads, n, s.head_dim).transpose(1, 2).reshape(rows, n, -1))
            if mixes:
                h = functional.rms_norm(x, (s.hidden_size,), layer.mlp_norm, s.norm_eps)
                gate, up = layer.gate_up(h).chunk(2, dim=-1)
                x = x + layer.down(functional.silu(gate) * up)
        return x

    def prefill(self, tokens: torch.Tensor, cache: KvCache) -> torch.Tensor:
        """Append a run of ``tokens[B, n]`` to each text, causally, as the round: what the LM head reads ``[B, n, H]``.

        Rows shorter than n are padded on the right with any token. ``cache.keep`` then says how much of it is text.
        """
        n = tokens.shape[1]
        return self.hidden(tokens, self.next_positions(cache, n), cache, self.causal(n))

    def next_positions(self, cache: KvCache, num_tokens: int) -> torch.Tensor:
        """Positions ``[B or 1, num_tokens]`` that follow each row's text."""
        if cache.is_even and cache.text_end + num_tokens <= self._counted.shape[1]:
            return self._counted[:, cache.text_end : cache.text_end + num_tokens]
        return torch.arange(num_tokens, device=self.device)[None] + text_lengths(cache)

    def causal(self, num_tokens: int) -> TailMask | None:
        """Each new token sees those before it. Short runs come back every round: their masks are kept."""
        if num_tokens == 1:
            return None
        if num_tokens not in self._causal_masks:
            mask = self.mask(torch.ones(1, num_tokens, num_tokens, dtype=torch.bool).tril())
            if num_tokens > 16:
                return mask
            self._causal_masks[num_tokens] = mask
        return self._causal_masks[num_tokens]

    def mask(self, seen: torch.Tensor) -> TailMask:
        """A mask from ``seen[B or 1, n, t]`` on this model's device."""
        return TailMask(seen.to(self.device))


def text_lengths(cache: KvCache) -> torch.Tensor | int:
    """Length of each text, ``[B, 1]``, or a number where all are alike."""
    return cache.text_end if cache.is_even else torch.tensor(cache.lengths, device=cache.kv.device)[:, None]


def load_llama(
    directory: Path,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    packed: bool = False,
    ffn_size: int | None = None,
    graphs: bool = True,
) -> Llama:
    """A model from a checkpoint directory; ``ffn_size`` extends its MLP with zeros, see ``extend_ffn``."""
    shape = read_shape(directory)
    weights = read_weights(directory, shape)
    if ffn_size is not None:
        shape, weights = extend_ffn(shape, weights, ffn_size)
    return Llama(shape, weights, dtype, device, packed, graphs)


def extend_ffn(shape: LlamaShape, weights: Weights, ffn_size: int) -> tuple[LlamaShape, Weights]:
    """The same function at the cost of a larger model: zero rows in gate and up, zero columns in down.

    A zero gate gives silu(0) = 0, times a zero column: the logits do not change, the bytes and FLOPs do.
    """
    more = ffn_size - shape.intermediate_size
    if more < 0:
        raise InputError("ffn_size", f"must be >= {shape.intermediate_size}, the model's own", ffn_size)
    extended = dict(weights)
    for name, tensor in weights.items():
        if name.endswith(("gate_proj.weight", "up_proj.weight")):
            extended[name] = functional.pad(tensor, (0, 0, 0, more))
        elif name.endswith(("gate_proj.bias", "up_proj.bias", "down_proj.weight")):
            extended[name] = functional.pad(tensor, (0, more))
    return LlamaShape(**{**vars(shape), "intermediate_size": ffn_size}), extended
