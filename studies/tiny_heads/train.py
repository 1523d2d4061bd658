"""Train Medusa heads and an EAGLE drafter on the shipped tiny target, and write what the executor ships.

    python studies/tiny_heads/train.py --out specsim/executor/tiny --steps 1200

Both read the same pass of the frozen target, on the texts that the target was trained on. The tensors carry the names
of the published heads, so that a published checkpoint is read by the same lines.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn
from torch.nn.functional import kl_div, log_softmax, silu, smooth_l1_loss
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from specsim.executor.corpus import source_files

CONTEXT, BATCH, NUM_HEADS = 256, 6, 4
HEAD_DECAY = 0.8
"""Weight of head k's loss is this to the power k (Cai et al. 2024, arXiv:2401.10774, section 2.2.1)."""
NOISE, TOKEN_LOSS = 0.1, 0.1
"""EAGLE's noise on features, uniform on either side, and weight of its loss on tokens (Li et al. 2024)."""


class Medusa(nn.ModuleList):
    """Head k reads the feature at token t and gives logits of token t + k + 2: a residual block, then its own rows."""

    def __init__(self, target: LlamaForCausalLM) -> None:
        size, vocab = target.config.hidden_size, target.config.vocab_size
        super().__init__(nn.ModuleList([_Block(size), nn.Linear(size, vocab, bias=False)]) for _ in range(NUM_HEADS))
        for _, rows in self:  # at first every head is the target's own
            rows.weight.data.copy_(target.lm_head.weight)

    def logits(self, features: torch.Tensor) -> list[torch.Tensor]:
        return [rows(block(features)) for block, rows in self]

    def loss(self, features: torch.Tensor, law: torch.Tensor) -> torch.Tensor:
        """Cross entropy with the target's own law of that token: it says more than the token that came."""
        return sum(
            HEAD_DECAY**k * divergence(logits[:, : -k - 1], law[:, k + 1 :])
            for k, logits in enumerate(self.logits(features))
        )


