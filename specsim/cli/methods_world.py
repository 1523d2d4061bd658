"""Every method in the simulator: the same policy and rule on a process fitted to its drafter's recorded rounds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from specsim.decoding import ConfidenceChain
from specsim.methods.catalogue import NamedMethod
from specsim.methods.round import Drafting
from specsim.records import RoundRecord
from specsim.sim.rounds import SimulatedRounds, SyntheticMethod, simulate_rounds
from specsim.tree import DraftTree

if TYPE_CHECKING:
    from specsim.acceptance.process import TokenProcess
    from specsim.cli.methods_run import Key, Recorded
    from specsim.cost.model import CostModel

NUM_REQUESTS, NUM_ROUNDS = 200, 20
NEAR_TOP, NEAR_SAMPLED = (5, 4), (3, 2)
"""Depth and ranks of the part of a tree that is fitted; draws take ten times as long to work out."""
CONTROL_ROUNDS = 40
"""Rounds in which a controller settles; the second half of them counts."""


class Simulated(NamedTuple):
    """Means over simulated rounds."""

    tokens: float
    round_s: float


def fitted(recorded: Recorded, temperature: float, key: Key, vocab_size: int, *, grows: bool) -> TokenProcess:
    """The world in which such rounds are usual, judged by the part of the tree nearest the root.

    Where a policy ``grows`` its trees by what the drafter says, all of the world matters and is fitted; else its tokens
    per round are matched by how far the drafter diverges.
    """
    from specsim.acceptance.process import TokenProcess
    from specsim.acceptance.process_fit import Recorded as Rounds
    from specsim.acceptance.process_fit import fit_records

    start = TokenProcess(vocab_size=vocab_size, num_candidates=max(8, 1 + max(recorded.tree.ranks)))
    sampled = key[1] != "top" and temperature > 0
    tree, nodes = _near_root(recorded.tree, *(NEAR_SAMPLED if sampled else NEAR_TOP))
    records = [_pruned(one, nodes) for one in recorded.records]
    if grows:
        return fit_records([Rounds(tree, records, temperature, sampled)], start, num_possible=0).process
    return _matched(start, tree, float(np.mean([one.num_emitted for one in records])), temperature, sampled)


def _matched(start: TokenProcess, tree: DraftTree, tokens: float, temperature: float, sampled: bool) -> TokenProcess:
    """By halving: the further the drafter diverges, the fewer tokens."""
    from specsim.acceptance.process_rounds import static_rounds

    low, high = 0.0, 12.0
    for _ in range(9):
        middle = start.model_copy(update={"divergence": (low + high) / 2})
        found = static_rounds(middle, tree, temperature, sampled=sampled, num_types=1024).tokens_per_round("tokens")
        low, high = ((low + high) / 2, high) if found > tokens else (low, (low + high) / 2)
    return start.model_copy(update={"divergence": (low + high) / 2})


def _near_root(tree: DraftTree, depth: int, ranks: int) -> tuple[DraftTree, list[int]]:
    """The part that is fitted, and its nodes: deeper and wider ones take time and hardly change the world."""
    paths = [path for path in tree.paths() if len(path) <= depth and max(path) < ranks]
    number = {path: node for node, path in enumerate(tree.paths(), start=1)}
    part = DraftTree.from_paths(paths)
    return part, [number[path] for path in part.paths()]


def _pruned(record: RoundRecord, nodes: list[int]) -> RoundRecord:
    """The record of the same round had only these nodes been drafted."""
    assert record.path is not None and record.parents is not None and record.draft_probs is not None
    place = {node: number for number, node in enumerate([0, *nodes])}
    path = [node for node in record.path if node in place]
    return record.model_copy(
        update={
            "num_drafted": len(nodes),
            "parents": tuple(place[record.parents[node - 1]] for node in nodes),
            "draft_probs": tuple(record.draft_probs[node - 1] for node in nodes),
            "accept_prob": None if record.accept_prob is None else tuple(record.accept_prob[n - 1] for n in nodes),
            "tokens": None,
            "target_probs": None,
            "path": tuple(place[node] for node in path),
            "accepted_ranks": record.accepted_ranks[: len(path)],
            "num_emitted": len(path) + 1,
        }
    )


def simulated(
    world: TokenProcess,
    named: NamedMethod,
    temperature: float,
    drafting: Drafting,
    cost: CostModel,
    context_tokens: float,
    seed: int,
) -> Simulated:
    """Rounds of a method in this world."""
    assert not isinstance(named.policy, str)
    method = SyntheticMethod(named.policy, named.rule, temperature, drafting, dict(named.knobs))
    rng = np.random.default_rng(seed)
    if named.control is not None:
        found = _controlled(world, method, named, rng, cost, context_tokens)
    else:
        found = [
            simulate_rounds(
                world, method, NUM_ROUNDS, NUM_REQUESTS, rng, cost=cost,
                context_tokens=max(0.0, context_tokens - NUM_ROUNDS),
            )
        ]  # fmt: skip
    tokens = np.concatenate([one.num_emitted.ravel() for one in found])
    times = np.concatenate([one.time_s.ravel() for one in found if one.time_s is not None])
    return Simulated(float(tokens.mean()), float(times.mean()))


def _controlled(
    world: TokenProcess,
    method: SyntheticMethod,
    named: NamedMethod,
    rng: np.random.Generator,
    cost: CostModel,
    context_tokens: float,
) -> list[SimulatedRounds]:
    """Each request's threshold is led by what it keeps; every round begins anywhere in the text."""
    policy, found = method.policy, []
    assert isinstance(policy, ConfidenceChain) and named.control is not None
    controls = [named.control] * NUM_REQUESTS
    for _ in range(CONTROL_ROUNDS):
        threshold = np.array([control.threshold for control in controls], dtype=np.float32)
        now = replace(method, policy=replace(policy, threshold=threshold))
        one = simulate_rounds(world, now, 1, NUM_REQUESTS, rng, cost=cost, context_tokens=context_tokens)
        pairs = zip(controls, one.num_drafted[0].tolist(), one.num_emitted[0].tolist(), strict=True)
        controls = [control.updated(drafted, emitted - 1) for control, drafted, emitted in pairs]
        found.append(one)
    return found[CONTROL_ROUNDS // 2 :]
