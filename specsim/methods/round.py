"""One speculative round as the work it does: of a tree known beforehand, or of one that grows with the answers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from specsim.decoding import Array, DraftState, TokenTree, TreePolicy
from specsim.decoding.arrays import PADDING
from specsim.tree import DraftTree
from specsim.work import Float, HostWork, Pass, Work

Drafting = Literal["autoregressive", "heads", "lookup"]
"""How a drafter works: a pass per level (a small model, EAGLE, MTP), heads on target features (Medusa), or no model."""


@dataclass(frozen=True)
class Situation:
    """Where a round starts, per group of alike sequences (shapes as in ``Pass``; leading axes sweep).

    Args:
        context_tokens: Tokens in the target's KV cache; the root is not among them.
        pending_tokens: Tokens that the drafter has not seen yet, the root included: what the last round emitted and
            the drafter did not itself propose and keep. 1 or 2 for a chain, whose drafter kept its own KV.
        num_seqs: Sequences in each group.
    """

    context_tokens: Any
    pending_tokens: Any = 1.0
    num_seqs: Any = 1.0


def play(tree: DraftTree, at: Situation, drafting: Drafting = "autoregressive") -> Iterator[Work]:
    """The round's work, in the order in which it happens. The root alone is a plain decoding step.

    Level by level the drafter runs the nodes that have children (its first pass also catches up on pending tokens);
    the target then verifies the whole tree in one pass; the host chooses candidates after each draft pass, applies
    the verification rule, and keeps the engine's step going.

    >>> [getattr(work, "role", work.kind) for work in play(DraftTree.chain(2), Situation(context_tokens=[100]))]
    ['draft', 'draft', 'draft', 'draft', 'target', 'round', 'step']
    """
    if tree.num_drafted:
        yield from _draft(tree, at, drafting)
    kind: Literal["verify", "decode"] = "verify" if tree.num_drafted else "decode"
    nodes = tuple(range(tree.num_nodes))
    yield Pass("target", kind, [float(tree.num_nodes)], at.context_tokens, at.num_seqs, nodes)
    if tree.num_drafted:
        yield HostWork("round", tree.num_nodes)
    yield HostWork("step", tree.num_nodes)


def _draft(tree: DraftTree, at: Situation, drafting: Drafting) -> Iterator[Work]:
    if drafting == "lookup":
        yield HostWork("draft", tree.num_drafted)
        return
    if drafting == "heads":
        yield Pass("draft", "draft", [1.0], at.context_tokens, at.num_seqs, (0,))
        yield HostWork("draft", tree.num_drafted)
        return
    cached = _context_of_drafter(at)
    for level, nodes in enumerate(expanded_levels(tree)):
        new: Any = at.pending_tokens if level == 0 else [float(len(nodes))]
        yield Pass("draft", "draft", new, cached, at.num_seqs, nodes)
        yield HostWork("draft", int(tree.widths[level + 1]))
        cached = np.asarray(cached, dtype=float) + np.asarray(new, dtype=float)


def expanded_levels(tree: DraftTree) -> list[tuple[int, ...]]:
    """By depth, the nodes that have children: what an autoregressive drafter runs.

    >>> expanded_levels(DraftTree.from_widths((2, 1)))
    [(0,), (1, 2)]
    """
    inner = set(tree.parents)
    nodes = [n for n in range(tree.num_nodes) if n in inner]
    return [tuple(n for n in nodes if tree.depths[n] == d) for d in range(tree.depth)]


class _Counted(Pass):
    """A pass whose counts are arrays that have been checked: to do so for each took a fiftieth of a real round."""

    def __post_init__(self) -> None:
        if not self.new_tokens.shape == self.context_tokens.shape == self.num_seqs.shape:
            super().__post_init__()


@dataclass(frozen=True, eq=False)
class DraftPass(_Counted):
    """A pass of the draft model over ``state.frontier``; the answer is the law after each of its nodes, [B, F, V]."""

    state: DraftState = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class DraftRead(HostWork):
    """The same question to a drafter that runs no model for it (heads below the root, a lookup)."""

    state: DraftState = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class VerifyPass(_Counted):
    """The target's pass over ``tree``; ``state`` holds what the draft model ran and the laws it answered."""

    state: DraftState = field(kw_only=True)
    tree: TokenTree = field(kw_only=True)


