"""How an engine launches passes: graphs captured for some sizes, layer by layer beyond them, and its host's time."""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

import numpy as np

from specsim.cost.params import CostParams, Runtime, Spread, host_params
from specsim.dialects_known import SGLANG_CAPTURED
from specsim.documents import Document
from specsim.errors import InputError
from specsim.hardware import HardwareProfile
from specsim.work import Float, Pass

Engine = Literal["vllm", "sglang", "trtllm", "hf"]
Sizes = tuple[tuple[int, int, int], ...]
_ROUNDING: Final = 1e-12
"""Relative error of a few products of doubles, with room; no mean count of tokens is that close to a whole one."""


class EngineClass(Document):
    """What of a pass's time is the engine's and not the device's.

    Attributes:
        kernels: Whose kernels' fits hold, as measured tables name engines.
        captured: Sizes of captured graphs as ``(first, last, step)``; a pass is padded to the next one. Empty where the
            sizes are not known (nothing is padded, all is captured) or nothing is captured.
        counts: What such a size counts: tokens, or sequences.
        captures_prompts: Whether prompts run in graphs too, up to the largest size.
        layer_s: Host time of a layer launched from Python, where a pass runs outside graphs: the pass then lasts as
            long as the slower of host and device. None where all runs in graphs.
        always_eager: Whether nothing is captured.
        step_s, round_s, draft_s: Host time that the device waits for: per engine step, more per speculative round, and
            per draft pass.
        source: Where the sizes were read.
    """

    kernels: str
    captured: Sizes = ()
    counts: Literal["tokens", "sequences"] = "tokens"
    captures_prompts: bool = False
    layer_s: Spread | None = None
    always_eager: bool = False
    step_s: Spread
    round_s: Spread
    draft_s: Spread
    source: str = ""

    def padded_tokens(self, work: Pass) -> Float:
        """Tokens that the layers run on, shape [...]: the pass's own, up to the next captured size."""
        tokens = _whole(work.total_new_tokens)
        if not self.captured or (work.kind == "prefill" and not self.captures_prompts):
            return tokens
        size = self._size(work)
        padded = np.where(size > 0, round_up(size, self.captured), 0.0)
        if self.counts == "tokens":
            return np.asarray(padded)
        # Whole numbers stay whole: the product is exact, and its ratio rounds to the nearest.
        return np.asarray(tokens * padded / np.maximum(size, np.finfo(float).tiny))

    def is_eager(self, work: Pass) -> Any:
        """Where the pass runs outside graphs, shape [...]."""
        if self.always_eager or (work.kind == "prefill" and self.captured and not self.captures_prompts):
            return np.ones(work.total_new_tokens.shape, dtype=bool)
        if not self.captured:
            return np.zeros(work.total_new_tokens.shape, dtype=bool)
        return self._size(work) > max(last for _, last, _ in self.captured)

    def _size(self, work: Pass) -> Float:
        return _whole(work.total_new_tokens if self.counts == "tokens" else np.sum(work.num_seqs, axis=-1))


def _whole(counts: Any) -> Float:
    """Counts that are whole but for the rounding of a product (512 tokens as 170.67 times 3) made whole: above a
    captured size, or a tile, the next one begins.

    >>> _whole(np.array([512 + 1e-10, 3.3])).tolist()
    [512.0, 3.3]
    """
    nearest = np.rint(counts)
    return np.asarray(np.where(np.abs(counts - nearest) <= _ROUNDING * nearest, nearest, counts))


def round_up(size: Float, captured: Sizes) -> Float:
    """The next captured size; ``size`` itself beyond the largest.

    >>> round_up(np.array([1.0, 3.0, 9.5, 600.0]), ((1, 2, 1), (4, 4, 1), (8, 512, 8))).tolist()
    [1.0, 4.0, 16.0, 600.0]
    """
    sizes = np.array([s for first, last, step in captured for s in range(first, last + 1, step)], dtype=float)
    place = np.minimum(np.searchsorted(sizes, size), len(sizes) - 1)
    return np.asarray(np.where(size <= sizes[-1], sizes[place], size))


_VLLM_CAPTURED: Final[Sizes] = ((1, 2, 1), (4, 4, 1), (8, 248, 8))
_TRTLLM_CAPTURED: Final[Sizes] = ((1, 2, 1), (4, 4, 1), (8, 128, 8), (192, 2048, 64))
_BEYOND: Final = Spread(
    value=0.84e-3,
    log_sd=0.4,
    source="vLLM on GH200, Apertus 8B: 27 ms for 32 layers at 640 and at 768 tokens, past the largest captured graph "
    "(Apertus study @db3d356)",
)
_CLASSES: Final[dict[Engine, dict[str, Any]]] = {
    "vllm": {
        "kernels": "vllm",
        "captures_prompts": True,
        "layer_s": _BEYOND,
        "source": "vLLM 0.30, vllm/config/compilation.py: 1, 2, 4, steps of 8 to 256, of 16 to 512 tokens, or to 1024 "
        "on datacenter Blackwell; at most twice the sequences that it was started for, which are taken as enough",
    },
    "sglang": {
        "kernels": "sglang",
        "captured": SGLANG_CAPTURED,
        "counts": "sequences",
        "layer_s": _BEYOND,
        "source": "the sizes of specsim.dialect, read from SGLang 0.5.5 to 0.5.23; only decoding is captured",
    },
    "trtllm": {
        "kernels": "trtllm",
        "captured": _TRTLLM_CAPTURED,
        "counts": "sequences",
        "layer_s": _BEYOND,
        "source": "TensorRT-LLM 1.2, CudaGraphConfig with padding: 1, 2, 4, steps of 8 to 128, steps of 64 to the "
        "largest batch, which is taken as that of its engines",
    },
    "hf": {"kernels": "vllm", "always_eager": True, "source": "Transformers launches every kernel from Python"},
}
"""By engine. Transformers' own kernels (cuBLAS, SDPA) were not measured; vLLM's call the same libraries."""


def engine_class(engine: str, runtime: Runtime, hardware: HardwareProfile) -> EngineClass:
    """The class of an engine on a device, or of any engine with that runtime where none is named.

    Raises:
        InputError: for an unknown engine.

    >>> from specsim.hardware import load_hardware
    >>> vllm = engine_class("vllm", "graph", load_hardware("h100-sxm"))
    >>> vllm.is_eager(Pass("target", "verify", [1], [100], [[512], [513]])).tolist()
    [False, True]
    """
    if engine and engine not in get_args(Engine):
        raise InputError("engine", f"must be one of {', '.join(get_args(Engine))}", engine)
    known = _CLASSES.get(engine, {"kernels": "vllm"})  # type: ignore[call-overload]  # checked above
    eager = runtime == "eager" or known.get("always_eager", False)
    host = host_params("eager" if eager else "graph")
    if eager:
        known = {"kernels": known["kernels"], "always_eager": True}
    elif engine == "vllm":
        known = known | {"captured": (*_VLLM_CAPTURED, (256, 1024 if _is_large_blackwell(hardware) else 512, 16))}
    return EngineClass.model_validate({**host, **known})


def _is_large_blackwell(hardware: HardwareProfile) -> bool:
    return hardware.arch == "Blackwell" and hardware.kind == "datacenter"


def class_of_params(params: CostParams) -> EngineClass:
    """An engine of which only host times are known: every pass captured, or none where a layer has a host time."""
    host = {name: getattr(params, name) for name in ("step_s", "round_s", "draft_s", "layer_s")}
    return EngineClass(kernels="", always_eager=params.layer_s is not None, **host)
