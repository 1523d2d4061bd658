"""The hand-written Llama is the Llama: the same logits as Transformers', however the tokens are fed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import SHAPE, plain_logits, random_weights, save_checkpoint

from specsim.errors import InputError
from specsim.executor.llama import Llama, extend_ffn, load_llama
from specsim.executor.weights import Rope

TOKENS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 11, 7, 0, 10, 2, 8, 4, 6]
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
SCALED = {"rope_type": "llama3", "rope_theta": 10000.0, **LLAMA3}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grouped heads": ({}, {}),
    "one head each": ({"num_key_value_heads": 4}, {"num_kv_heads": 4}),
    "heads by default": ({"num_key_value_heads": None}, {"num_kv_heads": 4}),
    "one shared head": ({"num_key_value_heads": 1}, {"num_kv_heads": 1}),
    "tied": ({"tie_word_embeddings": True}, {"tied_embeddings": True}),
    "wide heads": ({"head_dim": 10}, {"head_dim": 10}),
    "slow rotation": ({"rope_theta": 500000.0}, {"rope_theta": 500000.0}),
    "newer rotary table": (
        {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        {"rope_theta": 500.0},
    ),
    "large epsilon": ({"rms_norm_eps": 0.1}, {"norm_eps": 0.1}),
    "stretched evenly": ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, {"rope": Rope("linear", 4.0)}),
    "stretched as Llama 3.1": (
        {"rope_theta": None, "rope_parameters": SCALED, "head_dim": 16},
        {"rope": Rope("llama3", 8.0, 1.0, 4.0, 16), "head_dim": 16},
    ),
    "biased": (
        {"attention_bias": True, "mlp_bias": True},
        {"qkv_bias": True, "out_bias": True, "mlp_bias": True},
    ),
    "mistral": ({"model_type": "mistral", "sliding_window": None, "head_dim": 6}, {"head_dim": 6}),
    "mistral with a window": (
        {"model_type": "mistral", "sliding_window": 64, "head_dim": 6},
        {"head_dim": 6, "max_context_tokens": 64},
    ),
    "qwen2": ({"model_type": "qwen2"}, {"qkv_bias": True}),
    "qwen3": ({"model_type": "qwen3", "head_dim": 6}, {"qk_norm": True, "head_dim": 6}),
}
"""What the config says, and what the shape then is, worked out here and not by the reader under test."""
CLASSES = {"mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("config", "fields"), VARIANTS.values(), ids=VARIANTS.keys())
def test_logits_are_those_of_transformers(
    config: dict[str, Any], fields: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    shape = replace(SHAPE, **fields)
    name = CLASSES.get(config.get("model_type", ""), "LlamaForCausalLM")
    save_checkpoint(tmp_path, random_weights(shape, seed=1), dtype, architectures=[name], **config)
    oracle = getattr(transformers, name).from_pretrained(tmp_path, dtype=dtype).eval()
    with torch.inference_mode():
        expected = oracle(torch.tensor([TOKENS])).logits[0]
    model = load_llama(tmp_path, dtype)
    assert model.shape == shape
    assert expected.std() > 0.5
    # Logits of order 10 after some fifty roundings of fp32; Transformers keeps norms in fp32 even in a fp64 model.
    rounding = 2e-5
    torch.testing.assert_close(plain_logits(model, TOKENS), expected, rtol=0, atol=rounding)
    torch.testing.assert_close(fed_in_runs(model, [1] * len(TOKENS)), expected, rtol=0, atol=rounding)
    torch.testing.assert_close(fed_in_runs(model, [7, 1, 2, 10]), expected, rtol=0, atol=rounding)


def fed_in_runs(model: Llama, sizes: list[int]) -> torch.Tensor:
    """Logits of ``TOKENS`` fed in runs of these sizes, through one cache."""
    cache, parts = model.new_cache(len(TOKENS)), torch.tensor(TOKENS).split(sizes)
    logits = []
    for part in parts:
        logits.append(model.logits(model.prefill(part[None], cache))[0])
        cache.rewind([cache.end])
    assert cache.lengths == [len(TOKENS)]
    return torch.cat(logits)


def test_packed_weights_give_the_same_logits_within_rounding(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, random_weights(SHAPE, seed=2))
    plain, packed = load_llama(tmp_path), load_llama(tmp_path, packed=True)
    torch.testing.assert_close(plain_logits(packed, TOKENS), plain_logits(plain, TOKENS), rtol=0, atol=2e-5)
    torch.testing.assert_close(fed_in_runs(packed, [1] * 4 + [16]), plain_logits(plain, TOKENS), rtol=0, atol=2e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_an_extended_mlp_costs_more_and_computes_the_same(packed: bool, tmp_path: Path) -> None:
    weights = random_weights(SHAPE, seed=3)
    save_checkpoint(tmp_path, weights)
    small, large = load_llama(tmp_path, packed=packed), load_llama(tmp_path, packed=packed, ffn_size=160)
    assert large.shape == replace(SHAPE, intermediate_size=160)
    torch.testing.assert_close(plain_logits(large, TOKENS), plain_logits(small, TOKENS), rtol=0, atol=2e-5)
    shape, extended = extend_ffn(SHAPE, weights, 160)
    assert extended["model.layers.1.mlp.gate_proj.weight"].shape == (160, 16)
    assert extended["model.layers.1.mlp.down_proj.weight"].shape == (16, 160)
    double = plain_logits(Llama(shape, extended, torch.float64), TOKENS)
    torch.testing.assert_close(double, plain_logits(Llama(SHAPE, weights, torch.float64), TOKENS), rtol=0, atol=1e-12)


def test_an_mlp_can_not_be_extended_to_less() -> None:
    with pytest.raises(InputError, match="ffn_size: must be >= 24, the model's own, got 23"):
        extend_ffn(SHAPE, random_weights(SHAPE, seed=0), 23)


def test_bfloat16_runs_and_stays_near() -> None:
    weights = random_weights(SHAPE, seed=5)
    exact, rounded = (plain_logits(Llama(SHAPE, weights, dtype), TOKENS) for dtype in (torch.float64, torch.bfloat16))
    assert rounded.dtype == torch.bfloat16
    # bf16 keeps 8 bits; a few roundings on logits of order 5.
    torch.testing.assert_close(rounded.double(), exact, rtol=0, atol=0.5)
