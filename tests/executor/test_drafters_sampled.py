"""At temperature 1 the first two tokens have the target's law, whatever drafts: 2000 texts of one prompt at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tiny_drafters import VOCAB, drafters
from tiny_models import pair, plain_logits

from specsim.decoding import Rule, StaticTree
from specsim.decoding.state import Draw
from specsim.executor.method import Method, Sampling
from specsim.executor.rounds import run_round
from specsim.executor.texts import start
from specsim.tree import DraftTree

TARGET, DRAFT = pair(torch.float64, scale=0.25)
PROMPT, NUM_TEXTS = [1, 7, 0, 7, 0, 2, 7], 2000


@pytest.mark.parametrize(("draw", "rule"), [("sampled", "recursive_rejection"), ("top", "one_hot")])
@pytest.mark.parametrize("name", list(drafters(TARGET, DRAFT)))
def test_first_tokens_have_the_target_s_law(name: str, draw: Draw, rule: Rule) -> None:
    """Chi-square over the pairs, rare ones together. 24 tests at 1e-5 each fail by chance once in 4000 runs."""
    method = Method(StaticTree(DraftTree.from_widths((2, 2)), draw), rule, Sampling(1.0))
    texts = start(TARGET, drafters(TARGET, DRAFT)[name](), [PROMPT] * NUM_TEXTS, max_tokens=32, seed=11)
    for _ in range(2):
        run_round(texts, method)
    seen = np.zeros((VOCAB, VOCAB))
    for text in texts.tokens:
        seen[text[len(PROMPT)], text[len(PROMPT) + 1]] += 1
    first = torch.softmax(plain_logits(TARGET, PROMPT)[-1], -1)
    second = torch.stack([torch.softmax(plain_logits(TARGET, [*PROMPT, x])[-1], -1) for x in range(VOCAB)])
    expected = NUM_TEXTS * (first[:, None] * second).numpy()
    common = expected >= 5
    found, wanted = (np.append(counts[common], counts[~common].sum()) for counts in (seen, expected))
    assert common.sum() > 15
    assert chisquare(found, wanted).pvalue > 1e-5
