"""Acceptance where nothing was measured yet: what publications found of the like, with an interval that says how little
that is. A case that nothing published resembles is refused, with what comes nearest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from math import expm1, log, sqrt
from statistics import NormalDist
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from specsim.acceptance.conventions import decay_of
from specsim.acceptance.priors_model import Case, Guess, Model, model
from specsim.acceptance.priors_table import Fact, facts, family_of, plain_name
from specsim.acceptance.profile import AcceptanceProfile
from specsim.documents import Document
from specsim.errors import InputError

Array = NDArray[np.float64]

NUM_NEAREST: Final = 5
SPREAD_AT: Final = 4
"""Draft length at which a profile's interval is as low as the prior's; at others it is a little off."""

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(21)


@dataclass(frozen=True, eq=False)
class Prior:
    """What is believed of a case.

    Attributes:
        case: What was asked.
        guess: Predictive law of the logit of alpha by draft length, ``[draft_len - 1]``.
        nearest: Rows of the table that are most like it.
        num_studies: Studies that measured the method on a shape that converts.
    """

    case: Case
    guess: Guess
    nearest: tuple[Fact, ...]
    num_studies: int

    @property
    def max_depth(self) -> int:
        """Longest chain that the method was published with."""
        return len(self.guess.mean)

    def accepted(self, draft_len: int, level: float = 0.9) -> tuple[float, float, float]:
        """Interval and mean of accepted draft tokens per round, for a chain: low, mean, high.

        The interval is where one more study would find its own mean with this probability.
        """
        if not 1 <= draft_len <= self.max_depth:
            raise InputError("draft_len", f"must be from 1 to {self.max_depth}, the longest published", draft_len)
        reach = NormalDist().inv_cdf((1 + level) / 2)
        mean, sd = float(self.guess.mean[draft_len - 1]), float(self.guess.sd[draft_len - 1])
        low, high = (float(self._accepted(np.array(mean + z * sd), draft_len)) for z in (-reach, reach))
        return low, self._mean(draft_len), high

    def alpha(self, draft_len: int, level: float = 0.9) -> tuple[float, float, float]:
        """Interval and median of alpha for a chain of this length: low, median, high."""
        reach = NormalDist().inv_cdf((1 + level) / 2)
        mean, sd = float(self.guess.mean[draft_len - 1]), float(self.guess.sd[draft_len - 1])
        low, mid, high = (float(_alpha(np.array(mean + z * sd))) for z in (-reach, 0.0, reach))
        return low, mid, high

    def _mean(self, draft_len: int) -> float:
        values = self._accepted(self.guess.mean[draft_len - 1] + self.guess.sd[draft_len - 1] * _NODES, draft_len)
        weights = _WEIGHTS / _WEIGHTS.sum()
        return float(weights @ values)

    def _accepted(self, logit: Array, draft_len: int) -> Array:
        alpha = _alpha(logit)[..., None] * decay_of(self.case.method, draft_len)
        return np.asarray(np.cumprod(alpha, axis=-1).sum(-1))

    @property
    def profile(self) -> AcceptanceProfile:
        """As acceptance by depth, first choices only; the spread between studies is its ``task_sd``."""
        means = [self._mean(length) for length in range(1, self.max_depth + 1)]
        survival = np.minimum.accumulate(np.clip(np.diff(means, prepend=0.0), 0, 1))
        near = ", ".join(dict.fromkeys(fact.study for fact in self.nearest))
        source = f"published priors of {self.case.method} ({self.num_studies} studies; nearest: {near})"
        return replace(AcceptanceProfile.from_survival(survival, source=source), task_sd=self._task_sd())

    def _task_sd(self) -> float:
        """Of the log-normal factor of mean 1 with which a profile's tokens reach as low as the prior's interval.

        The prior's own law leans to the low side, which a log-normal does not, so the high end is then generous.
        """
        low, mean, _ = self.accepted(min(SPREAD_AT, self.max_depth))
        reach = NormalDist().inv_cdf(0.95)
        log_sd = sqrt(reach**2 + 2 * log(mean / low)) - reach  # mean exp(-reach s - s**2 / 2) = low
        return sqrt(expm1(log_sd**2))


def _alpha(logit: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-logit)))


def prior(
    method: str, *, target: str | None = None, task: str | None = None, temperature: float, draft: str | None = None
) -> AcceptanceProfile:
    """The profile of ``find_prior``."""
    return find_prior(method, target=target, task=task, temperature=temperature, draft=draft).profile


def find_prior(
    method: str,
    *,
    target: str | None = None,
    task: str | None = None,
    temperature: float,
    draft: str | None = None,
    known: Model | None = None,
) -> Prior:
    """What publications say of a case.

    Args:
        method: How it drafts: ``eagle3``, ``draft_model``, ``mtp``, ...
        target: The model, by its name or Hugging Face id; None: any, which widens the interval.
        task: Kind of text (``chat``, ``code``, ...) or a published data set; None: any.
        temperature: From 0 to 1; it has no default, as acceptance falls with it.
        draft: The drafter's weights as the table names them; None: others.
        known: What it is conditioned on, where not on the whole table.

    Raises:
        InputError: for what is not in the table, naming what comes nearest.

    >>> found = find_prior("eagle3", target="llama-3.3-70b", task="code", temperature=0)
    >>> low, mean, high = found.accepted(3)
    >>> 1 < low < mean < high < 3, found.nearest[0].family
    (True, 'llama-3')
    >>> find_prior("eagle3", target="falcon-7b", temperature=0)
    Traceback (most recent call last):
    specsim.errors.InputError: target: unknown to the priors of eagle3, nearest known are ...
    """
    known = model() if known is None else known
    rows = _of_method(method, known)
    name, family = _target(method, target, rows)
    kind, dataset = _task(method, task, rows)
    _check_temperature(method, temperature, rows)
    if draft is not None and draft not in {row.draft for row in rows}:
        raise InputError(
            "draft", f"unknown to the priors of {method}, {_near(draft, {row.draft for row in rows})}", draft
        )
    longest = max(row.length or 1 for row in rows)
    cases = [Case(method, name, family, draft, kind, dataset, temperature, k) for k in range(1, longest + 1)]
    nearest = known.nearest(cases[min(SPREAD_AT, longest) - 1], NUM_NEAREST)
    return Prior(cases[0], known.guess(cases), tuple(nearest), len({row.study for row in rows}))


def _of_method(method: str, known: Model) -> list[Fact]:
    rows = [row for row in known.rows if row.method == method]
    if rows:
        return rows
    named = [row for row in facts() if row.method == method]
    if named:
        shown = "; ".join(row.label for row in named[:2])
        raise InputError("method", f"published as tokens per round only, of drafts that are no chain or known tree: "
                                   f"{shown}", method)  # fmt: skip
    raise InputError("method", f"unknown to the priors, {_near(method, {row.method for row in known.rows})}", method)


def _target(method: str, target: str | None, rows: Sequence[Fact]) -> tuple[str | None, str | None]:
    if target is None:
        return None, None
    name, family = plain_name(target), family_of(target)
    families = {row.family for row in rows}
    if family not in families:
        near = _near(name, {row.target for row in rows})
        raise InputError("target", f"unknown to the priors of {method}, {near}; left out, it is any", target)
    return name, family


def _task(method: str, task: str | None, rows: Sequence[Fact]) -> tuple[str | None, str | None]:
    if task is None:
        return None, None
    if task in {row.task for row in rows}:
        return task, None
    for row in rows:
        if row.dataset == task.lower():
            return row.task, row.dataset
    near = _near(task, {row.task for row in rows} | {row.dataset for row in rows})
    raise InputError("task", f"unknown to the priors of {method}, {near}; left out, it is any", task)


def _check_temperature(method: str, temperature: float, rows: Sequence[Fact]) -> None:
    measured = sorted({row.temperature for row in rows if row.temperature is not None})
    if not measured[0] <= temperature <= measured[-1]:
        said = ", ".join(f"{value:g}" for value in measured)
        raise InputError("temperature", f"must lie among those that {method} was published at ({said})", temperature)


def _near(name: str, known: set[str]) -> str:
    """The most similar names, or all where none is similar."""
    found = get_close_matches(name, sorted(known), n=3, cutoff=0.5) or sorted(known)
    return f"nearest known are {', '.join(found[:12])}"


class PriorInput(Document):
    """Acceptance from publications, for a scenario: ``kind = "prior"``.

    Attributes:
        method, target, task, temperature, draft: As of ``find_prior``; target and task may be left out, not the
            temperature.
        extend_to_depth: Assume depths beyond the longest published chain behave like the last.
        rank_shares, rank_shares_source: As of the other kinds of input: opens the search to trees.
    """

    kind: Literal["prior"]
    method: str
    temperature: Annotated[float, Field(ge=0, le=10)]
    target: str | None = None
    task: str | None = None
    draft: str | None = None
    extend_to_depth: Annotated[int, Field(ge=1, le=512)] | None = None
    rank_shares: tuple[Annotated[float, Field(ge=0, le=1)], ...] = ()
    rank_shares_source: str = ""

    def profile(self) -> AcceptanceProfile:
        """The prior as a table."""
        from specsim.acceptance.inputs import TableInput  # which lists this class among its own kinds

        found = prior(self.method, target=self.target, task=self.task, temperature=self.temperature, draft=self.draft)
        table = TableInput(
            kind="table",
            accept_prob=tuple((float(value),) for value in found.accept_prob[:, 0]),
            source=found.source,
            task_sd=min(found.task_sd, 0.99),
            extend_to_depth=self.extend_to_depth,
            rank_shares=self.rank_shares,
            rank_shares_source=self.rank_shares_source,
        )
        return table.profile()
