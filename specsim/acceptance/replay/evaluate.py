"""One door to replay: a forest, a policy, a rule; an exact answer, bounds, or the reason why there is neither."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from specsim.acceptance.replay.answers import Bounds, Exact, ReplayRefused
from specsim.acceptance.replay.forced import ForcedText, forced_walk
from specsim.acceptance.replay.forest import Forest, RecordedText
from specsim.acceptance.replay.walk import Array, Walk, exact_rate, shortest_and_longest, visits
from specsim.acceptance.replay.world import Ids, Played, play
from specsim.decoding import ConfidenceChain, Rule, StaticTree, TreePolicy, check_pairing
from specsim.decoding.rules import checked_knobs, facts
from specsim.errors import InputError

DEFAULT_LEVEL = 0.9

WRITES_ANOTHER_TEXT = "it is lossy: its rounds would have written another text than the recorded one"
NOT_FOLLOWED = {
    "traversal": "it may go on below a rejected sibling: its law along a text was not derived",
    "traversal_with_replacement": "it may go on below a rejected sibling: its law along a text was not derived",
    "k_seq": "draws were recorded without replacement",
    "recursive_rejection_with_replacement": "draws were recorded without replacement",
    "joint_ratio": WRITES_ANOTHER_TEXT,
    "leniency": WRITES_ANOTHER_TEXT,
    "reject_then_sample": WRITES_ANOTHER_TEXT,
}
"""Rules that no recording answers for, and why."""


def evaluate(
    forest: Forest, policy: TreePolicy, rule: Rule, level: float = DEFAULT_LEVEL, **knobs: float
) -> Exact | Bounds:
    """Tokens per round that a policy would have had on the recorded texts, without running a model.

    ========================================  =====================================================================
    greedy, one-hot, any policy drawing top   exact: given the text, a round accepts the tree's path along it. Bounds
                                              where the policy asked for what was not recorded.
    token and block rule, sampled chains,     exact: acceptance given the text follows from both models' probability
    with a confidence stop or without         of its own tokens
    recursive rejection, sampled tree         exact for trees with all elder siblings
    typical acceptance, policies drawing top  exact for one round from each position ("positions"); needs target laws
    all else                                  refused
    ========================================  =====================================================================

    Args:
        forest: What was recorded.
        policy: As the executor takes it.
        rule: Of verification.
        level: Of the interval.
        knobs: Of the rule.

    Raises:
        ReplayRefused: where the recording can not tell; the message is the reason.
        InputError: for a rule that does not suit the policy's draws, or knobs that are wrong.
    """
    check_pairing(rule, policy.draw)
    set_to = checked_knobs(rule, knobs)
    if rule in NOT_FOLLOWED:
        raise ReplayRefused(f"{rule} can not be replayed: {NOT_FOLLOWED[rule]}")
    _check_text_is_of(rule, forest.facts.temperature)
    if rule in ("greedy", "one_hot"):
        if policy.draw != "top":
            raise ReplayRefused(f"{rule} on sampled drafts can not be replayed: the forest holds the most probable")
        return _on_forest(forest, policy, rule, level)
    if rule == "typical_acceptance":
        return _typical(forest, policy, level, set_to)
    # Exact types: a policy derived from these may drop what it has seen.
    if type(policy) not in (StaticTree, ConfidenceChain) or policy.draw != "sampled":
        raise ReplayRefused(
            f"{type(policy).__name__} decides on draws that lie off the text, or drops draws after seeing them: what "
            "it would have kept does not follow from the text"
        )
    if facts(rule).chains_only and isinstance(policy, StaticTree) and not policy.tree.is_chain:
        raise InputError("tree", f"must be a chain for the rule {rule}", policy.tree.parents)
    tables = [forced_walk(_forced(text), policy, rule) for text in forest.texts]  # type: ignore[arg-type]
    return exact_rate([Walk(visits(table), table.sum(axis=1)) for table in tables], level)


def _check_text_is_of(rule: Rule, temperature: float) -> None:
    if rule == "greedy" and temperature > 0:
        raise ReplayRefused(f"greedy needs texts written at temperature 0, these were written at {temperature:g}")


def _forced(text: RecordedText) -> ForcedText:
    if text.forced is None:
        raise ReplayRefused("both models' probabilities of the text's own tokens were not recorded")
    return text.forced


def _on_forest(forest: Forest, policy: TreePolicy, rule: Rule, level: float) -> Exact | Bounds:
    rounds = [_played(text, policy) for text in forest.texts]
    missing = float(np.mean(np.concatenate([one.is_missing for one in rounds])))
    if missing:
        low, high = shortest_and_longest([one.fewest for one in rounds], [one.most for one in rounds])
        why = f"{missing:.1%} of the rounds asked for nodes that were not recorded, counted as refused and as accepted"
        return Bounds(low, high, why, missing)
    walks = []
    for one in rounds:
        starts = _starts(one.accepted)
        # In place of the tokens that a visited round brought, what it brings in expectation: no luck within rounds.
        is_known = rule == "one_hot" and not np.isnan(one.expected).any()
        walks.append(Walk(starts, one.expected if is_known else 1 + one.accepted.astype(np.float64)))
    total = float(sum(walk.starts.sum() for walk in walks))
    nodes = sum(float(walk.starts @ one.nodes) for walk, one in zip(walks, rounds, strict=True)) / total
    passes = sum(float(walk.starts @ one.passes) for walk, one in zip(walks, rounds, strict=True)) / total
    return replace(exact_rate(walks, level), nodes=nodes, passes=passes)


def _starts(accepted: Ids) -> Array:
    """``[t]`` 1 where a round begins, on a text whose round from t accepts ``accepted[t]`` for certain.

    >>> _starts(np.array([1, 5, 0, 0])).tolist()
    [1.0, 0.0, 1.0, 1.0]
    """
    starts, t = np.zeros(len(accepted)), 0
    while t < len(accepted):
        starts[t] = 1.0
        t += int(accepted[t]) + 1
    return starts


def _played(text: RecordedText, policy: TreePolicy, knobs: dict[str, float] | None = None) -> Played:
    """Rounds from every position that the text follows far enough for this policy."""
    num = min(len(text.roots), len(text.output) - policy.limits.depth)
    if num < 1:
        raise InputError("policy", f"must be less deep than the {len(text.output)} tokens of a text", policy)
    return play(replace(text, roots=text.roots[:num]), policy, knobs)


def _typical(forest: Forest, policy: TreePolicy, level: float, knobs: dict[str, float]) -> Exact:
    if policy.draw != "top":
        raise ReplayRefused("typical_acceptance on sampled drafts can not be replayed: these were not recorded")
    if any(text.laws.target_probs is None or text.laws.entropy is None for text in forest.texts):
        raise ReplayRefused("typical_acceptance needs the target's probability and entropy at every node")
    rounds = [_played(text, policy, knobs) for text in forest.texts]
    if any(one.is_missing.any() for one in rounds):
        raise ReplayRefused("typical_acceptance needs every node that the policy verifies, some were not recorded")
    walks = []
    for one in rounds:
        assert one.typical is not None
        walks.append(Walk(np.ones(len(one.typical)), 1 + one.typical.astype(np.float64)))
    nodes = float(np.mean(np.concatenate([one.nodes for one in rounds])))
    passes = float(np.mean(np.concatenate([one.passes for one in rounds])))
    return replace(exact_rate(walks, level), of="positions", nodes=nodes, passes=passes)
