"""Rates of several configurations in worlds drawn from what is known of a deployment: acceptance and cost, with errors
that configurations share drawn once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.emitted import check_tree_fits, path_probs_of, tokens_per_round
from specsim.acceptance.trie import PathTrie, by_rank
from specsim.acceptance.uncertainty import posterior_draws, tokens_draws
from specsim.errors import InputError
from specsim.estimate import expected_pending, round_parts
from specsim.scenario import Deployment
from specsim.search.robust.choice import TIE_LEVEL, Candidate, RobustChoice, check_level, robust_choice
from specsim.search.robust.value import Worth, worth_of_knowing
from specsim.tree import DraftTree
from specsim.work import Cost

Floats = NDArray[np.float64]

NUM_DRAWS = 4000
TRIE_SEED = 0
PARTS = ("draft", "verify", "host")


@dataclass(frozen=True, eq=False)
class RateDraws:
    """Draws of what makes a rate.

    Args:
        candidates: The configurations.
        batch: Sequences decoding together.
        tokens: ``[draw, candidate]`` tokens per round of a sequence.
        parts_s: Seconds of drafting, verification and host work, ``[part, draw, candidate]``.
        acceptance: What the tokens follow from, by name: ``[draw, number]``.
    """

    candidates: tuple[Candidate, ...]
    batch: int
    tokens: Floats
    parts_s: Floats
    acceptance: dict[str, Floats]

    @property
    def rates(self) -> Floats:
        """``[draw, candidate]`` tokens per second of the deployment."""
        return np.asarray(self.batch * self.tokens / self.parts_s.sum(axis=0))

    def corners(self, level: float) -> Floats:
        """Rates ``[scenario, candidate]`` with acceptance, drafting and verification each at an end of its interval.

        At an end all candidates are: drafts are kept less often, or passes take longer, for all of them together.
        """
        check_level("level", level)
        tails = [(1 - level) / 2, (1 + level) / 2]
        tokens, parts = np.quantile(self.tokens, tails, axis=0), np.quantile(self.parts_s, tails, axis=1)
        host = self.parts_s[2].mean(axis=0)
        rates = [t / (d + v + host) for t in tokens for d in parts[:, 0] for v in parts[:, 1]]
        return np.asarray(self.batch * np.array(rates))

    def quantities(self) -> dict[str, Floats]:
        """What could be measured, by name: the acceptance of each depth, all of it, and the time of each part."""
        found = dict(self.acceptance)
        found["acceptance"] = np.log(self.tokens)
        for name, seconds in zip(PARTS, self.parts_s, strict=True):
            timed = seconds[:, (seconds > 0).all(axis=0)]
            if timed.size and (np.ptp(timed, axis=0) > 1e-12 * timed.mean(axis=0)).any():
                found[f"{name} time"] = np.log(timed)
        return {name: values for name, values in found.items() if np.ptp(values, axis=0).any()}

    def choice(self, level: float = 0.9, tie_level: float = TIE_LEVEL) -> RobustChoice:
        """The robust choice, with regrets held down at the corners."""
        corners = self.corners(level)
        return robust_choice(self.rates, self.candidates, level=level, tie_level=tie_level, scenarios=corners)

    def worth(self) -> list[Worth]:
        """What each measurement would be worth."""
        return worth_of_knowing(self.rates, self.quantities())

    def with_policy(
        self, label: str, num_nodes: int, tokens: float, parts_s: tuple[float, float, float], like: int, log_sd: float,
        rng: np.random.Generator,
    ) -> RateDraws:  # fmt: skip
        """These and a dynamic policy, scored elsewhere (``dynamic.tune_dynamic``).

        A table of acceptance does not tell what a policy that reads confidence would do in another world; its accepted
        tokens and the time of its parts are taken to move as those of a static tree do.

        Args:
            label, num_nodes: Of the candidate; the most nodes that it verifies.
            tokens, parts_s: Its means.
            like: Number of the candidate that it moves with, which must speculate.
            log_sd: Error of its rate relative to that candidate's, by simulation.
            rng: Of that error.
        """
        if not 0 <= like < len(self.candidates) or self.candidates[like].kind == "none":
            raise InputError("like", "must be the number of a candidate that speculates", like)
        accepted = self.tokens[:, like] - 1
        drawn = 1 + (tokens - 1) * accepted / accepted.mean()
        drawn = drawn * np.exp(log_sd * rng.standard_normal(len(drawn)) - log_sd**2 / 2)
        means = np.maximum(self.parts_s[:, :, like].mean(axis=1), 1e-300)
        times = np.array(parts_s)[:, None] * self.parts_s[:, :, like] / means[:, None]
        return replace(
            self,
            candidates=(*self.candidates, Candidate(label, "dynamic", num_nodes)),
            tokens=np.column_stack((self.tokens, np.maximum(drawn, 1.0))),
            parts_s=np.concatenate((self.parts_s, times[..., None]), axis=2),
        )


def candidate_of(tree: DraftTree) -> Candidate:
    """A static configuration.

    >>> candidate_of(DraftTree.chain(3))
    Candidate(label='chain 3', kind='chain', num_nodes=4)
    """
    if not tree.num_drafted:
        return Candidate(tree.label, "none", 1)
    return Candidate(tree.label, "chain" if tree.is_chain else "tree", tree.num_nodes)


def rate_draws(
    deployment: Deployment, trees: Sequence[DraftTree], rng: np.random.Generator, size: int = NUM_DRAWS
) -> RateDraws:
    """Draws for static configurations.

    Acceptance: the table's posterior and the spread between workloads, the same for all trees. Cost: one multiplier of
    each bound and one of each named error for the whole device; what is a pass's own error, for each size of pass.

    Raises:
        InputError: for no trees, or one that the acceptance does not speak of.
    """
    if not trees:
        raise InputError("trees", "must be one at least", 0)
    acceptance, profile = deployment.acceptance, by_rank(deployment.acceptance)
    tables = posterior_draws(profile, rng, size)
    log_var = np.log1p(profile.task_sd**2)
    factor = np.exp(np.sqrt(log_var) * rng.standard_normal(size) - log_var / 2)
    shared = rng.standard_normal((size, len(deployment.cost.log_sd)))
    named: dict[object, Floats] = {}
    own: dict[object, Floats] = {}

    def error(store: dict[object, Floats], key: object) -> Floats:
        if key not in store:
            store[key] = rng.standard_normal(size)
        return store[key]

    tokens, seconds = np.empty((size, len(trees))), np.empty((len(PARTS), size, len(trees)))
    for column, tree in enumerate(trees):
        check_tree_fits(tree, acceptance)
        if isinstance(acceptance, PathTrie):
            # Requests weighed at random, the same weights for all trees.
            tokens[:, column] = tokens_draws(tree, acceptance, np.random.default_rng(TRIE_SEED), size)
        else:
            accepted = path_probs_of(tree, tables).sum(axis=-1) - 1
            tokens[:, column] = 1 + np.minimum(accepted * factor, tree.depth)
        parts = round_parts(deployment, tree, expected_pending(tree, tokens_per_round(tree, acceptance)))
        for place, name in enumerate(PARTS):
            whose = (name, tree.num_nodes if name == "verify" else tuple(tree.widths.tolist()))
            errors = {key: error(named, key) for key in parts[name].errors}
            drawn = _drawn(parts[name], shared * deployment.cost.log_sd, errors, error(own, whose))
            seconds[place, :, column] = drawn
    known = {} if isinstance(acceptance, PathTrie) else _measurable(tables, profile.tied_from)
    if profile.task_sd:
        known["acceptance of this workload"] = np.log(factor)[:, None]
    return RateDraws(
        tuple(candidate_of(tree) for tree in trees), deployment.scenario.workload.batch, tokens, seconds, known
    )


def _measurable(tables: Floats, tied_from: int | None) -> dict[str, Floats]:
    """The rows of the table that may differ, by depth."""
    last = tables.shape[1] if tied_from is None else tied_from
    names = [f"acceptance at depth {depth}" for depth in range(1, last + 1)]
    if tied_from is not None:
        names[-1] = f"acceptance from depth {tied_from} on"
    return {name: tables[:, depth] for depth, name in enumerate(names) if np.ptp(tables[:, depth], axis=0).any()}


def _drawn(cost: Cost, logs: Floats, errors: dict[str, Floats], own: Floats) -> Floats:
    """Seconds ``[draw]``: each bound times its multiplier, all times the errors of their own."""
    by_bound = cost.by_bound.reshape(-1, cost.by_bound.shape[-1])[0]
    seconds = float(by_bound.sum())
    if seconds == 0:
        return np.zeros(len(own))
    log = np.sqrt(float(np.max(cost.var_s2))) / seconds * own
    for name, drawn in errors.items():
        log = log + float(np.reshape(cost.errors[name], -1)[0]) / seconds * drawn
    return np.asarray((np.exp(logs) @ by_bound) * np.exp(log))
