"""How texts are decoded in the synthetic world: the same policies and rules as in the executor."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.process import TextNodes, TokenProcess, draft_laws
from specsim.decoding import Rule, TreePolicy, check_pairing, check_sampling
from specsim.decoding.arrays import one_hot
from specsim.decoding.rules import checked_knobs
from specsim.errors import InputError
from specsim.methods.round import Drafting


@dataclass(frozen=True)
class SyntheticMethod:
    """How texts are decoded, as ``executor.method.Method`` says it for torch.

    Args:
        policy: What is drafted.
        rule: What is kept of it.
        temperature: Of the target, and of a policy that samples its drafts.
        drafting: How the drafter works.
        knobs: Of a lossy rule.

    Raises:
        InputError: for a rule that does not suit the policy's draws, or is greedy above temperature 0.
    """

    policy: TreePolicy
    rule: Rule
    temperature: float = 1.0
    drafting: Drafting = "autoregressive"
    knobs: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_pairing(self.rule, self.policy.draw)
        check_sampling(self.temperature)
        if self.rule == "greedy" and self.temperature > 0:
            raise InputError("temperature", "must be 0 for the rule greedy, which does not sample", self.temperature)
        checked_knobs(self.rule, self.knobs)

    def draft_law(self, process: TokenProcess, nodes: TextNodes) -> NDArray[np.float32]:
        """What the policy reads: the law that it draws from, or how sure the drafter is of each candidate."""
        if self.policy.draw == "top":
            return draft_laws(process, nodes, with_tail=False)
        if self.temperature > 0:
            return draft_laws(process, nodes, self.temperature)
        best = draft_laws(process, nodes, with_tail=False).argmax(axis=-1)
        return np.asarray(one_hot(best, process.law_size, np.float32))
