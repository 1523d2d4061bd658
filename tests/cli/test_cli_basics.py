"""The command line from outside: what it answers, and that bad input is one line on stderr and exit code 2."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from specsim.cli import main
from specsim.cli.output import plain
from specsim.hardware import hardware_names, hwprofiles_dir
from specsim.model import model_names

COST = ["cost", "--hardware", "h100-sxm", "--target", "llama-3.1-8b"]


def answer(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    """The JSON of a command that must succeed."""
    assert main([*args, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refusal(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line of a command that must refuse."""
    assert main(list(args)) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", streams.err)
    assert streams.err.strip().isprintable()
    return streams.err


def program(*args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    code = "import sys; from specsim.cli import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, input=stdin)


def test_hardware(capsys: pytest.CaptureFixture[str]) -> None:
    listed = answer(capsys, "hardware", "list")
    assert listed["schema"] == "specsim.hardware.list/1"
    assert [device["name"] for device in listed["devices"]] == hardware_names()
    shown = answer(capsys, "hardware", "show", "H100 SXM")
    assert shown["schema"] == "specsim.hardware.show/1"
    assert shown["peak_flops_per_s"]["bf16"]["value"] == 989.4e12
    assert main(["hardware", "list"]) == main(["hardware", "show", "l4"]) == 0
    tables = capsys.readouterr().out
    assert "jetson-agx-orin-64gb" in tables
    assert "300 GB/s" in tables


def test_model(capsys: pytest.CaptureFixture[str]) -> None:
    listed = answer(capsys, "model", "list")
    assert [model["name"] for model in listed["models"]] == model_names()
    shown = answer(capsys, "model", "show", "llama-3.1-8b", "--context", "2048")
    assert shown["schema"] == "specsim.model.show/1"
    assert (shown["num_params"], sum(shown["params"].values())) == (8_030_261_248, 8_030_261_248)
    assert (shown["weight_bytes"], shown["kv_bytes"]) == (16_060_522_496, 2048 * 131_072)
    assert answer(capsys, "model", "show", "llama-3.1-8b", "--weights", "int4")["weight_dtype"] == "int4"
    assert main(["model", "list"]) == main(["model", "show", "deepseek-v3"]) == 0
    assert "671,026,419,200" in capsys.readouterr().out


def test_cost(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One token on 1023 cached: the 15,546,187,776 FLOP worked out in tests/cost/test_count.py."""
    args = [*COST, "--draft", "eagle3-llama-3.1-8b", "--tokens", "1,5", "--batch", "1,8", "--context", "1023"]
    found = answer(capsys, *args, "--ops")
    assert found["schema"] == "specsim.cost/1"
    rows = found["passes"]
    assert [(r["role"], r["batch"], r["new_tokens"]) for r in rows[:4]] == [
        ("target", b, n) for b in (1, 8) for n in (1, 5)
    ]
    assert [row["role"] for row in rows[4:]] == ["draft"] * 4
    assert rows[0]["flops"] == 15_546_187_776
    for row in rows:
        assert row["time_low_s"] < row["time_s"] < row["time_high_s"]
        assert sum(row["by_bound_s"].values()) == pytest.approx(row["time_s"])
        assert sum(op["time_s"] for op in row["ops"]) == pytest.approx(row["time_s"])
        assert row["intensity_flops_per_byte"] == pytest.approx(row["flops"] / row["bytes"])
        assert row["fits"]
    for name, begins in (("roofline.png", b"\x89PNG"), ("roofline.svg", b"<?xml")):
        assert main([*args, "--plot", str(tmp_path / name)]) == 0
        drawn = (tmp_path / name).read_bytes()
        assert drawn.startswith(begins)
        assert main([*args, "--plot", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_bytes() == drawn
    assert "memory" in capsys.readouterr().out


def test_a_picture_that_can_not_be_written_is_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import specsim.search.explain  # noqa: F401 - whoever is imported first while the patch holds would keep it

    (tmp_path / "folder.png").mkdir()
    for name in ("folder.png", "new.png"):
        monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
        monkeypatch.setattr("specsim.search.tune.tune", lambda *_: pytest.fail("worked first"))
        line = refusal(capsys, "tune", "llama-3.1-8b-agx-orin", "--plot", str(tmp_path / name))
        assert "plot: must be a file that can be written" in line


def test_what_fits_and_what_does_not_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """16 GB of weights and 512 x 1024 x 131 kB = 69 GB of cache on an H100, of which 77 GB are usable."""
    rows = answer(capsys, *COST, "--batch", "1,512", "--tokens", "1")["passes"]
    assert [row["fits"] for row in rows] == [True, False]
    found = answer(capsys, "cost", "--hardware", "rtx-4090", "--target", "llama-3.1-70b")
    assert found["status"] == "infeasible" and "memory: needs 141 GB per device" in found["reason"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["hardware", "show", "h10"], "close: h100-nvl, h100-pcie, h100-sxm, got 'h10'"),
        (["hardware", "show", "tpu"], "hardware: must be a bundled name"),
        (["hardware", "show", "no/such.toml"], "error: no/such.toml: can not be read (No such file or directory)\n"),
        (["model", "show", "zzzzzz"], "(`specsim model list` names them), got 'zzzzzz'"),
        (["model", "show", "lama-3.1-8b"], "did you mean llama-3.1-8b"),
        (["model", "show", "/nowhere/config.json"], "must be a config.json or a bundled name"),
        (["model", "show", "llama-3.1-8b", "--context", "0"], "context: must be >= 1, got 0"),
        (
            ["model", "show", "llama-3.1-8b", "--context", "131073"],
            "context: must be <= 131072, the limit of llama-3.1-8b, got 131073",
        ),
        (["model", "show", "llama-3.1-8b", "--weights", "int3"], "dtype: must be one of fp32, bf16"),
        (
            [*COST, "--tokens", "-4"],
            "tokens: must be whole numbers from 1 to 1000000000, separated by commas, got '-4'",
        ),
        ([*COST, "--tokens", "1,,2"], "tokens: must be whole numbers"),
        ([*COST, "--tokens", "9" * 5000], "tokens: must be whole numbers"),
        ([*COST, "--batch", "0"], "batch: must be whole numbers from 1"),
        ([*COST, "--context", "1.5"], "context: must be whole numbers from 0"),
        (
            [*COST, "--context", "131072"],
            "must be <= 131072 with the new tokens, the limit of llama-3.1-8b, got 131136",
        ),
        ([*COST, "--tp", "3"], "tp: must divide the 32 attention heads of llama-3.1-8b, got 3"),
        ([*COST, "--tp", "0"], "tp: must be >= 1, got 0"),
        ([*COST, "--runtime", "fast"], "runtime: must be graph or eager, got 'fast'"),
        ([*COST, "--plot", "roofline.pdf"], "plot: must end in .png or .svg, got 'roofline.pdf'"),
        ([*COST, "--plot", "/nowhere/roofline.png"], "plot: must be in a folder that exists"),
        ([*COST, "--draft", "qwen3-0.6b"], "must have the vocabulary of target llama-3.1-8b (128256 tokens)"),
        ([*COST[:-1], "eagle3-llama-3.1-8b"], "target: must be a model, not a draft head, got 'eagle3-llama-3.1-8b"),
        ([*COST, "--draft", "eagle3-llama-3.3-70b"], "must read features of target llama-3.1-8b"),
        (["cost", "--hardware", "rtx-4090"], "--target"),
        ([*COST, "--tree", "1"], "--tree"),
        ([*COST, "--tp", "two"], "--tp"),
        (["costs"], "costs"),
        (["hardware", "shows"], "shows"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(args: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert told in refusal(capsys, *args)
    assert told in refusal(capsys, *args, "--json")


def profile(tmp_path: Path, before: str, after: str) -> str:
    """A user's profile: that of an L4 with one thing changed."""
    text = (hwprofiles_dir() / "l4.toml").read_text(encoding="utf-8")
    assert before in text
    (tmp_path / "mine.toml").write_text(text.replace(before, after, 1), encoding="utf-8")
    return str(tmp_path / "mine.toml")


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("num_sms", "num_smx", "mine.toml: num_smx: unknown key"),
        ('arch = "Ada"', 'arch = "Ada', "mine.toml: not valid TOML"),
        ('name = "l4"', 'name = "l4"\n"evil\\n\\u001b[31mkey" = 1', "unknown key"),
        (
            "num_sms = { value = 58",
            "num_sms = { value = -58",
            "mine.toml: num_sms.value: Input should be greater than 0",
        ),
        ("num_sms = { value = 58", "num_sms = { value = nan", "mine.toml: num_sms.value"),
        ("num_sms = { value = 58", f"num_sms = {{ value = {'9' * 400}", "mine.toml"),
        ("num_sms = { value = 58, source", 'num_sms = { value = 58, source = "", sauce', "mine.toml"),
        ('arch = "Ada"', 'arch = "Ada"\narch = "Ada"', "mine.toml: not valid TOML"),
        ('arch = "Ada"', "arch = " + "[" * 5000, "mine.toml"),
    ],
)
def test_a_wrong_profile(
    before: str, after: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = profile(tmp_path, before, after)
    assert told in refusal(capsys, "hardware", "show", path)
    assert told in refusal(capsys, "cost", "--hardware", path, "--target", "llama-3.1-8b")


def test_a_profile_of_your_own_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = profile(tmp_path, 'name = "l4"', 'name = "[bold]mine[/bold] \\u001b[31m"')
    assert main(["hardware", "show", path]) == 0
    shown = capsys.readouterr().out
    assert "[bold]mine[/bold]" in shown  # text, not markup
    assert "\x1b" not in shown  # nor a command to the terminal
    assert answer(capsys, "cost", "--hardware", path, "--target", "llama-3.1-8b")["passes"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"model_type": "llama", "hidden_size": 40', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("null", "must be a table of fields"),
        ('{"model_type": "rwkv"}', "unknown architecture"),
        ('{"model_type": "llama", "num_attention_heads": "32"}', "num_attention_heads"),
        ('{"model_type": "llama", "hidden_size": ' + "9" * 5000 + "}", "config.json"),
        ('{"model_type": "llama\\n\\u001b[2J"}', "unknown architecture"),
        ("\ufeff{}", "config.json"),
    ],
)
def test_a_wrong_config(text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    assert told in refusal(capsys, "model", "show", str(path))
    assert told in refusal(capsys, "cost", "--hardware", "l4", "--target", str(path))


def test_a_file_that_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, command in (("config.json", "model"), ("mine.toml", "hardware")):
        (tmp_path / name).write_bytes(b"\x80\x81\xff")
        assert "must be UTF-8 text" in refusal(capsys, command, "show", str(tmp_path / name))


def test_from_a_shell(tmp_path: Path) -> None:
    """Exit codes and streams of the real program; nothing but the answer on stdout, and no traceback anywhere."""
    done = program("hardware", "show", "l4", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["name"] == "l4"
    done = program("hardware", "show", "l44")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: ")
    for args in ((), ("--help",), ("cost", "--help"), ("--version",)):
        done = program(*args)
        assert (done.returncode, done.stderr) == (0, "")
        assert "specsim" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="pipes of a POSIX shell")
def test_a_reader_that_stops_early_is_no_error() -> None:
    code = "import sys; from specsim.cli import main; sys.exit(main())"
    writer = subprocess.Popen(
        [sys.executable, "-c", code, "model", "list", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert writer.stdout and writer.stderr
    writer.stdout.close()
    assert writer.stderr.read() == b""
    assert writer.wait() == 1
    writer.stderr.close()


@pytest.mark.parametrize(("module", "extra"), [("torch", "executor"), ("matplotlib", "plots"), ("pyarrow", "data")])
def test_a_plain_install_names_the_extra(
    module: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> list[str]:
        raise ModuleNotFoundError(f"No module named '{module}.nn'", name=f"{module}.nn")

    monkeypatch.setattr("specsim.hardware.hardware_names", missing)
    assert f"needs the extra `{extra}`, which brings {module}: pip" in refusal(capsys, "hardware", "list")


def test_a_bug_is_not_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> list[str]:
        raise ModuleNotFoundError("No module named 'specsim.wares'", name="specsim.wares")

    monkeypatch.setattr("specsim.hardware.hardware_names", missing)
    with pytest.raises(ModuleNotFoundError):
        main(["hardware", "list"])


@pytest.mark.parametrize("command", ["generate", "calibrate", "validate", "demo"])
def test_commands_that_decode_need_the_executor(command: str, tmp_path: Path) -> None:
    """Torch made absent, in a program of its own."""
    hidden = "import sys; sys.modules['torch'] = None; from specsim.cli import main; sys.exit(main())"
    options = [] if command == "generate" else ["--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", hidden, command, *options], capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: this command needs the extra `executor`, which brings torch")


def test_an_interrupt_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr("specsim.hardware.hardware_names", interrupt)
    assert main(["hardware", "list"]) == 130
    assert capsys.readouterr().err == ""


def test_json_refuses_what_it_does_not_have() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"answer\.rows\[1\]\.time_s: must be finite"):
            plain({"rows": [{}, {"time_s": value}]})
    with pytest.raises(ValueError, match="has no form in JSON"):
        plain({"set": {1}})
