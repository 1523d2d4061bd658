"""Block verification: judge a chain as a whole instead of token by token."""

from __future__ import annotations

from specsim.decoding.arrays import PADDING, Array, array_namespace, device, normalised, row_numbers
from specsim.decoding.rules.traversal import accept_probs_of_coins
from specsim.decoding.rules.verdict import Draws, Verdict, check_chains, drafted_probs, prefix_verdict
from specsim.decoding.sampling import sample


def block_verification(parents: Array, tokens: Array, draft_probs: Array, target_probs: Array, draws: Draws) -> Verdict:
    """Accept the longest prefix whose own coin succeeds, whatever the coins of shorter prefixes.

    Lossless on sampled chains, and no lossless rule accepts more of a chain in expectation. ``draws.accept[:, n]`` is
    the coin of the prefix that ends with node n.

    Raises:
        InputError: when a tree branches.

    Source: Sun et al. 2024 (arXiv:2403.10444); the rates are in :func:`block_rates`.

    >>> import numpy as np
    >>> draft, target = np.array([[[0.5, 0.5]] * 3]), np.array([[[0.1, 0.9], [0.9, 0.1], [0.5, 0.5]]])
    >>> draws = Draws(accept=np.array([[0.5, 0.5, 0.3]]), bonus=np.array([0.5]))
    >>> kept = block_verification(np.array([[-1, 0, 1]]), np.array([[1, 0, 0]]), draft, target, draws)
    >>> kept.path.tolist()  # the second prefix has the rate .1 / .5 * .9 / .5 = .36
    [[0, 1, 2]]
    """
    xp = array_namespace(parents, target_probs)
    check_chains("block_verification", parents)
    rates, left = block_rates(parents, tokens, draft_probs, target_probs)
    nodes = xp.arange(parents.shape[1], device=device(parents))
    end = xp.max(xp.where(draws.accept < rates, nodes, 0), axis=1)
    law = left[row_numbers(parents), end]
    return prefix_verdict(end, parents.shape[1], sample(law, draws.bonus))


def block_rates(parents: Array, tokens: Array, draft_probs: Array, target_probs: Array) -> tuple[Array, Array]:
    """Rate ``[B, N]`` of the prefix that ends with each node, and the law ``[B, N, V]`` of the token after it.

    With p(0) = 1 and ``p(i) = min(1, p(i-1) target(x_i) / draft(x_i))`` along the chain, and after prefix i the mass
    ``S = sum (p(i) target - draft)+``, its rate is ``S / (S + 1 - p(i))`` and the law ``(p(i) target - draft)+ / S``;
    for the last prefix they are p(i) and the target's law.
    """
    xp = array_namespace(parents, target_probs)
    wanted, drawn = (drafted_probs(parents, tokens, laws) for laws in (target_probs, draft_probs))
    safe = xp.where(drawn > 0, drawn, xp.ones_like(drawn))
    kept = [xp.ones_like(wanted[:, 0])]
    for node in range(1, parents.shape[1]):
        kept.append(xp.minimum(kept[-1] * wanted[:, node], drawn[:, node]) / safe[:, node])
    p = xp.stack(kept, axis=1)
    is_last = xp.concat([parents[:, 1:] < 0, parents[:, :1] == -1], axis=1)
    gain = (p[..., None] * target_probs - draft_probs).clip(min=0.0)
    mass = xp.sum(gain, axis=-1)
    total = mass + (1 - p)
    # Both terms vanish only where the laws are equal and p is 1: a longer prefix then succeeds for certain.
    rates = xp.where(is_last, p, mass / xp.where(total > 0, total, xp.ones_like(total)))
    rates = xp.where(parents == PADDING, xp.zeros_like(rates), xp.where(parents == -1, xp.ones_like(rates), rates))
    return rates, xp.where(is_last[..., None], target_probs, normalised(gain, target_probs))


def block_outcome(parents: Array, tokens: Array, draft_probs: Array, target_probs: Array) -> tuple[Array, Array]:
    """Exclusive acceptance ``[B, N]`` and bonus laws ``[B, N, V]``; see ``Outcome``."""
    check_chains("block_verification", parents)
    rates, left = block_rates(parents, tokens, draft_probs, target_probs)
    return accept_probs_of_coins(parents, rates), left
