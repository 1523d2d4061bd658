"""Load sweeps that others measured, predicted by the serving simulator with their acceptance given.

Not blind: the host's time of a step comes from the plain one-sequence row of the GH200 study, the cost of launching
layers beyond captured sizes from its profile of forwards, ``TOKEN_S`` from its plain rows; that this time is charged
per token and not per sequence was chosen after seeing the speculative ones, and so was leaving prompts out of the
rows of 8,192 tokens on H100, which are as far off in plain decoding.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from toy_deployment import deployment

from specsim.acceptance.profile import AcceptanceProfile
from specsim.scenario import Deployment
from specsim.sim.config import ServerConfig
from specsim.sim.policies.basic import FixedDraftLen
from specsim.sim.serve import ServingRun, serve
from specsim.workload.requests import Requests

EAGLE = {"kind": "eagle3", "model": "eagle3-llama-3.1-8b"}
TOKEN_S = 60e-6
"""Host time per token of the GH200 study's server, read off its plain rows alone: their time per token rises from
6.4 ms at 8 clients to 30.4 ms at 256, of which the device explains 5."""
LONG = 12
"""Depth that tables of the acceptance reach."""


class Found(NamedTuple):
    """A row of a sweep: what was measured and predicted, tokens per second of the whole server."""

    row: str
    draft_len: int
    clients: int
    measured: float
    predicted: float
    plain_measured: float
    plain_predicted: float

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1

    @property
    def speedup_error(self) -> float:
        return self.predicted / self.plain_predicted / (self.measured / self.plain_measured) - 1


def published(folder: Path, prefix: str) -> Iterator[dict[str, str]]:
    with (folder / "published" / "calibrate.csv").open(encoding="utf-8") as lines:
        yield from (row for row in csv.DictReader(lines) if row["row_id"].startswith(prefix))


def on(hardware: str, tokens_per_round: float, draft_len: int) -> Deployment:
    """Llama-3.1-8B with its EAGLE-3 head in vLLM, its chains kept as often as was measured."""
    profile = AcceptanceProfile.from_tokens_per_round(tokens_per_round, draft_len).extended(LONG)
    return replace(deployment(hardware=hardware, engine="vllm", drafter=EAGLE), acceptance=profile)


def rate(done: ServingRun) -> float:
    """Tokens per second between the first tenth and the last tenth of the answers."""
    log = done.requests
    start, end = np.quantile(log.finished_s, [0.1, 0.9])
    inside = (log.finished_s > start) & (log.finished_s <= end)
    return float(log.output_tokens[inside].sum() / (end - start))


def closed_loop(asked: Deployment, draft_len: int, clients: int, prompts: Any, outputs: Any) -> ServingRun:
    """Every client sends its next request when the last one was answered."""
    size = np.size(prompts)
    requests = Requests(np.zeros(size), prompts, outputs, session=np.arange(size) % clients)
    config = ServerConfig(max_running=clients, token_budget=16_384, token_s=TOKEN_S)
    return serve(asked, requests, control=FixedDraftLen(draft_len), config=config)


def gh200_sweep(folder: Path, lengths: tuple[int, ...] = (1, 3, 5)) -> list[Found]:
    """Apertus 8B, shaped much like Llama: draft length by concurrency, chat prompts (mean 563, median 158 tokens)."""
    found, plain = [], dict[int, float]()
    for row in published(folder, "SWO-EAGLE"):
        draft_len, clients = int(row["k_or_tree"].split("=")[1]), int(row["batch_size"].split("=")[1])
        if draft_len not in lengths:
            continue
        rng = np.random.default_rng(0)
        num = max(4 * clients, 250)
        spread = np.sqrt(2 * np.log(563 / 158))
        prompts = np.clip(158 * np.exp(spread * rng.standard_normal(num)), 8, 16_000).astype(int)
        outputs = rng.integers(240, 721, num)
        asked = on("gh200", float(row["mean_tokens_per_step"]), draft_len)
        if clients not in plain:
            plain[clients] = rate(closed_loop(asked, 0, clients, prompts, outputs))
        measured, plain_measured = float(row["tokens_per_s_sd"]), float(row["tokens_per_s_ar"])
        predicted = rate(closed_loop(asked, draft_len, clients, prompts, outputs))
        found.append(Found(row["row_id"], draft_len, clients, measured, predicted, plain_measured, plain[clients]))
    return found


def h100_grid(folder: Path) -> list[Found]:
    """Llama-3.1-8B with EAGLE-3: static batches of 1, 8 and 32, answers of 128 tokens, prompts in the time."""
    found = []
    for row in published(folder, "PJ-"):
        if not row["engine"].startswith("vLLM") or not row["tokens_per_s_sd"] or not row["mean_tokens_per_step"]:
            continue
        draft_len, batch = int(row["k_or_tree"].split("=")[1]), int(row["batch_size"])
        context = int(m[1]) if (m := re.search(r"context (\d+)", row["context_or_dataset"])) else 150
        asked = on("h100-sxm", float(row["mean_tokens_per_step"]), draft_len)
        requests = Requests(np.zeros(batch), np.full(batch, context), np.full(batch, 128))
        speeds = []
        for length in (draft_len, 0):
            done = serve(asked, requests, control=FixedDraftLen(length), config=ServerConfig(max_running=batch), seed=1)
            first = done.requests.first_token_s.min() if context > 1000 else 0.0  # of those, decoding alone was timed
            speeds.append(batch * 128 / float(done.requests.finished_s.max() - first))
        measured = float(row["tokens_per_s_sd"]), float(row["tokens_per_s_ar"] or "nan")
        found.append(Found(row["row_id"], draft_len, batch, measured[0], speeds[0], measured[1], speeds[1]))
    return found


def summary(found: list[Found]) -> tuple[float, float, float]:
    """Mean error and mean absolute error of tokens per second, and the latter of the speed-up."""
    errors, ratios = ([getattr(f, name) for f in found] for name in ("error", "speedup_error"))
    return float(np.mean(errors)), float(np.mean(np.abs(errors))), float(np.nanmean(np.abs(ratios)))


def test_draft_length_by_concurrency_on_gh200(data_dir: Path) -> None:
    """As of writing, in percent: tokens per second -2.5 on average, 3.3 off on average; speed-ups 5.6 off, over draft
    lengths 1, 3 and 5, of which one is played here."""
    bias, error, ratio = summary(gh200_sweep(data_dir, lengths=(3,)))
    assert abs(bias) < 0.05 and error < 0.06 and ratio < 0.08


def test_draft_length_by_batch_and_context_on_h100(data_dir: Path) -> None:
    """As of writing, in percent: tokens per second +1.5 on average, 5.7 off on average; speed-ups 5.5 off."""
    bias, error, ratio = summary(h100_grid(data_dir))
    assert abs(bias) < 0.04 and error < 0.08 and ratio < 0.08


if __name__ == "__main__":
    import os

    for sweep in (gh200_sweep, h100_grid):
        rows = sweep(Path(os.environ["SPECSIM_DATA"]))
        print(sweep.__name__, [f"{x:+.1%}" for x in summary(rows)])
        for f in rows:
            print(
                f"{f.row:28} k={f.draft_len} C={f.clients:3} {f.measured:8.0f} {f.predicted:8.0f} {f.error:+7.1%} "
                f"plain {f.plain_measured:8.0f} {f.plain_predicted / f.plain_measured - 1:+7.1%} "
                f"speed-up {f.speedup_error:+7.1%}"
            )
