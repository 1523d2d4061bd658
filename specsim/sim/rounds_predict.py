"""Tokens per round of any tree or policy from a fitted process, with an interval that means what it says.

Four things can be otherwise: the process (what else the data allow), the world itself (it is not the models: by how
much was learnt where the answer is known, see ``docs/process.md``), the requests, and the rounds that are measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np

from specsim.acceptance.process import TokenProcess
from specsim.acceptance.process_fit import NUM_TYPES, FittedProcess
from specsim.acceptance.process_rounds import static_rounds
from specsim.decoding import Rule, StaticTree, TreePolicy
from specsim.errors import InputError
from specsim.sim.rounds import SyntheticMethod, simulate_rounds
from specsim.tree import DraftTree

SAME, OTHER, DEEPER, WIDER, JUDGED, GROWN, UNSURE = 0.03, 0.06, 0.05, 0.06, 0.10, 0.15, 0.10
"""Errors of the world where it is right for the data: standard deviations of the log-odds of accepting (accepted over
depth). In the tree measured; in another tree; more for each doubling beyond the depth measured; where ranks were not
measured; at another temperature or rule than measured; for trees that grow by confidence, and where that was not
measured."""

EXACT: Final = ("greedy", "one_hot", "token_rejection", "recursive_rejection")
NUM_ROUNDS, NUM_REQUESTS = 15, 64
"""Played for each possible process where there is no exact law."""

ROUNDS_OF_A_REQUEST: Final = 100
"""Where requests are not known: as of texts of a few hundred tokens."""


class Prediction(NamedTuple):
    """Mean tokens per round, bonus token in, and the ends of its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Measured:
    """What the interval is to hold: a mean that is going to be measured.

    Attributes:
        num_requests: Of so many requests of equally many rounds (``alike`` for others); None: of all such requests.
        rounds_per_request: Rounds of each.
        same_requests: They are those that the process was fitted to.
    """

    num_requests: int | None = None
    rounds_per_request: int = ROUNDS_OF_A_REQUEST
    same_requests: bool = False


def predict_tokens(
    fitted: FittedProcess,
    policy_or_tree: TreePolicy | DraftTree,
    rule: Rule,
    level: float = 0.9,
    *,
    temperature: float | None = None,
    measured: Measured = Measured(),
    seed: int = 0,
) -> Prediction:
    """Tokens per round of this policy on texts like those that were measured.

    Args:
        fitted: Of whatever was measured of the drafter.
        policy_or_tree: A tree is drafted as the rule needs it: the best candidates, or draws.
        rule: What the target keeps.
        level: Of the interval.
        temperature: Of the target; left out: 0 for the rule greedy, else what was measured, or 1.
        measured: What the interval is to hold.
        seed: Of what is simulated.

    Raises:
        InputError: for a level outside (0, 1), or what ``SyntheticMethod`` refuses.

    >>> from specsim.acceptance.process_fit import fit
    >>> from specsim.acceptance.process_seen import seen_survival
    >>> fitted = fit([seen_survival([0.80, 0.65, 0.54], num_rounds=10_000)])
    >>> mean, low, high = predict_tokens(fitted, DraftTree.chain(7), "greedy")
    >>> bool(3.7 < low < mean < high < 4.7)
    True
    """
    if not 0 < level < 1:
        raise InputError("level", "must be between 0 and 1", level)
    method = _method(policy_or_tree, rule, _temperature(fitted, rule, temperature))
    depth = method.policy.limits.depth
    if depth == 0:
        return Prediction(1.0, 1.0, 1.0)
    outcomes = np.array([_outcome(process, method, seed) for process in fitted.possible])
    tokens, between, within, noise = outcomes.T
    odds = _log_odds(tokens, depth)
    slope = 1 / _slope(float(tokens.mean()), depth)
    spread = max(0.0, float(odds.var(ddof=1)) - float(noise.mean()) * slope**2)
    spread += discrepancy(fitted, method) ** 2
    spread += slope**2 * _chance(fitted, float(between.mean()), float(within.mean()), measured)
    reach = NormalDist().inv_cdf((1 + level) / 2) * np.sqrt(spread)
    middle = float(odds.mean())
    mean, low, high = (1 + depth / (1 + np.exp(-(middle + x))) for x in (0, -reach, reach))
    return Prediction(float(mean), float(low), float(high))


