"""How texts are decoded: a tree policy, a verification rule, the law that tokens are drawn from."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from specsim.decoding import Array, Rule, StaticTree, TreePolicy, adjust, check_pairing, check_sampling
from specsim.decoding.rules import checked_knobs, facts
from specsim.errors import InputError
from specsim.tree import DraftTree


def on_host(values: torch.Tensor) -> Array:
    """The same memory as a numpy array where it is the processor's: a verdict's small operations then cost half."""
    if values.device.type != "cpu":
        return values
    return values.float().numpy() if values.dtype in (torch.bfloat16, torch.float16) else values.numpy()


@dataclass(frozen=True)
class Sampling:
    """The law of the next token: temperature (0 is greedy), then top-k, then top-p. See ``decoding.adjust``."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        check_sampling(self.temperature, self.top_k, self.top_p)

    def law(self, logits: torch.Tensor) -> torch.Tensor:
        """Probabilities ``[..., V]``, in fp32 or in the wider type of the logits."""
        probs: torch.Tensor = adjust(logits, self.temperature, self.top_k, self.top_p)
        return probs


@dataclass(frozen=True)
class Method:
    """What is drafted, what of it is kept, and the law that the text follows.

    Args:
        policy: Which nodes are drafted and verified.
        rule: Which of them the target keeps.
        sampling: Of the target, and of a policy that samples its drafts.
        knobs: Of a lossy rule.

    Raises:
        InputError: for a rule on draws for which it would not do what its label says.
    """

    policy: TreePolicy
    rule: Rule
    sampling: Sampling = Sampling()
    knobs: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_pairing(self.rule, self.policy.draw)
        if self.rule == "greedy" and self.sampling.temperature > 0 and not self.is_plain:
            got = self.sampling.temperature
            raise InputError("temperature", "must be 0 for the rule greedy, which does not sample", got)
        if facts(self.rule).chains_only and self.tree is not None and not self.tree.is_chain:
            raise InputError("tree", f"must be a chain for the rule {self.rule}", self.tree.parents)
        checked_knobs(self.rule, self.knobs)

    @property
    def tree(self) -> DraftTree | None:
        """The tree of every round, where it is always the same."""
        return self.policy.tree if isinstance(self.policy, StaticTree) else None

    @property
    def is_plain(self) -> bool:
        """Is this decoding without speculation."""
        return self.tree is not None and not self.tree.num_drafted

    @property
    def label(self) -> str:
        """A short name for people."""
        return self.tree.label if self.tree is not None else str(self.policy)

    def draft_law(self, logits: torch.Tensor) -> torch.Tensor:
        """What the policy reads: the law that it draws from, or how sure the drafter is.

        Ranks do not depend on the temperature, and at 0 only the law without it still says how sure the drafter is.
        """
        return self.sampling.law(logits) if self.policy.draw != "top" else torch.softmax(logits.float(), -1)


def lossless_rule(tree: DraftTree, temperature: float) -> tuple[StaticTree, Rule]:
    """The policy and lossless rule that suit a static tree: greedy; sampled, the token rule for chains, recursive
    rejection for trees.

    >>> lossless_rule(DraftTree.chain(2), temperature=1.0)[1]
    'token_rejection'
    """
    if temperature == 0:
        return StaticTree(tree, "top"), "greedy"
    return StaticTree(tree, "sampled"), "token_rejection" if tree.is_chain else "recursive_rejection"
