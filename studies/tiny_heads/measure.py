"""Tokens per round and speed of every drafter on the shipped target, greedy, on prompts from held-out files.

    python studies/tiny_heads/measure.py --prompts 18 --tokens 48

The target's MLP is extended to 8192 with zeros, so that a pass costs what memory costs. Plain decoding and all methods
take turns on each prompt, so that what else the machine does falls on all alike. Times are this thread's own.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import torch

from specsim.decoding import StaticTree, TreePolicy
from specsim.decoding.policies.confidence import ConfidenceChain
from specsim.decoding.policies.eagle2 import Eagle2
from specsim.executor.drafters.base import Drafter
from specsim.executor.drafters.cascade import Cascade
from specsim.executor.drafters.eagle import load_eagle
from specsim.executor.drafters.itself import SelfDrafter, early_exit, load_skipped
from specsim.executor.drafters.lookahead import Lookahead
from specsim.executor.drafters.lookup import PromptLookup
from specsim.executor.drafters.medusa import load_medusa
from specsim.executor.drafters.model import ModelDrafter
from specsim.executor.drafters.recycling import RECYCLING_80, TokenRecycling
from specsim.executor.method import Method
from specsim.executor.session import TINY, Session
from specsim.tree import DraftTree
from specsim.trees_known import EAGLE_25


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    session = Session(clock_name="cpu", split="validate")
    methods = {name: way for name, way in ways(session, args.heads).items() if name == "plain" or args.only in name}
    tokens, rounds, times = defaultdict[str, int](int), defaultdict[str, int](int), defaultdict[str, float](float)
    spread = defaultdict[str, list[float]](list)
    for prompt in range(args.prompts):
        for name, (drafter, policy) in methods.items():
            count, num, time_s = 0, 0, 0.0
            for done in session.run(Method(policy, "greedy"), drafter, prompt, args.tokens):
                count, num, time_s = count + done.record.num_emitted, num + 1, time_s + sum(s for _, s in done.works)
            tokens[name], rounds[name], times[name] = tokens[name] + count, rounds[name] + num, times[name] + time_s
            spread[name].append(count / num)
        print(f"prompt {prompt + 1} of {args.prompts}", flush=True)
    plain = times["plain"] / tokens["plain"]
    figures = {}
    for name in methods:
        per_round = torch.tensor(spread[name])
        figures[name] = {
            "tokens_per_round": round(tokens[name] / rounds[name], 2),
            "standard_error": round((per_round.std() / len(per_round) ** 0.5).item(), 2),
            "speed_up": round(plain * tokens[name] / times[name], 2),
        }
        print(f"{name:40} {figures[name]}")
    args.out.write_text(json.dumps(figures, indent=1) + "\n")


def ways(session: Session, heads: Path) -> dict[str, tuple[Drafter | None, TreePolicy]]:
    """By name a drafter and a policy that suits it."""
    target, draft = session.target, session.draft
    vocab, layers = target.shape.vocab_size, target.shape.num_layers
    medusa, eagle = load_medusa(heads / "medusa", target), load_eagle(heads / "eagle", target)
    model, lookup = ModelDrafter(target, draft), PromptLookup(vocab)
    lookahead, small_lookahead = Lookahead(vocab), Lookahead(vocab, window=4, level=4, guesses=3)
    found: dict[str, tuple[Drafter | None, TreePolicy]] = {
        "plain": (None, chain(0)),
        "draft model, chain 3": (model, chain(3)),
        "draft model, tree 2x2x1": (model, StaticTree(DraftTree.from_widths((2, 2, 1)))),
        "EAGLE, chain 3": (eagle, chain(3)),
        "EAGLE, tree 2x2x1": (eagle, StaticTree(DraftTree.from_widths((2, 2, 1)))),
        "EAGLE, its 25 nodes": (eagle, StaticTree(EAGLE_25)),
        "EAGLE, EAGLE-2 tree of 12": (eagle, Eagle2(top_k=3, depth=3, total_tokens=12)),
        "Medusa, chain 3": (medusa, chain(3)),
        "Medusa, tree of 8": (medusa, StaticTree(medusa_tree(heads, 8))),
        "Medusa, tree of 24": (medusa, StaticTree(medusa_tree(heads, 24))),
        "prompt lookup, up to 8": (lookup, ConfidenceChain(8, threshold=0.5, measure="law", draw="top")),
        "Token Recycling, its 80 nodes": (TokenRecycling(vocab), StaticTree(RECYCLING_80)),
        "Token Recycling, EAGLE's 25 nodes": (TokenRecycling(vocab), StaticTree(EAGLE_25)),
        "Token Recycling, tree 3x2x1": (TokenRecycling(vocab), StaticTree(DraftTree.from_widths((3, 2, 1)))),
        "Lookahead 7/5/7": (lookahead, StaticTree(lookahead.tree)),
        "Lookahead 4/4/3": (small_lookahead, StaticTree(small_lookahead.tree)),
        "cascade of the draft over lookup, chain 3": (Cascade(draft, lookup, num_ahead=3), chain(3)),
    }
    for kept in range(2, layers):
        found[f"first {kept} layers, chain 1"] = (SelfDrafter(target, early_exit(layers, kept)), chain(1))
    if (heads / "skipped.json").is_file():
        skipped = load_skipped(heads / "skipped.json", target)
        for draft_len in (1, 2):
            found[f"skipped sublayers, chain {draft_len}"] = (skipped, chain(draft_len))
        found["skipped sublayers, while above 0.7"] = (skipped, ConfidenceChain(4, 0.7, measure="token", draw="top"))
    return found


def chain(draft_len: int) -> StaticTree:
    return StaticTree(DraftTree.chain(draft_len))


def medusa_tree(heads: Path, num_drafted: int) -> DraftTree:
    """The most probable nodes where heads hit independently, as Medusa grows its trees; rates from the recipe."""
    hits = [
        [rate - before for before, rate in zip([0.0, *rates], rates, strict=False)]
        for rates in json.loads((heads / "medusa" / "recipe.json").read_text())["held_out"]["top"]
    ]
    reach: dict[tuple[int, ...], float] = {(): 1.0}
    pool: dict[tuple[int, ...], float] = {}
    while len(reach) <= num_drafted:
        path = next(reversed(reach))
        if len(path) < len(hits):
            pool |= {(*path, rank): reach[path] * hit for rank, hit in enumerate(hits[len(path)])}
        best = max(pool, key=lambda node: pool[node])
        reach[best] = pool.pop(best)
    return DraftTree.from_paths(path for path in reach if path)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=Path, default=TINY, help="where medusa/, eagle/ and skipped.json lie")
    parser.add_argument("--only", default="", help="measure the methods whose name holds this, and plain decoding")
    parser.add_argument("--prompts", type=int, default=18)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--out", type=Path, default=Path("figures.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
