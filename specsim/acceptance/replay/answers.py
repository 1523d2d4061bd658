"""How exact a replay is, as types: a number with its sampling interval, bounds with their reason, or a refusal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from specsim.errors import InfeasibleError


class ReplayRefused(InfeasibleError):
    """What was recorded can not say what this policy would have done; the message is the reason."""


@dataclass(frozen=True)
class Exact:
    """Tokens per round that replay gives without bias.

    Attributes:
        value: Tokens per round, bonus token in.
        low, high: Interval for texts drawn as the recorded ones were, at ``level``: the error of having few texts.
        level: Its coverage.
        rounds: Expected rounds that the recorded texts take, ``tokens`` being out after them: no sampling error.
        tokens: Expected tokens of these rounds, the last of which may end beyond the recorded positions.
        of: "text": rounds that follow each other along the texts. "positions": one from each recorded position, for
            rules whose rounds would have written another text; easy stretches then count more than they should.
        nodes: Mean nodes verified per round, root in; None where the drafts lie off the text.
        passes: Mean expansions of the drafter per round; likewise.
    """

    value: float
    low: float
    high: float
    level: float
    rounds: float
    tokens: float
    of: Literal["text", "positions"] = "text"
    nodes: float | None = None
    passes: float | None = None


@dataclass(frozen=True)
class Bounds:
    """Tokens per round where the policy asked for something that was not recorded.

    Attributes:
        low, high: On the recorded texts it lies between, whatever the answer would have been: rounds that met the gap
            are counted with the fewest and with the most tokens possible. There is sampling error besides.
        why: What was missing.
        missing: Share of the recorded positions whose round met a gap.
    """

    low: float
    high: float
    why: str
    missing: float
