"""What a policy could do at best that chose each round's size knowing the target's own laws: marks to measure by.

``drafter``: of what the drafter proposes best first, each round verifies the nodes that the target is likeliest to
keep, as many as pay. ``light``: the drafter knows the target's law and costs nothing; no lossless scheme does better
with one verification per round (but for where it leaves the next round to begin, which both ignore).

At the rate as the price of time each round takes the size of the largest tokens - rate x cost, and the rate is the one
that this earns. Source: Dinkelbach 1967.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.process import TextNodes, TokenProcess, target_laws
from specsim.decoding import BestFirst, DraftState, TokenTree
from specsim.decoding.arrays import depths, path_probs, pick
from specsim.decoding.rules.follow import follow
from specsim.errors import InputError
from specsim.methods.round import play
from specsim.scenario import Deployment
from specsim.search.dynamic.text import CHUNK, Pool, Texts, grown, visits, written
from specsim.search.dynamic.totals import NUM_STARTS, WARM_ROOTS
from specsim.tree import DraftTree
from specsim.work import Pass

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Knows = Literal["drafter", "light"]

PASS_NODES = 8
"""Nodes that a pass of the search for candidates runs."""


@dataclass(frozen=True, eq=False)
class Hindsight:
    """Candidates of every round, likeliest first, arrays ``[request, root, nodes drafted]`` from 0 nodes.

    Args:
        tokens: Expected tokens of a round that verifies so many, bonus in; by the target's law.
        depth: Of the deepest of them.
        emitted: Tokens that the round then does emit on its text.
    """

    tokens: Floats
    depth: Ints
    emitted: Ints

    def rate(self, verify_s: Floats, levels_s: Floats) -> tuple[float, float]:
        """Tokens per second of a sequence, and mean nodes verified, root in.

        Args:
            verify_s: ``[nodes - 1]`` seconds of a round that verifies so many, root in.
            levels_s: ``[depth]`` seconds of drafting so deep, from 0.
        """
        num = min(len(verify_s), self.tokens.shape[-1])
        if len(levels_s) <= int(self.depth.max()):
            raise InputError("levels_s", f"must go to depth {int(self.depth.max())}", len(levels_s) - 1)
        tokens, cost = self.tokens[..., :num], verify_s[:num] + levels_s[self.depth[..., :num]]
        rate, size = 0.0, np.zeros(tokens.shape[:2], dtype=np.int64)
        for _ in range(50):
            choice = np.argmax(tokens - rate * cost, axis=-1)
            emitted = np.take_along_axis(self.emitted, choice[..., None], -1)[..., 0]
            counts = visits(emitted, NUM_STARTS, WARM_ROOTS)
            earned, spent = (
                float((counts * np.take_along_axis(part, choice[..., None], -1)[..., 0]).sum())
                for part in (tokens, cost)
            )
            if earned / spent <= rate * (1 + 1e-9):
                break
            rate, size, weight = earned / spent, choice, counts
        return rate, 1.0 + float((size * weight).sum() / weight.sum())


def hindsight(
    process: TokenProcess,
    temperature: float,
    knows: Knows,
    max_nodes: int,
    max_depth: int,
    num_requests: int,
    seed: int,
    num_roots: int = 28,
) -> Hindsight:
    """Candidates on texts that the process writes; the same seed as a table's gives the first of its texts.

    >>> light = hindsight(TokenProcess(), 0.0, "light", max_nodes=4, max_depth=3, num_requests=2, seed=0)
    >>> light.tokens[0, 0].tolist()  # at temperature 0 it drafts what the target will say
    [1.0, 2.0, 3.0, 4.0]
    """
    texts = written(process, temperature, num_requests, num_roots, max_depth, np.random.default_rng(seed))
    policy = BestFirst(max(1, max_nodes - 1), PASS_NODES, max_depth)
    per_chunk = max(1, CHUNK // num_roots)
    parts = [_chunk(texts, slice(i, i + per_chunk), policy, knows) for i in range(0, num_requests, per_chunk)]
    shape = (num_requests, num_roots, -1)
    width = max(part[0].shape[1] for part in parts)
    padded = [[np.pad(a, ((0, 0), (0, width - a.shape[1])), mode="edge") for a in part] for part in parts]
    tokens, depth, emitted = (np.concatenate([part[i] for part in padded]).reshape(shape) for i in range(3))
    return Hindsight(tokens[..., :max_nodes], depth[..., :max_nodes], emitted[..., :max_nodes])


def _chunk(texts: Texts, some: slice, policy: BestFirst, knows: Knows) -> tuple[Floats, Ints, Ints]:
    nodes = texts.nodes.at((some, slice(None, texts.num_roots)))
    roots = TextNodes(*(getattr(nodes, n).reshape(-1) for n in ("key", "is_easy", "offset", "depth")))
    reach = texts.tokens.shape[1] - texts.num_roots
    after = np.lib.stride_tricks.sliding_window_view(texts.tokens[some, 1:], reach, axis=1)[:, : texts.num_roots]
    pool = Pool(texts.process, roots)

    def known(state: DraftState) -> Floats:
        laws = target_laws(texts.process, pool.visit(state), texts.temperature)
        laws[..., -2:] = 0
        return np.asarray(laws)

    states = grown(policy, len(roots.key), known if knows == "light" else pool.draft_laws)
    tree = policy.select(states[-1])
    probs = _target_probs(texts, pool, states[-1], tree)
    return _sorted(tree, probs, after.reshape(len(roots.key), reach))


def _target_probs(texts: Texts, pool: Pool, state: DraftState, tree: TokenTree) -> Floats:
    """Target probability of each node's token after its parent, ``[B, N]``; 1 for the root."""
    parents = np.maximum(pick(tree.nodes, np.maximum(tree.parents, 0)), 0)
    above = pool.nodes.at((pool.rows, parents))
    laws = target_laws(texts.process, above, texts.temperature)
    probs = np.take_along_axis(laws, np.maximum(tree.tokens, 0)[..., None], axis=-1)[..., 0]
    return np.where(tree.parents == -1, 1.0, probs)


