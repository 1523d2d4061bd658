"""Sizes that follow the context: how many nodes to verify, and when to stop drafting, seeing how sure the drafter is.

Both maximise a ratio of means, mean tokens / mean cost. With the best ratio as a price of cost, each context alone
maximises tokens - price x cost; the price is where the optimum is zero.

Source: Dinkelbach 1967, "On nonlinear fractional programming".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.acceptance.profile import as_floats, checked_probs
from specsim.errors import InputError
from specsim.search.exact.certificate import Array, checked_costs, checked_count, probs_or_none

_Answer = TypeVar("_Answer")
MAX_STATES = 2_000_000
"""Largest table of the stopping problem: draft lengths x histories x states."""


@dataclass(frozen=True, eq=False)
class SizesAnswer:
    """The best number of nodes (root in) for each context, and their common rate."""

    num_nodes: tuple[int, ...]
    rate: float


@dataclass(frozen=True, eq=False)
class StopAnswer:
    """The best stopping rule's rate, and the mean number of tokens it drafts and emits per round."""

    rate: float
    tokens_per_round: float
    mean_draft_len: float


def best_sizes(path_probs: Sequence[ArrayLike], verify_cost: ArrayLike) -> SizesAnswer:
    """How many nodes to verify in each context, equally likely, for the highest mean tokens / mean cost.

    Args:
        path_probs: Path probabilities of each context's candidate nodes (root left out), descending.
        verify_cost: ``[nodes - 1]``, root in. No context takes more nodes than it has costs for.

    Raises:
        InputError: for probabilities that rise or leave 0..1, and for costs that are not positive.

    >>> answer = best_sizes([[0.9, 0.8], [0.2, 0.1]], [1.0, 1.3, 1.6])
    >>> answer.num_nodes, round(answer.rate, 4)  # (2.7 + 1) / (1.6 + 1)
    ((3, 1), 1.4231)
    """
    cost = checked_costs("verify_cost", verify_cost, positive=True)
    checked_count("contexts", len(path_probs), 1)
    checked_count("verify_cost: length", len(cost), 1)
    tokens = []
    for number, probs in enumerate(path_probs):
        row = probs_or_none(f"contexts[{number}]", probs)
        if np.any(np.diff(row) > 0):
            raise InputError(f"contexts[{number}]", "must be descending", row.tolist())
        tokens.append(np.concatenate(([1.0], 1.0 + np.cumsum(row)))[: len(cost)])

    def solve(price: float) -> tuple[float, float, NDArray[np.intp]]:
        sizes = np.array([int(np.argmax(row - price * cost[: len(row)])) for row in tokens])
        return float(sum(row[n] for row, n in zip(tokens, sizes, strict=True))), float(cost[sizes].sum()), sizes

    rate, sizes = _priced(solve, len(tokens) / float(len(tokens) * cost[0]))
    return SizesAnswer(tuple((sizes + 1).tolist()), rate)


