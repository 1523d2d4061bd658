"""Worlds that are not the token process, to see what its predictions are worth where it is wrong.

``Markov``: acceptance itself is a two-state chain along the text, whoever drafts. ``Dirichlet``: a node's target law is
a Dirichlet draw whose weight drifts along the path, the drafter's a blur of it mixed with a draw of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specsim.decoding import StaticTree, TokenTree, TreePolicy, Verdict, sample
from specsim.decoding.arrays import pick
from specsim.decoding.rules.follow import follow
from specsim.records import RoundRecord, round_record
from specsim.tree import DraftTree

Lengths = list[list[int]]


@dataclass(frozen=True)
class Markov:
    """Chains only: ``keep[state]`` is the chance that a draft token is kept where the text is hard, or easy."""

    keep: tuple[float, float]
    persistence: float
    easy_share: float
    request_sd: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> Markov:
        hard, easy = rng.uniform(0.2, 0.7), rng.uniform(0.75, 0.98)
        return cls((hard, easy), rng.uniform(0.3, 0.97), rng.uniform(0.2, 0.8), rng.uniform(0.1, 0.6))

    def lengths(self, draft_len: int, num_rounds: int, num_requests: int, rng: np.random.Generator) -> Lengths:
        """Accepted tokens of each round, by request."""
        odds = np.log(np.array(self.keep) / (1 - np.array(self.keep)))
        keep = 1 / (1 + np.exp(-(odds + self.request_sd * rng.standard_normal((num_requests, 1)))))
        rows, easy = np.arange(num_requests), rng.random(num_requests) < self.easy_share
        found = np.zeros((num_requests, num_rounds), dtype=int)
        for number in range(num_rounds):
            alive = np.ones(num_requests, dtype=bool)
            for _ in range(draft_len + 1):  # the last step is the bonus token's
                found[alive, number] += 1
                before = easy.copy()
                moved = np.where(
                    rng.random(num_requests) < self.persistence, easy, rng.random(num_requests) < self.easy_share
                )
                easy = np.where(alive, moved, easy)
                alive = alive & (rng.random(num_requests) < keep[rows, before.astype(int)])
        return [np.minimum(row - 1, draft_len).tolist() for row in found]


@dataclass(frozen=True)
class Dirichlet:
    """Any tree policy, rules greedy and one_hot.

    Attributes:
        weight: Median of a node's Dirichlet weight over all tokens: small is sharp.
        drift: Spread of its logarithm along a text, whose steps are correlated by ``memory``.
        blur: Exponent of the target's law in the drafter's.
        mix: Share of the drafter's law that is a draw of its own.
        request_sd: Spread of the logarithm of the weight between requests.
        vocab: Tokens.
    """

    weight: float
    drift: float
    memory: float
    blur: float
    mix: float
    request_sd: float
    vocab: int = 24

    @classmethod
    def random(cls, rng: np.random.Generator) -> Dirichlet:
        return cls(
            float(np.exp(rng.uniform(np.log(0.3), np.log(3)))), rng.uniform(0.3, 1.2), rng.uniform(0.2, 0.95),
            rng.uniform(0.6, 1.3), rng.uniform(0.05, 0.4), rng.uniform(0.1, 0.5),
        )  # fmt: skip

    def rounds(
        self, policy: TreePolicy, temperature: float, num_rounds: int, num_requests: int, rng: np.random.Generator
    ) -> tuple[Lengths, list[RoundRecord]]:
        """Accepted tokens by request, and the same as records."""
        request = self.request_sd * rng.standard_normal(num_requests)
        mood, found = self.drift * rng.standard_normal(num_requests), []
        for _ in range(num_rounds):
            accepted, mood, records = self._round(policy, temperature, request, mood, rng)
            found.append((accepted, records))
        lengths = [[int(one[0][row]) for one in found] for row in range(num_requests)]
        return lengths, [one[1][row] for row in range(num_requests) for one in found if one[1]]

    def _laws(
        self, mood: NDArray[np.float64], request: NDArray[np.float64], rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        weight = self.weight * np.exp(mood + request[:, None])
        shape = np.broadcast_to((weight / self.vocab)[..., None], (*mood.shape, self.vocab))
        target, own = rng.standard_gamma(shape) + 1e-12, rng.standard_gamma(shape) + 1e-12
        blurred = target**self.blur
        target, own, blurred = (x / x.sum(-1, keepdims=True) for x in (target, own, blurred))
        return target, (1 - self.mix) * blurred + self.mix * own

    def _round(
        self, policy: TreePolicy, temperature: float, request: NDArray[np.float64], mood: NDArray[np.float64],
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], list[RoundRecord]]:  # fmt: skip
        num, step = len(request), self.drift * np.sqrt(1 - self.memory**2)
        state, rows = policy.start(np.zeros(num, dtype=np.int64)), np.arange(num)
        moods, targets = mood[:, None], np.zeros((num, 1, self.vocab))
        while state.frontier.shape[1]:
            here = np.maximum(state.frontier, 0)
            target, draft = self._laws(pick(moods, here), request, rng)
            # A row that has stopped has no node here, and must not lose its root's law.
            targets[rows[:, None], here] = np.where((state.frontier >= 0)[..., None], target, pick(targets, here))
            before = state.parents.shape[1]
            state = policy.expand(state, draft, rng.random(state.uniforms_shape(self.vocab)))
            new = np.maximum(state.parents[:, before:], 0)
            below = self.memory * pick(moods, new) + step * rng.standard_normal(new.shape)
            moods = np.concatenate([moods, below], axis=1)
            targets = np.concatenate([targets, np.zeros((*new.shape, self.vocab))], axis=1)
        tree = policy.select(state)
        at_leaf = self._laws(pick(moods, np.maximum(tree.nodes, 0)), request, rng)[0]
        laws = pick(targets, np.maximum(tree.nodes, 0))
        laws = np.where(laws.sum(-1, keepdims=True) > 0, laws, at_leaf)
        uniforms = rng.random(tree.tokens.shape)

        def choose(node: NDArray[np.int64]) -> NDArray[np.int64]:
            law = laws[rows, node]
            return law.argmax(-1) if temperature == 0 else np.asarray(sample(law, uniforms[rows, node]))

        verdict = follow(tree.parents, tree.tokens, choose)
        end = np.take_along_axis(verdict.path, verdict.num_accepted[:, None], axis=1)[:, 0]
        last = moods[rows, tree.nodes[rows, end]]
        mood = self.memory * last + step * rng.standard_normal(num)
        records = []
        if isinstance(policy, StaticTree):
            records = [_record(policy.tree, tree, laws, verdict, row, temperature) for row in rows.tolist()]
        return verdict.num_accepted, mood, records


def _record(
    shape: DraftTree, tree: TokenTree, laws: NDArray[np.float64], verdict: Verdict, row: int, temperature: float
) -> RoundRecord:
    nodes, path = np.flatnonzero(tree.parents[row] >= 0), verdict.path[row, 1 : 1 + int(verdict.num_accepted[row])]
    parents, tokens = tree.parents[row, nodes], tree.tokens[row, nodes]
    at = laws[row, parents]
    target = at[np.arange(len(nodes)), tokens] if temperature else (at.argmax(-1) == tokens).astype(float)
    return round_record(
        [], "model", request=row, method=shape.label, context_tokens=0, num_drafted=len(nodes),
        accepted_ranks=tuple(shape.ranks[n] for n in path), num_emitted=len(path) + 1,
        parents=tuple(parents.tolist()), tokens=tuple(tokens.tolist()),
        draft_probs=tuple(np.clip(tree.probs[row, nodes], 0, 1).tolist()),
        target_probs=tuple(np.clip(target, 0, 1).tolist()), path=tuple(path.tolist()),
    )  # fmt: skip
