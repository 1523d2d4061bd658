"""The published methods, each as a drafter, a tree policy and a rule: what ``specsim methods`` lists and measures.

Published trees stand as published. Policies that grow a tree have a budget of nodes as a parameter; it is smaller here
than on a GPU, since on a processor each verified node costs time (``specsim generate --policy`` takes any other).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

from specsim.decoding import (
    RULES,
    AdaptiveThreshold,
    BestFirst,
    ConfidenceChain,
    Draw,
    DySpec,
    Eagle2,
    OptTree,
    Rule,
    StaticTree,
    StochasticBeam,
    Talon,
    TreePolicy,
    rsd_c,
)
from specsim.tree import DraftTree
from specsim.trees_known import EAGLE_25, MEDUSA_63, SPECINFER_20

DrafterName: TypeAlias = Literal[
    "none", "model", "eagle", "medusa", "skipped", "exit", "lookup", "recycling", "lookahead", "cascade"
]
"""What proposes; "none" is plain decoding, "exit" the target's own first layer."""

Made: TypeAlias = Literal["Sequoia", "CAST", "Token Recycling"]
"""Policies that follow from what was measured (acceptance and times; times), and a template that its drafter ships."""


@dataclass(frozen=True)
class NamedMethod:
    """One row of the table.

    Attributes:
        name: Short, for people; unique among the methods of a temperature.
        source: The paper.
        drafter: What proposes.
        policy: What is drafted; a name where that is known only after measuring.
        rule: What of it is kept.
        knobs: Of a lossy rule.
        control: Where the policy's threshold is led from round to round.
        window_tokens: Tokens that ride in the target's pass beside the tree.
    """

    name: str
    source: str
    drafter: DrafterName
    policy: TreePolicy | Made
    rule: Rule = "greedy"
    knobs: Mapping[str, float] = field(default_factory=dict)
    control: AdaptiveThreshold | None = None
    window_tokens: int = 0

    @property
    def lossless(self) -> bool:
        """Whether the text follows the target's law exactly."""
        return RULES[self.rule].lossless

    @property
    def draw(self) -> Draw:
        """How its children are chosen; a policy still to be made takes the most probable."""
        return "top" if isinstance(self.policy, str) else self.policy.draw

    @property
    def tree(self) -> DraftTree | None:
        """The tree of every round, where it is always the same and known."""
        return self.policy.tree if isinstance(self.policy, StaticTree) else None

    def made(self, policy: TreePolicy) -> NamedMethod:
        """The same with the policy that its name stood for."""
        return replace(self, policy=policy)

    @property
    def settings(self) -> str:
        """The policy and its numbers, in few words."""
        if isinstance(self.policy, str):
            return "from what is measured" if self.policy != "Token Recycling" else "template of 80 nodes"
        if self.tree is not None:
            return self.tree.label
        values = {name: value for name, value in vars(self.policy).items() if name not in ("kind", "draw")}
        shown = (f"{name} {len(value)} entries" if isinstance(value, tuple) and len(value) > 3 else f"{name} {value}"
                 for name, value in values.items())  # fmt: skip
        return ", ".join(shown)


LEVIATHAN: Final = "Leviathan et al. 2023 (arXiv:2211.17192)"
SPECINFER: Final = "Miao et al. 2024 (arXiv:2305.09781)"
MCSD: Final = "Yang et al. 2024 (arXiv:2401.06706)"
EAGLE: Final = "Li et al. 2024 (arXiv:2401.15077)"
EAGLE2: Final = "Li et al. 2024 (arXiv:2406.16858)"
MEDUSA: Final = "Cai et al. 2024 (arXiv:2401.10774)"
RSD: Final = "Jeon et al. 2024 (arXiv:2402.14160)"
DRAFT_VERIFY: Final = "Zhang et al. 2024 (arXiv:2309.08168)"
LOOKUP: Final = "Saxena 2023 (prompt lookup decoding)"
RECYCLING: Final = "Luo et al. 2025 (arXiv:2408.08696)"
LOOKAHEAD: Final = "Fu et al. 2024 (arXiv:2402.02057)"
STAGED: Final = "Spector and Re 2023 (arXiv:2308.04623)"
TRAVERSAL: Final = "Traversal Verification 2025 (arXiv:2505.12398)"

