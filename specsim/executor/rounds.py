"""Real rounds on torch models, driven by the same generator of work that the cost model prices. B texts at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch

from specsim.decoding import Array, DraftState, Draws, StaticTree, TokenTree, Verdict, draft_laws, sample, verify
from specsim.decoding.arrays import pick
from specsim.decoding.rules import facts
from specsim.errors import InputError
from specsim.executor.cache import TailMask
from specsim.executor.drafters.base import Extra, Frontier, Verified
from specsim.executor.llama import text_lengths
from specsim.executor.masks import Mask, RunNodes, StaticMasks, only_root, tree_mask
from specsim.executor.method import Method, as_tensor, as_tensors, on_host
from specsim.executor.texts import Texts
from specsim.methods.round import DraftPass, DraftRead, Situation, VerifyPass, expanded_levels, play_policy
from specsim.work import HostWork, Pass, Work

Clock = Callable[[], float]
Play = Generator[Work, Any, TokenTree]


@dataclass(frozen=True, eq=False)
class Round:
    """What a round did.

    Attributes:
        requests: Which prompt each row continues.
        context_tokens: Per row, tokens in the target's cache when the round began.
        drafted: What was drafted, arrays on the host as the policy left them.
        verified: What of it was verified, likewise.
        path: Per row the accepted nodes, root first.
        emitted: Per row the new tokens.
        target_logits: ``[B, N, V]``.
        method: How.
        played: Each piece of work with its seconds, the pool and the tree still on it.
    """

    requests: list[int]
    context_tokens: list[int]
    drafted: DraftState
    verified: TokenTree
    path: list[list[int]]
    emitted: list[list[int]]
    target_logits: torch.Tensor
    method: Method
    played: list[tuple[Work, float]]

    @cached_property
    def state(self) -> DraftState:
        """What was drafted, as tensors."""
        return as_tensors(self.drafted)

    @cached_property
    def tree(self) -> TokenTree:
        """What was verified, as tensors."""
        return as_tensors(self.verified)

    @property
    def timed(self) -> list[tuple[Work, float]]:
        """Each piece of work alone, with its seconds. Not part of the round, whose time it would take."""
        return [(_plain(work, self.method), seconds) for work, seconds in self.played]


def _plain(work: Work, method: Method) -> Work:
    """The work without the laws and trees that it carries while it is played."""
    if isinstance(work, DraftRead):
        return HostWork("draft", work.num_nodes)
    if not isinstance(work, DraftPass | VerifyPass):
        return work
    if isinstance(work, VerifyPass):
        nodes = tuple(range(work.tree.tokens.shape[1]))
    elif method.tree is not None:
        nodes = expanded_levels(method.tree)[len(work.state.laws)]
    else:
        nodes = tuple(node for node in work.state.frontier[0].tolist() if node >= 0)
    return Pass(work.role, work.kind, work.new_tokens, work.context_tokens, work.num_seqs, nodes)


def run_round(texts: Texts, method: Method, clock: Clock = time.thread_time, forced: list[int] | None = None) -> Round:
    """One round of every text. ``forced`` replaces the verdict's path (for timing: text is then meaningless).

    Raises:
        InputError: for a tree deeper than the drafter proposes, a drafter that is missing, or no room in the context.
    """
    check_depth(texts, method)
    return _RoundRun(texts, method, clock, forced).run()


def check_depth(texts: Texts, method: Method) -> None:
    """Raise InputError where the drafter can not propose what the policy asks for."""
    if method.is_plain:
        return
    if texts.drafter is None:
        raise InputError("drafter", "must be given for a method that drafts", None)
    limit = texts.drafter.max_depth
    if limit is not None and (depth := method.policy.limits.depth) > limit:
        raise InputError("depth", f"must be at most {limit} for this drafter", depth)


class _RoundRun:
    """The state of one round while its work is played."""

    def __init__(self, texts: Texts, method: Method, clock: Clock, forced: list[int] | None) -> None:
        self.texts, self.method, self.clock, self.forced = texts, method, clock, forced
        policy, device = method.policy, texts.target.device
        self.masks = _static_masks(policy, device) if isinstance(policy, StaticTree) else None
        self.lengths = texts.cache.lengths
        self.run_nodes: RunNodes | None = None
        self.extra: Extra | None = None

    @torch.inference_mode()
    def run(self) -> Round:
        texts, drafter = self.texts, self.texts.drafter
        pending = [1] * texts.num_rows if drafter is None or self.method.is_plain else drafter.pending_tokens
        at = Situation(list(self.lengths), pending, [1] * texts.num_rows)
        drafting, roots = drafter.drafting if drafter else "autoregressive", texts.roots()
        timed = self._played(play_policy(self.method.policy, roots, at, drafting, self._uniforms))
        return Round(
            requests=list(texts.requests),
            context_tokens=list(self.lengths),
            drafted=self.state,
            verified=self.tree,
            path=self.path,
            emitted=self.emitted,
            target_logits=self.logits,
            method=self.method,
            played=timed,
        )

    def _played(self, play: Play) -> list[tuple[Work, float]]:
        """Do the work, and time it. What the policy does between an answer and the next work is the host's."""
        timed: list[tuple[Work, float]] = []
        begin = self.clock()
        work = next(play)
        while True:
            answer = self._do(work)
            if isinstance(work, VerifyPass) and self.extra is not None:
                work = replace(work, new_tokens=work.new_tokens + self.extra.tokens.shape[1])
            end = self.clock()
            timed.append((work, end - begin))
            begin = end
            try:
                following = play.send(answer)
            except StopIteration:
                return timed
            if not isinstance(following, HostWork):
                # The policy ran, and no host work of its own tells so: a lookup's reading and ranking are one.
                now = self.clock()
                timed[-1] = (work, timed[-1][1] + now - begin)
                begin = now
            work = following

    def _do(self, work: Work) -> Array | None:
        match work:
            case DraftPass() | DraftRead():
                return self._draft(work.state)
            case VerifyPass():
                self._target(work.state, work.tree)
            case HostWork(kind="round"):
                self._judge()
            case HostWork(kind="step"):
                self._commit()
        return None

    def _uniforms(self, shape: tuple[int, ...]) -> Array:
        return on_host(self.texts.uniforms(*shape[1:]))

    def _draft(self, state: DraftState) -> Array:
        drafter = self.texts.drafter
        assert drafter is not None
        mask, depths = self._frontier_mask(state)
        tokens = as_tensor(pick(state.tokens, state.frontier))
        return self.method.draft_law(drafter.law(Frontier(state, tokens, depths, mask)))

    def _frontier_mask(self, state: DraftState) -> Mask:
        if self.masks is not None:
            return self.masks.levels[len(state.laws)]
        if self.run_nodes is None:
            self.run_nodes = only_root(state.frontier)
            return None, as_tensor(self.run_nodes.depths)
        self.run_nodes = self.run_nodes.grown(state)
        return self.run_nodes.mask(state.frontier.shape[1])

    def _target(self, state: DraftState, tree: TokenTree) -> None:
        texts, cache, drafter = self.texts, self.texts.cache, self.texts.drafter
        cache.rewind(self.lengths)
        self.state, self.tree, self.start = state, tree, cache.end
        mask, depths = self.masks.verify if self.masks else tree_mask(as_tensor(tree.parents), len(state.laws))
        tokens, num_nodes = as_tensor(tree.tokens), tree.tokens.shape[1]
        self.extra = None if drafter is None or self.method.is_plain else drafter.extra()
        if self.extra is not None:
            tokens, depths, mask = _with_extra(self.extra, tokens, depths, mask)
        self.hidden = texts.target.hidden(tokens, text_lengths(cache) + depths, cache, mask)
        logits = texts.target.logits(self.hidden)
        self.logits = logits[:, :num_nodes]
        self.extra_logits = None if self.extra is None else logits[:, num_nodes:]

    def _judge(self) -> None:
        verdict = self._verdict()
        self.path = [[n for n in path if n >= 0] for path in verdict.path.tolist()]
        self.bonus = verdict.bonus.tolist()

    def _verdict(self) -> Verdict:
        method, tree = self.method, self.tree
        parents, tokens, logits, laws = tree.parents, tree.tokens, on_host(self.logits), None
        if method.rule == "greedy":
            return verify("greedy", parents, tokens, None, logits, None)
        target_probs = method.sampling.law(logits)
        if facts(method.rule).needs_draft_probs:
            laws = draft_laws(self.state, tree, target_probs.shape[-1])
        draws = Draws(on_host(self.texts.uniforms(tokens.shape[1])), on_host(self.texts.uniforms()))
        return verify(method.rule, parents, tokens, laws, target_probs, draws, **method.knobs)

    def _commit(self) -> None:
        texts, tree = self.texts, self.tree
        num_nodes = tree.tokens.shape[1]
        if num_nodes == 1:
            self.path, self.bonus = [[0]] * texts.num_rows, self._next_tokens()
        if self.forced is not None:
            self.path = [self.forced] * texts.num_rows
        tokens = tree.tokens.tolist()
        self.emitted = [
            [*(row[node] for node in path[1:]), bonus]
            for row, path, bonus in zip(tokens, self.path, self.bonus, strict=True)
        ]
        texts.cache.keep([[self.start + node for node in path] for path in self.path])
        for text, new in zip(texts.tokens, self.emitted, strict=True):
            text += new
        if texts.drafter is not None:
            features = self.hidden[:, :num_nodes] if texts.drafter.needs_features else None
            texts.drafter.observe(
                Verified(
                    tree.tokens, tree.parents, tree.nodes, self.state, self.logits, features, self.extra_logits,
                    self.path, self.emitted,
                )
            )  # fmt: skip

    def _next_tokens(self) -> list[int]:
        logits, sampling = on_host(self.logits[:, -1]), self.method.sampling
        if sampling.temperature == 0:
            chosen = logits.argmax(-1)
        else:
            chosen = sample(sampling.law(logits), on_host(self.texts.uniforms()))
        tokens: list[int] = chosen.tolist()
        return tokens


