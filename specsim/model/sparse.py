"""Families with mixtures of experts, one function each; what is said of defaults in ``dense`` holds here too."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat

from specsim.model.decoder import Mlp, alternating_windows, decoder, dense_mlp, gqa, num_heads, num_layers
from specsim.model.fields import Fields
from specsim.model.spec import MAX_LAYERS, Mla, ModelSpec, MoeMlp


def mixtral(fields: Fields) -> ModelSpec:
    """Mixtral: every MLP is a mixture of experts."""
    mlp = MoeMlp(
        num_experts=fields.count("num_local_experts"),
        experts_per_token=_chosen(fields, "num_local_experts"),
        intermediate_size=fields.count("intermediate_size"),
    )
    return decoder(fields, repeat(gqa(fields, window_tokens=fields.optional_count("sliding_window"))), repeat(mlp))


def granitemoe(fields: Fields) -> ModelSpec:
    """Granite-MoE: every MLP is a mixture of experts. GraniteMoeConfig: as many KV heads as heads unless stated."""
    bias = fields.flag("attention_bias", False)
    mlp = MoeMlp(
        num_experts=fields.count("num_local_experts"),
        experts_per_token=_chosen(fields, "num_local_experts"),
        intermediate_size=fields.count("intermediate_size"),
    )
    attention = gqa(fields, kv_heads=num_heads(fields), qkv_bias=bias, out_bias=bias)
    return decoder(fields, repeat(attention), repeat(mlp))


def qwen2_moe(fields: Fields) -> ModelSpec:
    """Qwen1.5-MoE and Qwen2-MoE: shared experts behind a gate. Windows are refused (their pattern has changed)."""
    if fields.flag("use_sliding_window", False):
        raise fields.error("use_sliding_window", "must be false for qwen2_moe")
    attention = gqa(fields, qkv_bias=fields.flag("qkv_bias", True))
    shared = fields.count("shared_expert_intermediate_size")
    moe = _qwen_moe(fields, shared_intermediate_size=shared, shared_gate=True)
    return decoder(fields, repeat(attention), _sparse_steps(fields, moe))


def qwen3_moe(fields: Fields) -> ModelSpec:
    """Qwen3-MoE: no shared expert; a window in every layer where switched on."""
    bias = fields.flag("attention_bias", False)
    window = fields.count("sliding_window", 4096) if fields.flag("use_sliding_window", False) else None
    attention = gqa(fields, qkv_bias=bias, out_bias=bias, qk_norm="per_head", window_tokens=window)
    return decoder(fields, repeat(attention), _sparse_steps(fields, _qwen_moe(fields)))


def gpt_oss(fields: Fields) -> ModelSpec:
    """gpt-oss: windows in every other layer, sinks, biases on everything in the layers. GptOssConfig: heads of 64."""
    bias = fields.flag("attention_bias", True)
    full = gqa(fields, head_dim=64, qkv_bias=bias, out_bias=bias, sinks=True)
    mlp = MoeMlp(
        num_experts=fields.count("num_local_experts"),
        experts_per_token=_chosen(fields, "num_local_experts"),
        intermediate_size=fields.count("intermediate_size"),
        bias=True,
        router_bias=True,
    )
    return decoder(fields, alternating_windows(fields, full, pattern=2, default_window=128), repeat(mlp))


def deepseek_v2(fields: Fields) -> ModelSpec:
    """DeepSeek-V2, Lite (arXiv:2405.04434): as V3, but experts are balanced by a loss: no router bias, no MTP."""
    return _deepseek(fields, router_bias=False)


def deepseek_v3(fields: Fields) -> ModelSpec:
    """DeepSeek-V3 and R1: latent attention, dense MLPs first, one shared expert, MTP modules beside the layers."""
    return _deepseek(fields, router_bias=True)  # balances load without a loss: arXiv:2412.19437, section 2.1.2


def _deepseek(fields: Fields, *, router_bias: bool) -> ModelSpec:
    if fields.count("moe_layer_freq", 1) != 1 or fields.flag("attention_bias", False):
        raise fields.error("moe_layer_freq", "must be 1, with attention_bias false")
    attention = Mla(
        num_heads=num_heads(fields),
        q_lora_rank=fields.optional_count("q_lora_rank"),
        kv_lora_rank=fields.count("kv_lora_rank"),
        qk_nope_dim=fields.count("qk_nope_head_dim"),
        qk_rope_dim=fields.count("qk_rope_head_dim"),
        v_head_dim=fields.count("v_head_dim"),
    )
    expert = fields.count("moe_intermediate_size")
    moe = MoeMlp(
        num_experts=fields.count("n_routed_experts"),
        experts_per_token=_chosen(fields, "n_routed_experts"),
        intermediate_size=expert,
        shared_intermediate_size=fields.count("n_shared_experts", 0, least=0) * expert,
        router_bias=router_bias,
    )
    first_moe = fields.count("first_k_dense_replace", least=0)
    dense = dense_mlp(fields)
    mlps = (dense if layer < first_moe else moe for layer in range(num_layers(fields)))
    mtp_layers = fields.count("num_nextn_predict_layers", 0, least=0, most=MAX_LAYERS)
    return decoder(fields, repeat(attention), mlps, mtp_layers=mtp_layers)


def _chosen(fields: Fields, experts: str) -> int:
    """Experts per token, at most as many as there are."""
    return fields.count("num_experts_per_tok", most=fields.count(experts))


def _qwen_moe(fields: Fields, *, shared_intermediate_size: int = 0, shared_gate: bool = False) -> MoeMlp:
    return MoeMlp(
        num_experts=fields.count("num_experts"),
        experts_per_token=_chosen(fields, "num_experts"),
        intermediate_size=fields.count("moe_intermediate_size"),
        shared_intermediate_size=shared_intermediate_size,
        shared_gate=shared_gate,
    )


def _sparse_steps(fields: Fields, moe: MoeMlp) -> Iterable[Mlp]:
    """Every ``decoder_sparse_step``-th layer is a mixture, but for those that ``mlp_only_layers`` names."""
    step, dense_layers = fields.count("decoder_sparse_step", 1), set(fields.items("mlp_only_layers", int))
    for layer in range(num_layers(fields)):
        yield dense_mlp(fields) if layer in dense_layers or (layer + 1) % step else moe
