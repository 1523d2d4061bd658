"""Scenarios: the bundled ones resolve; what does not fit together is refused in one line, with exit code 2."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_deployment import deployment, fields, table

from specsim.cli import main
from specsim.documents import parse
from specsim.errors import InputError
from specsim.scenario import Scenario, bundled_scenarios, find_scenario, load_scenario, resolve
from specsim.tree import DraftTree

TOML = """
name = "small"
hardware = "jetson-agx-orin-64gb"
[target]
model = "llama-3.1-8b"
[drafter]
kind = "draft_model"
model = "llama-3.2-1b"
[workload]
batch = 1
context_tokens = 1024
[acceptance]
kind = "iid"
alpha = 0.8
source = "made up for tests"
[search]
max_draft_len = 4
max_nodes = 8
max_depth = 4
"""


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line that a command is refused with."""
    assert main(list(args)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


@pytest.mark.parametrize("name", bundled_scenarios())
def test_bundled_scenarios_resolve_and_hold_together(name: str) -> None:
    scenario = find_scenario(name)
    resolved = resolve(scenario)
    assert find_scenario(str(bundled_scenarios()[name])) == scenario
    assert resolved.draft is not None and resolved.draft.vocab_size <= resolved.target.vocab_size
    assert resolved.acceptance.max_depth >= scenario.search.max_draft_len
    assert resolved.ledger(DraftTree.chain(4)).fits
    assert resolved.ledger(DraftTree.root_only()).draft_weights == 0


def test_a_file_says_what_the_fields_say(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(TOML)
    search = {"max_draft_len": 4, "max_nodes": 8, "max_depth": 4}
    assert load_scenario(path) == parse(Scenario, fields(name="small", search=search), "toy")


WRONG = {
    "misspelt key": ("context_tokens", "contxt_tokens", "small.toml: workload.contxt_tokens: unknown key"),
    "misspelt table": ("[workload]", "[wrokload]", "small.toml: wrokload: unknown key"),
    "negative length": ("max_draft_len = 4", "max_draft_len = -1", "search.max_draft_len: Input should be greater"),
    "negative context": (
        "= 1024",
        "= -5",
        "workload.context_tokens: Input should be greater than or equal to 0, got -5",
    ),
    "no batch": ("batch = 1", "batch = 0", "workload.batch: Input should be greater than or equal to 1, got 0"),
    "half a sequence": ("batch = 1", "batch = 1.5", "workload.batch: Input should be a valid integer"),
    "not a number": ("alpha = 0.8", "alpha = nan", "acceptance.iid.alpha: Input should be"),
    "no probability": ("alpha = 0.8", "alpha = 1.5", "acceptance.iid.alpha: Input should be less than or equal to 1"),
    "no source": ('"made up for tests"', '""', "acceptance.iid.source: String should have at least 12 characters"),
    "unknown kind": ('kind = "iid"', 'kind = "guess"', "small.toml: acceptance: Input tag 'guess'"),
    "unknown target": ("llama-3.1-8b", "lama-3.1-8b", "got 'lama-3.1-8b'"),
    "unknown draft": ("llama-3.2-1b", "llama-9", "got 'llama-9'"),
    "unknown hardware": ("jetson-agx-orin-64gb", "h1000", "got 'h1000'"),
    "another vocabulary": ("llama-3.2-1b", "qwen3-0.6b", "vocab"),
    "no draft": ('model = "llama-3.2-1b"', "", "drafter: model is required by the draft_model drafter"),
    "draft too many": ('kind = "draft_model"', 'kind = "ngram"', "the ngram drafter has no model"),
    "no MTP module": ('kind = "draft_model"\nmodel = "llama-3.2-1b"', 'kind = "mtp"', "llama-3.1-8b"),
    "a head for a model": (
        "llama-3.2-1b",
        "eagle3-llama-3.1-8b",
        "drafter.model: must be a model, not a draft head, got",
    ),
    "a model for a head": ('"draft_model"', '"eagle3"', "drafter.model: must be a head of the family eagle3, got"),
    "a head of another kind": (
        'kind = "draft_model"\nmodel = "llama-3.2-1b"',
        'kind = "eagle"\nmodel = "eagle3-llama-3.1-8b"',
        "drafter.model: must be a head of the family eagle, got 'eagle3-llama-3.1-8b (eagle3)'",
    ),
    "a head for a target": (
        '"llama-3.1-8b"',
        '"eagle3-llama-3.1-8b"',
        "target.model: must be a model, not a draft head, got 'eagle3-llama-3.1-8b (eagle3)'",
    ),
    "weights of no model": (
        'kind = "draft_model"\nmodel = "llama-3.2-1b"',
        'kind = "mtp"\nweights = "fp8"',
        "weights is of no model",
    ),
    "a draft on more devices": (
        'model = "llama-3.2-1b"',
        'model = "llama-3.2-1b"\ntensor_parallel = 2',
        "drafter.tensor_parallel: must be <= 1, the devices of the target, got 2",
    ),
    "beyond the context": (
        "= 1024",
        "= 131072",
        "workload.context_tokens: must be <= 131067: with the 5 tokens of a round",
    ),
    "no link": ('hardware = "', 'tensor_parallel = 2\nhardware = "', "must be 1: "),
    "no such split": (
        'hardware = "jetson-agx-orin-64gb"',
        'tensor_parallel = 3\nhardware = "h100-sxm"',
        "must divide the 32 attention heads",
    ),
    "deeper than known": ("alpha = 0.8", "alpha = 0.8\nmax_depth = 3", "search.max_draft_len: must be <= 3, the depth"),
    "extended backwards": ("alpha = 0.8", "alpha = 0.8\nextend_to_depth = 2", "max_depth: must be >= 16"),
    "shares without source": ("alpha = 0.8", "alpha = 0.8\nrank_shares = [0.5]", "rank_shares_source: must say where"),
    "unknown engine": ("[search]", '[[export]]\nengine = "ollama"\nversion = "1"\n[search]', "export.0.engine: "),
    "truncated": ("max_depth = 4", "max_depth", "small.toml: not valid TOML ("),
    "twice": ("max_depth = 4", "max_depth = 4\nmax_depth = 5", "small.toml: not valid TOML ("),
    "hostile nesting": ("max_depth = 4", "max_depth = " + "[" * 100_000, "small.toml: not valid TOML ("),
    "hostile number": ("max_depth = 4", "max_depth = " + "9" * 10_000, "small.toml: "),
    "hostile key": ("max_depth = 4", '"a\\u001b[2J\\nb" = 1', "unknown key"),
    "a number for a table": ("[target]\nmodel", "target = 1\n[drafter.x]\nmodel", "small.toml: "),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_gives_one_line(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new, line = WRONG[case]
    assert old in TOML
    path = tmp_path / "small.toml"
    path.write_text(TOML.replace(old, new, 1))
    assert line in refused(capsys, "tune", str(path))


@pytest.mark.parametrize("name", ["no-such-scenario", "", "/", "x" * 5000, "small.toml/x"])
def test_what_is_no_file_gives_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(TOML)
    assert "must be a TOML file or one of llama-3.1-70b" in refused(capsys, "tune", name)


def test_a_folder_and_bytes_give_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "scenario: must be a TOML file" in refused(capsys, "tune", str(tmp_path))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00name")
    assert "bytes.toml: must be UTF-8 text" in refused(capsys, "tune", str(tmp_path / "bytes.toml"))
    (tmp_path / "empty.toml").write_text("")
    assert "empty.toml: name: Field required" in refused(capsys, "tune", str(tmp_path / "empty.toml"))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--batch", "0"], "options: workload.batch: "),
        (["--context", "-1"], "options: workload.context_tokens: "),
        (["--context", "200000"], "workload.context_tokens: must be <= 131063: with the 9"),
        (["--hardware", "abacus"], "got 'abacus'"),
        (["--tp", "2"], "must be 1: "),
        (["--batch", "many"], "--batch"),
        (["--top", "0"], "--top"),
    ],
)
def test_a_wrong_option_gives_one_line(options: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert line in refused(capsys, "tune", "llama-3.1-8b-agx-orin", *options)


def test_a_varied_scenario_is_what_a_file_with_the_changes_says() -> None:
    asked = parse(Scenario, fields(price_usd_per_hour=2.0), "toy")
    workload = {"batch": 8, "context_tokens": 4096, "temperature": 0.5}
    others = {"hardware": "h200", "tensor_parallel": 2, "runtime": "eager", "price_usd_per_hour": 3.5}
    assert asked.varied(**workload, **others) == parse(Scenario, fields(workload=workload, **others), "toy")
    assert asked.varied() == asked
    assert asked.varied(batch=8).varied(context_tokens=4096).workload.batch == 8  # what is not named stays
    assert asked.varied(price_usd_per_hour=None).price_usd_per_hour is None  # the price of the profile again
    assert asked == parse(Scenario, fields(price_usd_per_hour=2.0), "toy")


@pytest.mark.parametrize("name", bundled_scenarios())
def test_a_bundled_scenario_survives_a_change_and_back(name: str) -> None:
    asked = find_scenario(name)
    assert asked.varied(batch=7).varied(batch=asked.workload.batch) == asked


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"batches": 8}, "options: batches: unknown key"),
        ({"batch": 0}, "options: workload.batch: Input should be greater than or equal to 1, got 0"),
        ({"batch": None}, "options: workload.batch: Input should be a valid integer, got None"),
        ({"temperature": float("nan")}, "options: workload.temperature: Input should be"),
        ({"runtime": "lazy"}, "options: runtime: Input should be 'graph' or 'eager', got 'lazy'"),
        ({"price_usd_per_hour": -1.0}, "options: price_usd_per_hour: Input should be greater than 0, got -1.0"),
        ({"workload": {"batch": 8}}, "options: workload: must be given by its fields: batch, context_tokens, temp"),
    ],
)
def test_a_wrong_change_is_refused(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(line)}"):
        parse(Scenario, fields(), "toy").varied(**changes)