@lru_cache(maxsize=64)
def _static_masks(policy: StaticTree, device: torch.device) -> StaticMasks:
    return StaticMasks(policy, device)


def _with_extra(
    extra: Extra, tokens: torch.Tensor, depths: torch.Tensor, mask: TailMask | None
) -> tuple[torch.Tensor, torch.Tensor, TailMask]:
    """The tree's tokens, depths and mask with the extra tokens after them, which see the root and one another."""
    num_nodes, num_extra = tokens.shape[1], extra.tokens.shape[1]
    seen = torch.ones(1, 1, 1, dtype=torch.bool, device=tokens.device) if mask is None else mask.seen
    rows = max(seen.shape[0], extra.seen.shape[0])
    whole = torch.zeros(rows, num_nodes + num_extra, num_nodes + num_extra, dtype=torch.bool, device=tokens.device)
    whole[:, :num_nodes, :num_nodes] = seen
    whole[:, num_nodes:, num_nodes:] = extra.seen
    whole[:, num_nodes:, 0] = True
    deep = [part.expand(max(depths.shape[0], extra.offsets.shape[0]), -1) for part in (depths, extra.offsets)]
    return torch.cat([tokens, extra.tokens], dim=1), torch.cat(deep, dim=1), TailMask(whole)


def decode(
    texts: Texts,
    method: Method,
    max_new_tokens: int,
    clock: Clock = time.thread_time,
    is_finished: Callable[[int, list[int]], bool] = lambda request, tokens: False,
) -> Iterator[Round]:
    """Rounds until every text has ``max_new_tokens`` more (its last round may pass that) or its context is full.

    Args:
        texts: Where to go on; texts that have finished are dropped from it.
        method: How.
        max_new_tokens: Of each text.
        clock: Reads seconds.
        is_finished: Given a request's number and its text, whether it ends for another reason (a stop token).
    """
    goals = {request: len(text) + max_new_tokens for request, text in zip(texts.requests, texts.tokens, strict=True)}
    reach = method.policy.limits.depth

    def goes_on(row: int) -> bool:
        request, text = texts.requests[row], texts.tokens[row]
        fits = len(text) + reach < texts.max_context_tokens  # with the bonus token
        return len(text) < goals[request] and fits and not is_finished(request, text)

    while True:
        rows = [row for row in range(texts.num_rows) if goes_on(row)]
        if len(rows) < texts.num_rows:
            texts.keep_rows(rows)
        if not rows:
            return
        yield run_round(texts, method, clock)
