"""Passes as graphs: which size is taken, and that padding changes nothing. No GPU: a fake replays the call itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_drafters import decoded, greedily
from tiny_models import SHAPE, greedy_text, pair

from specsim.decoding import StaticTree
from specsim.decoding.policies.eagle2 import Eagle2
from specsim.executor.drafters.model import ModelDrafter
from specsim.executor.graphs import Graphs
from specsim.executor.llama import Llama
from specsim.tree import DraftTree

PROMPTS = [[1, 2, 3, 4, 5], [6, 7], [8]]


class Replayed:
    """What a CUDA graph does, by calling: the same buffers in, the same buffer out."""

    made = replays = 0

    def __init__(self, run: Callable[[], torch.Tensor]) -> None:
        Replayed.made += 1
        self._run, self.output = run, run().clone()

    def replay(self) -> None:
        Replayed.replays += 1
        self.output.copy_(self._run())


def with_graphs(model: Llama, sizes: tuple[int, ...] = (1, 3, 6)) -> Llama:
    model.graphs = Graphs(SHAPE.num_heads // SHAPE.num_kv_heads, Replayed, sizes)
    return model


def test_the_next_larger_size_that_fits_the_cache() -> None:
    graphs = Graphs(1, Replayed, (1, 4, 8))
    assert [graphs.size_for(n, 0, 100) for n in (1, 2, 4, 5, 9)] == [1, 4, 4, 8, None]
    assert graphs.size_for(3, 96, 100) == 4
    assert graphs.size_for(3, 97, 100) is None  # four tokens would need a slot that is not there
    assert pair(torch.float64)[0].graphs is None  # a processor launches nothing


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 5, 6, 7])
def test_a_padded_pass_is_the_pass(num_tokens: int) -> None:
    """Ragged texts, twice, so that the second replays; keys and values that stay are equal too."""
    eager, graphed = pair(torch.float64)[0], with_graphs(pair(torch.float64)[0])
    caches = [model.new_cache(40, 3) for model in (eager, graphed)]
    generator = torch.Generator().manual_seed(num_tokens)
    for kept in ([5, 2, 1], [1, 2, 1]):
        text, tree = (torch.randint(SHAPE.vocab_size, (3, n), generator=generator) for n in (max(kept), num_tokens))
        answers = []
        for model, cache in zip((eager, graphed), caches, strict=True):
            model.prefill(text, cache)
            cache.keep([list(range(cache.end - max(kept), cache.end - max(kept) + n)) for n in kept])
            positions = model.next_positions(cache, num_tokens)
            answers.append(model.forward(tree, positions, cache, model.causal(num_tokens)))
            cache.rewind(cache.lengths)
        assert torch.isfinite(answers[1]).all()
        torch.testing.assert_close(answers[1], answers[0], rtol=0, atol=1e-12)
        for row, length in enumerate(caches[0].lengths):
            kvs = [cache.kv[:, :, row, :, :length] for cache in caches]
            torch.testing.assert_close(kvs[1], kvs[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("policy", [StaticTree(DraftTree.from_widths((2, 2, 1))), Eagle2(3, 3, 7)])
def test_whole_texts_with_rows_that_end_and_caches_that_grow(policy: StaticTree | Eagle2) -> None:
    target, draft = (with_graphs(model, (1, 2, 4, 8, 16)) for model in pair(torch.float64))
    Replayed.made = Replayed.replays = 0
    texts, _ = decoded(target, ModelDrafter(target, draft), greedily(policy), PROMPTS, 20)
    assert texts == [
        greedy_text(pair(torch.float64)[0], p, len(t) - len(p)) for p, t in zip(PROMPTS, texts, strict=True)
    ]
    assert 0 < 2 * Replayed.made < Replayed.replays
