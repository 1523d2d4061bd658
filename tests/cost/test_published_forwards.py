"""Whole forwards that others measured, beside the sum of fitted operators; nothing here was fitted to them.

What each row is of is said in the published table; here, how it is read as a pass, and how far off it is.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from specsim.cost.model import pass_cost
from specsim.hardware import load_hardware
from specsim.model import DenseMlp, Gqa, LayerGroup, ModelSpec, load_model
from specsim.work import Float, Pass

APERTUS = ModelSpec(  # swiss-ai/Apertus-8B: xIELU between two products, so no gate
    name="apertus-8b",
    family="apertus",
    hidden_size=4096,
    vocab_size=131072,
    layers=(
        LayerGroup(
            count=32,
            attention=Gqa(num_heads=32, num_kv_heads=8, head_dim=128, qk_norm="per_head"),
            mlp=DenseMlp(intermediate_size=21504, gated=False),
        ),
    ),
)


def curve(data_dir: Path, hardware: str) -> Iterator[dict[str, str]]:
    with (data_dir / "published" / "verify_latency_curves.csv").open(encoding="utf-8") as file:
        yield from (row for row in csv.DictReader(file) if row["hardware"] == hardware)


def gh200_errors(data_dir: Path, context: float) -> tuple[Float, Float]:
    """Tokens, and relative errors: every token a sequence of its own, each with a short context."""
    rows = list(curve(data_dir, "GH200"))
    tokens, measured_ms = (np.array([float(row[name]) for row in rows]) for name in ("tokens_in_forward", "ms"))
    cost = pass_cost(load_hardware("gh200"), {"target": APERTUS}, engine="vllm")
    found = cost.price(Pass("target", "verify", [1.0], [context], tokens[:, None]))
    return tokens, 1e3 * found.time_s / measured_ms - 1


def test_a_vllm_forward_on_gh200(data_dir: Path) -> None:
    """From fits of H100 and H200: 6.7 % in the mean up to 512 tokens, 5 % beyond.

    +5, +3, +5, +4, +2, +3, -3, +7, -8, -9, -11, -13, -14 % at 1 to 512 tokens, then 0 (640 and 768 gave the host's time
    of a layer outside graphs), -7, -4, -3, 0, +3, +4, +6, +7, +5, +8 % at 1024 to 16384.

    The source does not say how the tokens are shared among sequences, nor their context. With 64 tokens of context each
    attention is a quarter of the pass at 512; with 1, the mean error is 7.3 %; as one prompt, 14 % (-33 % at 512). The
    measured forward grows by 25 us a token from 128 tokens to 16384, where its FLOPs would take 15 at the peak and 18
    as GEMM tables have it; what fills the rest is not published, and nothing was fitted to it.
    """
    tokens, errors = gh200_errors(data_dir, 64)
    judged = ~np.isin(tokens, (640, 768))
    few = judged & (tokens <= 512)
    assert np.abs(errors[few]).mean() < 0.08
    assert np.abs(errors[few & (tokens <= 256)]).max() < 0.10
    assert np.abs(errors[few]).max() < 0.16
    assert np.abs(errors[judged & (tokens > 512)]).mean() < 0.07
    assert np.abs(gh200_errors(data_dir, 1)[1][few]).mean() < 0.09


def test_eager_transformers_on_h100(data_dir: Path) -> None:
    """Llama-3.1-8B, 1 to 64 tokens: flat, as the host's 0.55 ms a layer (read off A100 rows) say.

    Off by +10 to +12 % at one token a sequence, which takes a shorter path through Python, by -2 to -7 % at more.
    """
    cost = pass_cost(load_hardware("h100-sxm"), {"target": load_model("llama-3.1-8b")}, engine="hf")
    errors = []
    for row in curve(data_dir, "H100"):
        new, context, seqs = (float(row[name]) for name in ("tokens_per_sequence", "context", "batch"))
        found = cost.price(Pass("target", "verify", [new], [context], [seqs]))
        assert found.bound == "host"
        errors.append(1e3 * float(found.time_s) / float(row["ms"]) - 1)
    assert len(errors) == 18
    assert np.abs(errors).max() < 0.13
    assert np.abs(errors).mean() < 0.07


def test_the_end_of_captured_graphs(data_dir: Path) -> None:
    """vLLM captures up to 512 tokens on Hopper and to 1024 on large Blackwell: past that the measured curves jump.

    The times of DeepSeek-V4-Flash on B300 are not predicted: neither device nor model is bundled, and its attention,
    sparse over compressed keys, is neither counted nor in any table of operators.
    """
    for hardware, device, largest in (("GH200", "gh200", 512), ("B300", "b200", 1024)):
        rows = [row for row in curve(data_dir, hardware) if "drafter" not in row["model"]]
        ms = {int(row["tokens_in_forward"]): float(row["ms"]) for row in rows}
        within, beyond = max(n for n in ms if n <= largest + 1), min(n for n in ms if n > largest + 1)
        assert ms[beyond] / beyond > ms[within] / within  # dearer per token, though larger
        engine = pass_cost(load_hardware(device), {"target": APERTUS}, engine="vllm").engine
        eager = engine.is_eager(Pass("target", "verify", [1], [64], [[largest], [beyond]]))
        assert eager.tolist() == [False, True]
