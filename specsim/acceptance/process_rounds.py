"""The exact law of rounds that verify a static tree in the synthetic world, without playing one.

Nodes are independent given their regimes, so a round is a Markov chain over (node, regime): what is accepted, and in
which regime the next round begins. Means over nodes run over the world's table of them, so they are its true means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.process import NUM_NODE_TYPES, Float, TokenProcess, laws_of_types, node_types
from specsim.acceptance.process_greedy import greedy_accept
from specsim.decoding import sample_children
from specsim.decoding.rules.rejection import accept_prob_and_residual
from specsim.errors import InputError
from specsim.tree import DraftTree

Array = NDArray[np.float64]
Equal = Literal["rounds", "tokens"]
"""What all requests have the same number of: requests of as many tokens have more rounds where these bring few."""

NUM_OFFSETS: Final = 3
"""Requests that stand for all: nodes of a Gauss-Hermite rule."""

_GRID: Final = np.linspace(-4.5, 4.5, 37)


class NodeMeans(NamedTuple):
    """Means over all nodes of one regime, kind of request and depth, axes ``[request, regime, depth, ...]``.

    Attributes:
        accept: ``[..., rank]`` probability that this candidate is the accepted child.
        confidence: ``[..., 4]`` of the first candidate: draft probability c, its square, c where it is accepted, and
            its target probability.
    """

    accept: Array
    confidence: Array


@dataclass(frozen=True, eq=False)
class StaticRounds:
    """Rounds of one tree; requests differ by an offset, regimes are hard and easy.

    Attributes:
        weights: ``[x]`` share of each kind of request among requests.
        stop: ``[x, regime at the root, depth accepted, regime at the next root]`` probabilities.
        start: ``[x, regime]`` at the root, in the long run.
        tried: ``[x, depth]`` first candidates of accepted parents that a round has, by the parent's depth.
        confidence: ``[x, 4]`` sums over these, see ``NodeMeans``.
        accepted: ``[x, depth, rank]`` how often a round accepts a node there.
    """

    weights: Array
    stop: Array
    start: Array
    tried: Array
    confidence: Array
    accepted: Array

    @property
    def tokens_by_request(self) -> Array:
        """Mean tokens per round of each kind of request, ``[x]``."""
        return 1 + np.asarray(self.pmf_by_request @ np.arange(self.stop.shape[2]))

    @property
    def pmf_by_request(self) -> Array:
        """``[x, accepted]`` probability that a round accepts so many."""
        return np.asarray(np.einsum("xe,xeln->xl", self.start, self.stop))

    def share(self, equal: Equal) -> Array:
        """``[x]`` share of each kind of request among rounds."""
        weights = self.weights / (self.tokens_by_request if equal == "tokens" else 1.0)
        return np.asarray(weights / weights.sum())

    def tokens_per_round(self, equal: Equal) -> float:
        """Mean over all rounds, bonus token in."""
        return float(self.share(equal) @ self.tokens_by_request)

    def pmf(self, equal: Equal) -> Array:
        """``[accepted]`` over all rounds."""
        return np.asarray(self.share(equal) @ self.pmf_by_request)

    def accept_prob(self, equal: Equal) -> Array:
        """``[depth, rank]`` as an ``AcceptanceProfile`` has it: given that the parent was accepted."""
        share = self.share(equal)
        tried = np.maximum(share @ self.tried, 1e-300)
        return np.asarray(np.einsum("x,xdr->dr", share, self.accepted) / tried[:, None])

    def request_sd(self) -> float:
        """Standard deviation of a request's own mean tokens per round, over requests."""
        mean = self.weights @ self.tokens_by_request
        return float(np.sqrt(self.weights @ (self.tokens_by_request - mean) ** 2))

    def lag1(self, equal: Equal) -> float:
        """Correlation of accepted lengths of consecutive rounds, over all pairs of one request."""
        share, lengths = self.share(equal), np.arange(self.stop.shape[2], dtype=float)
        following = np.einsum("xeln,l->xe", self.stop, lengths)
        both = share @ np.einsum("xe,xeln,l,xn->x", self.start, self.stop, lengths, following)
        pmf = self.pmf(equal)
        mean, square = pmf @ lengths, pmf @ lengths**2
        return float((both - mean**2) / (square - mean**2)) if square > mean**2 else 0.0


