"""What tree policies would have done on recorded draft trees: the policies themselves, reading laws from a record.

Exact for the greedy and the one-hot rule, which accept a child whatever its siblings: any part of a recorded tree that
is closed under parents is judged by its own nodes' target probabilities, without sampling. Two things it can not know:
what the recorder did not draft (such nodes are counted, and end a policy early), and where another policy's rounds
would have begun (these are the recorder's starts, so a policy unlike it meets texts a little unlike its own).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specsim.decoding import DraftState, TokenTree, TreePolicy
from specsim.decoding.arrays import pick
from specsim.errors import InputError
from specsim.records import RoundRecord
from specsim.search.dynamic.table import DynamicTable, families
from specsim.search.dynamic.totals import Visited
from specsim.search.exact.replayed import RecordedTree

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ROUNDING = 1e-4
"""By so much half-precision laws of siblings may sum to more than 1."""


@dataclass(frozen=True, eq=False)
class Forest:
    """Recorded trees side by side; node 0 of each is its root, the last stands for all that was not recorded.

    Args:
        children: ``[tree, node, token]`` number of the node below, the likeliest first; a token is its place there.
        draft_probs: ``[tree, node, token]`` of it, after its parent.
        paths: ``[tree, node]`` probability that the target keeps the node and all above it.
        request: ``[tree]`` whose round it was.
    """

    children: Ints
    draft_probs: Floats
    paths: Floats
    request: Ints


def forest_of(trees: Sequence[RecordedTree], request: Sequence[int]) -> Forest:
    """Trees of rounds of these requests, which are numbered from 0 in the order in which they are first met."""
    if not trees or len(request) != len(trees):
        raise InputError("trees", "must be one at least, and of as many rounds as requests are named", len(trees))
    most = 1 + max(len(tree.parents) for tree in trees)
    ranked = [_siblings(tree) for tree in trees]
    width = max(1, *(len(some) for tree in ranked for some in tree.values())) if any(ranked) else 1
    children, probs = np.full((len(trees), most + 1, width), most), np.zeros((len(trees), most + 1, width))
    paths = np.zeros((len(trees), most + 1))
    paths[:, 0] = 1
    for row, (tree, siblings) in enumerate(zip(trees, ranked, strict=True)):
        for parent, nodes in siblings.items():
            children[row, parent, : len(nodes)] = [node + 1 for node in nodes]
            probs[row, parent, : len(nodes)] = [tree.draft_probs[node] for node in nodes]
        paths[row, 1 : 1 + len(tree.parents)] = tree.path_probs(tree.target_probs)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(request))}
    return Forest(children, probs, paths, np.array([numbers[name] for name in request]))


def _siblings(tree: RecordedTree) -> dict[int, list[int]]:
    """Children of each node by its number with the root as 0, likeliest first, of equals the earlier."""
    found: dict[int, list[int]] = {}
    for node, parent in enumerate(tree.parents):
        found.setdefault(parent + 1, []).append(node)
    return {parent: sorted(nodes, key=lambda n: (-tree.draft_probs[n], n)) for parent, nodes in found.items()}


def recorded_forest(records: Sequence[RoundRecord]) -> Forest:
    """The trees of recorded rounds, which hold parents, draft and target probabilities.

    Raises:
        InputError: for a record without them.
    """
    trees = []
    for number, record in enumerate(records):
        if record.parents is None or record.draft_probs is None or record.target_probs is None:
            raise InputError(f"records[{number}]", "must hold parents, draft_probs and target_probs", record.method)
        draft, target = (_within_one(record.parents, probs) for probs in (record.draft_probs, record.target_probs))
        trees.append(RecordedTree(tuple(parent - 1 for parent in record.parents), draft, target))
    return forest_of(trees, [record.request for record in records])


def _within_one(parents: Sequence[int], probs: Sequence[float]) -> tuple[float, ...]:
    """Probabilities of siblings whose sum passes 1 by rounding, divided by it."""
    sums = np.bincount(parents, weights=probs, minlength=1) if parents else np.ones(1)
    over = np.where((sums > 1) & (sums < 1 + ROUNDING), sums, 1.0)
    return tuple((np.array(probs) / over[np.array(parents, dtype=np.int64)]).tolist())


class _Reader:
    """Answers policies from the forest, and counts the nodes that they ran and the recorder had not."""

    def __init__(self, forest: Forest) -> None:
        self.forest = forest
        self.rows = np.arange(len(forest.request))[:, None]
        self.nodes = np.zeros((len(forest.request), 1), dtype=np.int64)
        self.asked = self.missing = 0

    def laws(self, state: DraftState) -> Any:
        """Draft probabilities of what was recorded after the frontier's nodes, ``[B, F, V]``."""
        here = self.recorded(state, state.frontier)
        is_node = np.asarray(state.frontier) >= 0
        self.asked += int(is_node.sum())
        unknown = self.forest.children[self.rows, here, 0] == self.forest.paths.shape[1] - 1
        self.missing += int((is_node & unknown).sum())
        return np.where(is_node[..., None], self.forest.draft_probs[self.rows, here], 0.0)

    def recorded(self, state: DraftState, ids: Any) -> Ints:
        """Numbers in the forest of nodes of the pool; the root's for padding."""
        for node in range(self.nodes.shape[1], state.tokens.shape[1]):
            parent = np.maximum(np.asarray(state.parents[:, node]), 0)
            above = self.nodes[self.rows[:, 0], parent]
            below = self.forest.children[self.rows[:, 0], above, np.asarray(state.tokens[:, node])]
            self.nodes = np.column_stack((self.nodes, below))
        return np.asarray(pick(self.nodes, np.maximum(np.asarray(ids), 0)))


