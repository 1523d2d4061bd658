"""Traversal verification: judge whole paths of a sampled tree, the deepest first, and correct the law on the way up."""

from __future__ import annotations

from dataclasses import dataclass

from specsim.decoding.arrays import Array, array_namespace, depths, device, normalised, row_numbers
from specsim.decoding.rules.verdict import Draws, Verdict, family, is_child, verdict_at
from specsim.decoding.sampling import sample


@dataclass(frozen=True, eq=False)
class Level:
    """The nodes of one depth that have children, ``rows[K]`` and ``nodes[K]``, once all their children were refused.

    ``laws[K, V]`` is what is then left of the target's law, times the node's rate.
    """

    rows: Array
    nodes: Array
    laws: Array


def traversal(
    parents: Array,
    tokens: Array,
    draft_probs: Array,
    target_probs: Array,
    draws: Draws,
    *,
    replacement: bool = False,
) -> Verdict:
    """Offer the leaves in depth-first order; accept a whole path with the rate of its leaf, else delete the leaf.

    The root's rate is 1, a child's ``min(1, rate(parent) * target(x) / draft(x))``. Deleting a child of a node with
    rate a, target law t and draft law d leaves that node with

        S = sum (a t - d)+,    t := (a t - d)+ / S,    a := S / (S + 1 - a),    d := d without x, renormalised

    (d stays for siblings drawn independently, ``replacement=True``). The bonus token follows what is then t at the
    end of the accepted path. A node is offered after all its descendants, so coins of all nodes are independent and
    the first success in that order decides. No rate depends on a coin: all are worked out level by level.

    Lossless where siblings are samples of ``draft_probs`` in the order drawn. On chains it is block verification.

    Source: Traversal Verification (2025, arXiv:2505.12398).

    >>> import numpy as np
    >>> draft, target = np.array([[[0.5, 0.5]] * 3]), np.array([[[0.1, 0.9], [0.9, 0.1], [0.5, 0.5]]])
    >>> draws = Draws(accept=np.array([[0.5, 0.5, 0.3]]), bonus=np.array([0.5]))
    >>> kept = traversal(np.array([[-1, 0, 1]]), np.array([[1, 0, 0]]), draft, target, draws)
    >>> kept.path.tolist()  # token 0 alone has the rate .1 / .5 = .2, and the path of two .2 * .9 / .5 = .36
    [[0, 1, 2]]
    """
    xp = array_namespace(parents, target_probs)
    rates, levels = traversal_rates(parents, tokens, draft_probs, target_probs, replacement=replacement)
    nodes = xp.arange(parents.shape[1], device=device(parents))
    succeeds = (draws.accept < rates) | (nodes == 0)
    end = _first_success(parents, succeeds, num_levels=len(levels))
    law = target_probs[row_numbers(parents), end]
    for level in levels:
        ends_here = level.nodes == end[level.rows]
        # Where rounding left nothing, the law is kept as it is.
        left = level.laws[ends_here]
        law[level.rows[ends_here]] = xp.where(
            xp.any(left > 0, axis=-1, keepdims=True), left, law[level.rows[ends_here]]
        )
    return verdict_at(parents, end, sample(law, draws.bonus))


def traversal_rates(
    parents: Array, tokens: Array, draft_probs: Array, target_probs: Array, *, replacement: bool
) -> tuple[Array, list[Level]]:
    """Rate ``[B, N]`` at which each node is accepted when its turn comes, and the laws left then, by depth."""
    xp = array_namespace(parents, target_probs)
    num_nodes = parents.shape[1]
    first_child, next_sibling = family(parents)
    # One column more than nodes: what is written for a child that does not exist goes there.
    rates = xp.zeros((parents.shape[0], num_nodes + 1), dtype=target_probs.dtype, device=device(target_probs))
    rates[:, 0] = 1
    above, every = parents.clip(min=0), row_numbers(parents)[:, None]
    at_level = parents == -1
    levels: list[Level] = []
    while True:
        rows, nodes = xp.nonzero(at_level & (first_child >= 0))
        if rows.shape[0] == 0:
            return rates[:, :num_nodes], levels
        places = row_numbers(rows)
        rate, child, proposal = rates[rows, nodes], first_child[rows, nodes], draft_probs[rows, nodes]
        scaled = rate[:, None] * target_probs[rows, nodes]  # the rate a times the law t: its sum is a
        while bool(xp.any(exists := child >= 0)):
            token = tokens[rows, child]
            drawn, mass = proposal[places, token], xp.sum(proposal, axis=-1)
            was_drawn = exists & (drawn > 0)
            # The proposal normalised, and nothing where no child is deleted or it was not drawn. Divided and not
            # multiplied by 1 / mass: what is left after deletions may be so small that its inverse overflows.
            law = proposal / xp.where(was_drawn, mass, xp.ones_like(mass))[:, None]
            law = xp.where(was_drawn[:, None], law, xp.zeros_like(law))
            drawn = law[places, token]
            accept = xp.minimum(scaled[places, token], drawn) / xp.where(was_drawn, drawn, xp.ones_like(drawn))
            rates[rows, xp.where(exists, child, num_nodes)] = accept
            scaled, rate = _after_deletion(scaled, rate, law)
            if not replacement:
                proposal[places, token] = 0
            child = xp.where(exists, next_sibling[rows, child], child)
        rates[rows, nodes] = rate
        levels.append(Level(rows, nodes, scaled))
        at_level = at_level[every, above] & (parents >= 0)


