"""Draft length by batch size, and what it gains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from specsim.plots import COLOURS, log_axis, new_figure, save_figure
from specsim.search.by_load import Schedule


def plot_schedules(title: str, schedules: list[Schedule], path: Path) -> None:
    """Left: the fastest draft length at each batch size (dots) and its tiers (lines), by context. Right, of the first
    context: speed-up over plain decoding without a draft loaded by the tiers, the fastest at each size, one length."""
    figure, (left, right) = new_figure(11.5, 4.6, num_columns=2)
    for number, one in enumerate(schedules[: len(COLOURS)]):
        _lengths(left, one, COLOURS[number])
    left.set(xlabel="requests running", ylabel="draft tokens per round", ylim=(-0.3, None))
    log_axis(left.xaxis, left.set_xscale)
    left.legend(frameon=False, fontsize=8)
    _gains(right, schedules[0])
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def _lengths(axes: Any, one: Schedule, colour: str) -> None:
    batches = np.arange(1, len(one.draft_len_by_batch) + 1)
    axes.plot(batches, one.draft_len_by_batch, "o", color=colour, markersize=3, alpha=0.35, markeredgewidth=0)
    edges = [batches[0] - 0.2, *[tier.last + 0.5 for tier in one.tiers.tiers]]
    steps = [tier.draft_len for tier in one.tiers.tiers]
    label = f"tiers, context {one.context_tokens:,} (mean loss {one.tiers.loss:.1%}, worst {one.tiers.worst_loss:.1%})"
    axes.stairs(steps, edges, color=colour, linewidth=1.3, label=label, baseline=None)


def _gains(axes: Any, one: Schedule) -> None:
    rates, plain = one.table.rates[: one.table.largest], one.table.plain_rates[: one.table.largest]
    batches, rows = np.arange(1, len(rates) + 1), np.arange(len(rates))
    column = {length: number for number, length in enumerate(one.table.draft_lens)}
    tiers = [column[one.tiers.draft_len(int(batch))] for batch in batches]
    fastest = [column[length] for length in one.draft_len_by_batch]
    axes.plot(batches, rates[rows, fastest] / plain, color=COLOURS[5], linewidth=3, alpha=0.6, label="fastest at each")
    axes.plot(batches, rates[rows, tiers] / plain, color=COLOURS[0], label="tiers")
    longest = column[one.longest]
    if one.longest:
        axes.plot(batches, rates[:, longest] / plain, color=COLOURS[1], linestyle="--", label=f"always {one.longest}")
    if 0 in column:
        idle = rates[:, column[0]] / plain
        axes.plot(batches, idle, color=COLOURS[3], linestyle=":", label="loaded, draft length 0")
    axes.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="requests running", ylabel="speed-up over plain decoding", ylim=(0, None))
    log_axis(axes.xaxis, axes.set_xscale)
    axes.set_title(f"context {one.context_tokens:,}", fontsize=9)
    axes.legend(frameon=False, fontsize=8, loc="lower left")
