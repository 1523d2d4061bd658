"""What a drafter is: it gives the law of the next token after each node, and learns from what the target verified.

One batch of B texts, round by round (``rounds.run_round``)::

    drafter.start(prompt)
    each round:
        state = policy.start(roots)
        while state.frontier.shape[1]:
            logits = drafter.law(frontier)                     # [B, F, V], in the target's vocabulary
            state = policy.expand(state, adjust(logits), ...)
        tree = policy.select(state)
        extra = drafter.extra()                                # tokens that ride in the target's pass, mostly None
        ... the target runs the tree (and extra), a rule decides ...
        drafter.observe(verified)
        drafter.keep_rows(rows)                                # only when texts have finished

A drafter never decides anything that a policy or a rule decides: how many candidates, which to keep, which to accept.
Any law is sound: the rules are exact for whatever law the children were drawn from. So a table (n-grams, Token
Recycling, Lookahead's pool) gives the logarithm of its weights, ``-inf`` for tokens that it does not propose, at least
one of each row being finite; where it has nothing to propose, any one token will do (it is verified and most likely
rejected). A deterministic ranking is a law with falling weights.

State is the drafter's own, per row, and lives from ``start`` to the next ``start`` (a table may outlive it, as Token
Recycling's does). The rows of every argument are the texts that are still running: after ``keep_rows([0, 2])`` of
three, row 1 is what was row 2. Rows accept different numbers of tokens each round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from specsim.decoding import Array, DraftState
from specsim.executor.cache import KvCache, TailMask
from specsim.methods.round import Drafting


@dataclass(frozen=True, eq=False)
class Prompt:
    """What is known before the first round.

    Attributes:
        tokens: Token ids of each row; the last one is the first root, which the target has not run.
        lengths: Number of tokens that the target ran, ``len(tokens[b]) - 1``.
        features: ``[B, P, H]`` what the target's LM head read (the final norm applied) at each of them, right-padded;
            None unless the drafter ``needs_features``.
        logits: ``[B, P, V]`` what the target answered there; None unless the drafter ``needs_prompt_logits``.
        cache: The target's own, the root not yet in it. A drafter made of the target's layers may append to it while it
            drafts; before the target verifies, all that is dropped again (and what the target then computes replaces
            it).
    """

    tokens: list[list[int]]
    lengths: list[int]
    cache: KvCache
    features: torch.Tensor | None = None
    logits: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class Frontier:
    """The nodes whose law is asked for: the first time in a round the root alone, later what the policy chose.

    Attributes:
        state: The pool so far, in arrays of numpy where the texts lie in the processor's memory.
            ``state.frontier[B, F]`` are the nodes, -1 for padding; ``state.expanded[B, E]`` those run earlier this
            round, in the order in which they ran, padding included; ``state.parents``, ``.tokens`` give the path of
            any node.
        tokens: ``[B, F]`` the nodes' own tokens; any known one for padding.
        depths: ``[B, F]`` their depth, 0 for the root and for padding; ``[1, F]`` where all rows are alike.
        mask: ``mask.seen[B or 1, F, E - 1 + F]``: which of the nodes run this round each one sees, in the order of
            ``expanded`` and then of ``frontier``, the root left out: its ancestors and itself. (To a drafter the root
            is text, which all see.) None for the root's own frontier, and where each node sees all (F is then 1). It is
            what ``Llama.hidden`` takes when the cache's text ends with the root.
    """

    state: DraftState
    tokens: torch.Tensor
    depths: torch.Tensor
    mask: TailMask | None


@dataclass(frozen=True, eq=False)
class Extra:
    """Tokens that the target runs beside the tree, for the drafter's own use (Lookahead's window).

    They see all of the text, the root included, and one another as ``seen`` says; no node of the tree sees them.

    Attributes:
        tokens: ``[B, X]``.
        offsets: ``[B, X]`` or ``[1, X]`` their positions after the root's, which has offset 0.
        seen: ``[B, X, X]`` or ``[1, X, X]``, row sees column; each sees itself.
    """

    tokens: torch.Tensor
    offsets: torch.Tensor
    seen: torch.Tensor


@dataclass(frozen=True, eq=False)
class Verified:
    """What came out of a round. The tree and the pool are arrays of numpy where texts lie in the processor's memory.

    Attributes:
        tokens: ``[B, N]`` the tree that the target ran, root first, every parent before its children.
        parents: ``[B, N]`` -1 for the root, -2 for padding.
        nodes: ``[B, N]`` pool id of each, as in ``state``, -1 for padding.
        state: The pool at the end of drafting; ``state.expanded`` are the nodes whose law was asked for.
        logits: ``[B, N, V]`` the target's, after each node.
        features: ``[B, N, H]`` what its LM head read; None unless the drafter ``needs_features``.
        extra_logits: ``[B, X, V]`` after the extra tokens; None without any.
        path: Per row the accepted nodes, indices into the tree, the root (0) first.
        emitted: Per row the new tokens: those of the path but the root, then the bonus token, which is the next root.
    """

    tokens: Array
    parents: Array
    nodes: Array
    state: DraftState
    logits: torch.Tensor
    features: torch.Tensor | None
    extra_logits: torch.Tensor | None
    path: list[list[int]]
    emitted: list[list[int]]


class Drafter(Protocol):
    """See the module's text. The attributes are plain fields or class constants."""

    @property
    def drafting(self) -> Drafting:
        """How its work is priced: the label that ``methods.round`` knows."""

    @property
    def max_depth(self) -> int | None:
        """Deepest node that it can propose (Medusa: its number of heads); None for any."""

    @property
    def max_context_tokens(self) -> int | None:
        """Longest text, drafted nodes included, that it can follow; None for any. Beyond it decoding ends."""

    @property
    def pending_tokens(self) -> list[int]:
        """Per row, tokens that its first pass of the next round runs, the root included: what it has not run yet."""

    @property
    def needs_features(self) -> bool:
        """Whether the target must hand over what its LM head reads."""

    @property
    def needs_prompt_logits(self) -> bool:
        """Whether the target must hand over its logits on the prompt, which is large."""

    def start(self, prompt: Prompt) -> None:
        """Forget all texts, and take these. Raises InputError for a prompt that it can not take."""

    def law(self, frontier: Frontier) -> torch.Tensor:
        """Logits ``[B, F, V]`` after each node of the frontier; rows of padding may hold any finite numbers."""

    def extra(self) -> Extra | None:
        """Tokens for the target's pass of this round, asked for once after drafting."""

    def observe(self, verified: Verified) -> None:
        """Keep what the round accepted, forget the rest of what it drafted."""

    def keep_rows(self, rows: list[int]) -> None:
        """Only these rows, in rising order, go on."""


def path_tokens(state: DraftState, row: int, node: int) -> list[int]:
    """Tokens from the root down to a pool node, both included: what a lookup drafter continues.

    >>> import torch
    >>> from dataclasses import replace
    >>> from specsim.decoding import rooted
    >>> parents, tokens = torch.tensor([[-1, 0, 1]]), torch.tensor([[7, 8, 9]])
    >>> pool = replace(rooted(torch.tensor([7]), 0), parents=parents, tokens=tokens)
    >>> path_tokens(pool, row=0, node=2)
    [7, 8, 9]
    """
    parents, tokens = state.parents[row].tolist(), state.tokens[row].tolist()
    path = []
    while node >= 0:
        path.append(tokens[node])
        node = parents[node]
    return path[::-1]
