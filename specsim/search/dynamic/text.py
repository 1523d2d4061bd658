"""What tree policies do at every position of texts that a process writes.

The text is the target's own whatever is drafted, so it is written first, and all policies decode the same one: a round
that begins at a position emits the longest path of its tree that the text follows, and one token more. That is the
greedy rule at temperature 0 and the one-hot rule above, whose accepted path follows the target's own draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.process import TextNodes, TokenProcess, children_of, draft_laws, first_roots, target_laws
from specsim.decoding import DraftState, TokenTree, TreePolicy, sample
from specsim.decoding.arrays import depths, pick
from specsim.decoding.rules.follow import follow
from specsim.errors import InputError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Laws = Callable[[DraftState], Any]

CHUNK = 384
"""Positions grown at a time: as many keep the laws of a wide level in cache."""


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts of a process, ``[request, position]``.

    Args:
        process, temperature: What wrote them.
        nodes: Of each position.
        tokens: Likewise; the token after position t stands at t + 1.
        num_roots: Rounds may begin at so many positions, from the first; what follows is there to be emitted.
    """

    process: TokenProcess
    temperature: float
    nodes: TextNodes
    tokens: Ints
    num_roots: int

    @property
    def num_requests(self) -> int:
        """Texts."""
        return int(self.tokens.shape[0])


def written(
    process: TokenProcess,
    temperature: float,
    num_requests: int,
    num_roots: int,
    reach: int,
    rng: np.random.Generator,
) -> Texts:
    """Texts of ``num_roots`` positions and ``reach`` more, what the deepest tree can emit.

    >>> texts = written(TokenProcess(), 0.0, 2, 3, 1, np.random.default_rng(0))
    >>> texts.tokens.tolist()  # at temperature 0 the target takes its best token, which is 0
    [[0, 0, 0, 0], [0, 0, 0, 0]]
    """
    for name, value in (("num_requests", num_requests), ("num_roots", num_roots)):
        if value < 1:
            raise InputError(name, "must be >= 1", value)
    if temperature < 0:
        raise InputError("temperature", "must be >= 0", temperature)
    node = first_roots(process, rng, num_requests)
    nodes, tokens = [node], [np.zeros(num_requests, dtype=np.int64)]
    for _ in range(num_roots + reach - 1):
        token = np.zeros(num_requests, dtype=np.int64)
        if temperature > 0:
            token = np.asarray(sample(target_laws(process, node, temperature), rng.random(num_requests)))
        node = children_of(process, node, token).as_roots()
        nodes.append(node)
        tokens.append(token)
    columns = (np.stack([getattr(n, name) for n in nodes], axis=1) for name in ("key", "is_easy", "offset", "depth"))
    return Texts(process, temperature, TextNodes(*columns), np.stack(tokens, axis=1), num_roots)


class Pool:
    """The nodes of the process behind those of a ``DraftState``, found as policies run them."""

    def __init__(self, process: TokenProcess, roots: TextNodes) -> None:
        self.process = process
        self.rows = np.arange(len(roots.key))[:, None]
        self.nodes = roots.at((slice(None), None))

    def draft_laws(self, state: DraftState) -> Any:
        """How sure the drafter is of each candidate after the frontier's nodes, ``[B, F, V]``."""
        return draft_laws(self.process, self.visit(state), with_tail=False)

    def visit(self, state: DraftState) -> TextNodes:
        """The frontier's nodes; parents must have been visited."""
        ids, width = state.frontier, state.tokens.shape[1]
        if width == 1:
            return self.nodes.at((self.rows, np.maximum(ids, 0)))
        old = self.nodes
        more = width + 1 - old.key.shape[1]  # the last column takes what is written for padding

        def wider(values: NDArray[Any]) -> NDArray[Any]:
            return np.concatenate((values, np.zeros((len(values), more), dtype=values.dtype)), axis=1)

        offset = np.broadcast_to(old.offset[:, :1], (len(old.key), width + 1))
        self.nodes = TextNodes(wider(old.key), wider(old.is_easy), offset, wider(old.depth))
        above = self.nodes.at((self.rows, np.maximum(pick(state.parents, ids), 0)))
        nodes = children_of(self.process, above, np.asarray(pick(state.tokens, ids)))
        for name in ("key", "is_easy", "depth"):
            getattr(self.nodes, name)[self.rows, ids] = getattr(nodes, name)
        return nodes


def grown(policy: TreePolicy, num_rows: int, laws: Laws) -> list[DraftState]:
    """The states of a round after each expansion, the bare root first; ``laws`` answers for the frontier."""
    states = [policy.start(np.zeros(num_rows, dtype=np.int64))]
    while states[-1].frontier.shape[1]:
        states.append(policy.expand(states[-1], laws(states[-1])))
    return states


