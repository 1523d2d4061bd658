"""What dynamic policies share: which children to draft, and which nodes of the pool to keep."""

from __future__ import annotations

from specsim.decoding.arrays import PADDING, Array, array_namespace, device, pick, trimmed
from specsim.decoding.propose import top, top_children
from specsim.decoding.state import DraftState
from specsim.errors import InputError


def check_at_least(least: int, **fields: int) -> None:
    """Raise InputError for a field below ``least``."""
    for field, value in fields.items():
        if value < least:
            raise InputError(field, f"must be >= {least}", value)


def check_share(**fields: float) -> None:
    """Raise InputError for a field outside [0, 1]."""
    for field, value in fields.items():
        if not 0 <= value <= 1:
            raise InputError(field, "must be in [0, 1]", value)


def checked_uniforms(uniforms: Array | None, shape: tuple[int, ...]) -> Array:
    """The uniforms, or an InputError where they are missing or of another shape."""
    if uniforms is None or tuple(uniforms.shape) != shape:
        got = None if uniforms is None else tuple(uniforms.shape)
        raise InputError("uniforms", f"must have shape {shape}", got)
    return uniforms


def best_children(state: DraftState, draft_probs: Array, num: int) -> tuple[Array, Array, Array]:
    """Of all children of the frontier together, in ``draft_probs[B, F, V]``, the ``num`` of largest path probability.

    Ties go to the earlier column of the frontier, then to the lower token; impossible children are left out.

    Returns:
        Columns (-1 for padding), tokens and path probabilities, ``[B, num]`` or all F V of them, best first.
    """
    xp = array_namespace(draft_probs)
    batch, width, vocab_size = draft_probs.shape
    above = pick(state.path_probs, state.frontier) * (state.frontier >= 0)
    values = xp.reshape(draft_probs * above[..., None], (batch, width * vocab_size))
    found, slots = top(values, min(num, width * vocab_size))
    columns = slots // vocab_size
    return xp.where(found > 0, columns, -1), slots - columns * vocab_size, found


def top_children_of_each(state: DraftState, draft_probs: Array, num: int) -> tuple[Array, Array]:
    """The ``num`` most probable children of each node of the frontier: columns (-1 for padding), tokens [B, F num]."""
    xp = array_namespace(draft_probs)
    batch, width, _ = draft_probs.shape
    tokens = xp.reshape(top_children(draft_probs, num), (batch, width * num))
    columns = xp.where(state.frontier >= 0, xp.arange(width, device=device(draft_probs)), -1)
    return xp.reshape(xp.broadcast_to(columns[..., None], (batch, width, num)), (batch, width * num)), tokens


def most_probable(state: DraftState, num: int) -> Array:
    """Pool ids of the ``num`` nodes of largest path probability, root in, ``[B, N]`` ascending, then -1.

    A parent is never less probable than its child and has the lower id, so ties leave the set closed under parents.
    Nodes of path probability 0 are not worth verifying and left out.
    """
    xp, pool = array_namespace(state.path_probs), state.path_probs.shape[1]
    found, ids = top(state.path_probs, min(num, pool))
    return ascending(xp.where(found > 0, ids, pool), pool)


def all_nodes(state: DraftState) -> Array:
    """Pool ids of all nodes, ``[B, N]`` ascending, then -1."""
    xp, pool = array_namespace(state.parents), state.parents.shape[1]
    ids = xp.arange(pool, device=device(state.parents))
    return ascending(xp.where(state.parents == PADDING, pool, ids), pool)


def ascending(ids: Array, padding: int) -> Array:
    """``ids[B, N]`` in ascending order, those equal to ``padding`` (above all others) as -1 at the end, and trimmed."""
    xp = array_namespace(ids)
    ids = xp.sort(ids, axis=1)
    return trimmed(xp.where(ids == padding, -1, ids))
