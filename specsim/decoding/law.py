"""The exact law of what a round emits, by enumeration in a toy language: how a rule's label is proven.

Every draft, every verdict and every bonus token is enumerated with its probability, so nothing is sampled. A lossless
rule differs from the target by rounding; a lossy one by a total variation that is worth knowing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from specsim.decoding.arrays import depths, path_probs
from specsim.decoding.rules.facts import RULES, Rule
from specsim.decoding.rules.outcome import Outcome, outcome
from specsim.decoding.sampling import adjust
from specsim.decoding.state import Draw
from specsim.tree import DraftTree

Laws = NDArray[np.float64]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Language:
    """Next-token laws after every short context: ``laws[d]`` has d + 1 axes, the context and then the next token."""

    laws: tuple[Laws, ...]

    @classmethod
    def random(cls, rng: np.random.Generator, sharpness: float = 1.0, vocab: int = 3, max_depth: int = 3) -> Language:
        """Dirichlet laws, so sharp at times that entries vanish; one in eight has a zero, one in eight is one-hot."""

        def law(shape: tuple[int, ...]) -> Laws:
            probs = rng.dirichlet(np.full(vocab, sharpness), size=shape[:-1])
            kind = rng.integers(8, size=shape[:-1])[..., None]
            best = np.argmax(probs, -1)[..., None] == np.arange(vocab)
            worst = np.argmin(probs, -1)[..., None] == np.arange(vocab)
            probs = np.where(kind == 0, best.astype(float), np.where((kind == 1) & worst, 0.0, probs))
            return np.asarray(probs / probs.sum(-1, keepdims=True))

        return cls(tuple(law((vocab,) * (depth + 1)) for depth in range(max_depth + 1)))

    @property
    def vocab(self) -> int:
        """Number of tokens."""
        return len(self.laws[0])

    def near(self, rng: np.random.Generator, noise: float) -> Language:
        """A language whose log-probabilities differ by Gaussian noise of this deviation: a drafter of this target."""
        noisy = [law * np.exp(noise * rng.normal(size=law.shape)) for law in self.laws]
        return Language(tuple(law / law.sum(-1, keepdims=True) for law in noisy))

    def adjusted(self, temperature: float, top_p: float | None = None) -> Language:
        """The language at this temperature and top-p."""
        logs = [np.log(np.maximum(law, 1e-300)) for law in self.laws]
        return Language(tuple(adjust(log, temperature, top_p=top_p) for log in logs))

    def after(self, context: tuple[Ids, ...] | tuple[int, ...]) -> Laws:
        """Law after this context, whose entries may be arrays of equal shape."""
        return self.laws[len(context)][context]

    def joint(self, num_tokens: int) -> Laws:
        """Law of the first tokens, one axis each."""
        return self.continued(np.ones(()), num_tokens)

    def continued(self, law: Laws, num_tokens: int) -> Laws:
        """Law of ``num_tokens`` tokens, the first of which follow ``law`` and the rest this language."""
        for depth in range(law.ndim, num_tokens):
            law = law[..., None] * self.laws[depth]
        return law

    def at_nodes(self, parents: Ids, tokens: Ids) -> Laws:
        """Law after each node of ``parents[B, N]``, ``[B, N, V]``; the root's own token is no context."""
        depth = depths(parents)
        result = np.zeros((*tokens.shape, self.vocab), dtype=self.laws[0].dtype)
        for node, level in itertools.product(range(tokens.shape[1]), range(len(self.laws))):
            here = np.flatnonzero(depth[:, node] == level)
            result[here, node] = self.after(context(parents[here], tokens[here], node, level))
        return result


def context(parents: Ids, tokens: Ids, node: int, depth: int) -> tuple[Ids, ...]:
    """The tokens after the root up to this node, ``depth`` arrays ``[B]``, in trees where the node has that depth."""
    rows, path = np.arange(len(tokens)), []
    ancestor = np.full(len(tokens), node)
    for _ in range(depth):
        path.append(tokens[rows, ancestor])
        ancestor = parents[rows, ancestor]
    return tuple(reversed(path))


def draft_rows(tree: DraftTree, draft: Language, draw: Draw) -> tuple[Ids, Laws]:
    """Every way to fill the tree, ``tokens[R, N]``, and the probability of each, ``[R]``."""
    rows: list[tuple[dict[int, int], float]] = [({0: 0}, 1.0)]
    for node, children in enumerate(tree.children):
        if not children:
            continue
        grown = []
        for filled, weight in rows:
            law = draft.after(_context(tree, node, filled))
            for tokens, prob in _children(law, [tree.ranks[child] for child in children], draw):
                grown.append((filled | dict(zip(children, tokens, strict=True)), weight * prob))
        rows = grown
    table = np.array([[filled[node] for node in range(tree.num_nodes)] for filled, _ in rows])
    return table, np.array([weight for _, weight in rows])


def _context(tree: DraftTree, node: int, filled: dict[int, int]) -> tuple[int, ...]:
    return () if node == 0 else (*_context(tree, tree.parents[node], filled), filled[node])


def _children(law: Laws, ranks: list[int], draw: Draw) -> Iterator[tuple[tuple[int, ...], float]]:
    """Draws of the siblings with their probability; where mass runs out the draw is token 0."""
    if draw == "top":
        order = sorted(range(len(law)), key=lambda token: (-law[token], token))
        yield tuple(order[rank] for rank in ranks), 1.0
        return
    for tokens in itertools.product(range(len(law)), repeat=len(ranks)):
        prob, left = 1.0, law.copy()
        for token in tokens:
            prob *= left[token] / left.sum() if left.sum() > 0 else float(token == 0)
            if draw == "sampled":
                left[token] = 0.0
        if prob > 0:
            yield tokens, prob


