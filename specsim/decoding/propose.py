"""Which tokens follow a node: the best candidates, or samples."""

from __future__ import annotations

from typing import Final

import numpy as np
from array_api_compat import is_torch_array

from specsim.decoding.arrays import Array, along, array_namespace, device
from specsim.decoding.sampling import sample
from specsim.errors import InputError

GROUPS: Final = 4
"""Groups per wanted value whose maxima bound it from below: fewer let more values through, more are slower to rank."""


def top(values: Array, num: int) -> tuple[Array, Array]:
    """The ``num`` largest of ``values[..., N]`` in descending order, ties to the lowest index.

    Returns:
        Values and indices, ``[..., num]``.

    Raises:
        InputError: when num is negative or exceeds N.

    >>> import numpy as np
    >>> top(np.array([0.2, 0.4, 0.4]), num=2)[1]
    array([1, 2])
    """
    length = values.shape[-1]
    if not 0 <= num <= length:
        raise InputError("num", f"must be in [0, {length}]", num)
    if num == 1:
        ids = array_namespace(values).argmax(values, axis=-1)[..., None]
        return along(values, ids), ids
    return _top_of_tensor(values, num) if is_torch_array(values) else _top_of_array(values, num)


def _top_of_tensor(values: Array, num: int) -> tuple[Array, Array]:
    # One more than wanted shows whether the last place is contested. Ties are rare in laws and cost a second look.
    found, ids = values.topk(min(num + 1, values.shape[-1]), -1)
    if bool((found[..., 1:] == found[..., :-1]).any()):
        ids = _largest_in_order(values, found[..., num - 1 : num], num)
        return along(values, ids), ids
    return found[..., :num], ids[..., :num]


def _largest_in_order(values: Array, limit: Array, num: int) -> Array:
    """Indices of the ``num`` largest, of which ``limit`` is the last: a pass over the values, and no sort of them."""
    xp = array_namespace(values)
    if num == 0:
        return xp.zeros((*values.shape[:-1], 0), dtype=xp.int64, device=device(values))
    above, tied = values > limit, values == limit
    room = num - xp.sum(xp.astype(above, xp.int64), axis=-1, keepdims=True)
    kept = above | (tied & (xp.cumulative_sum(xp.astype(tied, xp.int64), axis=-1) <= room))
    ids = xp.reshape(xp.nonzero(kept)[-1], (*values.shape[:-1], num))
    return along(ids, xp.argsort(along(values, ids), axis=-1, descending=True, stable=True))


def _top_of_array(values: Array, num: int) -> tuple[Array, Array]:
    """As for a tensor, where numpy's own selection takes five times as long: a stable sort of the few above a bound."""
    flat = np.reshape(values, (-1, values.shape[-1]))
    rows, ids = np.nonzero(flat >= _bound(flat, num))
    begin = np.searchsorted(rows, np.arange(flat.shape[0] + 1))
    place, most = np.arange(rows.shape[0]) - begin[rows], int(np.diff(begin).max(initial=0))
    negated, index = np.full((flat.shape[0], most), np.inf, flat.dtype), np.zeros((flat.shape[0], most), np.int64)
    negated[rows, place], index[rows, place] = -flat[rows, ids], ids
    order = np.argsort(negated, axis=-1, kind="stable")[:, :num]
    each = np.arange(flat.shape[0])[:, None]
    shape = (*values.shape[:-1], num)
    return np.reshape(-negated[each, order], shape), np.reshape(index[each, order], shape)


def _bound(flat: Array, num: int) -> Array:
    """No more than the ``num``-th largest of ``flat[n, N]``, ``[n, 1]``: as many groups have a maximum that large."""
    length = flat.shape[1]
    size = length // (GROUPS * num) if num else 0
    if size > 1:
        groups = length // size
        flat = np.reshape(flat[:, : groups * size], (flat.shape[0], size, groups)).max(1)
    last = flat.shape[1] - max(num, 1)
    return np.partition(flat, last, axis=1)[:, last : last + 1]


def top_children(probs: Array, num: int) -> Array:
    """The ``num`` most probable tokens of ``probs[..., V]``, best first, ties to the lowest id: ``[..., num]``.

    Raises:
        InputError: when num is negative or exceeds the vocabulary.

    >>> import numpy as np
    >>> top_children(np.array([[0.2, 0.4, 0.4]]), num=2)
    array([[1, 2]])
    """
    _check_num(num, probs.shape[-1])
    if num == 1:
        return array_namespace(probs).argmax(probs, axis=-1)[..., None]
    return top(probs, num)[1]


def sample_children(probs: Array, uniforms: Array, *, replacement: bool = False) -> Array:
    """Tokens drawn from ``probs[..., V]`` in the order of the draw, one for each of ``uniforms[..., num]``.

    Without replacement a drawn token leaves the law, and the rest is renormalised, before the next draw. This is
    the law of the Gumbel top-k of RSD (Jeon et al. 2024, arXiv:2402.14160), from num uniforms instead of V.
    Where fewer than num tokens have mass, the surplus is token 0; rejection rules never accept a draw that its law
    gives no probability, so such a filler is harmless.

    Returns:
        Token ids ``[..., num]``; a single draw is plain sampling.

    >>> import numpy as np
    >>> sample_children(np.array([0.5, 0.3, 0.2]), np.array([0.6, 0.6]))
    array([1, 0])
    """
    _check_num(uniforms.shape[-1], uniforms.shape[-1] if replacement else probs.shape[-1])
    xp = array_namespace(probs, uniforms)
    ids = xp.arange(probs.shape[-1], device=device(probs))
    drawn, gone = [], xp.zeros_like(probs)
    for draw in range(uniforms.shape[-1]):
        token = sample(probs, uniforms[..., draw])
        drawn.append(token)
        if not replacement:
            probs = xp.where(ids == token[..., None], gone, probs)
    return _stacked(drawn, probs)


def _stacked(tokens: list[Array], probs: Array) -> Array:
    xp = array_namespace(probs)
    if tokens:
        return xp.stack(tokens, axis=-1)
    return xp.zeros((*probs.shape[:-1], 0), dtype=xp.int64, device=device(probs))


def _check_num(num: int, vocab_size: int) -> None:
    if not 0 <= num <= vocab_size:
        raise InputError("num", f"must be in [0, {vocab_size}] (the size of the vocabulary)", num)
