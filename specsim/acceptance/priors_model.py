"""What published facts say of a case that none of them measured: a model of random effects, with all its uncertainty.

The logit of alpha is a sum of effects, each normal and shared by the rows alike in something: method, kind of text,
both, family, method and target, drafter, study, data set, kind of tree that alpha was converted from; and of slopes in
the temperature's square and in the logarithm of the length drafted, each with a part of the method's own. A new case
shares what it is alike in and draws the rest anew, so that an unknown drafter, study and data set widen its interval.
This is Gaussian regression with the covariance ``sum of sd**2 [alike]``; Henderson 1975 for the predictor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import log
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.priors_table import Fact, facts

Array = NDArray[np.float64]

EFFECTS: Final[tuple[tuple[tuple[str, ...], float], ...]] = (
    (("method",), 0.546),
    (("task",), 0.289),
    (("method", "task"), 0.163),
    (("family",), 0.129),
    (("method", "target"), 0.137),
    (("method", "target", "draft"), 0.367),
    (("study", "method"), 0.175),
    (("method", "target", "draft", "dataset"), 0.357),
    (("shape",), 0.176),
)
"""Standard deviation of each effect, in logits: maximum likelihood on the table, with a weak prior that keeps each near
0.3 within a factor of e (``docs/priors.md``)."""

TEMPERATURE_SD: Final = 0.214
LENGTH_SD: Final = 0.117
RESIDUAL_SD: Final = 0.094
WIDENING: Final = 1.15
"""Of the predictive deviation: without it, 90 % intervals held 84 % of the rows of studies left out, effects refitted
each time without that study; with it 89 %, and 91 % where each study counts once. Chosen on these same studies."""
MEAN: Final = log(0.65 / 0.35)
WIDE_VAR: Final = 9.0
"""Of the overall mean; the two overall slopes have ``SLOPE_VAR``: wide, so that the rows decide."""
SLOPE_VAR: Final = 4.0


class Case(NamedTuple):
    """What is asked of the model. None: drawn anew, as nothing known is like it."""

    method: str
    target: str | None
    family: str | None
    draft: str | None
    task: str | None
    dataset: str | None
    temperature: float
    length: int
    shape: str = "chain"
    study: str | None = None


class Guess(NamedTuple):
    """Predictive law of the logit of alpha, for each case: mean ``[i]`` and standard deviation ``[i]``."""

    mean: Array
    sd: Array


def usable(rows: Sequence[Fact]) -> tuple[Fact, ...]:
    """Rows that the model can use: of a shape that converts, at a temperature that is said."""
    return tuple(row for row in rows if row.alpha is not None and row.temperature is not None)


def case_of(row: Fact) -> Case:
    """The case that a row measured."""
    assert row.length is not None and row.temperature is not None
    return Case(row.method, row.target, row.family, row.draft, row.task, row.dataset, row.temperature, row.length,
                row.shape or "chain", row.study)  # fmt: skip


def covariance(first: Sequence[Case], second: Sequence[Case]) -> Array:
    """Covariance of the logits of two lists of cases, residual left out."""
    heat = [np.array([case.temperature**2 for case in cases]) for cases in (first, second)]
    length = [np.log(np.array([case.length for case in cases]) / 4) for cases in (first, second)]
    same_method = _alike(first, second, ("method",))
    total = WIDE_VAR + SLOPE_VAR * (np.multiply.outer(*heat) + np.multiply.outer(*length))
    total += same_method * TEMPERATURE_SD**2 * np.multiply.outer(*heat)
    total += same_method * LENGTH_SD**2 * np.multiply.outer(*length)
    for names, sd in EFFECTS:
        total += sd**2 * _alike(first, second, names)
    return np.asarray(total)


def _alike(first: Sequence[Case], second: Sequence[Case], names: tuple[str, ...]) -> Array:
    codes: dict[tuple[str, ...], int] = {}

    def coded(cases: Sequence[Case], unknown: int) -> NDArray[np.int64]:
        keys = [tuple(getattr(case, name) for name in names) for case in cases]
        return np.array([unknown if None in key else codes.setdefault(key, len(codes)) for key in keys])

    return np.asarray(coded(first, -1)[:, None] == coded(second, -2)[None, :], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Model:
    """The regression on some rows."""

    rows: tuple[Fact, ...]
    cases: tuple[Case, ...]
    factor: Array
    weights: Array

    @classmethod
    def of(cls, rows: Sequence[Fact]) -> Model:
        """Condition on these rows."""
        used = usable(rows)
        cases = tuple(case_of(row) for row in used)
        alpha = np.clip([row.alpha for row in used if row.alpha is not None], 0.005, 0.995)
        factor: Array = np.asarray(
            np.linalg.cholesky(covariance(cases, cases) + RESIDUAL_SD**2 * np.eye(len(cases))), dtype=np.float64
        )
        apart = np.log(alpha / (1 - alpha)) - MEAN
        weights: Array = np.asarray(np.linalg.solve(factor.T, np.linalg.solve(factor, apart)), dtype=np.float64)
        return cls(used, cases, factor, weights)

    def guess(self, cases: Sequence[Case]) -> Guess:
        """What a new measurement of each case would find."""
        cross = covariance(cases, self.cases)
        spent = np.linalg.solve(self.factor, cross.T)
        own = np.array([_variance(case) for case in cases]) + RESIDUAL_SD**2
        return Guess(MEAN + cross @ self.weights, WIDENING * np.sqrt(own - (spent**2).sum(axis=0)))

    def nearest(self, case: Case, num: int) -> list[Fact]:
        """Rows of its method that are most like it, best first, one of each study, target and data set."""
        like = covariance([case], self.cases)[0]
        found: dict[tuple[str, ...], Fact] = {}
        for place in np.argsort(-like, kind="stable"):
            row = self.rows[place]
            if row.method == case.method:
                found.setdefault((row.study, row.target, row.dataset), row)
        return list(found.values())[:num]


def _variance(case: Case) -> float:
    """Of a case by itself: what is unknown of it has an effect too, of its own."""
    known = Case(*("?" if value is None else value for value in case))  # type: ignore[arg-type]
    return float(covariance([known], [known])[0, 0])


@cache
def model() -> Model:
    """Conditioned on all that is published."""
    return Model.of(facts())


def without_study(study: str) -> Model:
    """Conditioned on the others, to ask how well it does where it has seen nothing of the study."""
    return Model.of([row for row in facts() if row.study != study])


def as_new(case: Case) -> Case:
    """The case as someone else would meet it: study and drafter unknown."""
    return case._replace(study=None, draft=None)
