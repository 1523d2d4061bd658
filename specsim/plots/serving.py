"""A run over time: who runs and who waits, what comes out, what the memory holds; and the latencies of requests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from specsim.metrics.serving import latency
from specsim.plots import COLOURS, new_figure, save_figure
from specsim.workload.log import RequestLog, StepLog


def plot_serving(requests: RequestLog, steps: StepLog, path: Path, title: str, num_bins: int = 200) -> None:
    """Left: running and waiting requests, and tokens per second, in ``num_bins`` stretches. Right: latencies."""
    figure, (left, middle, right) = new_figure(13.0, 4.2, num_columns=3)
    edges = np.linspace(0, float((steps.start_s + steps.duration_s).max()), min(num_bins, max(len(steps), 1)) + 1)
    centre, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    place = np.clip(np.searchsorted(edges, steps.start_s, side="right") - 1, 0, len(width) - 1)
    for name, column, colour in (("running", steps.num_running, 0), ("waiting", steps.num_waiting, 1)):
        held = np.bincount(place, column * steps.duration_s, len(width)) / np.maximum(
            np.bincount(place, steps.duration_s, len(width)), 1e-300
        )
        left.plot(centre, held, color=COLOURS[colour], label=name, linewidth=1.2)
    left.set(xlabel="time, s", ylabel="requests", ylim=(0, None))
    left.legend(frameon=False, fontsize=8)
    middle.plot(centre, np.bincount(place, steps.num_emitted, len(width)) / width, color=COLOURS[2], linewidth=1.2)
    middle.set(xlabel="time, s", ylabel="tokens per second", ylim=(0, None))
    for kind, label, colour in (("ttft_s", "time to first token", 0), ("tpot_s", "time per token", 1), ("e2e_s", "whole request", 2)):  # fmt: skip  # noqa: E501
        values = latency(requests, kind)  # type: ignore[arg-type]
        known = np.sort(values[np.isfinite(values) & (values > 0)])
        if known.size:
            right.plot(known, np.arange(1, known.size + 1) / known.size, color=COLOURS[colour], label=label)
    right.set(xscale="log", xlabel="seconds", ylabel="share of requests at or below", ylim=(0, 1))
    right.legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)
