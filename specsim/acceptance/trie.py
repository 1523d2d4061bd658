"""Exact path counts: how often each path of ranks was accepted whole, without averaging over parents first.

Where contexts differ, an accepted first choice foretells the next: depth by rank tables lose that, and find trees up to
28 % slower. Paths that no recorded tree held are unknown, not zero.

Rarely tried paths are drawn towards the mean of their depth and rank, as a beta-binomial says: the spread among paths
tried often decides how far. So a tree of the most frequent paths is not one of the luckiest.

Source: shrinkage: Efron and Morris 1975, the beta-binomial of Skellam 1948.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.acceptance.profile import AcceptanceProfile, Array, RankOrder, as_floats, checked_probs
from specsim.acceptance.spread import RequestSpread
from specsim.acceptance.spread_fit import FAR, equal_requests, fit_spread
from specsim.errors import InputError
from specsim.records import RoundRecord
from specsim.tree import DraftTree

Path = tuple[int, ...]
STRENGTHS: Final = np.geomspace(0.5, 1e5, 120)
"""Trials that the mean of depth and rank may be worth."""


@dataclass(frozen=True, eq=False)
class PathTrie:
    """Counts by path. Node 0 of ``tree`` is the root; arrays are ``[request, node]``, the root's the request's rounds.

    Args:
        tree: All paths that any recorded tree held.
        tried: Rounds in which the node was in the tree and its parent accepted.
        kept: Rounds of these in which it was accepted; fractions where probabilities were counted.
        strength: Trials that the mean of the same depth and rank is worth; ``fitted_strength`` finds it.
        source: Where the counts come from, for people.
        rank_order: As in ``AcceptanceProfile``.
        spread: Between and within requests, for simulation; None: rounds are drawn independently.
        task_sd: As in ``AcceptanceProfile``.

    Raises:
        InputError: naming what does not belong together.

    >>> trie = PathTrie.from_path_probs(DraftTree((-1, 0, 0, 1)), [1.0, 0.5, 0.2, 0.4], num_rounds=1000)
    >>> trie.path_probs(DraftTree.chain(2)).round(6).tolist()
    [1.0, 0.5, 0.4]
    >>> trie.path_probs(DraftTree.from_paths([(0,), (0, 1)]))
    Traceback (most recent call last):
    ...
    specsim.errors.InputError: tree: must hold only paths that were recorded, got (0, 1)
    """

    tree: DraftTree
    tried: Array
    kept: Array
    strength: float
    source: str
    rank_order: RankOrder = "free"
    spread: RequestSpread | None = None
    task_sd: float = 0.0

    def __post_init__(self) -> None:
        tried, kept = as_floats("tried", self.tried, ndim=2), as_floats("kept", self.kept, ndim=2)
        if tried.shape != kept.shape or tried.shape[1] != self.tree.num_nodes:
            raise InputError("tried", f"must be [request, {self.tree.num_nodes} nodes], as kept", tried.shape)
        if not ((kept >= 0) & (kept <= tried * (1 + 1e-9)) & (tried < np.inf)).all():
            raise InputError("kept", "must be from 0 to tried")
        if self.rank_order not in ("free", "ordered"):
            raise InputError("rank_order", "must be 'free' or 'ordered'", self.rank_order)
        if not (tried[:, 0] > 0).all():
            raise InputError("tried", "must hold at least one round of each request")
        if not 0 <= self.strength < np.inf:
            raise InputError("strength", "must be >= 0 and finite", self.strength)
        if not 0 <= self.task_sd < np.inf:
            raise InputError("task_sd", "must be >= 0 and finite", self.task_sd)
        tried.flags.writeable = kept.flags.writeable = False
        object.__setattr__(self, "tried", tried)
        object.__setattr__(self, "kept", kept)

    @classmethod
    def from_path_probs(
        cls,
        tree: DraftTree,
        path_probs: ArrayLike,
        num_rounds: float,
        *,
        source: str = "path probabilities",
        rank_order: RankOrder = "free",
    ) -> PathTrie:
        """From the frequency with which each node was accepted with all its ancestors, ``[node]``, the root's 1."""
        probs = checked_probs("path_probs", as_floats("path_probs", path_probs, ndim=1))
        if len(probs) != tree.num_nodes or probs[0] != 1:
            raise InputError("path_probs", f"must be one for each of {tree.num_nodes} nodes, 1 for the root", probs)
        if not 0 < num_rounds < np.inf:
            raise InputError("num_rounds", "must be > 0 and finite", num_rounds)
        parents = np.maximum(np.array(tree.parents), 0)
        sums = np.bincount(parents[1:], weights=probs[1:], minlength=tree.num_nodes)
        if (over := np.flatnonzero(sums > probs + 1e-9)).size:
            node = int(over[0])
            raise InputError("path_probs", f"of the children of node {node} must sum to at most its own", sums[node])
        tried, kept = num_rounds * probs[parents][None], num_rounds * np.minimum(probs, probs[parents])[None]
        return cls(tree, tried, kept, 0.0, source, rank_order)

    @property
    def num_requests(self) -> int:
        """Requests that were recorded."""
        return len(self.tried)

    @property
    def num_equal(self) -> float:
        """So many requests, all of the same length, would say as much of the mean."""
        return equal_requests(self.tried[:, 0])

    @property
    def max_depth(self) -> int:
        """Deepest path recorded."""
        return self.tree.depth

    @property
    def max_ranks(self) -> int:
        """One more than the worst rank recorded."""
        return 1 + max(self.tree.ranks)

    @cached_property
    def node_of(self) -> dict[Path, int]:
        """Node of each recorded path."""
        return {path: node for node, path in enumerate(((), *self.tree.paths()))}

    @cached_property
    def node_probs(self) -> Array:
        """Probability of each recorded path, smoothed, ``[node]``."""
        return self.probs_of(self.tried.sum(axis=0), self.kept.sum(axis=0))

    @property
    def accept_prob(self) -> Array:
        """The same rounds as a table by depth and rank, averaged over parents: what is lost is said above."""
        return self.averaged().accept_prob

    def averaged(self) -> AcceptanceProfile:
        """The same rounds as a profile; ranks that a depth never held read 0 there, as a table has no unknown."""
        tried, kept = self.tried.sum(axis=0), self.kept.sum(axis=0)
        groups = _groups(self.tree)
        rows = np.zeros((self.max_depth, self.max_ranks))
        place = (self.tree.depths[1:] - 1, np.array(self.tree.ranks[1:]))
        rows[place] = _pooled(groups, tried, kept)[1:]
        rows /= np.maximum(rows.sum(axis=1, keepdims=True), 1.0)
        trials = np.zeros(self.max_depth)
        parents = np.array(self.tree.parents[1:], dtype=np.int64)
        for depth in range(self.max_depth):
            inner = np.unique(parents[self.tree.depths[1:] == depth + 1])
            children = [list(self.tree.children[node]) for node in inner.tolist()]
            trials[depth] = sum(float(tried[nodes].max()) for nodes in children)
        # A depth never reached is unknown, not zero: one trial's worth of nothing keeps its interval wide.
        return AcceptanceProfile(
            rows,
            np.maximum(trials, 1.0),
            f"{self.source}, averaged by depth and rank",
            self.rank_order,
            task_sd=self.task_sd,
            spread=self.spread,
            num_requests=self.num_equal,
        )

    def check_tree(self, tree: DraftTree) -> None:
        """Raise InputError for a tree with paths never recorded, or without elders that its candidates need."""
        self._nodes(tree)

    def path_probs(self, tree: DraftTree) -> Array:
        """Probability that each node of ``tree`` is accepted with all its ancestors, ``[node]``; the root has 1."""
        return np.asarray(self.node_probs[self._nodes(tree)])

    def probs_of(self, tried: Array, kept: Array) -> Array:
        """Smoothed path probabilities from counts ``[..., node]``, of all recorded paths, ``[..., node]``."""
        mean = _mean_of_paths(_groups(self.tree), tried, kept, self.strength)
        trials = tried + self.strength
        chances = np.divide(kept + self.strength * mean, trials, out=mean.copy(), where=trials > 0)
        parents = np.array(self.tree.parents)
        probs = np.ones_like(chances)
        for depth in range(1, self.tree.depth + 1):
            nodes = np.flatnonzero(self.tree.depths == depth)
            own = chances[..., nodes]
            above, row = np.unique(parents[nodes], return_inverse=True)
            sums = own @ (row[:, None] == np.arange(len(above))).astype(np.float64)
            # Siblings exclude each other, whatever their counts.
            probs[..., nodes] = probs[..., parents[nodes]] * own / np.maximum(sums, 1.0)[..., row]
        return probs

    def best_trees(self, max_nodes: int, max_depth: int) -> tuple[Array, Callable[[int, int], list[Path]]]:
        """The most tokens per round that recorded trees of each size can emit, under each depth limit.

        Where ranks are free these are the most frequent paths, exactly: a path's ancestors are no rarer. Where they
        are ordered, a dynamic program over all trees that hold every elder.

        Returns:
            Tokens per round ``[depth limit, nodes - 1]``, NaN where no recorded tree is so large; and a function that
            gives the paths of the tree of a depth limit and size.
        """
        if not 0 <= max_depth <= self.max_depth:
            raise InputError("max_depth", f"must be from 0 to {self.max_depth}, the deepest path recorded", max_depth)
        if max_nodes < 1:
            raise InputError("max_nodes", "must be >= 1", max_nodes)
        paths = ((), *self.tree.paths())
        tokens = np.full((max_depth + 1, max_nodes), np.nan)
        chosen: list[Callable[[int], list[int]]] = []
        for limit in range(max_depth + 1):
            found, nodes_of = self._best_under(limit, max_nodes)
            tokens[limit, : len(found)] = found
            chosen.append(nodes_of)
        return tokens, lambda limit, num_nodes: [paths[node] for node in chosen[limit](num_nodes)]

    def best_tree(self, num_nodes: int, max_depth: int | None = None) -> DraftTree:
        """The tree of ``num_nodes`` nodes (root in) with the most tokens per round.

        >>> trie = PathTrie.from_path_probs(DraftTree((-1, 0, 0, 1)), [1.0, 0.5, 0.2, 0.4], num_rounds=1000)
        >>> trie.best_tree(3).paths()
        ((0,), (0, 0))
        """
        depth = self.max_depth if max_depth is None else max_depth
        tokens, paths = self.best_trees(num_nodes, depth)
        if np.isnan(tokens[depth, num_nodes - 1]):
            most = int(np.isfinite(tokens[depth]).sum())
            raise InputError("num_nodes", f"must be <= {most}, all recorded paths", num_nodes)
        return DraftTree.from_paths(paths(depth, num_nodes))

    def _nodes(self, tree: DraftTree) -> NDArray[np.int64]:
        if self.rank_order == "ordered" and not tree.has_all_elders:
            raise InputError("tree", "must hold every better-ranked sibling where candidates are drawn in order")
        known = self.node_of
        for path in (paths := ((), *tree.paths())):
            if path not in known:
                raise InputError("tree", "must hold only paths that were recorded", path)
        return np.array([known[path] for path in paths], dtype=np.int64)

    def _best_under(self, limit: int, max_nodes: int) -> tuple[Array, Callable[[int], list[int]]]:
        if self.rank_order == "ordered":
            from specsim.acceptance.trie_ordered import best_with_elders

            return best_with_elders(self.tree, self.node_probs, limit, max_nodes)
        inside = np.flatnonzero(self.tree.depths <= limit)
        order = inside[np.lexsort((inside, self.tree.depths[inside], -self.node_probs[inside]))]
        # The root, alone of probability 1 at depth 0, is always first.
        return np.cumsum(self.node_probs[order])[:max_nodes], lambda size: order[1:size].tolist()


