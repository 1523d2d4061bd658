"""``accuracy`` and ``calibrate --from``: made-up tables, timed by the formula itself with noise of known size."""

from __future__ import annotations

import builtins
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from specsim.calibrate.accuracy import judge
from specsim.calibrate.predict import predict_rows
from specsim.calibrate.tables import load_measured
from specsim.cli import main
from specsim.cli.accuracy_page import page
from specsim.cost.fits import load_fit
from specsim.cost.operators.elementwise import ElementwiseParams, elementwise_time_s, moved_bytes
from specsim.hardware import load_hardware

ERRORS = {"rows", "mape", "median_ape", "p90_ape", "bias", "coverage_90"}
SD_OF_90 = 1.6449  # half of a central 90 % interval of a normal distribution, in standard deviations


def answer(capsys: pytest.CaptureFixture[str], *args: object) -> dict[str, Any]:
    assert main([*map(str, args), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refusal(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    assert main([*map(str, args)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: ") and err.count("\n") == 1
    return err


def write(path: Path, columns: dict[str, Any]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(columns)
        lines.writerows(zip(*(np.asarray(c).tolist() for c in columns.values()), strict=True))
    return path


def made_up_gemm(path: Path, rows: int = 2000, half_widths: float = 1.0) -> dict[str, Any]:
    """Rows of two devices with a fit and one without (L40S), timed by the fits; 90 % of the errors drawn are within the
    fit's own interval."""
    rng = np.random.default_rng(5)
    columns: dict[str, Any] = {
        "gpu": rng.choice(["H100-SXM", "H200-SXM", "L40S"], rows),
        "engine": rng.choice(["vllm", "sglang"], rows),
        "version": np.full(rows, "made up"),
        "dtype": rng.choice(["bfloat16", "fp8"], rows),
        "kernel": np.full(rows, ""),
        "m": rng.choice([1.0, 8.0, 64.0, 200.0, 512.0], rows),
        "n": rng.choice([4096.0, 14336.0, 28672.0], rows),
        "k": rng.choice([4096.0, 8192.0], rows),
        "weight_copies": np.full(rows, 16.0),
        "cuda_graph": np.full(rows, True),
    }
    found = predict_rows("gemm", columns)
    noise = np.clip(rng.normal(0, 1, rows), -4, 4) * found.half_width / SD_OF_90 * half_widths
    columns["latency_us"] = found.time_s * np.exp(noise) * 1e6
    columns["planted"] = noise
    write(path, columns)
    return columns


def test_planted_errors_are_found_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = made_up_gemm(tmp_path / "gemm.csv")
    found = answer(capsys, "accuracy", "--table", tmp_path / "gemm.csv")
    planted = np.exp(-made["planted"]) - 1  # predicted over measured, less one
    judged = judge(load_measured(tmp_path / "gemm.csv"))
    usable = judged.usable
    assert found["operators"] == ["gemm"] and found["refused"] == {"rows": 0, "reasons": {}}
    assert found["rows"] == usable.sum() == 2000 - found["impossible"]["rows"]
    assert found["mape"] == pytest.approx(np.abs(planted[usable]).mean(), rel=1e-3)
    assert found["median_ape"] == pytest.approx(np.median(np.abs(planted[usable])), rel=1e-3)
    assert found["bias"] == pytest.approx(planted[usable].mean(), abs=1e-4)
    assert abs(found["coverage_90"] - 0.9) < 3 * np.sqrt(0.9 * 0.1 / 2000) + 0.01  # 3 sigma, and rows left out


def test_groups_are_those_asked_for_and_add_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_up_gemm(tmp_path / "gemm.csv", 600)
    found = answer(capsys, "accuracy", "--table", tmp_path / "gemm.csv")
    assert set(found) >= ERRORS and set(found["groups"]) == {"gpu", "engine", "dtype"}
    assert set(found["groups"]["gpu"]) == {"H100-SXM", "H200-SXM", "L40S"}
    for group in found["groups"].values():
        assert sum(part["rows"] for part in group.values()) == found["rows"]
        assert all(set(part) == ERRORS for part in group.values())
    means = [part["mape"] * part["rows"] for part in found["groups"]["dtype"].values()]
    assert sum(means) / found["rows"] == pytest.approx(found["mape"], rel=1e-3)
    assert found["groups"]["gpu"]["L40S"]["mape"] > found["groups"]["gpu"]["H100-SXM"]["mape"]  # wider, so noisier here


def test_narrow_noise_is_covered_and_wide_noise_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_up_gemm(tmp_path / "narrow.csv", 600, half_widths=0.2)
    made_up_gemm(tmp_path / "wide.csv", 600, half_widths=3.0)
    assert answer(capsys, "accuracy", "--table", tmp_path / "narrow.csv")["coverage_90"] == 1
    assert answer(capsys, "accuracy", "--table", tmp_path / "wide.csv")["coverage_90"] < 0.65


def test_what_can_not_be_predicted_is_refused_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = {"gpu": "H100-SXM", "engine": "vllm", "dtype": "bfloat16", "m": 8, "n": 4096, "k": 4096, "latency_us": 20}
    changes: list[dict[str, Any]] = [
        {}, {"gpu": "TPU-v4"}, {"dtype": "fp12"}, {"m": 0}, {"k": ""}, {"latency_us": ""}, {"dtype": "bf16"},
        {"gpu": "cpu-epyc-zen4-1core"},
    ]  # fmt: skip
    rows = [one | change for change in changes]
    write(tmp_path / "t.csv", {name: [row[name] for row in rows] for name in one})
    found = answer(capsys, "accuracy", "--table", tmp_path / "t.csv")
    assert found["rows"] == 2 and found["refused"]["rows"] == 6
    reasons = " | ".join(found["refused"]["reasons"])
    for word in ("no profile of this gpu", "'fp12'", "m is blank", "k is blank", "no measured time", "must be a GPU"):
        assert word in reasons
    assert found["assumed"] == {"weight_copies": 1.0, "cuda_graph": True}


def test_rows_faster_than_the_datasheet_are_counted_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # 16384 x 16384 in 16 bits: 537 MB take 160 us at 3.352 TB/s, and no L2 holds them. 2048 x 2048 fit in the L2.
    columns = {
        "gpu": ["H100-SXM"] * 4, "dtype": ["bfloat16"] * 4, "m": [1, 1, 1, 4096], "n": [16384, 16384, 2048, 16384],
        "k": [16384, 16384, 2048, 16384], "latency_us": [100.0, 190.0, 1.5, 500.0],
    }  # fmt: skip
    found = answer(capsys, "accuracy", "--table", write(tmp_path / "t.csv", columns))
    assert found["impossible"]["rows"] == 2 and found["impossible"]["by_gpu"] == {
        "H100-SXM": 2
    }  # bytes; 2.2 ms of FLOPs
    assert found["rows"] == 2 and found["impossible"]["mape_with_them"] > found["mape"]


def test_each_attention_row_has_its_operator(tmp_path: Path) -> None:
    columns = {
        "gpu": ["H100-SXM"] * 4, "engine": ["vllm"] * 4, "dtype": ["bfloat16"] * 4, "batch": [1] * 4,
        "q_len": [1, 8, 512, 512], "context": [100, 100, 0, 4096], "n_heads": [32] * 4, "n_kv_heads": [8] * 4,
        "head_dim": [128] * 4, "latency_us": [10] * 4,
    }  # fmt: skip
    found = load_measured(write(tmp_path / "t.csv", columns))
    assert [name.split("_")[1] for name in found.operator.tolist()] == ["decode", "decode", "prefill", "prefill"]
    assert load_measured(tmp_path / "t.csv", "attention_decode").operator.tolist() == ["attention_decode"] * 4
    assert np.isfinite(judge(found).time_s).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must begin with a line of column names"),
        ("gpu,m,n,k,latency_us\n", "at least one row"),
        ("gpu,m,n,k,latency_us\nH100-SXM,1,2\n", "row 2: must have 5 cells"),
        ("gpu,m,n,k,latency_us\nH100-SXM,1,wide,4,5\n", "n, row 2: must be a number, got 'wide'"),
        ("gpu,m,m,n,k\nH100-SXM,1,1,2,3\n", "must not name a column twice"),
        ("gpu,apples\nH100-SXM,1\n", "columns of one kind of table"),
        ("m,n,k,latency_us\n1,2,3,4\n", "must have a column gpu"),
        ('gpu,m,n,k\n"H100', "can not be read as CSV"),
    ],
)
def test_a_malformed_table_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    (tmp_path / "t.csv").write_text(text)
    assert words in refusal(capsys, "accuracy", "--table", tmp_path / "t.csv")


def test_other_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    table = write(tmp_path / "t.csv", {"gpu": ["H100-SXM"], "m": [1], "n": [128], "k": [128], "latency_us": [3]})
    assert "op: must be one of gemm" in refusal(capsys, "accuracy", "--table", table, "--op", "convolution")
    assert "moe and must have the column" in refusal(capsys, "accuracy", "--table", table, "--op", "moe")
    assert "can not be read" in refusal(capsys, "accuracy", "--table", tmp_path / "absent.csv")
    assert "data: must name" in refusal(capsys, "accuracy")
    assert "data: must be a folder" in refusal(capsys, "accuracy", "--data", tmp_path)
    (tmp_path / "t.parquet").write_bytes(b"no table")
    genuine = builtins.__import__

    def without_pyarrow(name: str, *args: Any, **others: Any) -> Any:
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name)
        return genuine(name, *args, **others)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    assert "install specsim[data]" in refusal(capsys, "accuracy", "--table", tmp_path / "t.parquet")
    assert answer(capsys, "accuracy", "--table", table)["rows"] == 1  # CSV needs none


PLANTED = ElementwiseParams(launch_s=4e-6, dram_efficiency=0.7, l2_speedup=2.5, l2_share=0.4)


def made_up_adds(path: Path, gpu: str = "L40S", sd: float = 0.04) -> Path:
    rng = np.random.default_rng(2)
    hidden, tokens = (c.reshape(-1) for c in np.meshgrid(2.0 ** np.arange(8, 14), 2.0 ** np.arange(0, 15)))
    columns = {"op": np.full(len(hidden), "add"), "num_tokens": tokens, "hidden": hidden, "inter": 4 * hidden}
    columns |= {"tp": np.ones(len(hidden)), "gpu": np.full(len(hidden), gpu), "engine": np.full(len(hidden), "mine")}
    columns |= {"version": np.full(len(hidden), "1"), "dtype": np.full(len(hidden), "bfloat16")}
    time_s = elementwise_time_s({"bytes": moved_bytes("add", columns)}, load_hardware("l40s"), PLANTED)
    return write(path, {**columns, "latency_us": time_s * np.exp(rng.normal(0, sd, len(hidden))) * 1e6})


def test_a_refit_finds_the_planted_parameters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = made_up_adds(tmp_path / "mine.csv")
    found = answer(capsys, "calibrate", "--from", table, "--out", tmp_path / "fits")
    assert found["schema"] == "specsim.calibrate.from/1" and found["device"] == "l40s" and not found["left_out"]
    fits = load_fit(found["file"]).fits
    assert [(f.operator, f.engine, f.dtype, f.points) for f in fits] == [("elementwise add", "mine", "bfloat16", 90)]
    fit = fits[0]
    for name, variance in zip(fit.fitted, np.diag(np.array(fit.covariance)).tolist(), strict=True):
        error = np.log(fit.params[name] / getattr(PLANTED, name))
        assert abs(error) < 4 * np.sqrt(variance) + 0.02, name
    assert fit.params["launch_s"] == pytest.approx(4e-6, rel=0.03)
    assert fit.params["dram_efficiency"] == pytest.approx(0.7, rel=0.05)
    assert fit.heldout is not None and fit.heldout.mape < 0.06 and 0.8 < fit.heldout.coverage_90 <= 1
    assert fit.source == "refitted from mine.csv" and "bytes" in fit.valid_range
    # the fit goes before what transfers from other devices, and is right where that is not
    own = answer(capsys, "accuracy", "--table", table, "--fit", found["file"])
    transferred = answer(capsys, "accuracy", "--table", table)
    assert own["mape"] == pytest.approx(0.04 * np.sqrt(2 / np.pi), rel=0.25)
    assert own["mape"] < transferred["mape"] / 2 and 0.8 < own["coverage_90"] < 1


def test_a_refit_says_what_it_can_not_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = made_up_adds(tmp_path / "mine.csv", gpu="under my desk")
    assert "device: must be a bundled profile" in refusal(capsys, "calibrate", "--from", table, "--out", tmp_path)
    found = answer(capsys, "calibrate", "--from", table, "--device", "L40S", "--out", tmp_path / "a.json")
    assert found["file"] == str(tmp_path / "a.json") and load_fit(found["file"]).device == "l40s"
    other = ["calibrate", "--from", table, "--device", "h200", "--out", tmp_path / "a.json"]
    assert "must hold fits of h200" in refusal(capsys, *other)
    two = {"gpu": ["L40S", "H200-SXM"], "m": [1, 1], "n": [128, 128], "k": [128, 128], "latency_us": [3, 3]}
    table = write(tmp_path / "two.csv", two)
    assert "one of the table's: h200, l40s" in refusal(capsys, "calibrate", "--from", table, "--out", tmp_path)
    few = ["calibrate", "--from", table, "--device", "l40s", "--out", tmp_path]
    assert "must have a kernel with 24 rows" in refusal(capsys, *few)


@pytest.mark.parametrize(("name", "mape", "rows"), [("allreduce", 0.10, 1200), ("moe", 0.13, 100_000)])
def test_the_measured_tables_are_as_good_as_the_page_says(
    data_dir: Path, capsys: pytest.CaptureFixture[str], name: str, mape: float, rows: int
) -> None:
    table = data_dir / "gpu_ops" / f"{name}.parquet"
    pytest.importorskip("pyarrow")
    if not table.is_file():
        pytest.skip(f"{name}.parquet absent")
    found = answer(capsys, "accuracy", "--table", table)
    assert found["rows"] > rows and found["mape"] < mape and 0.85 < found["coverage_90"] < 0.97


def test_several_query_tokens_against_a_cache_without_any_fit(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = data_dir / "gpu_ops" / "attention_verify.csv"
    if not table.is_file():
        pytest.skip("attention_verify.csv absent")
    found = answer(capsys, "accuracy", "--table", table)
    assert found["groups"]["gpu"]["H20"]["mape"] < 0.15  # latent attention, 1 to 6 tokens, the step at 5 included
    assert any("n_heads is blank" in reason for reason in found["refused"]["reasons"])


def page_row(operator: str, split: str, mape: float, coverage: float = 0.9, **where: str) -> dict[str, Any]:
    common = {"operator": operator, "split": split, "by": "all", "group": "all", "tokens": "all", "rows": 1000}
    return {**common, "mape": mape, "median_ape": mape, "p90_ape": mape, "bias": 0.0, "coverage_90": coverage, **where}


def test_the_page_says_what_was_met_and_what_missed() -> None:
    rows = [
        page_row("gemm", "unseen shapes", 0.069, tokens="small"),
        page_row("gemm", "unseen shapes, corrected", 0.044, tokens="small"),
        page_row("layer gemm", "unseen models, corrected", 0.08, tokens="small"),
        page_row("attention_decode", "unseen head configurations, corrected", 0.02),
        page_row("gemm", "unseen shapes", 0.2, 0.5),
        page_row("layer gemm", "unseen models", 0.071, tokens="small"),
        page_row("attention_decode", "unseen head configurations", 0.05, 0.98),
        page_row("gemm", "unseen GPU, weights from memory", 0.06, by="dtype", group="bfloat16", tokens="small"),
        page_row("gemm", "unseen GPU", 0.2, 0.85),
        page_row("gemm", "unseen GPU", 0.2, 0.4, by="gpu", group="L40S"),
        page_row("gemm", "unseen shapes", 0.2, 0.5, by="gpu", group="L40S"),
        page_row("gemm", "unseen shapes, corrected", 0.2, 0.9, by="gpu", group="L40S"),
        page_row("gemm", "unseen shapes", 0.3, 0.5, by="fit", group="L40S vllm 1 fp8"),
        page_row("gemm", "seen", 0.1, impossible=7),
        page_row("serving, dense", "served, unseen models", 0.09),
        page_row("serving, dense", "served, unseen models of an engine", 0.07),
        page_row("serving, dense", "served, unseen models of an engine", 0.06, by="tp", group="8"),
    ]
    lines = page(rows).splitlines()
    targets = [line for line in lines if line.endswith(("| met |", "| missed |"))]
    assert [line.split("|")[-2].strip() for line in targets] == [
        *("met", "met", "missed", "missed", "met", "met", "met"),
        *("missed", "met"),
        *("missed", "met", "met"),
    ]
    assert "74.0 %" in targets[9] and "lowest gemm on L40S: 50.0 %" in targets[9]  # (0.5 + 0.98) / 2 of as many rows
    assert any("gemm 7." in line for line in lines) and any("L40S vllm 1 fp8" in line for line in lines)


def test_dense_layers_are_refitted_from_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = made_up_gemm(tmp_path / "all.csv", 1200, half_widths=0.05)  # errors of a twentieth of the fit's interval
    mine = (made["gpu"] == "H100-SXM") & (made["engine"] == "vllm") & (made["dtype"] == "bfloat16")
    table = write(tmp_path / "mine.csv", {name: column[mine] for name, column in made.items()})
    found = answer(capsys, "calibrate", "--from", table, "--out", tmp_path / "mine.json")
    assert [(f["operator"], f["dtype"], f["points"]) for f in found["fits"]] == [("gemm", "bfloat16", mine.sum())]
    own = answer(capsys, "accuracy", "--table", table, "--fit", tmp_path / "mine.json")
    assert own["mape"] < 0.03 and own["coverage_90"] > 0.9
    few = {name: column[mine & (made["m"] <= 64)] for name, column in made.items()}  # one side of 64 tokens only
    few_table = write(tmp_path / "few.csv", few)
    assert "must have a kernel" in refusal(capsys, "calibrate", "--from", few_table, "--out", tmp_path)
