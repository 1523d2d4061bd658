"""Policies that draft with the target's own law stay under the limit of their size, best-first growth reaches it."""

from __future__ import annotations

import numpy as np
import pytest
from test_policy_contract import POLICIES, VOCAB
from toy_growth import PathLaws, grow, kept_paths

from specsim.acceptance.limits import optimum
from specsim.decoding import TreePolicy
from specsim.decoding.policies.best_first import BestFirst

DETERMINISTIC = [policy for policy in POLICIES if policy.draw == "top"]


@pytest.mark.parametrize("laws", [PathLaws(1, VOCAB), PathLaws(2, VOCAB, sharpness=0.05)])
@pytest.mark.parametrize("policy", DETERMINISTIC, ids=lambda policy: type(policy).__name__)
def test_no_deterministic_tree_passes_the_limit_of_its_size(policy: TreePolicy, laws: PathLaws) -> None:
    _, tree = grow(policy, laws, [0, 1, 2])
    for row in range(3):
        paths = kept_paths(tree, row)
        limit = optimum(lambda path, row=row: laws.law(row, path), len(paths)).accepted[-1]  # type: ignore[misc]
        accepted = sum(laws.path_prob(row, path) for path in paths)
        assert accepted <= limit * (1 + 1e-12)


def test_growth_by_path_probability_reaches_it() -> None:
    laws = PathLaws(1, VOCAB)
    _, tree = grow(BestFirst(budget=12, batch=1, max_passes=12), laws, [0, 1])
    for row in range(2):
        paths = kept_paths(tree, row)
        limit = optimum(lambda path, row=row: laws.law(row, path), len(paths)).accepted[-1]  # type: ignore[misc]
        assert np.sum([laws.path_prob(row, path) for path in paths]) == pytest.approx(limit)
