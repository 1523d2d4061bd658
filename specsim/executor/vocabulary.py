"""Tokenizers, and a drafter of another vocabulary: it proposes the tokens that both have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from specsim.errors import InputError


class SharedTokens:
    """Tokens with the same string in two tokenizers, and how to write any target token in the drafter's.

    The draft law is renormalised over the shared tokens, so any lossless rule stays lossless.

    Raises:
        InputError: when too little is shared to draft from.

    Source: token-level intersection, Timor et al. 2025 (arXiv:2502.05202), algorithm 4.
    """

    def __init__(self, target: Any, draft: Any, target_size: int, draft_size: int, device: torch.device) -> None:
        ours, theirs = target.get_vocab(), draft.get_vocab()
        same = [
            (own, other)
            for text, own in ours.items()
            if (other := theirs.get(text)) is not None and own < target_size and other < draft_size
        ]
        if not same:
            raise InputError("draft", "must share tokens with the target: its vocabulary has none of the target's")
        self.target, self.draft = target, draft
        self.target_size, self.draft_size = target_size, draft_size
        self._shared_target, self._shared_draft = torch.tensor(sorted(same), device=device).T
        self.draft_ids = torch.zeros(target_size, dtype=torch.int64, device=device)
        self.draft_ids[self._shared_target] = self._shared_draft
        self._spelling = {own: [other] for own, other in same}

    @property
    def num_shared(self) -> int:
        """Tokens that both have."""
        return len(self._shared_target)

    def spelled(self, tokens: list[int]) -> list[int]:
        """The same text in the drafter's tokens; a token that it lacks is written with those that make up its text.

        A drafter must have something to run, so a token that leaves no text stands as the drafter's token 0. What it
        reads changes how well it drafts, never what the target says.
        """
        for token in tokens:
            if token not in self._spelling:
                text = self.target.decode([token], skip_special_tokens=False)
                pieces = self.draft.encode(text, add_special_tokens=False).ids
                self._spelling[token] = [piece for piece in pieces if piece < self.draft_size] or [0]
        return [piece for token in tokens for piece in self._spelling[token]]

    def in_target_ids(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits over the target's vocabulary, ``-inf`` for what the drafter lacks."""
        translated = logits.new_full((*logits.shape[:-1], self.target_size), float("-inf"))
        translated[..., self._shared_target] = logits[..., self._shared_draft]
        return translated


def load_tokenizer(target_dir: Path) -> Any:
    """The tokenizer beside a checkpoint, or beside the folders of the shipped pair. Raises InputError without one."""
    from tokenizers import Tokenizer

    for folder in (target_dir, target_dir.parent):
        path = folder / "tokenizer.json"
        if path.is_file():
            try:
                return Tokenizer.from_file(str(path))
            except Exception as error:  # the library raises no narrower type
                raise InputError("tokenizer.json", f"not a readable tokenizer ({error})") from None
    raise InputError("tokenizer.json", "must be in the target's directory", str(target_dir))
