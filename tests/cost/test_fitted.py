"""Passes from fitted operators: the operators' own times, put together as engines launch them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.cost.engine import engine_class
from specsim.cost.fits import find_fit
from specsim.cost.fitted import CURVE_TOKENS, FittedOps, gemm_dtype
from specsim.cost.model import PassCost, pass_cost
from specsim.cost.operators.attention import DecodeParams, decode_time_s
from specsim.cost.operators.gemm import gemm_from_fit
from specsim.cost.operators.moe import MoeParams, moe_time_s
from specsim.cost.operators.prefill import PrefillParams, prefill_time_s
from specsim.cost.params import transferred_params
from specsim.cost.roofline import Roofline
from specsim.errors import InputError
from specsim.hardware import load_hardware
from specsim.model import load_model, quantized
from specsim.work import BOUNDS, AllReduce, Attention, Experts, Gemm, HostWork, Op, Pass

H100 = load_hardware("h100-sxm")
MODELS = ("llama-3.1-8b", "mixtral-8x7b", "deepseek-v3", "gemma-2-9b", "eagle3-llama-3.1-8b", "medusa-vicuna-7b")


def cost_of(model: str = "llama-3.1-8b", device: str = "h100-sxm", **more: Any) -> PassCost:
    return pass_cost(load_hardware(device), {"target": load_model(model)}, **more)


def vllm_ops() -> FittedOps:
    return FittedOps(H100, Roofline(H100, transferred_params(H100, "graph")), "vllm")


def seconds(op: Op, ops: FittedOps | None = None) -> Any:
    return (ops or vllm_ops()).price(op).time_s


def found(cost: PassCost, name: str, work: Pass) -> Any:
    """The operation of that name in a pass, one run of it."""
    return next(op for op, _, _ in cost.breakdown(work) if op.name == name)


def verify(new: Any = 1, context: Any = 500, seqs: Any = 1) -> Pass:
    return Pass("target", "verify", new, context, seqs)


def test_a_dense_layer_is_its_fit_at_every_count_of_tokens() -> None:
    """Whole counts as the operator says; between two, in a straight line; above the curve, asked for directly."""
    fit = find_fit(H100, "gemm", "bfloat16", "vllm")
    assert fit is not None
    m = np.array([1.0, 64, 65, 129, 512, CURVE_TOKENS, 5000])
    columns = {"m": m, "n": np.full(7, 28672.0), "k": np.full(7, 4096.0)}
    expected, _ = gemm_from_fit(columns, H100, fit)
    np.testing.assert_allclose(seconds(Gemm(m, 28672, 4096, "bf16", 16)), expected)
    np.testing.assert_allclose(seconds(Gemm(m[:6], 28672, 4096, "bf16", 16)), expected[:6])
    low, between, high = seconds(Gemm(np.array([64.0, 64.25, 65.0]), 28672, 4096, "bf16", 16))
    assert between == pytest.approx(0.75 * low + 0.25 * high)


def test_attention_is_a_call_of_the_tables() -> None:
    """Llama-3.1-8B: 32 heads, 8 for KV, of 128; a new token against its cache, and a prompt against itself."""
    shape = {"n_heads": 32, "n_kv_heads": 8, "head_dim": 128}
    decode, prefill = (find_fit(H100, f"attention_{kind} fa3{tail}", "bfloat16", "vllm") for kind, tail in
                       (("decode", " grouped"), ("prefill", "")))  # fmt: skip
    assert decode is not None and prefill is not None
    cost = cost_of(engine="vllm")
    one = found(cost, "attention", verify(4, 1000, 8))
    columns = {**shape, "batch": 8, "q_len": 4, "context": 1000}
    assert seconds(one) == pytest.approx(decode_time_s(columns, H100, "bfloat16", DecodeParams(**decode.params)))
    prompt = found(cost, "attention", Pass("target", "prefill", [3000], [0], [1]))
    columns = {**shape, "batch": 1, "q_len": 3000, "context": 0}
    assert seconds(prompt) == pytest.approx(prefill_time_s(columns, H100, "bfloat16", PrefillParams(**prefill.params)))
    both = found(cost, "attention", verify([4, 3000], [1000, 0], [8, 1]))
    assert seconds(both) == pytest.approx(float(seconds(one) + seconds(prompt)))


def test_alike_sequences_in_two_groups_are_one_call() -> None:
    cost = cost_of(engine="vllm")
    together, apart = (found(cost, "attention", verify(*w)) for w in (([1], [700], [8]), ([1, 1], [400, 800], [2, 6])))
    assert seconds(apart) == pytest.approx(seconds(together))  # (2 x 400 + 6 x 800) / 8 = 700


def test_a_window_bounds_what_is_read() -> None:
    """Gemma 2 9B: every other layer sees 4096 tokens; with 60000 cached, that layer's call is as with 4095."""
    cost = cost_of("gemma-2-9b")
    calls = [op for op, _, _ in cost.breakdown(verify(1, 60_000, 4)) if isinstance(op, Attention)]
    windowed, full = sorted(calls, key=lambda op: op.call.window_tokens is None)
    short = [op for op, _, _ in cost.breakdown(verify(1, 4095, 4)) if isinstance(op, Attention)][-1]
    assert seconds(windowed) == pytest.approx(seconds(short))
    assert seconds(full) > 5 * seconds(windowed)


