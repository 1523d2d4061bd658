"""The table of what replay is exact for, row by row, and the files that it reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replay_toys import Toy, toy_facts

from specsim.acceptance.replay import (
    Bounds,
    Exact,
    Forest,
    ReplayRefused,
    Superset,
    evaluate,
    load_forest,
    load_text,
    save_text,
)
from specsim.acceptance.replay.world import play
from specsim.decoding import (
    ConfidenceChain,
    DySpec,
    Eagle2,
    Rule,
    StaticTree,
    StochasticBeam,
    Talon,
    TreePolicy,
    rsd_c,
    verify,
)
from specsim.decoding.rules import Draws
from specsim.errors import InputError
from specsim.tree import DraftTree

TOY = Toy.random(seed=4)
EAGLE = Eagle2(4, 3, 16)
CHAIN = StaticTree(DraftTree.chain(3), "sampled")


@pytest.fixture(scope="module")
def sampled() -> Forest:
    return TOY.forest([TOY.text(120, seed=s) for s in range(3)], Superset(4, 8, 3, policies=(EAGLE,)), num_draws=2)


@pytest.fixture(scope="module")
def greedy() -> Forest:
    toy = TOY.greedy()
    return toy.forest([toy.text(60, first=s) for s in range(3)], Superset(4, 8, 3, policies=(EAGLE,)))


@dataclass(frozen=True)
class DropsDoubtful(StaticTree):
    """Samples, then drops what it finds improbable: neither lossless nor to be told from the text."""

    def select(self, state: Any) -> Any:
        tree = super().select(state)
        return replace(tree, parents=np.where(tree.probs < 0.3, -2, tree.parents))


class Pruned:
    """The same with a class of its own."""

    draw = "sampled"
    limits = CHAIN.limits


EXACT: list[tuple[str, TreePolicy, Rule]] = [
    ("sampled", EAGLE, "one_hot"),
    ("sampled", Eagle2(4, 2, 9), "one_hot"),
    ("sampled", StaticTree(DraftTree((-1, 0, 1), ranks=(0, 1, 0))), "one_hot"),  # an elder left out
    ("sampled", CHAIN, "token_rejection"),
    ("sampled", CHAIN, "recursive_rejection"),
    ("sampled", CHAIN, "block_verification"),
    ("sampled", ConfidenceChain(5, 0.3, "law", "sampled"), "token_rejection"),
    ("sampled", rsd_c((2, 2)), "recursive_rejection"),
    ("sampled", EAGLE, "typical_acceptance"),
    ("greedy", EAGLE, "greedy"),
    ("greedy", EAGLE, "one_hot"),
]
REFUSED: list[tuple[str, TreePolicy, Rule, str]] = [
    ("sampled", EAGLE, "greedy", "temperature 0"),
    ("sampled", CHAIN, "one_hot", "sampled drafts"),
    ("sampled", DySpec(8, 0.1, 2, 3), "recursive_rejection", "DySpec decides on draws that lie off"),
    ("sampled", StochasticBeam(3, 2), "recursive_rejection", "StochasticBeam decides on draws"),
    (
        "sampled",
        DropsDoubtful(DraftTree.chain(3), "sampled"),
        "recursive_rejection",
        "or drops draws after seeing",
    ),
    ("sampled", Pruned(), "token_rejection", "Pruned decides on draws"),  # type: ignore[list-item]
    ("sampled", rsd_c((3, 1)), "recursive_rejection", "draws 3 children of a node, 2 were recorded"),
    ("sampled", rsd_c((2, 2)), "traversal", "below a rejected sibling"),
    ("sampled", StaticTree(DraftTree.from_widths((2,)), "sampled_with_replacement"), "k_seq", "without replacement"),
    ("sampled", CHAIN, "leniency", "lossy: its rounds would have written another text"),
    ("sampled", CHAIN, "joint_ratio", "another text"),
    ("sampled", CHAIN, "typical_acceptance", "not recorded"),
    ("sampled", Eagle2(8, 4, 40), "typical_acceptance", "every node"),
    ("greedy", CHAIN, "token_rejection", "of the text's own tokens were not recorded"),
]


@pytest.mark.parametrize(("kind", "policy", "rule"), EXACT, ids=str)
def test_what_is_exact(kind: str, policy: TreePolicy, rule: Rule, sampled: Forest, greedy: Forest) -> None:
    found = evaluate({"sampled": sampled, "greedy": greedy}[kind], policy, rule)
    assert isinstance(found, Exact) and 1 <= found.low <= found.value <= found.high
    assert found.of == ("positions" if rule == "typical_acceptance" else "text")


@pytest.mark.parametrize(("kind", "policy", "rule", "why"), REFUSED, ids=str)
def test_what_is_refused(kind: str, policy: TreePolicy, rule: Rule, why: str, sampled: Forest, greedy: Forest) -> None:
    with pytest.raises(ReplayRefused, match=why):
        evaluate({"sampled": sampled, "greedy": greedy}[kind], policy, rule)


def test_what_is_bounded(sampled: Forest) -> None:
    found = evaluate(sampled, Talon(40, 0.001, 20, 6), "one_hot")
    assert isinstance(found, Bounds) and 1 <= found.low < found.high <= 7


def test_a_rule_that_does_not_suit_the_draws_is_an_error(sampled: Forest) -> None:
    with pytest.raises(InputError, match="draw: must be"):
        evaluate(sampled, EAGLE, "token_rejection")
    with pytest.raises(InputError, match="tree: must be a chain for the rule block_verification"):
        evaluate(sampled, rsd_c((2, 2)), "block_verification")
    with pytest.raises(InputError, match="level: must be between 0 and 1"):
        evaluate(sampled, EAGLE, "one_hot", level=1.0)
    with pytest.raises(InputError, match="less deep than the 120 tokens"):
        evaluate(sampled, StaticTree(DraftTree.chain(130)), "one_hot")


@pytest.mark.parametrize("knobs", [{}, {"epsilon": 0.4, "delta": 0.9}], ids=str)
def test_typical_acceptance_is_at_each_position_what_the_rule_does(sampled: Forest, knobs: dict[str, float]) -> None:
    text = sampled.texts[0]
    played = play(text, EAGLE, {"epsilon": 0.09, "delta": 0.3} | knobs)
    _, tree = TOY.drafted(EAGLE, text.tokens[: len(text.roots)].tolist())
    draws = Draws(np.zeros(tree.tokens.shape), np.zeros(len(tree.tokens)))
    kept = verify("typical_acceptance", tree.parents, tree.tokens, None, TOY.target[tree.tokens], draws, **knobs)
    assert played.typical is not None
    assert played.typical.tolist() == ((kept.path >= 0).sum(1) - 1).tolist()


def test_typical_acceptance_needs_target_laws(sampled: Forest) -> None:
    texts = [replace(text, laws=replace(text.laws, entropy=None)) for text in sampled.texts]
    with pytest.raises(ReplayRefused, match="needs the target's probability and entropy"):
        evaluate(replace(sampled, texts=texts), EAGLE, "typical_acceptance")


def test_greedy_replay_is_the_greedy_walk(greedy: Forest) -> None:
    """By hand: from each round's start, the longest piece of the text that the tree holds."""
    toy, rounds, tokens = TOY.greedy(), 0, 0
    for recorded in greedy.texts:
        text, t = recorded.tokens.tolist(), 0
        num = min(len(recorded.roots), len(recorded.output) - EAGLE.limits.depth)
        while t < num:
            _, tree = toy.drafted(EAGLE, [text[t]])
            node, accepted = 0, 0
            children = {
                (int(p), int(x)): n for n, (p, x) in enumerate(zip(tree.parents[0], tree.tokens[0], strict=True))
            }
            while (node := children.get((node, text[t + accepted + 1]), -1)) >= 0:
                accepted += 1
            t, rounds, tokens = t + accepted + 1, rounds + 1, tokens + accepted + 1
    found = evaluate(greedy, EAGLE, "greedy")
    assert isinstance(found, Exact) and (found.rounds, found.tokens) == (rounds, tokens)


