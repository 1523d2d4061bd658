"""What publications print of acceptance, turned into one number: the chain that would emit as many tokens.

A mean of tokens per round is a chain's, or a tree's of known shape; a rate is per drafted token whose prefix was kept,
or accepted over drafted. Each becomes ``alpha``, the acceptance of the drafter's first choice, the same at every depth
down to the length drafted, or falling with depth as Medusa's heads do. It is worth no more than that: acceptance falls
with depth, so ``alpha`` from a long draft is below one from a short draft, and the length must be kept beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.emitted import path_probs_of
from specsim.acceptance.limits import optimum
from specsim.acceptance.profile import AcceptanceProfile, constant_alpha
from specsim.acceptance.tables import MEDUSA_HEADS, with_power_law_tail
from specsim.errors import InputError
from specsim.tree import DraftTree
from specsim.trees_known import EAGLE_25, MEDUSA_63

Convention = Literal["tokens_with_bonus", "tokens_without_bonus", "alpha", "accepted_over_drafted"]
"""``alpha``: kept tokens over tokens tried, a token being tried where its prefix was kept (Leviathan et al. 2023)."""

Shape = Literal["chain", "best tree", "eagle-25", "medusa-63"]

RANK_SHARES: Final = (0.295, 0.156, 0.061, 0.053, 0.041, 0.033, 0.028, 0.024, 0.021)
"""Share of the first choice's misses that the next ones catch: an assumption behind every tree's conversion.

The first five from Sequoia's rank vector .634 .108 .057 .022 .019 .015 (github Infini-AI-Lab/Sequoia @0ff3ff7), the
others by its power law. EAGLE's trees of 25 and chains of 5, both published for three targets, say how well it does.
"""


@cache
def _medusa_heads() -> NDArray[np.float64]:
    """Acceptance ``[head, rank]`` of Medusa's heads over that of the first head's first choice, ten ranks."""
    heads = AcceptanceProfile.from_cumulative_topk(MEDUSA_HEADS["vicuna-7b"])
    table = with_power_law_tail(heads, 1 + len(RANK_SHARES)).accept_prob
    return np.asarray(table / table[0, 0])


def decay_of(method: str, depth: int) -> NDArray[np.float64]:
    """Acceptance at depths 1 .. ``depth`` over that at the first: falling for Medusa, which has a head for each.

    >>> decay_of("medusa", 3).round(2).tolist(), decay_of("eagle3", 2).tolist()
    ([1.0, 0.56, 0.36], [1.0, 1.0])
    """
    if method != "medusa":
        return np.ones(depth)
    first = _medusa_heads()[:, 0]
    return np.asarray(first[np.minimum(np.arange(depth), len(first) - 1)])


def rank_rows(method: str, alpha: float, depth: int) -> NDArray[np.float64]:
    """Acceptance ``[depth, rank]`` of a method whose first choice has ``alpha`` at the first depth, ten ranks.

    Medusa's are its published heads, all in proportion; of the others one vector at every depth.
    """
    if method != "medusa":
        return np.tile(rank_vector(alpha), (depth, 1))
    heads = _medusa_heads()
    rows = alpha * heads[np.minimum(np.arange(depth), len(heads) - 1)]
    return np.asarray(rows / np.maximum(rows.sum(axis=1, keepdims=True), 1))


def accepted_from(value: float, convention: Convention, draft_len: int | None) -> float:
    """Mean accepted draft tokens per round, bonus token out.

    >>> accepted_from(3.2, "tokens_with_bonus", None), accepted_from(0.5, "accepted_over_drafted", 4)
    (2.2, 2.0)
    >>> round(accepted_from(0.8, "alpha", 2), 4)
    1.44
    """
    if convention == "tokens_with_bonus":
        return value - 1
    if convention == "tokens_without_bonus":
        return value
    if draft_len is None:
        raise InputError("draft_len", f"must be given with {convention}", None)
    if not 0 <= value <= 1:
        raise InputError(convention, "must be from 0 to 1", value)
    if convention == "accepted_over_drafted":
        return value * draft_len
    return float(np.sum(value ** np.arange(1, draft_len + 1)))


def alpha_from(
    accepted: float,
    shape: Shape = "chain",
    draft_len: int | None = None,
    nodes: int | None = None,
    depth: int | None = None,
    method: str = "",
) -> float:
    """The acceptance of a first choice with which the shape would have this many tokens accepted on average.

    Args:
        accepted: Draft tokens per round.
        shape: What was drafted; ``best tree`` is the best static tree of ``nodes`` (root in) at most ``depth`` deep,
            which also stands for trees that grow with the drafter's confidence: their gain is then in alpha.
        draft_len: Of a chain.
        nodes, depth: Of a best tree.
        method: Whose acceptance falls with depth as ``decay_of`` says.

    Raises:
        InputError: where no alpha from 0 to 1 gives so many.

    >>> round(alpha_from(2.3616, draft_len=4), 4)
    0.8
    >>> round(alpha_from(2.94, "eagle-25"), 3)
    0.764
    """
    if shape == "chain" and method != "medusa":
        if draft_len is None or not 0 <= accepted <= draft_len:
            raise InputError("accepted", f"must be from 0 to the draft length {draft_len}", accepted)
        return constant_alpha(accepted, draft_len)
    of_alpha = _accepted_of(shape, draft_len, nodes, depth, method)
    if not 0 <= accepted <= of_alpha(1.0):
        raise InputError("accepted", f"must be from 0 to {of_alpha(1.0):g} for {shape}", accepted)
    low, high = 0.0, 1.0
    for _ in range(40):
        alpha = (low + high) / 2
        low, high = (low, alpha) if of_alpha(alpha) >= accepted else (alpha, high)
    return high


def _accepted_of(
    shape: Shape, draft_len: int | None, nodes: int | None, depth: int | None, method: str
) -> Callable[[float], float]:
    if shape == "best tree":
        if nodes is None or depth is None:
            raise InputError("nodes", "must be given with depth for a best tree", nodes)
        return lambda alpha: float(optimum(_laws_to(depth, alpha), nodes - 1).accepted[-1])
    tree = (
        DraftTree.chain(draft_len or 0) if shape == "chain" else {"eagle-25": EAGLE_25, "medusa-63": MEDUSA_63}[shape]
    )
    return lambda alpha: float(path_probs_of(tree, rank_rows(method, alpha, tree.depth)).sum() - 1)


def rank_vector(alpha: float) -> NDArray[np.float64]:
    """Acceptance by rank of a drafter whose first choice has ``alpha``, ten ranks."""
    return np.concatenate(([alpha], (1 - alpha) * np.array(RANK_SHARES)))


@cache
def _nothing() -> NDArray[np.float64]:
    return np.zeros(1 + len(RANK_SHARES))


def _laws_to(depth: int, alpha: float) -> Callable[[tuple[int, ...]], NDArray[np.float64]]:
    vector = rank_vector(alpha)
    return lambda path: vector if len(path) < depth else _nothing()
