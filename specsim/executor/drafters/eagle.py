"""EAGLE's drafter: one layer that continues the target's features, with the target's embedding and LM head."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch.nn.functional import linear
from torch.nn.utils.rnn import pad_sequence

from specsim.decoding.arrays import pick
from specsim.errors import InputError
from specsim.executor.cache import KvCache
from specsim.executor.drafters.base import Extra, Frontier, Prompt, Verified
from specsim.executor.drafters.heads import padded, read_head, read_head_config
from specsim.executor.layers import Weights
from specsim.executor.llama import Llama, text_lengths
from specsim.executor.method import as_tensor
from specsim.executor.weights import LlamaShape, expected_tensors, read_shape
from specsim.methods.round import Drafting


class Eagle:
    """Reads a token beside the feature before it, and answers the feature at that token, from which its law follows.

    What it is given of the text are the target's features; within a round it goes on from its own. So a pass over
    accepted tokens, with the target's features in place of its own, opens each round. A prompt of one token has no
    feature before it: zeros stand in.

    Args:
        target: Whose embedding and LM head it uses.
        body: Its layers; the first without input norm.
        fc_weight, fc_bias: ``[H, 2 H]`` and ``[H]``, from embedding and feature side by side.

    Source: Li et al. 2024 (arXiv:2401.15077), section 3.
    """

    drafting: Final[Drafting] = "autoregressive"
    max_depth: Final = None
    needs_features: Final = True
    needs_prompt_logits: Final = False

    def __init__(self, target: Llama, body: Llama, fc_weight: torch.Tensor, fc_bias: torch.Tensor) -> None:
        self.target, self.body, self.fc_weight, self.fc_bias = target, body, fc_weight, fc_bias
        self.max_context_tokens: int | None = body.shape.max_context_tokens
        self.cache: KvCache
        self.pending: list[list[int]] = []
        self.pending_features: list[torch.Tensor] = []
        self.drafted = fc_bias.new_zeros(0, 0, fc_bias.shape[0])

    @property
    def pending_tokens(self) -> list[int]:
        return [len(tokens) for tokens in self.pending]

    @torch.inference_mode()
    def start(self, prompt: Prompt) -> None:
        """Run all pairs of feature and next token but the last, whose token is the first root."""
        assert prompt.features is not None
        capacity = min(prompt.cache.capacity, self.body.shape.max_context_tokens)
        self.cache = self.body.new_cache(capacity, len(prompt.tokens))
        counts = [max(0, length - 1) for length in prompt.lengths]
        if max(counts):
            tokens = [row[1 : 1 + count] for row, count in zip(prompt.tokens, counts, strict=True)]
            self._run_text(tokens, prompt.features[:, : max(counts)])
        self.pending = [row[-1:] for row in prompt.tokens]
        nothing = self.fc_bias.new_zeros(1, self.fc_bias.shape[0])
        self.pending_features = [
            features[length - 1 : length] if length else nothing
            for features, length in zip(prompt.features, prompt.lengths, strict=True)
        ]

    def law(self, frontier: Frontier) -> torch.Tensor:
        if not frontier.state.expanded.shape[1]:
            out = self._run_text(self.pending, pad_sequence(self.pending_features, batch_first=True))
            last = [len(tokens) - 1 for tokens in self.pending]
            self.drafted = new = out[list(range(len(last))), last][:, None]
        else:
            new = self._run_nodes(frontier)
            self.drafted = torch.cat([self.drafted, new], dim=1)
        return self.target.logits(new)

    def _run_text(self, tokens: list[list[int]], features: torch.Tensor) -> torch.Tensor:
        """Take these tokens, with the features before them ``[B, n, H]``, as text; features at them ``[B, n, H]``."""
        x, start = self._fused(padded(tokens, self.body.device), features), self.cache.end
        n = x.shape[1]
        out = self.body.run(x, self.body.next_positions(self.cache, n), self.cache, self.body.causal(n))
        self.cache.keep([list(range(start, start + len(row))) for row in tokens])
        return out

    def _run_nodes(self, frontier: Frontier) -> torch.Tensor:
        state = frontier.state
        parents = as_tensor(pick(state.parents, state.frontier.clip(0)))
        column = (as_tensor(state.expanded)[:, None] == parents[..., None]).to(torch.uint8).argmax(-1)
        x = self._fused(frontier.tokens, pick(self.drafted, column))
        return self.body.run(x, text_lengths(self.cache) + frontier.depths - 1, self.cache, frontier.mask)

    def _fused(self, tokens: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        return linear(torch.cat([self.target.embedding[tokens], features], -1), self.fc_weight, self.fc_bias)

    def extra(self) -> Extra | None:
        return None

    def observe(self, verified: Verified) -> None:
        assert verified.features is not None
        self.cache.rewind(self.cache.lengths)
        was_run = bool(verified.state.expanded.shape[1])
        for row, (path, emitted) in enumerate(zip(verified.path, verified.emitted, strict=True)):
            features = verified.features[row, path]
            self.pending[row] = emitted if was_run else self.pending[row] + emitted
            self.pending_features[row] = features if was_run else torch.cat([self.pending_features[row], features])

    def keep_rows(self, rows: list[int]) -> None:
        self.cache.keep_rows(rows)
        self.pending = [self.pending[row] for row in rows]
        self.pending_features = [self.pending_features[row] for row in rows]


def load_eagle(directory: Path, target: Llama) -> Eagle:
    """The drafter for this target, in its type and on its device, from a checkpoint directory.

    Raises:
        InputError: for another width or vocabulary than the target's, and for tensors that are missing or misfit.
    """
    shape, hidden = read_shape(directory), target.shape.hidden_size
    for name in ("hidden_size", "vocab_size"):
        if getattr(shape, name) != getattr(target.shape, name):
            limit = f"of the head must be the target's, {getattr(target.shape, name)}"
            raise InputError(name, limit, getattr(shape, name))
    layers = {name.removeprefix("model."): size for name, size in expected_tensors(shape).items() if ".layers." in name}
    del layers["layers.0.input_layernorm.weight"]
    has_bias = read_head_config(directory).get("bias", True)
    fusion = {"fc.weight": (hidden, 2 * hidden)} | ({"fc.bias": (hidden,)} if has_bias else {})
    weights = read_head(directory, layers | fusion, target)
    fc_bias = weights.get("fc.bias", weights["fc.weight"].new_zeros(hidden))
    return Eagle(target, _body(shape, weights, target), weights["fc.weight"], fc_bias)


def _body(shape: LlamaShape, weights: Weights, target: Llama) -> Llama:
    """The layers as a model of their own; embedding and final norm, which nobody asks of it, are the target's."""
    own = {f"model.{name}": tensor for name, tensor in weights.items() if name.startswith("layers.")}
    own |= {"model.embed_tokens.weight": target.embedding, "model.norm.weight": target.final_norm}
    return Llama(shape, own, target.dtype, str(target.device))