def test_experts_are_visited_independently() -> None:
    """Mixtral 8x7B, 16 tokens: what the operator says of a uniform router, three matrices an expert."""
    op = next(op for op, _, _ in cost_of("mixtral-8x7b").breakdown(verify(16)) if isinstance(op, Experts))
    fit = vllm_ops()._kin("moe", "bfloat16")
    assert fit is not None and "vllm" in fit.operator
    shape = {"num_tokens": 16, "hidden": 4096, "inter": 14336, "topk": 2, "n_experts": 8, "tp": 1, "ep": 1}
    columns = {**shape, "distribution": "uniform", "gated": 1}
    assert seconds(op) == pytest.approx(moe_time_s(columns, H100, "bfloat16", MoeParams(**fit.params)))


def test_all_reduces_follow_engine_and_runtime() -> None:
    """8 kB over two H100: some microseconds inside a graph, some tens launched alone (vLLM's own kernel)."""
    op = AllReduce(np.array([8192.0]), 2)
    fallback = vllm_ops().fallback
    graph, eager = (seconds(op, FittedOps(H100, fallback, "vllm", eager=launched)) for launched in (False, True))
    assert 3e-6 < graph < 8e-6
    assert 15e-6 < eager < 40e-6


def test_fp8_activations_are_quantised_by_the_kernel_before() -> None:
    """A layer in a model costs less than the measured call, which includes the kernels that quantise."""
    for engine in ("vllm", "trtllm"):
        fit = find_fit(H100, "gemm", "fp8", engine)
        assert fit is not None
        alone = gemm_from_fit({"m": np.ones(1), "n": np.full(1, 4096.0), "k": np.full(1, 4096.0)}, H100, fit)[0]
        ops = FittedOps(H100, vllm_ops().fallback, engine)
        assert seconds(Gemm(np.ones(1), 4096, 4096, "fp8", 8), ops) < alone - fit.params["quantise_s"]


def test_names_of_dtypes() -> None:
    """GEMMs that are never quantised stay 16 bit; block scales are told by their bits; fp32 was never measured."""
    cost = cost_of("deepseek-v3")
    dtypes = {op.name: gemm_dtype(op) for op, _, _ in cost.breakdown(verify()) if isinstance(op, Gemm)}
    assert (dtypes["attention out"], dtypes["router"], dtypes["lm head"]) == ("fp8_block", "bfloat16", "bfloat16")
    int4 = pass_cost(H100, {"target": quantized(load_model("llama-3.1-8b"), "int4")})
    assert gemm_dtype(found(int4, "mlp up", verify())) == "int4_wo"
    wide = Gemm(1.0, 4096, 4096, "fp32", 32)
    assert seconds(wide) == vllm_ops().fallback.price(wide).time_s


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("engine", ["", "vllm", "sglang"])
def test_a_sweep_is_its_elements(model: str, engine: str) -> None:
    cost = cost_of(model, engine=engine, tp=2)
    new, context, seqs = np.array([1, 5, 64, 600])[:, None, None], np.array([[0, 100], [9000, 10]])[None], [3, 17]
    sweep = cost.price(verify(new, context, seqs))
    assert sweep.by_bound.shape == (4, 2, len(BOUNDS))
    for i in range(4):
        for j in range(2):
            alone = cost.price(verify(new[i, 0], context[0, j], seqs))
            for name in ("by_bound", "flops", "bytes"):
                np.testing.assert_allclose(getattr(sweep, name)[i, j], getattr(alone, name), rtol=1e-6)
            for name, sd_s in alone.errors.items():
                np.testing.assert_allclose(sweep.errors[name][i, j], sd_s, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    device=st.sampled_from(["a100-80gb-sxm", "h200", "h20", "l4", "rtx-4090", "jetson-agx-orin-64gb", "v100-sxm-32gb"]),
    new=st.floats(1, 300),
    context=st.integers(0, 20_000),
    seqs=st.floats(0.5, 200),
    engine=st.sampled_from(["", "vllm", "sglang", "trtllm", "hf"]),
)
def test_shares_sum_to_a_finite_time(
    model: str, device: str, new: float, context: int, seqs: float, engine: str
) -> None:
    """Also of counts that are means, on devices without fits of their own; never quicker than the datasheet."""
    cost = cost_of(model, device, engine=engine)
    priced = cost.price(verify(new, context, seqs))
    assert np.all(priced.by_bound >= 0) and np.isfinite(priced.time_s)
    assert 0 < float(priced.log_variance(cost.log_sd)) < 4
    # An expert's activations and the weights' scales are counted a little differently by the operators: 10 % of slack.
    assert priced.time_s > 0.9 * priced.bytes / cost.ops.hardware.mem_bw_bytes_per_s.value


