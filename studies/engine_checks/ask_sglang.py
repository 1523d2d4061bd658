"""Run by the Python of an SGLang environment: each launch is parsed and resolved as its launcher would.

``ask_sglang.py CASES VERDICTS``, two JSON files, the first as ``record.py`` writes it. Modules that only a GPU build
brings are replaced by empty ones: nothing of them runs before weights are loaded.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import io
import json
import os
import sys
import tempfile
import types
from pathlib import Path
from typing import Any, ClassVar

os.environ |= {"HF_HUB_OFFLINE": "1"}


class _Every(type):
    """A class with every name, each a class of its kind."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Every(name, (), {})


class _Anything(types.ModuleType):
    """A module with every name."""

    __version__ = "0.28.0"

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Every(name, (), {})


class _Absent:
    """Finds the modules named, whatever is asked of them."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] not in self.names:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Anything(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


sys.meta_path.insert(0, _Absent("torchvision"))

import sglang  # noqa: E402  (after what it would miss)
import torch  # noqa: E402
import transformers  # noqa: E402
from sglang.srt.arg_groups.overrides import resolving_view  # noqa: E402
from sglang.srt.server_args import prepare_server_args  # noqa: E402

SHOWN = ("speculative_algorithm", "speculative_num_steps", "speculative_eagle_topk", "speculative_num_draft_tokens",
         "max_running_requests", "speculative_adaptive")  # fmt: skip


def launch(case: dict[str, Any]) -> dict[str, Any]:
    """What SGLang makes of the launch; raises what it raises."""
    for name, text in case["files"].items():
        Path(name).write_text(text)
    device = ["--device", "cpu", "--attention-backend", "torch_native", "--skip-tokenizer-init"]
    args = prepare_server_args([*case["argv"], *device])
    args.resolve_once()
    made = resolving_view(args)
    return {name: getattr(made, name, None) for name in SHOWN}


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
                    made = launch(case)
                verdicts.append({"engine": "accept", "made": made, "why": ""})
            except (Exception, SystemExit) as error:
                text = said.getvalue() if isinstance(error, SystemExit) else str(error)
                lines = " ".join(text.split())[-300:] if isinstance(error, SystemExit) else " ".join(text.split())[:300]
                verdicts.append({"engine": "reject", "made": {}, "why": f"{type(error).__name__}: {lines}"})
    versions = {"sglang": sglang.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    out.write_text(json.dumps({"versions": versions, "verdicts": verdicts}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
