"""What a batch of texts has computed so far: keys and values, and which of them a new token sees."""

from __future__ import annotations

import torch


class KvCache:
    """Keys and values ``kv[layer, 2, row, kv_head, slot, head_dim]`` of B texts.

    Row b's text lies in slots ``0 .. lengths[b]`` without holes. New tokens of all rows are appended side by side from
    slot ``end`` on, for every row the same, so that a pass writes one block; slots from ``text_end`` (the longest text)
    to ``end`` are the round's. ``keep`` then moves what each row accepted to the end of its own text.

    It grows when it is full: ``max_tokens`` is what is laid out at once.
    """

    def __init__(
        self, size: tuple[int, int, int], num_rows: int, max_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        num_layers, num_kv_heads, head_dim = size
        shape = (num_layers, 2, num_rows, num_kv_heads, max_tokens, head_dim)
        self.kv = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = [0] * num_rows
        self.text_end = self.end = 0

    @property
    def capacity(self) -> int:
        return self.kv.shape[4]

    @property
    def is_even(self) -> bool:
        """Are all texts of one length, so that every cached slot is seen by every row."""
        return min(self.lengths) == self.text_end

    def append(self, num_tokens: int) -> tuple[int, int]:
        """First slot and end of the block that ``num_tokens`` new tokens of each row take."""
        start, self.end = self.end, self.end + num_tokens
        if self.end > self.capacity:
            more = torch.zeros_like(self.kv[:, :, :, :, :1]).expand(*self.kv.shape[:4], self.end, self.kv.shape[5])
            self.kv = torch.cat([self.kv, more], dim=4)
        return start, self.end

    def keep(self, slots: list[list[int]]) -> None:
        """Add each row's rising ``slots`` of the round to its text, and forget the rest of the round."""
        moves = [
            (row, slot, self.lengths[row] + place)
            for row, kept in enumerate(slots)
            for place, slot in enumerate(kept)
            if slot != self.lengths[row] + place
        ]
        if moves:
            rows, sources, places = torch.tensor(moves).T.to(self.kv.device)
            self.kv[:, :, rows, :, places] = self.kv[:, :, rows, :, sources]
        self.rewind([length + len(kept) for length, kept in zip(self.lengths, slots, strict=True)])

    def rewind(self, lengths: list[int]) -> None:
        """Texts of these lengths and nothing else: forgets the round, and any text beyond."""
        self.lengths = lengths
        self.text_end = self.end = max(lengths)

    def keep_rows(self, rows: list[int]) -> None:
        """Only these rows go on."""
        self.kv = self.kv[:, :, rows]
        self.rewind([self.lengths[row] for row in rows])


class TailMask:
    """Who sees whom among the newest tokens: ``seen[R, n, t]``, of n new tokens over the newest t slots, R is B or 1.

    All of a row's text is seen, and ``t`` must reach back to the first slot of the round. For rows of one length the
    zeros over the text are laid out once; a longer text is a wider view of the same memory.
    """

    def __init__(self, seen: torch.Tensor) -> None:
        self.seen = seen
        self._tail: torch.Tensor | None = None
        self._even: torch.Tensor | None = None
        self._group = 0

    def over(self, cache: KvCache, group: int) -> torch.Tensor:
        """Additive mask ``[R, 1, group * n, cache.end]`` for the pass whose tokens were just appended."""
        if self._tail is None or self._tail.dtype != cache.kv.dtype:
            tail = torch.zeros(self.seen.shape, dtype=cache.kv.dtype, device=self.seen.device)
            self._tail, self._even = tail.masked_fill_(~self.seen, float("-inf")), None
        if not cache.is_even:
            num_rows = len(cache.lengths)
            text = text_mask(cache, cache.end - self.seen.shape[2])[:, None].expand(-1, self.seen.shape[1], -1)
            return torch.cat([text, self._tail.expand(num_rows, -1, -1)], dim=2).repeat(1, group, 1)[:, None]
        if self._even is None or self._even.shape[3] < cache.end or self._group != group:
            rows, new, tail_slots = self.seen.shape
            zeros = self._tail.new_zeros(rows, new, max(cache.capacity, cache.end) - tail_slots)
            self._even, self._group = torch.cat([zeros, self._tail], dim=2).repeat(1, group, 1)[:, None], group
        view = self._even[..., self._even.shape[3] - cache.end :]
        # Attention kernels of a GPU read masks in aligned words and check strides only, not where a view begins.
        return view if view.device.type == "cpu" else view.clone(memory_format=torch.contiguous_format)


def text_mask(cache: KvCache, num_slots: int) -> torch.Tensor:
    """Additive ``[B, num_slots]``: each row sees its own text."""
    slots = torch.arange(num_slots, device=cache.kv.device)
    lengths = torch.tensor(cache.lengths, device=cache.kv.device)
    mask = torch.zeros(len(cache.lengths), num_slots, dtype=cache.kv.dtype, device=cache.kv.device)
    return mask.masked_fill_(slots >= lengths[:, None], float("-inf"))


def round_mask(cache: KvCache, group: int) -> torch.Tensor | None:
    """Additive ``[B, 1, group, cache.end]`` for one new token per row that sees its text and all of the round."""
    if cache.is_even:
        return None
    text = text_mask(cache, cache.text_end)
    mask = torch.cat([text, text.new_zeros(text.shape[0], cache.end - cache.text_end)], dim=1)
    return mask[:, None, None].expand(-1, 1, group, -1)
