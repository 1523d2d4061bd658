"""Draft length by batch size: priced on the deployment's own tables, in an engine's words, and judged under arrivals.

With requests arriving at random and lengths without memory, the number in the system is a birth-death process, and the
best draft length at each batch size is the one that is fastest there (``specsim.search.exact.load``). Prompts are not
in it.

Speculation that is loaded but idle (draft length 0) is not plain decoding: the draft's weights and cache displace
requests, and the host's work of a round stays. Plain decoding without a draft is kept beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from specsim.acceptance.emitted import tokens_per_round
from specsim.dialect import Dialect, dialect
from specsim.errors import InfeasibleError, InputError
from specsim.estimate import expected_pending
from specsim.scenario import Deployment, EngineUse
from specsim.search.exact.certificate import Array, checked_costs, checked_count
from specsim.search.exact.load import QueueAnswer, queue_under
from specsim.search.expressible import MIN_DRAFT_LEN, draft_lens, draft_widths, sharded, takes_schedule, tier_ends
from specsim.search.points import ledger_at, moved
from specsim.search.rounds import TIE, price_rounds, shape_of
from specsim.search.tiers import MAX_BATCH, Tiers, best_cut, best_tiers
from specsim.tree import DraftTree
from specsim.work import HostWork

TOLERANCE: Final = 0.002
"""Share of the best rate, in the mean over batch sizes, that fewer tiers may give up."""
MAX_TIERS: Final = 8


class Arrivals(NamedTuple):
    """Poisson arrivals of requests with memoryless lengths."""

    requests_per_s: float
    mean_output_tokens: float


@dataclass(frozen=True, eq=False)
class LoadTable:
    """Rounds of every draft length at every batch size.

    Args:
        draft_lens: Of the columns, rising.
        tokens_per_round: Of a sequence, by column.
        round_s: ``[batch - 1, column]``, seconds with speculation loaded; infinite where memory does not hold it.
        plain_s: ``[batch - 1]``, seconds of a step without a draft model loaded; infinite likewise.
        idle_s: What a step of draft length 0 takes longer than a plain one.
    """

    draft_lens: tuple[int, ...]
    tokens_per_round: Array
    round_s: Array
    plain_s: Array
    idle_s: float

    @property
    def batches(self) -> Array:
        """Of the rows, from 1."""
        return np.arange(1.0, len(self.plain_s) + 1)

    @property
    def rates(self) -> Array:
        """Tokens per second of the whole batch, ``[batch - 1, column]``; 0 where it does not fit."""
        return np.asarray(self.batches[:, None] * self.tokens_per_round / self.round_s)

    @property
    def plain_rates(self) -> Array:
        """The same without speculation loaded, ``[batch - 1]``."""
        return np.asarray(self.batches / self.plain_s)

    @property
    def largest(self) -> int:
        """Most sequences that run with speculation loaded."""
        return int((self.rates.max(axis=1) > 0).sum())

    @property
    def largest_plain(self) -> int:
        """Most sequences that run without."""
        return int((self.plain_rates > 0).sum())


@dataclass(frozen=True, eq=False)
class Policy:
    """What to do at every batch size, under arrivals: the queue it leads to, or why there is none."""

    name: str
    queue: QueueAnswer | None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Schedule:
    """The answer.

    Args:
        context_tokens: Behind each sequence.
        table: What was priced.
        draft_len_by_batch: Fastest at each batch size that fits, ``[batch - 1]``.
        tiers: The same compressed, as the engine can hold it; its ``loss`` is against the table above.
        pays: Batch sizes at which the tiers beat plain decoding without a draft loaded, as ranges.
        policies: Under arrivals, where asked for.
        notes: What was restricted, and why.
    """

    context_tokens: int
    table: LoadTable
    draft_len_by_batch: tuple[int, ...]
    tiers: Tiers
    pays: tuple[tuple[int, int], ...]
    policies: tuple[Policy, ...]
    notes: tuple[str, ...]

    @property
    def longest(self) -> int:
        """The longest draft of the tiers; 0: no speculation."""
        return max(tier.draft_len for tier in self.tiers.tiers)


def schedule(
    deployment: Deployment,
    max_batch: int,
    engine: EngineUse | None = None,
    *,
    min_draft_len: int | None = None,
    max_tiers: int = MAX_TIERS,
    tolerance: float = TOLERANCE,
    idle_s: float | None = None,
    arrivals: Arrivals | None = None,
) -> Schedule:
    """The draft length for each batch size up to ``max_batch``.

    Args:
        deployment: A resolved scenario; its batch is not used.
        engine: Whose words the tiers must fit: chain lengths, captured sizes, no schedule at all.
        min_draft_len: Least draft length; None: what the scenario's engine needs (``MIN_DRAFT_LEN``).
        max_tiers, tolerance: Of the compression; see ``best_tiers``.
        idle_s: What a step takes longer at draft length 0 with speculation loaded; None: the host's work of a round.
        arrivals: Weighs batch sizes also by how often they occur, and compares policies. Without, every doubling of the
            batch counts alike.

    Raises:
        InputError: for a wrong limit, or an engine version that is not known.
        InfeasibleError: where not even one plain sequence fits.
    """
    checked_count("max_batch", max_batch, 1, MAX_BATCH)
    if not 0 <= tolerance < 1:
        raise InputError("tolerance", "must be a share from 0 to below 1", tolerance)
    row = dialect(engine.engine, engine.version) if engine else None
    deployment = as_sharded(deployment, row)
    least = _least(deployment, row) if min_draft_len is None else min_draft_len
    table, notes = load_table(deployment, max_batch, row, least, idle_s)
    rates = table.rates[: table.largest]
    choice = _pointwise(rates)
    weights = _weights(table, choice, arrivals)
    most = max_tiers if takes_schedule(row, deployment) else 1
    if row is not None and most == 1 and len(table.draft_lens) > 1:
        notes.append(f"{row.name} takes no draft length by batch size here: one for all")
    if most > 1 and row is not None and row.schedule == "off_above":
        notes.append(f"{row.name} takes one draft length, and a batch size above which there is none")
        tiers = best_cut(rates, table.draft_lens, tolerance, weights)
    else:
        tiers = best_tiers(rates, table.draft_lens, most, tolerance, tier_ends(row, len(rates)), weights)
    own = np.array([table.draft_lens.index(tiers.draft_len(b)) for b in range(1, len(rates) + 1)])
    held = rates[np.arange(len(rates)), own]
    pays = _ranges(held > table.plain_rates[: len(rates)] * (1 + TIE))
    policies = _policies(table, choice, own, arrivals) if arrivals else ()
    lens = tuple(table.draft_lens[c] for c in choice)
    context = deployment.scenario.workload.context_tokens
    return Schedule(context, table, lens, tiers, pays, tuple(policies), tuple(notes))


def as_sharded(deployment: Deployment, row: Dialect | None) -> Deployment:
    """The deployment with its draft on as many devices as the engine can, the first of ``draft_widths``."""
    return deployment if row is None else sharded(deployment, draft_widths(row, deployment)[0])


def schedules_by_context(
    deployment: Deployment, contexts: Sequence[int], max_batch: int, engine: EngineUse | None = None, **options: object
) -> list[Schedule]:
    """One schedule for each context length, with the options of ``schedule``.

    The acceptance is the scenario's at every length: where drafts are kept less often in long contexts, give each its
    own scenario.
    """
    return [
        schedule(moved(deployment, context_tokens=c), max_batch, engine, **options)  # type: ignore[arg-type]
        for c in contexts
    ]


def load_table(
    deployment: Deployment, max_batch: int, row: Dialect | None = None, least: int = 0, idle_s: float | None = None
) -> tuple[LoadTable, list[str]]:
    """Every chain that the engine accepts at every batch size up to ``max_batch``, and what was left out."""
    s, notes = deployment.scenario, []
    longest = s.search.max_draft_len
    checked_count("min_draft_len", least, 0, longest if s.drafter.kind != "none" else None)
    deployment = moved(deployment, batch=1)
    deployment.check(DraftTree.root_only())
    lens = draft_lens(row, deployment, longest, least)
    if row is not None and s.drafter.kind not in ("none", *row.methods):
        notes.append(f"{row.name} has no {s.drafter.kind} drafter")
    if row is not None and row.max_batch is not None and lens != (0,):
        notes.append(f"{row.name} drafts for at most {row.max_batch} sequences at once")
    if least and lens != (0,):
        notes.append(f"draft lengths below {least} are left out: off is costly to resume")
    batches = np.arange(1, max_batch + 1)
    chains = [DraftTree.chain(n) for n in lens]
    tokens = np.array([tokens_per_round(tree, deployment.acceptance) for tree in chains])
    pending = np.array([expected_pending(tree, tau) for tree, tau in zip(chains, tokens.tolist(), strict=True)])
    which, batch = np.meshgrid(np.arange(len(lens) + 1), batches)
    shapes = [*map(shape_of, chains), shape_of(DraftTree.root_only())]
    fed, context = np.append(pending, 1.0)[which], s.workload.context_tokens
    time_s = price_rounds(deployment.cost, deployment.drafting, shapes, which, batch, context, fed).time_s
    time_s = time_s.reshape(which.shape)
    plain_s, round_s = time_s[:, -1], time_s[:, :-1].copy()
    idle = _idle(deployment, idle_s) if lens != (0,) else 0.0
    round_s[:, [n for n, length in enumerate(lens) if length == 0]] += idle
    for column, length in enumerate(lens):
        room = most_sequences(deployment, length + 1, loaded=lens != (0,))
        if length and row is not None and row.max_batch is not None:
            room = min(room, row.max_batch)
        round_s[room:, column] = np.inf
    plain_s[most_sequences(deployment, 1, loaded=False) :] = np.inf
    if not np.isfinite(round_s).any():
        notes.append("the draft does not fit in memory beside the target, even for one sequence")
        return LoadTable((0,), np.ones(1), plain_s[:, None], plain_s, 0.0), notes
    return LoadTable(lens, tokens, round_s, plain_s, idle), notes


def most_sequences(deployment: Deployment, nodes: int, loaded: bool) -> int:
    """Sequences whose caches fit beside the weights, each holding the context and a round of ``nodes``."""
    context = deployment.scenario.workload.context_tokens
    one = ledger_at(deployment, 1, context, nodes, loaded)
    each = one.target_kv + one.draft_kv
    room = one.limit - one.target_weights - one.draft_weights
    if room < 0:
        return 0
    return MAX_BATCH if each == 0 else int(min(MAX_BATCH, room / each * (1 + 1e-15)))


def _least(deployment: Deployment, row: Dialect | None) -> int:
    if deployment.scenario.drafter.kind == "none":
        return 0
    return MIN_DRAFT_LEN.get(row.engine if row else deployment.scenario.engine or "", 0)


def _idle(deployment: Deployment, idle_s: float | None) -> float:
    if idle_s is None:
        return float(deployment.cost.price(HostWork("round")).time_s)
    return float(checked_costs("idle_s", [idle_s])[0])


def _pointwise(rates: Array) -> Array:
    """The column that is fastest in each row; of those that rounding tells apart, the shortest."""
    return np.asarray((rates >= rates.max(axis=1, keepdims=True) * (1 - TIE)).argmax(axis=1))


def _weights(table: LoadTable, choice: Array, arrivals: Arrivals | None) -> Array:
    """How much each batch size counts: every doubling alike, and under arrivals half that and half how often it runs
    under the best choice at each, so that the tiers of rare bursts are no accident."""
    alike = 1 / table.batches[: len(choice)]
    alike /= alike.sum()
    if arrivals is None:
        return np.asarray(alike)
    try:
        queue = queue_under(*arrivals, table.rates[np.arange(len(choice)), choice])
    except InfeasibleError:
        return np.asarray(alike)
    shares = queue.share_by_batch[1:]
    return np.asarray(alike + shares / max(float(shares.sum()), 1e-300))


def _policies(table: LoadTable, choice: Array, own: Array, arrivals: Arrivals) -> list[Policy]:
    """Plain decoding, speculation loaded but idle, the best fixed length, the table, and its tiers."""
    rates, rows = table.rates[: table.largest], np.arange(table.largest)
    plain = table.plain_rates[: table.largest_plain]
    found = [_policy("no speculation loaded", plain, arrivals)]
    if table.draft_lens == (0,):
        return found
    if table.draft_lens[0] == 0:
        found.append(_policy("loaded, draft length 0", rates[:, 0], arrivals))
    fixed = [
        _policy(f"fixed draft length {n}", rates[:, i], arrivals)
        for i, n in enumerate(table.draft_lens)
        if n and (rates[:, i] > 0).all()
    ]
    if fixed:
        found.append(min(fixed, key=lambda p: p.queue.mean_in_system if p.queue else np.inf))
    found.append(_policy("fastest at each batch size", rates[rows, choice], arrivals))
    return [*found, _policy("tiers", rates[rows, own], arrivals)]


def _policy(name: str, rates: Array, arrivals: Arrivals) -> Policy:
    try:
        return Policy(name, queue_under(*arrivals, rates))
    except InfeasibleError as error:
        return Policy(name, None, str(error))


def _ranges(holds: Array) -> tuple[tuple[int, int], ...]:
    """Runs of batch sizes, from 1, for which it holds."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], holds.astype(int), [0]))))
    return tuple((int(a) + 1, int(b)) for a, b in edges.reshape(-1, 2))
