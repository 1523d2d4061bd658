"""What recorded rounds say of trees and rules that were not run: part of a verified tree, judged by any rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from specsim.decoding import Rule, draft_laws, outcome, path_probs, subtree
from specsim.executor.drafters.medusa import Medusa
from specsim.executor.llama import Llama
from specsim.executor.rounds import Round


@torch.inference_mode()
def accepted_paths(done: Round, nodes: list[int], rule: Rule, knobs: Mapping[str, float]) -> NDArray[np.float64]:
    """Probability that each node is accepted with all its ancestors, ``[node]``; their sum is the expected tokens.

    Args:
        done: A round of one text whose tree was drafted as the rule wants it.
        nodes: Of its tree, the root first, parents before children: what would have been verified.
        rule: What would have judged them, with its ``knobs``.
    """
    if rule == "greedy":
        return np.isin(nodes, done.path[0]).astype(float)
    tree = subtree(done.state, done.tree.nodes[:, nodes])
    laws = done.method.sampling.law(done.target_logits[:, nodes])
    drafted = draft_laws(done.state, tree, laws.shape[-1])
    result = outcome(rule, tree.parents, tree.tokens, drafted, laws, **knobs)
    return np.asarray(path_probs(tree.parents, result.accept_probs)[0].double().numpy())


@torch.inference_mode()
def head_accuracy(
    target: Llama, heads: Medusa, texts: Sequence[tuple[list[int], int]], num_ranks: int
) -> NDArray[np.float64]:
    """Cumulative top-k accuracy of each Medusa head, ``[head, k - 1]``.

    Args:
        target: The heads' own.
        heads: Head k answers the token k + 2 places after the feature that it reads.
        texts: Tokens of each text, and where what the target wrote begins.
        num_ranks: Largest k.
    """
    hits = []
    for text, begin in texts:
        logits = heads.logits(target.prefill(torch.tensor([text]), target.new_cache(len(text), 1))[0])
        num_heads = logits.shape[1]
        places = torch.arange(max(0, begin - 2), len(text) - num_heads - 1)
        truth = torch.tensor(text)[places[:, None] + 2 + torch.arange(num_heads)]
        hits.append((logits[places].topk(num_ranks).indices == truth[..., None]).double())
    return np.asarray(torch.cat(hits).mean(0).cumsum(-1).numpy())
