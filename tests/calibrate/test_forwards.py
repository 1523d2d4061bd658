"""Whole passes of tables: predicted, anchored by a measured point, refused with reasons, judged where left out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from specsim.calibrate.accuracy import judge, report, report_beside
from specsim.calibrate.forward_fits import FITTED, START, fit_engine, forward_rows, left_out, log_errors
from specsim.calibrate.forwards import NOISE, SPREADS, one_point_split, predict_forward, shift
from specsim.calibrate.tables import load_measured
from specsim.cost.fits import load_fit

HEAD = "gpu,engine,model,weights,kind,n_tokens,mean_context,latency_ms,source"
ROW = "RTX-3090,llama.cpp,Llama-3-8B,f16,microbatch,{n},256,{ms},mine"


def table(tmp_path: Path, *rows: str) -> Any:
    path = tmp_path / "forwards.csv"
    path.write_text("\n".join([HEAD, *rows]) + "\n")
    return load_measured(path)


def test_a_table_of_one_point_is_predicted_from_the_datasheet(tmp_path: Path) -> None:
    measured = table(tmp_path, ROW.format(n=1, ms=17.2))
    found = report(judge(measured))
    assert found["rows"] == 1 and found["mape"] < 0.1 and list(found["groups"]["dtype"]) == ["f16"]
    assert report_beside(measured) == {"modes": {"datasheet": 1, "one_point": 0}}


def test_rows_that_can_not_be_are_refused_with_reasons(tmp_path: Path) -> None:
    bad = {
        "GTX-1,llama.cpp,Llama-3-8B,f16,microbatch,1,256,1,": "gpu: has no profile",
        "cpu-epyc-zen4-1core,llama.cpp,Llama-3-8B,f16,microbatch,1,256,1,": "gpu: must be a GPU",
        "RTX-3090,llama.cpp,Nobody-9B,f16,microbatch,1,256,1,": "bundled name",
        "RTX-3090,llama.cpp,Llama-3-8B,q9,microbatch,1,256,1,": "weights: must be f32",
        "RTX-3090,llama.cpp,Llama-3-8B,f16,dream,1,256,1,": "kind: must be one of",
        "RTX-3090,vllm,Llama-3-8B,q4_0,decode_step,1,256,1,": "must be plain, fp8",
        "RTX-3090,llama.cpp,Llama-3-8B,f16,microbatch,0,256,1,": "n_tokens is blank",
        "RTX-3090,llama.cpp,Llama-3-8B,f16,microbatch,1,-4,1,": "mean_context is below 0",
    }
    judged = judge(table(tmp_path, *bad))
    for reason, wanted in zip(judged.refused.tolist(), bad.values(), strict=True):
        assert wanted in reason


def test_blank_context_is_a_short_prompt_and_said(tmp_path: Path) -> None:
    rows = [ROW.format(n=1, ms=17.2), ROW.format(n=1, ms=17.2).replace(",256,", ",,")]
    measured = table(tmp_path, *rows)
    judged = judge(measured)
    assert judged.time_s[0] == judged.time_s[1] and measured.assumed["mean_context"] == "256 where blank"


def test_faster_than_its_weights_is_impossible(tmp_path: Path) -> None:
    judged = judge(table(tmp_path, ROW.format(n=1, ms=13.9), ROW.format(n=1, ms=14.9)))  # 13.96 GB / 936 GB/s = 14.9 ms
    assert judged.impossible.tolist() == [True, False]


def test_a_measured_point_moves_what_is_bound_alike(tmp_path: Path) -> None:
    """A device a fifth slower at one token is slower at eight, and hardly at 512, where arithmetic decides."""
    rows = [ROW.format(n=n, ms=90) for n in (1, 8, 512)]
    measured = table(tmp_path, *rows)
    free = predict_forward(measured.rows)
    anchor = table(tmp_path, ROW.format(n=1, ms=1.2e3 * free.time_s[0])).rows
    held = predict_forward(measured.rows, anchor)
    moved = held.time_s / free.time_s
    assert 1.15 < moved[0] < 1.2 and 1.15 < moved[1] < 1.2 and 1.0 < moved[2] < 1.1
    assert report_beside(measured, anchor) == {"modes": {"datasheet": 0, "one_point": 3}}
    other = {**measured.rows, "model": np.full(3, "Llama-2-7B")}
    assert np.all(predict_forward(other, anchor).time_s == predict_forward(other).time_s)


def test_the_shift_by_hand() -> None:
    """One point, one row alike: prior variance over prior plus noise."""
    g = np.array([[1.0, 1.0, 0.0, 0.0]])
    prior = SPREADS["common"] ** 2 + SPREADS["memory"] ** 2
    assert shift(g, g, np.array([0.3]))[0] == pytest.approx(0.3 * prior / (prior + NOISE**2))


def test_the_fewest_tokens_anchor_the_others(tmp_path: Path) -> None:
    rows = [ROW.format(n=n, ms=20) for n in (4, 2, 8)] + [ROW.format(n=1, ms=9).replace("Llama-3-8B", "Llama-2-7B")]
    measured = table(tmp_path, *rows)
    anchors, served = one_point_split(measured.rows, np.ones(4, dtype=bool))
    assert anchors.tolist() == [False, True, False, False] and served.tolist() == [True, False, True, False]
    assert report_beside(measured)["one_point"]["rows"] == 2


def test_bundled_fits_have_every_parameter() -> None:
    fits = {(f.operator, f.engine): f for f in load_fit("transferred").fits if f.operator.startswith("forward")}
    assert len(fits) == 2 * len(FITTED)
    for engine in FITTED:
        assert fits["forward", engine].params.keys() == START.keys()
        assert fits["forward one-point", engine].params == SPREADS


@pytest.mark.skipif("SPECSIM_DATA" not in os.environ, reason="needs the measurements (SPECSIM_DATA)")
def test_models_left_out_are_predicted() -> None:
    """One model left out at a time; the whole of it is in the bundled fits' own report."""
    path = Path(os.environ["SPECSIM_DATA"]) / "gpu_ops" / "forward_consumer_edge.csv"
    rows = [r for r in forward_rows(path, "llama.cpp") if r.facts["model"] in ("Llama-3-8B", "Phi-2", "Llama-2-7B")]
    found = left_out(rows, "llama.cpp", lambda r: "Phi-2" if r.facts["model"] == "Phi-2" else "others")["Phi-2"]
    assert np.mean(np.abs(np.expm1(log_errors(found)))) < 0.2
    assert fit_engine(rows[:2], "llama.cpp").tensor_fp4 == START["tensor_fp4"]  # not llama.cpp's: held
