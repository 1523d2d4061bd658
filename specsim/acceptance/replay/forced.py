"""Drafts replayed from one pass of the target and the draft over a text: everything that matters lies on the text.

A lossless rule emits text y with the target's probability, and whether a draft was behind it is known in law. With q
the draft's and p the target's probability of the token y that follows, a draw is y and is accepted with min(q, p), so
given y it was accepted with

    a = min(q, p) / p = min(1, q / p),

whatever happened before. A block accepts at least k tokens and emits them with q(y1..yk) p_k, where p_0 = 1 and p_k =
min(1, p_{k-1} p(yk) / q(yk)); given the text that is the least of the products q / p over 0, 1, ... k tokens. (Summing
the rates of ``decoding.rules.block`` from the last prefix to the first, Pr(at least k | draft) = p_k telescopes.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.replay.answers import Exact, ReplayRefused
from specsim.acceptance.replay.walk import Array, Walk, chain_rounds, exact_rate
from specsim.decoding import ConfidenceChain, StaticTree
from specsim.decoding.rules.rejection import accept_prob_and_residual
from specsim.decoding.sampling import sample
from specsim.errors import InputError
from specsim.tree import DraftTree

ChainRule = Literal["token_rejection", "recursive_rejection", "block_verification"]


@dataclass(frozen=True, eq=False)
class ForcedText:
    """What both models say of each token of a text's output, at the temperature decoded with.

    Attributes:
        draft_probs, target_probs: ``[t]`` of the token itself after all before it.
        surest: ``[t]`` largest probability of the draft's law there.
        draws: ``[t, r]`` probability, given the text, that draw r without replacement was this token and accepted by
            recursive rejection; column 0 is min(1, q / p). Later columns are means over simulated elder draws.

    Raises:
        InputError: for arrays of unequal length, or numbers that are no probabilities.
    """

    draft_probs: NDArray[np.float32]
    target_probs: NDArray[np.float32]
    surest: NDArray[np.float32]
    draws: Array

    def __post_init__(self) -> None:
        for name in ("draft_probs", "target_probs", "surest", "draws"):
            values = getattr(self, name)
            if len(values) != len(self.draft_probs):
                raise InputError(name, f"must have {len(self.draft_probs)} entries", len(values))
            if not np.all((values >= 0) & (values <= 1 + 1e-6)):
                raise InputError(name, "must be probabilities", float(np.nan_to_num(values, nan=np.inf).max()))


def token_accept(draft_probs: Array, target_probs: Array) -> Array:
    """``[t]`` probability that the token came from an accepted draft, given the text: min(1, q / p).

    >>> token_accept(np.array([0.2, 0.9]), np.array([0.4, 0.6])).tolist()
    [0.5, 1.0]
    """
    safe = np.where(target_probs > 0, target_probs, 1.0)
    return np.where(target_probs > 0, np.minimum(draft_probs, target_probs) / safe, 0.0)


def draw_accepts(
    draft_laws: Array, target_laws: Array, tokens: NDArray[np.int64], num: int, samples: int, rng: np.random.Generator
) -> Array:
    """``[t, r]`` probability, given the text, that draw r was accepted and is its token; see ``ForcedText.draws``.

    Draw r is y and accepted with the mean over elder draws, all rejected, of min(p_r(y), q_r(y)), where p_r is the law
    left to reproduce and q_r the law left to draw from. The elders are simulated and the last draw is not, so column 0
    has no noise. Rounds multiply entries of different t only: independent noise leaves their expectation unbiased.

    Args:
        draft_laws, target_laws: ``[t, V]``.
        tokens: ``[t]`` the text.
        num: Draws after each node.
        samples: Simulated rows of elders for each token.
        rng: For them.

    >>> laws = np.array([[0.5, 0.5]]), np.array([[0.1, 0.9]])  # 0.5 / 0.9 and 0.5 * 0.8 / 0.9
    >>> found = draw_accepts(*laws, np.array([1]), 2, 4000, np.random.default_rng(0))[0]
    >>> round(float(found[0]), 4), bool(abs(found[1] - 4 / 9) < 0.03)
    (0.5556, True)
    """
    wanted = target_laws[np.arange(len(tokens)), tokens]
    found = np.zeros((len(tokens), num))
    for t, token in enumerate(tokens):
        rows = 1 if num == 1 else samples
        law, proposal = (np.broadcast_to(laws[t], (rows, laws.shape[1])) for laws in (target_laws, draft_laws))
        refused = np.ones(rows)
        for draw in range(num):
            found[t, draw] = float(np.mean(refused * np.minimum(law[:, token], proposal[:, token]))) / wanted[t]
            if draw + 1 < num:
                elder = sample(proposal, rng.random(rows))
                accept, law, proposal = accept_prob_and_residual(law, proposal, elder)
                refused = refused * (1 - accept)
    return np.minimum(found, 1.0)


def chain_lengths(
    text: ForcedText, longest: int, rule: ChainRule = "token_rejection", stop: ConfidenceChain | None = None
) -> Array:
    """``[t, k]`` probability, given the text, that a round from t accepts at least k tokens of a sampled chain.

    Args:
        text: Its last ``longest`` tokens are only looked ahead at: t runs over those before.
        longest: Draft length; shorter drafts are the first columns.
        rule: Of verification.
        stop: A chain that ends when its drafter doubts: what it looks at is on the text as long as it is accepted.
    """
    num = len(text.draft_probs) - longest
    if num < 1:
        raise InputError("draft_len", f"must be below the {len(text.draft_probs)} tokens of the text", longest)
    reach = np.ones((num, longest + 1))
    goes_on = np.ones(num, dtype=bool)
    path = np.ones(num, dtype=np.float32)
    ratio = np.ones(num)
    accept = token_accept(text.draft_probs.astype(float), text.target_probs.astype(float))
    for k in range(longest):
        here = slice(k, k + num)
        if stop is not None and stop.measure == "law":
            goes_on = goes_on & (text.surest[here] >= stop.threshold)
        if rule == "block_verification":
            safe = np.maximum(text.target_probs[here].astype(float), 1e-300)
            ratio = ratio * (text.draft_probs[here] / safe)
            kept = np.minimum(reach[:, k], ratio)
        else:
            kept = reach[:, k] * accept[here]
        reach[:, k + 1] = kept * goes_on
        if stop is not None and stop.measure != "law":
            path = np.minimum(path * text.draft_probs[here], path)
            seen = text.draft_probs[here] if stop.measure == "token" else path
            goes_on = goes_on & (seen >= stop.threshold)
    return reach


def tree_lengths(text: ForcedText, tree: DraftTree) -> Array:
    """``[t, k]`` probability, given the text, that a round from t accepts at least k tokens of a sampled static tree.

    A path of draws is followed with the product of its draws' probabilities, each at its own token of the text.

    Raises:
        ReplayRefused: for a tree that skips a draw, or has more children than draws were recorded.
    """
    if not tree.has_all_elders:
        raise ReplayRefused(
            "the tree leaves out an elder sibling: whether a draw is accepted depends on all drawn before it, so this "
            "subset has another law than what was recorded"
        )
    if (most := 1 + max(tree.ranks)) > text.draws.shape[1]:
        raise ReplayRefused(f"the tree draws {most} children of a node, {text.draws.shape[1]} were recorded")
    num = len(text.draws) - tree.depth
    if num < 1:
        raise InputError("tree", f"must be less deep than the {len(text.draws)} tokens of the text", tree.depth)
    reach, at = np.zeros((num, tree.depth + 1)), [np.ones(num)]
    reach[:, 0] = 1.0
    for node in range(1, tree.num_nodes):
        depth = int(tree.depths[node])
        at.append(at[tree.parents[node]] * text.draws[depth - 1 : depth - 1 + num, tree.ranks[node]])
        reach[:, depth] += at[node]
    # Simulated draws can sum to a trifle above one.
    return np.asarray(np.minimum.accumulate(np.minimum(reach, 1.0), axis=1))


def replay_chains(
    texts: Sequence[ForcedText], draft_lens: Sequence[int], rule: ChainRule = "token_rejection", level: float = 0.9
) -> dict[int, Exact]:
    """Tokens per round of sampled chains of every length, exact for these texts, from one table per text.

    Args:
        texts: Each longer than the longest draft.
        draft_lens: Each 0 or more.
        rule: "token_rejection" or "block_verification".
        level: Of the interval.

    >>> text = ForcedText(*(np.full(400, x, np.float32) for x in (0.4, 0.5, 0.5)), draws=np.full((400, 1), 0.8))
    >>> round(replay_chains([text], [4])[4].value, 3)  # (1 - .8^5) / (1 - .8)
    3.362
    """
    if not texts or not draft_lens:
        raise InputError("texts and draft_lens", "must be at least one", (len(texts), len(draft_lens)))
    longest = max(draft_lens)
    tables = [chain_lengths(text, longest, rule) for text in texts]
    starts = [chain_rounds(table, draft_lens) for table in tables]
    found = {}
    for place, length in enumerate(draft_lens):
        walks = [
            Walk(one[:, place], table[:, : length + 1].sum(axis=1)) for one, table in zip(starts, tables, strict=True)
        ]
        found[length] = exact_rate(walks, level)
    return found


def forced_walk(text: ForcedText, policy: StaticTree | ConfidenceChain, rule: ChainRule) -> Array:
    """``[t, k]`` of a policy that samples its drafts and whose decisions can be told from the text."""
    if isinstance(policy, ConfidenceChain):
        if not isinstance(policy.threshold, int | float):
            raise InputError("threshold", "must be one number in a replay", policy.threshold)
        return chain_lengths(text, policy.draft_len, rule, policy)
    if policy.tree.is_chain:
        return chain_lengths(text, policy.tree.depth, rule)
    return tree_lengths(text, policy.tree)