def test_files_bring_back_what_was_recorded(sampled: Forest, greedy: Forest, tmp_path: Path) -> None:
    for kind in (sampled, greedy):
        for number, text in enumerate(kind.texts):
            save_text(text, kind.facts, tmp_path / f"text-{number:04}.npz")
        back = load_forest(tmp_path)
        rule: Rule = "greedy" if kind is greedy else "one_hot"
        assert back.facts == kind.facts and evaluate(back, EAGLE, rule) == evaluate(kind, EAGLE, rule)
    assert not list(tmp_path.glob("*.part"))


def test_files_that_are_broken_or_do_not_belong_together(sampled: Forest, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folder of recorded texts"):
        load_forest(tmp_path)
    for number in range(2):
        save_text(sampled.texts[number], toy_facts(temperature=1.0, seed=number), tmp_path / f"text-000{number}.npz")
    with pytest.raises(InputError, match="seed must be that of the other texts, 0, got 1"):
        load_forest(tmp_path)
    path = tmp_path / "text-0001.npz"
    whole = path.read_bytes()
    for content in (b"", b"no zip", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="text-0001"):
            load_text(path)
    np.savez(path, format=np.array("specsim.forest/1"))
    with pytest.raises(InputError, match="is no recorded text"):
        load_text(path)
    np.savez(path, format=np.array("another"))
    with pytest.raises(InputError, match=r"format specsim.forest/1, got 'another'"):
        load_text(path)
