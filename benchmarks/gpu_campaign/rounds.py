"""Real speculative rounds of the executor, target and draft of random weights, accepted paths forced by a probability.

Random models never agree, so the path is drawn: from the root down, each step is kept with probability ``alpha``. All
work is real: draft passes, the verification pass, the verdict, the compaction of both caches. All sequences of a batch
keep the same path; every second one begins a token shorter, so that they are as uneven as a server's.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch

from gpu_campaign.bench import Bench, Lazy
from gpu_campaign.campaign import Cell, Facts
from gpu_campaign.forwards import executor_llama
from gpu_campaign.llama import LLAMA_1B, LLAMA_8B, TINY_1B, TINY_8B, fitting
from gpu_campaign.timing import check

CHAINS, WIDTHS = (0, 1, 3, 5, 7, 2, 4), ((4, 2, 1), (2, 2, 1, 1), (8, 2, 2))
BATCHED_CHAINS, BATCHED_WIDTHS = (0, 3, 5), ((4, 2, 1),)
ALPHAS = (0.8, 0.5, 1.0, 0.0)
ROUNDS = 12
SLOTS = 2048 + ROUNDS * 16 + 129
"""Of each sequence. Odd, because the executor's masks begin anywhere in rows of about this length: torch copies masks
with rows of no aligned length to where kernels can load them, and takes others as they are."""
CACHE_LIMIT = 0.1  # 16 bits, through every layer


class Setting(NamedTuple):
    """What a row of the table is about, beside the two models."""

    tree: Any
    alpha: float
    batch: int
    context: int
    clock: str


def cells(bench: Bench) -> Iterator[Cell]:
    """The executor's two models; fewer layers of the target where memory is short."""
    target, draft = (TINY_8B, TINY_1B) if bench.tiny else (fitting(LLAMA_8B, bench.free_bytes / 2.2), LLAMA_1B)
    models = Lazy(lambda: (executor_llama(bench, target, SLOTS), executor_llama(bench, draft, SLOTS)))
    for setting in settings(bench):
        facts = {
            "target": target.name,
            "draft": draft.name,
            "method": setting.tree.label,
            "alpha": setting.alpha,
            "batch": setting.batch,
            "context": setting.context,
            "clock": setting.clock,
        }
        yield Cell("rounds", facts, partial(_measure, bench, models, setting))


def settings(bench: Bench) -> Iterator[Setting]:
    """One sequence first, then batches of a short context, a longer one, other acceptances."""
    every, few = trees(CHAINS, WIDTHS), trees(BATCHED_CHAINS, BATCHED_WIDTHS)
    groups = [(every, 1, 512), (few, 4, 512), (few, 16, 512), (every, 1, 2048)]
    others = [(every[1:], 1, 512), (every[1:], 1, 2048)]  # without a draft nothing is accepted
    if bench.tiny:
        every = trees((0, 2), WIDTHS[:1])
        groups, others = [(every, 1, 16), (every, 3, 16)], [(every[1:], 1, 16)]
    for alpha in ALPHAS[:2] if bench.tiny else ALPHAS:
        for some, batch, context in groups if alpha == ALPHAS[0] else others:
            for tree, clock in product(some, ("synchronised", "free")):
                yield Setting(tree, alpha, batch, context, clock)


def trees(chains: Iterable[int], widths: Iterable[tuple[int, ...]]) -> list[Any]:
    """Chains of these lengths, then trees of these widths."""
    from specsim.tree import DraftTree

    return [*map(DraftTree.chain, chains), *map(DraftTree.from_widths, widths)]


def _measure(bench: Bench, models: Lazy[Any], at: Setting) -> Facts:
    """Medians over rounds. A synchronised clock tells the parts apart and costs some; a free one tells the whole."""
    from specsim.executor.drafters.model import ModelDrafter
    from specsim.executor.method import Method, lossless_rule
    from specsim.executor.rounds import run_round
    from specsim.executor.texts import start
    from specsim.records import round_record

    def now() -> float:
        if at.clock == "synchronised":
            bench.synchronize()
        return time.perf_counter()

    target, draft = models()
    tree, method = at.tree, Method(*lossless_rule(at.tree, 0.0))
    prompts = bench.tokens(target.shape.vocab_size, at.batch, at.context).tolist()
    prompts = [prompt[row % 2 :] for row, prompt in enumerate(prompts)]
    drafter = ModelDrafter(target, draft) if tree.num_drafted else None
    texts = start(target, drafter, prompts, SLOTS)
    drawn = random.Random(f"{tree.label} {at.alpha} {at.context}")
    found, num_rounds = [], 3 if bench.tiny else ROUNDS
    for number in range(num_rounds + 2):
        path = forced_path(tree, at.alpha, drawn)
        bench.synchronize()
        begin = time.perf_counter()
        done = run_round(texts, method, now, forced=path)
        bench.synchronize()
        whole = time.perf_counter() - begin
        if number >= 2:  # the first ones find cold caches and unchosen kernels
            record = round_record(
                done.timed,
                "wall",
                request=0,
                method=tree.label,
                context_tokens=done.context_tokens[0],
                num_drafted=tree.num_drafted,
                accepted_ranks=tuple(tree.ranks[node] for node in done.path[0][1:]),
                num_emitted=len(done.emitted[0]),
                num_seqs=at.batch,
                wall_s=whole,
            )
            found.append(record)
    check_caches(texts, prompts)
    whole_s = [r.wall_s or 0.0 for r in found]
    parts = {
        f"{name}_us": 1e6 * _median([getattr(r, f"{name}_s") for r in found]) for name in ("draft", "verify", "host")
    }
    emitted = sum(r.num_emitted for r in found)
    return {
        "num_nodes": tree.num_nodes,
        "depth": tree.depth,
        "latency_us": 1e6 * _median(whole_s),
        **parts,
        "tokens_per_round": emitted / len(found),
        "tokens_per_s": emitted * at.batch / sum(whole_s),
        "repeats": len(found),
        "cuda_graph": False,
        "note": "",
    }


def forced_path(tree: Any, alpha: float, drawn: random.Random) -> list[int]:
    """Nodes from the root down; each step to a child drawn evenly, taken with probability ``alpha``."""
    path = [0]
    while tree.children[path[-1]] and drawn.random() < alpha:
        path.append(drawn.choice(tree.children[path[-1]]))
    return path


def check_caches(texts: Any, prompts: list[list[int]]) -> None:
    """Raise unless rounds left in both models' caches what one pass over the text leaves: first and last sequence."""
    caches = [(texts.target, texts.cache)]
    if texts.drafter is not None:
        caches.append((texts.drafter.model, texts.drafter.cache))
    for (model, cache), row in product(caches, {0, len(prompts) - 1}):
        length, first = cache.lengths[row], len(prompts[row]) - 1
        fresh = model.new_cache(length)
        model.prefill(torch.tensor([texts.tokens[row][:length]], device=model.device), fresh)
        check(cache.kv[:, :, row, :, first:length], fresh.kv[:, :, 0, :, first:length], CACHE_LIMIT)


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
