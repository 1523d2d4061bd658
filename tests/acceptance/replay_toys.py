"""A language whose next token depends on the last alone: draft and target are tables, so forests cost nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.replay import ForcedText, Forest, RecordedText, Superset
from specsim.acceptance.replay.forced import draw_accepts
from specsim.acceptance.replay.forest import ForestFacts
from specsim.acceptance.replay.superset import collect, joined
from specsim.decoding import TokenTree, TreePolicy, draft_laws, verify
from specsim.decoding.rules import Draws, Rule

Table = NDArray[np.float32]


@dataclass(frozen=True)
class Toy:
    """Laws ``[token, next token]`` of both models, at the temperature decoded with."""

    draft: Table
    target: Table
    temperature: float = 1.0

    @classmethod
    def random(cls, seed: int, vocab: int = 24, sharpness: float = 0.15, noise: float = 0.6) -> Toy:
        rng = np.random.default_rng(seed)
        target = rng.dirichlet(np.full(vocab, sharpness), size=vocab) + 1e-6
        draft = target * np.exp(noise * rng.normal(size=target.shape))
        return cls(*((table / table.sum(1, keepdims=True)).astype(np.float32) for table in (draft, target)))

    def text(self, num: int, seed: int = 0, first: int = 0) -> list[int]:
        rng, text = np.random.default_rng(seed), [first]
        for _ in range(num):
            law = self.target[text[-1]].astype(float)
            text.append(int(law.argmax()) if self.temperature == 0 else int(rng.choice(len(law), p=law / law.sum())))
        return text

    def greedy(self) -> Toy:
        """The same at temperature 0: the target is sure of its best token, the drafter is as it was."""
        best = self.target.argmax(1)
        return Toy(self.draft, np.eye(len(best), dtype=np.float32)[best], temperature=0.0)

    def drafted(self, policy: TreePolicy, roots: list[int], rng: Any = None) -> tuple[Any, TokenTree]:
        """A policy's round after each root."""
        state = policy.start(np.array(roots))
        while state.frontier.shape[1]:
            laws = self.draft[np.take_along_axis(state.tokens, state.frontier.clip(0), axis=1)]
            draws = None if rng is None else rng.random(state.uniforms_shape(laws.shape[-1]))
            state = policy.expand(state, laws, draws)
        return state, policy.select(state)

    def forest(self, texts: list[list[int]], superset: Superset, tail: int = 12, num_draws: int = 1) -> Forest:
        """A forest of texts whose prompt is one token."""
        recorded = []
        for number, text in enumerate(texts):
            state, tree = self.drafted(superset, text[: len(text) - 1 - tail])
            laws, roots = joined(collect(superset, state, tree, self.target[tree.tokens]))
            forced = None if self.temperature == 0 else self.forced(text, num_draws, seed=number)
            recorded.append(RecordedText(np.array(text), 1, roots, laws, forced))
        return Forest(toy_facts(temperature=self.temperature), recorded)

    def forced(self, text: list[int], num_draws: int = 1, seed: int = 0, samples: int = 64) -> ForcedText:
        last, token = np.array(text[:-1]), np.array(text[1:])
        ours, theirs = self.draft[last], self.target[last]
        draws = draw_accepts(ours, theirs, token, num_draws, samples, np.random.default_rng(seed))
        return ForcedText(self.draft[last, token], self.target[last, token], ours.max(1), draws)

    def decoded(self, policy: TreePolicy, rule: Rule, rounds: int, rows: int, seed: int) -> NDArray[np.int64]:
        """Tokens emitted ``[round, row]`` by real rounds that follow each other."""
        rng, roots = np.random.default_rng(seed), [0] * rows
        emitted = np.zeros((rounds, rows), dtype=np.int64)
        for number in range(rounds):
            state, tree = self.drafted(policy, roots, rng)
            laws = draft_laws(state, tree, self.draft.shape[1])
            draws = Draws(rng.random(tree.tokens.shape), rng.random(rows))
            kept = verify(rule, tree.parents, tree.tokens, laws, self.target[tree.tokens], draws)
            emitted[number] = (kept.path >= 0).sum(1)
            roots = kept.bonus.tolist()
        return emitted


def toy_facts(**changes: Any) -> ForestFacts:
    known: dict[str, Any] = {
        "drafter": "toy",
        "models": "toy",
        "temperature": 1.0,
        "num_laws": 1,
        "num_nodes": 1,
        "num_children": 1,
    }
    known |= {"num_children": 1, "max_depth": 1, "num_draws": 1, "output_tokens": 1, "tail_tokens": 0, "seed": 0}
    return ForestFacts(**(known | changes))