def test_errors_are_shared_by_what_has_one_shape() -> None:
    """32 runs of a layer err together. A pass against itself, or against one with more tokens and no other
    kernels, has no error of its own left; a pass of another model keeps both."""
    cost, work = cost_of(), verify(5)
    single = {op.name: c for op, runs, _ in cost.breakdown(work) for c in [cost.ops.price(op)] if runs == 32}
    mlp_up = "gemm 28672 x 4096 bf16, few"
    assert cost.price(work).errors[mlp_up] == pytest.approx(32 * float(single["mlp up"].errors[mlp_up]))
    five, six, other = cost.price(work), cost.price(verify(6)), cost_of("llama-3.2-3b").price(work)
    none = np.zeros(len(BOUNDS))
    assert float(five.log_ratio_variance(five, none)) == 0
    assert float(five.log_ratio_variance(six, none)) ** 0.5 < 0.002
    apart = float(five.log_ratio_variance(other, none))
    assert 0.7 < apart / float(five.log_variance(none) + other.log_variance(none)) < 1


def test_a_device_without_fits_is_less_certain() -> None:
    spreads = []
    for device in ("h200", "gh200", "rtx-5090"):  # its own, from two of its kin, from kin of another make
        cost = cost_of(device=device)
        spreads.append(float(cost.price(verify()).log_variance(cost.log_sd)) ** 0.5)
    assert 0.03 < spreads[0] < 0.9 * spreads[1] < 0.3
    assert spreads[0] < 0.9 * spreads[2] < 0.5


def test_where_nothing_was_fitted_the_roofline_prices() -> None:
    cpu = cost_of("llama-68m", "cpu-epyc-zen4-1core")
    asked = cost_of(pricing="roofline")
    assert isinstance(cpu.ops, Roofline) and isinstance(asked.ops, Roofline)
    assert isinstance(cost_of().ops, FittedOps)


def test_passes_are_padded_to_what_was_captured() -> None:
    """vLLM captures 8, 16, 24...: 17 to 24 tokens run the layers alike, and 25 more. SGLang counts sequences: with 5
    tokens each, 9 sequences run as 10, and 33 as 40."""
    vllm, sglang = (engine_class(name, "graph", H100) for name in ("vllm", "sglang"))
    padded = vllm.padded_tokens(verify(1, 500, [[3], [17], [24], [25], [257], [600]]))
    assert padded.tolist() == [4, 24, 24, 32, 272, 600]
    assert sglang.padded_tokens(verify(5, 500, [[8], [9], [33]])).tolist() == [40, 50, 200]
    assert vllm.padded_tokens(Pass("target", "prefill", [100], [0])) == 104
    assert sglang.padded_tokens(Pass("target", "prefill", [100], [0])) == 100
    blackwell = engine_class("vllm", "graph", load_hardware("b200"))
    assert blackwell.is_eager(verify(1, 500, [[1024], [1025]])).tolist() == [False, True]


def test_beyond_the_largest_graph_the_host_launches() -> None:
    """512 tokens are captured; 513 wait for the host, layer by layer, until the device is slower than it."""
    cost = cost_of(engine="vllm")
    assert cost.engine.layer_s is not None
    within, beyond, large = cost.price(verify(1, 100, [[512], [520], [4096]])).time_s
    host_s = 32 * cost.engine.layer_s.value
    assert within < 0.7 * host_s
    assert beyond == pytest.approx(host_s)
    assert large > 2 * host_s
    assert cost_of().price(verify(1, 100, [520])).bound != "host"  # of any engine, the sizes are not known


def test_engines_are_classes_of_host_time() -> None:
    graph, eager, hf = cost_of(), cost_of(runtime="eager"), cost_of(engine="hf")
    for kind in ("step", "round", "draft"):
        assert eager.price(HostWork(kind)).time_s > graph.price(HostWork(kind)).time_s
    assert eager.price(verify()).time_s == hf.price(verify()).time_s > 2 * graph.price(verify()).time_s
    with pytest.raises(InputError, match="engine"):
        cost_of(engine="vlm")
