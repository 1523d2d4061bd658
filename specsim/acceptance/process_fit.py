"""Fit the synthetic world to recorded rounds of static trees, or to a table of acceptance, and say how well it fits.

What is matched are moments: how often each length is reached, how often each rank is taken, how sure the drafter is
and how right when sure, the correlation of consecutive rounds, the spread between requests. Each counts by its standard
error; weak priors hold what the data do not tell, so that little data gives a usual process with a wide interval.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.process import TokenProcess
from specsim.acceptance.process_rounds import Equal, StaticRounds, static_rounds
from specsim.acceptance.profile import AcceptanceProfile
from specsim.acceptance.uncertainty import TokensInterval
from specsim.documents import Document
from specsim.errors import InputError
from specsim.records import RoundRecord
from specsim.tree import DraftTree

Array = NDArray[np.float64]
Model = Callable[[TokenProcess], list[Array]]

NUM_TYPES: Final = 2048
"""Of the world's nodes, while it is fitted."""

MODEL_ERROR: Final = 0.005
"""No moment is trusted beyond this: the world is not the models."""

NUM_POSSIBLE: Final = 24
NUM_STEPS: Final = 6
"""Processes kept to say what else the data allow, and steps taken to find each."""

STEP: Final = 0.03
"""Of the derivatives by parameter: wide, since at temperature 0 acceptance over a finite world moves in small steps."""

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
    "decay": Prior(0.03, 1.0),
    "request_sd": Prior(0.15, 0.7),
}
"""What is fitted. Assumed, and wide: the middle of them makes chains as published drafters do."""


class Moment(Document):
    """One number that was matched: observed with its standard error, and what the fitted process gives."""

    name: str
    observed: float
    sd: float
    fitted: float


class FittedProcess(Document):
    """A process with how sure it is.

    Attributes:
        process: The best one.
        possible: Processes that the data leave possible, drawn from all such.
        moments: Goodness of fit, number by number.
        num_rounds: Rounds behind it.
        chi2_per_moment: Mean squared residual of the moments: about 1 or below where the process can say it all.
    """

    process: TokenProcess
    possible: tuple[TokenProcess, ...]
    moments: tuple[Moment, ...]
    num_rounds: int
    chi2_per_moment: float


@dataclass(frozen=True)
class Recorded:
    """Rounds that all verified one static tree.

    Args:
        tree: What they verified.
        records: The rounds of each request in order.
        temperature: Of the target.
        sampled: Candidates were drawn and judged by rejection (``static_rounds`` says the same).
        equal: What all requests have the same number of.
    """

    tree: DraftTree
    records: Sequence[RoundRecord]
    temperature: float
    sampled: bool
    equal: Equal = "tokens"


def fit_records(recorded: Sequence[Recorded], start: TokenProcess | None = None) -> FittedProcess:
    """The process under which these rounds, of one drafter and target, are most usual.

    Args:
        recorded: One entry for each tree. Trees that ran on the same requests, by number, err alike: they are counted
            as that many requests, not as so many each.
        start: What is not fitted (candidates, vocabulary, share of easy text).

    Raises:
        InputError: for no rounds, or rounds of another tree.
    """
    if not recorded or not all(part.records for part in recorded):
        raise InputError("records", "must hold at least one round of each tree", 0)
    requests = [{record.request for record in part.records} for part in recorded]
    shared = [sum(bool(ours & theirs) for theirs in requests) for ours in requests]
    observed = [_observed(part, times) for part, times in zip(recorded, shared, strict=True)]

    def model(process: TokenProcess) -> list[Array]:
        found = []
        for part, (names, _, _) in zip(recorded, observed, strict=True):
            law = static_rounds(
                process, part.tree, part.temperature, sampled=part.sampled, num_types=NUM_TYPES, offsets=None
            )
            values = dict(_law_moments(law, part.equal))
            found.append(np.array([values[name] for name in names]))
        return found

    labels = [
        f"{part.tree.label}: {name}" for part, (names, _, _) in zip(recorded, observed, strict=True) for name in names
    ]
    values = np.concatenate([values for _, values, _ in observed])
    errors = np.concatenate([errors for _, _, errors in observed])
    num_rounds = sum(len(part.records) for part in recorded)
    return _fitted(model, labels, values, errors, num_rounds, start or TokenProcess())


def fit_profile(
    profile: AcceptanceProfile, temperature: float, *, sampled: bool, start: TokenProcess | None = None
) -> FittedProcess:
    """The process for a table of acceptance alone; what a table does not tell (confidence, persistence) is the prior's.

    The table is taken as measured on a chain whose every node also has the other ranks as leaves.
    """
    tree = _comb(profile.max_depth, profile.max_ranks)
    names = [f"depth {d + 1} rank {r}" for d in range(profile.max_depth) for r in range(profile.max_ranks)]
    values = profile.accept_prob.ravel()
    trials = np.full(profile.max_depth, np.inf) if profile.num_trials is None else np.maximum(profile.num_trials, 1)
    spread = np.sqrt((profile.accept_prob * (1 - profile.accept_prob) + 0.01) / trials[:, None]).ravel()

    def model(process: TokenProcess) -> list[Array]:
        law = static_rounds(process, tree, temperature, sampled=sampled, num_types=NUM_TYPES)
        return [law.accept_prob("rounds").ravel()]

    num = 0 if profile.num_trials is None else int(profile.num_trials[0])
    return _fitted(model, names, values, np.hypot(spread, MODEL_ERROR), num, start or TokenProcess())


