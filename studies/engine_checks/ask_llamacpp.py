"""A llama.cpp server with the shipped pair, run by our export: what it accepts beside what the executor accepts.

``ask_llamacpp.py LLAMA_SERVER RECORD``; needs the packages of ``gguf_pair.py``. About a minute of one core.
"""

from __future__ import annotations

import datetime
import json
import re
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
from specsim.executor.drafters.model import ModelDrafter
from specsim.executor.recording import records_of
from specsim.executor.rounds import decode
from specsim.executor.session import Session, quiet_torch
from specsim.tree import DraftTree

NUM_TOKENS: Final = 96
PROMPTS: Final = 6
RATES: Final = (0.8, 0.6, 0.4, 0.3)
SYNTHETIC_REQUESTS: Final = 8
SYNTHETIC_TOKENS: Final = 640
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
            "date": datetime.date.today().isoformat(),
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
            accepted, tokens = decoded(session, draft_len, number)
            ours += accepted
            rows.append(
                {
                    "prompt": number,
                    "accepted": answer["timings"]["draft_n_accepted"],
                    "drafted": answer["timings"]["draft_n"],
                    "executor_accepted": sum(accepted),
                    "executor_rounds": len(accepted),
                    "same_tokens": same(answer["tokens"], tokens),
                    "num_tokens": len(answer["tokens"]),
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


def decoded(session: Session, draft_len: int, number: int) -> tuple[list[int], list[int]]:
    """What the executor accepts round by round, and the tokens that come out."""
    prompt = session.prompts[number]
    texts = session.start(ModelDrafter(session.target, session.draft), number)
    rounds = list(decode(texts, session.method(DraftTree.chain(draft_len)), NUM_TOKENS, session.clock))
    accepted = [records_of(one, "cpu", 0.0)[0].num_accepted for one in rounds]
    text = texts.finished[0] if texts.finished else texts.tokens[0]
    return accepted, text[len(prompt) :]


def synthetic(server: str, version: str, folder: Path, session: Session) -> dict[str, Any]:
    """Rates asked for and realised, over many requests each with a seed of its own."""
    exported = to_llamacpp(plan(folder, len(RATES)).but(survival=RATES), version, synthetic=True)
    with running(server, exported.command, folder) as at:
        for number in range(SYNTHETIC_REQUESTS):
            # The server draws from its request's seed alone, so seeds lie far apart.
            complete(at, session.prompts[number], 40_503 * 65_537 * (number + 1) % 2**31, SYNTHETIC_TOKENS)
    seen = last_statistics(folder)
    assert seen.accepted_by_position is not None and seen.num_drafts
    return {
        "command": exported.command.replace(str(folder) + "/", ""),
        "asked": list(RATES),
        "realised": [round(count / seen.num_drafts, 4) for count in seen.accepted_by_position],
        "num_drafts": seen.num_drafts,
    }


# What our rules refuse, and where the server must differ, why.
REFUSED: Final = {
    "--spec-type draft-simple --draft-max 8": "",
    "--spec-type draft-simple --spec-draft-n-max 4 --spec-synth-rates 0.5,0.6,0.1,0": "",
    "--spec-type draft-simple --spec-draft-n-max 4 --spec-synth-rates 0.5,0.4": "",
    "--spec-type draft-simple --spec-draft-n-max 2 --spec-synth-rates 1.5,0.4": "",
    "--spec-type medusa": "",
    "--spec-type draft-simple --spec-draft-n-max x": "",
    "--spec-type draft-simple --spec-draft-n-max -1": "",
    "--spec-type ngram-simple --spec-ngram-simple-size-m 0": "",
    "--spec-type draft-simple --spec-draft-p-min 1.5": "llama.cpp takes a limit that no probability reaches",
}


def refused(server: str, folder: Path) -> dict[str, dict[str, str]]:
    """Options that our rules refuse, and what a server says of them; one that starts with them is ended."""
    answers = {}
    for words, differs in REFUSED.items():
        command = [server, "--model", str(folder / "target.gguf"), "--spec-draft-model", str(folder / "draft.gguf")]
        log = folder / "refused.log"
        verdict = "reject"
        with log.open("w") as out:
            process = subprocess.Popen(
                [*command, *words.split(), *RUNTIME.split(), "--port", str(free_port())], stdout=out, stderr=out
            )
            deadline = time.monotonic() + 60
            while process.poll() is None:
                if "server is listening" in log.read_text(errors="replace") or time.monotonic() > deadline:
                    verdict = "accept"
                    process.terminate()
                    process.wait(30)
                time.sleep(0.1)
        lines = log.read_text(errors="replace").replace(str(folder), "").splitlines()
        why = next((line for line in lines if re.match(r"error|[\d.]+ E ", line)), "")
        answers[words] = {"engine": verdict, "differs": differs, "why": why[:200]}
    return answers


def plan(folder: Path, draft_len: int) -> DraftPlan:
    target, draft = str(folder / "target.gguf"), str(folder / "draft.gguf")
    return DraftPlan.chain(target, "draft_model", draft_len, draft=draft, max_running=1)


@contextmanager
def running(server: str, command: str, folder: Path) -> Iterator[str]:
    """The exported command as a server on a free port, until the block ends."""
    port = free_port()
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
                    said = (folder / "server.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"the server did not start: {said}") from None
                time.sleep(0.2)
        yield at
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def complete(at: str, prompt: list[int], seed: int, num_tokens: int = NUM_TOKENS) -> dict[str, Any]:
    """Greedy continuation of token ids."""
    body = {
        "prompt": prompt, "n_predict": num_tokens, "temperature": 0.0, "seed": seed, "return_tokens": True,
        "cache_prompt": False,
    }  # fmt: skip
    request = urllib.request.Request(
        f"{at}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
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
