"""Medusa heads: each guesses one position further on from the target's last feature. No pass beyond the heads."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch.nn.functional import silu

from specsim.executor.drafters.base import Extra, Frontier, Prompt, Verified
from specsim.executor.drafters.heads import read_head, read_head_config, whole_number
from specsim.executor.layers import Weights
from specsim.executor.llama import Llama
from specsim.methods.round import Drafting


class Medusa:
    """Head k reads the feature from which the root was chosen and gives the law of the token k + 1 after the root.

    So the law of a node depends on its depth alone. A prompt of one token has no feature before it: zeros stand in.

    Args:
        weights: ``{k}.{i}.linear.weight`` ``[H, H]`` and ``.bias``, the residual blocks i of head k, then
            ``{k}.{last}.weight`` ``[V, H]``, its rows of the vocabulary; the names of the published heads.
        num_heads: Heads, which is also how deep it drafts.
        num_blocks: Residual blocks of each head.

    Source: Cai et al. 2024 (arXiv:2401.10774), section 2.1.1.
    """

    drafting: Final[Drafting] = "heads"
    max_context_tokens: Final = None
    needs_features: Final = True
    needs_prompt_logits: Final = False

    def __init__(self, weights: Weights, num_heads: int, num_blocks: int) -> None:
        def stacked(name: str) -> torch.Tensor:
            return torch.stack([weights[f"{k}.{name}"] for k in range(num_heads)])

        self.max_depth: int | None = num_heads
        self.blocks = [(stacked(f"{i}.linear.weight"), stacked(f"{i}.linear.bias")) for i in range(num_blocks)]
        self.rows = stacked(f"{num_blocks}.weight")
        self.features = self.rows.new_zeros(0, self.rows.shape[2])
        self._logits: torch.Tensor | None = None

    @property
    def pending_tokens(self) -> list[int]:
        return [1] * self.features.shape[0]

    @torch.inference_mode()
    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """All heads' logits ``[B, heads, V]`` from features ``[B, H]``."""
        x = features.expand(self.rows.shape[0], -1, -1)
        for weight, bias in self.blocks:
            x = x + silu(torch.baddbmm(bias[:, None], x, weight.mT))
        return (x @ self.rows.mT).transpose(0, 1)

    def start(self, prompt: Prompt) -> None:
        assert prompt.features is not None
        zeros = self.rows.new_zeros(len(prompt.tokens), self.rows.shape[2])
        rows = [row for row, length in enumerate(prompt.lengths) if length]
        zeros[rows] = prompt.features[rows, [prompt.lengths[row] - 1 for row in rows]]
        self.features, self._logits = zeros, None

    def law(self, frontier: Frontier) -> torch.Tensor:
        if self._logits is None:
            self._logits = self.logits(self.features)
        depths = frontier.depths.expand_as(frontier.tokens)
        return torch.gather(self._logits, 1, depths[..., None].expand(-1, -1, self._logits.shape[2]))

    def extra(self) -> Extra | None:
        return None

    def observe(self, verified: Verified) -> None:
        assert verified.features is not None
        rows = list(range(len(verified.path)))
        self.features, self._logits = verified.features[rows, [path[-1] for path in verified.path]], None

    def keep_rows(self, rows: list[int]) -> None:
        self.features, self._logits = self.features[rows], None


def load_medusa(directory: Path, target: Llama) -> Medusa:
    """Heads for this target, in its type and on its device, from a checkpoint directory.

    Raises:
        InputError: for a config without ``medusa_num_heads``, and tensors that are missing or do not fit the target.
    """
    config = read_head_config(directory)
    num_heads = whole_number(config, "medusa_num_heads", least=1)
    num_blocks = whole_number(config, "medusa_num_layers", least=0, default=1)
    hidden, vocab = target.shape.hidden_size, target.shape.vocab_size
    expected: dict[str, tuple[int, ...]] = {}
    for k in range(num_heads):
        for i in range(num_blocks):
            expected |= {f"{k}.{i}.linear.weight": (hidden, hidden), f"{k}.{i}.linear.bias": (hidden,)}
        expected[f"{k}.{num_blocks}.weight"] = (vocab, hidden)
    return Medusa(read_head(directory, expected, target), num_heads, num_blocks)
