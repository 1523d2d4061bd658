"""Rejection sampling along a tree: accept a draw in proportion to target over draft, else correct the target's law."""

from __future__ import annotations

from specsim.decoding.arrays import Array, array_namespace, device, normalised, row_numbers
from specsim.decoding.rules.verdict import Draws, Verdict, check_chains, drafted_probs, family, prefix_verdict, verdict
from specsim.decoding.sampling import sample


def after_rejection(
    law: Array, proposal: Array, token: Array, rejected: Array, *, replacement: bool
) -> tuple[Array, Array]:
    """The law still to reproduce, and the law of the next draw, where ``token[...]`` was ``rejected[...]``.

    See :func:`accept_prob_and_residual`. Where it was not rejected, or not drawn, the law stays.
    """
    xp = array_namespace(law, proposal)
    left = normalised((law - proposal * xp.astype(rejected, law.dtype)[..., None]).clip(min=0.0), law)
    if replacement:
        return left, proposal
    return left, rest_of(proposal, token)


def rest_of(proposal: Array, token: Array) -> Array:
    """The law ``proposal[..., V]`` without ``token[...]``: that of the next draw without replacement, zero if none."""
    xp = array_namespace(proposal)
    ids = xp.arange(proposal.shape[-1], device=device(proposal))
    rest = xp.where(ids == token[..., None], xp.zeros_like(proposal), proposal)
    return normalised(rest, rest)


def accept_prob_and_residual(
    law: Array, proposal: Array, token: Array, *, replacement: bool = False
) -> tuple[Array, Array, Array]:
    """One step of rejection sampling: judge ``token[...]``, drawn from ``proposal[..., V]``, by ``law[..., V]``.

    Accept with probability ``min(1, law(x) / proposal(x))``. After a rejection the law to reproduce is
    ``norm((law - proposal)+)``, and the next draw without replacement comes from the proposal with x taken out:

        law(x) = min(law(x), proposal(x)) + (1 - sum min(law, proposal)) * norm((law - proposal)+)(x)

    A rejection has positive probability only if proposal(x) > law(x) for some x, and since both sum to one the
    residual then has mass elsewhere. Rounding alone can leave it empty; the law is then kept as it is, which is
    right to the same rounding. A token without mass in the proposal was not drawn from it (a filler, padding): it
    is rejected, and nothing else changes.

    Returns:
        Acceptance probability ``[...]``, law ``[..., V]`` and proposal ``[..., V]`` after a rejection.

    Source: Leviathan et al. 2023 (arXiv:2211.17192), algorithm 1, and Chen et al. 2023 (arXiv:2302.01318), theorem 1.

    >>> import numpy as np
    >>> target, draft = np.array([0.2, 0.5, 0.3]), np.array([0.5, 0.25, 0.25])
    >>> accept, law, rest = accept_prob_and_residual(target, draft, np.array(0))
    >>> float(accept), law.round(3).tolist(), rest.tolist()
    (0.4, [0.0, 0.833, 0.167], [0.0, 0.5, 0.5])
    """
    xp = array_namespace(law, proposal)
    wanted, drawn = entry(law, token), entry(proposal, token)
    # min(p, q) / q and not p / q, which overflows for the smallest q.
    accept = xp.minimum(wanted, drawn) / xp.where(drawn > 0, drawn, xp.ones_like(drawn))
    return accept, *after_rejection(law, proposal, token, drawn > 0, replacement=replacement)


def entry(laws: Array, token: Array) -> Array:
    """Probability of ``token[...]`` under ``laws[..., V]``; a negative token reads entry 0."""
    xp = array_namespace(laws, token)
    flat = xp.reshape(laws, (-1, laws.shape[-1]))
    index = xp.reshape(token, (-1,)).clip(min=0)
    return xp.reshape(flat[row_numbers(index), index], token.shape)


def token_rejection(parents: Array, tokens: Array, draft_probs: Array, target_probs: Array, draws: Draws) -> Verdict:
    """Speculative sampling of a chain: accept the longest prefix of accepted tokens, then sample the residual.

    It does what recursive rejection does where no node has a second child. Per token, sum min(draft, target) is
    accepted.

    Raises:
        InputError: when a tree branches.

    Source: Leviathan et al. 2023 (arXiv:2211.17192); Chen et al. 2023 (arXiv:2302.01318).
    """
    check_chains("token_rejection", parents)
    end, taken = chain_end(parents, tokens, draft_probs, target_probs, draws)
    rows = row_numbers(end)
    law = residual(target_probs[rows, end], draft_probs[rows, end], taken)
    return prefix_verdict(end, parents.shape[1], sample(law, draws.bonus))


