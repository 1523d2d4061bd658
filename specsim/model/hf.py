"""Loading a shape: from a bundled name, a Hugging Face ``config.json``, or a config already read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from specsim.documents import read_json
from specsim.errors import InputError
from specsim.model import dense, heads, sparse
from specsim.model.fields import Fields
from specsim.model.spec import ModelSpec

_FAMILIES: Final[dict[str, Callable[[Fields], ModelSpec]]] = {  # each function has the name of its model_type
    function.__name__: function
    for function in (
        *(dense.llama, dense.mistral, dense.qwen2, dense.qwen3, dense.phi, dense.phi3),
        *(dense.gemma, dense.gemma2, dense.gemma3, dense.gemma3_text, dense.falcon, dense.qwen2_5_vl, dense.qwen3_vl),
        *(sparse.mixtral, sparse.granitemoe, sparse.qwen2_moe, sparse.qwen3_moe, sparse.gpt_oss),
        *(sparse.deepseek_v2, sparse.deepseek_v3),
    )
}
_CONFIGS = Path(__file__).parent / "configs"
_TUNED: Final = frozenset(("instruct", "chat", "it", "hf", "base"))
# Names that published tables use for a bundled shape, or for a model that has the shape of a bundled one.
_OTHERWISE: Final = {
    "mistral7b": "mistral-7b-v0.1",
    "mixtral": "mixtral-8x7b",
    "llama8b": "llama-3.1-8b",
    "llama1b": "llama-3.2-1b",
    "granitemoe3b": "granite-3.0-3b-a800m",
    "granitemoe1b": "granite-3.0-1b-a400m",
    **dict.fromkeys(("phi3mini4k", "phi3mini128k", "phi3.5mini"), "phi-3-mini"),
    "mistral7bv0.2": "mistral-7b-v0.1",
    "deepseekr1distillllama8b": "llama-3.1-8b",
    "deepseekcoderv2lite": "deepseek-v2-lite",
    **{f"qwen2{size}": f"qwen2.5-{size}" for size in ("0.5b", "1.5b", "7b", "72b")},
}
# Sizes that any decoder config must state; what an unknown architecture is told.
_SHAPE_FIELDS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("intermediate_size", "vocab_size", "tie_word_embeddings"),
)


def model_names() -> list[str]:
    """Names of the bundled models and draft heads, sorted.

    >>> {"llama-3.1-8b", "eagle3-llama-3.1-8b", "deepseek-r1"} <= set(model_names())
    True
    """
    return sorted(path.stem for path in _CONFIGS.glob("*.json"))


def load_model(name_or_path: str | Path) -> ModelSpec:
    """The shape of a bundled model (by name or Hugging Face id), of a ``config.json``, or of a directory holding one.

    A name may be spelled as people do: any case, blanks or underscores for dashes, with its owner or ``-Instruct``.

    Raises:
        InputError: an unknown name, an unreadable file, an unknown architecture, a missing or impossible field.

    >>> load_model("Granite-MoE-3B").name, load_model("Qwen3 4B-Instruct").name
    ('granite-3.0-3b-a800m', 'qwen3-4b')
    >>> load_model("Llama-3.1-8B").hidden_size, load_model("meta-llama/Llama-3.1-8B-Instruct").name
    (4096, 'llama-3.1-8b')
    """
    text = str(name_or_path)
    name = _bundled_name(text)
    if name is not None:
        return from_config(read_json(_CONFIGS / f"{name}.json"), name)
    path = _config_file(text)
    if path is None:
        raise InputError("model", f"must be a config.json or a bundled name{_suggestion(text)}", text)
    return from_config(read_json(path), path.resolve().parent.name if path.stem == "config" else path.stem)


def from_config(config: Any, name: str, *, base: ModelSpec | None = None) -> ModelSpec:
    """The shape that a Hugging Face config describes; unknown architectures are refused, never guessed.

    A draft head is recognised by ``"specsim_head": "eagle" | "eagle3" | "medusa"``, an ``Eagle`` or ``Eagle3``
    architecture, ``draft_vocab_size`` or ``medusa_num_heads``. Published EAGLE and EAGLE-2 heads look like a Llama of
    one layer: add ``"specsim_head": "eagle"`` to their config.

    Args:
        config: The parsed JSON.
        name: Name of the model in messages and tables.
        base: The model under Medusa heads, where ``base_model_name_or_path`` is not a bundled one.
    """
    fields = Fields(name, config)
    head = _head_kind(fields)
    try:
        if head == "medusa":
            return heads.medusa(fields, base or _medusa_base(fields))
        family = _family(fields)
        if head is None:
            return _FAMILIES[family](fields)
        if family != "llama":
            raise fields.error("model_type", f"must be llama for an {head} head")
        return heads.eagle(fields) if head == "eagle" else heads.eagle3(fields)
    except ValidationError as error:
        raise InputError.from_validation(error, name) from None


def _config_file(text: str) -> Path | None:
    path = Path(text)
    try:
        path = path / "config.json" if path.is_dir() else path
        return path if path.is_file() else None
    except OSError:  # a name too long to be a path
        return None


def _head_kind(fields: Fields) -> str | None:
    kind = fields.text("specsim_head")
    if kind not in (None, "eagle", "eagle3", "medusa"):
        raise fields.error("specsim_head", "must be eagle, eagle3 or medusa")
    architectures = " ".join(fields.items("architectures", str)).lower()
    if kind is not None:
        return kind
    if "eagle3" in architectures or fields.get("draft_vocab_size") is not None:
        return "eagle3"
    if "medusa" in architectures or fields.get("medusa_num_heads") is not None:
        return "medusa"
    return "eagle" if "eagle" in architectures else None


def _family(fields: Fields) -> str:
    family = fields.text("model_type")
    if family in _FAMILIES:
        return family
    architectures = ", ".join(fields.items("architectures", str)) or "not stated"
    missing = [key for key in _SHAPE_FIELDS if fields.get(key) is None]
    lacks = f"; the config also lacks {', '.join(missing)}" if missing else ""
    limit = f"unknown architecture ({architectures}); known are {', '.join(sorted(_FAMILIES))}{lacks}"
    raise InputError(f"{fields.name}: model_type", limit, family)


def _medusa_base(fields: Fields) -> ModelSpec:
    base = fields.text("base_model_name_or_path")
    name = None if base is None else _bundled_name(base)
    if name is None:
        limit = "must be a bundled model, or the base model must be given: a Medusa config holds no sizes"
        raise fields.error("base_model_name_or_path", limit)
    return load_model(name)


def _bundled_name(text: str) -> str | None:
    key = text.lower()
    if key in model_names():
        return key
    return _sources().get(key) or _spellings().get(_spelling(key))


@cache
def _sources() -> dict[str, str]:
    """Bundled names by the Hugging Face id that their config names as its source."""
    return {str(read_json(_CONFIGS / f"{name}.json").get("_source")).lower(): name for name in model_names()}


@cache
def _spellings() -> dict[str, str]:
    """Bundled names by their spelling; a spelling that two of them share names neither."""
    pairs = [(_spelling(name), name) for name in model_names()]
    return {key: name for key, name in pairs if [k for k, _ in pairs].count(key) == 1} | _OTHERWISE


def _spelling(text: str) -> str:
    """A model's name without its owner, what it was tuned for, and the marks between words.

    >>> _spelling("meta-llama/Meta-Llama-3-8B_Instruct") == _spelling("llama 3 8b")
    True
    """
    words = re.split(r"[-_ ]+", text.lower().strip().split("/")[-1].removesuffix(".gguf").removeprefix("meta-"))
    return "".join(word for word in words if word not in _TUNED)


def _suggestion(text: str) -> str:
    close = difflib.get_close_matches(text.lower(), model_names(), n=3)
    return f" (did you mean {', '.join(close)}?)" if close else " (`specsim model list` names them)"
