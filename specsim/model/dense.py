"""Dense families of Hugging Face models, one function each: config fields in, shape out.

A field that a config leaves out takes the default of the family's own config class in Transformers only where published
configs rely on it (said at each place); the sizes that make a model are required.
"""

from __future__ import annotations

from itertools import repeat

from specsim.model.decoder import alternating_windows, decoder, dense_mlp, gqa, late_windows, num_heads
from specsim.model.fields import Fields
from specsim.model.spec import DenseMlp, Gqa, ModelSpec


def llama(fields: Fields) -> ModelSpec:
    """Llama 2 and 3, Vicuna, TinyLlama. LlamaConfig: as many KV heads as heads unless stated."""
    bias = fields.flag("attention_bias", False)
    attention = gqa(fields, kv_heads=num_heads(fields), qkv_bias=bias, out_bias=bias)
    return decoder(fields, repeat(attention), repeat(dense_mlp(fields, bias=fields.flag("mlp_bias", False))))


def mistral(fields: Fields) -> ModelSpec:
    """Mistral: every layer has the window where one is stated; null (v0.2 on) is none, absent is 4096 (class)."""
    window = fields.optional_count("sliding_window") if "sliding_window" in fields.config else 4096
    return decoder(fields, repeat(gqa(fields, window_tokens=window)), repeat(dense_mlp(fields)))


def qwen2(fields: Fields) -> ModelSpec:
    """Qwen2 and 2.5: biases on q, k, v; windows from layer ``max_window_layers`` on, where switched on."""
    return decoder(fields, late_windows(fields, gqa(fields, qkv_bias=True)), repeat(dense_mlp(fields)))


def qwen3(fields: Fields) -> ModelSpec:
    """Qwen3: query and key norms. Qwen3Config: heads of 128 unless stated."""
    bias = fields.flag("attention_bias", False)
    attention = gqa(fields, head_dim=128, qkv_bias=bias, out_bias=bias, qk_norm="per_head")
    return decoder(fields, late_windows(fields, attention), repeat(dense_mlp(fields)))


def gemma(fields: Fields) -> ModelSpec:
    """Gemma: GemmaConfig has heads of 256 and tied embeddings unless stated."""
    bias = fields.flag("attention_bias", False)
    attention = gqa(fields, head_dim=256, qkv_bias=bias, out_bias=bias)
    return decoder(fields, repeat(attention), repeat(dense_mlp(fields)), tied=True)


def gemma2(fields: Fields) -> ModelSpec:
    """Gemma 2: every other layer has a window, the first one with; four norms per layer."""
    return _gemma_with_windows(fields, gqa(fields, head_dim=256), pattern=2, default_window=4096)


def gemma3_text(fields: Fields) -> ModelSpec:
    """Gemma 3: five windows, then one full layer. Gemma3TextConfig: 8 heads, 4 for KV, 262208 tokens unless stated."""
    defaults = {"num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262_208}
    stated = {key: value for key, value in fields.config.items() if value is not None}
    fields = Fields(fields.name, {**defaults, **stated})
    pattern = fields.count("sliding_window_pattern", 6)
    attention = gqa(fields, head_dim=256, qk_norm="per_head")
    return _gemma_with_windows(fields, attention, pattern=pattern, default_window=4096)


def gemma3(fields: Fields) -> ModelSpec:
    """The text half of a multimodal Gemma 3 config; the vision tower is not counted."""
    text = fields.table("text_config")
    if text is None:
        raise fields.error("text_config", "missing; a gemma3 config holds its sizes there")
    outer = {key: fields.get(key) for key in ("torch_dtype", "dtype", "quantization_config")}
    inherited = {key: value for key, value in outer.items() if value is not None}
    return gemma3_text(Fields(fields.name, {**inherited, **text.config}))


def phi(fields: Fields) -> ModelSpec:
    """Phi-2: attention and MLP side by side behind one layer norm, biases everywhere, the LM head included."""
    if fields.flag("qk_layernorm", False):
        raise fields.error("qk_layernorm", "must be false; its layer norms are not counted")
    attention = gqa(fields, kv_heads=num_heads(fields), qkv_bias=True, out_bias=True)
    mlp = dense_mlp(fields, gated=False, bias=True)
    return decoder(fields, repeat(attention), repeat(mlp), num_norms=1, norm_bias=True, lm_head_bias=True)


def falcon(fields: Fields) -> ModelSpec:
    """Falcon-7B: one KV head, attention and MLP side by side behind one layer norm, an MLP of four hidden sizes.

    FalconConfig: tied embeddings. The other generation (40B, two norms, grouped heads) is refused, as are its options.
    """
    wanted = {"multi_query": True, "new_decoder_architecture": False, "parallel_attn": True, "bias": False}
    for key, value in wanted.items():
        if fields.flag(key, value) != value:
            raise fields.error(key, f"must be {str(value).lower()}")
    mlp = DenseMlp(intermediate_size=4 * fields.count("hidden_size"), gated=False)
    return decoder(fields, repeat(gqa(fields, kv_heads=1)), repeat(mlp), tied=True, num_norms=1, norm_bias=True)


def qwen2_5_vl(fields: Fields) -> ModelSpec:
    """The text half of Qwen2.5-VL, a Qwen2; its config holds the sizes beside those of the vision tower."""
    return qwen2(fields)


def qwen3_vl(fields: Fields) -> ModelSpec:
    """The text half of Qwen3-VL, a Qwen3; the vision tower is not counted."""
    text = fields.table("text_config")
    if text is None:
        raise fields.error("text_config", "missing; a qwen3_vl config holds its sizes there")
    tied = {"tie_word_embeddings": fields.flag("tie_word_embeddings", False)}
    return qwen3(Fields(fields.name, {**tied, **text.config}))


def phi3(fields: Fields) -> ModelSpec:
    """Phi-3 and Phi-4: Llama with fused projections; a window in every layer where stated."""
    window = fields.optional_count("sliding_window")
    attention = gqa(fields, kv_heads=num_heads(fields), window_tokens=window)
    return decoder(fields, repeat(attention), repeat(dense_mlp(fields)))


def _gemma_with_windows(fields: Fields, full: Gqa, *, pattern: int, default_window: int) -> ModelSpec:
    bias = fields.flag("attention_bias", False)
    full = full.model_copy(update={"qkv_bias": bias, "out_bias": bias})
    attentions = alternating_windows(fields, full, pattern=pattern, default_window=default_window)
    return decoder(fields, attentions, repeat(dense_mlp(fields)), tied=True, num_norms=4)
