"""What other policies would have done, exactly: chains along a recorded text, dynamic trees on a recorded tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from specsim.acceptance.replay.walk import expected_rounds as rounds_of_chains
from specsim.errors import InputError
from specsim.search.exact.certificate import checked_count, probs_or_none


def expected_rounds(accept: ArrayLike, draft_lens: Sequence[int]) -> dict[int, float]:
    """Expected rounds until a recorded text is out, for chains of each draft length; see ``acceptance.replay``.

    Args:
        accept: By token of the text; min(1, draft / target probability) of the token under the token rule.
        draft_lens: Draft lengths, each 0 or more.

    >>> expected_rounds([0.5, 0.5], [0, 1])
    {0: 2.0, 1: 1.5}
    """
    probs = probs_or_none("a", accept)
    return rounds_of_chains(probs, [checked_count("gammas", length, 0) for length in draft_lens])


@dataclass(frozen=True)
class RecordedTree:
    """A recorded superset of draft nodes; node -1 is the root, a parent comes before its children.

    Args:
        parents: Of each node, -1 for children of the root.
        draft_probs, target_probs: Of each node's token after its parent.
    """

    parents: tuple[int, ...]
    draft_probs: tuple[float, ...]
    target_probs: tuple[float, ...]

    def __post_init__(self) -> None:
        for number, parent in enumerate(self.parents):
            if not -1 <= parent < number:
                raise InputError(f"nodes[{number}]", f"parent must be from -1 to {number - 1}", parent)
        for name, probs in (("draft", self.draft_probs), ("target", self.target_probs)):
            table = probs_or_none(f"{name} probability", probs)
            sums = (
                np.bincount(np.array(self.parents, int) + 1, weights=table, minlength=1) if len(table) else np.zeros(1)
            )
            if np.any(sums > 1 + 1e-9):
                raise InputError(f"{name} probability", "of siblings must sum to at most 1", float(sums.max()))

    def depths(self) -> list[int]:
        """Of each node; children of the root have 1."""
        found: list[int] = []
        for parent in self.parents:
            found.append(1 if parent < 0 else found[parent] + 1)
        return found

    def path_probs(self, probs: Sequence[float]) -> list[float]:
        """Product of ``probs`` from the root down to each node."""
        found: list[float] = []
        for parent, prob in zip(self.parents, probs, strict=True):
            found.append(prob if parent < 0 else found[parent] * prob)
        return found

    def best_first(self, num_nodes: int, max_depth: int) -> list[int]:
        """The drafter's ``num_nodes`` likeliest nodes, at most ``max_depth`` deep; ties to the shallower, earlier."""
        depths, values = self.depths(), self.path_probs(self.draft_probs)
        return self._best([n for n in range(len(depths)) if depths[n] <= max_depth], values, depths, num_nodes)

    def beam_rerank(self, top_k: int, max_depth: int, num_nodes: int) -> list[int]:
        """EAGLE-2's way: the ``top_k`` best of each level go on, each with its ``top_k`` best children; of all these
        the ``num_nodes`` likeliest are kept.

        Source: Li et al. 2024 (arXiv:2406.16858).
        """
        depths, values = self.depths(), self.path_probs(self.draft_probs)
        pool: list[int] = []
        beam = [-1]
        for _ in range(max_depth):
            level = []
            for parent in beam:
                children = [n for n, p in enumerate(self.parents) if p == parent]
                level += sorted(children, key=lambda n: (-self.draft_probs[n], n))[:top_k]
            pool += level
            beam = sorted(level, key=lambda n: (-values[n], n))[:top_k]
        return self._best(pool, values, depths, num_nodes)

    def _best(self, pool: list[int], values: list[float], depths: list[int], num: int) -> list[int]:
        return sorted(sorted(pool, key=lambda n: (-values[n], depths[n], n))[:num])

    def expected_tokens(self, nodes: Sequence[int], probs: Sequence[float]) -> float:
        """Tokens that a round over these nodes emits, bonus in.

        Exact for greedy, and for the one-hot rule, which accepts a child with its target probability whatever its
        siblings.
        """
        values = self.path_probs(probs)
        return 1.0 + float(np.sum([values[node] for node in nodes]))
