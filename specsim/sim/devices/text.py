"""A text as schedules see it: which of its tokens the drafter would have got right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specsim.errors import InputError

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Text:
    """Tokens to be put out after the prompt.

    Args:
        agrees: ``[T]`` whether a drafter that was given the true text before drafts this token.
        rank: ``[T]`` place of the true token among the drafter's candidates there, 0 where it agrees; what a drafter
            that prepares for several outcomes must reach. Left out: beyond all candidates where it does not agree.
    """

    agrees: Bools
    rank: Ints | None = None

    def __post_init__(self) -> None:
        if self.agrees.ndim != 1 or not self.agrees.size:
            raise InputError("agrees", "must be one per token, at least one", self.agrees.shape)
        if self.rank is not None and (self.rank.shape != self.agrees.shape or ((self.rank == 0) != self.agrees).any()):
            raise InputError("rank", "must be one per token, 0 just where the drafter agrees", self.rank.shape)

    def __len__(self) -> int:
        return int(self.agrees.size)

    def num_right(self, start: int, num: int) -> int:
        """Of ``num`` tokens drafted from ``start`` on, how many come before the first wrong one."""
        wrong = np.flatnonzero(~self.agrees[start : start + num])
        return int(wrong[0]) if wrong.size else min(num, len(self) - start)

    @classmethod
    def drawn(
        cls, num_tokens: int, alpha: float, rng: np.random.Generator, rank_shares: tuple[float, ...] = ()
    ) -> Text:
        """Each token right with probability ``alpha``, independently; ``rank_shares``: of the wrong ones, the share
        that are the drafter's second, third, ... choice.

        Raises:
            InputError: for a number of tokens below 1 or what are no probabilities.

        >>> text = Text.drawn(10_000, 0.8, np.random.default_rng(0))
        >>> round(float(text.agrees.mean()), 1)
        0.8
        """
        if num_tokens < 1:
            raise InputError("num_tokens", "must be >= 1", num_tokens)
        if not 0 <= alpha <= 1 or min(rank_shares, default=0) < 0 or sum(rank_shares) > 1:
            raise InputError("alpha, rank_shares", "must be probabilities, shares summing to 1 at most", (alpha, rank_shares))  # fmt: skip  # noqa: E501
        agrees = rng.random(num_tokens) < alpha
        shares = (*rank_shares, 1 - sum(rank_shares))
        rank = 1 + rng.choice(len(shares), num_tokens, p=np.array(shares) / sum(shares))
        rank = np.where(rank > len(rank_shares), np.iinfo(np.int64).max, rank)
        return cls(agrees, np.where(agrees, 0, rank))
