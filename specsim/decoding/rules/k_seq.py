"""k-SEQ: selection among independent candidates, each judged by a target that is damped for all of them alike."""

from __future__ import annotations

from specsim.decoding.arrays import Array, array_namespace, device, normalised, path_probs, row_numbers
from specsim.decoding.rules.verdict import Draws, Verdict, is_child, verdict_at
from specsim.decoding.sampling import sample

NUM_RUNGS, NUM_ROUNDS = 8, 5
"""rho is found to 8^-5 of [1, k], 8 values tried at once. Any above the solution is exact, and accepts a bit less."""


def k_seq(parents: Array, tokens: Array, draft_probs: Array, target_probs: Array, draws: Draws) -> Verdict:
    """At each position, accept one of the k candidates that still agree with the text, or else sample the residual.

    The candidates after a node are the children of every node with the same tokens before it: of k independent
    chains, all that begin with what was accepted. Each is accepted with probability ``min(1, p(x) / (rho q(x)))``,
    the first one that is decides, and with beta = sum min(p / rho, q) the residual is

        p - min(p / rho, q) (1 - (1 - beta)^k) / beta,    rho in [1, k] from 1 - (1 - beta)^k = rho beta

    Lossless where siblings were drawn independently; one candidate is token-level rejection.

    Source: SpecTr (Sun et al. 2023, arXiv:2310.15141), k-SEQ and its use in draft selection.

    >>> import numpy as np
    >>> draft, target = np.array([[[0.5, 0.5]] * 3]), np.array([[[0.1, 0.9]] * 3])
    >>> draws = Draws(accept=np.array([[0.0, 0.5, 0.9]]), bonus=np.array([0.5]))
    >>> k_seq(np.array([[-1, 0, 0]]), np.array([[0, 0, 1]]), draft, target, draws).path.tolist()
    [[0, 2]]
    """
    xp = array_namespace(parents, target_probs)
    rows = row_numbers(parents)
    joined, eldest = join_equal_paths(parents, tokens)
    node = xp.zeros_like(parents[:, 0])
    while True:
        law, proposal = target_probs[rows, node], draft_probs[rows, node]
        is_candidate = joined == node[:, None]
        accept, residual = _accept_probs(law, proposal, xp.sum(xp.astype(is_candidate, xp.int64), axis=1))
        token = xp.where(is_candidate, tokens, xp.zeros_like(tokens))
        hit = is_candidate & (draws.accept < accept[rows[:, None], token])
        found = xp.any(hit, axis=1)
        if not bool(xp.any(found)):
            return verdict_at(parents, node, sample(residual, draws.bonus))
        child = eldest[rows, xp.argmax(xp.astype(hit, xp.uint8), axis=1)]
        # A row that has ended sees the same coins again and accepts nothing.
        node = xp.where(found, child, node)


def join_equal_paths(parents: Array, tokens: Array) -> tuple[Array, Array]:
    """Trees in which the children of nodes with equal tokens from the root on hang together.

    Returns:
        ``[B, N]`` the parent of each node, moved to the eldest node of equal path, and ``[B, N]`` that eldest node of
        each node itself.

    >>> import numpy as np
    >>> joined, eldest = join_equal_paths(np.array([[-1, 0, 0, 1, 2]]), np.array([[9, 5, 5, 6, 7]]))
    >>> joined.tolist(), eldest.tolist()
    ([[-1, 0, 0, 1, 1]], [[0, 1, 1, 3, 4]])
    """
    xp = array_namespace(parents, tokens)
    rows = row_numbers(parents)[:, None]
    joined = parents
    while True:
        same = (joined[:, :, None] == joined[:, None, :]) & (tokens[:, :, None] == tokens[:, None, :])
        eldest = xp.argmax(xp.astype(same, xp.uint8), axis=-1)
        further = xp.where(parents >= 0, eldest[rows, parents.clip(min=0)], parents)
        if not bool(xp.any(further != joined)):
            return joined, eldest
        joined = further


def _accept_probs(law: Array, proposal: Array, num: Array) -> tuple[Array, Array]:
    """Acceptance probability ``[..., V]`` of a candidate, and the residual ``[..., V]`` after ``num[...]`` of them."""
    xp = array_namespace(law)
    rho = damping(law, proposal, num)[..., None]
    common = xp.minimum(law / rho, proposal)
    share = _share(xp.sum(common, axis=-1), xp.astype(num, law.dtype))
    residual = normalised((law - common * share[..., None]).clip(min=0.0), law)
    return common / xp.where(proposal > 0, proposal, xp.ones_like(proposal)), residual


