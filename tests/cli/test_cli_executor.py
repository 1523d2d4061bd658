"""The commands that run real models, end to end on the shipped pair, and what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from specsim.cli import main
from specsim.executor.session import TINY
from specsim.records import load_records

pytest.importorskip("torch")
PROMPT = "def read(self, path):\n"


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(list(args))
    out, err = capsys.readouterr()
    return code, out, err


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line of an input that is refused."""
    code, out, err = run(capsys, *args)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    return err


def generated(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, object]:
    code, out, _ = run(capsys, "generate", "--prompt", PROMPT, "--tokens", "40", "--json", *args)
    assert code == 0
    return json.loads(out)


def test_speculation_changes_the_speed_and_not_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    plain = generated(capsys, "--draft-len", "0")
    for shape in (("--draft-len", "4"), ("--widths", "2,2,1")):
        drafted = generated(capsys, *shape)
        assert drafted["text"] == plain["text"]
        assert drafted["num_rounds"] < plain["num_rounds"] * 0.7


def test_sampling_repeats_under_its_seed(capsys: pytest.CaptureFixture[str]) -> None:
    one, same, other = (generated(capsys, "--temperature", "1", "--seed", seed)["text"] for seed in ("1", "1", "2"))
    assert one == same != other


def test_records_hold_every_round(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told = generated(capsys, "--draft-len", "3", "--records", str(tmp_path / "rounds.jsonl"))
    records = list(load_records(tmp_path / "rounds.jsonl"))
    assert len(records) == told["num_rounds"]
    assert sum(r.num_emitted for r in records) == told["num_emitted"]
    assert all(r.accept_prob is not None and len(r.accept_prob) == 3 for r in records)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small calibration of this machine."""
    folder = tmp_path_factory.mktemp("calibrated")
    assert main(["calibrate", "--prompts", "2", "--rounds", "3", "--out", str(folder), "--json"]) == 0
    return folder


def test_validation_runs_resumes_and_reports(
    capsys: pytest.CaptureFixture[str], calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was interrupted keeps what it has, and goes on to the same records. How good its predictions are is
    not looked at, so acceptance is recorded on few prompts."""
    monkeypatch.setattr("specsim.cli.validate.ACCEPTANCE_PROMPTS", 3)
    monkeypatch.setattr("specsim.cli.validate.ACCEPTANCE_TOKENS", 24)
    fit = str(calibrated / "steps.fit.json")
    args = ("validate", "--prompts", "2", "--tokens", "8", "--fit", fit, "--out", str(tmp_path), "--json")
    code, out, _ = run(capsys, *args)
    assert code == 0
    result = json.loads(out)["result"]
    assert [row["configuration"] for row in result["rows"][:3]] == ["no speculation", "chain 1", "chain 2"]
    assert result["rows"][0]["speedup_measured"] == result["rows"][0]["speedup_given"] == 1
    assert (tmp_path / "validation.png").exists()

    path = tmp_path / "validation.jsonl"
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole[:-30]))
    code, out, _ = run(capsys, *args, "--resume")
    assert code == 0
    emitted = [sorted((r.request, r.method, r.accepted_ranks) for r in map_records(text)) for text in (whole, path)]
    assert emitted[0] == emitted[1]


def map_records(text: list[str] | Path):
    """Records of a file, or of its lines."""
    if isinstance(text, Path):
        return load_records(text)
    from specsim.records import RoundRecord

    return [RoundRecord.model_validate_json(line) for line in text]


def test_resuming_other_settings_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(json.dumps({"prompts": 3}))
    assert "settings" in refused(capsys, "validate", "--out", str(tmp_path), "--resume")


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """A copy of the shipped pair, to be damaged."""
    shutil.copytree(TINY, tmp_path / "pair")
    return tmp_path / "pair"


def refused_pair(capsys: pytest.CaptureFixture[str], pair: Path) -> str:
    return refused(capsys, "generate", "--target", str(pair / "target"), "--draft", str(pair / "draft"))


def test_a_truncated_checkpoint_is_refused(capsys: pytest.CaptureFixture[str], checkpoints: Path) -> None:
    path = checkpoints / "target" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])
    assert "model.safetensors" in refused_pair(capsys, checkpoints)


def test_a_pickle_is_never_opened(capsys: pytest.CaptureFixture[str], checkpoints: Path) -> None:
    (checkpoints / "draft" / "model.safetensors").rename(checkpoints / "draft" / "pytorch_model.bin")
    assert "safetensors" in refused_pair(capsys, checkpoints)


def test_a_draft_of_fewer_tokens_drafts_those_it_has(capsys: pytest.CaptureFixture[str], checkpoints: Path) -> None:
    from safetensors.torch import load_file, save_file

    config, weights = (checkpoints / "draft" / name for name in ("config.json", "model.safetensors"))
    config.write_text(config.read_text().replace('"vocab_size": 1024', '"vocab_size": 900'))
    tensors = load_file(weights)
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:900].clone()
    save_file(tensors, weights)
    drafted = generated(capsys, "--target", str(checkpoints / "target"), "--draft", str(checkpoints / "draft"))
    assert drafted["text"] == generated(capsys, "--draft-len", "0")["text"]
    assert drafted["num_rounds"] < 30


