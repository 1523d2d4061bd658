"""Draft & Verify's controller: how sure a drafter must be, learnt from what the target keeps."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class AdaptiveThreshold:
    """The threshold of a :class:`~specsim.decoding.policies.confidence.ConfidenceChain` from round to round.

    A moving average of the share of drafted tokens that were accepted is held against ``target``: below it the
    threshold is led ``step`` up, else ``step`` down, but not where the whole ``draft_len`` was drafted, since a lower
    threshold would then change nothing. It follows with its own inertia.

    Args:
        threshold: Present threshold; published: 0.8 at temperature 0, 0.5 above.
        draft_len: Most tokens of the chain; published: 8.
        matchness: Present average; a text starts at 0.
        target: Share of accepted tokens aimed at.
        step: How far the threshold is led in a round.
        memory: Weight of the past in the average.
        inertia: Weight of the past in the threshold.

    Source: Zhang et al. 2024 (arXiv:2309.08168); start and constants as in decoding.py of their repository
    dilab-zju/self-speculative-decoding @f69f2a7.

    >>> control = AdaptiveThreshold(threshold=0.8, draft_len=8)
    >>> control = control.updated(num_drafted=4, num_accepted=2)
    >>> control.matchness, round(control.threshold, 6)
    (0.25, 0.801)
    """

    threshold: float
    draft_len: int
    matchness: float = 0.0
    target: float = 0.9
    step: float = 0.01
    memory: float = 0.5
    inertia: float = 0.9

    def updated(self, num_drafted: int, num_accepted: int) -> AdaptiveThreshold:
        """The controller after a round; one that drafted nothing teaches nothing."""
        if num_drafted == 0:
            return self
        matchness = self.memory * self.matchness + (1 - self.memory) * num_accepted / num_drafted
        if matchness < self.target:
            led = self.threshold + self.step
        elif num_drafted == self.draft_len:
            led = self.threshold
        else:
            led = self.threshold - self.step
        return replace(self, matchness=matchness, threshold=self.inertia * self.threshold + (1 - self.inertia) * led)