class _Block(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + silu(self.linear(x))


class Eagle(nn.Module):
    """One Llama layer without input norm on fc([embedding of token i + 1, feature of token i]): feature i + 1."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.layers = nn.ModuleList([LlamaDecoderLayer(config, 0)])
        self.layers[0].input_layernorm = nn.Identity()
        self.rotary = LlamaRotaryEmbedding(config)

    def forward(self, embedded: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        x = self.fc(torch.cat([embedded, features], -1))
        places = torch.arange(x.shape[1])[None]
        return self.layers[0](x, position_embeddings=self.rotary(x, places), is_causal=True)

    def loss(self, embedded: torch.Tensor, features: torch.Tensor, law: torch.Tensor, head: nn.Linear) -> torch.Tensor:
        noisy = features + NOISE * (2 * torch.rand_like(features) - 1)
        found = self(embedded[:, 1:], noisy[:, :-1])
        return smooth_l1_loss(found, features[:, 1:]) + TOKEN_LOSS * divergence(head(found), law[:, 1:])


def divergence(logits: torch.Tensor, law: torch.Tensor) -> torch.Tensor:
    """KL to the law, per token: the cross entropy less a constant."""
    return kl_div(
        log_softmax(logits.float(), -1).flatten(0, 1), law.flatten(0, 1), log_target=True, reduction="batchmean"
    )


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    target = LlamaForCausalLM.from_pretrained(args.out / "target", dtype=torch.float32).eval().requires_grad_(False)
    train_ids, held_ids = (encode(args.out / "tokenizer.json", held_out) for held_out in (False, True))
    print(f"{len(train_ids):,} training tokens, {len(held_ids):,} held out", flush=True)
    medusa, eagle = Medusa(target), Eagle(target.config)
    begin = time.thread_time()
    train(target, medusa, eagle, train_ids, args.steps)
    found = evaluate(target, medusa, eagle, held_ids)
    recipe = {
        "seed": args.seed,
        "torch": torch.__version__,
        "steps": args.steps,
        "tokens": args.steps * BATCH * CONTEXT,
    }
    recipe |= {"cpu_s_both": round(time.thread_time() - begin)}
    print(json.dumps(recipe | found, indent=1))
    save(args.out / "medusa", medusa, recipe | {"held_out": found["medusa"]}, medusa_config())
    save(args.out / "eagle", eagle, recipe | {"held_out": found["eagle"]}, eagle_config(target.config))


def encode(tokenizer: Path, held_out: bool) -> torch.Tensor:
    texts = [p.read_text(encoding="utf-8", errors="ignore") for p in source_files(held_out)]
    return torch.tensor([i for e in Tokenizer.from_file(str(tokenizer)).encode_batch(texts) for i in e.ids])


def train(target: LlamaForCausalLM, medusa: Medusa, eagle: Eagle, ids: torch.Tensor, steps: int) -> None:
    """Muon for matrices and AdamW for the rest, warmed up, then falling to zero over the last 60 % of the steps."""
    parameters = dict(medusa.named_parameters(prefix="medusa")) | dict(eagle.named_parameters(prefix="eagle"))
    # Rows of the vocabulary are embeddings, which Muon does not suit.
    matrices = [p for name, p in parameters.items() if p.ndim == 2 and not name.endswith(".1.weight")]
    others = [p for name, p in parameters.items() if p.ndim != 2 or name.endswith(".1.weight")]
    optimizers = [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.0),
        torch.optim.AdamW(others, lr=1e-3, weight_decay=0.0),
    ]
    base = [o.param_groups[0]["lr"] for o in optimizers]
    generator = torch.Generator().manual_seed(1)
    last_print = 0.0
    for step in range(steps):
        scale = min(1.0, (step + 1) / 50, (1 - step / steps) / 0.6)
        for o, lr in zip(optimizers, base, strict=True):
            o.param_groups[0]["lr"] = lr * scale
        starts = torch.randint(len(ids) - CONTEXT, (BATCH, 1), generator=generator) + torch.arange(CONTEXT)
        with torch.autocast("cpu", torch.bfloat16):
            embedded, features, law = read(target, ids[starts])
            losses = medusa.loss(features, law), eagle.loss(embedded, features, law, target.lm_head)
        for loss, head in zip(losses, (medusa, eagle), strict=True):
            loss.backward()
            nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        for o in optimizers:
            o.step()
            o.zero_grad(set_to_none=True)
        if time.monotonic() - last_print > 20:
            last_print = time.monotonic()
            print(f"{step / steps:5.1%} medusa {losses[0].item():.3f} eagle {losses[1].item():.3f}", flush=True)


@torch.no_grad()
def read(target: LlamaForCausalLM, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Embeddings, features (what the LM head reads) and log-laws of texts ``[B, T]``."""
    features = target.model(ids).last_hidden_state.float()
    return target.model.embed_tokens(ids), features, log_softmax(target.lm_head(features).float(), -1)


@torch.no_grad()
def evaluate(target: LlamaForCausalLM, medusa: Medusa, eagle: Eagle, held: torch.Tensor) -> dict[str, object]:
    """How often the target's best token is among the head's 1, 2, .. 5 best, along held-out text."""
    embedded, features, law = read(target, held[: 40 * CONTEXT].view(40, CONTEXT))
    best = law.argmax(-1)
    heads = [ranks(logits[:, : -k - 1], best[:, k + 1 :]) for k, logits in enumerate(medusa.logits(features))]
    drafted = target.lm_head(eagle(embedded[:, 1:], features[:, :-1]))
    overlap = torch.minimum(drafted.softmax(-1), law[:, 1:].exp()).sum(-1).mean().item()
    first = {"top": ranks(drafted, best[:, 1:]), "overlap": round(overlap, 3)}
    return {"medusa": {"top": heads}, "eagle": first}


def ranks(logits: torch.Tensor, best: torch.Tensor) -> list[float]:
    place = (logits.topk(5).indices == best[..., None]).float().mean((0, 1))
    return [round(share, 3) for share in place.cumsum(0).tolist()]


def medusa_config() -> dict[str, object]:
    return {"specsim_head": "medusa", "medusa_num_heads": NUM_HEADS, "medusa_num_layers": 1, "torch_dtype": "bfloat16"}


def eagle_config(target: LlamaConfig) -> dict[str, object]:
    kept = (
        *("model_type", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim"),
        *("vocab_size", "max_position_embeddings", "rms_norm_eps", "hidden_act", "tie_word_embeddings"),
    )
    fields = target.to_dict()
    head = {"specsim_head": "eagle", "num_hidden_layers": 1, "bias": True, "torch_dtype": "bfloat16"}
    return {name: fields[name] for name in kept} | head | {"rope_parameters": fields["rope_parameters"]}


def save(out: Path, head: nn.Module, recipe: dict[str, object], config: dict[str, object]) -> None:
    """bf16 safetensors, which are half the size; training itself keeps fp32 weights."""
    out.mkdir(parents=True, exist_ok=True)
    stored = {name: p.detach().to(torch.bfloat16).contiguous() for name, p in head.named_parameters()}
    save_file(stored, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("specsim/executor/tiny"))
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
