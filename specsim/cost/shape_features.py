"""What a learned residual sees of an operation: its sizes, and where they stand to tiles, multiprocessors and caches.

No bandwidth and no peak is among them, so a correction can not know them: a formula that more bandwidth or a higher
peak never slows stays so with its correction. Every function gives float32 of shape [features, rows].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from specsim.hardware import HardwareProfile

Rows32 = NDArray[np.float32]
Columns = Mapping[str, Any]

GEMM_TILES: Final = (
    *((16, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 128)),
    *((16, 128), (32, 128), (128, 192), (192, 128), (256, 256)),
)
GEMM_SIZES: Final = (*range(1, 7), *range(13, 18), *range(73, 78))
"""Features of a dense layer that tell one n and k from another, beyond how its tiles fill the multiprocessors."""
_MAX_SPLITS: Final = 32.0
_SPLIT_K: Final = 256.0
_KEYS_PER_BLOCK: Final = 128.0
MOST_HELD: Final = 3.0
"""Logarithm to base 2 of the bytes a loop goes through over the L2, at which all comes from memory for certain."""


def gemm_features(columns: Columns, device: HardwareProfile, held_over_l2: Any) -> Rows32:
    """Of a dense layer ``m, n, k``; ``held_over_l2`` are the weights of all copies over the L2's size.

    >>> from specsim.hardware import load_hardware
    >>> rows = {name: np.full(3, 512.0) for name in "mnk"}
    >>> gemm_features(rows, load_hardware("h100-sxm"), 8.0).shape
    (78, 3)
    """
    m, n, k = _as_rows(columns, ("m", "n", "k"))
    log_m, log_n, log_k = np.log2(m), np.log2(n), np.log2(k)
    found = [log_m, log_n, log_k, log_m + log_n, log_n + log_k, log_m + log_k, log_m + log_n + log_k]
    found += [_full(m, tile) for tile in (8, 16, 32, 64, 128, 256)]
    found += [_full(n, tile) for tile in (64, 128, 256)]
    found += [(m > edge).astype(np.float32) for edge in (64, 128, 192)]
    num_sms, most = np.float32(device.num_sms.value), np.clip(np.floor(k / _SPLIT_K), 1, _MAX_SPLITS)
    for tile_m, tile_n in GEMM_TILES:
        fill = np.ceil(m / tile_m) * np.ceil(n / tile_n) / num_sms
        splits = np.clip(np.floor(1 / fill), 1, most)
        found += [np.log2(fill), _last_wave(fill), np.log2(splits), _last_wave(fill * splits), np.log2(np.ceil(fill))]
    found += [_held(held_over_l2, m)]
    found += [_even(n, 128), _even(k, 128), _even(k, 64)]
    return np.stack(found)


def decode_features(columns: Columns, device: HardwareProfile, held_over_l2: Any) -> Rows32:
    """Of decode attention ``batch, q_len, context, n_heads, n_kv_heads, head_dim``; the cache's bytes over the L2's.

    >>> from specsim.hardware import load_hardware
    >>> rows = dict(batch=[1, 8], q_len=1, context=1023, n_heads=32, n_kv_heads=8, head_dim=128)
    >>> decode_features(rows, load_hardware("h100-sxm"), 8.0).shape
    (74, 2)
    """
    batch, q, context, heads, kv_heads, dim = _as_rows(columns, ATTENTION)
    keys, group, units = context + q, heads / kv_heads, batch * kv_heads
    found = [np.log2(x) for x in (batch, q, keys, heads, kv_heads, dim, group, units, units * keys, batch * heads)]
    found += [np.log2(units * keys * dim), np.log2(batch * heads * keys)]
    found += [_full(group * q, rows) for rows in (8, 16, 64)]
    found += [(x == 1).astype(np.float32) for x in (group, batch, kv_heads)]
    found += [(group > edge).astype(np.float32) for edge in (16, 32)]
    found += [(dim == size).astype(np.float32) for size in (64, 128, 192, 256, 512)]
    found += [np.log2(np.ceil(keys / rows)) for rows in (64, 128, 256)]
    blocks = np.ceil(keys / _KEYS_PER_BLOCK)
    for tiles in (units, batch * heads, units * np.ceil(group * q / 16)):
        for ctas in (1, 2, 4):
            fill = tiles / np.float32(device.num_sms.value * ctas)
            each = np.ceil(blocks / np.clip(np.floor(1 / fill), 1, blocks))
            splits = np.ceil(blocks / each)
            found += [_last_wave(fill), np.log2(np.ceil(fill)), np.log2(splits), _last_wave(fill * splits)]
            found += [np.log2(each)]
    return np.stack([*found, _held(held_over_l2, batch)])


ATTENTION: Final = ("batch", "q_len", "context", "n_heads", "n_kv_heads", "head_dim")


def _as_rows(columns: Columns, names: tuple[str, ...]) -> list[Rows32]:
    return [np.ravel(x) for x in np.broadcast_arrays(*(np.asarray(columns[n], dtype=np.float32) for n in names))]


def _full(x: Rows32, tile: float) -> Rows32:
    """Share of the tiles' rows that is used."""
    return np.asarray(x / (np.float32(tile) * np.ceil(x / np.float32(tile))))


def _last_wave(fill: Any) -> Rows32:
    """Share of the waves' places that is used."""
    return np.asarray(fill / np.ceil(fill), dtype=np.float32)


def _even(x: Rows32, step: float) -> Rows32:
    return np.asarray(np.mod(x, np.float32(step)) == 0, dtype=np.float32)


def _held(over_l2: Any, like: Rows32) -> Rows32:
    ratio = np.clip(np.asarray(over_l2, dtype=np.float32), 2.0**-MOST_HELD, 2.0**MOST_HELD)
    return np.asarray(np.broadcast_to(np.log2(ratio), like.shape))