@dataclass(frozen=True, eq=False)
class Rounds:
    """Rounds of one policy, one for each root, arrays ``[..., root]``.

    Args:
        emitted: Tokens, bonus in; expected ones where the verdict is not known.
        num_nodes: Verified, root in.
        widths: ``[..., root, pass]`` nodes run in each draft pass, 0 where there was none.
    """

    emitted: Floats
    num_nodes: Ints
    widths: Ints


def rounds_of(states: list[DraftState], variants: list[tuple[TreePolicy, int]], texts: Ints) -> list[Rounds]:
    """Rounds of policies that share a growth, each of which stops it after so many expansions.

    Args:
        states: As ``grown`` gives them.
        variants: Each policy, and the expansions that it makes at most.
        texts: ``[root, reach]`` the tokens that follow.
    """
    found = []
    runs = [np.asarray((state.frontier >= 0).sum(axis=1)) for state in states[:-1]]
    for policy, num_passes in variants:
        made = min(num_passes, len(states) - 1)
        tree = policy.select(states[made])
        widths = np.zeros((len(texts), num_passes), dtype=np.int64)
        if made:
            widths[:, :made] = np.stack(runs[:made], axis=1)
        num_nodes = np.asarray((tree.parents >= -1).sum(axis=1))
        found.append(Rounds(1.0 + followed(tree, texts), num_nodes, widths))
    return found


def followed(tree: TokenTree, texts: Ints) -> Floats:
    """How far each text ``[B, reach]`` goes along its tree, ``[B]``."""
    rows, depth = np.arange(len(texts)), depths(tree.parents)
    padded = np.concatenate((texts, np.full((len(texts), 1), -1)), axis=1)
    reach = texts.shape[1]
    kept = follow(tree.parents, tree.tokens, lambda node: padded[rows, np.minimum(depth[rows, node], reach)])
    return np.asarray(kept.num_accepted, dtype=float)


def rounds_everywhere(texts: Texts, growth: TreePolicy, variants: list[tuple[TreePolicy, int]]) -> list[Rounds]:
    """Rounds ``[request, root]`` of policies that share the growth of ``growth``, at every root of the texts."""
    if growth.draw != "top":
        raise InputError(
            "policy.draw", "must be top: the text alone does not tell what a sampled draft was", growth.draw
        )
    reach = texts.tokens.shape[1] - texts.num_roots
    if growth.limits.depth > reach:
        raise InputError("texts", f"must reach {growth.limits.depth} tokens beyond the last root", reach)
    per_chunk = max(1, CHUNK // texts.num_roots)
    parts: list[list[Rounds]] = []
    for begin in range(0, texts.num_requests, per_chunk):
        some = slice(begin, begin + per_chunk)
        nodes = texts.nodes.at((some, slice(None, texts.num_roots)))
        roots = TextNodes(*(getattr(nodes, n).reshape(-1) for n in ("key", "is_easy", "offset", "depth")))
        after = np.lib.stride_tricks.sliding_window_view(texts.tokens[some, 1:], reach, axis=1)[:, : texts.num_roots]
        states = grown(growth, len(roots.key), Pool(texts.process, roots).draft_laws)
        parts.append(rounds_of(states, variants, after.reshape(len(roots.key), reach)))
    return [_joined([part[i] for part in parts], texts.num_roots) for i in range(len(variants))]


def _joined(parts: list[Rounds], num_roots: int) -> Rounds:
    emitted, nodes, widths = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("emitted", "num_nodes", "widths")
    )
    shape = (len(emitted) // num_roots, num_roots)
    return Rounds(emitted.reshape(shape), nodes.reshape(shape), widths.reshape(*shape, widths.shape[-1]))


def visits(emitted: NDArray[Any], num_starts: int, first: int) -> Ints:
    """How often rounds begin at each root, ``[request, root]``, when texts are walked from each of the first roots.

    Args:
        emitted: ``[request, root]`` tokens of the round that begins there, whole numbers.
        num_starts: Walks of each text, begun at roots 0, 1, ...; those that meet go on together, and count twice.
        first: Rounds before this root are not counted: they are not yet where rounds usually begin.

    >>> visits(np.array([[2, 1, 2, 1, 2]]), num_starts=1, first=0).tolist()
    [[1, 0, 1, 0, 1]]
    """
    num_requests, num_roots = emitted.shape
    here = np.zeros((num_requests, num_roots), dtype=np.int64)
    here[:, :num_starts] = 1
    rows, steps = np.arange(num_requests), emitted.astype(np.int64)
    for root in range(num_roots):
        after = root + steps[:, root]
        inside = after < num_roots
        here[rows[inside], after[inside]] += here[rows[inside], root]
    here[:, :first] = 0
    return here
