"""What a tree policy grows: the pool of drafted nodes, the frontier to run next, and the tree that is kept.

One round, for any policy (``draft_law`` runs the draft model on the frontier)::

    state = policy.start(root_tokens)
    while state.frontier.shape[1]:
        probs = draft_law(state)                                              # [B, F, V]
        state = policy.expand(state, probs, uniforms(state.uniforms_shape(V)))
    tree = policy.select(state)
    verdict = verify(rule, tree.parents, tree.tokens, draft_laws(state, tree, V), target_probs, draws)

A static tree gives every row the same shape; a dynamic policy fills rows of unequal size with padding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias

from specsim.decoding.arrays import PADDING, ROOT_PARENT, Array, array_namespace, device, pick, row_numbers

Draw: TypeAlias = Literal["top", "sampled", "sampled_with_replacement"]
"""How children are chosen: the most probable ones, or samples without or with replacement in the order drawn."""


PER_TOKEN: Final = -1
"""Number of draws of a policy that perturbs every token, whatever the size of the vocabulary."""


@dataclass(frozen=True, eq=False)
class DraftState:
    """Everything drafted so far in this round, and what the drafter runs next.

    Attributes:
        parents: ``[B, M]`` pool id of each node's parent; -1 for the root (node 0), -2 for padding.
        tokens: ``[B, M]`` token of each node.
        probs: ``[B, M]`` draft probability of each node's token after its parent; 1 for the root, 0 for padding.
        path_probs: ``[B, M]`` product of these from the root down to each node, never above its parent's.
        frontier: ``[B, F]`` pool ids to run the draft model on next, -1 for padding. F = 0: drafting has ended.
        num_draws: Uniforms that each frontier node needs in the next ``expand``; 0 where nothing is sampled,
            PER_TOKEN for one for each token of the vocabulary.
        expanded: ``[B, E]`` pool ids run so far, in that order.
        laws: One ``[B, F, V]`` per expansion: the draft law after each node run; E is the sum of their F.
        scores: ``[B, M]`` what the policy ranks nodes by, where that is not their path_probs.
    """

    parents: Array
    tokens: Array
    probs: Array
    path_probs: Array
    frontier: Array
    num_draws: int
    expanded: Array
    laws: tuple[Array, ...] = ()
    scores: Array | None = None

    def uniforms_shape(self, vocab_size: int) -> tuple[int, int, int]:
        """Shape of the uniforms that the next ``expand`` needs."""
        num_draws = vocab_size if self.num_draws == PER_TOKEN else self.num_draws
        return (*self.frontier.shape, num_draws)

    def grown(
        self, draft_probs: Array, columns: Array, tokens: Array, frontier: Array | None = None, num_draws: int = 0
    ) -> DraftState:
        """The state after one expansion, before the policy looks at the new nodes to choose the next frontier.

        Args:
            draft_probs: ``[B, F, V]`` law after each node of the present frontier.
            columns: ``[B, W]`` column in the present frontier of each new node's parent, -1 for padding.
            tokens: ``[B, W]`` the new nodes' tokens; their pool ids are M, M + 1, ...
            frontier: ``[B, F']`` the next frontier, if it is known already; left out, drafting ends.
            num_draws: Uniforms that each node of it will need.
        """
        xp = array_namespace(draft_probs, tokens)
        is_node = columns >= 0
        above = pick(self.frontier, columns)
        parents = xp.concat([self.parents, xp.where(is_node, above, PADDING)], axis=1)
        expanded = xp.concat([self.expanded, self.frontier], axis=1)
        following = self.frontier[:, :0] if frontier is None else frontier
        probs = draft_probs[row_numbers(tokens)[:, None], columns, tokens] * is_node
        return self.joined(draft_probs, tokens, probs, above, parents, expanded, following, num_draws)

    def joined(
        self,
        draft_probs: Array,
        tokens: Array,
        probs: Array,
        above: Array,
        parents: Array,
        expanded: Array,
        frontier: Array,
        num_draws: int,
    ) -> DraftState:
        """The same where the shape is known: ``parents`` and ``expanded`` are those of all nodes, old and new.

        Args:
            draft_probs: ``[B, F, V]``.
            tokens: ``[B, W]`` of the new nodes, and ``probs`` of these.
            above: ``[B, W]`` pool ids of the new nodes' parents; any where ``probs`` is 0.
        """
        xp = array_namespace(draft_probs, tokens)
        before = pick(self.path_probs, above)
        # A law that rounding lets exceed 1 must not put a child above its parent.
        path_probs = xp.minimum(before * probs, before)
        return DraftState(
            parents=parents,
            tokens=xp.concat([self.tokens, tokens], axis=1),
            probs=xp.concat([_as(self.probs, probs.dtype), probs], axis=1),
            path_probs=xp.concat([_as(self.path_probs, probs.dtype), path_probs], axis=1),
            frontier=frontier,
            num_draws=num_draws,
            expanded=expanded,
            laws=(*self.laws, draft_probs),
        )

    def then(self, frontier: Array, num_draws: int = 0) -> DraftState:
        """The same state, to run ``frontier[B, F]`` next."""
        return replace(self, frontier=frontier, num_draws=num_draws)


@dataclass(frozen=True, eq=False)
class TokenTree:
    """The nodes that the target verifies, all ``[B, N]``, root first and every parent before its children.

    Attributes:
        parents: Index within the tree; -1 for the root, -2 for padding.
        tokens: Token of each node.
        probs: Draft probability of each node's token after its parent.
        nodes: Pool id of each node (where the drafter keeps what it computed for it), -1 for padding.
    """

    parents: Array
    tokens: Array
    probs: Array
    nodes: Array


class Limits(NamedTuple):
    """The most that a policy can ask for in one round and row, whatever the laws: what caches and drafters must hold.

    Rows that grow differently pad each other, so the columns of a batch can be more than any of its rows needs.

    Attributes:
        nodes: Nodes verified, root in.
        depth: Levels below the root, which is the number of tokens that can be accepted.
        passes: Expansions, that is passes of an autoregressive drafter.
        expanded: Nodes that the drafter runs, root in.
    """

    nodes: int
    depth: int
    passes: int
    expanded: int


class TreePolicy(Protocol):
    """Decides which nodes are drafted and which of them are verified.

    A policy may look at a law before it draws from it, never drop a *sampled* token after looking at it: rejection
    rules then no longer reproduce the target. A policy that prunes or ranks draws "top".
    """

    @property
    def draw(self) -> Draw:
        """How it chooses children, which says what verification rule suits it."""

    @property
    def limits(self) -> Limits:
        """The most it asks for."""

    def start(self, root_tokens: Array) -> DraftState:
        """The pool with nothing but the roots ``[B]``."""

    def expand(self, state: DraftState, draft_probs: Array, uniforms: Array | None = None) -> DraftState:
        """Add children, given ``draft_probs[B, F, V]`` and, if any, uniforms of ``state.uniforms_shape(V)``."""

    def select(self, state: DraftState) -> TokenTree:
        """The tree to verify."""


def _as(values: Array, dtype: Any) -> Array:
    return values if values.dtype == dtype else array_namespace(values).astype(values, dtype)


def rooted(root_tokens: Array, num_draws: int) -> DraftState:
    """The state before the first expansion: root tokens ``[B]`` as pool and as frontier.

    >>> import numpy as np
    >>> rooted(np.array([7, 8]), num_draws=1).frontier
    array([[0],
           [0]])
    """
    xp = array_namespace(root_tokens)
    parents, zeros, ones, nobody = _blank(root_tokens.shape[0], xp, device(root_tokens))
    return DraftState(
        parents=parents,
        tokens=xp.astype(root_tokens, xp.int64)[:, None],
        probs=ones,
        path_probs=ones,
        frontier=zeros,
        num_draws=num_draws,
        expanded=nobody,
    )


@lru_cache(maxsize=256)
def _blank(batch: int, xp: Any, where: Any) -> tuple[Array, Array, Array, Array]:
    """Parents, ids, probabilities and past expansions of roots alone; read only."""
    zeros = xp.zeros((batch, 1), dtype=xp.int64, device=where)
    return zeros + ROOT_PARENT, zeros, xp.ones((batch, 1), dtype=xp.float32, device=where), zeros[:, :0]


def subtree(state: DraftState, nodes: Array) -> TokenTree:
    """The tree of these pool ``nodes[B, N]`` (-1 for padding), renumbered.

    The caller gives the root first, each parent before its children, siblings in the order drawn, and no node
    without its parent.
    """
    xp = array_namespace(nodes)
    parents = xp.where(nodes >= 0, pick(state.parents, nodes), PADDING)
    position = xp.argmax(xp.astype(parents[:, :, None] == nodes[:, None, :], xp.uint8), axis=-1)
    return TokenTree(
        parents=xp.where(parents >= 0, position, parents),
        tokens=pick(state.tokens, nodes),
        probs=pick(state.probs, nodes),
        nodes=nodes,
    )


def draft_laws(state: DraftState, tree: TokenTree, vocab_size: int) -> Array:
    """Draft law after each node of the tree, ``[B, N, V]``; zeros after nodes that were never expanded.

    Only rejection rules need it: skip it for the others, it is the largest array of the round.
    """
    xp = array_namespace(tree.nodes)
    batch = tree.nodes.shape[0]
    nothing = xp.zeros((batch, 1, vocab_size), dtype=tree.probs.dtype, device=device(tree.probs))
    nobody = xp.full((batch, 1), PADDING, dtype=xp.int64, device=device(tree.nodes))
    runs = xp.concat([nobody, state.expanded], axis=1)
    same = (tree.nodes[:, :, None] == runs[:, None, :]) & (tree.nodes >= 0)[:, :, None]
    # No match leaves entry 0, the empty law.
    return pick(xp.concat([nothing, *state.laws], axis=1), xp.argmax(xp.astype(same, xp.uint8), axis=-1))


def node_probs(parents: Array, tokens: Array, laws: Array) -> Array:
    """Probability of each node's token under the law ``laws[B, N, V]`` after its parent, ``[B, N]``; 1 for the root.

    >>> import numpy as np
    >>> node_probs(np.array([[-1, 0]]), np.array([[0, 1]]), np.array([[[0.3, 0.7], [1.0, 0.0]]]))
    array([[1. , 0.7]])
    """
    xp = array_namespace(parents, laws)
    batch, num_nodes, vocab_size = laws.shape
    slots = parents.clip(min=0) * vocab_size + tokens.clip(min=0)
    probs = pick(xp.reshape(laws, (batch, num_nodes * vocab_size)), slots)
    return xp.where(parents >= 0, probs, xp.ones_like(probs))
