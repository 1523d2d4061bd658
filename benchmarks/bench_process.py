"""Rounds per second in the synthetic world, and how much of it the policy alone takes.

    python benchmarks/bench_process.py

One thread, processor time, best of several runs. ``exact law`` draws rounds of a static tree from one uniform number
each; ``played`` runs the policy and the rule themselves, for EAGLE-2 in a compiled loop where numba is installed.
``policy alone`` is the same policy, not compiled, on laws that are given.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from specsim.acceptance.process import TokenProcess
from specsim.acceptance.process_rounds import sample_static_rounds
from specsim.decoding import BestFirst, ConfidenceChain, Eagle2, Rule, StaticTree, Talon, TreePolicy
from specsim.sim.rounds import SyntheticMethod, simulate_rounds
from specsim.tree import DraftTree

BUSHY = StaticTree(DraftTree.from_widths((3, 2, 1)), "sampled")

CASES: list[tuple[str, TreePolicy, Rule, float, int]] = [
    ("chain 4, greedy", StaticTree(DraftTree.chain(4)), "greedy", 0.0, 2048),
    ("chain 4, token rejection", StaticTree(DraftTree.chain(4), "sampled"), "token_rejection", 1.0, 512),
    (
        "16 nodes, recursive rejection",
        StaticTree(DraftTree.from_widths((3, 2, 1)), "sampled"),
        "recursive_rejection",
        1.0,
        256,
    ),
    ("chain to 8 while sure of 0.4", ConfidenceChain(8, 0.4, "token", "top"), "greedy", 0.0, 512),
    ("EAGLE-2, 4 wide, 24 nodes", Eagle2(4, 5, 24), "greedy", 0.0, 256),
    ("EAGLE-2, 10 wide, 7 levels, 60 nodes", Eagle2(10, 6, 60), "greedy", 0.0, 256),
    ("EAGLE-2, 10 wide, 7 levels, 60 nodes", Eagle2(10, 6, 60), "one_hot", 1.0, 256),
    ("best first, 24 nodes", BestFirst(24, 4, 8), "greedy", 0.0, 256),
    ("TALON, 24 nodes", Talon(24, 0.03, 6, 8), "greedy", 0.0, 256),
]


def best_time_s(repeats: int, work: Callable[..., Any], *args: Any, **more: Any) -> float:
    """The least processor time of several runs, after one to warm up."""
    times_s = []
    for _ in range(repeats + 1):
        start = time.thread_time()
        work(*args, **more)
        times_s.append(time.thread_time() - start)
    return min(times_s[1:])


def policy_alone(policy: TreePolicy, laws: np.ndarray) -> None:
    """Grow and select trees on ``laws[B, F, V]``, the same at every level."""
    state = policy.start(np.zeros(len(laws), dtype=np.int64))
    rng = np.random.default_rng(0)
    while state.frontier.shape[1]:
        draws = rng.random(state.uniforms_shape(laws.shape[-1]))
        state = policy.expand(state, laws[:, : state.frontier.shape[1]], draws)
    policy.select(state)


def main() -> None:
    process, rng = TokenProcess(), np.random.default_rng(0)
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}")
    print(f"{'rounds per second':<36} {'T':>3} {'batch':>6} {'played':>9} {'policy alone':>13}")
    for name, policy, rule, temperature, batch in CASES:
        method = SyntheticMethod(policy, rule, temperature)
        num_rounds = max(2, 2048 // batch)
        played_s = best_time_s(4, simulate_rounds, process, method, num_rounds, batch, rng) / (num_rounds * batch)
        laws = rng.dirichlet(np.full(process.law_size, 0.2), size=(batch, 64)).astype(np.float32)
        alone_s = best_time_s(4, policy_alone, policy, laws) / batch
        print(f"{name:<36} {temperature:3.0f} {batch:6} {1 / played_s:9.0f} {1 / alone_s:13.0f}")
    for draft_len, temperature, sampled in ((4, 0.0, False), (7, 1.0, True)):
        args = (process, DraftTree.chain(draft_len), temperature, 500, 4000, rng)
        seconds = best_time_s(2, sample_static_rounds, *args, sampled=sampled)
        name = f"chain {draft_len}, exact law, setup in"
        print(f"{name:<36} {temperature:3.0f} {4000:6} {2_000_000 / seconds:9.0f}")


if __name__ == "__main__":
    main()
