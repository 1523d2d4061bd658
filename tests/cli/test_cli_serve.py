"""``specsim serve`` and ``specsim plan``: what they print and keep, and what they refuse."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from specsim.cli import main
from specsim.cli.serve_options import control_from
from specsim.metrics.serving import latency
from specsim.scenario import bundled_scenarios, find_scenario, resolve
from specsim.sim.policies.adaptive import Goodput, Oracle, SglangAdaptive
from specsim.sim.policies.budget import BestBudget, SloBudget, TokenBudget
from specsim.sim.server import Server
from specsim.workload.log_files import load_requests

JETSON = "llama-3.1-8b-agx-orin"
LOAD = ("--workload", "chat", "--rate", "0.2", "--requests", "60")
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
yesterday,1,2
2023-11-16 18:15:53.3900000,200000,16
2023-11-16 18:15:57.3900000,91,0
"""


def answer(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(args) == 0
    return capsys.readouterr().out


def found(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    got: dict[str, Any] = json.loads(answer(capsys, *args, "--json"))
    return got


def refusal(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(args) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said


def test_both_sides_see_the_same_requests_and_the_records_say_the_same(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, picture, timeline = tmp_path / "records", tmp_path / "serving.png", tmp_path / "trace.json"
    files = ("--out", str(out), "--plot", str(picture), "--timeline", str(timeline))
    got = found(capsys, "serve", JETSON, *LOAD, "--draft-len", "3", "--warmup", "0", "--tpot-slo", "0.09", *files)
    assert got["schema"] == "specsim.serve/1"
    plain, drafted = got["setups"]
    assert (plain["name"], drafted["name"]) == ("no speculation", "draft 3")
    for one in (plain, drafted):
        assert one["verdict"] == "stable" and one["num_finished"] == 60 and one["num_refused"] == 0
        assert 0 < one["kv_occupancy"]["mean"] < one["kv_occupancy"]["most"] < 1
    assert plain["summary"]["tokens_per_round"] == 1 and plain["summary"]["accepted_frac"] is None
    assert drafted["summary"]["tokens_per_round"] > 2
    first, second = (load_requests(out / f"{name}-0-requests.csv") for name in ("plain", "speculation"))
    assert (first.arrival_s == second.arrival_s).all() and (first.output_tokens == second.output_tokens).all()
    ratio = latency(second, "tpot_s").mean() / latency(first, "tpot_s").mean()
    assert got["ratios"]["tpot_s"]["mean"]["value"] == pytest.approx(ratio) and ratio < 0.8
    met = (latency(second, "tpot_s") <= 0.09).mean()
    assert drafted["summary"]["attained"]["value"] == pytest.approx(met)
    assert json.loads((out / "summary.json").read_text())["setups"] == got["setups"]
    assert len((out / "plain-0-steps.csv").read_text().splitlines()) == plain["num_steps"] + 1
    assert picture.stat().st_size > 20_000 and json.loads(timeline.read_text())["traceEvents"]
    again = found(capsys, "serve", JETSON, *LOAD, "--draft-len", "3", "--warmup", "0", "--tpot-slo", "0.09")
    assert again["setups"] == got["setups"]
    assert "new or empty folder" in refusal(capsys, "serve", JETSON, *LOAD, "--out", str(out))


def test_in_words_with_replications_and_a_schedule(capsys: pytest.CaptureFixture[str]) -> None:
    said = answer(capsys, "serve", JETSON, *LOAD, "--schedule", "1-2:4,3-8:2", "--replications", "2")
    for words in ("no speculation", "schedule 1-2:4,3-8:2", "2 replications", "time to first token, p99", "ratio"):
        assert words in said
    assert "stable in 2 of 2 runs." in said and "All requests are alike in acceptance" in said
    plain = answer(capsys, "serve", JETSON, *LOAD, "--draft-len", "0")
    assert "ratio" not in plain and "no speculation: stable." in plain


def test_each_control_is_made_and_two_that_look_back_serve(capsys: pytest.CaptureFixture[str]) -> None:
    deployment = resolve(find_scenario(JETSON))
    named = ("sglang-adaptive:5", "goodput", "tetris:8", "dspark", "slo:8", "oracle")
    made = [control_from(None, None, name, deployment, 64, 1000, 0.05) for name in named]
    assert [name for name, _ in made] == list(named)
    kinds = [SglangAdaptive, Goodput, TokenBudget, BestBudget, SloBudget, Oracle]
    assert [type(control) for _, control in made] == kinds
    name, tuned = control_from(None, None, None, deployment, 64, 1000, None)
    assert name.startswith("tuned (1-") and tuned.max_draft_len > 0
    few = ("--workload", "json", "--users", "3", "--think", "0.5", "--requests", "12", "--tpot-slo", "0.05")
    for control in ("goodput", "slo:8"):
        got = found(capsys, "serve", JETSON, *few, "--control", control, "--warmup", "0")
        assert got["setups"][1]["num_finished"] == 12 and got["setups"][1]["summary"]["tokens_per_round"] > 1.5


def test_requests_differ_where_the_scenario_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = bundled_scenarios()[JETSON].read_text(encoding="utf-8")
    spread = "num_requests = 24\nrequest_spread = { between_sd = 0.5, lag1 = 0.0, draft_len = 4 }\nsource = "
    (tmp_path / "spread.toml").write_text(text.replace("source = ", spread, 1), encoding="utf-8")
    said = answer(capsys, "serve", str(tmp_path / "spread.toml"), *LOAD, "--draft-len", "4")
    assert "Requests differ in acceptance as the scenario's spread says." in said
    alike, unlike = (
        found(capsys, "serve", name, *LOAD, "--draft-len", "4", "--out", str(tmp_path / str(number)))["setups"][1]
        for number, name in enumerate((JETSON, str(tmp_path / "spread.toml")))
    )
    assert unlike["summary"]["tokens_per_round"] == pytest.approx(alike["summary"]["tokens_per_round"], rel=0.1)
    logs = [load_requests(tmp_path / str(number) / "speculation-0-requests.csv") for number in (0, 1)]
    long = logs[0].output_tokens > 100
    spreads = [(log.num_accepted[long] / log.num_rounds[long]).std() for log in logs]
    assert spreads[1] > 1.5 * spreads[0]


def test_a_trace_names_its_bad_line_and_says_who_was_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "azure.csv").write_text(AZURE)
    asked = ("serve", JETSON, "--trace", str(tmp_path / "azure.csv"), "--format", "azure", "--draft-len", "2")
    assert "azure.csv:4: " in refusal(capsys, *asked)
    got = found(capsys, *asked, "--skip-bad", "--warmup", "0")
    assert got["left_out"]["failed_when_recorded"] == 1 and "azure.csv:4" in got["left_out"]["malformed"][0]
    one = got["setups"][1]
    assert (one["num_finished"], one["num_refused"]) == (2, 1) and "200016 tokens" in one["refusals"][0]["reason"]
    (tmp_path / "long.csv").write_text(AZURE.replace("374", "200000").replace("396", "200000"))
    asked = (*asked[:3], str(tmp_path / "long.csv"), *asked[4:], "--skip-bad")
    said = answer(capsys, *asked)
    assert "3 of 3: request 0: 200044 tokens, where llama-3.1-8b has positions for 131072" in said


def test_an_overload_ends_and_is_called_unstable(capsys: pytest.CaptureFixture[str]) -> None:
    load = ("--workload", "chat", "--rate", "50", "--requests", "500", "--max-running", "4")
    got = found(capsys, "serve", JETSON, *load, "--draft-len", "3")
    assert all(one["verdict"] == "unstable" and "the queue grew" in one["reason"] for one in got["setups"])


def test_an_interrupt_keeps_the_records(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stretch, calls = Server._stretch, 0  # type: ignore[attr-defined]

    def interrupted(self: Server, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 60:
            signal.raise_signal(signal.SIGINT)
        return stretch(self, *args)

    monkeypatch.setattr(Server, "_stretch", interrupted)
    out = tmp_path / "records"
    assert main(["serve", JETSON, *LOAD, "--draft-len", "3", "--out", str(out)]) == 130
    said = capsys.readouterr().out
    assert "interrupted: the run was interrupted" in said and "not run" in said
    assert 0 < len(load_requests(out / "plain-0-requests.csv")) < 60


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", "either --workload or --trace"),
        ("--workload chat", "--rate, --users or --burst"),
        ("--workload chat --rate 0", "rate_per_s"),
        ("--workload chat --rate nan", "rate_per_s"),
        ("--workload chat --rate 1 --burst", "one of --rate"),
        ("--workload chat --users 2 --burstiness 2", "burstiness: must come with --rate"),
        ("--workload tea --rate 1", "must be one of chat"),
        ("--workload agentic --users 3", "arrivals must be open"),
        ("--workload chat --rate 1 --draft-len 2 --control goodput", "one of --draft-len"),
        ("--workload chat --rate 1 --draft-len 99", "must be <= 8"),
        ("--workload chat --rate 1 --schedule 1-4", "like 1-8:4"),
        ("--workload chat --rate 1 --schedule 3-4:2", "begin at batch size 1"),
        ("--workload chat --rate 1 --control tetris", "tetris:64"),
        ("--workload chat --rate 1 --control magic", "must be one of tuned"),
        ("--workload chat --rate 1 --control slo:64", "--tpot-slo"),
        ("--workload chat --rate 1 --admission priority", "priority_shares"),
        ("--workload chat --rate 1 --admission deadline", "--ttft-slo"),
        ("--workload chat --rate 1 --preemption swap", "swap_gb_per_s"),
        ("--workload chat --rate 1 --ttft-slo -1", "ttft_slo: must be > 0"),
        ("--workload chat --rate 1 --skip-bad", "options of a trace"),
        ("--trace none.csv --format azure", "can not be read"),
        ("--trace none.csv --format tea", "format: must be one of"),
        ("--trace none.csv --format csv", "columns: must be said"),
        ("--workload chat --rate 1 --plot x.pdf", "must end in .png"),
    ],
)
def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], options: str, words: str) -> None:
    assert words in refusal(capsys, "serve", JETSON, *options.split())


def test_a_plan_says_why_not_fewer(capsys: pytest.CaptureFixture[str]) -> None:
    load = ("--workload", "json", "--rate", "2", "--duration", "50", "--replications", "2")
    goal = ("--ttft-slo", "2", "--tpot-slo", "0.12", "--price", "1")
    asked = ("plan", JETSON, *load, *goal, "--draft-len", "3")
    got = found(capsys, *asked)
    assert got["schema"] == "specsim.plan/1" and len(got["answers"]) == 2
    for one in got["answers"]:
        assert one["best"]["enough"] and one["best"]["summary"]["attained"]["low"] >= 0.95
        assert one["gpus"] == one["replicas"] and one["usd_per_hour"] == pytest.approx(one["gpus"])
        tried = {trial["replicas"]: trial["enough"] for trial in one["trials"]}
        assert one["replicas"] == 1 or tried[one["replicas"] - 1] is False
    said = answer(capsys, *asked, "--vary", "draft-len=0,3", "--max-replicas", "32")
    assert "no speculation" in said and "draft 3" in said and "USD per hour" in said and "devices" in said


def test_a_plan_refuses_in_one_line_and_says_where_nothing_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    load = ("--workload", "json", "--rate", "1", "--duration", "30")
    assert "must be said" in refusal(capsys, "plan", JETSON, *load)
    assert "rate: must be said" in refusal(capsys, "plan", JETSON, "--workload", "json", "--ttft-slo", "1")
    assert "vary: must be one of" in refusal(capsys, "plan", JETSON, *load, "--ttft-slo", "1", "--vary", "x=1")
    said = answer(capsys, "plan", JETSON, *load, "--tpot-slo", "0.001", "--replications", "1", "--draft-len", "2")
    assert "none is enough" in said and "No number of devices that was tried is enough." in said
