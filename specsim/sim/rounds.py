"""Rounds in the synthetic world: any tree policy and verification rule on a token process, batched, with their times.

The same generator of work and the same policies and rules as in the executor; only the laws come from
``acceptance.process``, and the time of each piece of work from a cost model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.process import TokenProcess, first_roots
from specsim.acceptance.process_rounds import sample_static_rounds
from specsim.cost.model import CostModel
from specsim.decoding import Eagle2, StaticTree
from specsim.errors import InputError
from specsim.methods.round import Situation
from specsim.records import RoundRecord
from specsim.sim.rounds_beam import beam_rounds
from specsim.sim.rounds_method import SyntheticMethod
from specsim.sim.rounds_play import PlayedRound

__all__ = ["SimulatedRounds", "SyntheticMethod", "simulate_rounds"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

COMPILED_FROM: Final = 2000
"""Rounds from which on EAGLE-2 is worth the time to load, once to compile, a loop of its own."""

EXACT_FROM: Final = 300_000
"""Rounds from which on a static tree is worth its exact law, from which rounds are then drawn."""


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
    plain = cost is None and not with_records
    if plain and (quick := _quick_rounds(process, method, num_rounds, num_requests, rng)) is not None:
        return quick
    roots = first_roots(process, rng, num_requests)
    context = np.full(num_requests, float(context_tokens))
    pending = np.ones(num_requests)
    emitted, drafted, run, times, records = [], [], [], [], []
    for _ in range(num_rounds):
        one = PlayedRound(process, method, roots, rng, cost, seqs_per_round)
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


def _quick_rounds(
    process: TokenProcess, method: SyntheticMethod, num_rounds: int, num_requests: int, rng: np.random.Generator
) -> SimulatedRounds | None:
    """The same rounds by a shorter way, where there is one and it pays."""
    num, policy, rule = num_rounds * num_requests, method.policy, method.rule
    if isinstance(policy, Eagle2) and rule in ("greedy", "one_hot") and num >= COMPILED_FROM:
        roots = first_roots(process, rng, num_requests)
        found = beam_rounds(process, policy, roots, method.temperature, num_rounds, rng)
        return None if found is None else SimulatedRounds(*found, None)
    if isinstance(policy, StaticTree) and rule in ("greedy", "one_hot", "token_rejection") and num >= EXACT_FROM:
        is_sampled, drafts = rule == "token_rejection", np.full((num_rounds, num_requests), policy.tree.num_drafted)
        emitted = sample_static_rounds(
            process, policy.tree, method.temperature, num_rounds, num_requests, rng, sampled=is_sampled
        )
        return SimulatedRounds(emitted, drafts, np.full_like(drafts, len(set(policy.tree.parents)) - 1), None)
    return None
