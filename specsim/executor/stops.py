"""Where a text ends: a token, or words, that the user named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specsim.documents import read_json
from specsim.errors import InputError


@dataclass(frozen=True)
class Stops:
    """What ends a text. A stop token stays in it, as its last; a stop string is cut off.

    Args:
        tokens: Token ids.
        strings: Pieces of text, none of them empty.
        tokenizer: Turns tokens into text; needed for strings.

    Raises:
        InputError: for an empty string, which every text would hold.
    """

    tokens: frozenset[int] = frozenset()
    strings: tuple[str, ...] = ()
    tokenizer: Any = None

    def __post_init__(self) -> None:
        for string in self.strings:
            if not string:
                raise InputError("stop", "must not be empty text", string)

    def reached(self, tokens: list[int], num_new: int) -> bool:
        """Do the last ``num_new`` of these tokens, all of them decoded after the prompt, complete a stop?"""
        if self.tokens.intersection(tokens[len(tokens) - num_new :]):
            return True
        if not self.strings:
            return False
        # A character takes up to four tokens of a byte each.
        window = num_new + 4 * max(map(len, self.strings))
        text = self.tokenizer.decode(tokens[-window:])
        return any(string in text for string in self.strings)

    def cut(self, prompt: list[int], tokens: list[int]) -> tuple[list[int], str, str]:
        """What remains of the ``tokens`` after a prompt: they, their text, and which stop cut them ("" for none)."""
        places = [place for place, token in enumerate(tokens) if token in self.tokens]
        kept = tokens[: places[0] + 1] if places else tokens
        text = self._text(prompt, kept)
        found = [(place, string) for string in self.strings if (place := text.find(string)) >= 0]
        if found:
            place, string = min(found)
            lengths = (len(self._text(prompt, kept[:count])) for count in range(1, len(kept) + 1))
            count = next(n for n, length in enumerate(lengths, start=1) if length >= place + len(string))
            return kept[:count], text[:place], repr(string)
        return kept, text, f"token {kept[-1]}" if places else ""

    def _text(self, prompt: list[int], tokens: list[int]) -> str:
        """Decoded together: some tokenizers drop a space at the beginning of a text."""
        whole: str = self.tokenizer.decode(prompt + tokens)
        return whole[len(self.tokenizer.decode(prompt)) :]


def end_tokens(directory: Path) -> frozenset[int]:
    """The tokens that a checkpoint says end a text: ``eos_token_id`` of its generation config, else of its config."""
    for name in ("generation_config.json", "config.json"):
        if (path := directory / name).is_file():
            config = read_json(path)
            found = config.get("eos_token_id") if isinstance(config, dict) else None
            ids = found if isinstance(found, list) else [] if found is None else [found]
            if not all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in ids):
                raise InputError("eos_token_id", "must be token ids", found)
            if ids:
                return frozenset(ids)
    return frozenset()