def trie_from_records(
    records: Iterable[RoundRecord],
    source: str,
    *,
    tree: DraftTree | None = None,
    rank_order: RankOrder = "free",
    count_probs: bool = False,
) -> PathTrie:
    """Path counts from recorded rounds, whose trees may differ.

    A tree that the drafter's confidence shaped holds a path when it looked likely: counts of such paths are of those
    rounds, and read high elsewhere. Record one tree, the largest, to compare static trees.

    The spread between requests is fitted where two of them are long enough and all trees are one.

    Args:
        records: Of one drafter and rule, those of a request in the order played. Each holds its ``parents`` unless
            ``tree`` is given.
        source: Where they come from, for people.
        tree: What all rounds verified, ranks known. Left out: siblings are taken as ranked in their order.
        rank_order: Of the candidates.
        count_probs: Count ``accept_prob`` of the nodes in place of what was drawn: the same mean, with less noise.

    Raises:
        InputError: when there is no record, or one does not say what was in its tree.
    """
    trees: dict[tuple[int, ...] | None, DraftTree] = {} if tree is None else {None: tree}
    kept_records = list(records)
    if not kept_records:
        raise InputError("records", "must hold at least one round", 0)
    for record in kept_records:
        key = None if tree is not None else record.parents
        if key is None and tree is None:
            raise InputError("records", "must hold parents, the shape of each tree, where no tree is given")
        if key is not None and key not in trees:
            trees[key] = DraftTree((-1, *key))
    union = DraftTree.from_paths({path for each in trees.values() for path in each.paths()})
    node_of = {path: node for node, path in enumerate(((), *union.paths()))}
    own_of = {key: {path: n for n, path in enumerate(((), *each.paths()))} for key, each in trees.items()}
    places = {key: np.array([node_of[path] for path in own_of[key]]) for key in trees}
    rows = {request: row for row, request in enumerate(sorted({record.request for record in kept_records}))}
    tried, kept = np.zeros((2, len(rows), union.num_nodes))
    for record in kept_records:
        key = None if tree is not None else record.parents
        each, row, nodes = trees[key], rows[record.request], places[key]
        reached = _path_chances(record, each) if count_probs else _accepted(record, each, own_of[key])
        kept[row, nodes] += reached
        tried[row, nodes[1:]] += reached[np.array(each.parents[1:], dtype=np.int64)]
        tried[row, 0] += 1
    strength = fitted_strength(union, tried, kept)
    # Where trees differ, so do their rounds, which is no spread of requests.
    spread = _spread(kept_records) if len(trees) == 1 else None
    return PathTrie(union, tried, kept, strength, source, rank_order, spread)


