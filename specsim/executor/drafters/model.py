"""The separate small model: it runs each frontier node, and keeps the keys and values of what the target kept."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch

from specsim.errors import InputError
from specsim.executor.cache import KvCache
from specsim.executor.drafters.base import Extra, Frontier, Prompt, Verified
from specsim.executor.llama import Llama, load_llama, text_lengths
from specsim.executor.vocabulary import SharedTokens, load_tokenizer
from specsim.methods.round import Drafting


class ModelDrafter:
    """An autoregressive model of its own, of the target's vocabulary, or of another (``shared`` then translates).

    Its cache holds the text less its newest, "pending" tokens. The first pass of a round runs those; then the nodes
    follow in the order in which they are run. A node that was never run (a leaf) is pending when it is accepted.

    Raises:
        InputError: for a model of another vocabulary without ``shared``, or on another device.
    """

    drafting: Final[Drafting] = "autoregressive"
    max_depth: Final = None
    needs_features: Final = False
    needs_prompt_logits: Final = False

    def __init__(self, target: Llama, model: Llama, shared: SharedTokens | None = None) -> None:
        ours, theirs = model.shape.vocab_size, target.shape.vocab_size
        if shared is None and ours != theirs:
            raise InputError("vocab_size", f"of the draft must be the target's, {theirs}", ours)
        if model.device != target.device:
            raise InputError("device", f"of the draft must be the target's, {target.device}", str(model.device))
        self.model, self.shared = model, shared
        self.cache: KvCache
        self.pending: list[list[int]] = []

    @property
    def max_context_tokens(self) -> int | None:
        # Another vocabulary may need several tokens for one: no bound in the target's tokens is then certain.
        return self.model.shape.max_context_tokens if self.shared is None else self.model.shape.max_context_tokens // 2

    @property
    def pending_tokens(self) -> list[int]:
        return [len(tokens) for tokens in self.pending]

    def start(self, prompt: Prompt) -> None:
        texts = [self._spelled(tokens[:-1]) for tokens in prompt.tokens]
        capacity = min(max(prompt.cache.capacity, *map(len, texts), 1), self.model.shape.max_context_tokens)
        self.cache = self.model.new_cache(capacity, len(texts))
        if any(texts):
            self.model.prefill(self._padded(texts), self.cache)
            self.cache.keep([list(range(len(text))) for text in texts])
        self.pending = [self._spelled(tokens[-1:]) for tokens in prompt.tokens]

    def law(self, frontier: Frontier) -> torch.Tensor:
        if not frontier.state.expanded.shape[1]:
            return self._translated(self.model.logits(self._catch_up()))
        tokens = frontier.tokens if self.shared is None else self.shared.draft_ids[frontier.tokens]
        positions = text_lengths(self.cache) - 1 + frontier.depths
        return self._translated(self.model.logits(self.model.hidden(tokens, positions, self.cache, frontier.mask)))

    def _catch_up(self) -> torch.Tensor:
        """Run the pending tokens, which become text; what the LM head reads at the root, ``[B, 1, H]``."""
        counts, start = self.pending_tokens, self.cache.end
        hidden = self.model.prefill(self._padded(self.pending), self.cache)
        self.cache.keep([list(range(start, start + count)) for count in counts])
        if min(counts) == hidden.shape[1]:
            return hidden[:, -1:]
        last = torch.tensor(counts, device=hidden.device) - 1
        return hidden[torch.arange(len(counts), device=hidden.device), last][:, None]

    def extra(self) -> Extra | None:
        return None

    def observe(self, verified: Verified) -> None:
        expanded, nodes = verified.state.expanded.tolist(), verified.nodes.tolist()
        kept: list[list[int]] = []
        for row, path in enumerate(verified.path):
            # The root, which is run first, is text already: the node run i-th lies i - 1 slots after the text.
            run = expanded[row]
            on_path = [run.index(node) for tree_node in path[1:] if (node := nodes[row][tree_node]) in run]
            kept.append([self.cache.text_end + place - 1 for place in on_path])
            if run:
                self.pending[row] = []
            self.pending[row] += self._spelled(verified.emitted[row][len(on_path) :])
        self.cache.keep(kept)

    def keep_rows(self, rows: list[int]) -> None:
        self.cache.keep_rows(rows)
        self.pending = [self.pending[row] for row in rows]

    def _padded(self, texts: list[list[int]]) -> torch.Tensor:
        longest = max(map(len, texts))
        return torch.tensor([text + [0] * (longest - len(text)) for text in texts], device=self.model.device)

    def _spelled(self, tokens: list[int]) -> list[int]:
        return list(tokens) if self.shared is None else self.shared.spelled(tokens)

    def _translated(self, logits: torch.Tensor) -> torch.Tensor:
        return logits if self.shared is None else self.shared.in_target_ids(logits)


def load_model_drafter(target: Llama, target_dir: Path, draft_dir: Path) -> ModelDrafter:
    """A separate draft model; where its vocabulary is another one, it proposes the tokens that both have.

    Raises:
        InputError: for a checkpoint that can not be read, or vocabularies that share nothing.
    """
    draft = load_llama(draft_dir, target.dtype, str(target.device))
    sizes = target.shape.vocab_size, draft.shape.vocab_size
    own, other = load_tokenizer(target_dir), load_tokenizer(draft_dir)
    if sizes[0] == sizes[1] and own.get_vocab() == other.get_vocab():
        return ModelDrafter(target, draft)
    return ModelDrafter(target, draft, SharedTokens(own, other, *sizes, target.device))
