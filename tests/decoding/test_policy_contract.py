"""What every tree policy promises, run over all of them."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import numpy as np
import pytest
from toy_growth import PathLaws, grow, paths_of

from specsim.decoding import StaticTree, TreePolicy
from specsim.decoding.policies import Policy
from specsim.decoding.policies.best_first import BestFirst
from specsim.decoding.policies.c2t import C2t, Gate
from specsim.decoding.policies.cast import Cast
from specsim.decoding.policies.confidence import ConfidenceChain
from specsim.decoding.policies.dyspec import DySpec
from specsim.decoding.policies.eagle2 import Eagle2
from specsim.decoding.policies.opt_tree import OptTree
from specsim.decoding.policies.rsd import StochasticBeam, rsd_c
from specsim.decoding.policies.talon import Talon
from specsim.errors import InputError
from specsim.tree import DraftTree

VOCAB = 9
GATE = Gate((((((1.0, 0.2, -0.1),), (0.0,))),))
POLICIES: list[TreePolicy] = [
    StaticTree(DraftTree.chain(4)),
    StaticTree(DraftTree.from_widths((3, 1, 2)), "sampled_with_replacement"),
    rsd_c((3, 2)),
    StochasticBeam(width=3, depth=3),
    DySpec(budget=12, threshold=0.1, max_children=4, max_depth=5),
    DySpec(budget=4, threshold=0.01, max_children=4, max_depth=5),
    Eagle2(top_k=4, depth=3, total_tokens=12),
    Eagle2(top_k=2, depth=1, total_tokens=40),
    OptTree(nodes=8, threshold=0.1, max_depth=6),
    Talon(budget=12, mu=0.1, top_k=3),
    Talon(budget=12, mu=0.5, top_k=3, max_depth=2),
    Talon(budget=2, mu=0.5, top_k=3),
    BestFirst(budget=10, batch=3, max_passes=6),
    Cast(4, 5, (0.1, 0.12, 0.15, 0.2), tuple(1 + 0.04 * n for n in range(15)), None, 2),
    Cast(4, 5, (0.1, 0.12, 0.15, 0.2), tuple(1 + 0.04 * n for n in range(15)), (0.8, 1.0, 1.2), 2),
    ConfidenceChain(draft_len=6, threshold=0.4, measure="token", draw="sampled"),
    ConfidenceChain(draft_len=6, threshold=0.3, measure="path", draw="top"),
    ConfidenceChain(draft_len=6, threshold=0.6, measure="law", draw="sampled"),
    C2t(GATE, threshold=0.1, top_k=4, width=3, max_depth=5),
    C2t(GATE, threshold=0.0, top_k=2, width=9, max_depth=2),
]
NAMES = [f"{type(p).__name__}-{i}" for i, p in enumerate(POLICIES)]
WORLDS = [PathLaws(1, VOCAB), PathLaws(2, VOCAB, sharpness=0.05), PathLaws(3, VOCAB, ties=True)]


def test_every_policy_is_in_the_list_and_has_a_kind_of_its_own() -> None:
    known = get_args(Policy)
    assert {type(policy) for policy in POLICIES} == set(known)
    assert len({policy.kind for policy in known}) == len(known)


@pytest.mark.parametrize("laws", WORLDS)
@pytest.mark.parametrize("policy", POLICIES, ids=NAMES)
def test_the_tree_is_a_tree_within_its_limits(policy: TreePolicy, laws: PathLaws) -> None:
    rows = [0, 1, 2, 3, 4, 5]
    state, tree = grow(policy, laws, rows)
    limits = policy.limits
    assert tree.tokens.shape[1] <= limits.nodes and len(state.laws) <= limits.passes
    assert ((state.expanded >= 0).sum(1) <= limits.expanded).all()
    assert (tree.parents[:, -1] != -2).any()  # no column is padding alone
    for row in rows:
        size = int((tree.parents[row] != -2).sum())
        parents, nodes = tree.parents[row, :size], tree.nodes[row, :size]
        assert (tree.parents[row, size:] == -2).all() and (tree.nodes[row, size:] == -1).all()
        assert parents[0] == -1 and (parents[1:] >= 0).all() and (parents < np.arange(size)).all()
        np.testing.assert_array_equal(nodes[parents[1:]], state.parents[row, nodes[1:]])
        run = state.expanded[row][state.expanded[row] >= 0]
        assert len(set(run.tolist())) == len(run) and set(state.parents[row, nodes[1:]]) <= set(run)
        paths = paths_of(tree.parents, tree.tokens, row)[:size]
        assert max(len(path) for path in paths) <= limits.depth
        if policy.draw != "sampled_with_replacement":
            assert len(set(paths)) == size
        for node, path in enumerate(paths[1:], start=1):
            assert tree.probs[row, node] == laws.law(row, path[:-1])[path[-1]]
            np.testing.assert_allclose(state.path_probs[row, nodes[node]], laws.path_prob(row, path), rtol=1e-12)
            if policy.draw == "top":  # siblings best first, ties to the lower token
                elder = [p for n, p in zip(parents[:node], paths[:node], strict=True) if n == parents[node]]
                law = laws.law(row, path[:-1])
                assert all((-law[p[-1]], p[-1]) < (-law[path[-1]], path[-1]) for p in elder)
    again = policy.select(state)
    assert all(np.array_equal(getattr(again, f.name), getattr(tree, f.name)) for f in dataclasses.fields(tree))


@pytest.mark.parametrize("laws", WORLDS)
@pytest.mark.parametrize("policy", [p for p in POLICIES if not isinstance(p, Cast)])
def test_a_row_grows_as_it_would_alone(policy: TreePolicy, laws: PathLaws) -> None:
    rows = [3, 0, 7, 5]
    _, together = grow(policy, laws, rows)
    for place, row in enumerate(rows):
        _, alone = grow(policy, laws, [row])
        size = alone.parents.shape[1]
        assert (together.parents[place, size:] == -2).all()
        for name in ("parents", "tokens", "probs"):
            np.testing.assert_array_equal(getattr(together, name)[place, :size], getattr(alone, name)[0])


@pytest.mark.parametrize("laws", WORLDS)
@pytest.mark.parametrize("policy", POLICIES, ids=NAMES)
def test_torch_grows_the_same_tree(policy: TreePolicy, laws: PathLaws) -> None:
    torch = pytest.importorskip("torch")
    rows = [0, 1, 2]
    for ours, theirs in zip(grow(policy, laws, rows), grow(policy, laws, rows, convert=torch.tensor), strict=True):
        for field in dataclasses.fields(ours):
            if field.name in ("parents", "tokens", "nodes", "expanded"):
                np.testing.assert_array_equal(getattr(ours, field.name), getattr(theirs, field.name).numpy())
            if field.name in ("probs", "path_probs"):
                np.testing.assert_allclose(getattr(ours, field.name), getattr(theirs, field.name).numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Eagle2(0, 5, 60), "top_k: must be >= 1, got 0"),
        (lambda: Eagle2(10, -1, 60), "depth: must be >= 0, got -1"),
        (lambda: OptTree(60, float("nan"), 10), "threshold: must be >= 0, got nan"),
        (lambda: Talon(60, 1.5, 10), r"mu: must be in \[0, 1\], got 1.5"),
        (lambda: BestFirst(60, 0, 10), "batch: must be >= 1, got 0"),
        (lambda: StochasticBeam(4, 0), "depth: must be >= 1, got 0"),
        (lambda: ConfidenceChain(8, 2.0, "token", "top"), r"threshold: must be in \[0, 1\], got 2.0"),
        (lambda: Cast(4, 3, (), (1.0,), None, 1), r"draft_cost: must be finite numbers >= 0, one at least, got \(\)"),
        (lambda: Cast(4, 3, (0.1,), (1.0,), (1.0, -1.0, 1.0), 1), "prices: must be finite numbers >= 0"),
    ],
)
def test_wrong_settings_are_named(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