def damping(law: Array, proposal: Array, num: Array) -> Array:
    """The smallest rho ``[...]`` for ``num[...]`` candidates, from above: in [1, k], where the residual stays positive.

    >>> import numpy as np
    >>> law, proposal = np.array([0.1, 0.9]), np.array([0.5, 0.5])
    >>> rho = damping(law, proposal, np.array(2))  # beta = .1 / rho + .5 while rho < 1.8
    >>> beta = 0.1 / rho + 0.5
    >>> bool(abs(1 - (1 - beta) ** 2 - rho * beta) < 1e-4), round(float(rho), 3)
    (True, 1.43)
    """
    xp = array_namespace(law)
    k = xp.astype(num, law.dtype)
    low = xp.ones_like(k)
    high = xp.maximum(k, low)
    if not bool(xp.any(num > 1)):
        return low
    rungs = xp.arange(1, NUM_RUNGS + 1, dtype=law.dtype, device=device(law))
    law, proposal, k = law[..., None, :], proposal[..., None, :], k[..., None]
    for _ in range(NUM_ROUNDS):
        step = (high - low) / NUM_RUNGS
        rho = low[..., None] + step[..., None] * rungs
        beta = xp.sum(xp.minimum(law / rho[..., None], proposal), axis=-1)
        # The last rung is the upper end, known to be valid.
        num_invalid = xp.sum(xp.astype(_share(beta, k) > rho, law.dtype), axis=-1)
        low = low + step * num_invalid.clip(max=NUM_RUNGS - 1)
        high = low + step
    return high


def _share(beta: Array, k: Array) -> Array:
    """``(1 - (1 - beta)^k) / beta``: expected candidates judged; its limit k at beta = 0."""
    xp = array_namespace(beta)
    safe = xp.where(beta > 0, beta, xp.ones_like(beta))
    return xp.where(beta > 0, (1 - (1 - beta).clip(min=0.0) ** k) / safe, k)


def k_seq_outcome(parents: Array, tokens: Array, draft_probs: Array, target_probs: Array) -> tuple[Array, Array]:
    """Exclusive acceptance ``[B, N]`` and bonus laws ``[B, N, V]`` of :func:`k_seq`; see ``Outcome``.

    Worked out on the joined trees; a path ends at the eldest of equal nodes, and its probability goes to its own
    ancestors.
    """
    xp = array_namespace(parents, target_probs)
    rows = row_numbers(parents)[:, None]
    ids = xp.arange(parents.shape[1], device=device(parents))
    joined, eldest = join_equal_paths(parents, tokens)
    of = is_child(joined)
    accept, residual = _accept_probs(target_probs, draft_probs, xp.sum(xp.astype(of, xp.int64), axis=-1))
    above = joined.clip(min=0)
    token = xp.where(joined >= 0, tokens, xp.zeros_like(tokens))
    alone = xp.where(joined >= 0, accept[rows, above, token], xp.zeros_like(accept[..., 0]))
    fails, ones = 1 - alone, xp.ones_like(alone)
    is_elder = (joined[:, :, None] == joined[:, None, :]) & (ids < ids[:, None])
    first = alone * xp.prod(xp.where(is_elder, fails[:, None, :], ones[:, None, :]), axis=-1)
    is_same = xp.astype(eldest[:, None, :] == ids[:, None], first.dtype)
    chosen = xp.where(parents == -1, ones, xp.sum(is_same * first[:, None, :], axis=-1))
    none = xp.prod(xp.where(of, fails[:, None, :], ones[:, None, :]), axis=-1)
    return _accept_probs_of_ends(parents, path_probs(joined, chosen) * none), residual


def _accept_probs_of_ends(parents: Array, ends: Array) -> Array:
    """Acceptance given the parent's, ``[B, N]``, from the probability that the path ends at each node."""
    xp = array_namespace(parents, ends)
    rows = row_numbers(parents)[:, None]
    of, passes = xp.astype(is_child(parents), ends.dtype), ends
    for _ in range(parents.shape[1] - 1):
        passes = ends + xp.sum(of * passes[:, None, :], axis=-1)
    above = passes[rows, parents.clip(min=0)]
    accept = xp.where(above > 0, passes / xp.where(above > 0, above, xp.ones_like(above)), xp.zeros_like(above))
    return xp.where(parents >= 0, accept, xp.astype(parents == -1, ends.dtype))
