"""Steps that others measured, beside what the model says without having seen the device's own fit.

Plain decoding, one sequence, no speculation: time of the pass plus the host's work of a step.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from specsim.cost.model import Pricing, pass_cost
from specsim.cost.params import Runtime
from specsim.hardware import load_hardware
from specsim.model import load_model
from specsim.work import HostWork, Pass


class Step(NamedTuple):
    """A published step: device, model, its runtime, devices, tokens in the cache, measured ms, tolerance, source."""

    device: str
    model: str
    runtime: Runtime
    tp: int
    context: int
    measured_ms: float
    tolerance: float
    source: str


_AUDIT = "pramodjella/speculative-decoding-draft-length-audit @bcac258: 150.8 tok/s, humaneval, 128 tokens each"
_EAGLE3 = "EAGLE-3 (arXiv:2503.01840), table 4: SGLang without speculation, 158.3 tok/s, MT-bench"
_SPECBUNDLE = "sgl-project/SpecForge @a6b6b02, docs/spec_bundle raw data: Llama-3.1-8B at batch 1"
_APERTUS = "swiss-ai/apertus-speculative-decoding @f5c1583 and @052662f: Apertus 8B and 70B, shaped much like Llama"
_ANGELSLIM = "Tencent/AngelSlim @67394ce, benchmarks.md: vLLM 0.11.2, answers of up to 1024 tokens"
_RECYCLING = (
    "Token Recycling (arXiv:2408.08696) @1b4c05c, Spec-Bench harness, includes prefill; GPU not printed, A100 by speed"
)

STEPS = [
    Step("h100-sxm", "llama-3.1-8b", "graph", 1, 256, 6.63, 0.10, _AUDIT),
    Step("h100-sxm", "llama-3.1-8b", "graph", 1, 512, 6.32, 0.10, _EAGLE3),
    Step("h200", "llama-3.1-8b", "graph", 1, 512, 5.26, 0.10, _SPECBUNDLE),
    Step("gh200", "llama-3.1-8b", "graph", 1, 512, 5.79, 0.10, _APERTUS),
    Step("gh200", "llama-3.1-70b", "graph", 4, 512, 14.15, 0.10, _APERTUS),
    Step("h20", "qwen3-1.7b", "graph", 1, 512, 2.66, 0.10, _ANGELSLIM),
    Step("h20", "qwen3-4b", "graph", 1, 512, 4.37, 0.10, _ANGELSLIM),
    Step("h20", "qwen3-8b", "graph", 1, 512, 6.68, 0.10, _ANGELSLIM),
    Step("h20", "qwen3-14b", "graph", 1, 512, 10.8, 0.10, _ANGELSLIM),
    Step("h20", "qwen3-32b", "graph", 1, 512, 23.0, 0.10, _ANGELSLIM),
    Step("a100-80gb-sxm", "vicuna-7b", "eager", 1, 512, 18.4, 0.20, _RECYCLING),
    Step("a100-80gb-sxm", "vicuna-13b", "eager", 1, 512, 25.4, 0.20, _RECYCLING),
    Step("a100-80gb-sxm", "vicuna-33b", "eager", 1, 512, 54.2, 0.20, _RECYCLING),
]
GRAPHS = [step for step in STEPS if step.runtime == "graph"]


def error(step: Step, pricing: Pricing = "fitted") -> float:
    """Relative error of the predicted step."""
    models = {"target": load_model(step.model)}
    cost = pass_cost(load_hardware(step.device), models, step.runtime, step.tp, pricing=pricing)  # type: ignore[arg-type]
    found = cost.price(Pass("target", "decode", [1], [step.context])) + cost.price(HostWork("step"))
    return float(found.time_s) * 1e3 / step.measured_ms - 1


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.device}-{step.model}-{step.measured_ms}")
def test_a_published_step(step: Step) -> None:
    """Errors as of writing, in percent, in the order of the table (negative: predicted too quick).

    +1, +6, +1, +4, 0 on H100, H200, GH200; +2, +7, +3, +4, +6 on H20; -2, -11, -12 in eager Python on A100. H20 and
    GH200 have no fits of their own.

    Not all of it is a prediction: the host's 0.4 ms of a graph engine were read off the GH200 8B row, and the 0.55 ms
    per layer of an eager runtime off the 7B and 13B rows. What the rows do test: operators timed alone against whole
    models, their transfer between GPUs, and the transfer between sizes.

    Known bias: +3 % in graphs. The eager 33B row lies above both host and device: these overlap less there than the
    model's max() says. Cache lengths are not published; 512 here, and 1000 more change no row by more than 3.4 %.
    """
    assert abs(error(step)) < step.tolerance


def test_steps_in_graphs_are_right_in_the_mean() -> None:
    """Mean error +3.4 %, mean absolute error 3.4 %; the roofline's are -6.5 % and 7.0 %."""
    fitted, roofline = ([error(step, pricing) for step in GRAPHS] for pricing in ("fitted", "roofline"))
    assert sum(map(abs, fitted)) / len(GRAPHS) < 0.05
    assert sum(map(abs, roofline)) / len(GRAPHS) < 0.09


def test_the_unpublished_cache_length_hardly_matters() -> None:
    longer = [(1 + error(step._replace(context=step.context + 1000))) / (1 + error(step)) for step in STEPS]
    assert max(longer) < 1.04
