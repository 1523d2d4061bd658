"""Checkpoints that are not what they claim get one line, never a traceback of another kind."""

from __future__ import annotations

import json
import pickle
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny_models import SHAPE, random_weights, save_checkpoint

from specsim.errors import InputError
from specsim.executor.llama import load_llama
from specsim.executor.weights import read_shape

WEIGHTS = random_weights(SHAPE, seed=0)
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def refused(directory: Path) -> str:
    """The one line that loading answers with."""
    with pytest.raises(InputError) as caught:
        load_llama(directory)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 400
    return line


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"model_type": "gpt2"}, "model_type: the executor runs llama, mistral, qwen2, qwen3, got 'gpt2'"),
        ({"model_type": None}, "model_type: the executor runs llama, mistral, qwen2, qwen3, got None"),
        ({"num_attention_heads": 0}, "num_attention_heads: must be a whole number from 1 to 10000000, got 0"),
        ({"num_attention_heads": "4"}, "num_attention_heads: must be a whole number from 1 to 10000000, got '4'"),
        ({"num_attention_heads": 4.0}, "num_attention_heads: must be a whole number from 1 to 10000000, got 4.0"),
        ({"num_attention_heads": True}, "num_attention_heads: must be a whole number from 1 to 10000000, got True"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: must divide num_attention_heads = 4, got 3"),
        ({"num_key_value_heads": 8}, "num_key_value_heads: must divide num_attention_heads = 4, got 8"),
        ({"hidden_size": 18}, "hidden_size: must be a multiple of num_attention_heads = 4, got 18"),
        ({"head_dim": 5}, "head_dim: must be even: rotary embeddings turn pairs, got 5"),
        ({"hidden_size": None}, "hidden_size: must be a whole number from 1 to 10000000, got None"),
        ({"vocab_size": -1}, "vocab_size: must be a whole number from 1 to 10000000, got -1"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers: must be a whole number from 1 to 1000, got 1000000"),
        ({"max_position_embeddings": 10**9}, "max_position_embeddings: must be a whole number from 1 to 1048576"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps: must be a number above 0 and below 1e30, got 'small'"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps: must be a number above 0 and below 1e30, got nan"),
        ({"rope_theta": 10**400}, "rope_theta: must be a number above 0 and below 1e30, got 1000"),
        ({"rope_theta": [1.0]}, "rope_theta: must be a number above 0 and below 1e30, got [1.0]"),
        ({"rope_parameters": [1]}, "rope_parameters: must be an object, got [1]"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "low_freq_factor: must be a number above 0"),
        ({"rope_scaling": {"type": "linear"}}, "factor: must be a number above 0"),
        ({"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}}, "high_freq_factor: must be > low_freq_factor = 4, got 4"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type: must be default, linear or llama3"),
        ({"attention_bias": "no"}, "attention_bias: must be true or false, got 'no'"),
        ({"sliding_window": -1, "model_type": "mistral"}, "sliding_window: must be a whole number from 1"),
        ({"attention_bias": True}, "model.layers.0.self_attn.q_proj.bias: must be in the checkpoint with shape (16,)"),
        ({"model_type": "qwen3"}, "model.layers.0.self_attn.q_norm.weight: must be in the checkpoint"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings: must be true or false, got 'no'"),
        ({"hidden_act": "gelu"}, "hidden_act: must be 'silu', got 'gelu'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: must be absent"),
    ],
)
def test_a_config_that_can_not_be_run_is_refused(change: dict[str, Any], line: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, WEIGHTS, **change)
    assert refused(tmp_path).startswith(line)


def test_a_config_without_optional_fields_has_the_defaults_of_the_format(tmp_path: Path) -> None:
    optional = ["num_key_value_heads", "rms_norm_eps", "rope_theta", "hidden_act", "tie_word_embeddings"]
    save_checkpoint(tmp_path, WEIGHTS, max_position_embeddings=None, **dict.fromkeys(optional))
    defaults = {"num_kv_heads": 4, "norm_eps": 1e-6, "max_context_tokens": 2048}
    assert read_shape(tmp_path) == replace(SHAPE, **defaults)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", '{"model_type": "llama"', "\x00", "[" * 100_000])
def test_a_config_that_is_no_config_is_refused(text: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, WEIGHTS)
    (tmp_path / "config.json").write_text(text)
    assert refused(tmp_path).startswith("config.json: ")


def test_absent_files_are_named(tmp_path: Path) -> None:
    assert "config.json: can not be read" in refused(tmp_path / "nowhere")
    save_checkpoint(tmp_path, WEIGHTS)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(WEIGHTS))
    assert refused(tmp_path).startswith("weights: must be *.safetensors in the directory (other formats can run code)")


def test_a_pickle_by_another_name_is_not_executed(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.write_text, (tmp_path / "executed", "boom"))

    save_checkpoint(tmp_path, WEIGHTS)
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    assert refused(tmp_path).startswith("model.safetensors: not a readable safetensors file")
    assert not (tmp_path / "executed").exists()


def header(entries: dict[str, Any]) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    {
        "empty": b"",
        "garbage": b"\x93not a tensor" * 50,
        "a header of 2**63 bytes": struct.pack("<Q", 2**63) + b"{}",
        "a header longer than the file": struct.pack("<Q", 10**6) + b"{}",
        "no JSON": struct.pack("<Q", 2) + b"{]",
        "a tensor of 2**80 bytes": header({"t": {"dtype": "F32", "shape": [2**40, 2**38], "data_offsets": [0, 4]}}),
        "a tensor beyond the end": header({"t": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}),
        "negative offsets": header({"t": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}),
        "an unknown dtype": header({"t": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}) + b"0000",
    }.items(),
    ids=lambda item: item[0],
)
def test_weights_that_are_no_weights_are_refused(content: tuple[str, bytes], tmp_path: Path) -> None:
    save_checkpoint(tmp_path, WEIGHTS)
    (tmp_path / "model.safetensors").write_bytes(content[1])
    assert refused(tmp_path).startswith("model.safetensors: not a readable safetensors file (")


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, WEIGHTS) / "model.safetensors"
    whole = path.read_bytes()
    for size in [4, 8, 100, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:size])
        assert refused(tmp_path).startswith("model.safetensors: not a readable safetensors file (")


