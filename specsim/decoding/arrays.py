"""Small array helpers that numpy and torch share: lookups, and trees written as padded arrays of parents.

A batch of trees is ``parents[B, N]``: node 0 is the root (parent -1), a parent comes before its children,
siblings stand in the order in which they were drawn, and -2 marks padding.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, TypeAlias

import array_api_compat
from array_api_compat import is_torch_array

Array: TypeAlias = Any
"""An array of numpy or torch (any library of the array-API standard); shapes stand in the docstrings."""

ROOT_PARENT = -1
PADDING = -2

_NAMESPACES: Final[dict[tuple[type, ...], Any]] = {}


def array_namespace(*arrays: Array) -> Any:
    """The array-API functions for these arrays: the compat library's answer, which takes it four times as long."""
    kinds = tuple(map(type, arrays))
    if kinds not in _NAMESPACES:
        _NAMESPACES[kinds] = array_api_compat.array_namespace(*arrays)
    return _NAMESPACES[kinds]


def device(values: Array) -> Any:
    """Where an array lies."""
    return values.device


def row_numbers(values: Array) -> Array:
    """Numbers of the rows of ``values[B, ...]``, to index with; read only."""
    return _counted(values.shape[0], array_namespace(values), values.device)


@lru_cache(maxsize=256)
def _counted(num: int, xp: Any, where: Any) -> Array:
    return xp.arange(num, device=where)


def at(values: Array, index: Array) -> Array:
    """``values[..., index]``: one entry of the last axis per leading position; negative indices read entry 0.

    >>> import numpy as np
    >>> at(np.array([[0.2, 0.8], [0.6, 0.4]]), np.array([1, 0]))
    array([0.8, 0.6])
    """
    xp = array_namespace(values, index)
    index = xp.astype(index.clip(min=0), xp.int64)
    return xp.take_along_axis(values, index[..., None], axis=-1)[..., 0]


def pick(values: Array, nodes: Array) -> Array:
    """Rows of ``values[B, N, ...]`` at ``nodes[B, M]`` or ``nodes[B]``, each tree from its own.

    A negative node counts from the end; the caller masks what it reads.

    >>> import numpy as np
    >>> pick(np.array([[5, 6, 7]]), np.array([[2, 0]]))
    array([[7, 5]])
    """
    rows = row_numbers(nodes)
    return values[rows if nodes.ndim == 1 else rows[:, None], nodes]


def along(values: Array, index: Array) -> Array:
    """``values[..., index]``: entries of the last axis at ``index[..., M]``, leading axes alike.

    >>> import numpy as np
    >>> along(np.array([[5, 6, 7]]), np.array([[2, 0]]))
    array([[7, 5]])
    """
    # A fraction of the time of the standard's function, which dynamic policies would spend once per drafted level.
    if is_torch_array(values):
        return values.gather(-1, index)
    flat = index.reshape(-1, index.shape[-1])
    return values.reshape(-1, values.shape[-1])[row_numbers(flat)[:, None], flat].reshape(index.shape)


def trimmed(nodes: Array) -> Array:
    """``nodes[B, N]`` without the columns that are padding (negative) in every row; padding stands last in each.

    >>> import numpy as np
    >>> trimmed(np.array([[3, 5, -1, -1], [4, -1, -1, -1]]))
    array([[ 3,  5],
           [ 4, -1]])
    """
    if nodes.shape[1] == 0:
        return nodes
    return nodes[:, : int((nodes >= 0).sum(1).max())]


def one_hot(tokens: Array, size: int, dtype: Any) -> Array:
    """Laws ``[..., size]`` with all their mass on ``tokens[...]``."""
    xp = array_namespace(tokens)
    return xp.astype(xp.arange(size, device=device(tokens)) == tokens[..., None], dtype)


def normalised(weights: Array, otherwise: Array) -> Array:
    """``weights[..., V]`` divided by their sum, or ``otherwise`` where that sum is zero."""
    xp = array_namespace(weights)
    mass = xp.sum(weights, axis=-1, keepdims=True)
    return xp.where(mass > 0, weights / xp.where(mass > 0, mass, xp.ones_like(mass)), otherwise)


def tree_depth(parents: Array) -> int:
    """Depth of the deepest tree of ``parents[B, N]``.

    >>> import numpy as np
    >>> tree_depth(np.array([[-1, 0, 1, 0], [-1, 0, -2, -2]]))
    2
    """
    xp = array_namespace(parents)
    depth, ancestor = 0, parents
    while bool(xp.any(below := ancestor >= 0)):
        depth += 1
        ancestor = xp.where(below, pick(parents, ancestor), ancestor)
    return depth


def depths(parents: Array) -> Array:
    """Depth of each node of ``parents[B, N]``: 0 for the root and for padding.

    >>> import numpy as np
    >>> depths(np.array([[-1, 0, 1, 0], [-1, 0, 1, 2], [-1, 0, -2, -2]]))
    array([[0, 1, 2, 1],
           [0, 1, 2, 3],
           [0, 1, 0, 0]])
    """
    xp = array_namespace(parents)
    depth, ancestor = xp.zeros_like(parents), parents
    while bool(xp.any(below := ancestor >= 0)):
        depth = depth + xp.astype(below, depth.dtype)
        ancestor = xp.where(below, pick(parents, ancestor), ancestor)
    return depth


def path_probs(parents: Array, probs: Array) -> Array:
    """Product of ``probs[B, N]`` along the path from the root down to each node; padding gets 0.

    With acceptance probabilities this is the probability that a node is accepted, so its sum over all nodes but
    the root is the expected number of accepted tokens. With draft probabilities it is the drafter's own estimate.

    >>> import numpy as np
    >>> path_probs(np.array([[-1, 0, 1, 0]]), np.array([[1.0, 0.5, 0.5, 0.25]]))
    array([[1.  , 0.5 , 0.25, 0.25]])
    """
    xp = array_namespace(parents, probs)
    product, ancestor = xp.where(parents == PADDING, xp.zeros_like(probs), probs), parents
    while bool(xp.any(below := ancestor >= 0)):
        product = xp.where(below, product * pick(probs, ancestor), product)
        ancestor = xp.where(below, pick(parents, ancestor), ancestor)
    return product