def predicted_tokens(
    fit: FittedProcess,
    tree: DraftTree,
    temperature: float,
    rng: np.random.Generator,
    *,
    sampled: bool,
    level: float = 0.9,
    num_requests: int | None = None,
    rounds_per_request: int = 100,
) -> TokensInterval:
    """Tokens per round of a static tree, from processes that the data leave possible.

    Args:
        fit: Of records or a table.
        tree: Its shape.
        temperature: Of the target.
        rng: Of what new requests happen to be.
        sampled: As in ``static_rounds``.
        level: Of the interval.
        num_requests: Where given, the interval is for the mean over so many new requests, not over all there are.
        rounds_per_request: Of these.
    """
    means = []
    for process in fit.possible:
        law = static_rounds(process, tree, temperature, sampled=sampled, num_types=NUM_TYPES)
        mean = law.tokens_per_round("tokens")
        if num_requests is not None:
            lengths = np.arange(law.stop.shape[2])
            pmf = law.pmf("tokens")
            within = (pmf @ lengths**2 - (pmf @ lengths) ** 2) / rounds_per_request
            mean += float(rng.standard_normal() * np.sqrt((law.request_sd() ** 2 + within) / num_requests))
        means.append(mean)
    best = static_rounds(fit.process, tree, temperature, sampled=sampled).tokens_per_round("tokens")
    lo, hi = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return TokensInterval(float(min(lo, best)), best, float(max(hi, best)))


def _fitted(
    model: Callable[[TokenProcess], list[Array]],
    labels: list[str],
    values: Array,
    errors: Array,
    num_rounds: int,
    start: TokenProcess,
) -> FittedProcess:
    from scipy.optimize import least_squares

    centre = np.array([_log(prior.median, prior) for prior in PRIORS.values()])
    spread = np.array([prior.sd for prior in PRIORS.values()])

    def residuals(logs: Array) -> Array:
        found = np.concatenate(model(_process(logs, start)))
        return np.concatenate([(found - values) / errors, (logs - centre) / spread])

    def jacobian(logs: Array) -> Array:
        here = residuals(logs)
        return np.stack([residuals(logs + step) - here for step in STEP * np.eye(len(logs))], axis=1) / STEP

    bounds = centre - 4 * spread, centre + 4 * spread
    found = least_squares(residuals, centre, jac=jacobian, bounds=bounds, xtol=1e-3, ftol=1e-3, max_nfev=15)
    process = _process(found.x, start)
    misfit = float(np.mean(found.fun[: len(values)] ** 2))
    scale = max(1.0, misfit)
    possible = [_process(logs, start) for logs in _possible(residuals, found.x, np.asarray(found.jac), scale)]
    fitted = np.concatenate(model(process))
    moments = tuple(
        Moment(name=name, observed=float(o), sd=float(s), fitted=float(f))
        for name, o, s, f in zip(labels, values, errors, fitted, strict=True)
    )
    return FittedProcess(
        process=process, possible=tuple(possible), moments=moments, num_rounds=num_rounds, chi2_per_moment=misfit
    )


def _possible(residuals: Callable[[Array], Array], best: Array, jac: Array, scale: float) -> Iterator[Array]:
    """Points of the posterior: what would be best had the data, and the priors, erred otherwise.

    Each is sought by Gauss-Newton steps from the best, all with its Jacobian, halved where they overshoot. Errors count
    ``scale`` times more where the best fit leaves more than they explain. Exact where residuals are linear; source:
    randomize-then-optimize, Bardsley, Solonen, Haario & Laine (2014), without its weights.
    """
    rng = np.random.default_rng(0)
    solve = np.linalg.pinv(jac)
    at_best = residuals(best)
    for _ in range(NUM_POSSIBLE):
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


def _process(logs: Array, start: TokenProcess) -> TokenProcess:
    limits = {"sharpness": (0.1, 40), "sharpness_sd": (0, 3), "regime_gap": (0, 4), "divergence": (0, 12)}
    limits |= {"divergence_sd": (0, 2), "calibration": (0.01, 4), "decay": (0, 2), "request_sd": (0, 2)}
    found = {}
    for log, (name, prior) in zip(logs.tolist(), PRIORS.items(), strict=True):
        value = 1 / (1 + np.exp(-log)) if prior.is_share else np.exp(log)
        found[name] = float(np.clip(value, *limits.get(name, (0, 0.995))))
    return TokenProcess.model_validate(start.model_dump() | found)