def forest_table(forest: Forest, policies: Sequence[TreePolicy], temperature: float) -> tuple[DynamicTable, Floats]:
    """A table of policies on recorded trees, and of each the share of the nodes it ran that the recorder had not.

    Where that share is not 0 the policy's tokens are a lower bound.

    Args:
        forest: Of the recorded rounds.
        policies: Which take the most probable candidates.
        temperature: Of the target when it recorded; target probabilities are 0 or 1 where it is 0.

    Raises:
        InputError: for a policy that samples, or rounds of fewer than two requests.

    >>> from specsim.decoding import Eagle2
    >>> tree = RecordedTree((-1, -1, 0), (0.6, 0.3, 0.5), (0.5, 0.4, 0.9))
    >>> table, missing = forest_table(forest_of([tree, tree], [0, 1]), [Eagle2(1, 1, 3)], 1.0)
    >>> table.visited[0].emitted.round(2).tolist(), missing.tolist()
    ([1.95, 1.95], [0.0])
    """
    num_requests = int(forest.request.max()) + 1
    if num_requests < 2:
        raise InputError("records", "must be of two requests at least, to tell how far they differ", num_requests)
    found: dict[int, Visited] = {}
    missing = np.zeros(len(policies))
    order = np.argsort(forest.request, kind="stable")
    for growth, members in families(policies):
        if growth.draw != "top":
            raise InputError("policy.draw", "must be top", growth.draw)
        reader = _Reader(forest)
        states, lost = [], [0.0]
        states.append(growth.start(np.zeros(len(forest.request), dtype=np.int64)))
        while states[-1].frontier.shape[1]:
            states.append(growth.expand(states[-1], reader.laws(states[-1])))
            lost.append(reader.missing / max(reader.asked, 1))
        for i in members:
            made = min(policies[i].limits.passes, len(states) - 1)
            tree = policies[i].select(states[made])
            kept = _expected(forest, reader.recorded(states[made], tree.nodes), tree)
            widths = [np.asarray((state.frontier >= 0).sum(axis=1)) for state in states[:made]]
            ran = np.stack(widths, axis=1) if made else np.zeros((len(order), 0), dtype=np.int64)
            num_nodes = np.asarray((tree.parents >= -1).sum(axis=1))
            ones = np.ones(len(order), dtype=np.int64)
            found[i] = Visited(forest.request[order], ones, kept[order], num_nodes[order], ran[order].astype(np.int16))
            missing[i] = lost[made]
    visited = tuple(found[i] for i in range(len(policies)))
    nothing = np.full(len(policies), np.nan)
    return DynamicTable(
        tuple(policies), visited, None, temperature, 0, num_requests, nothing, "recorded draft trees"
    ), missing


def _expected(forest: Forest, nodes: Ints, tree: TokenTree) -> Floats:
    """Tokens that the round emits on the mean, bonus in."""
    rows = np.arange(len(nodes))[:, None]
    drafted = np.asarray(tree.parents) >= 0
    return 1.0 + np.asarray(np.where(drafted, forest.paths[rows, nodes], 0.0).sum(axis=1))
