"""One round of every request in the synthetic world, played with the policy and the rule themselves."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.process import TextNodes, TokenProcess, children_of, target_laws
from specsim.cost.model import CostModel
from specsim.decoding import DraftState, Draws, TokenTree, Verdict, node_probs, sample, verify
from specsim.decoding import draft_laws as drafted_from
from specsim.decoding.arrays import pick
from specsim.decoding.rules import facts
from specsim.decoding.rules.follow import follow
from specsim.decoding.rules.verdict import check_chains
from specsim.methods.round import DraftPass, DraftRead, Situation, VerifyPass, play_policy
from specsim.records import RoundRecord, round_record
from specsim.sim.rounds_method import SyntheticMethod
from specsim.work import HostWork, Pass, Work

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Play = Generator[Work, Any, TokenTree]


class PlayedRound:
    """One round of every request, while its work is played.

    Attributes:
        parts: Seconds ``[part, request]`` of drafting, verification and host.
    """

    def __init__(
        self,
        process: TokenProcess,
        method: SyntheticMethod,
        roots: TextNodes,
        rng: np.random.Generator,
        cost: CostModel | None,
        seqs_per_round: int,
    ) -> None:
        self.process, self.method, self.roots, self.rng = process, method, roots, rng
        self.cost, self.seqs_per_round = cost, seqs_per_round
        self.num_rows = len(roots.key)
        self.rows = np.arange(self.num_rows)[:, None]
        self.parts = np.zeros((3, self.num_rows))
        self.is_drafting = np.ones(self.num_rows, dtype=bool)
        # By pool id; the last column takes what is written for padding, whose id is -1.
        self.pool = _columns(roots)

    def play(self, at: Situation) -> None:
        """Do the round's work."""
        play = play_policy(
            self.method.policy, np.zeros(self.num_rows, dtype=np.int64), at, self.method.drafting, self._uniforms
        )
        work: Work | None = next(play)
        while work is not None:
            if self.cost is not None:
                self._take_time(work)
            work = self._sent(play, self._answer(work))

    def next_roots(self) -> TextNodes:
        """Where the next round begins: after the bonus token."""
        end = np.take_along_axis(self.verdict.path, self.verdict.num_accepted[:, None], axis=1)
        last = self._verified(end)
        return children_of(self.process, last, self.verdict.bonus[:, None]).at((slice(None), 0)).as_roots()

    def _sent(self, play: Play, answer: Any) -> Work | None:
        try:
            return play.send(answer)
        except StopIteration:
            return None

    def _answer(self, work: Work) -> Any:
        if isinstance(work, DraftPass | DraftRead):
            return self.method.draft_law(self.process, self._visit(work.state, work.state.frontier))
        if isinstance(work, VerifyPass):
            self.state, self.tree = work.state, work.tree
            self.verdict = self._judged()
        return None

    def _uniforms(self, shape: tuple[int, ...]) -> Floats:
        return self.rng.random(shape)

    def _visit(self, state: DraftState, ids: Ints) -> TextNodes:
        """Nodes of the pool, whose parents have been visited; kept, so that children find them."""
        if state.tokens.shape[1] == 1:
            return self.pool.at((self.rows, np.where(ids < 0, 0, ids)))
        self.pool = _widened(self.pool, state.tokens.shape[1] + 1)
        above = self.pool.at((self.rows, pick(state.parents, ids)))
        nodes = children_of(self.process, above, pick(state.tokens, ids))
        self.pool.key[self.rows, ids] = nodes.key
        self.pool.is_easy[self.rows, ids] = nodes.is_easy
        self.pool.depth[self.rows, ids] = nodes.depth
        return nodes

    def _verified(self, nodes: Ints) -> TextNodes:
        """Nodes ``[B, N]`` of the tree: children of nodes that the drafter ran, or the root."""
        ids = pick(self.tree.nodes, nodes)
        is_root = ids == 0
        above = self.pool.at((self.rows, np.where(ids > 0, pick(self.state.parents, ids), 0)))
        below = children_of(self.process, above, pick(self.tree.tokens, nodes))
        root = self.pool.at((slice(None), slice(0, 1)))
        return TextNodes(
            np.where(is_root, root.key, below.key),
            np.where(is_root, root.is_easy, below.is_easy),
            above.offset,
            np.where(is_root, 0, below.depth),
        )

    def _judged(self) -> Verdict:
        """The rule's verdict. Rules that follow the target's own tokens look at the laws of the path alone."""
        method, tree = self.method, self.tree
        draws = Draws(self.rng.random(tree.tokens.shape), self.rng.random(self.num_rows))
        if method.rule in ("greedy", "one_hot"):
            return follow(tree.parents, tree.tokens, lambda node: self._chosen(node[:, None], draws)[:, 0])
        if facts(method.rule).chains_only:
            check_chains(method.rule, tree.parents)
        laws = self._target_laws()
        drafted = drafted_from(self.state, tree, laws.shape[-1]) if facts(method.rule).needs_draft_probs else None
        return verify(method.rule, tree.parents, tree.tokens, drafted, laws, draws, **method.knobs)

    def _chosen(self, node: Ints, draws: Draws) -> Ints:
        """The target's token after each node."""
        if self.method.temperature == 0:
            return np.zeros_like(node)
        laws = target_laws(self.process, self._verified(node), self.method.temperature)
        return np.asarray(sample(laws, np.take_along_axis(draws.accept, node, axis=1)))

    def _target_laws(self) -> NDArray[np.float32]:
        every = np.broadcast_to(np.arange(self.tree.tokens.shape[1]), self.tree.tokens.shape)
        return target_laws(self.process, self._verified(every), self.method.temperature)

    def _take_time(self, work: Work) -> None:
        assert self.cost is not None
        if isinstance(work, HostWork):
            # What the host does for a draft pass, only rounds that made it wait for.
            waits = self.is_drafting if work.kind == "draft" else np.ones(self.num_rows, dtype=bool)
            self.parts[2] += waits * float(self.cost.price(HostWork(work.kind, work.num_nodes)).time_s)
        elif isinstance(work, Pass):
            shared = _shared(work, self.num_rows, self.seqs_per_round)
            is_made = shared.total_new_tokens > 0
            self.is_drafting = np.repeat(is_made, self.seqs_per_round)
            seconds = np.repeat(np.where(is_made, self.cost.price(shared).time_s, 0.0), self.seqs_per_round)
            self.parts[0 if work.role == "draft" else 1] += seconds

    def records(self, context: Floats) -> list[RoundRecord]:
        """One for each request."""
        tree, path = self.tree, self.verdict.path
        target = node_probs(tree.parents, tree.tokens, self._target_laws())
        siblings = (self.state.parents[:, :, None] == self.state.parents[:, None, :]) & np.tri(
            self.state.parents.shape[1], k=-1, dtype=bool
        )
        ranks = pick(siblings.sum(axis=2), tree.nodes)
        found = []
        for row in range(self.num_rows):
            nodes = np.flatnonzero(tree.parents[row] >= 0)
            kept = path[row, 1 : 1 + int(self.verdict.num_accepted[row])]
            record = round_record(
                [],
                "model",
                request=row,
                method=str(self.method.policy),
                context_tokens=int(context[row]),
                num_drafted=len(nodes),
                accepted_ranks=tuple(ranks[row, kept].tolist()),
                num_emitted=len(kept) + 1,
                parents=tuple(tree.parents[row, nodes].tolist()),
                tokens=tuple(tree.tokens[row, nodes].tolist()),
                draft_probs=tuple(np.clip(tree.probs[row, nodes], 0, 1).tolist()),
                target_probs=tuple(np.clip(target[row, nodes], 0, 1).tolist()),
                path=tuple(kept.tolist()),
            )
            draft_s, verify_s, host_s = self.parts[:, row].tolist()
            found.append(record.model_copy(update={"draft_s": draft_s, "verify_s": verify_s, "host_s": host_s}))
        return found


