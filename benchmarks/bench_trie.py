"""How much a tree fitted to path counts promises beyond what it brings, and how near the best tree it comes.

    python benchmarks/bench_trie.py

Rounds of a recorded tree of 364 nodes are drawn from a known law; the best 40 nodes by the counts, raw or smoothed, or
by the table of depth and rank, are judged by that law. ``promised``: predicted over true tokens per round, less 1;
``reached``: true tokens per round over those of the best 40 nodes; ``held``: share of 90 % intervals, of the tree so
chosen, that hold the truth. ``alike``: every depth and rank has one chance; ``contexts``: easy or hard rounds, half
each, first rank 0.9 or 0.4.
"""

from __future__ import annotations

import math

import numpy as np

from specsim.acceptance import PathTrie, tokens_interval, tokens_per_round
from specsim.acceptance.trie import fitted_strength
from specsim.search.exact.tree import best_trees_by_size
from specsim.tree import DraftTree

TREE = DraftTree.from_widths((3, 3, 3, 3, 3))
SIZE, SETS = 40, 60
LAWS = {
    "alike": [(0.5, 0.15, 0.08)],
    "contexts": [(0.9, 0.05, 0.025), (0.4, 0.3, 0.15)],
}


def drawn(probs: np.ndarray, num_rounds: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Counts ``[1 request, node]``: tried and kept."""
    parents = np.array(TREE.parents)
    stops = probs - np.bincount(parents[1:], weights=probs[1:], minlength=TREE.num_nodes)
    kept = rng.multinomial(num_rounds, np.maximum(stops, 0) / np.maximum(stops, 0).sum()).astype(float)
    for node in range(TREE.num_nodes - 1, 0, -1):
        kept[parents[node]] += kept[node]
    return kept[np.maximum(parents, 0)][None], kept[None]


def main() -> None:
    print(f"{'law':10}{'rounds':>8}{'chosen by':>12}{'promised':>10}{'reached':>9}{'held':>7}")
    for law, contexts in LAWS.items():
        paths = ((), *TREE.paths())
        probs = np.array([sum(math.prod(c[r] for r in path) for c in contexts) / len(contexts) for path in paths])
        truth = PathTrie.from_path_probs(TREE, probs, 1e9)
        best = tokens_per_round(truth.best_tree(SIZE), truth)
        for num_rounds in (200, 1000, 5000):
            found: dict[str, list[tuple[float, float, bool]]] = {"raw": [], "smoothed": [], "table": []}
            rng = np.random.default_rng(0)
            for _ in range(SETS):
                tried, kept = drawn(probs, num_rounds, rng)
                smooth = PathTrie(TREE, tried, kept, fitted_strength(TREE, tried, kept), "drawn")
                table = smooth.averaged()
                by_table = best_trees_by_size(table.accept_prob, SIZE, 5).tree(5, SIZE)
                raw = PathTrie(TREE, tried, kept, 0.0, "drawn")
                for name, known, tree in (
                    ("raw", raw, raw.best_tree(SIZE)),
                    ("smoothed", smooth, smooth.best_tree(SIZE)),
                    ("table", table, by_table),
                ):
                    true = tokens_per_round(tree, truth)
                    lo, _, hi = tokens_interval(tree, known, 0.9, rng)
                    found[name].append((tokens_per_round(tree, known) / true - 1, true / best, lo <= true <= hi))
            for name, values in found.items():
                promised, reached, held = np.mean(np.array(values, dtype=float), axis=0)
                print(f"{law:10}{num_rounds:8}{name:>12}{promised:+10.1%}{reached:9.1%}{held:7.0%}")


if __name__ == "__main__":
    main()
