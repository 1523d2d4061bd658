"""What engines can express: versions, drafters, trees."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.dialect import (
    DIALECTS,
    TopkTree,
    captured_below,
    dialect,
    expressible,
    nearest,
    parse_version,
    topk_capacity,
)
from specsim.errors import InputError
from specsim.tree import DraftTree

VLLM, SGLANG = dialect("vllm", "0.33.0"), dialect("sglang", "0.5.23")
TREE = DraftTree((-1, 0, 0, 1, 1, 2, 3))  # two children, then two and one, then one: depth 3, 7 nodes


@pytest.mark.parametrize(
    ("engine", "version", "known"),
    [
        ("vllm", "0.23.9", False),
        ("vllm", "0.24.0", True),
        ("vllm", "0.32.1", True),
        ("vllm", "0.33.2.post1", True),
        ("vllm", "0.34.0", False),
        ("vllm", "1.0", False),
        ("sglang", "0.5.4.post3", False),
        ("sglang", "0.5.5", True),
        ("sglang", "0.5.13.post1", True),
        ("sglang", "0.5.23", True),
        ("sglang", "0.5.24", False),
        ("sglang", "0.10.0", False),  # as numbers, not as text
    ],
)
def test_a_version_outside_those_read_is_refused(engine: str, version: str, known: bool) -> None:
    if known:
        assert dialect(engine, version).engine == engine
    else:
        with pytest.raises(InputError, match="must be between"):
            dialect(engine, version)


@pytest.mark.parametrize(
    "version", ["", "latest", "0", "0.33.0rc1", "0.33.x", "0.33.0; rm -rf /", "0." + "9" * 99, "٠.٣"]
)
def test_what_is_no_release_is_refused(version: str) -> None:
    with pytest.raises(InputError, match="version"):
        dialect("vllm", version)


def test_an_unknown_engine_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"engine: must be one of aiconfigurator, .*sglang, .*vllm, got 'vlmm'"):
        dialect("vlmm", "0.33.0")


def test_rows_of_one_engine_follow_each_other_without_overlap() -> None:
    for one, other in itertools.combinations(DIALECTS, 2):
        if one.engine == other.engine:
            assert parse_version(one.last_version) < parse_version(other.first_version)


def test_capacity_counts_the_candidates_of_each_step() -> None:
    # S = 3, k = 4: 4 after the first step, 16 after each of the two others, and the root.
    assert topk_capacity(3, 4) == 1 + 4 + 16 + 16
    for steps, topk in itertools.product(range(1, 5), range(1, 5)):
        assert topk_capacity(steps, topk) == 1 + topk + sum(topk * topk for _ in range(steps - 1))
    with pytest.raises(ValueError, match="= 37"):
        TopkTree(steps=3, topk=4, num_nodes=38)


def test_vllm_has_chains_only() -> None:
    assert expressible(VLLM, "eagle3", DraftTree.chain(7)) is None
    assert "chains only" in str(expressible(VLLM, "eagle3", TREE))
    assert nearest(VLLM, "eagle3", TREE) == DraftTree.chain(3)
    assert nearest(VLLM, "eagle", TopkTree(steps=5, topk=4, num_nodes=8)) == DraftTree.chain(5)


def test_sglang_grows_its_trees() -> None:
    assert expressible(SGLANG, "eagle3", TopkTree(steps=5, topk=4, num_nodes=8)) is None
    assert "at run time" in str(expressible(SGLANG, "eagle3", TREE))
    assert nearest(SGLANG, "eagle3", TREE) == TopkTree(steps=3, topk=2, num_nodes=7)
    # Fifteen nodes of a full binary tree of depth 3; steps of top-2 growth offer 1 + 2 + 2 * 4 = 11.
    assert nearest(SGLANG, "draft_model", DraftTree.from_widths((2, 2, 2))) == TopkTree(steps=3, topk=2, num_nodes=11)
    assert nearest(SGLANG, "ngram", TREE) == DraftTree.chain(3)


def test_a_chain_of_second_choices_is_not_a_chain_to_an_engine() -> None:
    second = DraftTree((-1, 0, 1), (0, 1, 0))
    assert expressible(VLLM, "eagle3", second) is not None
    assert nearest(VLLM, "eagle3", second) == DraftTree.chain(2)
    assert nearest(SGLANG, "eagle3", second) == TopkTree(steps=2, topk=2, num_nodes=3)


def test_medusa_left_vllm_with_033() -> None:
    assert expressible(dialect("vllm", "0.32.0"), "medusa", DraftTree.chain(3)) is None
    for row in (VLLM, SGLANG):
        assert "no medusa drafter" in str(expressible(row, "medusa", DraftTree.chain(3)))
        assert nearest(row, "medusa", DraftTree.chain(3)) == DraftTree.root_only()


@st.composite
def trees(draw: st.DrawFn) -> DraftTree:
    num_drafted = draw(st.integers(0, 12))
    return DraftTree((-1, *(draw(st.integers(0, node)) for node in range(num_drafted))))


@given(
    row=st.sampled_from(DIALECTS),
    drafter=st.sampled_from(["draft_model", "eagle", "eagle3", "mtp", "medusa", "ngram"]),
    tree=trees(),
)
def test_the_nearest_tree_is_expressible_and_no_larger(row, drafter, tree) -> None:  # type: ignore[no-untyped-def]
    closest = nearest(row, drafter, tree)
    assert expressible(row, drafter, closest) is None
    assert closest.num_nodes <= tree.num_nodes
    assert (closest == tree) == (expressible(row, drafter, tree) is None)
    assert nearest(row, drafter, closest) == closest


def test_sglang_rounds_batches_to_captured_sizes() -> None:
    sizes = [*range(1, 9), *range(10, 33, 2), *range(40, 65, 4), *range(72, 257, 8), *range(272, 513, 16)]
    for batch in range(1, 513):
        assert captured_below(SGLANG, batch) == max(size for size in sizes if size <= batch)
    assert captured_below(VLLM, 37) == 37