def fitted_strength(tree: DraftTree, tried: ArrayLike, kept: ArrayLike) -> float:
    """The ``strength`` under which counts ``[request, node]`` are likeliest, each node's chance drawn from a beta.

    Where paths of one depth and rank differ no more than chance makes them, it is large, and the table by depth and
    rank is what remains; 0 where no two paths share depth and rank.
    """
    from scipy.special import betaln

    trials, counts = np.sum(tried, axis=0), np.sum(kept, axis=0)
    groups = _groups(tree)
    shared = np.bincount(groups, weights=trials > 0)[groups] > 1
    strength = STRENGTHS[:, None]
    mean = _mean_of_paths(groups, trials, counts, strength)
    used = np.flatnonzero(shared & (trials > 0) & (mean > 0).all(axis=0) & (mean < 1).all(axis=0) & (tree.depths > 0))
    if not used.size:
        return 0.0
    hits, misses, centre = counts[used], np.maximum(trials - counts, 0.0)[used], mean[:, used]
    a, b = strength * centre, strength * (1 - centre)
    likelihood = (betaln(hits + a, misses + b) - betaln(a, b)).sum(axis=1)
    return float(STRENGTHS[int(likelihood.argmax())])


def _groups(tree: DraftTree) -> NDArray[np.int64]:
    """Number of each node's depth and rank."""
    return np.asarray(tree.depths * (1 + max(tree.ranks)) + np.array(tree.ranks), dtype=np.int64)