def emitted_law(
    rule: Rule,
    parents: Ids,
    tokens: Ids,
    weights: Laws,
    draft: Language,
    target: Language,
    num_tokens: int = 3,
    **knobs: float,
) -> Laws:
    """Exact law of the first tokens when one round of these drafts is followed by plain sampling.

    Later rounds start from a context like this one, so a lossless first round makes all of them lossless.

    Args:
        rule: The verification rule, with its ``knobs``.
        parents: ``[R, N]`` every tree that may be drafted.
        tokens: ``[R, N]``.
        weights: ``[R]`` probability of each.
        draft: What the drafts were drawn from.
        target: What verifies them.
        num_tokens: How many tokens of the text.
    """
    result = outcome(rule, parents, tokens, draft.at_nodes(parents, tokens), target.at_nodes(parents, tokens), **knobs)
    ends = weights[:, None] * end_probs(parents, result)
    depth = depths(parents)
    # Texts that one round leaves at each length, longer ones cut.
    known = [np.zeros((target.vocab,) * length) for length in range(num_tokens + 1)]
    for node, level in itertools.product(range(tokens.shape[1]), range(int(depth.max()) + 1)):
        here = np.flatnonzero((depth[:, node] == level) & (ends[:, node] > 0))
        mass = ends[here, node, None] * result.bonus_probs[here, node]
        path = tuple(column[:, None] for column in context(parents[here], tokens[here], node, level))
        text = (*path, np.arange(target.vocab)[None, :])[:num_tokens]
        np.add.at(known[len(text)], tuple(np.broadcast_to(column, mass.shape) for column in text), mass)
    return np.asarray(sum(target.continued(law, num_tokens) for law in known[1:]))


def end_probs(parents: Ids, result: Outcome) -> Laws:
    """Probability ``[B, N]`` that the accepted path ends at each node."""
    child_mass = np.zeros(parents.shape)
    for node in range(1, parents.shape[1]):
        rows = np.flatnonzero(parents[:, node] >= 0)
        child_mass[rows, parents[rows, node]] += result.accept_probs[rows, node]
    return np.asarray(path_probs(parents, result.accept_probs) * np.maximum(1 - child_mass, 0))


def total_variation(first: Laws, second: Laws) -> float:
    """Half the sum of absolute differences: the largest difference in the probability of any event."""
    return float(np.abs(first - second).sum() / 2)


@dataclass(frozen=True)
class LawRow:
    """What one rule does to the law of the first three tokens, on one kind of draft.

    Attributes:
        rule: Name of the rule.
        draw: How the drafts were drawn.
        tree: Their shape.
        temperature: Of draft and target.
        top_p: Of both, None for all tokens.
        lossless: What the rule's label says.
        knobs: Those of the rule.
        total_variation: Between the emitted tokens and the target's.
        tokens_per_round: Expected, bonus token included.
    """

    rule: Rule
    draw: Draw
    tree: DraftTree
    temperature: float
    top_p: float | None
    lossless: bool
    knobs: dict[str, float]
    total_variation: float
    tokens_per_round: float


def law_row(
    rule: Rule, draw: Draw, tree: DraftTree, draft: Language, target: Language, knobs: dict[str, float] | None = None
) -> LawRow:
    """The row of one rule in languages taken as they are (temperature 1)."""
    set_to = RULES[rule].knobs | (knobs or {})
    tokens, weights = draft_rows(tree, draft, draw)
    parents = np.broadcast_to(np.array(tree.parents), tokens.shape)
    law = emitted_law(rule, parents, tokens, weights, draft, target, num_tokens=3, **set_to)
    laws = draft.at_nodes(parents, tokens), target.at_nodes(parents, tokens)
    accepted = outcome(rule, parents, tokens, *laws, **set_to).expected_accepted(parents)
    distance = total_variation(law, target.joint(law.ndim))
    return LawRow(
        rule, draw, tree, 1.0, None, RULES[rule].lossless, set_to, distance, 1 + float(weights @ np.asarray(accepted))
    )


def law_table(
    settings: Iterable[tuple[float, float | None]] = ((1.0, None), (0.7, 0.8), (0.0, None)), seed: int = 5
) -> list[LawRow]:
    """Every rule on every kind of draft it suits, in one toy language of three tokens and a drafter near it.

    Chains of two for rules that take nothing else, a tree of four drafted nodes for the others. Greedy, which does
    not sample, is shown at temperature 0 only.

    Args:
        settings: Temperatures and top-p, of draft and target alike.
        seed: Of the languages.

    >>> worst = max(row.total_variation for row in law_table() if row.lossless)
    >>> worst < 1e-9, min(row.total_variation for row in law_table([(1.0, None)]) if not row.lossless) > 0.01
    (True, True)
    """
    rng = np.random.default_rng(seed)
    target = Language.random(rng)
    draft, rows = target.near(rng, noise=1.0), []
    for (temperature, top_p), (rule, label) in itertools.product(settings, RULES.items()):
        if temperature > 0 and not label.is_sampled:
            continue
        tree = DraftTree.chain(2) if label.chains_only else DraftTree((-1, 0, 0, 1, 1))
        ours, theirs = draft.adjusted(temperature, top_p), target.adjusted(temperature, top_p)
        for draw in label.draws:
            rows.append(replace(law_row(rule, draw, tree, ours, theirs), temperature=temperature, top_p=top_p))
    return rows