def chain_accept_probs(
    parents: Array, tokens: Array, draft_probs: Array, target_probs: Array, leniency: float = 1.0
) -> tuple[Array, Array]:
    """Acceptance ``[B, N]`` of each token of a chain given those before it, 1 for the root.

    And ``[B, N]`` what multiple of the draft's law a rejection after each node takes off the target's: ``leniency``,
    or nothing where no token was drawn.
    """
    xp = array_namespace(parents, target_probs)
    wanted, drawn = (drafted_probs(parents, tokens, laws) for laws in (target_probs, draft_probs))
    drawn = drawn * leniency
    accept = xp.minimum(wanted, drawn) / xp.where(drawn > 0, drawn, xp.ones_like(drawn))
    was_drawn = xp.astype((drawn > 0) & (parents >= 0), accept.dtype)
    taken = xp.concat([was_drawn[:, 1:], xp.zeros_like(was_drawn[:, :1])], axis=1) * leniency
    return xp.where(parents >= 0, accept, xp.astype(parents == -1, accept.dtype)), taken


def chain_end(
    parents: Array, tokens: Array, draft_probs: Array, target_probs: Array, draws: Draws, leniency: float = 1.0
) -> tuple[Array, Array]:
    """The last node ``[B]`` of the longest accepted prefix, and the multiple ``[B]`` of the draft's law to take off."""
    xp = array_namespace(parents, target_probs)
    accept, taken = chain_accept_probs(parents, tokens, draft_probs, target_probs, leniency)
    nodes = xp.arange(parents.shape[1], device=device(parents))
    refused = (draws.accept >= accept) & (nodes > 0)
    end = xp.min(xp.where(refused, nodes, parents.shape[1]), axis=1) - 1
    return end, taken[row_numbers(end), end]


def residual(target_probs: Array, draft_probs: Array, taken: Array) -> Array:
    """The target's laws ``[..., V]`` less ``taken[...]`` times the draft's, normalised."""
    return normalised((target_probs - taken[..., None] * draft_probs).clip(min=0.0), target_probs)


def recursive_rejection(
    parents: Array,
    tokens: Array,
    draft_probs: Array,
    target_probs: Array,
    draws: Draws,
    *,
    replacement: bool = False,
) -> Verdict:
    """Try a node's children in the order drawn; each rejection corrects the law, the first acceptance descends.

    At a node the law starts as ``target_probs[b, node]`` and the proposal as ``draft_probs[b, node]``; each child
    goes through :func:`accept_prob_and_residual`. When all are rejected, the bonus token is drawn from what is
    left of the law. Siblings were drawn independently (``replacement=True``) or without replacement.

    Source: SpecInfer (Miao et al. 2024, arXiv:2305.09781), multi-step speculative sampling, with replacement;
    without: MCSD (Yang et al. 2024, arXiv:2401.06706), RSD (Jeon et al. 2024, arXiv:2402.14160), EAGLE (Li et al. 2024,
    arXiv:2401.15077).

    >>> import numpy as np
    >>> draft, target = np.array([[[0.5, 0.5], [0.5, 0.5]]]), np.array([[[0.1, 0.9], [1.0, 0.0]]])
    >>> draws = Draws(accept=np.array([[0.0, 0.3]]), bonus=np.array([0.5]))  # 0.3 >= 0.1 / 0.5: rejected
    >>> kept = recursive_rejection(np.array([[-1, 0]]), np.array([[1, 0]]), draft, target, draws)
    >>> kept.path.tolist(), kept.bonus.tolist()
    ([[0]], [1])
    """
    xp = array_namespace(parents, target_probs)
    rows = row_numbers(parents)
    first_child, next_sibling = family(parents)
    node = xp.zeros_like(parents[:, 0])
    law, child = target_probs[:, 0], first_child[:, 0]
    path = [node]
    while bool(xp.any(child >= 0)):
        proposal, before = draft_probs[rows, node], node
        while bool(xp.any(tried := child >= 0)):
            token = tokens[rows, child]
            wanted, drawn = law[rows, token], proposal[rows, token]
            accepted = tried & (draws.accept[rows, child] * drawn < xp.minimum(wanted, drawn))
            node = xp.where(accepted, child, node)
            rejected = tried & ~accepted
            if bool(xp.any(rejected)):
                law, proposal = after_rejection(law, proposal, token, rejected & (drawn > 0), replacement=replacement)
            child = xp.where(rejected, next_sibling[rows, child], -1)
        descended = node != before
        path.append(xp.where(descended, node, -1))
        if bool(xp.any(descended)):
            law = xp.where(descended[:, None], target_probs[rows, node], law)
        child = xp.where(descended, first_child[rows, node], -1)
    return verdict(xp.stack(path, axis=1), sample(law, draws.bonus))