def _columns(nodes: TextNodes) -> TextNodes:
    """Nodes ``[B]`` as the first column of a pool with room for more, whose last column is for padding."""
    pool = TextNodes(nodes.key[:, None], nodes.is_easy[:, None], nodes.offset[:, None], nodes.depth[:, None])
    return _widened(pool, 64)


def _widened(pool: TextNodes, width: int) -> TextNodes:
    """The pool with at least so many columns; twice as many as before, so that growing is rare."""
    num_rows, before = pool.key.shape
    if width <= before:
        return pool
    width = max(width, 2 * before)

    def wider(values: NDArray[Any]) -> NDArray[Any]:
        grown = np.zeros((num_rows, width), dtype=values.dtype)
        grown[:, :before] = values
        return grown

    offset = np.broadcast_to(pool.offset[:, :1], (num_rows, width))
    return TextNodes(wider(pool.key), wider(pool.is_easy), offset, wider(pool.depth))


def _shared(work: Pass, num_rows: int, seqs_per_round: int) -> Pass:
    """The pass as a sweep of rounds, each over the sequences that share it: shapes ``[rounds, sequences]``."""
    new, context, seqs = (
        np.broadcast_to(values, num_rows).reshape(-1, seqs_per_round)
        for values in (work.new_tokens, work.context_tokens, work.num_seqs)
    )
    is_first = not isinstance(work, DraftPass) or work.state.tokens.shape[1] == 1
    return Pass(work.role, work.kind, new, context, seqs, (0,) if is_first else (1,))
