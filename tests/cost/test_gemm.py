"""Dense layers: numbers worked by hand, the same formula a second way, and what must never happen."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.cost.fits import OperatorFit, find_fit
from specsim.cost.operators.gemm import (
    KERNELS,
    MAX_SPLITS,
    MIN_SPLIT_K,
    GemmParams,
    format_of,
    gemm_from_fit,
    gemm_time_s,
    params_by_tokens,
)
from specsim.errors import InputError
from specsim.hardware import HardwareProfile, load_hardware

H100 = load_hardware("h100-sxm")
PLAIN = GemmParams(
    launch_s=1e-6,
    tensor_efficiency=0.5,
    dram_efficiency=0.5,
    l2_bytes_per_flop=0.02,
    step_clocks=1.0,
    tile_s=1e-7,
    act_traffic=0.5,
    smooth_waves=0.25,
    l2_share=0.5,
    ragged_cost=0.3,
    ragged_memory=0.2,
    second_choice=0.4,
    split_s=2e-6,
    split_traffic=0.5,
    vector_s=1e-6,
    vector_bytes_per_clock=20,
    quantise_s=1e-6,
    quantise_row_s=1e-9,
    quantise_traffic=0.5,
    host_s=5e-5,
    host_32_s=9e-5,
)
_EXTRAS = ("ragged_cost", "ragged_memory", "quantise_s", "quantise_row_s", "quantise_traffic")
BARE = PLAIN.model_copy(update=dict.fromkeys(_EXTRAS, 0.0))


def time_s(m: float, n: float, k: float, p: GemmParams = PLAIN, dtype: str = "bfloat16", **kind: object) -> float:
    columns = {name: np.array([value]) for name, value in (("m", m), ("n", n), ("k", k))}
    return float(gemm_time_s(columns, kind.pop("device", H100), dtype, p, **kind)[0])  # type: ignore[arg-type]


def scaled(device: HardwareProfile, bandwidth: float, peak: float) -> HardwareProfile:
    mem = device.mem_bw_bytes_per_s
    peaks = {d: f.model_copy(update={"value": f.value * peak}) for d, f in device.peak_flops_per_s.items()}
    faster = {
        "mem_bw_bytes_per_s": mem.model_copy(update={"value": mem.value * bandwidth}),
        "peak_flops_per_s": peaks,
    }
    return device.model_copy(update=faster)


def test_weights_from_memory_worked_by_hand() -> None:
    # One token, 16384 x 16384 in bf16: 536 870 912 bytes at half of 3.352 TB/s are 320.3 us; the activations, half a
    # trip of 65 536 bytes, add 0.02 us. Beside it one wave of 128 x 128 tiles, padded from one row: 16384 steps of
    # 2 x 128 x 128 FLOP / (989.4e12 x 0.5 / 132 SMs) = 8.744 ns are 143.3 us. The fourth root of the sum of fourth
    # powers is 323.5 us, the launch 1 us.
    assert time_s(1, 16384, 16384, BARE, kernels="one-tile") == pytest.approx(324.5e-6, rel=1e-3)


def test_a_full_wave_and_one_tile_more() -> None:
    # 128 x 128 tiles, k = 8192: a step is 2 x 128 x 128 FLOP / (989.4e12 x 0.5 / 132 SMs) = 8.744 ns; its load,
    # 256 rows x 2 bytes / (0.02 x 7.495e12 B/s) = 3.416 ns; its latency 1 / 1.83 GHz = 0.546 ns; together 8.794 ns.
    p = BARE.model_copy(update={"dram_efficiency": 1.0, "smooth_waves": 0.0, "act_traffic": 0.0, "tile_s": 0.0})
    step = (8.744**4 + 3.416**4 + 0.546**4) ** 0.25 * 1e-9
    memory = 2.0 * 132 * 128 * 8192 / 3352e9
    one = ((8192 * step) ** 4 + memory**4) ** 0.25 + 1e-6
    assert time_s(128, 132 * 128, 8192, p, kernels="one-tile") == pytest.approx(one, rel=1e-3)
    memory *= 133 / 132
    two = ((2 * 8192 * step) ** 4 + memory**4) ** 0.25 + 1e-6
    assert time_s(128, 133 * 128, 8192, p, kernels="one-tile") == pytest.approx(two, rel=1e-3)


def slow_but_plain(m: float, n: float, k: float, dtype: str, kernels: str, p: GemmParams) -> float:
    """The formula once more, row by row and tile by tile."""
    form, family = format_of(dtype), KERNELS[kernels]
    sms, clock, bandwidth = H100.num_sms.value, H100.clock_hz.value, H100.mem_bw_bytes_per_s.value * p.dram_efficiency
    peak = {"bfloat16": 989.4e12, "fp8": 1978.9e12}[dtype] * p.tensor_efficiency / sms
    memory = (n * k * form.weight_bytes + (m * k * form.act_bytes + 2 * m * n) * p.act_traffic) / bandwidth
    memory *= 1 + p.ragged_memory * (1 - m / (128 * math.ceil(m / 128))) ** 2

    def waves(fill: float) -> float:
        return (1 - p.smooth_waves) * math.ceil(fill) + p.smooth_waves * max(fill, 1)

    whole, split = [], []
    for tile in (tile for tile in family.tiles if tile.first_m <= m <= tile.last_m):
        rows = math.ceil(m / tile.m / tile.group) * tile.group
        load = (min(m, tile.m) * form.act_bytes + tile.n * form.weight_bytes) / (p.l2_bytes_per_flop * 989.4e12 / sms)
        step = (load**4 + (2 * tile.m * tile.n / peak) ** 4 + (p.step_clocks / clock) ** 4) ** 0.25
        step *= 1 + p.ragged_cost * (1 - m / (rows * tile.m))
        tiles = rows * math.ceil(n / tile.n)
        whole.append(waves(tiles / sms) * (k * step + p.tile_s))
        s = max(1, min(sms // tiles, MAX_SPLITS, k // MIN_SPLIT_K))
        parts = s * m * n * 8 * p.split_traffic / bandwidth
        split.append(waves(tiles * s / sms) * (k * step / s + p.tile_s) + parts)

    def chosen(tile_s: list[float]) -> float:
        if not family.chooses:
            return min(tile_s)
        best, second = sorted(tile_s)[:2]
        return best + p.second_choice * (min(second, 2 * best) - best)

    times = [(chosen(whole) ** 4 + memory**4) ** 0.25]
    if family.splits:
        times.append((chosen(split) ** 4 + memory**4) ** 0.25 + p.split_s)
    if m <= family.vector_m:
        vector_s = n * k * form.weight_bytes / (sms * p.vector_bytes_per_clock * clock) + p.vector_s
        times.append((vector_s**4 + memory**4) ** 0.25)
    quantise = p.quantise_s + m * p.quantise_row_s + m * k * (2 + form.act_bytes) * p.quantise_traffic / bandwidth
    return min(times) + p.launch_s + quantise


SHAPES = st.tuples(st.integers(1, 700), st.integers(64, 20000), st.integers(64, 20000))


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, dtype=st.sampled_from(["bfloat16", "fp8"]), kernels=st.sampled_from(sorted(KERNELS)))
def test_against_the_formula_one_candidate_at_a_time(shape: tuple[int, int, int], dtype: str, kernels: str) -> None:
    m, n, k = map(float, shape)
    expected = slow_but_plain(m, n, k, dtype, kernels, PLAIN)
    assert time_s(m, n, k, dtype=dtype, kernels=kernels) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    shape=SHAPES,
    dtype=st.sampled_from(["bfloat16", "fp8", "int4_wo"]),
    kernels=st.sampled_from(sorted(KERNELS)),
    bandwidth=st.floats(1, 4),
    peak=st.floats(1, 4),
    resident=st.booleans(),
)
def test_more_bandwidth_or_peak_is_never_slower(
    shape: tuple[int, int, int], dtype: str, kernels: str, bandwidth: float, peak: float, resident: bool
) -> None:
    better = scaled(H100, bandwidth, peak)
    kind = {"dtype": dtype, "kernels": kernels, "resident": resident}
    assert time_s(*shape, device=better, **kind) <= time_s(*shape, **kind) * (1 + 1e-12)  # type: ignore[arg-type]


def test_resident_weights_come_from_the_cache_until_they_do_not_fit() -> None:
    # Half of 50 MiB is usable: one copy of 4096 x 2048 in bf16 (16 MiB) fits, six do not.
    columns = {"m": np.ones(2), "n": np.full(2, 4096.0), "k": np.full(2, 2048.0), "weight_copies": np.array([1, 6])}
    fits, not_fits = gemm_time_s(columns, H100, "bfloat16", PLAIN, resident=True)
    cold = gemm_time_s(columns, H100, "bfloat16", PLAIN)
    assert fits < not_fits == cold[0] == cold[1]


def test_an_eager_launch_waits_for_the_host() -> None:
    columns = {"m": np.array([1.0, 64.0]), "n": np.full(2, 128.0), "k": np.full(2, 128.0)}
    eager = gemm_time_s({**columns, "cuda_graph": np.zeros(2, dtype=bool)}, H100, "bfloat16", PLAIN)
    assert eager == pytest.approx([50e-6, 90e-6], rel=1e-3)


def test_verifying_one_token_past_a_tile_costs_a_tile() -> None:
    assert time_s(129, 16384, 8192, dtype="fp8", kernels="by-tokens") > 1.2 * time_s(
        128, 16384, 8192, dtype="fp8", kernels="by-tokens"
    )


def test_a_fit_gives_time_and_interval() -> None:
    columns = {"m": np.array([1.0, 64.0]), "n": np.full(2, 4096.0), "k": np.full(2, 4096.0)}
    known = find_fit(H100, "gemm", "bfloat16", "vllm")
    borrowed = find_fit(load_hardware("l40s"), "gemm", "bfloat16", "vllm")
    assert known is not None and borrowed is not None and borrowed.engine == "Ada"
    (seconds, width), (_, wide) = gemm_from_fit(columns, H100, known), gemm_from_fit(columns, H100, borrowed)
    # 33.6 MB / 3.352 TB/s = 10 us, and never below; what nobody measured is less certain
    assert (seconds > 10e-6).all() and (seconds < 20e-6).all()
    assert np.all((width > 0.02) & (width < 0.2)) and wide > 0.2


def test_a_fit_may_have_other_kernels_above_64_tokens() -> None:
    few, many = params_by_tokens({**PLAIN.model_dump(), "above_64.launch_s": 8e-6})
    assert few == PLAIN and many == PLAIN.model_copy(update={"launch_s": 8e-6})
    fit = OperatorFit(
        operator="gemm",
        engine="e",
        version="1",
        dtype="bfloat16",
        variant="library",
        params={**PLAIN.model_dump(), "above_64.launch_s": 8e-6},
        log_sd=0.1,
        quantile_90=0.2,
        points=1,
        valid_range={},
        source="a test's own invention",
        date="2026-11",
    )
    columns = {"m": np.array([64.0, 65.0]), "n": np.full(2, 4096.0), "k": np.full(2, 4096.0)}
    seconds, half_width = gemm_from_fit(columns, H100, fit)
    plain = gemm_time_s(columns, H100, "bfloat16", PLAIN)
    assert seconds - plain == pytest.approx([0.0, 7e-6]) and half_width == 0.2


def test_wrong_names_are_refused() -> None:
    with pytest.raises(InputError, match="dtype: must be one of bfloat16"):
        time_s(1, 128, 128, dtype="bf17")
    with pytest.raises(InputError, match="kernels: must be one of library"):
        time_s(1, 128, 128, kernels="magic")
