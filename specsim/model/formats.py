"""Formats that engines on one's own GPU store weights in: GGUF's, and the weight-only and FP4 ones of edge engines."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from specsim.errors import InputError
from specsim.model.spec import Dtype, ModelSpec

Arithmetic = Literal["fp32", "bf16", "fp16", "int8", "fp8", "fp4", "w16"]
"""What a format is multiplied in for many tokens; ``w16`` is widened to 16 bits first (weight-only formats)."""


class StorageFormat(NamedTuple):
    """How a file stores a model.

    Attributes:
        layer_bits, head_bits: Bits per weight of the layers, and of the LM head, scales included.
        arithmetic: What the layers' products run in.
        group: Weights that share a scale, where the format has groups; 0 otherwise.
    """

    layer_bits: float
    head_bits: float
    arithmetic: Arithmetic
    group: int = 0

    @property
    def is_packed(self) -> bool:
        """Whether weights must be unpacked before they are multiplied."""
        return self.arithmetic not in ("fp32", "bf16", "fp16")


_Q6_K: Final = 6.5625
_16: Final = 16.0
_GROUPS_OF_128: Final = 4 + (16 + 4) / 128  # as STORAGE_BITS["int4"]

# Bits of single formats follow from the sizes of their blocks (ggml-common.h of llama.cpp): q4_0 is 32 weights of 4
# bits and an fp16 scale. Mixtures (K, XS, S, M, L) are those of the layers alone: bits per weight of the whole
# Llama-3.1-8B file (llama.cpp, tools/quantize/README.md @311c2c9: 3.16, 3.64, 4.00, 4.30, 4.46, 4.67, 4.89, 5.57, 5.70)
# less an LM head in q6_k and an embedding in the base format.
_GGUF: Final[dict[str, tuple[float, int]]] = {
    "iq1_s": (1.5625, 32),
    "iq2_xxs": (2.0625, 32),
    "iq2_xs": (2.3125, 16),
    "iq2_s": (2.5625, 16),
    "iq3_xxs": (3.0625, 32),
    "iq3_s": (3.4375, 32),
    "iq4_xs": (4.32, 32),
    "iq4_nl": (4.5, 32),
    "q2_k_s": (2.73, 16),
    "q2_k": (2.94, 16),
    "q3_k_s": (3.4375, 16),
    "q3_k_m": (3.85, 16),
    "q3_k_l": (4.19, 16),
    "q4_0": (4.5, 32),
    "q4_1": (5.0, 32),
    "q4_k_s": (4.54, 32),
    "q4_k_m": (4.80, 32),
    "q5_0": (5.5, 32),
    "q5_1": (6.0, 32),
    "q5_k_s": (5.5, 32),
    "q5_k_m": (5.65, 32),
    "q6_k": (_Q6_K, 16),
    "mxfp4": (4.25, 32),
}
FORMATS: Final[dict[str, StorageFormat]] = {
    "f32": StorageFormat(32.0, 32.0, "fp32"),
    "bf16": StorageFormat(_16, _16, "bf16"),
    "f16": StorageFormat(_16, _16, "fp16"),
    **{name: StorageFormat(bits, _Q6_K, "int8", group) for name, (bits, group) in _GGUF.items()},
    "q8_0": StorageFormat(8.5, 8.5, "int8", 32),
    # The head stays in 16 bits, but for NVFP4, whose step times on Jetson Thor leave room for 8 bits at most.
    "int4": StorageFormat(_GROUPS_OF_128, _16, "w16", 128),
    "int8": StorageFormat(8.0, _16, "w16"),
    "fp8": StorageFormat(8.0, _16, "fp8"),
    "nvfp4": StorageFormat(4 + 8 / 16, 8.0, "fp4", 16),
}
_SAME: Final[dict[str, str]] = {
    **dict.fromkeys(("fp32", "float32"), "f32"),
    **dict.fromkeys(("bfloat16",), "bf16"),
    **dict.fromkeys(("fp16", "float16", "half"), "f16"),
    **dict.fromkeys(("q4",), "q4_0"),  # what "4 bits" meant for GGUF before there were others
    **dict.fromkeys(("q8",), "q8_0"),
    "q3_k": "q3_k_m",
    "q4_k": "q4_k_m",
    "q5_k": "q5_k_m",
    **dict.fromkeys(("int4_awq", "int4_gptq", "awq", "gptq", "w4a16", "int4_wo"), "int4"),
    **dict.fromkeys(("w8a16", "int8_wo"), "int8"),
}


def storage_format(name: str) -> StorageFormat:
    """The format of that name, in any case. Raises InputError for an unknown one.

    >>> storage_format("Q4_0").layer_bits, storage_format("int4_awq").head_bits
    (4.5, 16.0)
    """
    key = name.strip().lower()
    key = _SAME.get(key, key)
    if key not in FORMATS:
        limit = "must be f32, bf16, f16, a type of GGUF (q4_0, q4_k_m, ...), fp8, int8, int4 or nvfp4"
        raise InputError("weights", limit, name)
    return FORMATS[key]


def stored_as(model: ModelSpec, storage: StorageFormat) -> ModelSpec:
    """The model's layers in this format, with activations and KV cache in 16 bits.

    The LM head's own bits have no place in a ``ModelSpec``: who prices it takes them from the format.

    >>> from specsim.model import load_model, weight_bytes
    >>> round(weight_bytes(stored_as(load_model("llama-2-7b"), storage_format("q4_0"))) / 1e9, 1)  # two ends in 16 bits
    4.2
    """
    dtypes: dict[Arithmetic, Dtype] = {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16"}
    packed: Dtype = "int4" if storage.layer_bits < 6 else "int8"
    changes = {
        "weight_dtype": dtypes.get(storage.arithmetic, packed),
        "weight_bits": storage.layer_bits,
        "attention_dtype": None,
        "other_dtype": "fp16",
        "kv_dtype": "fp16",
    }
    return model.model_copy(update=changes)
