"""Latency against throughput: every option, and the front that no other beats in both."""

from __future__ import annotations

from pathlib import Path

from specsim.plots import COLOURS, log_axis, new_figure, save_figure
from specsim.search.joint import JointAnswer

MARKS = "os^Dv<>P"


def plot_pareto(title: str, answer: JointAnswer, path: Path) -> None:
    """Time per token of a sequence against tokens per second of all devices; a colour per drafter, a mark per group
    size, no speculation hollow; the front as a line that says what runs where."""
    figure, axes = new_figure(9.0, 5.4)
    drafters = list(dict.fromkeys(o.setup.drafter for o in answer.options))
    sizes = sorted({o.setup.tensor_parallel for o in answer.options})
    told: set[tuple[str, int]] = set()
    for option in answer.options:
        key = option.setup.drafter, option.setup.tensor_parallel
        colour = COLOURS[drafters.index(key[0]) % len(COLOURS)]
        label = None if key in told else f"{key[0]}, TP {key[1]}"
        told.add(key)
        filled = colour if option.best.tree.num_drafted else "none"
        axes.plot(
            1e3 * option.time_per_token_s, option.tokens_per_s, MARKS[sizes.index(key[1]) % len(MARKS)],
            markerfacecolor=filled, markeredgecolor=colour, markersize=6, alpha=0.8, label=label,
        )  # fmt: skip
    front = answer.front
    axes.plot([1e3 * o.time_per_token_s for o in front], [o.tokens_per_s for o in front], color="0.3", linewidth=1)
    for option in front:
        said = f"{option.in_flight} in flight: {option.best.tree.label}"
        at = 1e3 * option.time_per_token_s, option.tokens_per_s
        axes.annotate(said, at, xytext=(-6, 5), textcoords="offset points", fontsize=6.5, ha="right")
    axes.set(xlabel="time per token of a sequence, ms", ylabel="tokens per second, all devices")
    log_axis(axes.xaxis, axes.set_xscale)
    log_axis(axes.yaxis, axes.set_yscale)
    low, high = axes.get_xlim()
    axes.set_xlim(low / 1.8, high)  # room for what is written to the left of the front
    axes.set_title(title, fontsize=11)
    axes.legend(frameon=False, fontsize=8, loc="lower right", title="hollow: no speculation", title_fontsize=8)
    save_figure(figure, path)
