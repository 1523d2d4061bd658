"""Lookahead decoding: the target guesses its own future in a window that rides in its passes, and keeps the n-grams."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import torch

from specsim.errors import InputError
from specsim.executor.drafters.base import Extra, Frontier, Prompt, Verified, path_tokens
from specsim.methods.round import Drafting
from specsim.tree import DraftTree


class Pool:
    """n-grams by their first token; of each the ``guesses`` most recent, newest last.

    >>> pool = Pool(guesses=2)
    >>> for gram in ((1, 2, 3), (1, 4, 5), (1, 2, 3), (1, 6, 7)):
    ...     pool.add(gram)
    >>> pool.tails(1)
    [(6, 7), (2, 3)]
    """

    def __init__(self, guesses: int) -> None:
        self.guesses = guesses
        self._tails: dict[int, OrderedDict[tuple[int, ...], None]] = {}

    def add(self, gram: tuple[int, ...]) -> None:
        tails = self._tails.setdefault(gram[0], OrderedDict())
        tails[gram[1:]] = None
        tails.move_to_end(gram[1:])
        if len(tails) > self.guesses:
            tails.popitem(last=False)

    def tails(self, token: int) -> list[tuple[int, ...]]:
        """What followed this token, newest first."""
        return list(reversed(self._tails.get(token, ())))


@dataclass
class Lookahead:
    """Jacobi iteration over a window of the future, and a pool of the n-grams that its columns spell.

    The window has ``level - 1`` rows of ``window`` tokens, oldest first. The token of row k and column j stands
    k + j + 1 after the root; it sees the text, the oldest row up to column j, and column j of the rows between. What
    the target answers to the newest row becomes the next row; each column with its answer is an n-gram of ``level``
    tokens, and the oldest row goes. In the first rounds rows are added and nothing goes. The branches proposed are the
    pool's n-grams that begin with the root, the newest with the largest weight; without any the law is even.

    Args:
        vocab_size: Of the target.
        window: W, columns.
        level: N, tokens of an n-gram; branches are N - 1 deep.
        guesses: G, n-grams kept for each first token.
        pool_from_prompt: Begin with the n-grams of the prompt.

    Raises:
        InputError: for a window or guess set below 1, or a level below 2.

    Source: Fu et al. 2024 (arXiv:2402.02057); N 5, W 7, G 7 as its repository suggests.
    """

    vocab_size: int
    window: int = 7
    level: int = 5
    guesses: int = 7
    pool_from_prompt: bool = True
    drafting: Drafting = "lookup"
    needs_features: bool = False
    needs_prompt_logits: bool = False
    max_context_tokens: int | None = None
    rows: list[list[list[int]]] = field(default_factory=list)
    pools: list[Pool] = field(default_factory=list)
    _device: torch.device = field(init=False)

    def __post_init__(self) -> None:
        for name, least in (("window", 1), ("level", 2), ("guesses", 1)):
            if getattr(self, name) < least:
                raise InputError(name, f"must be >= {least}", getattr(self, name))

    @property
    def pending_tokens(self) -> list[int]:
        return [1] * len(self.rows)

    @property
    def max_depth(self) -> int | None:
        return self.level - 1

    @property
    def tree(self) -> DraftTree:
        """Room for every branch where all begin differently: G chains of N - 1."""
        return DraftTree.from_paths(
            (first, *[0] * more) for first in range(self.guesses) for more in range(self.level - 1)
        )

    def start(self, prompt: Prompt) -> None:
        """The first row of the window is the end of the prompt, once more: any tokens would do."""
        self.pools = [Pool(self.guesses) for _ in prompt.tokens]
        self.rows, self._device = [], prompt.cache.kv.device
        for pool, tokens in zip(self.pools, prompt.tokens, strict=True):
            self.rows.append([[tokens[-self.window :][j % len(tokens[-self.window :])] for j in range(self.window)]])
            if self.pool_from_prompt:
                for begin in range(len(tokens) - self.level + 1):
                    pool.add(tuple(tokens[begin : begin + self.level]))

    def law(self, frontier: Frontier) -> torch.Tensor:
        logits = torch.zeros(*frontier.tokens.shape, self.vocab_size, device=frontier.tokens.device)
        for row, nodes in enumerate(frontier.state.frontier.tolist()):
            for column, node in enumerate(nodes):
                if node >= 0 and (weights := self._weights(row, path_tokens(frontier.state, row, node))):
                    logits[row, column] = float("-inf")
                    tokens = torch.tensor(list(weights), device=logits.device)
                    logits[row, column, tokens] = torch.tensor(list(weights.values()), device=logits.device).log()
        return logits

    def _weights(self, row: int, path: list[int]) -> dict[int, float]:
        """Weight of each token after this path, the root first: a branch has half that of the next newer one."""
        weights: dict[int, float] = {}
        depth = len(path) - 1
        for age, tail in enumerate(self.pools[row].tails(path[0])):
            if depth < len(tail) and list(tail[:depth]) == path[1:]:
                weights[tail[depth]] = weights.get(tail[depth], 0.0) + 0.5**age
        return weights

    def extra(self) -> Extra | None:
        """The window; texts have the same number of rows, for they started together."""
        num_rows, columns = len(self.rows[0]), torch.arange(self.window)
        offsets = (torch.arange(num_rows)[:, None] + columns + 1).flatten()
        tokens = torch.tensor([[token for line in window for token in line] for window in self.rows])
        seen = window_mask(num_rows, self.window)
        return Extra(tokens.to(self._device), offsets[None].to(self._device), seen[None].to(self._device))

    def observe(self, verified: Verified) -> None:
        if verified.extra_logits is None:
            return
        answers = verified.extra_logits[:, -self.window :].argmax(-1).tolist()
        for pool, window, answer in zip(self.pools, self.rows, answers, strict=True):
            if len(window) == self.level - 1:
                for gram in zip(*window, answer, strict=True):
                    pool.add(gram)
                window.pop(0)
            window.append(answer)

    def keep_rows(self, rows: list[int]) -> None:
        self.rows, self.pools = [self.rows[row] for row in rows], [self.pools[row] for row in rows]


def window_mask(num_rows: int, window: int) -> torch.Tensor:
    """Who sees whom in a window laid out row by row, ``[X, X]``: the oldest row up to the column, then the column.

    >>> window_mask(2, 2).int()
    tensor([[1, 0, 0, 0],
            [1, 1, 0, 0],
            [1, 0, 1, 0],
            [1, 1, 0, 1]], dtype=torch.int32)
    """
    row, column = torch.arange(num_rows * window) // window, torch.arange(num_rows * window) % window
    oldest = (row == 0) & (column <= column[:, None])
    above = (column == column[:, None]) & (row <= row[:, None])
    return oldest | above
