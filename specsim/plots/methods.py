"""Every method: predicted against measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from specsim.plots import COLOURS, new_figure, save_figure
from specsim.validate.methods import MethodRow


def plot_methods(rows: Sequence[MethodRow], path: Path, title: str) -> None:
    """Left: tokens per round with intervals. Right: speed-up over plain decoding. The line is where both agree."""
    figure, axes = new_figure(11.5, 5.2, num_columns=2)
    left, right = axes
    for number, temperature in enumerate(sorted({row.temperature for row in rows})):
        own = [row for row in rows if row.temperature == temperature and row.drafter != "none"]
        measured = np.array([row.tokens_measured for row in own])
        predicted = np.array([row.tokens_predicted for row in own])
        ends = np.array([row.tokens_interval for row in own]).T
        label, colour = f"temperature {temperature:g}", COLOURS[number % len(COLOURS)]
        reach = np.maximum([predicted - ends[0], ends[1] - predicted], 0)
        left.errorbar(measured, predicted, yerr=reach, fmt="o", markersize=4, capsize=2, color=colour, label=label)
        right.plot([r.speedup_measured for r in own], [r.speedup_predicted for r in own], "o", markersize=5,
                   color=colour, label=label)  # fmt: skip
    _finish(left, "tokens per round", 1.0)
    _finish(right, "speed-up over plain decoding", 0.0)
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def _finish(axes: Any, name: str, least: float) -> None:
    high = max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot([least, high], [least, high], color="black", linewidth=0.8)
    axes.set(xlabel=f"{name}, measured", ylabel=f"{name}, predicted", xlim=(least, high), ylim=(least, high))
    axes.legend(frameon=False, fontsize=9, loc="upper left")
