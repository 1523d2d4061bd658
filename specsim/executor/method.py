"""How texts are decoded: a tree policy, a verification rule, the law that tokens are drawn from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch

from specsim.decoding import (
    Array,
    DraftState,
    Rule,
    StaticTree,
    TokenTree,
    TreePolicy,
    adjust,
    check_pairing,
    check_sampling,
)
from specsim.decoding.rules import checked_knobs, facts
from specsim.errors import InputError
from specsim.tree import DraftTree

Drafted = TypeVar("Drafted", DraftState, TokenTree)


def on_host(values: torch.Tensor) -> Array:
    """The same memory as a numpy array where it is the processor's: small operations then cost a quarter."""
    if values.device.type != "cpu":
        return values
    return values.float().numpy() if values.dtype in (torch.bfloat16, torch.float16) else values.numpy()


def as_tensor(values: Array) -> torch.Tensor:
    """Back from ``on_host``: the same memory as a tensor."""
    return torch.from_numpy(values) if isinstance(values, np.ndarray) else values


def as_tensors(drafted: Drafted) -> Drafted:
    """A state or a tree with tensors in place of numpy's arrays."""
    changed: dict[str, Any] = {
        name: as_tensor(value) for name, value in vars(drafted).items() if isinstance(value, np.ndarray)
    }
    if not changed:
        return drafted
    if isinstance(drafted, DraftState):
        changed["laws"] = tuple(map(as_tensor, drafted.laws))
    return replace(drafted, **changed)


@dataclass(frozen=True)
class Sampling:
    """The law of the next token: temperature (0 is greedy), then top-k, then top-p. See ``decoding.adjust``."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        check_sampling(self.temperature, self.top_k, self.top_p)

    def law(self, logits: Array) -> Any:
        """Probabilities ``[..., V]``, in fp32 or in the wider type of the logits, arrays of the same library."""
        return adjust(logits, self.temperature, self.top_k, self.top_p)


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

    def draft_law(self, logits: torch.Tensor) -> Array:
        """What the policy reads, on the host: the law that it draws from, or how sure the drafter is.

        Ranks do not depend on the temperature, and at 0 only the law without it still says how sure the drafter is.
        """
        if self.policy.draw != "top":
            return self.sampling.law(on_host(logits))
        return on_host(torch.softmax(logits, -1, dtype=torch.float32))


def lossless_rule(tree: DraftTree, temperature: float) -> tuple[StaticTree, Rule]:
    """The policy and lossless rule that suit a static tree: greedy; sampled, the token rule for chains, recursive
    rejection for trees.

    >>> lossless_rule(DraftTree.chain(2), temperature=1.0)[1]
    'token_rejection'
    """
    if temperature == 0:
        return StaticTree(tree, "top"), "greedy"
    return StaticTree(tree, "sampled"), "token_rejection" if tree.is_chain else "recursive_rejection"
