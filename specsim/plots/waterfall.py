"""A picture of where the limit goes: one bar for each loss, from the speed of light down to the method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from specsim.acceptance.waterfall import Step
from specsim.plots import COLOURS, new_figure, save_figure

_COLOUR_OF: Final = {
    "flat": "#CCCCCC", "verify": "#999999", "budget": COLOURS[5], "drafter": COLOURS[1], "tree": COLOURS[4],
    "rule": COLOURS[3], "overhead": "#777777", "measured": "#333333",
}  # fmt: skip


def plot_waterfall(steps: Sequence[Step], path: Path, title: str) -> None:
    """Bars hang from the rate before the step to the rate after it; a step that gains is hatched."""
    figure, axes = new_figure(10.5, 4.8)
    num, light = len(steps), steps[1].tokens_per_s
    for place, step in enumerate(steps):
        before = steps[place - 1].tokens_per_s if place else 0.0
        low, high = sorted((before, step.tokens_per_s))
        hatch = "//" if place and step.factor > 1 else ""
        axes.barh(
            place, high - low, left=low, height=0.62, color=_COLOUR_OF[step.group], hatch=hatch, edgecolor="white"
        )
        if place:
            axes.plot([before, before], [place - 1 + 0.31, place - 0.31], color="black", linewidth=0.7)
        words = f" {_digits(step.tokens_per_s)} tokens/s" if not place else f" ×{step.factor:.2f}"
        axes.text(high, place, words, va="center", fontsize=8.5)
    last = steps[-1]
    axes.barh(num, last.tokens_per_s, height=0.62, color=COLOURS[2], edgecolor="white")
    words = f" {_digits(last.tokens_per_s)} tokens/s, {last.tokens_per_s / light:.0%} of the limit"
    axes.text(last.tokens_per_s, num, words, va="center", fontsize=8.5)
    axes.plot([light, light], [-0.5, num + 0.6], color=COLOURS[0], linewidth=1.2, linestyle="--")
    axes.text(light, -0.7, f"speed of light {_digits(light)}", color=COLOURS[0], ha="center", fontsize=9)
    end = "measured" if last.group == "measured" else "predicted"
    axes.set_yticks(range(num + 1), [*(step.name for step in steps), end], fontsize=9)
    axes.set_ylim(num + 0.6, -1.1)
    axes.set(xlabel="tokens per second, all sequences", xlim=(0, 1.17 * max(step.tokens_per_s for step in steps)))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_title(title, fontsize=11)
    save_figure(figure, path)


def _digits(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
