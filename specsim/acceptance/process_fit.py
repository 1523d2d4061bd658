"""Fit the synthetic world to what was measured of a drafter, and say how well it fits and what the data told.

What is matched are moments (see ``process_seen``), each by its standard error; priors hold what the data do not tell,
so that little data gives a usual process with a wide interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from specsim.acceptance.process import TokenProcess
from specsim.acceptance.process_moments import Array, law_moments
from specsim.acceptance.process_rounds import StaticRounds, node_means, played, request_kinds
from specsim.acceptance.process_seen import MODEL_ERROR, Recorded, Seen, seen_profile, seen_records
from specsim.acceptance.profile import AcceptanceProfile
from specsim.documents import Document
from specsim.errors import InputError
from specsim.tree import DraftTree

__all__ = ["OWN_MODEL", "PRIORS", "FittedProcess", "Moment", "Prior", "Recorded", "fit", "fit_profile", "fit_records"]

NUM_TYPES: Final = 1024
"""Of the world's nodes, while it is fitted."""

NUM_POSSIBLE: Final = 32
NUM_STEPS: Final = 6
"""Processes kept to say what else the data allow, and steps taken to find each."""

STEP: Final = 0.03
"""Of the derivatives by parameter: wide, since acceptance over a finite world can move in small steps."""

LEAST_VALUE: Final = 1e-3
"""Parameters that may be 0 are fitted as logarithms above this."""


class Prior(NamedTuple):
    """What is usual: median, and standard deviation of the logarithm (of the odds, for a share)."""

    median: float
    sd: float
    is_share: bool = False


PRIORS: Final[dict[str, Prior]] = {
    "sharpness": Prior(2.5, 0.7),
    "sharpness_sd": Prior(0.5, 0.5),
    "regime_gap": Prior(0.6, 0.7),
    "persistence": Prior(0.7, 1.0, is_share=True),
    "divergence": Prior(1.2, 0.8),
    "divergence_sd": Prior(0.5, 0.4),
    "calibration": Prior(1.0, 0.2),
    "decay": Prior(0.05, 1.0),
    "request_sd": Prior(0.15, 0.7),
}
"""What is fitted. Assumed, and wide: the middle of them makes chains as published drafters do, most of which are heads
that feed on their own output; ``docs/process.md`` has the check."""

OWN_MODEL: Final = PRIORS | {"decay": Prior(0.01, 1.0)}
"""Where the drafter is a language model of its own, which hardly drifts with depth."""


class Moment(Document):
    """One number that was matched: observed with its standard error, and what the fitted process gives."""

    name: str
    observed: float
    sd: float
    fitted: float

    @property
    def residual(self) -> float:
        """In standard errors."""
        return (self.fitted - self.observed) / self.sd


class FittedProcess(Document):
    """A process with how sure it is.

    Attributes:
        process: The best one.
        possible: Processes that the data leave possible, drawn from all such.
        moments: Goodness of fit, number by number.
        num_rounds: Rounds behind it.
        num_requests: Requests behind it; None where unknown.
        chi2_per_moment: Mean squared residual of the moments: about 1 or below where the process can say it all.
        p_value: Chance of residuals as large where the process is right; small values mean that it is not.
        told: By parameter, share of the prior's spread that the data took away: 0 for what only the prior says.
        trees: What was measured to its full depth, by label.
        max_depth: Deepest level measured.
        max_ranks: Candidates of a node measured.
        conditions: Temperature, and whether drafts were sampled, of what was measured.
    """

    process: TokenProcess
    possible: tuple[TokenProcess, ...]
    moments: tuple[Moment, ...]
    num_rounds: float
    num_requests: int | None
    chi2_per_moment: float
    p_value: float
    told: dict[str, float]
    trees: tuple[str, ...]
    max_depth: int
    max_ranks: int
    conditions: tuple[tuple[float, bool], ...]


