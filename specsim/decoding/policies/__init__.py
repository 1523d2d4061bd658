"""Tree policies, a file each: which nodes to draft and which to verify (contract: ``specsim.decoding.state``).

Policies that rank or prune take the most probable children ("top"), for the greedy or the one-hot rule; those that
sample decide before a draw, or after one that they keep, for the rejection rules.
"""

from __future__ import annotations

from typing import TypeAlias

from specsim.decoding.policies.best_first import BestFirst
from specsim.decoding.policies.c2t import C2t
from specsim.decoding.policies.cast import Cast
from specsim.decoding.policies.confidence import ConfidenceChain
from specsim.decoding.policies.dyspec import DySpec
from specsim.decoding.policies.eagle2 import Eagle2
from specsim.decoding.policies.opt_tree import OptTree
from specsim.decoding.policies.rsd import StochasticBeam, rsd_c
from specsim.decoding.policies.static import StaticTree
from specsim.decoding.policies.talon import Talon

__all__ = [
    "BestFirst",
    "C2t",
    "Cast",
    "ConfidenceChain",
    "DySpec",
    "Eagle2",
    "OptTree",
    "Policy",
    "StaticTree",
    "StochasticBeam",
    "Talon",
    "rsd_c",
]

Policy: TypeAlias = (
    BestFirst | C2t | Cast | ConfidenceChain | DySpec | Eagle2 | OptTree | StaticTree | StochasticBeam | Talon
)
"""Every policy there is; ``kind`` tells them apart."""