def play_policy(
    policy: TreePolicy,
    root_tokens: Array,
    at: Situation,
    drafting: Drafting = "autoregressive",
    uniforms: Callable[[tuple[int, ...]], Array] | None = None,
) -> Generator[Work, Array | None, TokenTree]:
    """The round of a policy whose passes follow from what the drafter answers. Returns the tree that was verified.

    The driver does each piece of work and sends its answer: draft laws ``[B, F, V]`` to :class:`DraftPass` and
    :class:`DraftRead`, None to all else. The policy runs inside the generator, before the ``HostWork`` that stands for
    it is yielded, so host time is what passes between an answer and the next piece of work. Batch rows are the groups
    of the situation; passes count each row's own nodes, without padding, and leave out rows that have stopped.

    Args:
        policy: What is drafted and verified.
        root_tokens: ``[B]`` last committed token of each row.
        at: Where the round starts; arrays of B groups, or anything that broadcasts with them.
        drafting: How the drafter works; "heads" runs once at the root, "lookup" never.
        uniforms: Given a shape, as many uniforms in [0, 1); needed by policies that sample.

    >>> from specsim.decoding import StaticTree
    >>> round_ = play_policy(StaticTree(DraftTree.chain(1)), np.array([7]), Situation([100]))
    >>> work = next(round_)
    >>> work.role, work.state.frontier.tolist()
    ('draft', [[0]])
    >>> round_.send(np.array([[[0.1, 0.9]]]))
    HostWork(kind='draft', num_nodes=1)
    >>> next(round_).tree.tokens.tolist()
    [[7, 1]]
    """
    checked = Pass("draft", "draft", at.pending_tokens, at.context_tokens, at.num_seqs)
    pending, context, all_seqs = checked.new_tokens, checked.context_tokens, checked.num_seqs
    state, cached = policy.start(root_tokens), context + 1 - pending
    tree = None if state.frontier.shape[1] else policy.select(state)
    is_first = True
    while tree is None:
        runs_model = drafting == "autoregressive" or (drafting == "heads" and is_first)
        if runs_model:
            new, num_seqs = (pending, all_seqs) if is_first else _rows(state.frontier >= 0, all_seqs)
            if drafting == "heads":  # heads are part of the target, which has seen all but the root
                new, cached = np.ones_like(pending), context
            work = DraftPass("draft", "draft", new, cached, num_seqs, state=state)
            cached = cached + (new if num_seqs is all_seqs else new * (num_seqs > 0))
        laws = yield work if runs_model else DraftRead("draft", state.frontier.shape[1], state=state)
        num_before, is_first = state.parents.shape[1], False
        drawn = None
        if uniforms is not None and laws is not None and state.num_draws:
            drawn = uniforms(state.uniforms_shape(laws.shape[-1]))
        state = policy.expand(state, laws, drawn)
        tree = None if state.frontier.shape[1] else policy.select(state)
        if runs_model:
            yield HostWork("draft", state.parents.shape[1] - num_before)
    num_nodes = tree.parents.shape[1]
    new, num_seqs = _rows(tree.parents != PADDING, all_seqs)
    kind: Literal["verify", "decode"] = "verify" if num_nodes > 1 else "decode"
    yield VerifyPass("target", kind, new, context, num_seqs, state=state, tree=tree)
    if num_nodes > 1:
        yield HostWork("round", num_nodes)
    yield HostWork("step", num_nodes)
    return tree


def _context_of_drafter(at: Situation) -> Any:
    # Drafter and target hold the same text, the root included in neither, so what is pending is missing here.
    return np.asarray(at.context_tokens, dtype=float) + 1 - np.asarray(at.pending_tokens, dtype=float)


def _rows(is_node: Array, num_seqs: Float) -> tuple[Float, Float]:
    """New tokens of each row, and its sequences: none where it has no node, for which the tokens read 1."""
    counts: list[int] = is_node.sum(1).tolist()
    new = np.array([max(count, 1) for count in counts], dtype=float)
    return new, num_seqs if all(counts) else num_seqs * (np.array(counts) > 0)
