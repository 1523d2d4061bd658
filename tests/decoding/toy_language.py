"""The toy languages of the tests: three tokens, contexts of up to three."""

from __future__ import annotations

from specsim.decoding.law import Language, draft_rows, emitted_law, total_variation

__all__ = ["MAX_DEPTH", "VOCAB", "Language", "draft_rows", "emitted_law", "total_variation"]

VOCAB = 3
MAX_DEPTH = 3
