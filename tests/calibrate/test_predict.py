"""Rows of measured tables are predicted by the fit of their own kernel, and refused by name where nothing fits."""

from __future__ import annotations

import numpy as np

from specsim.calibrate.predict import predict_rows
from specsim.cost.fits import find_fit
from specsim.cost.operators.attention import decode_from_fit, kernel_family
from specsim.hardware import load_hardware

ROWS = {
    "gpu": np.array(["H100-SXM", "L40S", "TPU-v4"]),
    "engine": np.full(3, "vllm"),
    "version": np.full(3, "0.24.0"),
    "kernel": np.full(3, ""),
    "dtype": np.full(3, "bfloat16"),
    "kv_dtype": np.full(3, "bfloat16"),
    "batch": np.array([8.0, 8.0, 8.0]),
    "q_len": np.ones(3),
    "context": np.full(3, 4095.0),
    "n_heads": np.full(3, 32.0),
    "n_kv_heads": np.full(3, 8.0),
    "head_dim": np.full(3, 128.0),
}


def test_own_fit_transferred_fit_and_none() -> None:
    found = predict_rows("attention_decode", ROWS)
    h100 = load_hardware("h100-sxm")
    fit = find_fit(h100, "attention_decode fa3 grouped", "bfloat16", "vllm", "0.24.0")
    assert fit is not None
    shape = {name: values[0] for name, values in ROWS.items() if values.dtype == float}
    expected, width = decode_from_fit(shape, h100, fit, resident=True)
    assert found.time_s[0] == expected and found.half_width[0] == width
    alone = predict_rows("attention_decode", ROWS, residual=False)
    assert alone.half_width[0] == fit.half_width(shape) > found.half_width[0] and alone.time_s[1] == found.time_s[1]
    assert found.time_s[1] > found.time_s[0] and found.half_width[1] > 2 * found.half_width[0]  # slower, and less sure
    assert np.isnan(found.time_s[2]) and found.refused.tolist() == ["", "", "no profile of this gpu"]


def test_an_allreduce_of_an_unknown_kernel_takes_the_closest() -> None:
    rows = {name: ROWS[name][:1] for name in ("gpu", "engine", "version", "kernel", "dtype")}
    rows |= {"bytes": np.array([65536.0]), "n_gpus": np.array([8.0])}
    found = predict_rows("allreduce", rows)
    assert found.refused.tolist() == [""] and 1e-6 < found.time_s[0] < 1e-4


def test_many_calls_of_large_caches_come_from_memory() -> None:
    rows = {name: np.concatenate([ROWS[name][:1]] * 3) for name in ROWS}
    rows["batch"] = np.array([8.0, 1.0, 1.0])  # 134 MB; 17 MB, of which two fit into 50 MB and eight do not
    shape = {name: values for name, values in rows.items() if values.dtype == float}
    found = predict_rows("attention_decode", {**rows, "calls": np.array([32.0, 2.0, 8.0])})
    h100 = load_hardware("h100-sxm")
    fit = find_fit(h100, "attention_decode fa3 grouped", "bfloat16", "vllm", "0.24.0")
    assert fit is not None
    loop, model = (decode_from_fit(shape, h100, fit, resident)[0] for resident in (True, False))
    assert found.time_s.tolist() == [model[0], loop[1], model[2]]


def test_kernels_of_torch_take_the_fit_of_their_kin() -> None:
    shape = {"n_heads": 32, "n_kv_heads": 8, "head_dim": 128}
    names = ("sdpa_cudnn", "sdpa_efficient", "sdpa_flash")
    families = [str(kernel_family("torch", "Hopper", shape, kernel)) for kernel in names]
    assert families == ["fa3", "triton", "fa2"]
