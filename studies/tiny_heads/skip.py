"""Which sublayers of the tiny target its own drafts can do without: every set of up to four, told by agreement.

    python studies/tiny_heads/skip.py --out specsim/executor/tiny

A set is run as the drafter runs it: each token on the target's true cache of the text before it. Sets are chosen on
training text and reported on held-out text. With five layers that is 385 sets: no need for the Bayesian
search of Draft & Verify (Zhang et al. 2023, arXiv:2309.08168).
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import torch
from train import encode

from specsim.executor.drafters.itself import early_exit, without
from specsim.executor.llama import Llama, Sublayers, load_llama
from specsim.executor.session import FFN_SIZE

CONTEXT, SEARCH_ROWS, HELD_ROWS = 256, 2, 16
DRAFT_LENS = range(1, 9)
LEAST_AGREEMENT = 0.5
"""Sets that agree less look good only because this price knows no cost but bytes: without any MLP a draft pass costs
2 %, and a guess that is right one time in nine would pay. Larger sets than the first size without any are not tried."""


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    target = load_llama(args.out / "target", packed=True)
    num = target.shape.num_layers
    train, held = (encode(args.out / "tokenizer.json", held_out) for held_out in (False, True))
    searched = Text(target, train[: SEARCH_ROWS * CONTEXT].view(SEARCH_ROWS, CONTEXT))
    found: list[tuple[float, tuple[int, ...], Sublayers]] = []
    # An even number is an attention: set member 2 l is that of layer l, 2 l + 1 its MLP.
    for count in range(1, 2 * num):
        good = []
        for members in itertools.combinations(range(2 * num), count):
            sublayers = without(num, [m // 2 for m in members if m % 2 == 0], [m // 2 for m in members if m % 2])
            agreement = searched.agreement(sublayers)
            if agreement >= LEAST_AGREEMENT:
                good.append((speed_up(agreement, cost(target, sublayers)), members, sublayers))
        if not good:
            break
        found += good
        print(f"{count} skipped: {len(good)} good sets, {max(good)[:2]}", flush=True)
    _, members, chosen = max(found)
    reported = Text(target, held[: HELD_ROWS * CONTEXT].view(HELD_ROWS, CONTEXT))
    figures = {
        "skipped_attention": [m // 2 for m in members if m % 2 == 0],
        "skipped_mlp": [m // 2 for m in members if m % 2],
        "cost_at_ffn_8192": round(cost(target, chosen), 3),
        "held_out_agreement": round(reported.agreement(chosen), 3),
        "held_out_agreement_by_exit": {k: round(reported.agreement(early_exit(num, k)), 3) for k in range(1, num)},
    }
    print(json.dumps(figures, indent=1))
    (args.out / "skipped.json").write_text(json.dumps(figures, indent=1) + "\n")


class Text:
    """Texts ``[B, T]`` that the target has read, each token of which any part of it can be run on again."""

    def __init__(self, target: Llama, ids: torch.Tensor) -> None:
        self.target, self.ids = target, ids
        rows, length = ids.shape
        self.cache = target.new_cache(2 * length, rows)
        self.best = target.logits(target.prefill(ids, self.cache)).argmax(-1)
        self.cache.keep([list(range(length))] * rows)
        before, itself = torch.ones(length, length).tril(-1), torch.eye(length)
        self.mask = target.mask(torch.cat([before, itself], dim=1).bool()[None])

    def agreement(self, sublayers: Sublayers) -> float:
        """Share of tokens after which these sublayers alone expect the token that the target expects."""
        positions = torch.arange(self.ids.shape[1])[None]
        hidden = self.target.hidden(self.ids, positions, self.cache, self.mask, sublayers)
        self.cache.rewind(self.cache.lengths)
        return (self.target.logits(hidden).argmax(-1) == self.best).float().mean().item()


def cost(target: Llama, sublayers: Sublayers) -> float:
    """Weights that a draft pass reads over those of a target pass, at the width that the executor extends MLPs to."""
    s = target.shape
    attention, mlp = 2 * s.hidden_size * s.head_dim * (s.num_heads + s.num_kv_heads), 3 * s.hidden_size * FFN_SIZE
    head = s.hidden_size * s.vocab_size
    kept = sum(attention * attends + mlp * mixes for attends, mixes in sublayers)
    return (head + kept) / (head + s.num_layers * (attention + mlp))


def speed_up(agreement: float, cost: float) -> float:
    """Of the best chain, if each draft token were kept alike: tokens per round over time per round."""
    return max(sum(agreement**i for i in range(n + 1)) / (1 + n * cost) for n in DRAFT_LENS)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("specsim/executor/tiny"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
