"""How many tokens one round emits: exact for any tree, since only paths, never whole trees, are accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.profile import AcceptanceProfile, Array
from specsim.acceptance.trie import PathTrie
from specsim.errors import InputError
from specsim.tree import DraftTree

if TYPE_CHECKING:
    from specsim.acceptance.requests import RequestStates

Acceptance = AcceptanceProfile | PathTrie
"""What can say how often a tree's paths are accepted; all functions here take either."""


def path_probs(tree: DraftTree, acceptance: Acceptance) -> Array:
    """Probability that each node is accepted with all its ancestors, ``[node]``; the root has 1.

    Raises:
        InputError: when the tree is deeper or wider than the table, or has paths that the trie never saw, or the
            acceptance draws its candidates in order and the tree leaves out an elder sibling.

    >>> profile = AcceptanceProfile.from_ranks([0.6, 0.3], max_depth=2)
    >>> path_probs(DraftTree((-1, 0, 0, 1)), profile).round(4).tolist()
    [1.0, 0.6, 0.3, 0.36]
    """
    if isinstance(acceptance, PathTrie):
        return acceptance.path_probs(tree)
    check_tree_fits(tree, acceptance)
    return path_probs_of(tree, acceptance.accept_prob)


def node_accept_probs(tree: DraftTree, acceptance: Acceptance) -> Array:
    """Probability that each node but the root is accepted, given that its parent was, ``[node - 1]``.

    >>> node_accept_probs(DraftTree((-1, 0, 1)), AcceptanceProfile.from_survival([0.8, 0.2])).tolist()
    [0.8, 0.25]
    """
    probs = path_probs(tree, acceptance)
    above = probs[np.array(tree.parents[1:], dtype=np.int64)]
    return np.minimum(np.divide(probs[1:], above, out=np.zeros(tree.num_drafted), where=above > 0), 1.0)


def longest_chain(acceptance: Acceptance) -> int:
    """Draft tokens of the longest chain that the acceptance knows.

    >>> longest_chain(AcceptanceProfile.iid(0.8, max_depth=3))
    3
    """
    if isinstance(acceptance, PathTrie):
        return max(len(path) for path in acceptance.node_of if not any(path))
    return acceptance.max_depth


def check_tree_fits(tree: DraftTree, acceptance: Acceptance) -> None:
    """Raise InputError unless the acceptance can speak of every node of the tree."""
    if isinstance(acceptance, PathTrie):
        acceptance.check_tree(tree)
        return
    if tree.depth > acceptance.max_depth:
        limit = f"must be <= {acceptance.max_depth}, the depth of the acceptance table"
        raise InputError("tree depth", limit, tree.depth)
    if max(tree.ranks) >= acceptance.max_ranks:
        limit = f"must be < {acceptance.max_ranks}, the ranks of the acceptance table"
        raise InputError("tree rank", limit, max(tree.ranks))
    if acceptance.rank_order == "ordered" and not tree.has_all_elders:
        raise InputError("tree", "must hold every better-ranked sibling where candidates are drawn in order")


def path_probs_of(tree: DraftTree, accept_prob: Array) -> Array:
    """As ``path_probs`` for tables ``[..., depth - 1, rank]``, several at once, unchecked: ``[..., node]``."""
    parents, ranks = np.array(tree.parents), np.array(tree.ranks)
    probs = np.ones((*accept_prob.shape[:-2], tree.num_nodes))
    for depth in range(1, tree.depth + 1):
        nodes = np.flatnonzero(tree.depths == depth)
        probs[..., nodes] = probs[..., parents[nodes]] * accept_prob[..., depth - 1, ranks[nodes]]
    return probs


def tokens_per_round(tree: DraftTree, acceptance: Acceptance) -> float:
    """Mean tokens emitted per round, bonus token in: the sum of all path probabilities, by linearity.

    The chain of i.i.d. acceptance is Leviathan et al. 2023 (arXiv:2211.17192), eq. 1.

    >>> round(tokens_per_round(DraftTree.chain(4), AcceptanceProfile.iid(0.8, max_depth=4)), 4)
    3.3616
    """
    return float(path_probs(tree, acceptance).sum())


def stop_probs(tree: DraftTree, acceptance: Acceptance) -> Array:
    """Probability that each node is the last one accepted, ``[node]``: its path minus those of its children."""
    probs = path_probs(tree, acceptance)
    parents = np.array(tree.parents[1:], dtype=np.int64)
    passed_on = np.bincount(parents, weights=probs[1:], minlength=tree.num_nodes)
    return np.maximum(probs - passed_on, 0.0)  # a row that sums to 1 may pass it by rounding


def emitted_distribution(tree: DraftTree, acceptance: Acceptance) -> Array:
    """``pmf[n]``, probability that a round emits n tokens, n from 0 (never: the bonus token) to depth + 1.

    >>> emitted_distribution(DraftTree.chain(2), AcceptanceProfile.iid(0.5, max_depth=2)).tolist()
    [0.0, 0.5, 0.25, 0.25]
    """
    return np.asarray(np.bincount(tree.depths + 1, weights=stop_probs(tree, acceptance)), dtype=np.float64)


def sample_rounds(
    tree: DraftTree, acceptance: Acceptance, rng: np.random.Generator, size: int | RequestStates
) -> NDArray[np.int64]:
    """The last accepted node of each round.

    Args:
        tree: What is drafted.
        acceptance: How often it is kept.
        rng: Takes one number per round.
        size: How many independent rounds; or requests under way, each of which plays one round, with its nature and
            its memory (see ``specsim.acceptance.requests``, whose sampler is quicker where many steps are played).
    """
    if not isinstance(size, int | np.integer):
        from specsim.acceptance.requests import RoundSampler

        return RoundSampler(tree, acceptance).draw(rng, size)
    upto = np.cumsum(stop_probs(tree, acceptance))
    nodes = np.searchsorted(upto, rng.random(size) * upto[-1], side="right")
    return np.asarray(nodes, dtype=np.int64)


def num_emitted(tree: DraftTree, last_nodes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tokens that rounds emit, given their last accepted nodes (any shape): the path and the bonus token.

    >>> num_emitted(DraftTree((-1, 0, 0, 1)), np.array([0, 2, 3])).tolist()
    [1, 2, 3]
    """
    return tree.depths[last_nodes] + 1