def static_rounds(
    process: TokenProcess,
    tree: DraftTree,
    temperature: float,
    *,
    sampled: bool,
    num_types: int = NUM_NODE_TYPES,
    offsets: Array | None = None,
    with_confidence: bool = True,
) -> StaticRounds:
    """The law of rounds that verify ``tree``.

    Args:
        process: The world.
        tree: Its ranks are the drafter's, best first, or draws in order.
        temperature: 0, where the best token decides, or above.
        sampled: Candidates are drawn and judged by (recursive) rejection; else the most probable ones, and the target's
            own choice is followed (rules greedy and one_hot).
        num_types: Rows of the world's table to average over; fewer are quicker, and of a slightly different world.
        offsets: Kinds of requests; left out, those that stand for all.
        with_confidence: Also work out how sure the drafter is; without it temperature 0 takes a hundredth of the time.

    Raises:
        InputError: for more ranks than candidates, or draws at temperature 0.

    >>> even = TokenProcess(sharpness_sd=0, regime_gap=0, request_sd=0)  # i.i.d. acceptance
    >>> chain = static_rounds(even, DraftTree.chain(3), 1.0, sampled=True)
    >>> alpha = chain.accept_prob("rounds")[0, 0]
    >>> bool(np.isclose(chain.tokens_per_round("rounds"), (1 - alpha**4) / (1 - alpha)))
    True
    """
    if offsets is None:
        offsets, weights = request_kinds(process)
    else:
        weights = np.full(len(offsets), 1 / len(offsets))
    args = process, tree, temperature, offsets
    means = node_means(*args, sampled=sampled, num_types=num_types, with_confidence=with_confidence)
    return played(process, tree, means, weights)