def _law_moments(law: StaticRounds, equal: Equal) -> Iterable[tuple[str, float]]:
    """The moments of a law by name."""
    pmf = law.pmf(equal)
    for length in range(1, len(pmf)):
        yield f"accepts {length} or more", float(pmf[length:].sum())
    share = law.share(equal)
    tried, taken = float(share @ law.tried.sum(-1)), share @ law.accepted.sum(1)
    for rank in range(1, law.accepted.shape[2]):
        yield f"takes rank {rank}", float(taken[rank]) / tried
    for name, value in zip(CONFIDENCE, share @ law.confidence, strict=True):
        yield name, float(value) / tried
    yield "lag-1 correlation", law.lag1(equal)
    yield "spread between requests", law.request_sd()


CONFIDENCE: Final = (
    "mean confidence",
    "mean squared confidence",
    "mean confidence times accepted",
    "mean target probability",
)


class _Sums(NamedTuple):
    """Sums over the rounds of one request: of survival, of ranks taken, of confidence, of tried, of rounds."""

    survival: Array
    ranks: Array
    confidence: Array
    tried: float
    lengths: Array


def _observed(part: Recorded, shared: int) -> tuple[list[str], Array, Array]:
    """Names, values and standard errors of the moments of recorded rounds; errors by leaving out each request.

    ``shared``: trees that ran on these requests, this one among them.
    """
    by_request: dict[int, list[RoundRecord]] = defaultdict(list)
    for record in part.records:
        by_request[record.request].append(record)
    sums = [_sums(part.tree, rounds) for rounds in by_request.values()]
    names, values = _moments_of(sums)
    if len(sums) < 3:
        raise InputError("records", "must be of at least 3 requests, to tell how far these differ", len(sums))
    without = [dict(zip(*_moments_of(sums[:i] + sums[i + 1 :]), strict=True)) for i in range(len(sums))]
    table = np.array([[row.get(name, np.nan) for name in names] for row in without])
    spread = np.sqrt(shared * (len(sums) - 1) * np.nanvar(table, axis=0))
    return names, values, np.hypot(np.maximum(spread, 1e-4), MODEL_ERROR)


def _sums(tree: DraftTree, rounds: list[RoundRecord]) -> _Sums:
    depth, ranks = tree.depth, 1 + max(tree.ranks)
    survival, taken, sure, tried = np.zeros(depth), np.zeros(ranks), np.zeros(4), 0.0
    first = {
        parent: node for node, (parent, rank) in enumerate(zip(tree.parents, tree.ranks, strict=True)) if rank == 0
    }
    for record in rounds:
        if record.num_drafted != tree.num_drafted or record.path is None or record.draft_probs is None:
            raise InputError("records", f"must verify {tree.label}, with path and draft_probs", record.method)
        survival[: record.num_accepted] += 1
        for rank in record.accepted_ranks:
            taken[rank] += 1
        for node in (0, *record.path):
            if node not in first:
                continue
            child = first[node]
            c = record.draft_probs[child - 1]
            kept = record.accept_prob[child - 1] if record.accept_prob is not None else float(child in record.path)
            wanted = record.target_probs[child - 1] if record.target_probs is not None else np.nan
            sure, tried = sure + np.array([c, c * c, c * kept, wanted]), tried + 1
    return _Sums(survival, taken, sure, tried, np.array([record.num_accepted for record in rounds], dtype=float))


def _moments_of(sums: list[_Sums]) -> tuple[list[str], Array]:
    lengths = [s.lengths for s in sums]
    every = np.concatenate(lengths)
    tried = max(sum(s.tried for s in sums), 1.0)
    survival = np.sum([s.survival for s in sums], axis=0) / len(every)
    ranks = np.sum([s.ranks for s in sums], axis=0) / tried
    sure = np.sum([s.confidence for s in sums], axis=0) / tried
    found = [(f"accepts {i + 1} or more", float(v)) for i, v in enumerate(survival)]
    found += [(f"takes rank {i + 1}", float(v)) for i, v in enumerate(ranks[1:])]
    found += [(name, float(v)) for name, v in zip(CONFIDENCE, sure, strict=True) if np.isfinite(v)]
    mean, variance = every.mean(), every.var()
    pairs = [np.mean((x[1:] - mean) * (x[:-1] - mean)) for x in lengths if len(x) > 2]
    if pairs and variance > 0:
        found.append(
            ("lag-1 correlation", float(np.average(pairs, weights=[len(x) for x in lengths if len(x) > 2])) / variance)
        )
    # Of the spread of means, what rounds within a request explain by chance is taken off.
    chance = np.mean([x.var() / len(x) for x in lengths])
    spread = np.var([x.mean() for x in lengths], ddof=1) if len(lengths) > 1 else 0.0
    found.append(("spread between requests", float(np.sqrt(max(spread - chance, 1e-4)))))
    return [name for name, _ in found], np.array([value for _, value in found])


def _comb(depth: int, num_ranks: int) -> DraftTree:
    """A chain of first candidates whose every node also has the others as leaves."""
    spine = [(0,) * level for level in range(depth)]
    return DraftTree.from_paths([(*path, rank) for path in spine for rank in range(num_ranks)])
