"""A link between drafter and target: what is sent, and how long it is under way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from specsim.errors import InputError

Payload = Literal["tokens", "top_k_probs", "all_probs", "features"]
TOKEN_BYTES = 4
PROB_BYTES = 2


@dataclass(frozen=True)
class Link:
    """One direction of a network.

    Args:
        bandwidth_bytes_per_s: Infinite for one host.
        latency_s: Added to every message.
        jitter_s: Mean of an exponential delay on top of it.

    Raises:
        InputError: for a bandwidth that is not positive, or a negative time.
    """

    bandwidth_bytes_per_s: float = np.inf
    latency_s: float = 0.0
    jitter_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.bandwidth_bytes_per_s > 0:
            raise InputError("bandwidth_bytes_per_s", "must be > 0", self.bandwidth_bytes_per_s)
        for name in ("latency_s", "jitter_s"):
            if not 0 <= getattr(self, name) < np.inf:
                raise InputError(name, "must be >= 0 and finite", getattr(self, name))

    def seconds(self, num_bytes: float, rng: np.random.Generator | None = None) -> float:
        """Time from the first bit sent to the last one received; without ``rng``, of mean jitter.

        >>> Link(1e6, latency_s=0.01).seconds(1000)
        0.011
        """
        jitter = self.jitter_s if rng is None or not self.jitter_s else float(rng.exponential(self.jitter_s))
        return num_bytes / self.bandwidth_bytes_per_s + self.latency_s + jitter


def draft_bytes(
    payload: Payload, num_tokens: int, *, top_k: int = 8, vocab_size: int = 0, hidden_size: int = 0
) -> float:
    """Bytes of a draft of ``num_tokens``: ids, and what the verification rule needs beside them.

    Greedy and one-hot verification need the ids alone. Rejection sampling needs the draft's law: all of it for the
    exact rule, or its ``top_k`` largest (the draft must then be sampled from those). ``features`` are the target's
    hidden states of three layers, which a head beyond the link needs back.

    Raises:
        InputError: where the size that the payload depends on is missing.

    >>> draft_bytes("tokens", 5), draft_bytes("top_k_probs", 5, top_k=8), draft_bytes("all_probs", 1, vocab_size=32000)
    (20.0, 260.0, 64004.0)
    """
    each = float(TOKEN_BYTES)
    match payload:
        case "top_k_probs":
            each += top_k * (TOKEN_BYTES + PROB_BYTES)
        case "all_probs":
            if vocab_size < 1:
                raise InputError("vocab_size", "must be >= 1 to send all probabilities", vocab_size)
            each += vocab_size * PROB_BYTES
        case "features":
            if hidden_size < 1:
                raise InputError("hidden_size", "must be >= 1 to send features", hidden_size)
            each += 3 * hidden_size * 2
    return num_tokens * each
