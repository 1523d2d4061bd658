"""Rules that let the target choose first and then follow the tree as long as it agrees."""

from __future__ import annotations

from collections.abc import Callable

from specsim.decoding.arrays import Array, array_namespace, device, row_numbers
from specsim.decoding.rules.verdict import Draws, Verdict, verdict
from specsim.decoding.sampling import sample


def greedy(parents: Array, tokens: Array, target_probs: Array) -> Verdict:
    """Follow the target's most probable token while it is a child; that token where it is none is the bonus.

    Reproduces greedy decoding of the target token for token (ties to the lowest id), whatever the tree. Only the
    argmax of ``target_probs[B, N, V]`` is read, so logits do as well.

    >>> import numpy as np
    >>> laws = np.array([[[0.1, 0.9], [0.8, 0.2]]])
    >>> kept = greedy(np.array([[-1, 0]]), np.array([[0, 1]]), laws)
    >>> kept.path.tolist(), kept.bonus.tolist()
    ([[0, 1]], [0])
    """
    return followed(parents, tokens, array_namespace(target_probs).argmax(target_probs, axis=-1))


def one_hot(parents: Array, tokens: Array, target_probs: Array, draws: Draws) -> Verdict:
    """Draw the target's token, follow it while it is a child; where it is none it is the bonus.

    The law is that of accepting child x with the residual probability r(x), else setting r(x) := 0 and
    renormalising: rejection sampling from proposals that put all mass on one token, as EAGLE-2 (Li et al. 2024,
    arXiv:2406.16858) does at temperature above 0. Lossless for any tree that was chosen without knowing the
    draws, pruned by confidence or not, because every emitted token is the target's own sample.

    ``draws.accept[:, n]`` draws the token after node n; ``draws.bonus`` is not used.

    >>> import numpy as np
    >>> laws, draws = np.array([[[0.1, 0.9], [0.8, 0.2]]]), Draws(np.array([[0.5, 0.9]]), np.array([0.0]))
    >>> kept = one_hot(np.array([[-1, 0]]), np.array([[0, 1]]), laws, draws)
    >>> kept.path.tolist(), kept.bonus.tolist()
    ([[0, 1]], [1])
    """
    rows = row_numbers(parents)
    return follow(parents, tokens, lambda node: sample(target_probs[rows, node], draws.accept[rows, node]))


def followed(parents: Array, tokens: Array, chosen: Array) -> Verdict:
    """The verdict of ``follow`` where the target's token ``chosen[B, N]`` after every node is at hand.

    A walk along lists: on the few trees that a processor verifies at a time, one pass over each tree's nodes, of which
    parents come first, takes a third of the time of array functions, which follow all trees a level at a time.
    """
    xp, where, chosen_after = array_namespace(chosen), device(chosen), chosen.tolist()
    paths = []
    for above, token_of, wanted in zip(parents.tolist(), tokens.tolist(), chosen_after, strict=True):
        path = [0]
        for node in range(1, len(above)):
            if above[node] == path[-1] and token_of[node] == wanted[path[-1]]:
                path.append(node)
        paths.append(path)
    bonus = [wanted[path[-1]] for wanted, path in zip(chosen_after, paths, strict=True)]
    most = max(map(len, paths))
    padded = [path + [-1] * (most - len(path)) for path in paths]
    num_accepted = [len(path) - 1 for path in paths]
    return Verdict(*(xp.asarray(values, dtype=xp.int64, device=where) for values in (padded, num_accepted, bonus)))


def follow(parents: Array, tokens: Array, choose: Callable[[Array], Array]) -> Verdict:
    """Walk from the root to the child that holds the token chosen at the present node, until there is none.

    Args:
        parents: ``[B, N]``.
        tokens: ``[B, N]``; of siblings with equal tokens the eldest is taken.
        choose: The target's token ``[B]`` after ``node[B]``; always the same for the same node.
    """
    xp, rows = array_namespace(parents, tokens), row_numbers(parents)
    node = xp.zeros_like(parents[:, 0])
    path = [node]
    while True:
        chosen = choose(node)
        hit = (parents == node[:, None]) & (tokens == chosen[:, None])
        child = xp.argmax(xp.astype(hit, xp.uint8), axis=1)
        found = hit[rows, child]
        if not bool(found.any()):
            return verdict(xp.stack(path, axis=1), chosen)
        # A row that has ended stays at its last node, and never finds a child there.
        node = xp.where(found, child, node)
        path.append(xp.where(found, child, -1))
