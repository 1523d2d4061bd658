"""The shipped pair of models as GGUF files, which llama.cpp reads: ``gguf_pair.py FOLDER``.

Needs the packages gguf, numpy, torch and safetensors. Weights are written as fp32, as the executor computes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

NAMES: Final = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def write_gguf(checkpoint: Path, tokenizer: Path, out: Path) -> None:
    """One checkpoint of a Hugging Face Llama as a GGUF file with its byte-level BPE vocabulary."""
    import gguf
    from safetensors.torch import load_file

    config = json.loads((checkpoint / "config.json").read_text())
    writer = gguf.GGUFWriter(str(out), "llama")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_name(checkpoint.name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_tokenizer(writer, json.loads(tokenizer.read_text()), config["vocab_size"])
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        values = tensor.float().numpy()
        if name.endswith("q_proj.weight"):
            values = _interleaved(values, heads)
        if name.endswith("k_proj.weight"):
            values = _interleaved(values, kv_heads)
        writer.add_tensor(_renamed(name), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, tokenizer: dict[str, Any], num_tokens: int) -> None:
    """A byte-level BPE vocabulary is what llama.cpp calls gpt2; neither model has a token that begins or ends."""
    words = {index: word for word, index in tokenizer["model"]["vocab"].items()}
    words |= {one["id"]: one["content"] for one in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([words.get(index, f"<unused{index}>") for index in range(num_tokens)])
    writer.add_token_types([1 if index in words else 5 for index in range(num_tokens)])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]])
    # Left out, llama.cpp takes token 11 for the end, which is a comma here. No text in UTF-8 holds the byte 0xFF.
    never = tokenizer["model"]["vocab"]["ÿ"]
    writer.add_eos_token_id(never)
    writer.add_bos_token_id(never)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)


def _renamed(name: str) -> str:
    """``model.layers.3.self_attn.q_proj.weight`` is ``blk.3.attn_q.weight`` there."""
    stem = name.removesuffix(".weight")
    if stem in NAMES:
        return f"{NAMES[stem]}.weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.weight"


def _interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows so that the two halves that RoPE turns together stand side by side, as llama.cpp turns them."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def main(folder: Path) -> None:
    from specsim.executor.session import TINY

    for name in ("target", "draft"):
        write_gguf(TINY / name, TINY / "tokenizer.json", folder / f"{name}.gguf")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