def _after_deletion(scaled: Array, rate: Array, proposal: Array) -> tuple[Array, Array]:
    """Law times rate ``[K, V]`` and rate ``[K]`` of nodes that lost a child: ``a t := (a t - d)+ / (S + 1 - a)``."""
    xp = array_namespace(scaled)
    gain = (scaled - proposal).clip(min=0.0)
    mass = xp.sum(gain, axis=-1)
    total = mass + (1 - rate)
    # It vanishes only where the laws are equal and the rate is 1: the child had rate 1 as well.
    total = xp.where(total > 0, total, xp.ones_like(total))
    return gain / total[:, None], mass / total


def _first_success(parents: Array, succeeds: Array, num_levels: int) -> Array:
    """The node ``[B]`` that succeeds first when every node comes after its descendants, elder siblings first."""
    xp = array_namespace(parents)
    of = is_child(parents)
    below = succeeds
    for _ in range(num_levels):
        below = succeeds | xp.any(of & below[:, None, :], axis=-1)
    node = xp.zeros_like(parents[:, 0])
    while True:
        hopeful = (parents == node[:, None]) & below
        found = xp.any(hopeful, axis=1)
        if not bool(xp.any(found)):
            return node
        node = xp.where(found, xp.argmax(xp.astype(hopeful, xp.uint8), axis=1), node)


def traversal_outcome(
    parents: Array, tokens: Array, draft_probs: Array, target_probs: Array, *, replacement: bool
) -> tuple[Array, Array]:
    """Exclusive acceptance ``[B, N]`` and bonus laws ``[B, N, V]`` of :func:`traversal`; see ``Outcome``."""
    xp = array_namespace(parents, target_probs)
    rates, levels = traversal_rates(parents, tokens, draft_probs, target_probs, replacement=replacement)
    bonus_probs = xp.asarray(target_probs, copy=True)
    for level in levels:
        here = level.rows, level.nodes
        bonus_probs[here] = normalised(level.laws, bonus_probs[here])
    return accept_probs_of_coins(parents, rates), bonus_probs


def accept_probs_of_coins(parents: Array, rates: Array) -> Array:
    """Probability that a node lies on the accepted path, given that its parent does, ``[B, N]``.

    That is: no subtree of an elder sibling has a success, and its own has one, given that the parent's has one.
    """
    xp = array_namespace(parents)
    ids = xp.arange(parents.shape[1], device=device(parents))
    of, ones = is_child(parents), xp.ones_like(rates)
    none = 1 - rates  # no success in the subtree
    for _ in range(int(xp.max(depths(parents)))):
        none = (1 - rates) * xp.prod(xp.where(of, none[:, None, :], ones[:, None, :]), axis=-1)
    is_elder = (parents[:, :, None] == parents[:, None, :]) & (ids < ids[:, None])
    elders_fail = xp.prod(xp.where(is_elder, none[:, None, :], ones[:, None, :]), axis=-1)
    rows = row_numbers(parents)[:, None]
    some = (1 - none)[rows, parents.clip(min=0)]
    accept = xp.where(some > 0, elders_fail * (1 - none) / xp.where(some > 0, some, ones), 0 * ones)
    return xp.where(parents >= 0, accept, xp.astype(parents == -1, rates.dtype))
