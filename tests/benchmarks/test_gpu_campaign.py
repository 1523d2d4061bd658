"""The GPU campaign on a processor: every part in small, resuming, stopping in time, wrong numbers caught, refitting."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from gpu_campaign import attention, forwards, refit, rounds, run, timing  # noqa: E402
from gpu_campaign.bench import Bench, device_name, shuffled  # noqa: E402
from gpu_campaign.campaign import Cell, DeviceLostError, Log, Part, read_log, run_part, write_tables  # noqa: E402
from gpu_campaign.llama import TINY_8B, Attend, Cache, RandomLlama, Size, fitting  # noqa: E402

DOCUMENTED = {  # the columns that every table of measured operators has
    "gemm": "gpu engine version dtype kernel m n k weight_copies cuda_graph latency_us",
    "attention_decode": "gpu engine version kernel dtype kv_dtype batch q_len context n_heads n_kv_heads head_dim"
    " latency_us",
    "attention_verify": "gpu kernel batch q_len context n_heads n_kv_heads latency_us",
    "attention_prefill": "gpu engine version kernel dtype kv_dtype batch q_len context n_heads n_kv_heads head_dim"
    " latency_us",
    "allreduce": "gpu engine version kernel cuda_graph n_gpus dtype bytes latency_us",
    "layer_ops": "gpu model op dtype tp num_tokens n k hidden inter gated latency_us",
    "forward": "gpu engine model weights kind n_tokens mean_context latency_ms source",
    "bandwidth": "gpu op bytes bytes_per_s",
    "peak": "gpu dtype size flops_per_s",
    "launch": "gpu op num_kernels launch latency_us",
    "draft_loop": "gpu model num_passes width batch context launch latency_us",
    "rounds": "gpu target draft method alpha batch context num_nodes draft_us verify_us host_us tokens_per_round"
    " latency_us",
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("campaign")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert run.main(["--out", str(folder), "--tiny", "--device", "cpu", "--minutes", "2"]) == 0
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def bench() -> Bench:
    return Bench("cpu", tiny=True)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_part_measures_all_its_cells(measured: Path) -> None:
    machine = json.loads((measured / "machine.json").read_text())
    assert list(machine["parts"]) == [part.name for part in run.PARTS]
    for name, part in machine["parts"].items():
        assert part["measured"] > 0, name
        assert (part["failed"], part["left"]) == (0, 0), name
    assert not (measured / "failures.csv").exists()


@pytest.mark.parametrize("table", DOCUMENTED)
def test_tables_have_the_documented_columns_and_plausible_numbers(measured: Path, table: str) -> None:
    rows = _rows(measured / f"{table}.csv")
    assert set(DOCUMENTED[table].split()) <= set(rows[0])
    assert all(float(row["latency_us"]) > 0 for row in rows)
    for row in rows:
        assert float(row.get("rel_error") or 0) < 0.03
        if row.get("cuda_graph") == "false" and row.get("launch") == "graph":
            assert "no CUDA graph" in row["note"]


def test_rounds_emit_what_the_acceptance_says(measured: Path) -> None:
    plain = [row for row in _rows(measured / "rounds.csv") if row["method"] == "no speculation"]
    assert plain
    assert all(float(row["tokens_per_round"]) == 1 and float(row["draft_us"]) == 0 for row in plain)
    one, three = (
        [row["tokens_per_round"] for row in _rows(measured / "rounds.csv") if (row["batch"], row["alpha"]) == at]
        for at in (("1", "0.8"), ("3", "0.8"))
    )
    assert one == three  # sequences of a batch keep the paths that one alone keeps
    (chain,) = rounds.trees((2,), ())
    import random

    lengths = [len(rounds.forced_path(chain, 0.5, random.Random(i))) for i in range(4000)]
    assert np.mean(lengths) == pytest.approx(1 + 0.5 + 0.25, abs=0.05)  # 5 sd: 0.83 / sqrt(4000) = 0.013


def test_a_resumed_run_measures_only_what_is_missing(tmp_path: Path) -> None:
    options = ["--out", str(tmp_path), "--tiny", "--device", "cpu", "--only", "gemm,launch"]
    run.main(options)
    before = read_log(tmp_path / "rows.jsonl")
    kept = [json.dumps(entry) for entry in before[:-3]]
    (tmp_path / "rows.jsonl").write_text("\n".join([*kept, json.dumps(before[-3])[:40]]))  # half a line: killed
    with pytest.raises(SystemExit):
        run.main(options)  # rows are not overwritten unasked
    run.main([*options, "--resume"])
    parts = json.loads((tmp_path / "machine.json").read_text())["parts"]
    assert sum(part["measured"] for part in parts.values()) == 3
    after = read_log(tmp_path / "rows.jsonl")
    assert after[: len(kept)] == before[: len(kept)]
    assert {entry["key"] for entry in after} == {entry["key"] for entry in before}


def test_a_part_stops_at_its_deadline_and_the_next_has_its_own(tmp_path: Path, bench: Bench) -> None:
    def slow(bench: Bench) -> Any:
        for number in range(100):
            yield Cell("slow", {"number": number}, lambda: {"latency_us": time.sleep(0.02) or 1.0})

    log = Log(tmp_path, resume=False)
    begin = time.monotonic()
    found = run_part(Part("slow", 1, slow), bench, log, begin + 0.1, {})
    assert time.monotonic() - begin < 20  # and not a hundred cells, however slow the machine
    assert found["left"] == 100 - found["measured"] >= 90


def test_a_failing_cell_is_a_row_with_its_reason_and_the_rest_goes_on(tmp_path: Path, bench: Bench) -> None:
    def cells(bench: Bench) -> Any:
        yield Cell("t", {"number": 0}, lambda: 1 / 0)  # type: ignore[arg-type, return-value]
        yield Cell("t", {"number": 1}, lambda: {"latency_us": 1.0})
        raise MemoryError("no room for the next model")

    log = Log(tmp_path, resume=False)
    found = run_part(Part("t", 1, cells), bench, log, time.monotonic() + 5, {}, say=lambda line: None)
    assert (found["measured"], found["failed"]) == (1, 1)
    write_tables(tmp_path)
    assert [row["number"] for row in _rows(tmp_path / "t.csv")] == ["1"]
    errors = [row["error"] for row in _rows(tmp_path / "failures.csv")]
    assert errors == ["ZeroDivisionError: division by zero", "MemoryError: no room for the next model"]


def test_a_cell_that_ended_the_process_is_not_tried_again(tmp_path: Path) -> None:
    Log(tmp_path, resume=False).begin(key="k", part="p", table="t")
    assert "k" in Log(tmp_path, resume=True).done
    assert read_log(tmp_path / "rows.jsonl")[0]["error"] == "the process ended during this cell"


def test_a_lost_device_ends_the_part(tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> None:
        raise DeviceLostError("gone")

    monkeypatch.setattr(bench, "recover", lost)
    cells = Part("t", 1, lambda bench: iter([Cell("t", {}, lambda: 1 / 0)]))  # type: ignore[arg-type, return-value]
    log = Log(tmp_path, resume=False)
    with pytest.raises(DeviceLostError):
        run_part(cells, bench, log, time.monotonic() + 5, {}, say=lambda line: None)
    assert len(log.done) == 1  # recorded first: a new process does not meet it again


def test_wrong_numbers_are_caught() -> None:
    watch = timing.Stopwatch(torch.device("cpu"), 1e-3)
    with pytest.raises(timing.WrongResultError, match="not finite"):
        watch.time(lambda: torch.tensor([1.0, float("nan")]))
    right = torch.arange(1.0, 5.0)
    assert timing.check(right, right.double(), 1e-9) == 0
    for wrong in (right * 1.1, right * float("nan")):
        with pytest.raises(timing.WrongResultError, match="float64"):
            timing.check(wrong, right, 0.05)


class _Graph:
    """Stands in for a CUDA graph on a processor: replaying calls again what was captured."""

    captured: Any = None
    works = True

    def replay(self) -> None:
        if self.works:
            _Graph.captured()

    def capture_begin(self) -> None:
        pass

    def capture_end(self) -> None:
        pass

    def reset(self) -> None:
        pass


class _Event:
    def __init__(self, enable_timing: bool) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, end: _Event) -> float:
        return 1e3 * (end.at - self.at)


class _Stream:
    def wait_stream(self, other: Any) -> None:
        pass


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> timing.Stopwatch:
    fakes = {
        "CUDAGraph": _Graph,
        "Event": _Event,
        "Stream": lambda device: _Stream(),
        "current_stream": lambda device: _Stream(),
        "stream": lambda stream: contextlib.nullcontext(),
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "_sleep": lambda clocks: None,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake, raising=False)
    watch = timing.Stopwatch(torch.device("cpu"), 1e-3)
    watch.is_cuda = True
    return watch


def test_captured_outputs_are_poisoned_before_they_are_checked(
    fake_cuda: timing.Stopwatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.inference_mode():  # as the executor's passes run
        out = torch.zeros(4)
    call = torch.inference_mode()(lambda: out.copy_(torch.ones(4)))
    monkeypatch.setattr(_Graph, "captured", staticmethod(call))
    timed = fake_cuda.time(call)
    assert timed.cuda_graph and timed.output.tolist() == [1.0] * 4
    monkeypatch.setattr(_Graph, "works", False)  # replays that write nothing
    with pytest.raises(timing.WrongResultError, match="not all of it was written"):
        fake_cuda.time(call)


def test_what_can_not_be_captured_is_timed_without_a_graph(
    fake_cuda: timing.Stopwatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(graph: _Graph) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(_Graph, "capture_begin", refuse)
    timed = fake_cuda.time(lambda: torch.ones(1))
    assert not timed.cuda_graph and timed.note.startswith("not captured: operation not permitted")


@pytest.mark.parametrize("free_bytes", [140e9, 22e9])
def test_the_full_campaign_names_every_cell_once_and_fits_the_memory(
    monkeypatch: pytest.MonkeyPatch, free_bytes: float
) -> None:
    """Only listed, nothing is measured: a device of that memory, all parts, no cell that its memory rules out."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(Bench, "free_bytes", free_bytes)
    bench = Bench("cpu")
    bench.is_cuda = True
    cells = {part.name: list(part.cells(bench)) for part in run.PARTS}
    keys = [cell.key for part in cells.values() for cell in part]
    assert len(keys) == len(set(keys))
    assert all(cells.values())
    gemm = [cell.facts for cell in cells["gemm"]]
    assert {f["m"] for f in gemm} >= {*range(1, 18), 32, 33, 64, 65, 128, 129, 256, 257, 512}
    for f in (f for f in gemm if f["weight_copies"] < 256):
        num_bytes = f["n"] * f["k"] * (1 if f["dtype"] == "fp8" else 2)
        assert f["weight_copies"] * num_bytes >= 2 * bench.l2_bytes
    verify = [cell.facts for cell in cells["attention_verify"]]
    assert {f["q_len"] for f in verify} >= {2, 4, 16, 17, 64}
    assert max(f["context"] for f in verify) == 32768
    kv_bytes = [4 * f["batch"] * f["n_kv_heads"] * (f["context"] + f["q_len"]) * f["head_dim"] for f in verify]
    assert max(kv_bytes) <= 0.3 * free_bytes
    passes = [cell.facts for cell in cells["forward_8b"] if cell.table == "forward"]
    assert max(f["n_tokens"] for f in passes) == 256
    assert {f["model"] for f in passes} == {"llama-8b" if free_bytes > 30e9 else "llama-8b-16-layers"}
    places = {(cell.facts["batch"], cell.facts["context"]) for cell in cells["rounds"]}
    assert places == {(1, 512), (4, 512), (16, 512), (1, 2048)}
    if free_bytes > 30e9:
        assert max(f["context"] for f in passes) == 32000 and max(f["batch"] for f in passes) == 64