def fit_records(
    recorded: Sequence[Recorded], start: TokenProcess | None = None, *, num_possible: int = NUM_POSSIBLE
) -> FittedProcess:
    """The process under which these rounds, of one drafter and target, are most usual.

    Args:
        recorded: One entry for each tree.
        start: What is not fitted (candidates, vocabulary, share of easy text).
        num_possible: See :func:`fit`.

    Raises:
        InputError: for no rounds, or rounds of another tree.
    """
    if not recorded:
        raise InputError("records", "must hold at least one round of each tree", 0)
    return fit([seen_records(part) for part in recorded], start, num_possible=num_possible)


def fit_profile(
    profile: AcceptanceProfile,
    temperature: float,
    *,
    sampled: bool,
    start: TokenProcess | None = None,
    num_possible: int = NUM_POSSIBLE,
) -> FittedProcess:
    """The process for a table alone; what that does not tell (confidence, persistence) is the prior's."""
    return fit([seen_profile(profile, temperature, sampled=sampled)], start, num_possible=num_possible)


def fit(
    seen: Sequence[Seen],
    start: TokenProcess | None = None,
    priors: Mapping[str, Prior] = PRIORS,
    *,
    num_possible: int = NUM_POSSIBLE,
) -> FittedProcess:
    """The process under which all this, of one drafter, target and kind of text, is most usual.

    Args:
        seen: What was measured, in as many forms and of as many trees as there are.
        start: What is not fitted (candidates, vocabulary, share of easy text).
        priors: What is usual; ``OWN_MODEL`` where the drafter is a model of its own.
        num_possible: How many processes to find that the data leave possible, which takes most of the time; none where
            the best alone is wanted.

    >>> from specsim.acceptance.process_seen import seen_survival
    >>> found = fit([seen_survival([0.8, 0.66, 0.55], num_rounds=5000)])
    >>> found.p_value > 0.05, found.told["divergence"] > found.told["calibration"]
    (True, True)
    """
    from scipy.optimize import least_squares
    from scipy.stats import chi2

    start = start or TokenProcess()
    values, errors = (np.array([m[i] for s in seen for m in s.moments.values()]) for i in (0, 1))
    errors = np.hypot(errors, MODEL_ERROR)
    if not len(values):
        raise InputError("seen", "must hold at least one moment", 0)
    centre = np.array([_log(prior.median, prior) for prior in priors.values()])
    spread = np.array([prior.sd for prior in priors.values()])

    def residuals(logs: Array) -> Array:
        return np.concatenate(
            [(_moments(_process(logs, start, priors), seen) - values) / errors, (logs - centre) / spread]
        )

    def jacobian(logs: Array) -> Array:
        here = residuals(logs)
        return np.stack([residuals(logs + step) - here for step in STEP * np.eye(len(logs))], axis=1) / STEP

    bounds = centre - 4 * spread, centre + 4 * spread
    found = least_squares(residuals, centre, jac=jacobian, bounds=bounds, xtol=1e-3, ftol=1e-3, max_nfev=15)
    slopes = np.asarray(found.jac, dtype=float)
    misfit = float(np.mean(found.fun[: len(values)] ** 2))
    possible = _possible(residuals, found.x, slopes, max(1.0, misfit), num_possible)
    # Curvature at the best, against that of the priors alone.
    left = np.sqrt(np.diag(np.linalg.inv(slopes.T @ slopes))) / spread
    told = np.clip(1 - left, 0, 1)
    fitted = values + found.fun[: len(values)] * errors
    names = [f"{s.tree.label}: {name}" for s in seen for name in s.moments]
    rows = zip(names, values.tolist(), errors.tolist(), fitted.tolist(), strict=True)
    num_free = max(1.0, len(values) - float((1 - left**2).sum()))
    return FittedProcess(
        process=_process(found.x, start, priors),
        possible=tuple(_process(one, start, priors) for one in possible),
        moments=tuple(Moment(name=n, observed=o, sd=s, fitted=f) for n, o, s, f in rows),
        num_rounds=sum(s.num_rounds for s in seen),
        num_requests=None if None in (numbers := [s.num_requests for s in seen]) else max(n for n in numbers if n),
        chi2_per_moment=misfit,
        p_value=float(chi2.sf(misfit * len(values), num_free)),
        told=dict(zip(priors, told.tolist(), strict=True)),
        trees=tuple(s.tree.label for s in seen if s.depth == s.tree.depth),
        max_depth=max(s.depth for s in seen),
        max_ranks=max(1 + max(s.tree.ranks) for s in seen),
        conditions=tuple(sorted({(s.temperature, s.sampled) for s in seen})),
    )


