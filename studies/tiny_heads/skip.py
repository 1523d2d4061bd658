"""Which sublayers of the tiny target its own drafts can do without: every one of the 2^10 sets, told by agreement.

    python studies/tiny_heads/skip.py --out specsim/executor/tiny

Sets are chosen on training text and reported on held-out text. With five layers every set can be tried, so there is
no need for the Bayesian search of Draft & Verify (Zhang et al. 2023, arXiv:2309.08168).
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import torch
from train import encode
from transformers import LlamaForCausalLM

from specsim.executor.session import FFN_SIZE

CONTEXT, SEARCH_ROWS, HELD_ROWS = 256, 6, 40
DRAFT_LENS = range(1, 9)


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    target = LlamaForCausalLM.from_pretrained(args.out / "target", dtype=torch.float32).eval()
    train, held = (encode(args.out / "tokenizer.json", held_out) for held_out in (False, True))
    searched, reported = (_rows(ids, rows) for ids, rows in ((train, SEARCH_ROWS), (held, HELD_ROWS)))
    num = target.config.num_hidden_layers
    wanted, rows = best_tokens(target, searched, ()), []
    # An odd number is an MLP: skipped[2 l] the attention of layer l, skipped[2 l + 1] its MLP.
    for count in range(1, 2 * num + 1):
        for skipped in itertools.combinations(range(2 * num), count):
            agreement = (best_tokens(target, searched, skipped) == wanted).float().mean().item()
            rows.append((speed_up(agreement, cost(target, skipped)), agreement, skipped))
        print(f"{count} skipped: {max(r for r in rows if len(r[2]) == count)}", flush=True)
    chosen = max(rows)[2]
    wanted = best_tokens(target, reported, ())
    exits = {layers: tuple(range(2 * layers, 2 * num)) for layers in range(1, num)}
    found = {
        "skipped_attention": [s // 2 for s in chosen if s % 2 == 0],
        "skipped_mlp": [s // 2 for s in chosen if s % 2],
        "cost_at_ffn_8192": round(cost(target, chosen), 3),
        "held_out_agreement": _share(best_tokens(target, reported, chosen), wanted),
        "held_out_agreement_by_exit": {k: _share(best_tokens(target, reported, s), wanted) for k, s in exits.items()},
    }
    print(json.dumps(found, indent=1))
    (args.out / "skipped.json").write_text(json.dumps(found, indent=1) + "\n")


@torch.no_grad()
def best_tokens(target: LlamaForCausalLM, ids: torch.Tensor, skipped: tuple[int, ...]) -> torch.Tensor:
    """The most probable token after each token of texts ``[B, T]``, without these sublayers."""
    body = target.model
    x = body.embed_tokens(ids)
    turned = body.rotary_emb(x, torch.arange(ids.shape[1])[None])
    for number, layer in enumerate(body.layers):
        if 2 * number not in skipped:
            x = x + layer.self_attn(layer.input_layernorm(x), position_embeddings=turned, attention_mask=None)[0]
        if 2 * number + 1 not in skipped:
            x = x + layer.mlp(layer.post_attention_layernorm(x))
    return target.lm_head(body.norm(x)).argmax(-1)


def cost(target: LlamaForCausalLM, skipped: tuple[int, ...]) -> float:
    """Weights that a draft pass reads over those of a target pass, at the width that the executor extends MLPs to."""
    c = target.config
    attention = 2 * c.hidden_size * c.head_dim * (c.num_attention_heads + c.num_key_value_heads)
    sizes = [attention, 3 * c.hidden_size * FFN_SIZE] * c.num_hidden_layers
    head = c.hidden_size * c.vocab_size
    return (head + sum(s for i, s in enumerate(sizes) if i not in skipped)) / (head + sum(sizes))


def speed_up(agreement: float, cost: float) -> float:
    """Of the best chain, if each draft token were kept alike: tokens per round over time per round."""
    return max(sum(agreement**i for i in range(n + 1)) / (1 + n * cost) for n in DRAFT_LENS)


def _rows(ids: torch.Tensor, rows: int) -> torch.Tensor:
    return ids[: rows * CONTEXT].view(rows, CONTEXT)


def _share(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return round((found == wanted).float().mean().item(), 3)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("specsim/executor/tiny"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
