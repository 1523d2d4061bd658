"""CUDA graphs of a model's layers: on a GPU a small pass costs less than the launch of its hundred kernels one by one.

Not run on a GPU yet: what is tested is which size is taken, and that padding changes no number. A graph replays the
same kernels on the same memory, so that everything which differs from pass to pass is copied into buffers first, and
attention reads the whole cache, whose unused slots the mask hides.

Source: the steps of capture are those of PyTorch's notes on CUDA semantics (warm-up on a side stream, then capture).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import torch

SIZES: Final = (1, 2, 4, 8, 16, 32, 64)
"""New tokens per row that graphs are captured for; a pass takes the next larger, one beyond them runs as it is."""

WARM_UPS: Final = 3


@dataclass(frozen=True, eq=False)
class LayerInputs:
    """What the layers of one pass read.

    Attributes:
        x: ``[B, n, H]`` embeddings.
        cos, sin: ``[B or 1, 1, n, head_dim]``.
        slots: Where the keys and values of the new tokens go: a slice of the cache, or indices ``[n]``.
        seen: Additive mask ``[B or 1, 1, group * n, end]``, None where everything is seen.
        end: Slots of the cache that attention reads.
    """

    x: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    slots: slice | torch.Tensor
    seen: torch.Tensor | None
    end: int


Layers = Callable[[LayerInputs], torch.Tensor]


class Captured(Protocol):
    """A pass that can be run again on the same memory, and what it then leaves in ``output``."""

    output: torch.Tensor

    def replay(self) -> None:
        """Run it again."""


class CudaCaptured:
    """The pass as a CUDA graph."""

    def __init__(self, run: Callable[[], torch.Tensor]) -> None:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):  # writes what the replay will write again
                run()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=stream):
            self.output = run()

    def replay(self) -> None:
        self.graph.replay()


class Graphs:
    """The graphs of one model on one cache; another cache (or one that has grown or lost rows) begins anew.

    Args:
        group: Query heads that share a KV head.
        capture: Makes a graph of a pass.
        sizes: Rising token counts.
    """

    def __init__(
        self, group: int, capture: Callable[[Callable[[], torch.Tensor]], Captured] = CudaCaptured,
        sizes: tuple[int, ...] = SIZES,
    ) -> None:  # fmt: skip
        self.group, self.capture, self.sizes = group, capture, sizes
        self._memory: torch.Tensor | None = None
        self._held: dict[tuple[int, int, int], tuple[LayerInputs, Captured]] = {}

    def size_for(self, num_tokens: int, start: int, capacity: int) -> int | None:
        """The captured size that holds so many tokens from slot ``start`` on; None where none does.

        >>> Graphs(1).size_for(5, start=100, capacity=640), Graphs(1).size_for(65, start=0, capacity=640)
        (8, None)
        """
        return next((size for size in self.sizes if num_tokens <= size <= capacity - start), None)

    def run(self, layers: Layers, given: LayerInputs, memory: torch.Tensor) -> torch.Tensor | None:
        """What ``layers`` gives, ``[B, n, H]``, by a graph; None where no captured size fits.

        Args:
            layers: The model's, reading and writing ``memory``.
            given: With ``slots`` as a slice.
            memory: The cache ``[layer, 2, B, kv_head, slot, head_dim]``.
        """
        assert isinstance(given.slots, slice)
        num_tokens, start = given.x.shape[1], given.slots.start
        size = self.size_for(num_tokens, start, memory.shape[4])
        if size is None:
            return None
        if memory is not self._memory:
            self._memory, self._held = memory, {}
        whole = padded_to(given, size, memory.shape[4], self.group)
        assert whole.seen is not None
        key = size, whole.seen.shape[0], whole.cos.shape[0]
        if key not in self._held:
            self._held[key] = whole, self.capture(lambda: layers(whole))
        held, captured = self._held[key]
        _copy_into(held, whole)
        captured.replay()
        return captured.output[:, :num_tokens].clone()


def padded_to(given: LayerInputs, size: int, capacity: int, group: int) -> LayerInputs:
    """The same pass over ``size`` tokens and all slots of the cache.

    What is added writes to slots that nothing has used yet and sees everything, so that it stays finite; no token of
    the pass sees it.
    """
    assert isinstance(given.slots, slice)
    x, num_tokens, start = given.x, given.x.shape[1], given.slots.start
    more = size - num_tokens
    rows = 1 if given.seen is None else given.seen.shape[0]
    seen = x.new_zeros(rows, 1, group, size, capacity)
    seen[..., :num_tokens, given.end :] = float("-inf")
    if given.seen is not None:
        seen[..., :num_tokens, : given.end] = given.seen.reshape(rows, 1, group, num_tokens, -1)
    pad = torch.nn.functional.pad
    return LayerInputs(
        x=pad(x, (0, 0, 0, more)),
        cos=pad(given.cos, (0, 0, 0, more)),
        sin=pad(given.sin, (0, 0, 0, more)),
        slots=torch.arange(start, start + size, device=x.device),
        seen=seen.view(rows, 1, group * size, capacity),
        end=capacity,
    )


def _copy_into(held: LayerInputs, new: LayerInputs) -> None:
    for name in ("x", "cos", "sin", "slots", "seen"):
        if (source := getattr(new, name)) is not getattr(held, name):
            getattr(held, name).copy_(source)
