"""Static draft trees that published systems ship, as facts.

Each word is one node, each digit a 0-based rank on the path to it, so ``"02"`` is the third candidate after the first.
"""

from __future__ import annotations

from typing import Final

from specsim.tree import DraftTree


def _tree(words: str) -> DraftTree:
    return DraftTree.from_paths([int(digit) for digit in word] for word in words.split())


MEDUSA_63: Final = _tree(
    "0 1 2 3 4 5 6 7 8 9"
    " 00 01 02 03 04 05 06 07 08 09 10 11 12 13 14 15 16 20 21 22 30 31 40 50 60 70 80 90"
    " 000 001 002 003 004 005 006 007 008 009 010 011 012 020 021 030 040 050 060 070 100 101 200"
    " 0000 0001"
)
"""63 drafted nodes. Source: ``mc_sim_7b_63`` in FasterDecoding/Medusa, medusa/model/medusa_choices.py @11af0aa."""

EAGLE_25: Final = _tree("0 1 2 3 00 01 02 10 11 20 21 30 000 001 002 010 011 020 021 100 0000 0001 0002 00000 00001")
"""25 drafted nodes. Source: ``mc_sim_7b_63`` (the same name) in SafeAILab/EAGLE, eagle/model/choices.py @08dc06c."""

SPECINFER_20: Final = DraftTree.from_widths((1, 1, 3, 1, 1, 1, 1, 1))
"""20 drafted nodes. Source: the expansion list <1,1,3,1,1,1,1,1> of Miao et al. 2024 (arXiv:2305.09781)."""