@pytest.mark.parametrize("mask", ["causal", "tree"])
def test_masked_attention_is_attention_with_that_mask(bench: Bench, mask: str) -> None:
    shape = attention.Shape("sdpa_math", mask, 2, 5, 7, 4, 2, 8)
    k, v = (torch.randn(2, 2, 12, 8, dtype=torch.float64) for _ in range(2))
    q, seen = torch.randn(2, 4, 5, 8, dtype=torch.float64), attention.seen_by(mask, 5)
    found = attention.attention(shape, q, seen)(k, v).reshape(2, 4, 5, 8)
    for sequence in range(2):
        for head in range(4):
            wanted = attention.reference(
                q[sequence, head : head + 1], k[sequence, head // 2], v[sequence, head // 2], seen
            )
            torch.testing.assert_close(found[sequence, head], wanted[0])
    if mask == "causal":  # the rule that the flash kernel knows by itself
        other = attention.attention(shape._replace(kernel="sdpa_flash"), q, seen)(k, v)
        torch.testing.assert_close(other, found)


def test_the_batched_model_is_the_executors(bench: Bench) -> None:
    """The same weights and text: logits of five new tokens after seven cached ones, each of two sequences."""
    from specsim.executor.llama import Llama
    from specsim.executor.weights import LlamaShape, expected_tensors

    s = Size("s", 16, 2, 4, 2, 8, 24, 32)
    model = RandomLlama(bench, s, 64).in_float64(2)
    shape = LlamaShape(16, 2, 4, 2, 8, 24, 32, 64, 500000.0, 1e-5, False)
    weights = {name: torch.ones(dims, dtype=torch.float64) for name, dims in expected_tensors(shape).items()}
    weights |= {"model.embed_tokens.weight": model.embedding, "lm_head.weight": model.head}
    for i, layer in enumerate(model.layers):
        parts = {
            "self_attn.q_proj": layer.qkv[:32],
            "self_attn.k_proj": layer.qkv[32:48],
            "self_attn.v_proj": layer.qkv[48:],
            "self_attn.o_proj": layer.out,
            "mlp.gate_proj": layer.gate_up[:24],
            "mlp.up_proj": layer.gate_up[24:],
            "mlp.down_proj": layer.down,
        }
        weights |= {f"model.layers.{i}.{name}.weight": value for name, value in parts.items()}
    theirs = Llama(shape, weights, torch.float64)
    tokens = torch.randint(32, (2, 12))
    cache = Cache(torch.zeros(2 * 12 * s.kv_per_token, dtype=torch.float64), s, 2, 12)
    with torch.no_grad():
        model.forward(tokens[:, :7], cache, 0, Attend(causal=True))
        found = model.forward(tokens[:, 7:], cache, 7, Attend(causal=True))
        wanted = theirs.logits(theirs.prefill(tokens, theirs.new_cache(12, 2)))[:, 7:]
    torch.testing.assert_close(found, wanted.clone(), rtol=1e-4, atol=1e-6)  # rotary tables: 16 bits here


def test_sizes_are_the_published_ones_and_shrink_to_the_memory() -> None:
    assert forwards.LLAMA_8B.num_weights / 1e9 == pytest.approx(8.03, abs=0.01)
    assert forwards.LLAMA_1B.num_weights / 1e9 == pytest.approx(1.236, abs=0.005)
    assert forwards.LLAMA_8B.kv_per_token * 2 == 128 * 1024
    assert fitting(forwards.LLAMA_8B, 80e9) == forwards.LLAMA_8B
    assert fitting(forwards.LLAMA_8B, 16e9).name == "llama-8b-16-layers"
    assert fitting(TINY_8B, 1).layers == 1


def test_orders_and_names_depend_on_nothing_else() -> None:
    assert shuffled([3, 1, 2]) == shuffled([2, 3, 1])
    names = {"NVIDIA H200": "H200-SXM", "NVIDIA A100-SXM4-80GB": "A100-SXM-80GB", "NVIDIA L40S": "L40S"}
    assert {name: device_name(name) for name in names} == names


def test_a_trial_refits_nothing_and_says_so(measured: Path) -> None:
    lines = refit.refit(measured)
    assert lines[1:] and all("not fitted (InputError: rows: must be at least" in line for line in lines[1:])


def test_a_machine_without_a_datasheet_gets_a_profile_of_what_it_reached(tmp_path: Path) -> None:
    from specsim.hardware import load_hardware

    log = Log(tmp_path, resume=False)
    rates = {"fp32": 80e12, "tf32": 60e12, "bf16": 160e12, "fp16": 158e12, "fp8": 300e12, "int8": 310e12}
    for dtype, rate in rates.items():
        for size, share in ((8192, 1.0), (4096, 0.9)):
            row = {"dtype": dtype, "flops_per_s": rate * share}
            log.add(key=f"{dtype} {size}", part="peak", table="peak", row=row)
    for op, resident, rate in (("copy", True, 5e12), ("copy", False, 0.9e12), ("fill", False, 0.95e12)):
        row = {"op": op, "resident": resident, "bytes_per_s": rate}
        log.add(key=f"{op} {resident}", part="bandwidth", table="bandwidth", row=row)
    row = {"op": "kernel_chain", "cuda_graph": True, "num_kernels": 3000, "per_kernel_us": 1.4}
    log.add(key="chain", part="launch", table="launch", row=row)
    facts = {"gpu": "RTX-9990", "device": "NVIDIA GeForce RTX 9990", "torch": "2.11.0", "num_sms": 100}
    facts |= {"l2_bytes": 96 * 2**20, "mem_bytes": 24 * 2**30, "driver": {"clocks.max.sm": "2800"}}
    (tmp_path / "machine.json").write_text(json.dumps(facts))
    assert refit.refit(tmp_path) == ["profile: rtx-9990.toml"]
    profile = load_hardware(str(tmp_path / "rtx-9990.toml"))
    assert {dtype: figure.value for dtype, figure in profile.peak_flops_per_s.items()} == {
        dtype: rate
        for dtype, rate in rates.items()
        if dtype != "tf32"  # slower than fp32: a peak it is not
    }
    assert (profile.mem_bw_bytes_per_s.value, profile.mem_bw_bytes_per_s.kind) == (0.9e12, "measured")
    assert (profile.kind, profile.clock_hz.value, profile.launch_overhead_s.value) == ("consumer", 2.8e9, 1.4e-6)


def test_refitting_finds_the_law_that_made_the_rows(tmp_path: Path) -> None:
    """Element-wise rows of a known law: the fit predicts models left out, on the bundled datasheet of the device."""
    from specsim.cost.fits import DeviceFit
    from specsim.cost.operators.elementwise import ElementwiseParams, elementwise_time_s, moved_bytes
    from specsim.documents import parse, read_json
    from specsim.hardware import load_hardware

    device, rng, log = load_hardware("h200"), np.random.default_rng(0), Log(tmp_path, resume=False)
    law = ElementwiseParams(launch_s=1.7e-6, dram_efficiency=0.7, l2_speedup=1.8, l2_share=0.4)
    for model, hidden in (("a", 1024), ("b", 2048), ("c", 4096), ("d", 8192), ("e", 5120), ("f", 3584)):
        for m in (1, 4, 16, 64, 256, 1024, 4096, 16384):
            row = {"num_tokens": m, "hidden": hidden, "inter": 4 * hidden, "tp": 1, "gated": True}
            seconds = float(elementwise_time_s({"bytes": moved_bytes("add", row)}, device, law))
            row |= {"op": "add", "model": model, "dtype": "bfloat16", "engine": "torch", "version": "2.11.0"}
            row["latency_us"] = 1e6 * seconds * float(np.exp(rng.normal(0, 0.02)))
            log.add(key=f"{model} {m}", part="elementwise", table="layer_ops", row=row)
    (tmp_path / "machine.json").write_text(json.dumps({"gpu": "H200-SXM", "device": "NVIDIA H200", "torch": "2.11.0"}))
    refit.refit(tmp_path)
    fit = parse(DeviceFit, read_json(tmp_path / "h200.fit.json"), "fit").find("elementwise add", "bfloat16")
    assert fit is not None and fit.heldout is not None
    assert fit.heldout.mape < 0.04 and fit.heldout.coverage_90 > 0.75
    assert fit.params["launch_s"] == pytest.approx(1.7e-6, rel=0.1)
    assert load_hardware(str(tmp_path / "h200.toml")).peak("bf16") == device.peak("bf16")
