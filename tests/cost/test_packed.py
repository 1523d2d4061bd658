"""Engines with kernels of their own: operations by hand, and whole passes that no fit may bend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.calibrate.forwards import FORWARD, engine_fit
from specsim.cost.forward import ForwardShape, build_of, counted, forward_pass, price, tiling_of
from specsim.cost.packed import PackedOps, PackedParams, Tiling, tensor_peak
from specsim.errors import InputError
from specsim.hardware import load_hardware
from specsim.model import load_model
from specsim.model.formats import FORMATS, storage_format, stored_as
from specsim.work import Attention, Elementwise, Experts, Gemm

DEVICE = load_hardware("rtx-3090")
PARAMS = PackedParams(**engine_fit(FORWARD, "llama.cpp").params)


def ops(weights: str, tiling: Tiling) -> PackedOps:
    return PackedOps(DEVICE, storage_format(weights), tiling, PARAMS, np.array(1e-6))


def passes(weights: str, tokens: list[float], context: float = 256.0, **more: object) -> ForwardShape:
    n = np.array(tokens)
    shape = ForwardShape(
        DEVICE,
        load_model("llama-3-8b"),
        storage_format(weights),
        "microbatch",
        n,
        np.full(len(n), context),
        "llama.cpp",
    )
    return replace(shape, **more)  # type: ignore[arg-type]


def test_a_product_by_hand() -> None:
    """4096 x 4096 in q4_0: 9.4 MB from memory; 8 tokens on the CUDA cores beside it, 9 on the tensor cores after it."""
    p, flops = PARAMS, 2 * 4096.0**2
    found = ops("q4_0", Tiling(8, 1, unpacks=True)).price(Gemm(np.array([8.0, 9.0]), 4096, 4096, "int4", 4.5))
    memory = 4096**2 * 4.5 / 8 / (936e9 * p.mem_packed)
    vector = 8 * flops / (35.6e12 * p.vector_packed)
    tensor = (9 + p.unpack_tokens) * flops / (284e12 * p.tensor_int8)
    assert found.time_s[0] == pytest.approx(1e-6 + (memory**3 + vector**3) ** (1 / 3))
    assert found.time_s[1] == pytest.approx(1e-6 + memory + tensor)
    slow = ops("q6_k", Tiling(8, 1, unpacks=True)).price(Gemm(np.array([9.0]), 4096, 4096, "int4", 4.5))
    assert slow.time_s[0] == pytest.approx(1e-6 + memory + tensor / p.small_group)  # a scale per 16 weights


def test_tiles_are_padded_and_narrow_layers_idle() -> None:
    assert Tiling(8, 64, small_tokens=64).padded(np.array([9.0, 33.0, 64.0, 65.0])).tolist() == [16, 48, 64, 128]
    wide, narrow = (
        ops("int4", Tiling(7, 64, by_column=True)).price(Gemm(np.array([8.0]), n, 4096, "int4", 4.0)).by_bound[0, 1] / n
        for n in (82 * 128, 41 * 128)
    )
    assert narrow == pytest.approx(2 * wide)  # 41 tiles on 82 multiprocessors: half of them wait


def test_experts_attention_and_norms_by_hand() -> None:
    tiling = Tiling(16, 64)
    one = ops("f16", tiling).price(Experts(np.ones(1), 40, 8, 1536, 512, 3, "fp16", 16.0))
    assert one.by_bound[0, 0] <= 8 * 3 * 1536 * 512 * 2 / (936e9 * PARAMS.mem_float) <= one.time_s[0]
    norm = ops("f16", tiling).price(Elementwise(np.array([6e6, 6291456 + 936e3])))
    assert norm.by_bound[:, 0] == pytest.approx([0, 1e-6])  # activations stay in the L2, until they do not fit
    long = next(op for op, _ in counted(passes("f16", [1.0], 33024.0)) if isinstance(op, Attention))
    cache = ops("f16", tiling).price(long)
    assert cache.time_s[0] == pytest.approx(1e-6 + 33024 * 2 * 8 * 128 * 2 / (936e9 * PARAMS.mem_cache), rel=0.01)


def test_prompts_in_pieces_compute_no_logits_and_other_passes_do() -> None:
    pieces = passes("f16", [1.0])
    whole = replace(pieces, kind="decode_step")
    head = {op.name: op for op, _ in counted(whole)}["lm head"]
    assert isinstance(head, Gemm) and head.weight_bits == 16.0
    assert "lm head" not in {op.name for op, _ in counted(pieces)}
    extra = price(whole, PARAMS).bytes - price(pieces, PARAMS).bytes
    assert extra[0] == pytest.approx(128256 * 4096 * 2, rel=0.01)


def test_what_a_build_knows() -> None:
    assert build_of("ggml-org/llama.cpp#3649") == 3649
    assert [tiling_of(passes("f16", [1.0], build=b)).vector_tokens for b in (12014, 15131)] == [8, 16]
    assert passes("f16", [1.0, 2.0], build=7000).in_graph.tolist() == [True, False]
    assert passes("f16", [1.0, 2.0], build=5351).in_graph.tolist() == [False, False]
    early, late = (price(passes("f16", [4.0], build=b), PARAMS).time_s[0] for b in (3649, 5351))
    assert early == pytest.approx(PARAMS.early * late)


def test_a_step_of_nothing_but_its_own_token() -> None:
    work = forward_pass("prefill_batches", np.array([4.0]), np.array([np.nan]))
    assert work.total_new_tokens.tolist() == [40.0] and work.logit_tokens.tolist() == [4.0]
    assert forward_pass("microbatch", np.array([512.0]), np.array([256.0])).context_tokens.tolist() == [[0.0]]


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(sorted(FORMATS)),
    st.sampled_from([1.0, 8.0, 9.0, 64.0, 300.0]),
    st.sampled_from(["mem_bw_bytes_per_s", "fp16", "int8", "fp32", "bf16", "tf32"]),
)
def test_a_better_device_is_never_slower(weights: str, tokens: float, what: str) -> None:
    shape = passes(weights, [tokens], 2048.0)
    figures = dict(DEVICE.peak_flops_per_s)
    if what == "mem_bw_bytes_per_s":
        twice = DEVICE.mem_bw_bytes_per_s.model_copy(update={"value": 2 * 936e9})
        better = DEVICE.model_copy(update={what: twice})
    else:
        figure = figures[what]  # type: ignore[index]
        figures[what] = figure.model_copy(update={"value": 2 * figure.value})  # type: ignore[index]
        better = DEVICE.model_copy(update={"peak_flops_per_s": figures})
    slow, fast = price(shape, PARAMS), price(replace(shape, hardware=better), PARAMS)
    assert 0 < fast.time_s[0] <= slow.time_s[0] * (1 + 1e-12)
    assert slow.time_s[0] > 6.9e9 * storage_format(weights).layer_bits / 8 / 936e9  # never faster than its weights


def test_formats_and_peaks() -> None:
    for name, size in {"q4_k_m": 4.58, "q2_k": 2.95, "q6_k": 6.14, "q8_0": 7.95, "f16": 14.96}.items():
        found = storage_format(name)
        model = stored_as(load_model("llama-3.1-8b"), found)
        layers, end = 6_979_321_856 * found.layer_bits, 128256 * 4096  # llama.cpp's table of file sizes, GiB
        base = {"q4_k_m": 4.5, "q2_k": 2.625}.get(name, found.layer_bits)
        assert (layers + end * (found.head_bits + base)) / 8 / 2**30 == pytest.approx(size, rel=0.005)
        assert model.weight_bits == found.layer_bits
    with pytest.raises(InputError, match="a type of GGUF"):
        storage_format("q9_x")
    thor = load_hardware("jetson-agx-thor")
    assert tensor_peak(thor, "fp4") == 1035e12
    assert tensor_peak(load_hardware("v100-pcie-16gb"), "int8") == 112e12
