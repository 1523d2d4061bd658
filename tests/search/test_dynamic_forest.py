"""Policies on recorded trees: against the replay of one tree at a time, and against the process that was recorded."""

from __future__ import annotations

import numpy as np
import pytest
from toy_deployment import ToyCost, deployment

from specsim.acceptance.process import TokenProcess
from specsim.decoding import ConfidenceChain, DySpec, Eagle2, StaticTree
from specsim.decoding.policies.best_first import BestFirst
from specsim.errors import InputError
from specsim.search.dynamic.forest import forest_of, forest_table, recorded_forest
from specsim.search.dynamic.score import dynamic_prices, score
from specsim.search.exact.replayed import RecordedTree
from specsim.sim.rounds import SyntheticMethod, simulate_rounds
from specsim.tree import DraftTree


def random_trees(num: int, seed: int) -> list[RecordedTree]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(num):
        size = int(rng.integers(1, 25))
        parents = [int(rng.integers(-1, node)) for node in range(size)]
        probs = np.zeros((2, size))
        for parent in set(parents):
            some = [n for n in range(size) if parents[n] == parent]
            for row in probs:
                row[some] = rng.dirichlet(np.ones(len(some) + 1))[:-1]
        found.append(RecordedTree(tuple(parents), tuple(probs[0].tolist()), tuple(probs[1].tolist())))
    return found


@pytest.mark.parametrize(("top_k", "depth", "num"), [(2, 3, 5), (3, 2, 4), (1, 4, 4), (4, 5, 9)])
def test_policies_choose_what_the_replay_of_one_tree_chooses(top_k: int, depth: int, num: int) -> None:
    trees = random_trees(60, 0)
    forest = forest_of(trees, list(range(60)))
    table, _ = forest_table(forest, [Eagle2(top_k, depth - 1, num + 1), BestFirst(num, 30, depth)], 1.0)
    for row, tree in enumerate(trees):
        for visited, nodes in zip(
            table.visited, (tree.beam_rerank(top_k, depth, num), tree.best_first(num, depth)), strict=True
        ):
            assert visited.num_nodes[row] == 1 + len(nodes)
            assert visited.emitted[row] == pytest.approx(tree.expected_tokens(nodes, tree.target_probs))


def test_what_the_recorder_did_not_draft_is_counted() -> None:
    tree = RecordedTree((-1, 0), (0.9, 0.8), (0.9, 0.8))
    forest = forest_of([tree, tree], ["a", "b"])
    policies = [ConfidenceChain(n, 0.0, "token", "top") for n in (1, 2, 3)]
    table, missing = forest_table(forest, policies, 1.0)
    assert [v.emitted[0] for v in table.visited] == pytest.approx([1.9, 1 + 0.9 + 0.72, 1 + 0.9 + 0.72])
    assert missing.tolist() == pytest.approx([0, 0, 1 / 3])  # root and first token were run, the second was not
    assert table.visited[2].widths.tolist() == [[1, 1, 1]] * 2


def test_a_recorded_superset_gives_what_the_process_gives() -> None:
    """Recorded at the starts of EAGLE-2 with a wide tree; narrower ones of the same beam lie inside it."""
    process = TokenProcess(num_candidates=6)
    superset, smaller = Eagle2(3, 3, 31), Eagle2(3, 3, 8)
    method = SyntheticMethod(superset, "one_hot", 1.0)
    played = simulate_rounds(process, method, 6, 150, np.random.default_rng(0), with_records=True)
    forest = recorded_forest(played.records)
    table, missing = forest_table(forest, [superset, smaller, StaticTree(DraftTree.chain(3))], 1.0)
    assert missing[:2].max() == 0 < missing[2] < 0.05  # a chain may leave the beam
    whole = table.visited[0].emitted.mean()
    assert whole == pytest.approx(played.tokens_per_round, abs=4 * played.tokens_sd)
    again = simulate_rounds(process, SyntheticMethod(smaller, "one_hot", 1.0), 6, 150, np.random.default_rng(1))
    assert table.visited[1].emitted.mean() == pytest.approx(again.tokens_per_round, abs=5 * again.tokens_sd)
    scores = score(table, dynamic_prices(deployment(cost=ToyCost(node_s=0.2)), table))
    spent = 10 + 0.2 * (table.visited[1].num_nodes.mean() - 1) + 4  # four passes
    assert scores.tokens_per_s[1] == pytest.approx(table.visited[1].emitted.mean() / spent)
    with pytest.raises(InputError, match="top"):
        forest_table(forest, [DySpec(4, 0.1, 2, 2)], 1.0)
    with pytest.raises(InputError, match="two requests"):
        forest_table(forest_of(random_trees(3, 1), [7, 7, 7]), [smaller], 1.0)