def test_a_target_larger_than_its_device_is_an_answer_with_the_ledger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # 70.6e9 parameters of 2 bytes on a device of 24 GiB x 0.9
    text = TOML.replace("llama-3.1-8b", "llama-3.1-70b").replace("jetson-agx-orin-64gb", "rtx-4090")
    (tmp_path / "big.toml").write_text(text)
    assert main(["tune", str(tmp_path / "big.toml")]) == 0
    line = " ".join(capsys.readouterr().out.split())
    assert "Infeasible: memory: needs 141 GB per device (target weights 141 GB, target kv 336 MB)" in line
    assert "limit 23.2 GB (90% of the device)" in line
    (tmp_path / "many.toml").write_text(TOML.replace("batch = 1", "batch = 4096"))
    assert main(["tune", str(tmp_path / "many.toml")]) == 0
    assert "Infeasible: memory: needs" in capsys.readouterr().out


def test_a_draft_that_does_not_fit_is_an_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = TOML.replace("jetson-agx-orin-64gb", "rtx-4090").replace("batch = 1", "batch = 9").replace("1024", "3500")
    (tmp_path / "tight.toml").write_text(text)
    assert main(["tune", str(tmp_path / "tight.toml"), "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert [e["configuration"] for e in answer["ranked"]] == ["no speculation"]
    assert answer["best"]["speedup"] == 1.0
    assert [i["configuration"] for i in answer["infeasible"]][:4] == ["chain 1", "chain 2", "chain 3", "chain 4"]
    assert all("draft weights 2.47 GB" in i["reason"] for i in answer["infeasible"])
    assert main(["tune", str(tmp_path / "tight.toml")]) == 0
    shown = capsys.readouterr().out
    assert "Infeasible" in shown and "draft weights 2.47 GB" in shown
    assert re.search(r"\d+ configurations: chain 1 to ", shown)


def test_a_draft_model_ends_where_its_positions_end() -> None:
    """A small model's own limit binds too; heads on the target's features are run past what their config says."""
    small = {"kind": "draft_model", "model": "llama-68m"}
    assert deployment(target={"model": "llama-2-7b"}, drafter=small, workload={"context_tokens": 2039}).draft
    with pytest.raises(InputError, match=r"^workload\.context_tokens: must be <= 2039: .* the 2048 of llama-68m"):
        deployment(target={"model": "llama-2-7b"}, drafter=small, workload={"context_tokens": 2040})
    heads = {"kind": "eagle", "model": "eagle-llama-2-7b-chat"}
    assert deployment(target={"model": "llama-2-7b"}, drafter=heads, workload={"context_tokens": 4000}).draft


def test_a_round_leaves_the_context_whole() -> None:
    """131,072 positions hold 131,063 tokens, a root and chains of up to 8; a longer one is refused when asked for."""
    near = deployment(workload={"context_tokens": 131_063})
    near.check(DraftTree.chain(8))
    with pytest.raises(InputError, match=r"must be <= 131062: with the 10 tokens of a round"):
        near.check(DraftTree.chain(9))
    assert deployment(drafter={"kind": "none"}, workload={"context_tokens": 131_071})


def test_a_search_without_drafter_needs_no_depth() -> None:
    plain = deployment(drafter={"kind": "none"}, acceptance=table((0.5,)))
    assert plain.draft is None and plain.drafting == "lookup"
    assert replace(plain, draft=None).ledger(DraftTree.root_only()).fits