def test_tensors_that_do_not_fit_the_config_are_named(tmp_path: Path) -> None:
    up, head = "model.layers.1.mlp.up_proj.weight", "lm_head.weight"
    save_checkpoint(tmp_path, {name: t for name, t in WEIGHTS.items() if name != up})
    assert refused(tmp_path) == f"{up}: must be in the checkpoint with shape (24, 16)"
    save_checkpoint(tmp_path, WEIGHTS | {up: WEIGHTS[up].T})
    assert refused(tmp_path) == f"{up}: must have shape (24, 16), got (16, 24)"
    save_checkpoint(tmp_path, WEIGHTS, num_hidden_layers=3)
    assert refused(tmp_path).startswith("model.layers.2.input_layernorm.weight: must be in the checkpoint")
    save_checkpoint(tmp_path, WEIGHTS | {up: torch.full_like(WEIGHTS[up], torch.nan)})
    assert refused(tmp_path).startswith(f"{up}: must be finite")
    stored = {name: tensor.float() for name, tensor in WEIGHTS.items()}
    save_file(stored | {head: torch.ones(12, 16, dtype=torch.int8)}, tmp_path / "model.safetensors")
    assert refused(tmp_path).startswith(f"{head}: must be stored in float64, float32, float16 or bfloat16")


def test_weights_may_be_split_over_files_and_bring_more_than_is_needed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, WEIGHTS)
    whole = load_llama(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    stored = {name: tensor.float() for name, tensor in WEIGHTS.items()} | {"unused.weight": torch.ones(3)}
    names = list(stored)
    for part in range(2):
        save_file({name: stored[name] for name in names[part::2]}, tmp_path / f"model-{part}.safetensors")
    assert torch.equal(load_llama(tmp_path).embedding, whole.embedding)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1), byte=st.integers(0, 255), in_header=st.booleans())
def test_one_wrong_byte_is_refused_or_harmless(place: float, byte: int, in_header: bool, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, WEIGHTS) / "model.safetensors"
    content = bytearray(path.read_bytes())
    end = 8 + struct.unpack("<Q", content[:8])[0] if in_header else len(content)
    content[min(int(place * end), end - 1)] = byte
    path.write_bytes(content)
    try:
        load_llama(tmp_path)
    except InputError as error:
        assert "\n" not in str(error)
