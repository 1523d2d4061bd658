"""Rounds in the synthetic world: any tree policy and verification rule on a token process, batched, with their times.

The same generator of work and the same policies and rules as in the executor; only the laws come from
``acceptance.process``, and the time of each piece of work from a cost model.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.process import TextNodes, TokenProcess, children_of, draft_laws, first_roots, target_laws
from specsim.acceptance.process_fit import FittedProcess
from specsim.acceptance.uncertainty import TokensInterval
from specsim.cost.model import CostModel
from specsim.decoding import (
    DraftState,
    Draws,
    Rule,
    TokenTree,
    TreePolicy,
    Verdict,
    check_pairing,
    check_sampling,
    node_probs,
    sample,
    verify,
)
from specsim.decoding import draft_laws as drafted_from
from specsim.decoding.arrays import one_hot, pick
from specsim.decoding.rules import checked_knobs, facts
from specsim.decoding.rules.follow import follow
from specsim.decoding.rules.verdict import check_chains
from specsim.errors import InputError
from specsim.methods.round import Drafting, DraftPass, DraftRead, Situation, VerifyPass, play_policy
from specsim.records import RoundRecord, round_record
from specsim.work import HostWork, Pass, Work

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Play = Generator[Work, Any, TokenTree]


@dataclass(frozen=True)
class SyntheticMethod:
    """How texts are decoded, as ``executor.method.Method`` says it for torch.

    Args:
        policy: What is drafted.
        rule: What is kept of it.
        temperature: Of the target, and of a policy that samples its drafts.
        drafting: How the drafter works.
        knobs: Of a lossy rule.

    Raises:
        InputError: for a rule that does not suit the policy's draws, or is greedy above temperature 0.
    """

    policy: TreePolicy
    rule: Rule
    temperature: float = 1.0
    drafting: Drafting = "autoregressive"
    knobs: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_pairing(self.rule, self.policy.draw)
        check_sampling(self.temperature)
        if self.rule == "greedy" and self.temperature > 0:
            raise InputError("temperature", "must be 0 for the rule greedy, which does not sample", self.temperature)
        checked_knobs(self.rule, self.knobs)

    def draft_law(self, process: TokenProcess, nodes: TextNodes) -> NDArray[np.float32]:
        """What the policy reads: the law that it draws from, or how sure the drafter is of each candidate."""
        if self.policy.draw == "top":
            return draft_laws(process, nodes, with_tail=False)
        if self.temperature > 0:
            return draft_laws(process, nodes, self.temperature)
        best = draft_laws(process, nodes, with_tail=False).argmax(axis=-1)
        return np.asarray(one_hot(best, process.law_size, np.float32))


@dataclass(frozen=True, eq=False)
class SimulatedRounds:
    """Rounds of several requests, each array ``[round, request]``.

    Attributes:
        num_emitted: Tokens of each round, bonus token in.
        num_drafted: Draft tokens verified.
        num_run: Nodes that the drafter ran.
        time_s: Time of the round; None where no cost model was given.
        records: The same rounds as records, request by request, where they were asked for.
    """

    num_emitted: Ints
    num_drafted: Ints
    num_run: Ints
    time_s: Floats | None
    records: tuple[RoundRecord, ...] = ()

    @property
    def tokens_per_round(self) -> float:
        """Mean over all rounds."""
        return float(self.num_emitted.mean())

    @property
    def tokens_sd(self) -> float:
        """Standard error of ``tokens_per_round``, from the spread between requests; needs two of them."""
        by_request = self.num_emitted.mean(axis=0)
        return float(by_request.std(ddof=1) / np.sqrt(len(by_request)))

    @property
    def tokens_per_round_of_equal_texts(self) -> float:
        """Mean over all rounds of texts of equally many tokens, which have more rounds where these bring few."""
        return float(1 / np.mean(1 / self.num_emitted.mean(axis=0)))

    @property
    def tokens_per_s(self) -> float:
        """Tokens of all rounds over their time, of one sequence."""
        if self.time_s is None:
            raise InputError("cost", "must be given for rounds to have times", None)
        return float(self.num_emitted.sum() / self.time_s.sum())


def simulate_rounds(
    process: TokenProcess,
    method: SyntheticMethod,
    num_rounds: int,
    num_requests: int,
    rng: np.random.Generator,
    *,
    cost: CostModel | None = None,
    context_tokens: float = 0.0,
    seqs_per_round: int = 1,
    with_records: bool = False,
) -> SimulatedRounds:
    """``num_rounds`` rounds of each of ``num_requests`` texts that the process writes.

    Args:
        process: Where laws come from.
        method: What drafts and verifies.
        num_rounds: Of each request.
        num_requests: Texts at a time; a few hundred keep arrays in cache.
        rng: Of texts, drafts and verdicts.
        cost: Prices the work.
        context_tokens: Tokens in the target's cache when the first round begins.
        seqs_per_round: Requests that share passes, and wait for one another; must divide ``num_requests``.
        with_records: Also write records, as the executor does; slower.

    Raises:
        InputError: for counts below 1, or requests that do not divide into rounds.

    >>> from specsim.decoding import StaticTree
    >>> from specsim.tree import DraftTree
    >>> exact = TokenProcess(divergence=0)  # a drafter that knows the target: greedy chains are accepted whole
    >>> method = SyntheticMethod(StaticTree(DraftTree.chain(3)), "greedy", temperature=0)
    >>> simulate_rounds(exact, method, num_rounds=2, num_requests=2, rng=np.random.default_rng(0)).num_emitted.tolist()
    [[4, 4], [4, 4]]
    """
    for name, value in (("num_rounds", num_rounds), ("seqs_per_round", seqs_per_round)):
        if value < 1:
            raise InputError(name, "must be >= 1", value)
    if num_requests % seqs_per_round:
        raise InputError("num_requests", f"must be a multiple of seqs_per_round = {seqs_per_round}", num_requests)
    roots = first_roots(process, rng, num_requests)
    context = np.full(num_requests, float(context_tokens))
    pending = np.ones(num_requests)
    emitted, drafted, run, times, records = [], [], [], [], []
    for _ in range(num_rounds):
        one = _Round(process, method, roots, rng, cost, seqs_per_round)
        one.play(Situation(context, pending))
        roots = one.next_roots()
        emitted.append(one.verdict.num_accepted + 1)
        drafted.append((one.tree.parents >= 0).sum(axis=1))
        run.append((one.state.expanded >= 0).sum(axis=1))
        times.append(one.parts.sum(axis=0))
        if with_records:
            records.append(one.records(context))
        context, pending = context + emitted[-1], emitted[-1].astype(float)
    return SimulatedRounds(
        np.array(emitted),
        np.array(drafted),
        np.array(run),
        None if cost is None else np.array(times),
        tuple(record for request in zip(*records, strict=True) for record in request),
    )


def predicted_rounds(
    fit: FittedProcess,
    method: SyntheticMethod,
    num_rounds: int,
    num_requests: int,
    seed: int,
    *,
    level: float = 0.9,
    measured_requests: int | None = None,
) -> TokensInterval:
    """Tokens per round of any method, on texts of equal length, from all processes that the fitted data leave possible.

    Args:
        fit: Of recorded rounds or a table.
        method: What decodes.
        num_rounds: Of each request, for the fitted process and for each other possible one.
        num_requests: At a time.
        seed: The same for all processes, so that they differ by what they are.
        level: Of the interval.
        measured_requests: Where given, the interval is for the mean over so many requests of ``num_rounds`` rounds.
    """

    def rounds(process: TokenProcess) -> SimulatedRounds:
        return simulate_rounds(process, method, num_rounds, num_requests, np.random.default_rng(seed))

    best, rng, means = rounds(fit.process), np.random.default_rng(seed), []
    for process in fit.possible:
        one = rounds(process)
        sd = one.tokens_sd if measured_requests is None else one.tokens_sd * np.sqrt(num_requests / measured_requests)
        means.append(one.tokens_per_round_of_equal_texts + sd * rng.standard_normal())
    lo, hi = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    mean = best.tokens_per_round_of_equal_texts
    return TokensInterval(float(min(lo, mean)), mean, float(max(hi, mean)))


class _Round:
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