WINDOW: Final = 4 * 7
"""Lookahead's window at N 5 and W 7: N - 1 rows of W tokens."""


def _top(tree: DraftTree) -> StaticTree:
    return StaticTree(tree, "top")


def _sampled(tree: DraftTree, draw: Draw = "sampled") -> StaticTree:
    return StaticTree(tree, draw)


def _doubting(measure: Literal["token", "path"], draft_len: int, threshold: float, draw: Draw) -> ConfidenceChain:
    return ConfidenceChain(draft_len, threshold, measure, draw)


CHAIN: Final = DraftTree.chain
GUESSES: Final = DraftTree.from_widths((7, 1, 1, 1))
"""Lookahead's branches at G 7 and N 5."""

GREEDY: Final[tuple[NamedMethod, ...]] = (
    NamedMethod("plain decoding", "-", "none", _top(CHAIN(0))),
    NamedMethod("chain of 5", LEVIATHAN, "model", _top(CHAIN(5))),
    NamedMethod("SpecInfer's expansion", SPECINFER, "model", _top(SPECINFER_20)),
    NamedMethod("MCSD 4,2,2", MCSD, "model", _top(DraftTree.from_widths((4, 2, 2)))),
    NamedMethod("Sequoia's tree", "Chen et al. 2024 (arXiv:2402.12374)", "model", "Sequoia"),
    NamedMethod("EAGLE-2 growth", EAGLE2, "model", Eagle2(top_k=3, depth=4, total_tokens=9)),
    NamedMethod("OPT-Tree", "Wang et al. 2024 (arXiv:2406.17276)", "model", OptTree(6, 0.3, 6)),
    NamedMethod("TALON", "TALON 2026 (arXiv:2601.07353)", "model", Talon(budget=8, mu=0.3, top_k=2, max_depth=6)),
    NamedMethod("CAST", "Hong et al. 2025 (arXiv:2510.26577)", "model", "CAST"),
    NamedMethod("SpecExec, best first", "Svirschevski et al. 2024 (arXiv:2406.02532)", "model", BestFirst(8, 2, 6)),
    NamedMethod("SpecDec++ threshold", "Huang et al. 2024 (arXiv:2405.19715)", "model",
                _doubting("path", 10, 0.3, "top")),
    NamedMethod("EAGLE, 25 nodes", EAGLE, "eagle", _top(EAGLE_25)),
    NamedMethod("EAGLE, chain of 4", EAGLE, "eagle", _top(CHAIN(4))),
    NamedMethod("EAGLE-2", EAGLE2, "eagle", Eagle2(top_k=3, depth=3, total_tokens=9)),
    NamedMethod("Medusa, 63 nodes", MEDUSA, "medusa", _top(MEDUSA_63)),
    NamedMethod("Medusa, chain of 3", MEDUSA, "medusa", _top(CHAIN(3))),
    NamedMethod("Draft & Verify", DRAFT_VERIFY, "skipped", _doubting("token", 8, 0.8, "top"),
                control=AdaptiveThreshold(threshold=0.8, draft_len=8)),
    NamedMethod("skipped sublayers, chain of 1", DRAFT_VERIFY, "skipped", _top(CHAIN(1))),
    NamedMethod("early exit, chain of 1", DRAFT_VERIFY, "exit", _top(CHAIN(1))),
    NamedMethod("prompt lookup, chain of 4", LOOKUP, "lookup", _top(CHAIN(4))),
    NamedMethod("Token Recycling, 80 nodes", RECYCLING, "recycling", "Token Recycling"),
    NamedMethod("Lookahead 5/7/7", LOOKAHEAD, "lookahead", _top(GUESSES), window_tokens=WINDOW),
    NamedMethod("staged cascade, chain of 5", STAGED, "cascade", _top(CHAIN(5))),
)  # fmt: skip
"""At temperature 0, where all follow the greedy rule."""

_REPLACED: Final = "sampled_with_replacement"

