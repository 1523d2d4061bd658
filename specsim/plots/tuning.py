"""Pictures of a tuned deployment: what each configuration gains, and where its time goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from specsim.plots import COLOURS, new_figure, save_figure
from specsim.scenario import Deployment
from specsim.search.tune import Tuning
from specsim.work import BOUNDS


def plot_tuning(deployment: Deployment, tuning: Tuning, path: Path) -> None:
    """Left: speed-up of chains by length, with intervals, and of the best tree of each size. Right: time by bound."""
    figure, (left, right) = new_figure(11.5, 4.6, num_columns=2)
    _speedups(left, tuning)
    _times(right, tuning)
    figure.suptitle(deployment.scenario.name, fontsize=11)
    save_figure(figure, path)


def _speedups(axes: Any, tuning: Tuning) -> None:
    plain = next(e for e in tuning.ranked if e.tree.num_drafted == 0)
    chains = sorted((e for e in tuning.ranked if e.tree.is_chain), key=lambda e: e.tree.num_drafted)
    lengths, gains = [e.tree.num_drafted for e in chains], np.array([e.speedup for e in chains])
    low, high = [e.speedup_low for e in chains], [e.speedup_high for e in chains]
    axes.fill_between(lengths, low, high, color=COLOURS[0], alpha=0.15, linewidth=0)
    axes.plot(lengths, gains, "o-", color=COLOURS[0], label="chains (90 % interval)")
    if tuning.tree_rates.shape[0] > 1 and any(not e.tree.is_chain for e in tuning.ranked):
        best = np.fmax.reduce(tuning.tree_rates, axis=0) / plain.tokens_per_s
        axes.plot(np.arange(len(best)), best, color=COLOURS[1], label="best tree of each size (search's prices)")
        trees = [e for e in tuning.ranked if not e.tree.is_chain]
        axes.plot(
            [e.tree.num_drafted for e in trees], [e.speedup for e in trees], "x", color=COLOURS[3], label="trees priced"
        )
    bound = tuning.rate_bound / plain.tokens_per_s
    axes.axhline(bound, color="0.4", linewidth=1, linestyle="--", label="no chain or static tree is faster")
    axes.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="draft tokens per round", ylabel="speed-up over plain decoding", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _times(axes: Any, tuning: Tuning) -> None:
    plain = next(e for e in tuning.ranked if e.tree.num_drafted == 0)
    chain = next((e for e in tuning.ranked if e.tree.is_chain and e.tree.num_drafted), None)
    shown = [plain]
    for one in (chain, *tuning.ranked[:3]):
        if one is not None and not any(one is other for other in shown):
            shown.append(one)
    left = np.zeros(len(shown))
    for index, name in enumerate(BOUNDS):
        parts = np.array([1e3 * float(e.round.by_bound[..., index].max()) / e.tokens_per_round for e in shown])
        if parts.any():
            axes.barh(range(len(shown)), parts, left=left, color=COLOURS[index], label=name)
            left = left + parts
    axes.set_yticks(range(len(shown)), [e.tree.label for e in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("time per emitted token and sequence, ms")
    axes.legend(frameon=False, fontsize=8, title="bound by", title_fontsize=8)