def discrepancy(fitted: FittedProcess, method: SyntheticMethod) -> float:
    """Standard deviation of the log-odds of accepting by which the world errs beyond what the fit can know."""
    policy = method.policy
    found = [OTHER]
    if isinstance(policy, StaticTree):
        same = policy.tree.label in fitted.trees
        found = [SAME if same else OTHER]
        wide = 1 + max(policy.tree.ranks, default=0) > fitted.max_ranks
    else:
        wide = policy.limits.nodes > 1 + policy.limits.depth and fitted.max_ranks == 1
        found.append(GROWN)
        if not any("confidence" in moment.name for moment in fitted.moments):
            found.append(UNSURE)
    found.append(DEEPER * max(0.0, float(np.log2(policy.limits.depth / fitted.max_depth))))
    if wide:
        found.append(WIDER)
    if (method.temperature, policy.draw != "top") not in fitted.conditions:
        found.append(JUDGED)
    return float(np.linalg.norm(found))


def _chance(fitted: FittedProcess, between: float, within: float, measured: Measured) -> float:
    """Variance of the measured mean by which requests were met, and by rounds."""
    num = measured.num_requests
    rounds = 0.0 if num is None else within / (num * measured.rounds_per_request)
    if measured.same_requests:
        return rounds
    behind = fitted.num_requests
    if behind is None and num is not None:
        behind = max(1, round(fitted.num_rounds / ROUNDS_OF_A_REQUEST))
    return rounds + between**2 * ((1 / behind if behind else 0.0) + (1 / num if num else 0.0))


def _outcome(process: TokenProcess, method: SyntheticMethod, seed: int) -> tuple[float, float, float, float]:
    """Tokens per round, spread of requests' means, variance within a request, and variance of the first by chance."""
    policy = method.policy
    if isinstance(policy, StaticTree) and method.rule in EXACT:
        law = static_rounds(
            process, policy.tree, method.temperature, sampled=policy.draw != "top", num_types=NUM_TYPES,
            with_confidence=False,
        )  # fmt: skip
        lengths, pmf = np.arange(law.stop.shape[2]), law.pmf("tokens")
        variance = float(pmf @ lengths**2 - (pmf @ lengths) ** 2)
        return law.tokens_per_round("tokens"), law.request_sd(), max(variance - law.request_sd() ** 2, 0.0), 0.0
    rounds = simulate_rounds(process, method, NUM_ROUNDS, NUM_REQUESTS, np.random.default_rng(seed))
    within = float(rounds.num_emitted.var(axis=0, ddof=1).mean())
    means = rounds.num_emitted.mean(axis=0)
    between = float(np.sqrt(max(0.0, float(means.var(ddof=1)) - within / NUM_ROUNDS)))
    # The seed is shared, but rounds part ways: their noise is that of independent ones.
    return rounds.tokens_per_round_of_equal_texts, between, within, rounds.tokens_sd**2


def _method(policy_or_tree: TreePolicy | DraftTree, rule: Rule, temperature: float) -> SyntheticMethod:
    if isinstance(policy_or_tree, DraftTree):
        is_top = rule in ("greedy", "one_hot", "typical_acceptance")
        policy: TreePolicy = StaticTree(policy_or_tree, "top" if is_top else "sampled")
    else:
        policy = policy_or_tree
    return SyntheticMethod(policy, rule, temperature)


def _temperature(fitted: FittedProcess, rule: Rule, given: float | None) -> float:
    if given is not None:
        return given
    if rule == "greedy":
        return 0.0
    return max((temperature for temperature, _ in fitted.conditions), default=0.0) or 1.0


def _log_odds(tokens: np.ndarray, depth: int) -> np.ndarray:
    accepted = np.clip(tokens - 1, 1e-3, depth - 1e-3)
    return np.asarray(np.log(accepted / (depth - accepted)))


def _slope(tokens: float, depth: int) -> float:
    """Derivative of accepted tokens by their log-odds."""
    accepted = float(np.clip(tokens - 1, 1e-3, depth - 1e-3))
    return accepted * (depth - accepted) / depth
