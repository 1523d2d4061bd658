"""What a verification rule takes beside the laws, what it answers, and how a tree is walked."""

from __future__ import annotations

from dataclasses import dataclass

from specsim.decoding.arrays import PADDING, Array, array_namespace, device, row_numbers
from specsim.decoding.state import node_probs
from specsim.errors import InputError


@dataclass(frozen=True, eq=False)
class Draws:
    """The randomness of one verification: independent uniforms in [0, 1).

    Attributes:
        accept: ``[B, N]`` one per node.
        bonus: ``[B]`` one per tree, for the bonus token.
    """

    accept: Array
    bonus: Array


@dataclass(frozen=True, eq=False)
class Verdict:
    """What the target keeps of each tree.

    Attributes:
        path: ``[B, A + 1]`` the root and the accepted nodes, from the root down, then -1; A is the largest
            num_accepted of the batch.
        num_accepted: ``[B]`` accepted draft tokens: root and bonus left out.
        bonus: ``[B]`` the token that the target adds after the path.
    """

    path: Array
    num_accepted: Array
    bonus: Array


def verdict(path: Array, bonus: Array) -> Verdict:
    """The verdict from ``path[B, L]``: nodes by depth, the root first, -1 where a path has ended."""
    xp = array_namespace(bonus)
    num_accepted = xp.sum(xp.astype(path > 0, xp.int64), axis=1)
    return Verdict(path[:, : int(xp.max(num_accepted)) + 1], num_accepted, bonus)


def verdict_at(parents: Array, end: Array, bonus: Array) -> Verdict:
    """The verdict whose path leads from the root to ``end[B]``.

    >>> import numpy as np
    >>> verdict_at(np.array([[-1, 0, 1, 0], [-1, 0, -2, -2]]), np.array([2, 0]), np.array([5, 6])).path
    array([[ 0,  1,  2],
           [ 0, -1, -1]])
    """
    xp = array_namespace(parents)
    num_nodes = parents.shape[1]
    rows = row_numbers(parents)
    path = [end]
    while bool(xp.any(path[-1] % num_nodes > 0)):
        path.append(xp.where(path[-1] % num_nodes > 0, parents[rows, path[-1] % num_nodes], num_nodes))
    # A parent comes before its children, so sorted ids are the path from the root down.
    nodes = xp.sort(xp.stack(path, axis=1), axis=1)
    return verdict(xp.where(nodes == num_nodes, -1, nodes), bonus)


def prefix_verdict(end: Array, num_nodes: int, bonus: Array) -> Verdict:
    """The verdict on chains of ``num_nodes`` whose path leads to ``end[B]``."""
    xp = array_namespace(end)
    nodes = xp.arange(num_nodes, dtype=xp.int64, device=device(end))
    return verdict(xp.where(nodes <= end[:, None], nodes, -1), bonus)


def drafted_probs(parents: Array, tokens: Array, laws: Array) -> Array:
    """Probability ``[B, N]`` of each node's token under ``laws[B, N, V]`` after its parent; 1 for root and padding.

    The root's own token, which no law here is about, may lie outside the vocabulary.
    """
    xp = array_namespace(parents, tokens)
    return node_probs(parents, xp.where(parents >= 0, tokens, xp.zeros_like(tokens)), laws)


def is_child(parents: Array) -> Array:
    """Mask ``[B, N, N]``: whether the node of the last axis is a child of the node before it."""
    xp = array_namespace(parents)
    return parents[:, None, :] == xp.arange(parents.shape[1], device=device(parents))[:, None]


def family(parents: Array) -> tuple[Array, Array]:
    """First child and next sibling of each node of ``parents[B, N]``, -1 where there is none.

    >>> import numpy as np
    >>> first, following = family(np.array([[-1, 0, 1, 0]]))
    >>> first.tolist(), following.tolist()
    ([[1, 2, -1, -1]], [[-1, 3, -1, -1]])
    """
    xp = array_namespace(parents)
    num_nodes = parents.shape[1]
    nodes = xp.arange(num_nodes, dtype=xp.int64, device=device(parents))
    absent = xp.full_like(nodes, num_nodes)
    is_junior = (parents[:, None, :] == parents[:, :, None]) & (nodes > nodes[:, None]) & (parents >= 0)[:, :, None]
    first, following = (xp.min(xp.where(mask, nodes, absent), axis=-1) for mask in (is_child(parents), is_junior))
    return xp.where(first == num_nodes, -1, first), xp.where(following == num_nodes, -1, following)


def num_elders(parents: Array) -> Array:
    """How many elder siblings each node of ``parents[B, N]`` has; 0 for root and padding."""
    xp = array_namespace(parents)
    num_nodes = parents.shape[1]
    ids = xp.arange(num_nodes, device=device(parents))
    elder = (parents[:, :, None] == parents[:, None, :]) & (ids[None, :] < ids[:, None])
    count = xp.sum(xp.astype(elder, xp.int64), axis=-1)
    return xp.where(parents == PADDING, xp.zeros_like(count), count)


def check_chains(rule: str, parents: Array) -> None:
    """Raise InputError where a tree of ``parents[B, N]`` branches."""
    xp = array_namespace(parents)
    before = xp.arange(parents.shape[1], device=device(parents)) - 1
    if bool(xp.any((parents != before) & (parents >= 0))):
        raise InputError("parents", f"must be chains (each node the only child of the one before) for {rule}")
