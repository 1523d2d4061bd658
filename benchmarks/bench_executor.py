"""What a round spends outside the models' forward passes, per method, on the shipped target at its realistic cost.

    python benchmarks/bench_executor.py [rounds]

One text, one thread, processor time of the thread. "forwards" is the time within the target's and the drafter's
embeddings, layers and LM heads; all else (masks, laws, trees, verdicts, caches, records left out) is the host's share.
Methods take turns, so that what else the machine does hits all alike; each number is a median over rounds.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from specsim.decoding import StaticTree, TreePolicy
from specsim.executor.choose import SHIPPED, drafter_named, policy_from, usual_rule
from specsim.executor.drafters.eagle import Eagle
from specsim.executor.llama import Llama
from specsim.executor.method import Method, Sampling
from specsim.executor.rounds import run_round
from specsim.executor.session import FFN_SIZE, TINY, Session, load_average, quiet_torch
from specsim.tree import DraftTree

WARM_ROUNDS = 4
GREEDY, NUCLEUS = Sampling(0.0), Sampling(1.0, top_p=0.9)
WIDE = DraftTree.from_widths((4, 3, 2, 1))
"""65 nodes with the root."""
CASES: list[tuple[str, str, str | DraftTree]] = [
    ("plain", "model", DraftTree.chain(0)),
    ("chain 4", "model", DraftTree.chain(4)),
    ("tree 2,2,1", "model", DraftTree.from_widths((2, 2, 1))),
    ("tree 4,3,2,1 (65 nodes)", "model", WIDE),
    ("EAGLE-2 10/5/60", "model", "eagle2 top_k=10 depth=5 total_tokens=60"),
    ("EAGLE-2 10/5/60", "eagle", "eagle2 top_k=10 depth=5 total_tokens=60"),
    ("OPT-Tree 60", "model", "opt_tree nodes=60 threshold=0.5 max_depth=6"),
    ("TALON 60", "model", "talon budget=60 mu=0.03 top_k=10"),
    ("best first 60", "model", "best_first budget=60 batch=10 max_passes=6"),
    ("chain by confidence", "model", "confidence_chain draft_len=8 threshold=0.4 measure=law draw=top"),
    ("stochastic beam 6x4", "model", "stochastic_beam width=6 depth=4"),
    ("DySpec 32", "model", "dyspec budget=32 threshold=0.05 max_children=4 max_depth=5"),
    ("Medusa tree 3,2,1", "medusa", DraftTree.from_widths((3, 2, 1))),
    ("skipped sublayers, chain 4", "skipped", DraftTree.chain(4)),
    ("prompt lookup, chain 8", "lookup", DraftTree.chain(8)),
    ("Token Recycling 4,3,2,1", "recycling", WIDE),
    ("Lookahead 7/5/7, tree 7x4", "lookahead", DraftTree.from_widths((7, 1, 1, 1))),
    ("cascade, chain 6", "cascade", DraftTree.chain(6)),
]


class Stopwatch:
    """Processor time within the forward passes of some models."""

    def __init__(self) -> None:
        self.seconds = 0.0

        self._inside = False

    def watch(self, model: Any, *names: str) -> None:
        """Time its methods of these names from now on; what one of them calls of another counts once."""
        for name in names or ("hidden", "run", "logits"):
            setattr(model, name, self._timed(getattr(model, name)))

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            if self._inside:
                return call(*args)
            self._inside, begin = True, time.thread_time()
            answer = call(*args)
            self.seconds += time.thread_time() - begin
            self._inside = False
            return answer

        return timed


def policy_of(shape: str | DraftTree, sampling: Sampling) -> TreePolicy:
    """A policy of these words; a static tree draws samples where the text is sampled."""
    if isinstance(shape, str):
        return policy_from(shape)
    return StaticTree(shape, "top" if sampling.temperature == 0 else "sampled")


def main(num_rounds: int = 24) -> None:
    quiet_torch()
    session, watch = Session(split="calibrate"), Stopwatch()
    watch.watch(session.target)
    rows: dict[tuple[str, str, str], list[tuple[float, float, int, int]]] = {}
    for prompt in range(2):
        for law, sampling in (("T=0", GREEDY), ("T=1 top-p 0.9", NUCLEUS)):
            for name, drafter_name, shape in CASES:
                measure(session, watch, (name, drafter_name, law), shape, sampling, prompt, num_rounds // 2, rows)
    machine = platform.processor() or platform.machine()
    print(f"{machine}, torch {torch.__version__}, MLP {FFN_SIZE}, load {load_average():.1f}")
    names = f"{'method':28} {'drafter':10} {'law':14} {'nodes':>5} {'tokens':>6}"
    print(f"{names} {'round ms':>8} {'host ms':>8} {'share':>6}")
    for (name, drafter_name, law), found in rows.items():
        total, host = (statistics.median(one[part] for one in found) * 1e3 for part in (0, 1))
        nodes, tokens = (statistics.mean(one[part] for one in found) for part in (2, 3))
        line = f"{name:28} {drafter_name:10} {law:14} {nodes:5.1f} {tokens:6.2f} {total:8.2f} {host:8.2f}"
        print(f"{line} {host / total:6.1%}")


def measure(
    session: Session,
    watch: Stopwatch,
    key: tuple[str, str, str],
    shape: str | DraftTree,
    sampling: Sampling,
    prompt: int,
    num_rounds: int,
    rows: dict[tuple[str, str, str], list[tuple[float, float, int, int]]],
) -> None:
    """Rounds of one method on one prompt: seconds, seconds of the host, nodes, tokens."""
    policy = policy_of(shape, sampling)
    if policy.draw != "top" and sampling.temperature == 0 and isinstance(shape, str):
        return
    is_chain = isinstance(shape, DraftTree) and shape.is_chain
    method = Method(policy, usual_rule(policy.draw, is_chain, sampling.temperature), sampling)
    drafter = drafter_named(key[1], session.target, TINY / "target", None, TINY)
    for part in ("model", "body", "middle"):
        model = getattr(drafter, part, None)
        if isinstance(model, Llama) and model is not session.target:
            watch.watch(model)
    if drafter.drafting == "heads":
        watch.watch(drafter, "law")
    if isinstance(drafter, Eagle):
        watch.watch(drafter, "_fused")
    texts = session.start(drafter, prompt)
    for number in range(WARM_ROUNDS + num_rounds):
        watch.seconds, begin = 0.0, time.thread_time()
        done = run_round(texts, method)
        total = time.thread_time() - begin
        if number >= WARM_ROUNDS:
            one = (total, total - watch.seconds, done.tree.tokens.shape[1], len(done.emitted[0]))
            rows.setdefault(key, []).append(one)


if __name__ == "__main__":
    assert set(SHIPPED) <= {drafter for _, drafter, _ in CASES}
    main(*map(int, sys.argv[1:2]))