SAMPLED: Final[tuple[NamedMethod, ...]] = (
    NamedMethod("plain decoding", "-", "none", _top(CHAIN(0)), "one_hot"),
    NamedMethod("chain of 4", LEVIATHAN, "model", _sampled(CHAIN(4)), "token_rejection"),
    NamedMethod("chain of 4, block", "Sun et al. 2024 (arXiv:2403.10444)", "model", _sampled(CHAIN(4)),
                "block_verification"),
    NamedMethod("chain of 4, leniency", "Zhou et al. 2024 (arXiv:2310.08461)", "model", _sampled(CHAIN(4)),
                "leniency"),
    NamedMethod("chain of 4, joint ratio", "MTAD 2025 (arXiv:2407.09722)", "model", _sampled(CHAIN(4)),
                "joint_ratio"),
    NamedMethod("chain of 4, reject then sample", "Koh and Yang 2025 (arXiv:2511.01695)", "model",
                _sampled(CHAIN(4)), "reject_then_sample"),
    NamedMethod("RSD-C 2,2,1", RSD, "model", rsd_c((2, 2, 1)), "recursive_rejection"),
    NamedMethod("RSD-C 2,2,1, traversal", TRAVERSAL, "model", rsd_c((2, 2, 1)), "traversal"),
    NamedMethod("RSD-S", RSD, "model", StochasticBeam(width=2, depth=4), "recursive_rejection"),
    NamedMethod("DySpec", "Xiong et al. 2024 (arXiv:2410.11744)", "model", DySpec(8, 0.15, 3, 5),
                "recursive_rejection"),
    NamedMethod("MCSD 4,2,2", MCSD, "model", _sampled(DraftTree.from_widths((4, 2, 2))), "recursive_rejection"),
    NamedMethod("SpecInfer's multi-step sampling", SPECINFER, "model", _sampled(SPECINFER_20, _REPLACED),
                "recursive_rejection_with_replacement"),
    NamedMethod("SpecTr, 4 chains of 3", "Sun et al. 2023 (arXiv:2310.15141)", "model",
                _sampled(DraftTree.from_widths((4, 1, 1)), _REPLACED), "k_seq"),
    NamedMethod("4 chains of 3, traversal", TRAVERSAL, "model",
                _sampled(DraftTree.from_widths((4, 1, 1)), _REPLACED), "traversal_with_replacement"),
    NamedMethod("EAGLE-2, one-hot", EAGLE2, "eagle", Eagle2(top_k=3, depth=3, total_tokens=9), "one_hot"),
    NamedMethod("EAGLE, 25 nodes", EAGLE, "eagle", _sampled(EAGLE_25), "recursive_rejection"),
    NamedMethod("Medusa, 63 nodes, one-hot", MEDUSA, "medusa", _top(MEDUSA_63), "one_hot"),
    NamedMethod("Medusa, 63 nodes, typical", MEDUSA, "medusa", _top(MEDUSA_63), "typical_acceptance"),
    NamedMethod("Draft & Verify", DRAFT_VERIFY, "skipped", _doubting("token", 8, 0.5, "sampled"), "token_rejection",
                control=AdaptiveThreshold(threshold=0.5, draft_len=8)),
    NamedMethod("early exit, chain of 1", DRAFT_VERIFY, "exit", _sampled(CHAIN(1)), "token_rejection"),
    NamedMethod("prompt lookup, chain of 4", LOOKUP, "lookup", _top(CHAIN(4)), "one_hot"),
    NamedMethod("Token Recycling, 80 nodes", RECYCLING, "recycling", "Token Recycling", "one_hot"),
    NamedMethod("Lookahead 5/7/7", LOOKAHEAD, "lookahead", _top(GUESSES), "one_hot", window_tokens=WINDOW),
    NamedMethod("staged cascade, chain of 4", STAGED, "cascade", _sampled(CHAIN(4)), "token_rejection"),
)  # fmt: skip
"""Above temperature 0, with the rule of each paper."""


def catalogue(temperature: float) -> tuple[NamedMethod, ...]:
    """The methods at this temperature, plain decoding first.

    >>> [method.name for method in catalogue(0.0)][:2], len(catalogue(1.0))
    (['plain decoding', 'chain of 5'], 24)
    """
    return GREEDY if temperature == 0 else SAMPLED