def _moments(process: TokenProcess, seen: Sequence[Seen]) -> Array:
    """What the process gives, in the order of what was seen."""
    laws = _laws(process, seen)
    return np.array([v for s, law in zip(seen, laws, strict=True) for v in _wanted(law_moments(law, s.equal), s)])


def _wanted(found: dict[str, float], seen: Seen) -> Iterator[float]:
    return (found[name] for name in seen.moments)


def _laws(process: TokenProcess, seen: Sequence[Seen]) -> list[StaticRounds]:
    """The law of each tree; those of the same conditions share their nodes, which take most of the time."""
    offsets, weights = request_kinds(process)
    shared: dict[tuple[float, bool], list[Seen]] = {}
    for one in seen:
        shared.setdefault((one.temperature, one.sampled), []).append(one)
    means = {}
    for (temperature, sampled), group in shared.items():
        widest = DraftTree.from_paths(
            [(0,) * level for level in range(1, 1 + max(s.tree.depth for s in group))]
            + [(rank,) for rank in range(1, 1 + max(max(s.tree.ranks) for s in group))]
        )
        means[temperature, sampled] = node_means(
            process, widest, temperature, offsets, sampled=sampled, num_types=NUM_TYPES,
            with_confidence=any(s.needs_confidence for s in group),
        )  # fmt: skip
    return [played(process, one.tree, means[one.temperature, one.sampled], weights) for one in seen]


def _possible(residuals: Callable[[Array], Array], best: Array, jac: Array, scale: float, num: int) -> Iterator[Array]:
    """Points of the posterior: what would be best had the data, and the priors, erred otherwise.

    Each is sought by Gauss-Newton steps from the best, all with its Jacobian, halved where they overshoot. Errors count
    ``scale`` times more where the best fit leaves more than they explain. Exact where residuals are linear; source:
    randomize-then-optimize, Bardsley, Solonen, Haario & Laine (2014), without its weights.
    """
    rng = np.random.default_rng(0)
    solve = np.linalg.pinv(jac)
    at_best = residuals(best)
    for _ in range(num):
        shift = np.sqrt(scale) * rng.standard_normal(len(at_best))
        here, left, share = best, at_best + shift, 1.0
        for _ in range(NUM_STEPS):
            there = here - share * solve @ left
            new = residuals(there) + shift
            if new @ new < left @ left:
                here, left = there, new
            else:
                share /= 2
        yield here


def _log(value: float, prior: Prior) -> float:
    value = max(value, LEAST_VALUE)
    return float(np.log(value / (1 - value)) if prior.is_share else np.log(value))


def _process(logs: Array, start: TokenProcess, priors: Mapping[str, Prior]) -> TokenProcess:
    limits = {"sharpness": (0.1, 40), "sharpness_sd": (0, 3), "regime_gap": (0, 4), "divergence": (0, 12)}
    limits |= {"divergence_sd": (0, 2), "calibration": (0.01, 4), "decay": (0, 2), "request_sd": (0, 2)}
    found = {}
    for log, (name, prior) in zip(logs.tolist(), priors.items(), strict=True):
        value = 1 / (1 + np.exp(-log)) if prior.is_share else np.exp(log)
        found[name] = float(np.clip(value, *limits.get(name, (0, 0.995))))
    return TokenProcess.model_validate(start.model_dump() | found)
