"""ProPD: a tree pruned halfway through the target's pass, and its size chosen by a line fitted to iteration times.

The pruning reads what an early layer of the target thinks of each node's successors. Nothing but the target, run so far
with heads of its own on that layer, knows it: whoever has no such laws can not prune, and must say so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from specsim.decoding.arrays import PADDING, Array, array_namespace, device, pick
from specsim.decoding.policies.pool import ascending, check_at_least
from specsim.decoding.propose import top_children
from specsim.decoding.state import TokenTree
from specsim.errors import InfeasibleError, InputError


def early_pruned(tree: TokenTree, early_laws: Array | None, top_k: int) -> TokenTree:
    """The part of the tree that the target's remaining layers verify.

    A node stays if its token is among the ``top_k`` that the early head finds most probable after its parent, and its
    parent stays. Pruning only takes candidates away, so rules for the most probable children stay lossless.

    Args:
        tree: What the first layers ran.
        early_laws: ``[B, N, V]`` of the head on an early layer, after each node of the tree.
        top_k: Of the head.

    Raises:
        InfeasibleError: without early laws.

    >>> tree = TokenTree(np.array([[-1, 0, 0, 1]]), np.array([[9, 1, 2, 0]]), np.ones((1, 4)), np.arange(4)[None])
    >>> laws = np.array([[[0.1, 0.2, 0.7]] * 4])
    >>> early_pruned(tree, laws, 1).tokens.tolist()  # after the root it believes in token 2 alone
    [[9, 2]]
    """
    check_at_least(1, top_k=top_k)
    if early_laws is None:
        raise InfeasibleError("ProPD prunes by laws of an early layer of the target, which nothing here recorded")
    xp = array_namespace(tree.tokens)
    likely = top_children(early_laws, min(top_k, early_laws.shape[-1]))
    num_nodes = tree.parents.shape[1]
    stays = [tree.parents[:, 0] != PADDING]
    for node in range(1, num_nodes):
        parent = tree.parents[:, node]
        above = pick(likely, parent.clip(min=0)) == tree.tokens[:, node, None]
        of_parent = pick(xp.stack(stays, axis=1), parent.clip(min=0))
        stays.append((parent >= 0) & xp.any(above, axis=1) & of_parent)
    kept = ascending(
        xp.where(xp.stack(stays, axis=1), xp.arange(num_nodes, device=device(tree.tokens)), num_nodes), num_nodes
    )
    return _only(tree, kept)


def _only(tree: TokenTree, kept: Array) -> TokenTree:
    """The tree of the nodes ``kept[B, M]``, ascending, -1 for padding."""
    xp = array_namespace(kept)
    is_node = kept >= 0
    parents = xp.where(is_node, pick(tree.parents, kept), PADDING)
    place = xp.argmax(xp.astype(parents[:, :, None] == kept[:, None, :], xp.uint8), axis=-1)
    return TokenTree(
        parents=xp.where(parents >= 0, place, parents),
        tokens=xp.where(is_node, pick(tree.tokens, kept), 0),
        probs=xp.where(is_node, pick(tree.probs, kept), 0),
        nodes=xp.where(is_node, pick(tree.nodes, kept), -1),
    )


@dataclass(frozen=True)
class IterationTime:
    """The line ``intercept + slope x nodes`` through the times of iterations, of which recent ones count more.

    Args:
        memory: Weight of an iteration relative to the one after it.
        sums: Weighted sums of 1, n, n**2, t and n t; all 0 at first.

    Source: ProPD, Zhong et al. 2024 (arXiv:2402.13485): a weighted regression kept up online.

    >>> line = IterationTime(memory=0.9)
    >>> for nodes in (1, 8, 4):
    ...     line = line.updated(nodes, 0.010 + 0.001 * nodes)
    >>> [round(value, 6) for value in line.line]
    [0.01, 0.001]
    """

    memory: float
    sums: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if not 0 < self.memory <= 1:
            raise InputError("memory", "must be above 0 and at most 1", self.memory)

    def updated(self, num_nodes: int, time_s: float) -> IterationTime:
        """After an iteration of so many nodes, root in."""
        new = (1.0, num_nodes, num_nodes**2, time_s, num_nodes * time_s)
        kept = [self.memory * old + one for old, one in zip(self.sums, new, strict=True)]
        return IterationTime(self.memory, (kept[0], kept[1], kept[2], kept[3], kept[4]))

    @property
    def line(self) -> tuple[float, float]:
        """Intercept and slope, seconds; a slope of 0 until two sizes were seen."""
        weight, n, nn, t, nt = self.sums
        if weight == 0:
            raise InputError("iterations", "must be one at least", 0)
        spread = weight * nn - n * n
        slope = (weight * nt - n * t) / spread if spread > 1e-9 * weight * nn else 0.0
        return (t - slope * n) / weight, slope

    def best_size(self, expected_tokens: ArrayLike) -> int:
        """The number of nodes, root in, with most expected tokens per time on the line.

        Args:
            expected_tokens: ``[nodes - 1]`` of the best tree of each size, bonus token in.

        >>> IterationTime(1.0, (2.0, 4.0, 10.0, 6.0, 14.0)).line  # (1, 2) and (3, 4) seen: 1 + n
        (1.0, 1.0)
        >>> IterationTime(1.0, (2.0, 4.0, 10.0, 6.0, 14.0)).best_size([1.0, 1.7, 1.9])
        2
        """
        tokens = np.asarray(expected_tokens, dtype=float)
        intercept, slope = self.line
        times = intercept + slope * np.arange(1, len(tokens) + 1)
        if not np.all(times > 0):
            raise InputError("iterations", "must leave times above 0 on their line", float(times.min()))
        return 1 + int(np.argmax(tokens / times))