def request_kinds(process: TokenProcess) -> tuple[Array, Array]:
    """Offsets of the requests that stand for all, and their weights."""
    if not process.request_sd:
        return np.zeros(1), np.ones(1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(NUM_OFFSETS)
    return nodes, weights / weights.sum()


def node_means(
    process: TokenProcess,
    tree: DraftTree,
    temperature: float,
    offsets: Array,
    *,
    sampled: bool,
    num_types: int,
    with_confidence: bool = True,
) -> NodeMeans:
    """What happens at nodes of each kind, to the depth and the ranks of the tree; of smaller trees it is a part."""
    if sampled and temperature == 0:
        raise InputError("temperature", "must be > 0 where drafts are sampled", temperature)
    num_ranks, depth = 1 + max(tree.ranks), tree.depth
    if num_ranks > process.num_candidates:
        raise InputError("tree rank", f"must be < {process.num_candidates}, the candidates", max(tree.ranks))
    if temperature == 0 and not with_confidence:
        accept = greedy_accept(process, offsets, depth, num_ranks)
        return NodeMeans(accept, np.zeros((*accept.shape[:3], 4)))
    types = node_types(process, num_types)
    accept, confidence = np.zeros((len(offsets), 2, depth, num_ranks)), np.zeros((len(offsets), 2, depth, 4))
    num_depths = depth if process.decay else min(depth, 1)
    for x, offset in enumerate(offsets):
        for easy in (0, 1):
            for d in range(num_depths):
                draft, _, target, _ = laws_of_types(
                    process, types, bool(easy), float(offset), d, temperature if sampled else 1.0
                )
                if not sampled and temperature not in (0.0, 1.0):
                    target = laws_of_types(process, types, bool(easy), float(offset), d, temperature)[2]
                judge = _drawn if sampled else _followed
                accept[x, easy, d], confidence[x, easy, d] = judge(draft, target, num_ranks, temperature)
            accept[x, easy, num_depths:] = accept[x, easy, : min(num_depths, 1)]
            confidence[x, easy, num_depths:] = confidence[x, easy, : min(num_depths, 1)]
    if temperature == 0 and num_types < NUM_NODE_TYPES:
        accept = greedy_accept(process, offsets, depth, num_ranks)  # few nodes tell it less well
    return NodeMeans(accept, confidence)


def _followed(draft: Float, target: Float, num_ranks: int, temperature: float) -> tuple[Array, Array]:
    """The most probable candidates; the target's own choice decides."""
    order = draft.argmax(-1)[:, None] if num_ranks == 1 else np.argsort(-draft, axis=-1)[:, :num_ranks]
    chance = (order == 0).astype(float) if temperature == 0 else np.take_along_axis(target, order, axis=-1)
    sure = np.take_along_axis(draft, order[:, :1], axis=-1)[:, 0]
    return chance.mean(axis=0, dtype=float), _moments(sure, sure**2, sure * chance[:, 0], chance[:, 0])


def _drawn(draft: Float, target: Float, num_ranks: int, temperature: float) -> tuple[Array, Array]:
    """Candidates drawn in order without replacement; recursive rejection decides."""
    both = np.minimum(draft, target)
    moments = _moments(*(values.sum(-1) for values in (draft**2, draft**3, draft * both, draft * target)))
    if num_ranks == 1:
        return both.sum(axis=-1).mean(axis=0, keepdims=True, dtype=float), moments
    ours, theirs = (np.pad(law, ((0, 0), (0, 2))) for law in (draft, target))
    ours[:, -2], theirs[:, -1] = 1 - draft.sum(-1), 1 - target.sum(-1)
    uniforms = np.random.default_rng(0).random((len(draft), num_ranks), dtype=np.float32)
    tokens = sample_children(np.maximum(ours, 0), uniforms)
    refused, accepted = np.ones_like(uniforms[:, 0]), []
    for token in tokens.T:
        accept, theirs, ours = accept_prob_and_residual(theirs, ours, token)
        accepted.append((refused * accept).mean(dtype=float))
        refused = refused * (1 - accept)
    return np.array(accepted), moments


def _moments(*values: Float) -> Array:
    return np.array([value.mean(dtype=float) for value in values])


def played(process: TokenProcess, tree: DraftTree, means: NodeMeans, weights: Array) -> StaticRounds:
    """Rounds of a tree whose nodes behave like this."""
    steps, children = process.regime_steps, tree.children
    num, depth = len(weights), tree.depth
    # reach[node]: [x, regime at the root, regime at the node], the node accepted.
    reach = {0: np.broadcast_to(np.eye(2), (num, 2, 2))}
    stop = np.zeros((num, 2, depth + 1, 2))
    tried = np.zeros((num, 2, depth))
    confidence = np.zeros((num, 2, 4))
    accepted = np.zeros((num, 2, depth, 1 + max(tree.ranks)))
    for node in range(tree.num_nodes):
        here, level = reach[node], int(tree.depths[node])
        left = here
        for child in children[node]:
            rank = tree.ranks[child]
            taken = here * means.accept[:, None, :, level, rank]
            reach[child], left = taken @ steps, left - taken
            accepted[:, :, level, rank] += taken.sum(-1)
            if rank == 0:
                tried[:, :, level] += here.sum(-1)
                confidence += np.einsum("xab,xbm->xam", here, means.confidence[:, :, level])
        stop[:, :, level] += np.maximum(left, 0) @ steps
    start = _stationary(stop.sum(axis=2))
    mixed = (np.einsum("xa,xa...->x...", start, values) for values in (tried, confidence, accepted))
    return StaticRounds(weights, stop, start, *mixed)


def _stationary(steps: Array) -> Array:
    """Long-run shares ``[x, 2]`` of a chain over two states with ``steps[x, from, to]``."""
    up, down = steps[:, 0, 1], steps[:, 1, 0]
    return np.stack([down, up], axis=-1) / np.maximum(up + down, 1e-300)[:, None]


def sample_static_rounds(
    process: TokenProcess,
    tree: DraftTree,
    temperature: float,
    num_rounds: int,
    num_requests: int,
    rng: np.random.Generator,
    *,
    sampled: bool,
) -> NDArray[np.int64]:
    """Tokens emitted ``[round, request]``: as ``sim.rounds`` would play them, from one uniform number each.

    The law of a request's rounds is interpolated between requests whose laws are worked out.
    """
    law = static_rounds(process, tree, temperature, sampled=sampled, offsets=_GRID)
    offsets, state = np.clip(rng.standard_normal(num_requests), _GRID[0], _GRID[-1]), rng.random(num_requests)
    place = np.clip(np.searchsorted(_GRID, offsets) - 1, 0, len(_GRID) - 2)
    part = ((offsets - _GRID[place]) / (_GRID[1] - _GRID[0]))[:, None, None]
    upto = np.cumsum(law.stop.reshape(len(_GRID), 2, -1), axis=-1)
    upto = ((1 - part) * upto[place] + part * upto[place + 1]).astype(np.float32)[:, :, :-1]
    bounds = np.ascontiguousarray(upto.transpose(1, 2, 0))  # [regime, outcome, request]
    emitted = np.empty((num_rounds, num_requests), dtype=np.int64)
    is_easy = state < process.easy_share
    for number in range(num_rounds):
        uniform = rng.random(num_requests, dtype=np.float32)
        outcomes = np.where(is_easy, (uniform >= bounds[1]).sum(axis=0), (uniform >= bounds[0]).sum(axis=0))
        emitted[number], is_easy = 1 + outcomes // 2, outcomes % 2 == 1
    return emitted
