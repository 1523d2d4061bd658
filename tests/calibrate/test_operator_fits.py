"""The frame of the fits: what is left out, what is found again, what is kept, and what the bundled files promise."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from specsim.calibrate.gemm import STARTS, Fitted, Rows, fit_gemm, impossible, params_of, predict_s
from specsim.calibrate.gemm_fits import Group, Source, Unseen, report_rows, transfer, up_to
from specsim.calibrate.operators import (
    fit_params,
    groups,
    heldout,
    leave_out,
    quantile_90,
    read_table,
    save_operator_fits,
    select,
    split_unseen,
)
from specsim.cost.fits import DeviceFit, OperatorFit, load_fit, profile_name
from specsim.cost.operators.gemm import gemm_from_fit
from specsim.documents import parse, read_json
from specsim.hardware import hardware_names, hwprofiles_dir, load_hardware

H100 = load_hardware("h100-sxm")


def a_fit(operator: str = "gemm", engine: str = "vllm", version: str = "1", quantile: float = 0.2) -> OperatorFit:
    return OperatorFit(
        operator=operator,
        engine=engine,
        version=version,
        dtype="bfloat16",
        params={"launch_s": 2.51234567e-6},
        log_sd=0.1,
        quantile_90=quantile,
        points=10,
        valid_range={"m": (1, 512)},
        source="a test's own invention",
        date="2026-11",
    )


def test_a_straight_line_is_found_again_with_its_uncertainty() -> None:
    # log t = a + b x with noise of 0.05: the covariance of least squares is 0.05^2 (X'X)^-1.
    rng = np.random.default_rng(1)
    x = np.linspace(-1, 1, 400)
    wanted = 0.3 + 0.7 * x + rng.normal(0, 0.05, 400)
    theta, covariance = fit_params(
        lambda t: t[0] + t[1] * x, np.zeros(2), -np.ones(2), np.ones(2), wanted, np.ones(400)
    )
    design = np.stack([np.ones(400), x])
    exact = 0.05**2 * np.linalg.inv(design @ design.T)
    assert theta == pytest.approx([0.3, 0.7], abs=4 * np.sqrt(np.diag(exact)).max())
    assert np.diag(covariance) == pytest.approx(
        np.diag(exact), rel=0.5
    )  # soft_l1 and the robust spread differ a little


def test_an_outlier_hardly_moves_a_fit() -> None:
    wanted = np.zeros(50)
    wanted[0] = 3.0
    theta, _ = fit_params(lambda t: t[0] + np.zeros(50), np.zeros(1), -np.ones(1), np.ones(1), wanted, np.ones(50))
    assert abs(theta[0]) < 0.01  # the mean would be 0.06


def test_the_split_leaves_out_whole_values() -> None:
    rng = np.random.default_rng(0)
    sizes = np.array([128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0])
    table = {"n": rng.choice(sizes, 500), "k": rng.choice(sizes, 500), "m": np.ones(500)}
    unseen = split_unseen(table, ("n", "k"), fold=0, share=0.3)
    assert 0.1 < unseen.mean() < 0.9
    seen = select(table, ~unseen)
    for row in np.flatnonzero(unseen):  # an unseen row has a value that no seen row has
        assert table["n"][row] not in seen["n"] or table["k"][row] not in seen["k"]
    again = split_unseen({name: column.astype(int) for name, column in table.items()}, ("n", "k"), 0, 0.3)
    assert (again == unseen).all()


def test_every_value_is_left_out_once() -> None:
    table = {"n": 2.0 ** np.arange(7, 17), "k": np.full(10, 4096.0)}
    masks = np.stack(leave_out(table, ("n",), 4))
    assert (masks.sum(axis=0) == 1).all()
    apart = {"n": table["n"][::-1], "k": np.zeros(10)}  # the same fold in every table
    assert (np.stack(leave_out(apart, ("n",), 4))[:, ::-1] == masks).all()


def test_groups_cut_without_loss() -> None:
    table = {"a": np.array(["x", "y", "x"]), "b": np.array(["1", "1", "2"]), "v": np.arange(3.0)}
    cut = groups(table, ("a", "b"))
    assert list(cut) == [("x", "1"), ("x", "2"), ("y", "1")]
    assert sorted(v for part in cut.values() for v in part["v"]) == [0, 1, 2]


def test_conformal_quantile_and_errors_by_hand() -> None:
    # 9 errors: ceil(10 x 0.9) = the 9th; 4 predictions of 1: +10 %, -10 %, 0, +100 %
    assert quantile_90(np.arange(-4, 5) / 10) == 0.4
    found = heldout(np.array([1.1, 0.9, 1.0, 2.0]), np.ones(4), 0.2)
    assert (found.mape, found.median_ape, found.bias, found.coverage_90) == (0.3, 0.1, 0.25, 0.75)


def test_fits_of_one_file_do_not_touch_each_other(tmp_path: Path) -> None:
    save_operator_fits("H100-SXM", [a_fit(), a_fit("attention")], tmp_path)
    path = save_operator_fits("h100-sxm", [a_fit(quantile=0.3), a_fit(version="2")], tmp_path)
    kept = parse(DeviceFit, read_json(path), path.name)
    assert path.name == "h100-sxm.fit.json" and not list(tmp_path.glob("*.part"))
    assert [(f.operator, f.version, f.quantile_90) for f in kept.fits] == [
        ("attention", "1", 0.2),
        ("gemm", "1", 0.3),
        ("gemm", "2", 0.2),
    ]
    assert kept.fits[0].params["launch_s"] == 2.512e-6  # four digits


def test_the_closest_fit_is_found() -> None:
    fits = DeviceFit(device="x", fits=(a_fit(quantile=0.3), a_fit(version="2"), a_fit(engine="sglang", quantile=0.1)))
    assert fits.find("gemm", "bfloat16", "vllm", "1") == a_fit(quantile=0.3)
    assert fits.find("gemm", "bfloat16", "vllm", "9") == a_fit(version="2")
    assert fits.find("gemm", "bfloat16", "trtllm") == a_fit(engine="sglang", quantile=0.1)
    assert fits.find("gemm", "fp8") is None and fits.find("moe", "bfloat16") is None


@pytest.mark.parametrize("path", sorted(hwprofiles_dir().glob("*.fit.json")), ids=lambda path: path.name)
def test_bundled_fits(path: Path) -> None:
    name = path.name.removesuffix(".fit.json")
    best = min(_seconds_to_load(name) for _ in range(5))
    fit = load_fit(name)
    assert fit.device == name == profile_name(name) and (name in hardware_names() or name == "transferred")
    assert best < 0.005
    assert len({f.key for f in fit.fits}) == len(fit.fits)
    for found in fit.fits:
        assert len(found.covariance) in (0, 1, len(found.fitted))
        assert set(found.fitted) <= set(found.params)


def _seconds_to_load(name: str) -> float:
    start = time.process_time()
    load_fit(name)
    return time.process_time() - start


def invented(p_theta: dict[str, float], rows: int = 600) -> Rows:
    """Rows timed by the formula itself."""
    rng = np.random.default_rng(3)
    m, n, k = (rng.choice(c, rows).astype(float) for c in ([1, 16, 64, 128, 256, 512], *[2 ** np.arange(8, 15)] * 2))
    table = {"m": m, "n": n, "k": k, "weight_copies": np.full(rows, 8.0), "cuda_graph": np.ones(rows, dtype=bool)}
    p = params_of(tuple(p_theta), np.log(list(p_theta.values())))
    return Rows({**table, "latency_us": predict_s(table, H100, "bfloat16", p, "one-tile") * 1e6}, H100)


TRUTH = {
    "launch_s": 3e-6,
    "tensor_efficiency": 0.7,
    "dram_efficiency": 0.8,
    "l2_bytes_per_flop": 0.02,
    "step_clocks": 2.0,
    "tile_s": 5e-7,
    "act_traffic": 0.5,
    "smooth_waves": 0.3,
    "l2_share": 0.6,
}


def test_a_fit_finds_the_formula_behind_its_rows() -> None:
    rows = invented(TRUTH)
    fit = fit_gemm([rows], "bfloat16", "one-tile", starts=STARTS[:1])
    found = predict_s(rows.table, H100, "bfloat16", fit.params, "one-tile") * 1e6
    assert np.mean(np.abs(found / rows.table["latency_us"] - 1)) < 0.01
    assert fit.params.tensor_efficiency == pytest.approx(0.7, rel=0.12)  # padding costs much the same
    assert fit.params.dram_efficiency == pytest.approx(0.8, rel=0.03)


def test_impossible_rows_are_not_fitted() -> None:
    # 512 x 16384 x 16384: 275 GFLOP take 278 us at 989 TFLOP/s; a tenth of that is a mistake of the table.
    table = {"m": np.array([512.0] * 2), "n": np.array([16384.0] * 2), "k": np.array([16384.0] * 2)}
    assert impossible({**table, "latency_us": np.array([27.8, 290.0])}, H100, "bfloat16").tolist() == [True, False]


def fitted(**changed: float) -> Fitted:
    values = {**TRUTH, **changed}
    return Fitted("one-tile", params_of(tuple(values), np.log(list(values.values()))), tuple(values), np.eye(9), 0.1)


def source(device: str, is_loop: bool = True, **changed: float) -> Source:
    fit = fitted(**changed)
    return Source(device, load_hardware(device), (fit, fit), is_loop)


def test_a_device_borrows_from_its_architecture() -> None:
    sources = [source("h100-sxm", dram_efficiency=0.8), source("a100-80gb-sxm", dram_efficiency=0.2)]
    assert transfer(sources, load_hardware("h200")).params == sources[0].fits[0].params


def test_else_kernels_from_alike_sms_launches_from_all_and_bandwidth_from_the_nearest_year() -> None:
    sources = [source("h100-sxm", dram_efficiency=0.8, tile_s=1e-7, smooth_waves=0.9)]
    sources += [source("a100-80gb-sxm", dram_efficiency=0.7, tile_s=8e-7, smooth_waves=0.3)]
    rtx = load_hardware("rtx-pro-6000")  # 2025: Hopper's 2022 is nearer than Ampere's 2020
    found = transfer(sources, rtx).params
    assert found.smooth_waves == pytest.approx(0.3) and found.dram_efficiency == pytest.approx(0.8)
    assert found.tile_s * rtx.clock_hz.value == pytest.approx(8e-7 * 1.41e9)
    assert found.launch_s * rtx.clock_hz.value == pytest.approx(3e-6 * np.sqrt(1.83e9 * 1.41e9))  # mean logarithm
    a100 = load_hardware("a100-80gb-pcie")  # whole layers of another Ampere tell its bandwidth, and nothing else
    layers = [sources[0], source("a40", is_loop=False, dram_efficiency=0.75, smooth_waves=0.1)]
    assert transfer(layers, a100).params.dram_efficiency == pytest.approx(0.75)
    assert transfer(layers, a100).params.smooth_waves == pytest.approx(0.9)


def test_the_report_groups_by_tokens() -> None:
    group = Group("G", "vllm", "1", "bfloat16", invented(TRUTH, 2), (), "a test")
    unseen = Unseen(group, np.array([1.0, 600.0]), np.array([1.1, 1.5]), np.ones(2), np.full(2, 0.2))
    rows = {(r["by"], r["tokens"]): r for r in report_rows([unseen], "unseen shapes")}
    assert rows["gpu", "small"]["mape"] == 0.1 and rows["gpu", "all"]["mape"] == 0.3
    assert rows["all", "513-16384"]["coverage_90"] == 0.0 and ("all", "17-64") not in rows
    assert len(up_to(unseen, 1, 512).m) == 1


def test_bundled_gemm_fits_say_what_the_tables_say(data_dir: Path) -> None:
    table = data_dir / "gpu_ops" / "gemm.parquet"
    fit = load_fit("h100-sxm").find("gemm", "bfloat16", "vllm")
    if not table.is_file() or fit is None:
        pytest.skip("gemm.parquet or the fit absent")
    rows = groups(read_table(table), ("gpu", "engine", "dtype"))["H100-SXM", "vllm", "bfloat16"]
    small = select(rows, rows["m"] <= 512)
    predicted, _ = gemm_from_fit(small, H100, fit, resident=True)
    assert np.mean(np.abs(predicted / (small["latency_us"] * 1e-6) - 1)) < 0.065
