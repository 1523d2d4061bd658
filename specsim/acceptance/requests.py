"""Rounds of many requests, each with a nature of its own and a memory, for whoever plays them in any order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.emitted import Acceptance, emitted_distribution, stop_probs
from specsim.acceptance.profile import Array
from specsim.acceptance.spread import thresholds
from specsim.errors import InputError
from specsim.tree import DraftTree

Ints = NDArray[np.int64]
Equal = Literal["rounds", "tokens"]


@dataclass(eq=False)
class RequestStates:
    """Requests under way, one row each; ``RoundSampler.draw`` changes ``step`` in place.

    Attributes:
        effect: ``[row]``, the request's own standard normal, the same for its life.
        step: ``[row]``, the memory from its last round, a standard normal.
    """

    effect: Array
    step: Array

    def __len__(self) -> int:
        return len(self.effect)

    def joined(self, more: RequestStates) -> RequestStates:
        """These rows, then those of ``more``."""
        return RequestStates(np.concatenate((self.effect, more.effect)), np.concatenate((self.step, more.step)))

    def kept(self, rows: NDArray[np.bool_] | Ints) -> RequestStates:
        """Only these rows, by mask or number."""
        return RequestStates(self.effect[rows], self.step[rows])


class RoundSampler:
    """Draws where rounds of one tree end, fast; made once per tree, used for every engine step.

    A round of any request has exactly the law of the acceptance; see ``specsim.acceptance.spread``. Nodes are ordered
    by depth, so a request that is easy accepts more tokens.

    Args:
        tree: What each round drafts.
        acceptance: How often it is kept, with its ``spread``; without one, rounds are independent.

    Raises:
        InputError: for a tree that the acceptance can not judge.

    >>> from specsim.acceptance.profile import AcceptanceProfile
    >>> sampler = RoundSampler(DraftTree.chain(3), AcceptanceProfile.iid(0.7, max_depth=3))
    >>> rng = np.random.default_rng(0)
    >>> states = sampler.requests(rng, 4, equal="tokens")
    >>> sampler.draw(rng, states).shape, sampler.tokens[sampler.draw(rng, states, np.array([2, 0]))].shape
    ((4,), (2,))
    """

    def __init__(self, tree: DraftTree, acceptance: Acceptance) -> None:
        self.tree, self.spread = tree, acceptance.spread
        self.tokens: Ints = tree.depths + 1
        """Tokens emitted by a round whose last accepted node is this one, ``[node]``."""
        self.pmf = emitted_distribution(tree, acceptance)
        """Law of a round's tokens, of any request."""
        ends = stop_probs(tree, acceptance)
        self._order = np.argsort(tree.depths, kind="stable")
        self._cuts = thresholds(ends[self._order] / ends.sum())

    def requests(self, rng: np.random.Generator, size: int, *, equal: Equal) -> RequestStates:
        """New requests.

        Args:
            rng: Takes two normals per request, and for ``tokens`` a few numbers more.
            size: How many.
            equal: What requests have equally many of, so that all rounds together have the law of the acceptance.
                ``rounds``: a request's nature is drawn as it is. ``tokens``: one that emits twice as much a round is
                drawn twice as often, for it has half the rounds; else hard ones would fill the record with rounds.
        """
        if size < 0:
            raise InputError("size", "must be >= 0", size)
        effect = rng.standard_normal(size)
        if equal == "tokens" and self.spread is not None:
            most = float(self.tree.depth + 1)
            again = np.arange(size)
            while again.size:
                kept = rng.random(again.size) * most < self.spread.request_means(self.pmf, effect[again])
                again = again[~kept]
                effect[again] = rng.standard_normal(again.size)
        return RequestStates(effect, rng.standard_normal(size))

    def draw(self, rng: np.random.Generator, states: RequestStates, rows: Ints | None = None) -> Ints:
        """Play one round of each request in ``rows`` (all: None): the last accepted nodes, ``[row]``.

        Takes one normal per round, whatever the tree, so that trees are compared on the same luck.
        """
        at: Ints | slice = slice(None) if rows is None else rows
        phi, share = (0.0, 0.0) if self.spread is None else (self.spread.step_corr, self.spread.request_corr)
        before = states.step[at]
        step = phi * before + np.sqrt(1 - phi**2) * rng.standard_normal(before.shape)
        states.step[at] = step
        normal = np.sqrt(share) * states.effect[at] + np.sqrt(1 - share) * step
        return np.asarray(self._order[np.searchsorted(self._cuts, normal, side="left")], dtype=np.int64)
