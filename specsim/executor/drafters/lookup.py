"""Prompt lookup: what followed the same words earlier in the text is proposed again. No model, no cost."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from specsim.errors import InputError
from specsim.executor.drafters.base import Extra, Frontier, Prompt, Verified, path_tokens
from specsim.methods.round import Drafting


class SuffixIndex:
    """One text, and where each of its n-grams was last continued, for n from ``min_n`` to ``max_n``.

    >>> text = SuffixIndex(min_n=1, max_n=2)
    >>> text.extend([5, 6, 7, 6, 8, 5, 6])
    >>> text.continued_at()  # after "5 6" stood 7, though after "6" alone last stood 8
    2
    """

    def __init__(self, min_n: int, max_n: int) -> None:
        self.tokens: list[int] = []
        self._sizes = range(max_n, min_n - 1, -1)
        self._last: dict[tuple[int, ...], int] = {}

    def extend(self, tokens: list[int]) -> None:
        """Add tokens. The n-grams at the very end enter once something follows them."""
        for token in tokens:
            end = len(self.tokens)
            for n in self._sizes:
                if 0 < n <= end:
                    self._last[tuple(self.tokens[end - n :])] = end
            self.tokens.append(token)

    def continued_at(self) -> int | None:
        """Index of the token that followed the longest suffix seen before, where it was seen last."""
        for n in self._sizes:
            if n <= len(self.tokens) and (place := self._last.get(tuple(self.tokens[-n:]))) is not None:
                return place
        return None

    def copied(self, num_tokens: int) -> list[int]:
        """As many tokens from there on; past the end of the text it goes on with what it has copied itself.

        >>> text = SuffixIndex(1, 3)
        >>> text.extend([1, 2, 1, 2])
        >>> text.copied(5)
        [1, 2, 1, 2, 1]
        """
        place = self.continued_at()
        if place is None:
            return []
        period = self.tokens[place:]
        return (period * (num_tokens // len(period) + 1))[:num_tokens]


@dataclass
class PromptLookup:
    """Proposes the chain that followed the longest suffix of the text (``min_n`` to ``max_n`` tokens) last time.

    Where nothing matches the law is even over the vocabulary, so that a policy that looks at confidence drafts little.
    The original takes the first occurrence and stops at the end of the text; here it is the last one, and a copy may
    run into itself, as in Lempel and Ziv 1977.

    Source: prompt lookup decoding (Saxena 2023), max_n 3 there.

    Raises:
        InputError: unless 1 <= min_n <= max_n.
    """

    vocab_size: int
    min_n: int = 1
    max_n: int = 3
    drafting: Drafting = "lookup"
    max_depth: int | None = None
    needs_features: bool = False
    needs_prompt_logits: bool = False
    max_context_tokens: int | None = None
    texts: list[SuffixIndex] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 1 <= self.min_n <= self.max_n:
            raise InputError("min_n", f"must be from 1 to max_n = {self.max_n}", self.min_n)

    @property
    def pending_tokens(self) -> list[int]:
        return [1] * len(self.texts)

    def start(self, prompt: Prompt) -> None:
        self.texts = [SuffixIndex(self.min_n, self.max_n) for _ in prompt.tokens]
        for text, tokens in zip(self.texts, prompt.tokens, strict=True):
            text.extend(tokens)

    def law(self, frontier: Frontier) -> torch.Tensor:
        logits = np.zeros((*frontier.tokens.shape, self.vocab_size), dtype=np.float32)
        for row, nodes in enumerate(frontier.state.frontier.tolist()):
            for column, node in enumerate(nodes):
                if node >= 0 and (token := self.expected(row, path_tokens(frontier.state, row, node)[1:])) is not None:
                    logits[row, column] = -np.inf
                    logits[row, column, token] = 0.0
        return torch.from_numpy(logits).to(frontier.tokens.device)

    def expected(self, row: int, drafted: list[int]) -> int | None:
        """The token after these drafted ones, while they are what was copied: all that the law says."""
        copy = self.texts[row].copied(len(drafted) + 1)
        return copy[-1] if copy and copy[:-1] == drafted else None

    def extra(self) -> Extra | None:
        return None

    def observe(self, verified: Verified) -> None:
        for text, emitted in zip(self.texts, verified.emitted, strict=True):
            text.extend(emitted)

    def keep_rows(self, rows: list[int]) -> None:
        self.texts = [self.texts[row] for row in rows]
