"""How fast a recorded forest answers: 10,000 positions, superset trees of 60 nodes run at each.

    python benchmarks/bench_replay.py

One thread, processor time, best of three. The language is a table, so that recording costs no model; what is timed
does not know. ``positions/s`` plays the policy's round at every position and walks the text.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from specsim.acceptance.replay import ForcedText, Forest, RecordedText, Superset, evaluate, replay_chains
from specsim.acceptance.replay.forest import ForestFacts
from specsim.acceptance.replay.superset import collect, joined
from specsim.decoding import BestFirst, ConfidenceChain, Eagle2, OptTree, StaticTree, Talon, TreePolicy
from specsim.tree import DraftTree

POSITIONS, TAIL, VOCAB, CHUNK, TIMES = 10_000, 16, 256, 100, 20
POLICIES: list[TreePolicy] = [
    StaticTree(DraftTree.chain(8)),
    StaticTree(DraftTree.from_widths((4, 3, 2, 1))),
    Eagle2(10, 5, 60),
    Eagle2(4, 5, 60),
    OptTree(59, 0.1, 6),
    Talon(59, 0.03, 10, 8),
    BestFirst(59, 8, 6),
    ConfidenceChain(8, 0.4, "token", "top"),
]


def recorded() -> Forest:
    """One text of a language whose next token depends on the last, and its forest, said ``TIMES`` times over."""
    rng = np.random.default_rng(0)
    target = rng.dirichlet(np.full(VOCAB, 0.02), size=VOCAB) + 1e-7
    draft = target * np.exp(0.6 * rng.normal(size=target.shape))
    ours, theirs = ((table / table.sum(1, keepdims=True)).astype(np.float32) for table in (draft, target))
    cdf, text = theirs.astype(float).cumsum(1), [0]
    for uniform in rng.random(POSITIONS // TIMES - 1):
        text.append(min(int(np.searchsorted(cdf[text[-1]], uniform)), VOCAB - 1))
    superset, parts = Superset(60, 60, 8, 10, tuple(POLICIES), batch=16), []
    for begin in range(0, POSITIONS // TIMES, CHUNK):
        state = superset.start(np.array(text[begin : begin + CHUNK]))
        while state.frontier.shape[1]:
            laws = ours[np.take_along_axis(state.tokens, state.frontier.clip(0), axis=1)]
            state = superset.expand(state, laws)
        tree = superset.select(state)
        parts += collect(superset, state, tree, theirs[tree.tokens])
    laws, roots = joined(parts * TIMES)
    text = text * TIMES + text[: TAIL + 1]
    facts = ForestFacts(drafter="table", models="table", temperature=1.0, num_laws=60, num_nodes=60, num_children=10,
                        max_depth=8, num_draws=1, output_tokens=POSITIONS + TAIL, tail_tokens=TAIL, seed=0)  # fmt: skip
    return Forest(facts, [RecordedText(np.array(text), 1, roots, laws)])


def best_time_s(work: Callable[..., Any], *args: Any) -> float:
    """The least processor time of three runs."""
    times_s = []
    for _ in range(3):
        start = time.thread_time()
        work(*args)
        times_s.append(time.thread_time() - start)
    return min(times_s)


def main() -> None:
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}")
    start = time.thread_time()
    forest = recorded()
    laws = forest.texts[0].laws
    num_bytes = sum(v.nbytes for v in vars(laws).values() if v is not None)
    print(f"recorded in {time.thread_time() - start:.0f} s, {len(laws.next_probs) / POSITIONS:.0f} laws and "
          f"{len(laws.tokens) / POSITIONS:.0f} candidates a position, {num_bytes / 1e6:.0f} MB")  # fmt: skip
    print(f"{'policy':<76} {'answer':>7} {'s':>7} {'positions/s':>12}")
    for policy in POLICIES:
        seconds = best_time_s(evaluate, forest, policy, "one_hot")
        name = policy.tree.label if isinstance(policy, StaticTree) else str(policy)
        kind = type(evaluate(forest, policy, "one_hot")).__name__
        print(f"{name:<76} {kind:>7} {seconds:7.3f} {POSITIONS / seconds:12.0f}")
    rng = np.random.default_rng(1)
    probs = [rng.random(POSITIONS).astype(np.float32) for _ in range(3)]
    text = ForcedText(*probs, draws=np.ones((POSITIONS, 1)))
    for rule in ("token_rejection", "block_verification"):
        seconds = best_time_s(replay_chains, [text], list(range(17)), rule)
        print(f"{f'all draft lengths 0 to 16, {rule}':<76} {'Exact':>7} {seconds:7.3f} {POSITIONS / seconds:12.0f}")


if __name__ == "__main__":
    main()
