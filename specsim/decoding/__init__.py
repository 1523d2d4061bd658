"""Decoding algorithms, each once: how laws are adjusted and sampled, which tree is drafted, what the target keeps.

Pure functions over arrays of numpy or torch, padded over the batch, with randomness passed in as uniforms. A new tree
policy is a file in ``policies/`` (its contract is ``state.TreePolicy``), a new verification rule a file in ``rules/``
and a case of ``rules.verify``. Nothing here knows a model.
"""

from __future__ import annotations

from specsim.decoding.arrays import Array, depths, path_probs
from specsim.decoding.policies import (
    BestFirst,
    Cast,
    ConfidenceChain,
    DySpec,
    Eagle2,
    OptTree,
    Policy,
    StaticTree,
    StochasticBeam,
    Talon,
    rsd_c,
)
from specsim.decoding.policies.adaptive import AdaptiveThreshold
from specsim.decoding.propose import sample_children, top_children
from specsim.decoding.rules import RULES, Rule, RuleFacts, check_pairing, verify
from specsim.decoding.rules.follow import follow, greedy, one_hot
from specsim.decoding.rules.outcome import Outcome, outcome
from specsim.decoding.rules.rejection import accept_prob_and_residual, recursive_rejection, token_rejection
from specsim.decoding.rules.verdict import Draws, Verdict
from specsim.decoding.sampling import adjust, check_sampling, sample
from specsim.decoding.state import (
    DraftState,
    Draw,
    Limits,
    TokenTree,
    TreePolicy,
    draft_laws,
    node_probs,
    rooted,
    subtree,
)

__all__ = [
    "RULES",
    "AdaptiveThreshold",
    "Array",
    "BestFirst",
    "Cast",
    "ConfidenceChain",
    "DraftState",
    "Draw",
    "Draws",
    "DySpec",
    "Eagle2",
    "Limits",
    "OptTree",
    "Outcome",
    "Policy",
    "Rule",
    "RuleFacts",
    "StaticTree",
    "StochasticBeam",
    "Talon",
    "TokenTree",
    "TreePolicy",
    "Verdict",
    "accept_prob_and_residual",
    "adjust",
    "check_pairing",
    "check_sampling",
    "depths",
    "draft_laws",
    "follow",
    "greedy",
    "node_probs",
    "one_hot",
    "outcome",
    "path_probs",
    "recursive_rejection",
    "rooted",
    "rsd_c",
    "sample",
    "sample_children",
    "subtree",
    "token_rejection",
    "top_children",
    "verify",
]
