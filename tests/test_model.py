"""Model shapes: published counts, Transformers' own modules on the meta device, hand numbers, hostile configs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import specsim.model as model_room
from specsim.errors import InputError
from specsim.model import (
    DTYPES,
    DenseMlp,
    Gqa,
    LayerGroup,
    Mla,
    ModelSpec,
    MoeMlp,
    active_params,
    check_draft_fits,
    check_same_vocabulary,
    dtype_bytes,
    flops_per_token,
    from_config,
    kv_bytes,
    kv_bytes_per_token,
    load_model,
    matmul_params,
    model_names,
    mtp_module,
    num_params,
    param_counts,
    quantized,
    shares_vocabulary,
    weight_bytes,
)

CONFIGS = Path(model_room.__file__).parent / "configs"

# Published parameter counts. Integers: the total that Hugging Face shows for the repository in the config's `_source`
# (Vicuna and the 30B Llama under it: for the Llama of that size), a stored copy of tied embeddings taken off
# (Qwen3 0.6B and 1.7B). Floats: as cited.
PUBLISHED: dict[str, float] = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.3-70b": 70_553_706_496,
    "vicuna-7b": 6_738_415_616,
    "vicuna-13b": 13_015_864_320,
    "vicuna-33b": 32_528_943_616,
    "mistral-7b-v0.3": 7_248_023_552,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 751_632_384 - 151_936 * 1024,
    "qwen3-1.7b": 2_031_739_904 - 151_936 * 2048,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "gemma-3-1b": 999_885_952,
    # Gemma 3 report (arXiv:2503.19786), table 1: embedding and non-embedding parameters, vision left out
    "gemma-3-4b": 675e6 + 3_209e6,
    "gemma-3-12b": 1_012e6 + 10_759e6,
    "gemma-3-27b": 1_416e6 + 25_600e6,
    "phi-2": 2_779_683_840,
    "phi-3-mini": 3_821_079_552,
    "phi-4": 14_659_507_200,
    "phi-4-mini": 3_836_021_760,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_630_071_296,
    "gpt-oss-20b": 20.91e9,  # gpt-oss model card (arXiv:2508.10925), table 1
    "gpt-oss-120b": 116.83e9,
    "deepseek-v3": 671e9,  # arXiv:2412.19437, abstract
    "deepseek-r1": 671e9,
    "tinyllama-1.1b": 1_100_048_384,
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-65b": 65_285_660_672,
    "open-llama-3b": 3_426_473_600,
    "open-llama-7b": 6_738_415_616,
    "mistral-7b-v0.1": 7_241_732_096,
    "gemma-2b": 2_506_172_416,
    "gemma-7b": 8_537_680_896,
    "falcon-7b": 6_921_720_704,  # its repository adds a stored copy of the tied embedding
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-vl-3b": 3_085_938_688,  # the text half: that of Qwen2.5-3B
    "qwen2.5-vl-7b": 7_615_616_512,
    "qwen3-vl-4b": 4_022_468_096,  # the text half: that of Qwen3-4B
    "qwen3-vl-8b": 8_190_735_360,
    "deepseek-r1-distill-qwen-1.5b": 1_777_088_000,
    "deepseek-r1-distill-qwen-7b": 7_615_616_512,
    "granite-3.0-3b-a800m": 3.30e9,  # "3.3B" of its model card
    "granite-3.0-1b-a400m": 1.335e9,
    "deepseek-v2-lite": 15_706_484_224,
    # EAGLE (arXiv:2401.15077), section 4: trainable parameters of the heads for 7B, 13B and 70B
    "eagle-vicuna-7b": 0.236e9,  # "0.24B"
    "eagle-vicuna-13b": 0.37e9,
    "eagle-llama-3-70b": 0.99e9,
}


@pytest.mark.parametrize(("name", "published"), PUBLISHED.items())
def test_parameters_as_published(name: str, published: float) -> None:
    counted = num_params(load_model(name))
    assert counted == published if isinstance(published, int) else counted == pytest.approx(published, rel=0.005)


def test_deepseek_with_its_mtp_module_is_the_published_checkpoint() -> None:
    """The repository holds 685B parameters: the model, and a module that repeats embedding and LM head."""
    model = load_model("deepseek-v3")
    module = mtp_module(model)
    # fc 2h -> h, one MLA + MoE layer (worked out in test_mla_by_hand), three norms
    assert param_counts(module)["fusion"] == 2 * 7168 * 7168
    assert num_params(model) + num_params(module) + 2 * 129_280 * 7168 == 684_489_845_504
    assert (module.own_embedding, module.own_lm_head, module.num_layers) == (False, False, 1)
    with pytest.raises(InputError, match="multi-token prediction"):
        mtp_module(load_model("llama-2-7b"))


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("mixtral-8x7b", 12.9e9),  # arXiv:2401.04088
        ("mixtral-8x22b", 39e9),  # announcement of Mixtral 8x22B
        ("qwen3-235b-a22b", 22.2e9),  # "22B" in arXiv:2505.09388
    ],
)
def test_active_parameters_as_published(name: str, published: float) -> None:
    assert active_params(load_model(name)) == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize(("name", "published"), [("gpt-oss-20b", 3.61e9), ("gpt-oss-120b", 5.13e9)])
def test_gpt_oss_counts_its_active_parameters_without_the_embedding(name: str, published: float) -> None:
    model = load_model(name)
    assert active_params(model) - param_counts(model)["embedding"] == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize(("name", "gib"), [("gpt-oss-20b", 12.8), ("gpt-oss-120b", 60.8)])
def test_mxfp4_checkpoints_weigh_as_published(name: str, gib: float) -> None:
    """Checkpoint sizes of the gpt-oss model card, table 1: experts in MXFP4, all else in bf16."""
    assert weight_bytes(load_model(name)) / 2**30 == pytest.approx(gib, rel=0.005)


# One bundled config per family, cut to the fewest layers that show its pattern.
META_CASES = {
    "llama-3.2-1b": 2,
    "mistral-7b-v0.3": 2,
    "qwen2.5-7b": 2,
    "qwen3-0.6b": 2,
    "gemma-2-2b": 3,
    "gemma-3-1b": 7,
    "phi-2": 2,
    "phi-4": 2,
    "mixtral-8x7b": 2,
    "qwen3-30b-a3b": 2,
    "gpt-oss-20b": 3,
    "deepseek-v3": 5,
}
_SMALL: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "vocab_size": 100}
_SMALL |= {"num_attention_heads": 8, "num_key_value_heads": 4}
EXTRA_CASES: dict[str, dict[str, Any]] = {
    "gemma": dict(_SMALL, model_type="gemma", head_dim=16),
    "llama with biases": dict(_SMALL, model_type="llama", attention_bias=True, mlp_bias=True),
    "qwen2_moe": dict(
        dict(_SMALL, model_type="qwen2_moe", num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24),
        **dict(shared_expert_intermediate_size=40, decoder_sparse_step=2, mlp_only_layers=[1]),
    ),
    "qwen3_moe with a dense layer": dict(
        dict(_SMALL, model_type="qwen3_moe", num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24),
        **dict(head_dim=8, decoder_sparse_step=1, mlp_only_layers=[0]),
    ),
    "deepseek_v3 without query rank": dict(
        dict(_SMALL, model_type="deepseek_v3", q_lora_rank=None, kv_lora_rank=16, qk_nope_head_dim=8),
        **dict(qk_rope_head_dim=4, v_head_dim=12, n_routed_experts=8, num_experts_per_tok=2, n_group=1),
        **dict(topk_group=1, moe_intermediate_size=24, n_shared_experts=2, first_k_dense_replace=1),
    ),
}


def _config(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text())
    return config


def _meta_cases() -> list[tuple[str, dict[str, Any]]]:
    bundled = [(name, _config(name) | {"num_hidden_layers": layers}) for name, layers in META_CASES.items()]
    return bundled + list(EXTRA_CASES.items())


def _transformers_model(config: dict[str, Any], device: str) -> Any:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    ours = {"_source", "_note", "torch_dtype", "quantization_config", "architectures", "model_type"}
    fields = {key: value for key, value in config.items() if key not in ours}
    hf_config = transformers.AutoConfig.for_model(config["model_type"], **fields)
    with torch.device(device):
        return transformers.AutoModelForCausalLM.from_config(hf_config, attn_implementation="eager")


@pytest.mark.parametrize(("name", "config"), _meta_cases(), ids=[case[0] for case in _meta_cases()])
def test_parameters_as_transformers_builds_them(name: str, config: dict[str, Any]) -> None:
    built = _transformers_model(config, "meta")
    # the router's correction of DeepSeek-V3 is a weight of the checkpoint that Transformers keeps as a buffer
    corrections = sum(b.numel() for key, b in built.named_buffers() if key.endswith("e_score_correction_bias"))
    assert num_params(from_config(config, name)) == sum(p.numel() for p in built.parameters()) + corrections


@pytest.mark.parametrize("name", ["gemma-2-2b", "gemma-3-1b", "gpt-oss-20b", "qwen2.5-0.5b"])
def test_windows_where_transformers_has_them(name: str) -> None:
    config = _config(name) | {"num_hidden_layers": 9, "max_window_layers": 5}
    if name.startswith("qwen"):
        config |= {"use_sliding_window": True, "sliding_window": 77}
    kinds = _transformers_model(config, "meta").config.layer_types
    spec = from_config(config, name)
    windowed = [g for g in spec.layers if isinstance(g.attention, Gqa) and g.attention.window_tokens is not None]
    assert sum(g.count for g in windowed) == kinds.count("sliding_attention") > 0
    stated = from_config(config | {"layer_types": kinds[::-1]}, name) if "qwen" not in name else spec
    assert sum(g.count for g in stated.layers) == 9


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi"])
def test_flops_as_torch_counts_them(family: str) -> None:
    """Eager attention multiplies the whole square, so n tokens cost n times one token that attends to n."""
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    config, tokens = dict(_SMALL, model_type=family, head_dim=8, pad_token_id=0), 12
    built = _transformers_model(config, "cpu")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        built(torch.zeros((1, tokens), dtype=torch.long), use_cache=False)
    frequencies = sum(b.numel() for key, b in built.named_buffers() if key.endswith("rotary_emb.inv_freq"))
    angles = 2 * frequencies * tokens  # some releases compute the rotary angles as a matrix product
    beyond = counter.get_total_flops() - tokens * flops_per_token(from_config(config, family), tokens)
    assert beyond in (0, angles)


def _one_layer(attention: Gqa | Mla, mlp: DenseMlp | MoeMlp, **more: Any) -> ModelSpec:
    layers = (LayerGroup(count=1, attention=attention, mlp=mlp),)
    return ModelSpec(name="hand", family="llama", hidden_size=8, vocab_size=10, layers=layers, **more)


def test_dense_gqa_by_hand() -> None:
    model = _one_layer(Gqa(num_heads=4, num_kv_heads=2, head_dim=3), DenseMlp(intermediate_size=5))
    attention = 8 * 12 + 2 * (8 * 6) + 12 * 8  # q, k and v, o
    mlp = 3 * 8 * 5
    counts = dict(embedding=80, attention=attention, mlp=mlp, norm=2 * 8 + 8, lm_head=80)
    assert param_counts(model) == counts | dict.fromkeys(("router", "bias", "fusion", "medusa"), 0)
    assert (attention, mlp, num_params(model)) == (288, 120, 592)
    assert weight_bytes(model) == 2 * 592
    assert kv_bytes_per_token(model) == 2 * (2 * 3) * 2  # k and v, 2 heads of 3, 2 bytes
    # 2 * (288 + 120 + LM head 80) and, per attended token, 4 heads * 3 * (score 2 + value 2)
    assert flops_per_token(model, 7) == 2 * 488 + 48 * 7


def test_multi_query_multi_head_window_and_tied_by_hand() -> None:
    mlp = DenseMlp(intermediate_size=5, gated=False, bias=True)
    query = _one_layer(Gqa(num_heads=4, num_kv_heads=1, head_dim=2, window_tokens=3), mlp, tied_embeddings=True)
    heads = _one_layer(Gqa(num_heads=4, num_kv_heads=4, head_dim=2, qkv_bias=True, qk_norm="full"), mlp)
    # multi-query: q 64, k and v 16 each, o 64; MLP 2 matrices of 40 with biases 5 + 8; norms 24; one embedding 80
    assert num_params(query) == (64 + 32 + 64) + 80 + 13 + 24 + 80 == 357
    # multi-head: q, k, v, o of 64 each with biases 3 * 8 and norms 8 + 8; embedding and LM head
    assert num_params(heads) == 256 + 24 + 16 + 80 + 13 + 24 + 160 == 573
    assert kv_bytes_per_token(query) * 4 == kv_bytes_per_token(heads) == 2 * 8 * 2
    assert [kv_bytes(query, tokens) for tokens in (0, 2, 3, 9)] == [0, 2 * 8, 3 * 8, 3 * 8]
    assert flops_per_token(query, 9) == 2 * (160 + 80 + 80) + 4 * 4 * 2 * 3  # the tied LM head is still multiplied
    assert flops_per_token(heads, 9) == 2 * (256 + 80 + 80) + 4 * 4 * 2 * 9


def test_moe_by_hand() -> None:
    mlp = MoeMlp(num_experts=6, experts_per_token=2, intermediate_size=5, shared_intermediate_size=7, shared_gate=True)
    model = _one_layer(Gqa(num_heads=2, num_kv_heads=2, head_dim=4), mlp)
    expert, shared, router = 3 * 8 * 5, 3 * 8 * 7, 8 * 6 + 8
    assert param_counts(model)["mlp"] == 6 * expert + shared == 888
    assert param_counts(model)["router"] == router == 56
    assert num_params(model) - active_params(model) == 4 * expert
    assert matmul_params(model) == 4 * 64 + 2 * expert + shared + router + 80 == 800
    assert flops_per_token(model, 10) == 2 * 800 + 4 * 8 * 10
    # experts and attention in int4 (4.15625 bits), router, norms, embedding and LM head in bf16
    assert weight_bytes(quantized(model, "int4")) == -int(-(4.15625 * (888 + 256) + 16 * (56 + 24 + 160)) // 8)


def test_mla_by_hand() -> None:
    """DeepSeek-V3, arXiv:2412.19437 section 4.2: 128 heads, ranks 1536 and 512, 128 + 64 dimensions, 61 layers."""
    model = load_model("deepseek-v3")
    query = 7168 * 1536 + 1536 * 128 * (128 + 64)
    latent = 7168 * (512 + 64) + 512 * 128 * (128 + 128)
    attention = query + latent + 128 * 128 * 7168
    assert attention == 187_105_280
    assert param_counts(model)["attention"] == 61 * attention
    assert param_counts(model)["norm"] == 61 * (2 * 7168 + 1536 + 512) + 7168
    expert = 3 * 7168 * 2048
    assert param_counts(model)["mlp"] == 3 * (3 * 7168 * 18_432) + 58 * 257 * expert
    assert kv_bytes_per_token(model) == 61 * (512 + 64) * 2 == 70_272
    # absorbed: per head a score over 512 + 64 and a value over 512, 2 FLOPs each
    attended = flops_per_token(model, 1001) - flops_per_token(model, 1)
    assert attended == 1000 * 61 * 128 * 2 * (512 + 64 + 512)
    linear = 61 * attention + 3 * (3 * 7168 * 18_432) + 58 * (9 * expert + 256 * 7168) + 129_280 * 7168
    assert flops_per_token(model, 0) == 2 * linear
    # fp8 blocks of 128 x 128 with one fp32 scale, the rest in bf16
    rest = 2 * 129_280 * 7168 + param_counts(model)["norm"] + 58 * (256 * 7168 + 256)
    fp8 = num_params(model) - rest
    assert weight_bytes(model) == pytest.approx(fp8 * (1 + 4 / 128**2) + 2 * rest, rel=1e-12)


def test_llama_kv_cache_as_is_well_known() -> None:
    assert kv_bytes_per_token(load_model("llama-3.1-8b")) == 32 * 2 * 8 * 128 * 2 == 131_072
    gemma = load_model("gemma-3-1b")  # 4 full layers, 22 with a window of 512; one KV head of 256
    assert kv_bytes(gemma, 2048) == (4 * 2048 + 22 * 512) * 2 * 256 * 2


def test_heads_by_hand() -> None:
    """File sizes of published heads in fp16: EAGLE3-LLaMA3.1-Instruct-8B 850 MB, medusa-vicuna-7b-v1.3 1.48 GB."""
    eagle3 = load_model("eagle3-llama-3.1-8b")
    layer = 8192 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 14_336
    assert num_params(eagle3) == layer + 3 * 4096 * 4096 + 32_000 * 4096 + 4 * 4096
    assert weight_bytes(eagle3) == pytest.approx(850e6, rel=0.005)
    assert matmul_params(eagle3) == num_params(eagle3) - 4 * 4096
    assert param_counts(eagle3)["embedding"] == 0
    assert param_counts(load_model("eagle3-llama-3.3-70b"))["embedding"] == 128_256 * 6144  # narrower than its target

    eagle = load_model("eagle-vicuna-7b")
    assert num_params(eagle) == 4 * 4096**2 + 3 * 4096 * 11_008 + 4096 + (8192 * 4096 + 4096)  # layer, norm, fusion
    assert matmul_params(eagle) == num_params(eagle) - 2 * 4096 + 32_000 * 4096  # the target's LM head is multiplied

    medusa = load_model("medusa-vicuna-7b")
    assert num_params(medusa) == 5 * (4096 * 4096 + 4096 + 4096 * 32_000)
    assert weight_bytes(medusa) == pytest.approx(1.48e9, rel=0.005)
    assert flops_per_token(medusa, 100) == 2 * 5 * (4096 * 4096 + 4096 * 32_000)
    assert kv_bytes_per_token(medusa) == 0


def test_every_bundled_config_loads_and_names_its_source() -> None:
    for name in model_names():
        model = load_model(name.upper())
        assert model.name == name
        assert "/" in _config(name)["_source"]
        assert load_model(_config(name)["_source"]).name == name
        assert ModelSpec.model_validate_json(model.model_dump_json()) == model


def test_drafts_fit_their_targets_and_no_others() -> None:
    for target, draft in [
        *[("llama-2-7b", "llama-68m"), ("llama-3.1-8b", "llama-3.2-1b"), ("qwen3-32b", "qwen3-0.6b")],
        *[("vicuna-7b", "eagle-vicuna-7b"), ("vicuna-13b", "eagle3-vicuna-13b"), ("qwen3-8b", "eagle3-qwen3-8b")],
        *[("llama-3.3-70b", "eagle3-llama-3.3-70b"), ("vicuna-33b", "medusa-vicuna-33b")],
    ]:
        check_draft_fits(load_model(target), load_model(draft))
    deepseek = load_model("deepseek-v3")
    check_draft_fits(deepseek, mtp_module(deepseek))

    assert not shares_vocabulary(load_model("qwen2.5-7b"), load_model("qwen2.5-0.5b"))
    with pytest.raises(InputError, match=r"qwen2\.5-7b \(152064 tokens\), got 'qwen2\.5-0\.5b with 151936'"):
        check_same_vocabulary(load_model("qwen2.5-7b"), load_model("qwen2.5-0.5b"))
    with pytest.raises(InputError, match=r"llama-3\.1-8b \(hidden size 4096\).* 8192"):
        check_draft_fits(load_model("llama-3.1-8b"), load_model("eagle3-llama-3.3-70b"))


@pytest.mark.parametrize(
    ("quantisation", "dtype", "bits"),
    [
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "fp8", 8.0),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", 8 + 32 / 128**2),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "int4", 4 + 20 / 128),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "int8", 8.0),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, "int4", 4 + 20 / 64),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 128}}},
                "ignore": ["lm_head"],
            },
            "int4",
            4 + 16 / 128,
        ),
    ],
)
def test_quantised_configs(quantisation: dict[str, Any], dtype: str, bits: float) -> None:
    model = from_config(_config("llama-3.1-8b") | {"quantization_config": quantisation}, "q")
    assert (model.weight_dtype, model.weight_bits) == (dtype, bits)
    assert (model.other_dtype, model.kv_dtype) == ("bf16", "bf16")
    linear = num_params(load_model("llama-3.1-8b")) - 2 * 128_256 * 4096 - 65 * 4096
    assert weight_bytes(model) == pytest.approx(linear * bits / 8 + 2 * (2 * 128_256 + 65) * 4096, rel=1e-12)


def test_what_if_stored_differently() -> None:
    base = load_model("llama-68m")
    sizes = {dtype: weight_bytes(quantized(base, dtype)) for dtype in DTYPES}
    assert sizes["fp32"] == 2 * sizes["bf16"] == 2 * sizes["fp16"] == 4 * num_params(base)
    assert sizes["bf16"] > sizes["fp8"] == sizes["int8"] > sizes["mxfp4"] > sizes["int4"]
    assert quantized(base, "fp32").kv_dtype == "fp32"
    assert quantized(base, "int4").kv_dtype == "fp16"
    assert [dtype_bytes(dtype) for dtype in DTYPES] == [4, 2, 2, 1, 1, 0.5, 0.5]


GOOD: dict[str, Any] = {**_SMALL, "model_type": "llama", "architectures": ["LlamaForCausalLM"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, r"MambaForCausalLM.*got 'mamba'"),
        ({"model_type": "rwkv", "intermediate_size": None}, "lacks head_dim, intermediate_size"),
        ({"model_type": None}, "unknown architecture"),
        ({"intermediate_size": None}, "intermediate_size: missing"),
        ({"hidden_size": None, "vocab_size": None}, "hidden_size: missing .*vocab_size"),
        ({"model_type": "qwen2", "num_key_value_heads": None}, "num_key_value_heads: missing"),
        ({"model_type": "mixtral"}, "num_local_experts: missing"),
        ({"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 5}, "from 1 to 4, got 5"),
        ({"model_type": "gemma3"}, "text_config: missing"),
        ({"model_type": "gemma2", "layer_types": ["full_attention"]}, "layer_types: must name 3 layers"),
        ({"hidden_size": -1}, "hidden_size: .*got -1"),
        ({"hidden_size": 0}, "hidden_size: .*got 0"),
        ({"hidden_size": 10**30}, "hidden_size: .*to 1000000000"),
        ({"hidden_size": "4096"}, "hidden_size: .*got '4096'"),
        ({"hidden_size": True}, "hidden_size: .*got True"),
        ({"hidden_size": [[64]]}, "hidden_size"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers: .*to 10000"),
        ({"num_attention_heads": 7}, "num_attention_heads: must divide hidden_size 64"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: must divide num_attention_heads 8"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings: must be true or false"),
        ({"torch_dtype": "float64"}, "torch_dtype: must be one of"),
        ({"quantization_config": {"quant_method": "exl3"}}, "quant_method: must be one of"),
        ({"quantization_config": [1]}, "must be a table"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 3}}, "bits: must be 4 or 8"),
        (
            {"quantization_config": {"quant_method": "fp8", "ignore": ["model.layers.0.mlp.up_proj"]}},
            "can not leave out single layers",
        ),
        ({"architectures": "LlamaForCausalLM"}, "architectures: must be a list"),
        ({"specsim_head": "hydra"}, "specsim_head: must be eagle, eagle3 or medusa"),
        ({"specsim_head": "eagle3"}, "num_hidden_layers: must be 1"),
        ({"specsim_head": "eagle", "model_type": "qwen3"}, "must be llama for an eagle head"),
        ({"medusa_num_heads": 3}, "must be a bundled model, or the base model"),
        ({"medusa_num_heads": 3, "base_model_name_or_path": "who/knows"}, "base_model_name_or_path"),
        ({"medusa_num_heads": 0, "base_model_name_or_path": "lmsys/vicuna-7b-v1.3"}, "medusa_num_heads"),
    ],
)
def test_wrong_configs_are_one_clear_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        from_config(GOOD | change, "tiny")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("tiny")


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["fp8", "eagle"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_HOSTS = ["llama-2-7b", "mistral-7b-v0.3", "gemma-3-4b", "qwen3-30b-a3b", "gpt-oss-20b", "deepseek-v3"]
_HOSTS += ["eagle3-llama-3.1-8b", "medusa-vicuna-7b", "phi-2", "qwen2.5-7b"]


@settings(max_examples=400, deadline=None)
@given(name=st.sampled_from(_HOSTS), data=st.data())
def test_a_hostile_field_is_refused_or_harmless(name: str, data: st.DataObject) -> None:
    config = _config(name)
    victim = data.draw(st.sampled_from(sorted(config)))
    try:
        model = from_config(config | {victim: data.draw(_JUNK)}, name)
    except InputError:
        return
    assert num_params(model) > 0
    assert flops_per_token(model, 1) > 0


def test_heads_are_recognised() -> None:
    single = GOOD | {"num_hidden_layers": 1}
    assert from_config(single, "m").family == "llama"
    assert from_config(single | {"specsim_head": "eagle"}, "m").family == "eagle"
    assert from_config(single | {"architectures": ["EagleLlamaForCausalLM"]}, "m").family == "eagle"
    assert from_config(single | {"architectures": ["LlamaForCausalLMEagle3"]}, "m").family == "eagle3"
    assert from_config(single | {"draft_vocab_size": 50}, "m").lm_head_rows == 50
    base = from_config(GOOD, "base")
    assert from_config({"medusa_num_heads": 3}, "m", base=base).hidden_size == 64


def test_paths(tmp_path: Path) -> None:
    (tmp_path / "my-model").mkdir()
    config = tmp_path / "my-model" / "config.json"
    config.write_text(json.dumps(GOOD))
    assert load_model(tmp_path / "my-model") == load_model(config) == from_config(GOOD, "my-model")
    config.write_text(json.dumps(GOOD)[:-9])
    for bad in (config, tmp_path, tmp_path / "absent.json", "", "a\0b", "x" * 5000):
        with pytest.raises(InputError):
            load_model(bad)
    with pytest.raises(InputError, match=r"did you mean llama-3\.1-8b"):
        load_model("llama-3.1-8")
    config.write_text("[1, 2]")
    with pytest.raises(InputError, match="must be a table"):
        load_model(config)


def test_published_spellings_name_one_model_and_no_other() -> None:
    assert load_model("Meta-Llama-3-8B_Instruct").name == "llama-3-8b"
    assert load_model("gemma 2b").name == "gemma-2b" and load_model("Gemma-2-2B-it").name == "gemma-2-2b"
    assert load_model("LLaMA-2-7B-chat-hf").name == "llama-2-7b" and load_model("LLaMA-7B").name == "llama-7b"
    for other in ("llama-9b", "gemma", "qwen3-8b-awq", "instruct"):
        with pytest.raises(InputError, match="bundled name"):
            load_model(other)
