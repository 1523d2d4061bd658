"""A llama.cpp server with the shipped pair, run by our export: what it accepts beside what the executor accepts.

``ask_llamacpp.py LLAMA_SERVER RECORD``; needs the packages of ``gguf_pair.py``. About a minute of one core.
"""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import gguf_pair

from specsim.engines.imports import Observation, merged, read_observations
from specsim.engines.llamacpp import detected_version, to_llamacpp
from specsim.engines.plan import DraftPlan
from specsim.executor.session import Session, quiet_torch
from specsim.tree import DraftTree

NUM_TOKENS: Final = 96
PROMPTS: Final = 6
RATES: Final = (0.8, 0.6, 0.4, 0.3)
SYNTHETIC_REQUESTS: Final = 24
# fp32 throughout, as the executor; one thread that does not spin; the words of the log that tell acceptance.
RUNTIME: Final = (
    "--threads 1 --poll 0 --ctx-size 2048 --flash-attn off --cache-type-k f32 --cache-type-v f32 "
    "--spec-draft-type-k f32 --spec-draft-type-v f32 --metrics --verbosity 4"
)


def main(server: str, out: Path) -> None:
    quiet_torch()
    said = subprocess.run([server, "--help"], capture_output=True, text=True, check=True).stdout
    version = detected_version(said)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gguf_pair.main(folder)
        session = Session(ffn_size=None)
        record = {
            "version": version,
            "chains": [chain(server, version, folder, session, draft_len) for draft_len in (2, 4, 6)],
            "synthetic": synthetic(server, version, folder, session),
            "refused": refused(server, folder),
        }
    out.write_text(json.dumps(record, indent=1) + "\n")


def chain(server: str, version: str, folder: Path, session: Session, draft_len: int) -> dict[str, Any]:
    """Greedy decoding of a few prompts: of each, tokens that agree, and mean tokens per round of both."""
    exported = to_llamacpp(plan(folder, draft_len), version)
    ours: list[int] = []
    rows, seen = [], []
    with running(server, exported.command, folder) as at:
        for number in range(PROMPTS):
            answer = complete(at, session.prompts[number], number)
            path = folder / "answer.json"
            path.write_text(json.dumps(answer))
            seen += read_observations(path)
            records = [r.record for r in session.generate(DraftTree.chain(draft_len), number, NUM_TOKENS)]
            tokens = [t for r in records for t in r.tokens] if hasattr(records[0], "tokens") else []
            accepted = [r.num_accepted for r in records]
            ours += accepted
            rows.append(
                {
                    "prompt": number,
                    "accepted": answer["timings"]["draft_n_accepted"],
                    "drafted": answer["timings"]["draft_n"],
                    "executor_accepted": sum(accepted),
                    "executor_rounds": len(accepted),
                    "same_tokens": same(answer["tokens"], tokens),
                }
            )
        scrape = folder / "scrape.prom"
        scrape.write_bytes(urllib.request.urlopen(f"{at}/metrics").read())
    return {
        "draft_len": draft_len,
        "command": exported.command.replace(str(folder) + "/", ""),
        "prompts": rows,
        "tokens_per_round": {
            "timings": merged(seen).tokens_per_round,
            "log": last_statistics(folder).tokens_per_round,
            "metrics": merged(read_observations(scrape)).tokens_per_round,
            "executor": 1 + sum(ours) / len(ours),
        },
    }


def synthetic(server: str, version: str, folder: Path, session: Session) -> dict[str, Any]:
    """Rates asked for and realised, over many requests each with a seed of its own."""
    exported = to_llamacpp(plan(folder, len(RATES)).but(survival=RATES), version, synthetic=True)
    with running(server, exported.command, folder) as at:
        for number in range(SYNTHETIC_REQUESTS):
            complete(at, session.prompts[number % 24], 1000 + number)
    seen = last_statistics(folder)
    assert seen.accepted_by_position is not None and seen.num_drafts
    return {
        "command": exported.command.replace(str(folder) + "/", ""),
        "asked": list(RATES),
        "realised": [round(count / seen.num_drafts, 4) for count in seen.accepted_by_position],
        "num_drafts": seen.num_drafts,
    }


REFUSED: Final = ("--draft-max 8", "--spec-synth-rates 0.5,0.6,0.1,0", "--spec-type medusa", "--spec-draft-n-max x")


def refused(server: str, folder: Path) -> dict[str, str]:
    """Options that a server must not start with, and its last line about each."""
    answers = {}
    for words in REFUSED:
        command = [server, "--model", str(folder / "target.gguf"), "--spec-draft-model", str(folder / "draft.gguf")]
        with_type = [] if "--spec-type" in words else ["--spec-type", "draft-simple"]
        try:
            run = subprocess.run(
                [*command, *with_type, *words.split(), "--spec-draft-n-max", "4"][: None],
                capture_output=True, text=True, timeout=30,
            )  # fmt: skip
            lines = [line for line in (run.stdout + run.stderr).splitlines() if line.strip()]
            answers[words] = lines[-1].replace(str(folder), "")[:200] if run.returncode else "accepted"
        except subprocess.TimeoutExpired:
            answers[words] = "accepted"
    return answers


def plan(folder: Path, draft_len: int) -> DraftPlan:
    target, draft = str(folder / "target.gguf"), str(folder / "draft.gguf")
    return DraftPlan.chain(target, "draft_model", draft_len, draft=draft, max_running=1)


@contextmanager
def running(server: str, command: str, folder: Path) -> Iterator[str]:
    """The exported command as a server on a free port, until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [server, *shlex.split(command)[1:], *RUNTIME.split(), "--port", str(port)]
    log = (folder / "server.log").open("w")
    process = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT)
    at = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{at}/health")
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the server did not start: {(folder / 'server.log').read_text()[-2000:]}") from None
                time.sleep(0.2)
        yield at
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def complete(at: str, prompt: list[int], seed: int) -> dict[str, Any]:
    """Greedy continuation of token ids."""
    body = {
        "prompt": prompt, "n_predict": NUM_TOKENS, "temperature": 0.0, "seed": seed, "return_tokens": True,
        "cache_prompt": False,
    }  # fmt: skip
    request = urllib.request.Request(f"{at}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.loads(answer.read())


def last_statistics(folder: Path) -> Observation:
    """The server's own sums over its life, which it prints after each request."""
    found = [o for o in read_observations(folder / "server.log") if "draft-simple" in o.source]
    return found[-1]


def same(theirs: list[int], ours: list[int]) -> int:
    """Tokens from the beginning that agree."""
    return next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
