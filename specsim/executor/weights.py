"""Reading a checkpoint: a Hugging Face ``config.json`` and safetensors beside it. Nothing in it is ever executed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors import SafetensorError, safe_open

from specsim.documents import read_json
from specsim.errors import InputError

MAX_LAYERS = 1000
MAX_CONTEXT_TOKENS = 2**20
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Rope:
    """How rotary frequencies are slowed for texts longer than those first trained on."""

    kind: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context_tokens: int = 8192


@dataclass(frozen=True)
class LlamaShape:
    """What the forward pass of a Llama, or of one of its near relatives, needs to know."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_context_tokens: int
    rope_theta: float
    norm_eps: float
    tied_embeddings: bool
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    rope: Rope | None = None


FAMILIES: Final = ("llama", "mistral", "qwen2", "qwen3")


def read_shape(directory: Path) -> LlamaShape:
    """The shape in ``config.json``. Raises InputError for another family, a missing field, or a feature not built."""
    config = read_json(directory / "config.json")
    if not isinstance(config, dict):
        raise InputError("config.json", "must be an object", config)
    family = config.get("model_type")
    if family not in FAMILIES:
        raise InputError("model_type", f"the executor runs {', '.join(FAMILIES)}", family)
    heads = _positive(config, "num_attention_heads")
    hidden = _positive(config, "hidden_size")
    kv_heads = _positive(config, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise InputError("num_key_value_heads", f"must divide num_attention_heads = {heads}", kv_heads)
    if hidden % heads and config.get("head_dim") is None:
        raise InputError("hidden_size", f"must be a multiple of num_attention_heads = {heads}", hidden)
    head_dim = _positive(config, "head_dim", hidden // heads)
    if head_dim % 2:
        raise InputError("head_dim", "must be even: rotary embeddings turn pairs", head_dim)
    _check_features(config)
    return LlamaShape(
        hidden_size=hidden,
        num_layers=_positive(config, "num_hidden_layers", most=MAX_LAYERS),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=_positive(config, "intermediate_size"),
        vocab_size=_positive(config, "vocab_size"),
        max_context_tokens=_context(config, family),
        rope_theta=_real(config | _rope(config), "rope_theta", 10000.0),
        norm_eps=_real(config, "rms_norm_eps", 1e-6),
        tied_embeddings=_flag(config, "tie_word_embeddings"),
        qkv_bias=family == "qwen2" or _flag(config, "attention_bias"),
        out_bias=family != "qwen2" and _flag(config, "attention_bias"),
        mlp_bias=_flag(config, "mlp_bias"),
        qk_norm=family == "qwen3",
        rope=_scaling(config),
    )


def _context(config: dict[str, Any], family: str) -> int:
    """Most tokens of a text. Where layers attend to a sliding window, texts within it do not tell the difference."""
    most = _positive(config, "max_position_embeddings", 2048, most=MAX_CONTEXT_TOKENS)
    slides = _flag(config, "use_sliding_window") if family.startswith("qwen") else config.get("sliding_window")
    return min(most, _positive(config, "sliding_window", most)) if slides else most


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """Rotary parameters: of their own table in newer configs, of ``rope_scaling`` in older ones."""
    for field in ("rope_parameters", "rope_scaling"):
        rope = config.get(field) or {}
        if not isinstance(rope, dict):
            raise InputError(field, "must be an object", rope)
        if rope:
            return rope
    return {}


def _scaling(config: dict[str, Any]) -> Rope | None:
    rope = _rope(config)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return Rope("linear", _real(rope, "factor", None))
    if kind != "llama3":
        raise InputError("rope_type", "must be default, linear or llama3: other scalings are not built", kind)
    low, high = (_real(rope, f"{end}_freq_factor", None) for end in ("low", "high"))
    if low >= high:
        raise InputError("high_freq_factor", f"must be > low_freq_factor = {low:g}", high)
    return Rope("llama3", _real(rope, "factor", None), low, high, _positive(rope, "original_max_position_embeddings"))


def _check_features(config: dict[str, Any]) -> None:
    """Refuse what would change the function and is not built, rather than leave it out silently."""
    if config.get("hidden_act", "silu") != "silu":
        raise InputError("hidden_act", "must be 'silu'", config["hidden_act"])
    if config.get("quantization_config"):
        raise InputError("quantization_config", "must be absent: quantised weights are not built")


def read_weights(directory: Path, shape: LlamaShape) -> dict[str, torch.Tensor]:
    """Every tensor that the shape asks for, as stored. Raises InputError where one is missing, misshapen or broken."""
    return read_tensors(directory, expected_tensors(shape))


def read_tensors(directory: Path, expected: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Tensors of these names and shapes, as stored. Raises InputError where one is missing, misshapen or broken."""
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        limit = "must be *.safetensors in the directory (other formats can run code)"
        raise InputError("weights", limit, directory.name)
    found: dict[str, torch.Tensor] = {}
    for path in files:
        try:
            with safe_open(str(path), framework="pt", device="cpu") as file:
                names = [name for name in file.keys() if name in expected]  # noqa: SIM118
                found.update({name: file.get_tensor(name) for name in names})
        # A broken header raises what its defect happens to hit, an unknown dtype for instance a KeyError.
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise InputError(path.name, f"not a readable safetensors file ({_one_line(error)})") from None
    for name, wanted in expected.items():
        if name not in found:
            raise InputError(name, f"must be in the checkpoint with shape {wanted}")
        _check_tensor(name, found[name], wanted)
    return {name: found[name] for name in expected}


def _check_tensor(name: str, tensor: torch.Tensor, wanted: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != wanted:
        raise InputError(name, f"must have shape {wanted}", tuple(tensor.shape))
    if tensor.dtype not in _DTYPES:
        raise InputError(name, "must be stored in float64, float32, float16 or bfloat16", str(tensor.dtype))
    if not bool(torch.isfinite(tensor).all()):
        raise InputError(name, "must be finite: NaN or infinity would decide every token")


def expected_tensors(shape: LlamaShape) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a checkpoint."""
    h, f, d = shape.hidden_size, shape.intermediate_size, shape.head_dim
    products = {
        "self_attn.q_proj": (shape.num_heads * d, h, shape.qkv_bias),
        "self_attn.k_proj": (shape.num_kv_heads * d, h, shape.qkv_bias),
        "self_attn.v_proj": (shape.num_kv_heads * d, h, shape.qkv_bias),
        "self_attn.o_proj": (h, shape.num_heads * d, shape.out_bias),
        "mlp.gate_proj": (f, h, shape.mlp_bias),
        "mlp.up_proj": (f, h, shape.mlp_bias),
        "mlp.down_proj": (h, f, shape.mlp_bias),
    }
    norms = {"input_layernorm": h, "post_attention_layernorm": h}
    norms |= {"self_attn.q_norm": d, "self_attn.k_norm": d} if shape.qk_norm else {}
    names: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (shape.vocab_size, h),
        "model.norm.weight": (h,),
    }
    for layer in (f"model.layers.{index}." for index in range(shape.num_layers)):
        names |= {f"{layer}{name}.weight": (size,) for name, size in norms.items()}
        for name, (outputs, inputs, biased) in products.items():
            names[f"{layer}{name}.weight"] = (outputs, inputs)
            names |= {f"{layer}{name}.bias": (outputs,)} if biased else {}
    return names if shape.tied_embeddings else names | {"lm_head.weight": (shape.vocab_size, h)}


def _positive(config: dict[str, Any], field: str, default: int | None = None, most: int = 10**7) -> int:
    value = config.get(field)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise InputError(field, f"must be a whole number from 1 to {most}", value)
    return value


def _real(config: dict[str, Any], field: str, default: float | None) -> float:
    value = default if config.get(field) is None else config[field]
    # Whole numbers are compared before they become floats: one of 400 digits has none.
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e30:
        raise InputError(field, "must be a number above 0 and below 1e30", value)
    return float(value)


def _flag(config: dict[str, Any], field: str) -> bool:
    value = config.get(field)
    if value is not None and not isinstance(value, bool):
        raise InputError(field, "must be true or false", value)
    return bool(value)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
