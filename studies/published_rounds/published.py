"""Published times and speed-ups, each with its source. Facts only: nothing here is fitted or predicted."""

from __future__ import annotations

from typing import NamedTuple

SPECBUNDLE = "sgl-project/SpecForge @a6b6b02, SpecBundle raw data: medians over 7 test sets and 2 heads"
APERTUS = (
    "swiss-ai/apertus-speculative-decoding @f5c1583: vLLM, Apertus 8B; rounds on the line 6.0 + 0.575 k ms through them"
)
APERTUS_70B = "swiss-ai/apertus-speculative-decoding @052662f: vLLM, Apertus 70B on four GPUs"
AUDIT = "pramodjella/speculative-decoding-draft-length-audit @bcac258: vLLM, 128 tokens each, prefill included"
EAGLE3 = "EAGLE-3 (arXiv:2503.01840), table 4: SGLang without speculation, 158.3 tok/s"
ANGELSLIM = "Tencent/AngelSlim @67394ce, benchmarks.md: vLLM, GSM8K; round = accepted length / (tok/s)"
RECYCLING = "Token Recycling (arXiv:2408.08696) @1b4c05c: Transformers, eager; A100 by its speed, not printed"
HEAD, QWEN_HEAD = "eagle3-llama-3.1-8b", "eagle3-qwen3-8b"


class Setting(NamedTuple):
    """Where times were measured, one sequence decoding, and those times: {draft length: ms}, 0 is plain decoding.

    ``informed``: the draft lengths whose times the defaults of ``specsim/cost/params.py`` were read off.
    """

    engine: str
    gpu: str
    target: str
    head: str | None
    measured_ms: dict[int, float]
    source: str
    informed: tuple[int, ...] = ()
    tp: int = 1
    context_tokens: int = 512


SETTINGS = (
    Setting("sglang", "h200", "llama-3.1-8b", HEAD, {0: 5.26, 3: 7.13, 5: 7.85, 7: 8.58}, SPECBUNDLE, (0, 3, 5, 7)),
    Setting(
        "vllm", "gh200", "llama-3.1-8b", HEAD, {0: 5.82, 1: 6.58, 3: 7.73, 5: 8.88, 7: 10.03}, APERTUS, (0, 1, 3, 5, 7)
    ),
    Setting("vllm", "h100-sxm", "llama-3.1-8b", HEAD, {0: 6.63, 2: 7.30, 3: 7.88, 7: 9.41}, AUDIT, context_tokens=256),
    Setting("sglang", "h100-sxm", "llama-3.1-8b", None, {0: 6.32}, EAGLE3),
    Setting("vllm", "h20", "qwen3-1.7b", None, {0: 2.66}, ANGELSLIM),
    Setting("vllm", "h20", "qwen3-4b", None, {0: 4.37}, ANGELSLIM),
    Setting("vllm", "h20", "qwen3-8b", QWEN_HEAD, {0: 6.68, 2: 7.77}, ANGELSLIM),
    Setting("vllm", "h20", "qwen3-14b", None, {0: 10.8}, ANGELSLIM),
    Setting("vllm", "h20", "qwen3-32b", None, {0: 23.0}, ANGELSLIM),
    Setting("vllm", "gh200", "llama-3.1-70b", None, {0: 14.15}, APERTUS_70B, tp=4),
    Setting("hf", "a100-80gb-sxm", "vicuna-7b", None, {0: 18.4}, RECYCLING, (0,)),
    Setting("hf", "a100-80gb-sxm", "vicuna-13b", None, {0: 25.4}, RECYCLING, (0,)),
    Setting("hf", "a100-80gb-sxm", "vicuna-33b", None, {0: 54.2}, RECYCLING),
)


class Load(NamedTuple):
    """Speed-ups of one chain as a server got busier: {sequences in flight: speed-up}, acceptance the same for all."""

    engine: str
    gpu: str
    draft_len: int
    speedups: dict[int, float]
    source: str


LOADS = (
    Load(
        "vllm",
        "gh200",
        5,
        {1: 2.619, 8: 2.387, 32: 1.843, 64: 1.540, 128: 1.322, 256: 1.187},
        f"{APERTUS}; closed loop",
    ),
    Load(
        "sglang",
        "h100-sxm",
        3,
        {2: 1.81, 4: 1.82, 16: 1.48, 24: 1.39, 48: 1.38, 56: 1.34},
        "EAGLE-3, table 3: SGLang v0.4.4",
    ),
)
"""Both serve an 8B model with an EAGLE-3 head."""
