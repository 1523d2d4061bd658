"""Runs over time and side by side: who runs and who waits, what the memory holds; and what users felt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from specsim.metrics.serving import Floats, Latency, latency
from specsim.plots import COLOURS, log_axis, save_figure
from specsim.workload.log import RequestLog, StepLog

LABEL: Final = 40
"""Characters of a run's name that are shown."""


def plot_serving(
    runs: Mapping[str, tuple[RequestLog, StepLog]],
    path: Path,
    title: str,
    ttft_slo_s: float | None = None,
    tpot_slo_s: float | None = None,
    num_bins: int = 120,
) -> None:
    """Draw runs of the same load, each in its colour, to a PNG or SVG.

    Above: requests that are in steps and that wait, and draft tokens per sequence, over time in ``num_bins`` stretches.
    Below: the share of requests whose first token, and whose time per token, came within a time; targets are dashed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 6.6), layout="constrained")
    (inside, drafts), (first, each) = figure.subplots(2, 2)
    for colour, (name, (requests, steps)) in zip(COLOURS, runs.items(), strict=False):
        label = name if len(name) <= LABEL else name[: LABEL - 3].rstrip() + "..."
        at, (running, waiting, drafted) = _over_time(steps, num_bins)
        inside.plot(at, running, color=colour, linewidth=1.4, label=f"{label}: running")
        if waiting.max() > 0.5:
            inside.plot(at, waiting, color=colour, linewidth=1.0, linestyle=":", label=f"{label}: waiting")
        drafts.plot(at, drafted, color=colour, linewidth=1.4, label=label)
        _shares(first, requests, "ttft_s", colour, label)
        _shares(each, requests, "tpot_s", colour, label)
    inside.set(xlabel="time, s", ylabel="requests", ylim=(0, None))
    drafts.set(xlabel="time, s", ylabel="draft tokens per sequence and step", ylim=(-0.1, None))
    for axes, words, slo_s in (
        (first, "time to first token", ttft_slo_s),
        (each, "time per token after it", tpot_slo_s),
    ):
        log_axis(axes.xaxis, axes.set_xscale)
        axes.set(xlabel=f"{words}, s", ylabel="share of requests at or below", ylim=(0, 1.02))
        axes.grid(alpha=0.25, linewidth=0.6)
        if slo_s is not None:
            axes.axvline(slo_s, color="0.3", linestyle="--", linewidth=1.0, label=f"target {slo_s:g} s")
    inside.legend(framealpha=0.85, edgecolor="none", fontsize=8)
    for axes in (first, each):
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def _over_time(steps: StepLog, num_bins: int) -> tuple[Floats, tuple[Floats, Floats, Floats]]:
    """Middles of stretches ``[B]``, and means over the steps in each, weighted by time; NaN where nothing ran."""
    end_s = float((steps.start_s + steps.duration_s).max())
    edges = np.linspace(0, end_s, min(num_bins, len(steps)) + 1)
    place = np.clip(np.searchsorted(edges, steps.start_s, side="right") - 1, 0, len(edges) - 2)
    busy = np.bincount(place, steps.duration_s, len(edges) - 1)
    replicas = len(np.unique(steps.replica))

    def mean(column: Any, times: int = 1) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            found: Floats = times * np.bincount(place, column * steps.duration_s, len(busy)) / busy
        return found

    decoding = np.where(steps.num_emitted > 0, steps.draft_len, 0.0)
    middles: Floats = (edges[1:] + edges[:-1]) / 2
    return middles, (mean(steps.num_running, replicas), mean(steps.num_waiting, replicas), mean(decoding))


def _shares(axes: Any, requests: RequestLog, kind: Latency, colour: str, label: str) -> None:
    values = latency(requests, kind)
    ordered = np.sort(values[np.isfinite(values) & (values > 0)])
    if ordered.size:
        axes.plot(ordered, np.arange(1, ordered.size + 1) / ordered.size, color=colour, linewidth=1.4, label=label)