def best_stopping(
    init: ArrayLike,
    transition: ArrayLike,
    accept: ArrayLike,
    max_draft_len: int,
    step_cost: float,
    verify_cost: ArrayLike,
) -> StopAnswer:
    """The best rule for when to stop drafting a chain, seeing a state of confidence after each drafted token.

    The state is a Markov chain that acceptance does not disturb; a token in state s is kept, given its prefix was, with
    ``accept[s]``. The chance that the prefix survives is a product over the states seen, so histories with the same
    number of visits to each state are one.

    Args:
        init: Law of the state after the first token. ``transition[s, s']``: of the next one.
        accept: By state.
        max_draft_len: Most tokens drafted.
        step_cost: Of drafting one token.
        verify_cost: ``[tokens drafted]``, from 0.

    Raises:
        InputError: for laws that do not sum to one, tables that do not fit each other, and costs below 0.

    >>> answer = best_stopping([0.5, 0.5], [[1, 0], [0, 1]], [1.0, 0.0], 3, 0.25, [1.0] * 4)
    >>> round(answer.rate, 4)  # good contexts draft 3, bad ones stop after 1: (4 + 1) / (1.75 + 1.25)
    1.6667
    """
    first, moves, keep = _checked_chain(init, transition, accept)
    verify = checked_costs("verify_cost", verify_cost, max_draft_len + 1, positive=True)
    draft = float(checked_costs("draft_step_cost", [step_cost])[0])
    visits, ways = _histories(len(first), max_draft_len)
    survival = [np.prod(keep ** np.array(rows, float).reshape(-1, len(first)), axis=1) for rows in visits]

    def solve(price: float) -> tuple[float, float, float]:
        """Tokens, cost and drafted tokens of the best rule at this price, by backward induction."""
        after: list[Array] = []
        for length in range(max_draft_len, -1, -1):
            shape = (len(survival[length]), len(first)) if length else (1, 1)
            now: list[Array] = [np.zeros(shape), np.full(shape, float(verify[length])), np.zeros(shape)]
            if length < max_draft_len:
                law = moves if length else first[None, :]
                children, states = ways[length], np.arange(len(first))
                step = [survival[length + 1][children], draft, 1.0]
                more = [(own + part[children, states]) @ law.T for own, part in zip(step, after, strict=True)]
                better = more[0] - price * more[1] > now[0] - price * now[1]
                now = [np.where(better, a, b) for a, b in zip(more, now, strict=True)]
            after = now
        return 1.0 + float(after[0][0, 0]), float(after[1][0, 0]), float(after[2][0, 0])

    rate, drafted = _priced(solve, 1.0 / float(verify[0]))
    return StopAnswer(rate, solve(rate * (1 - 1e-12))[0], drafted)


def _priced(solve: Callable[[float], tuple[float, float, _Answer]], price: float) -> tuple[float, _Answer]:
    """Raise the price to the ratio of the priced optimum until it no longer rises; it does so within a few steps."""
    while True:
        tokens, cost, answer = solve(price)
        if tokens / cost <= price * (1 + 1e-15):
            return max(tokens / cost, price), answer
        price = tokens / cost


def _checked_chain(init: ArrayLike, transition: ArrayLike, accept: ArrayLike) -> tuple[Array, Array, Array]:
    first = as_floats("init", init, ndim=1)
    moves, keep = as_floats("transition", transition, ndim=2), as_floats("accept", accept, ndim=1)
    for field, table, shape in (
        ("init", first, first.shape),
        ("transition", moves, (len(first), len(first))),
        ("accept", keep, (len(first),)),
    ):
        if table.shape != shape or not len(first):
            raise InputError(field, f"must have the shape {shape}", table.shape)
        checked_probs(field, table)
    for field, law in (("init", first[None]), ("transition", moves)):
        if np.any(np.abs(law.sum(axis=1) - 1) > 1e-9):
            raise InputError(field, "must sum to 1", law.sum(axis=1).tolist())
    return first, moves, keep


def _histories(num_states: int, max_len: int) -> tuple[list[list[tuple[int, ...]]], list[NDArray[np.intp]]]:
    """By length, the visit counts that histories can have, and for each the place of those with one visit more."""
    levels: list[list[tuple[int, ...]]] = [[(0,) * num_states]]
    ways: list[NDArray[np.intp]] = []
    total = 1
    for _ in range(max_len):
        places: dict[tuple[int, ...], int] = {}
        table = [
            [
                places.setdefault(tuple(c + (i == s) for i, c in enumerate(counts)), len(places))
                for s in range(num_states)
            ]
            for counts in levels[-1]
        ]
        total += len(places) * num_states
        if total > MAX_STATES:
            raise InputError("gamma_max", f"must leave at most {MAX_STATES} histories of {num_states} states", max_len)
        levels.append(list(places))
        ways.append(np.array(table, np.intp))
    return levels, ways