def _sorted(tree: TokenTree, probs: Floats, texts: Ints) -> tuple[Floats, Ints, Ints]:
    paths = path_probs(tree.parents, probs)
    order = np.argsort(-paths, axis=1, kind="stable")  # of equals the parent first; the root is first of all
    values = np.take_along_axis(paths, order, axis=1)
    depth = depths(tree.parents)
    deepest = np.maximum.accumulate(np.take_along_axis(depth, order, axis=1), axis=1)
    rows, reach = np.arange(len(texts)), texts.shape[1]
    padded = np.concatenate((texts, np.full((len(texts), 1), -1)), axis=1)
    kept = follow(tree.parents, tree.tokens, lambda node: padded[rows, np.minimum(depth[rows, node], reach)])
    is_kept = np.zeros((len(rows), paths.shape[1] + 1))
    is_kept[rows[:, None], np.where(kept.path >= 0, kept.path, -1)] = 1
    emitted = np.cumsum(np.take_along_axis(is_kept[:, :-1], order, axis=1), axis=1)
    return np.cumsum(values, axis=1), deepest, emitted.astype(np.int64)


def level_costs(deployment: Deployment, max_depth: int) -> Floats:
    """Seconds that each level of drafting takes at least: one node wide, one pending token, ``[depth - 1]``."""
    costs: list[float] = []
    for depth in range(1, max_depth + 1):
        work = play(DraftTree.chain(depth), replace(deployment.at, pending_tokens=[1.0]), deployment.drafting)
        drafting = [w for w in work if (isinstance(w, Pass) and w.role == "draft") or getattr(w, "kind", "") == "draft"]
        spent = sum(float(np.max(deployment.cost.price(w).time_s)) for w in drafting)
        costs.append(spent - sum(costs))
    return np.array(costs)
