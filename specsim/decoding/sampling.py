"""From logits to the law that is decoded from, and from a law to a token."""

from __future__ import annotations

import numpy as np
from array_api_compat import is_torch_array

from specsim.decoding.arrays import Array, along, array_namespace, device, one_hot
from specsim.errors import InputError

FEW = 1024
"""Tokens among which the end of a nucleus is sought first: a larger vocabulary is then not sorted."""

MIN_TEMPERATURE = 1e-20
"""A positive temperature below this counts as this: the law has reached its limit, and division does not overflow."""


def check_sampling(temperature: float, top_k: int | None = None, top_p: float | None = None) -> None:
    """Raise InputError unless temperature is >= 0 and finite, top_k >= 1, and top_p lies in (0, 1]."""
    if not 0 <= temperature < float("inf"):
        raise InputError("temperature", "must be >= 0 and finite", temperature)
    if top_k is not None and top_k < 1:
        raise InputError("top_k", "must be >= 1", top_k)
    if top_p is not None and not 0 < top_p <= 1:
        raise InputError("top_p", "must be in (0, 1]", top_p)


def adjust(logits: Array, temperature: float, top_k: int | None = None, top_p: float | None = None) -> Array:
    """The law that tokens are drawn from: temperature, then top-k, then top-p.

    Args:
        logits: ``[..., V]``; anything narrower than float32 is widened to it.
        temperature: Divides the logits. 0 puts all mass on the largest logit, ties to the lowest id.
        top_k: Keeps the k largest logits, and all that tie with the k-th.
        top_p: Keeps the smallest set of largest probabilities (after top-k) whose mass is at least top_p, never
            less than one token; of equal tokens the lowest ids.

    Returns:
        Probabilities ``[..., V]`` that sum to one.

    Source: the order and the bounds of Hugging Face's temperature, top-k and top-p warpers; top-p is
    Holtzman et al. 2020 (arXiv:1904.09751).

    >>> import numpy as np
    >>> adjust(np.log([0.5, 0.3, 0.2]), temperature=1.0, top_p=0.6).round(3)
    array([0.625, 0.375, 0.   ])
    """
    check_sampling(temperature, top_k, top_p)
    xp = array_namespace(logits)
    if logits.dtype not in (xp.float32, xp.float64):
        logits = xp.astype(logits, xp.float32)
    if temperature == 0:
        return one_hot(xp.argmax(logits, axis=-1), logits.shape[-1], logits.dtype)
    scaled = logits - xp.max(logits, axis=-1, keepdims=True)
    if temperature != 1:
        scaled = scaled / max(temperature, MIN_TEMPERATURE)
    weights = xp.exp(scaled)
    if top_k is not None and top_k < logits.shape[-1]:
        weights = xp.where(scaled >= _largest(scaled, top_k)[..., -1:], weights, 0.0)
    if top_p is not None and top_p < 1:
        weights = xp.where(_nucleus(weights, top_p), weights, 0.0)
    return weights / xp.sum(weights, axis=-1, keepdims=True)


def _nucleus(weights: Array, top_p: float) -> Array:
    """Which of ``weights[..., V]`` top-p keeps."""
    xp, vocab_size = array_namespace(weights), weights.shape[-1]
    wanted, num = top_p * xp.sum(weights, axis=-1, keepdims=True), FEW
    while True:
        ordered = _largest(weights, min(num, vocab_size))
        cdf = ordered.cumsum(-1)
        if num >= vocab_size or bool((cdf[..., -1:] >= wanted).all()):
            break
        num *= 8
    # A token stays while the mass before it is short of top_p; the first always stays.
    num_kept = 1 + xp.sum(xp.astype(cdf[..., :-1] < wanted, xp.int64), axis=-1, keepdims=True)
    limit = along(ordered, num_kept - 1)
    reached = weights >= limit
    if bool((xp.sum(xp.astype(reached, xp.int64), axis=-1, keepdims=True) == num_kept).all()):
        return reached  # no tie is cut in two, as nearly always
    above, tied = weights > limit, xp.astype(weights == limit, xp.int64)
    num_above = xp.sum(xp.astype(above, xp.int64), axis=-1, keepdims=True)
    return above | ((tied == 1) & (xp.cumulative_sum(tied, axis=-1) <= num_kept - num_above))


def _largest(values: Array, num: int) -> Array:
    """The ``num`` largest of ``values[..., V]`` in descending order.

    Torch sorts along with the indices, on a CPU eight times slower than numpy without.
    """
    if is_torch_array(values) and device(values).type != "cpu":
        return values.topk(num, -1).values
    xp, last = array_namespace(values), values.shape[-1] - num
    values = np.asarray(values)
    ordered = np.sort(values if last == 0 else np.partition(values, last, axis=-1)[..., last:], axis=-1)
    return xp.asarray(ordered[..., ::-1].copy())


def sample(probs: Array, uniform: Array) -> Array:
    """One token per law by inversion of the cumulated probabilities.

    Args:
        probs: ``[..., V]``, non-negative, not necessarily normalised.
        uniform: ``[...]`` in [0, 1); 1.0 itself, which rounding may produce, gives the last token with mass.

    Returns:
        Token ids ``[...]``. A token of probability zero is never returned, unless the whole law is zero (token 0).

    >>> import numpy as np
    >>> sample(np.array([[0.0, 0.25, 0.75, 0.0]] * 3), np.array([0.0, 0.25, 1.0]))
    array([1, 2, 2])
    """
    xp = array_namespace(probs, uniform)
    cdf = probs.cumsum(-1)
    # Parallel scans need not be monotone to the last bit, so the total is the largest sum, not the last.
    total = xp.max(cdf, axis=-1, keepdims=True)
    reached = (probs > 0) & ((cdf > uniform[..., None] * total) | (cdf >= total))
    return xp.argmax(xp.astype(reached, xp.uint8), axis=-1)
