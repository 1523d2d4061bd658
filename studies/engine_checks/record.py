"""Ask a real engine and keep its answers: ``record.py vllm PYTHON`` or ``record.py sglang PYTHON``.

PYTHON is that of the engine's own environment (README). Writes ``vllm.json`` or ``sglang.json`` beside this file.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

import cases

HERE: Final = Path(__file__).parent


def asked_of(engine: str, python: str) -> dict[str, Any]:
    """Every case of the engine with its verdict."""
    asked = cases.CASES[engine]()
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder, "cases.json"), Path(folder, "verdicts.json")
        question.write_text(json.dumps({"models": cases.MODELS, "cases": asked}), encoding="utf-8")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
        command = [python, HERE / f"ask_{engine}.py", question, answer]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
        if run.returncode:
            raise RuntimeError(f"{engine} could not be asked: {run.stderr[-2000:]}")
        found = json.loads(answer.read_text(encoding="utf-8"))
    absent = {row["why"] for row in found["verdicts"] if row["why"].startswith(("ModuleNotFoundError", "ImportError"))}
    if absent:
        raise RuntimeError(f"the environment lacks what {engine} imports: {sorted(absent)}")
    rows = [case | verdict for case, verdict in zip(asked, found["verdicts"], strict=True)]
    return {"date": datetime.date.today().isoformat(), "versions": found["versions"], "cases": rows}


def disagreements(record: dict[str, Any]) -> list[str]:
    """Cases where the engine and our rules part, and nothing says why they should."""
    return [
        f"{row['name']}: engine {row['engine']} ({row['why'][:120]}), ours {row['ours']}"
        for row in record["cases"]
        if row["engine"] != row["ours"] and not row["differs"]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=sorted(cases.CASES))
    parser.add_argument("python")
    parser.add_argument("--out", type=Path, help="where to write; left out, beside this file")
    asked = parser.parse_args()
    record = asked_of(asked.engine, asked.python)
    out = asked.out or HERE / f"{asked.engine}.json"
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    rows = record["cases"]
    accepted = sum(row["engine"] == "accept" for row in rows)
    print(f"{asked.engine}: {accepted} of {len(rows)} accepted; {len(disagreements(record))} disagreements")
    print(*disagreements(record), sep="\n")


if __name__ == "__main__":
    main()
