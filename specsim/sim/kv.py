"""KV memory of a replica: how many blocks what the weights leave holds, and which prefixes of prompts they keep."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from specsim.cost.memory import memory_ledger
from specsim.errors import InfeasibleError
from specsim.model import ModelSpec
from specsim.scenario import Deployment

_PROBE: int = 4096
"""Tokens of context at which the cost of a block is taken: layers with a window have stopped growing there."""


def num_blocks(deployment: Deployment, block_tokens: int, has_drafter: bool, stages: int = 1) -> int:
    """Blocks of ``block_tokens`` tokens that the memory holds beside the weights: of the target, and of the draft model
    where one is loaded, whose own cache comes out of the same blocks. Stages of a pipeline share the layers.

    Raises:
        InfeasibleError: when the weights leave room for none.
    """
    scenario, draft = deployment.scenario, deployment.draft if has_drafter else None
    tp, draft_tp = scenario.tensor_parallel, deployment.draft_tensor_parallel
    probe = _PROBE if _has_windows(deployment.target) else block_tokens
    ledger = memory_ledger(deployment.hardware, deployment.target, draft, 1.0, probe, tp, draft_tp)
    each = (ledger.target_kv + ledger.draft_kv) * block_tokens / probe
    blocks = int((stages * ledger.limit - ledger.target_weights - ledger.draft_weights) / each)
    if blocks < 1:
        ledger.check()
        raise InfeasibleError(f"memory: the weights leave no room for a block of {block_tokens} tokens")
    return blocks


def _has_windows(model: ModelSpec) -> bool:
    return any(getattr(group.attention, "window_tokens", None) is not None for group in model.layers)


@dataclass
class PrefixCache:
    """Which blocks of text a replica keeps: those that requests hold, counted, and those that nobody holds, least
    recently used first. The latter count as free memory, and go when it is needed.

    Args:
        blocks_each: Blocks of KV memory behind one identity.

    >>> cache = PrefixCache(blocks_each=1)
    >>> cache.hold((1, 2, 3)), cache.release((1, 2, 3)), cache.num_hits((1, 2, 9))
    (3, 3, 2)
    >>> cache.shrink(2)  # deeper blocks go first: without block 1, blocks 2 and 3 are of no use
    >>> cache.num_hits((1, 2, 3)), cache.hold((1, 2, 7))
    (2, 3)
    """

    blocks_each: int = 1
    _held: dict[int, int] = field(default_factory=dict)
    _idle: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def num_hits(self, identities: Sequence[int]) -> int:
        """Leading identities that are kept."""
        for count, identity in enumerate(identities):
            if identity not in self._held and identity not in self._idle:
                return count
        return len(identities)

    def num_taken(self, identities: Sequence[int]) -> int:
        """Free blocks that holding them takes: all that nobody holds yet, kept or not."""
        return self.blocks_each * sum(identity not in self._held for identity in identities)

    def hold(self, identities: Sequence[int]) -> int:
        """Hold them for a request; returns the free blocks that this took."""
        taken = self.num_taken(identities)
        for identity in identities:
            self._idle.pop(identity, None)
            self._held[identity] = self._held.get(identity, 0) + 1
        return taken

    def release(self, identities: Sequence[int]) -> int:
        """Let go of what was held; returns the blocks that became free. They stay until their room is needed."""
        freed = 0
        for identity in reversed(identities):
            if self._held[identity] > 1:
                self._held[identity] -= 1
                continue
            del self._held[identity]
            self._idle[identity] = None
            freed += self.blocks_each
        return freed

    def remember(self, identities: Sequence[int]) -> None:
        """Keep text that was computed though no prompt named it, such as an answer."""
        for identity in reversed(identities):
            if identity not in self._held:
                self._idle[identity] = None
                self._idle.move_to_end(identity)

    def shrink(self, free: int) -> None:
        """Forget what does not fit in ``free`` blocks, least recently used first."""
        while len(self._idle) * self.blocks_each > free:
            self._idle.popitem(last=False)

    @property
    def held_blocks(self) -> int:
        """Blocks that requests hold, each counted once."""
        return len(self._held) * self.blocks_each
