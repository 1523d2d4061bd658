"""Real rounds against the limit from logged surprisals: trees stay under it, a sampled chain need not."""

from __future__ import annotations

import numpy as np
import torch
from tiny_models import begin, pair, plain_logits, static

from specsim.acceptance.limits import limit_from_logprobs
from specsim.acceptance.limits_sampled import ceiling_from_texts
from specsim.executor.llama import Llama
from specsim.executor.method import Method
from specsim.executor.rounds import decode
from specsim.tree import DraftTree

PROMPTS = [[3, 0, 1], [5, 2, 7], [1, 1, 4], [8, 6, 2], [9, 3, 3], [2, 10, 5]]
SEEDS = 3


def accepted_by_text(models: tuple[Llama, Llama], method: Method) -> tuple[np.ndarray, list[list[int]]]:
    """Mean accepted tokens per round of each text, and the texts."""
    means, written = [], []
    for seed in range(SEEDS):
        texts = begin(models, *PROMPTS, seed=100 * seed)
        rounds: dict[int, list[int]] = {}
        for done in decode(texts, method, 110):
            for request, new in zip(done.requests, done.emitted, strict=True):
                rounds.setdefault(request, []).append(len(new) - 1)
        means += [float(np.mean(found)) for found in rounds.values()]
        written += list(texts.finished.values())
    return np.array(means), written


def surprisals(model: Llama, texts: list[list[int]]) -> list[np.ndarray]:
    found = []
    for text in texts:
        logs = torch.log_softmax(plain_logits(model, text[:-1]), -1)
        found.append(-logs.gather(1, torch.tensor(text[1:])[:, None])[2:, 0].numpy())
    return found


def test_trees_stay_under_the_limit_and_a_chain_of_the_targets_own_law_passes_it() -> None:
    target, _ = pair(scale=0.25)
    itself = (target, target)
    tree = DraftTree.from_widths((3, 2, 1))
    in_trees, texts = accepted_by_text(itself, static(tree, "top", "one_hot", 1.0))
    target_says = surprisals(target, texts)
    limit = limit_from_logprobs(target_says, [6, tree.num_drafted], horizon=30)
    assert limit.standard_error is not None
    noise = in_trees.std() / np.sqrt(len(in_trees) - 1) + limit.standard_error[1]
    assert in_trees.mean() <= limit.accepted[1] + 3 * noise
    assert in_trees.mean() > 0.6 * limit.accepted[1]  # and the limit is no idle number
    in_chains, texts = accepted_by_text(itself, static(DraftTree.chain(6), "sampled", "token_rejection", 1.0))
    assert in_chains.mean() > 1.5 * limit.accepted[0]  # all six, but where a text ends
    assert ceiling_from_texts(target_says, target_says, 6).token_rule[-1] == 6


def test_teacher_forced_ceilings_are_what_chains_accept() -> None:
    target, draft = models = pair(scale=0.35, noise=0.3)
    accepted, texts = accepted_by_text(models, static(DraftTree.chain(4), "sampled", "token_rejection", 1.0))
    found = ceiling_from_texts(surprisals(target, texts), surprisals(draft, texts), 4)
    # Rounds begin more often where little is accepted than tokens do, so the two means differ by a little.
    assert accepted.mean() <= found.any_rule[-1]
    assert abs(accepted.mean() - found.token_rule[-1]) < 0.15 * found.token_rule[-1]