def test_a_checkpoint_without_its_partner_is_refused(capsys: pytest.CaptureFixture[str], checkpoints: Path) -> None:
    assert "draft: must be given" in refused(capsys, "generate", "--target", str(checkpoints / "target"))
    assert "target: must be given" in refused(capsys, "generate", "--draft", str(checkpoints / "draft"))
    lookup = ("--draft", str(checkpoints / "draft"), "--drafter", "lookup")
    assert "draft: must be left out for lookup" in refused(capsys, "generate", *lookup)


@pytest.mark.parametrize(
    "args",
    [
        ("--policy", "eagle2 top_k=4 depth=3 total_tokens=12"),
        ("--drafter", "medusa", "--widths", "3,2"),
        ("--drafter", "eagle", "--policy", "talon budget=8 mu=0.1 top_k=3"),
        ("--drafter", "recycling", "--widths", "3,2,1"),
    ],
)
def test_any_drafter_and_policy_give_the_same_text(capsys: pytest.CaptureFixture[str], args: tuple[str, ...]) -> None:
    drafted = generated(capsys, *args)
    assert drafted["text"] == generated(capsys, "--draft-len", "0")["text"]
    assert drafted["num_rounds"] < 40


def test_several_prompts_are_decoded_together(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    both = generated(capsys, "--prompt", "import os\n", "--records", str(path))
    alone = generated(capsys)
    assert both["texts"][0] == alone["text"] and both["texts"][1].startswith("import os\n")
    records = list(load_records(path))
    assert {r.request for r in records} == {0, 1} and {r.num_seqs for r in records} == {2, None}
    assert all(r.parents is not None and r.target_probs is not None for r in records)


def test_a_text_ends_before_its_stop(capsys: pytest.CaptureFixture[str]) -> None:
    whole = generated(capsys)["text"]
    cut = generated(capsys, "--stop", "filename", "--stop", "zzzz")
    assert cut["text"] == whole[: whole.index("filename")] and cut["stopped_by"] == ["'filename'"]
    assert cut["num_rounds"] < 8


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("--tokens", "100000"), "context"),
        (("--temperature", "-1"), "temperature"),
        (("--dtype", "fp8"), "dtype"),
        (("--device", "warp"), "device"),
        (("--device", "meta"), "device: can not be used by this torch"),
        (("--prompt", "caf\udce9"), "prompt: must be text, its character 3 is, got '\\udce9'"),
        (("--prompt", "\x1b[2J"), "prompt: must be text, its character 0 is, got '\\x1b'"),
        (("--records", "no/such/folder/rounds.jsonl"), "records: can not be written (No such file or directory)"),
        (("--draft-len", "-1"), "draft_len"),
        (("--draft-len", "2", "--widths", "2"), "widths"),
        (("--prompt", ""), "prompt"),
        (("--stop", ""), "stop: must not be empty text"),
        (("--top-p", "0", "--temperature", "1"), "top_p: must be in (0, 1]"),
        (("--top-k", "0", "--temperature", "1"), "top_k: must be >= 1"),
        (("--policy", "fancy"), "policy: must begin with one of eagle2"),
        (("--policy", "eagle2 top_k=4"), "policy: "),
        (("--policy", "eagle2 top_k=0 depth=1 total_tokens=2"), "top_k"),
        (("--policy", "eagle2 top_k=4 depth=1 total_tokens=2", "--widths", "2"), "widths"),
        (("--rule", "fancy"), "rule: must be one of greedy"),
        (("--rule", "token_rejection", "--draw", "top"), "draw: must be sampled"),
        (("--drafter", "fancy"), "drafter: must be one of model"),
        (("--drafter", "medusa", "--draft-len", "9"), "depth: must be at most"),
    ],
)
def test_bad_arguments_are_refused(capsys: pytest.CaptureFixture[str], args: tuple[str, ...], named: str) -> None:
    assert named in refused(capsys, "generate", *args)


def test_help_names_every_command() -> None:
    from specsim.cli import app

    text = CliRunner().invoke(app, ["--help"]).output
    for command in ("demo", "tune", "export", "cost", "calibrate", "validate", "generate", "hardware", "model"):
        assert command in text


def test_calibration_writes_a_profile_and_a_fit_that_load(capsys: pytest.CaptureFixture[str], calibrated: Path) -> None:
    from specsim.hardware import load_hardware

    fit = json.loads((calibrated / "steps.fit.json").read_text())
    assert fit["num_rounds"] == 2 * 3 * 14
    assert 0 < fit["holdout_error"] < 1
    profile = load_hardware(str(calibrated / "cpu.toml"))
    assert profile.kind == "cpu" and profile.peak("fp32") > 1e9
    code, _, _ = run(capsys, "cost", "--hardware", str(calibrated / "cpu.toml"), "--target", "llama-160m", "--json")
    assert code == 0
