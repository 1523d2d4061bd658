"""A draft tree as a drawing: every node with the probability that it is accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from specsim.acceptance.emitted import Acceptance, path_probs
from specsim.plots import COLOURS, new_figure, save_figure
from specsim.tree import DraftTree

LARGEST_LABELLED: Final = 70
"""Nodes beyond which their numbers would lie over each other."""


def plot_tree(title: str, tree: DraftTree, acceptance: Acceptance, path: Path) -> None:
    """Depth downwards; area and number of a node: the probability in percent that it is accepted with all above it."""
    probs, across = path_probs(tree, acceptance), places(tree)
    widest = max(int(tree.widths.max()), 1)
    figure, axes = new_figure(min(2.5 + 0.55 * float(np.ptp(across)), 16.0), 1.6 + 0.62 * max(tree.depth, 1))
    for node, parent in enumerate(tree.parents[1:], start=1):
        ends = [across[parent], across[node]], [tree.depths[parent], tree.depths[node]]
        axes.plot(*ends, color="0.6", linewidth=0.5 + 3 * float(probs[node]), zorder=1)
    _nodes(axes, tree, across, probs, labelled=tree.num_nodes <= LARGEST_LABELLED, small=widest > 24)
    axes.invert_yaxis()
    axes.set(ylabel="depth", xlim=(across.min() - 0.7, across.max() + 0.7), ylim=(tree.depth + 0.5, -0.5))
    axes.set_yticks(range(tree.depth + 1))
    axes.set_xticks([])
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.set_title(f"{title}\n{tree.label}: {float(probs.sum()):.2f} tokens per round", fontsize=9)
    save_figure(figure, path)


def _nodes(axes: Any, tree: DraftTree, across: Any, probs: Any, labelled: bool, small: bool) -> None:
    size = 130.0 if small else 260.0
    colours = [COLOURS[rank % len(COLOURS)] for rank in tree.ranks]
    axes.scatter(across, tree.depths, s=size * (0.15 + 0.85 * probs), c=colours, zorder=2, linewidths=0)
    if not labelled:
        return
    for node in range(tree.num_nodes):
        said = "root" if node == 0 else f"{100 * float(probs[node]):.0f}"
        axes.annotate(
            said, (across[node], tree.depths[node]), xytext=(0, -12), textcoords="offset points", ha="center",
            va="center", fontsize=5 if small else 7, zorder=3,
            bbox={"boxstyle": "round,pad=0.05", "facecolor": "white", "edgecolor": "none"},
        )  # fmt: skip


def places(tree: DraftTree) -> np.ndarray:
    """Where each node lies from left to right: leaves side by side, best ranks first, parents over their children.

    >>> places(DraftTree((-1, 0, 0, 1, 1))).tolist()
    [1.25, 0.5, 2.0, 0.0, 1.0]
    """
    across = np.zeros(tree.num_nodes)
    leaves = 0
    stack = [(0, False)]
    while stack:
        node, is_done = stack.pop()
        children = tree.children[node]
        if is_done:
            across[node] = (across[children[0]] + across[children[-1]]) / 2
        elif children:
            stack += [(node, True), *[(child, False) for child in reversed(children)]]
        else:
            across[node], leaves = leaves, leaves + 1
    return across
