"""Who sees whom while a tree grows and when it is verified. A static tree's masks are made once, for all rounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from specsim.decoding import Array, DraftState, StaticTree
from specsim.decoding.arrays import array_namespace, device, pick
from specsim.executor.cache import TailMask
from specsim.executor.method import as_tensor
from specsim.methods.round import expanded_levels

Mask = tuple[TailMask | None, torch.Tensor]
"""A pass's mask and the depths ``[B or 1, n]`` of its tokens."""


class StaticMasks:
    """Masks of a tree that is the same each round: of each expansion, and of the pass that verifies it."""

    def __init__(self, policy: StaticTree, where: torch.device) -> None:
        tree, levels = policy.tree, expanded_levels(policy.tree)
        seen, depths = torch.from_numpy(np.array(tree.mask)), torch.from_numpy(np.array(tree.depths)).long()
        run = [node for level in levels[1:] for node in level]
        self.levels: list[Mask] = []
        for level in levels:
            so_far = run[: run.index(level[-1]) + 1] if self.levels else []
            mask = _mask(seen[list(level)][:, so_far].to(where)) if self.levels else None
            self.levels.append((mask, depths[list(level)][None].to(where)))
        self.verify: Mask = (_mask(seen.to(where)) if tree.num_drafted else None, depths[None].to(where))


def _mask(seen: torch.Tensor) -> TailMask | None:
    return None if seen.shape[0] == 1 and bool(seen.all()) else TailMask(seen[None])


@dataclass(frozen=True, eq=False)
class RunNodes:
    """The nodes run so far this round: ``seen[B, E, E]`` who sees whom, the root first, and ``depths[B, E]``.

    Arrays of the library that the round's state is made of.
    """

    seen: Array
    depths: Array

    def grown(self, state: DraftState) -> RunNodes:
        """With the frontier after the others. A node sees what its parent sees, and itself; padding itself alone."""
        xp, (rows, before), width = array_namespace(state.frontier), self.depths.shape, state.frontier.shape[1]
        is_node = state.frontier >= 0
        parent = pick(state.parents, state.frontier)
        place = xp.argmax(xp.astype(state.expanded[:, None, :] == parent[:, :, None], xp.uint8), axis=-1)
        seen = xp.zeros((rows, before + width, before + width), dtype=xp.bool, device=device(place))
        seen[:, :before, :before] = self.seen
        seen[:, before:, :before] = pick(self.seen, place) & is_node[:, :, None]
        seen[:, before:, before:] = xp.eye(width, dtype=xp.bool, device=device(place))
        depths = (pick(self.depths, place) + 1) * is_node
        return RunNodes(seen, xp.concat([self.depths, depths], axis=1))

    def mask(self, width: int) -> Mask:
        """Of the newest ``width`` nodes, the root left out of what they see: it is text."""
        return TailMask(as_tensor(self.seen[:, -width:, 1:])), as_tensor(self.depths[:, -width:])


def only_root(frontier: Array) -> RunNodes:
    """When nothing but the root, the first ``frontier[B, 1]``, has been run."""
    return RunNodes((frontier == frontier)[:, :, None], frontier - frontier)


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
