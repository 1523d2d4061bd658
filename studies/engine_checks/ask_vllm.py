"""Run by the Python of a vLLM environment: each launch becomes the configuration that vLLM would start with.

``ask_vllm.py CASES VERDICTS``, two JSON files, the first as ``record.py`` writes it. vLLM parses the arguments itself.

No device is needed: the platform is set to the processor, and checkpoints are folders with a ``config.json`` alone.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_TARGET_DEVICE": "cpu"}

import torch
import transformers
import vllm
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform

vllm.platforms._current_platform = CpuPlatform()

from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: E402  (after the platform is set)
from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: E402
from vllm.v1.spec_decode.dynamic.utils import build_dynamic_sd_schedule_lookup  # noqa: E402

SIZES = (1, 4, 5, 8, 9, 16, 17, 32, 33, 64)


def launch(argv: list[str]) -> dict[str, Any]:
    """What vLLM makes of the launch; raises what it raises."""
    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser(exit_on_error=False))
    args = parser.parse_args(["--model", *argv, "--skip-tokenizer-init"])
    config = AsyncEngineArgs.from_cli_args(args).create_engine_config()
    of = config.speculative_config
    if of is None:
        return {}
    made = {name: getattr(of, name) for name in ("method", "num_speculative_tokens", "rejection_sample_method")}
    schedule = of.num_speculative_tokens_per_batch_size
    if schedule is not None:  # what the scheduler does when it starts
        most = config.scheduler_config.max_num_seqs
        table = build_dynamic_sd_schedule_lookup(schedule, most, of.num_speculative_tokens)
        made["draft_len_by_batch"] = {str(size): int(table[size]) for size in SIZES if size <= most}
    return made


def main(cases: Path, out: Path) -> None:
    asked = json.loads(cases.read_text())
    out = out.resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for path, config in asked["models"].items():
            Path(path).mkdir(parents=True)
            (Path(path) / "config.json").write_text(json.dumps(config))
        verdicts = []
        for case in asked["cases"]:
            said = io.StringIO()
            try:
                with contextlib.redirect_stderr(said):
                    made = launch(case["argv"])
                verdicts.append({"engine": "accept", "made": made, "why": ""})
            except (Exception, SystemExit) as error:
                text = said.getvalue() if isinstance(error, SystemExit) else str(error)
                lines = " ".join(text.split())[-300:] if isinstance(error, SystemExit) else " ".join(text.split())[:300]
                verdicts.append({"engine": "reject", "made": {}, "why": f"{type(error).__name__}: {lines}"})
    versions = {"vllm": vllm.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    out.write_text(json.dumps({"versions": versions, "verdicts": verdicts}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
