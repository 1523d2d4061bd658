"""Learned corrections: the network by hand, where it is silent, and what it may never do."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.cost.fits import OperatorFit, find_fit, load_fit
from specsim.cost.operators.attention import decode_from_fit
from specsim.cost.operators.gemm import gemm_from_fit
from specsim.cost.residual import Network, evaluate, key_of, load_network, plain, residual_file, within
from specsim.cost.shape_features import gemm_features
from specsim.hardware import HardwareProfile, hwprofiles_dir, load_hardware

H100 = load_hardware("h100-sxm")
NETWORKS = ("gemm", "layer_gemm", "attention_decode")


def gemm_fit() -> OperatorFit:
    fit = find_fit(H100, "gemm", "bfloat16", "vllm")
    assert fit is not None and fit.residual is not None
    return fit


def decode_fit() -> OperatorFit:
    fit = find_fit(H100, "attention_decode fa3 grouped", "bfloat16", "vllm")
    assert fit is not None and fit.residual is not None
    return fit


def layers(**columns: float) -> dict[str, np.ndarray]:
    return {name: np.array([value], dtype=float) for name, value in columns.items()}


def scaled(device: HardwareProfile, bandwidth: float, peak: float) -> HardwareProfile:
    mem = device.mem_bw_bytes_per_s
    peaks = {d: f.model_copy(update={"value": f.value * peak}) for d, f in device.peak_flops_per_s.items()}
    faster = mem.model_copy(update={"value": mem.value * bandwidth})
    return device.model_copy(update={"mem_bw_bytes_per_s": faster, "peak_flops_per_s": peaks})


def test_one_kernel_of_a_network_is_a_plain_network() -> None:
    rng = np.random.default_rng(0)

    def some(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.3, shape).astype(np.float32)

    scale = np.abs(some(3)) + 1
    net = Network(("a", "b"), some(3), scale, some(3, 4), *(some(2, 4) for _ in range(2)), some(4, 4), *_shifts(some))
    x = some(5, 3)
    for kernel in range(2):
        hidden = np.maximum((x - net.mean) / net.scale @ net.first + net.first_shift[kernel], 0)
        second = np.maximum(hidden * net.weigh[kernel] @ net.second + net.second_shift[kernel], 0)
        expected = second @ net.out[kernel] + net.out_shift[kernel]
        assert evaluate(plain(net, kernel), x.T) == pytest.approx(expected, abs=1e-5)


def _shifts(some) -> tuple[np.ndarray, ...]:  # type: ignore[no-untyped-def]
    return some(2, 4), some(2, 4), some(2)


def test_the_files_are_small_and_quick_and_know_the_fits_that_name_them() -> None:
    assert sum(residual_file(name).stat().st_size for name in NETWORKS) < 500_000
    for name in NETWORKS:
        best = np.inf
        for _ in range(3):
            start = time.process_time()
            network = load_network.__wrapped__(residual_file(name))
            best = min(best, time.process_time() - start)
        assert best < 0.02  # once in a process, when a fit with a correction is first used
        known = set(network.keys)
        for path in hwprofiles_dir().glob("*.fit.json"):
            device = path.name.removesuffix(".fit.json")
            for fit in load_fit(device).fits:
                if fit.residual is not None and fit.residual.network == name:
                    assert key_of(device, fit) in known


def test_features_know_no_speed() -> None:
    columns = layers(m=48, n=4096, k=11008)
    faster = scaled(H100, 2.0, 3.0)
    assert (gemm_features(columns, H100, 8.0) == gemm_features(columns, faster, 8.0)).all()


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 1200), st.integers(64, 60000), st.integers(64, 60000)),
    bandwidth=st.floats(1, 4),
    peak=st.floats(1, 4),
    resident=st.booleans(),
)
def test_more_bandwidth_or_peak_is_never_slower_with_a_correction(
    shape: tuple[int, int, int], bandwidth: float, peak: float, resident: bool
) -> None:
    columns = layers(**dict(zip("mnk", shape, strict=True)), weight_copies=6)
    slow, fast = (gemm_from_fit(columns, d, gemm_fit(), resident)[0][0] for d in (H100, scaled(H100, bandwidth, peak)))
    assert fast <= slow * (1 + 1e-12)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 256),
    context=st.integers(1, 100_000),
    bandwidth=st.floats(1, 4),
    resident=st.booleans(),
)
def test_more_bandwidth_is_never_slower_for_attention(
    batch: int, context: int, bandwidth: float, resident: bool
) -> None:
    columns = {"batch": batch, "q_len": 1, "context": context, "n_heads": 32, "n_kv_heads": 8, "head_dim": 128}
    fit = decode_fit()
    slow, fast = (float(decode_from_fit(columns, d, fit, resident)[0]) for d in (H100, scaled(H100, bandwidth, 1.0)))
    assert fast <= slow * (1 + 1e-12)


def test_it_is_silent_where_nothing_was_measured() -> None:
    fit, tiny = gemm_fit(), layers(m=8, n=1024, k=1024)  # 6 copies of 2 MB never left the L2 of 50 MB
    both = [gemm_from_fit(tiny, H100, fit, residual=on) for on in (True, False)]
    assert both[0][0] == both[1][0] and both[0][1] == both[1][1]
    huge = layers(m=8, n=4 * 65536, k=4096)  # far beyond the widest layer
    assert gemm_from_fit(huge, H100, fit)[0] == gemm_from_fit(huge, H100, fit, residual=False)[0]
    verify = {"batch": 8, "q_len": 4, "context": 4095, "n_heads": 32, "n_kv_heads": 8, "head_dim": 128}
    on, off = (decode_from_fit(verify, H100, decode_fit(), True, residual)[0] for residual in (True, False))
    assert on == off  # no table has several new tokens against a cache
    own = fit.model_copy(update={"residual": None})  # a user's own fit under the same name
    big = layers(m=8, n=16384, k=16384)
    assert gemm_from_fit(big, H100, own)[0] == gemm_from_fit(big, H100, fit, residual=False)[0]
    assert gemm_from_fit(big, H100, fit)[0] != gemm_from_fit(big, H100, own)[0]
    assert all(f.residual is None for f in load_fit("transferred").fits)


def test_it_fades_within_two_octaves() -> None:
    far = {"m": np.array([4.0, 8.0, 16.0, 64.0, 128.0, 256.0, 1e6])}
    assert within(far, {"m": (16.0, 64.0)}).tolist() == [0.0, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0]


def test_small_corrections_narrow_the_interval() -> None:
    fit, big = gemm_fit(), layers(m=16, n=8192, k=8192)
    (seconds, narrow), (formula, wide) = (gemm_from_fit(big, H100, fit, residual=on) for on in (True, False))
    assert 0.7 < float(seconds[0] / formula[0]) < 1.4 and np.all(narrow < wide)
    assert fit.residual is not None and fit.heldout is not None and fit.residual.heldout is not None
    assert fit.residual.heldout.mape < fit.heldout.mape
