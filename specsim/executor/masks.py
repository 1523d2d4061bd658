"""Who sees whom while a tree grows and when it is verified. A static tree's masks are made once, for all rounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from specsim.decoding import DraftState, StaticTree
from specsim.decoding.arrays import pick
from specsim.executor.cache import TailMask
from specsim.methods.round import expanded_levels

Mask = tuple[TailMask | None, torch.Tensor]
"""A pass's mask and the depths ``[B or 1, n]`` of its tokens."""


class StaticMasks:
    """Masks of a tree that is the same each round: of each expansion, and of the pass that verifies it."""

    def __init__(self, policy: StaticTree, device: torch.device) -> None:
        tree, levels = policy.tree, expanded_levels(policy.tree)
        seen, depths = torch.from_numpy(np.array(tree.mask)), torch.from_numpy(np.array(tree.depths)).long()
        run = [node for level in levels[1:] for node in level]
        self.levels: list[Mask] = []
        for level in levels:
            so_far = run[: run.index(level[-1]) + 1] if self.levels else []
            mask = _mask(seen[list(level)][:, so_far].to(device)) if self.levels else None
            self.levels.append((mask, depths[list(level)][None].to(device)))
        self.verify: Mask = (_mask(seen.to(device)) if tree.num_drafted else None, depths[None].to(device))


def _mask(seen: torch.Tensor) -> TailMask | None:
    return None if seen.shape[0] == 1 and bool(seen.all()) else TailMask(seen[None])


@dataclass(frozen=True, eq=False)
class RunNodes:
    """The nodes run so far this round: ``seen[B, E, E]`` who sees whom, the root first, and ``depths[B, E]``."""

    seen: torch.Tensor
    depths: torch.Tensor

    def grown(self, state: DraftState) -> RunNodes:
        """With the frontier after the others. A node sees what its parent sees, and itself; padding itself alone."""
        rows = state.expanded.shape[0]
        width = state.frontier.shape[1]
        is_node = state.frontier >= 0
        parent = pick(state.parents, state.frontier)
        place = (state.expanded[:, None, :] == parent[:, :, None]).to(torch.uint8).argmax(-1)
        above = pick(self.seen, place) & is_node[:, :, None]
        own = torch.eye(width, dtype=torch.bool, device=above.device).expand(rows, -1, -1)
        old = torch.nn.functional.pad(self.seen, (0, width))
        new = torch.cat([above, own], dim=2)
        return RunNodes(
            torch.cat([old, new], dim=1), torch.cat([self.depths, (pick(self.depths, place) + 1) * is_node], dim=1)
        )

    def mask(self, width: int) -> Mask:
        """Of the newest ``width`` nodes, the root left out of what they see: it is text."""
        return TailMask(self.seen[:, -width:, 1:]), self.depths[:, -width:]


def only_root(num_rows: int, device: torch.device) -> RunNodes:
    """When nothing but the root has been run."""
    return RunNodes(
        torch.ones(num_rows, 1, 1, dtype=torch.bool, device=device),
        torch.zeros(num_rows, 1, dtype=torch.int64, device=device),
    )


def tree_mask(parents: torch.Tensor, most_depth: int) -> Mask:
    """Every node of ``parents[B, N]`` sees its ancestors and itself, no deeper than ``most_depth``; padding itself.

    Ancestors at up to 2 d steps are the ancestors at up to d steps of those at up to d steps.

    >>> mask, depths = tree_mask(torch.tensor([[-1, 0, 1, 0, -2]]), most_depth=2)
    >>> mask.seen.int()[0, 2].tolist(), depths.tolist()
    ([1, 1, 1, 0, 0], [[0, 1, 2, 1, 0]])
    """
    nodes = torch.arange(parents.shape[1], device=parents.device)
    seen = ((parents[:, :, None] == nodes) | (nodes[:, None] == nodes)).float()
    steps = 1
    while steps < most_depth:
        seen = torch.bmm(seen, seen).clamp_(max=1)
        steps *= 2
    return TailMask(seen > 0), seen.sum(-1).long() - 1