def _pooled(groups: NDArray[np.int64], tried: Array, kept: Array) -> Array:
    """Mean chance of each node's depth and rank, ``[..., node]``; 0 where none was ever tried."""
    one_hot = (groups[:, None] == np.unique(groups)[None, :]).astype(np.float64)
    trials, counts = tried @ one_hot, kept @ one_hot
    return np.asarray(np.divide(counts, trials, out=np.zeros_like(counts), where=trials > 0) @ one_hot.T)


def _mean_of_paths(groups: NDArray[np.int64], tried: Array, kept: Array, strength: float | Array) -> Array:
    """Mean chance of the paths of each node's depth and rank, ``[..., node]``.

    Each path counts by what it says of that mean: the more they differ, the less does one tried often say more than
    another. For endless strength it is the mean of all trials.
    """
    weight = np.divide(1.0, tried + strength, out=np.zeros(np.broadcast(tried, strength).shape), where=tried > 0)
    return _pooled(groups, tried * weight, kept * weight)


def _accepted(record: RoundRecord, tree: DraftTree, node_of: dict[Path, int]) -> Array:
    """1 for the root and each node accepted, ``[node of its tree]``."""
    if record.num_drafted != tree.num_drafted:
        raise InputError("records", f"must all verify {tree.label}", record.num_drafted)
    reached = np.zeros(tree.num_nodes)
    ranks = record.accepted_ranks
    for depth in range(len(ranks) + 1):
        node = node_of.get(ranks[:depth], -1)
        if node < 0 or (record.path and depth and record.path[depth - 1] != node):
            raise InputError("records", f"must accept a path of {tree.label}, siblings in the order of rank", ranks)
        reached[node] = 1.0
    return reached


def _spread(records: list[RoundRecord]) -> RequestSpread | None:
    """None where there are too few rounds to tell."""
    emitted: dict[int, list[int]] = {}
    for record in records:
        emitted.setdefault(record.request, []).append(record.num_emitted)
    if sum(len(rounds) > FAR for rounds in emitted.values()) < 2:
        return None
    # The generator serves the fit's own intervals, which are not kept.
    return fit_spread(list(emitted.values()), np.random.default_rng(0)).spread


def _path_chances(record: RoundRecord, tree: DraftTree) -> Array:
    """Chance of each node to be accepted with its ancestors, ``[node of its tree]``."""
    if record.accept_prob is None or len(record.accept_prob) != tree.num_drafted:
        raise InputError("records", "must hold accept_prob of each node to count probabilities", record.method)
    chances = np.ones(tree.num_nodes)
    for node, (parent, chance) in enumerate(zip(tree.parents[1:], record.accept_prob, strict=True), start=1):
        chances[node] = chances[parent] * chance
    return chances


def by_rank(acceptance: AcceptanceProfile | PathTrie) -> AcceptanceProfile:
    """A table by depth and rank, for what needs one: where paths were counted, they are averaged over parents."""
    return acceptance.averaged() if isinstance(acceptance, PathTrie) else acceptance
