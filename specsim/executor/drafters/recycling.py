"""Token Recycling: the successors that the target last thought of after each token, kept in a small table."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import torch

from specsim.errors import InputError
from specsim.executor.drafters.base import Extra, Frontier, Prompt, Verified
from specsim.executor.method import as_tensor
from specsim.methods.round import Drafting
from specsim.tree import DraftTree

_PATHS: Final = (
    "0 1 2 3 4 5 6 7"
    " 00 01 02 03 04 05 06 07 10 11 12 13 20 21 22 30 31 40 50 60 70"
    " 000 001 002 003 004 005 006 007 010 011 012 020 021 030 040 050 060 070 100 101 110 200 300 400 500"
    " 0000 0001 0002 0003 0004 0010 0011 0020 0030 0040 0100 0200 1000 2000 3000"
    " 00000 00001 00002 00010 00020 00100 01000 10000"
    " 000000 000001 000100"
)
RECYCLING_80: Final = DraftTree.from_paths([int(digit) for digit in word] for word in _PATHS.split())
"""80 drafted nodes. Source: template ``2.2.2`` in Luowaterbi/TokenRecycling, tree_template_.py @0beafea."""

FALL: Final = math.log(2)
"""Each candidate gets half the weight of the one before it: the table keeps an order, not probabilities."""


@dataclass
class TokenRecycling:
    """Proposes, after each token, its last seen ``num_successors`` most probable successors.

    Every token that the target runs, rejected ones too, replaces its row of the table; of one that it ran several
    times the last counts, by row of the batch, then by node. The table outlives texts. After a token never seen the law
    is even over the vocabulary (the original starts from zeros, which proposes token 0 eight times).

    Args:
        vocab_size: Of the target.
        num_successors: Candidates kept per token.
        needs_prompt_logits: Learn from the prompt too, which the original does not.

    Source: Luo et al. 2025 (arXiv:2408.08696).

    Raises:
        InputError: for fewer than 1 successor, or more than there are tokens.
    """

    vocab_size: int
    num_successors: int = 8
    needs_prompt_logits: bool = False
    drafting: Drafting = "lookup"
    max_depth: int | None = None
    needs_features: bool = False
    max_context_tokens: int | None = None
    pending_tokens: list[int] = field(default_factory=list)
    successors: torch.Tensor = field(init=False)
    seen: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        if not 1 <= self.num_successors <= self.vocab_size:
            raise InputError("num_successors", f"must be from 1 to {self.vocab_size}", self.num_successors)
        self.successors = torch.zeros(self.vocab_size, self.num_successors, dtype=torch.int64)
        self.seen = torch.zeros(self.vocab_size, dtype=torch.bool)
        self._falling = -FALL * torch.arange(self.num_successors)

    def start(self, prompt: Prompt) -> None:
        device, self.pending_tokens = prompt.cache.kv.device, [1] * len(prompt.tokens)
        self.successors, self.seen = self.successors.to(device), self.seen.to(device)
        self._falling = self._falling.to(device)
        if prompt.logits is not None:
            for row, length in enumerate(prompt.lengths):
                tokens = torch.tensor(prompt.tokens[row][:length], device=device, dtype=torch.int64)
                self._learn(tokens, prompt.logits[row, :length])

    def law(self, frontier: Frontier) -> torch.Tensor:
        tokens = frontier.tokens
        logits = torch.full((*tokens.shape, self.vocab_size), float("-inf"), device=tokens.device)
        logits.scatter_(-1, self.successors[tokens], self._falling.expand(*tokens.shape, -1))
        return torch.where(self.seen[tokens][..., None], logits, torch.zeros_like(logits))

    def extra(self) -> Extra | None:
        return None

    def observe(self, verified: Verified) -> None:
        real = as_tensor(verified.parents > -2)
        self._learn(as_tensor(verified.tokens)[real], verified.logits[real])

    def _learn(self, tokens: torch.Tensor, logits: torch.Tensor) -> None:
        """Take the successors of ``tokens[n]`` from ``logits[n, V]``; of equal tokens the last wins."""
        places = torch.arange(tokens.shape[0], device=tokens.device)
        last = torch.full((self.vocab_size,), -1, device=tokens.device)
        last = last.scatter_reduce(0, tokens, places, "amax")
        places = last[last >= 0]
        self.successors[tokens[places]] = logits[places].topk(self.num_successors).indices
        self.seen[tokens] = True

    def keep_rows(self, rows: list[int]) -> None:
        """The table belongs to no text."""
        self.pending_tokens = [1] * len(rows)
