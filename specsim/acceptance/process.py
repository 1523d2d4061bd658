"""A synthetic world: few numbers from which the draft and target laws after any text follow, by the same rules always.

A text is a node of an endless tree. Every node has a key, mixed from its parent's key and its token; all that is
random about the node is read from the key, so a node asked twice answers the same, and nothing need be kept::

    regime(node)     easy or hard, a Markov chain from parent to child
    exponent(node)   s = sharpness exp(regime_gap (easy - easy_share) + sharpness_sd z + request_sd u(request))
    target law       proportional to i**(-s / T) over tokens i = 1 .. vocab_size, T the temperature
    draft law        proportional to i**(-calibration s / T) exp(noise_i / T)
    noise_i          divergence exp(divergence_sd z') (1 + decay depth) times a standard normal of its own

Depth counts from the root of the round, so a drafter that feeds on its own output drifts. The ``num_candidates`` most
probable target tokens have names, 0 the best; the others are two lumps, what the drafter and what the target would
take of them, which never agree: the overlap in the tail is left out.

The laws are an assumption (Zipf 1949 for their shape); the rest are the few causes that recorded rounds show: see
``process_fit`` for how well they do.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from specsim.documents import Document
from specsim.errors import InputError

Float = NDArray[np.float32]
Ids = NDArray[np.int64]

NUM_NODE_TYPES: Final = 1 << 14
"""Rows of the table that keys look their normals up in: the noise of a mean over it is below 1 %."""

_TABLE_SEED: Final = 20_251_121
_BLOCK: Final = 1 << 10
_SHARPEST: Final = 60.0
"""Exponents end here: the best token then has all the mass that a float32 can tell."""


class TokenProcess(Document):
    """The numbers behind the synthetic world.

    Attributes:
        sharpness: Median exponent of the target's law at temperature 1; 2 gives the best token 0.6, 4 gives it 0.9.
        sharpness_sd: Spread of its logarithm from token to token, independently.
        regime_gap: Difference of its logarithm between easy and hard stretches of text.
        easy_share: Share of easy tokens.
        persistence: Correlation of the regime from token to token.
        divergence: Spread of the drafter's log-probabilities about the target's.
        divergence_sd: Spread of that spread's logarithm from token to token.
        calibration: The drafter's exponent over the target's: above 1 it is too sure.
        decay: Growth of the divergence for each level below the root, relative to that at the root.
        request_sd: Spread of the logarithm of the exponent from request to request.
        num_candidates: Tokens with names.
        vocab_size: All tokens.
    """

    sharpness: Annotated[float, Field(ge=0.1, le=40)] = 2.5
    sharpness_sd: Annotated[float, Field(ge=0, le=3)] = 0.5
    regime_gap: Annotated[float, Field(ge=0, le=4)] = 0.8
    easy_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    persistence: Annotated[float, Field(ge=0, lt=1)] = 0.7
    divergence: Annotated[float, Field(ge=0, le=12)] = 1.0
    divergence_sd: Annotated[float, Field(ge=0, le=2)] = 0.5
    calibration: Annotated[float, Field(gt=0, le=4)] = 1.0
    decay: Annotated[float, Field(ge=0, le=2)] = 0.0
    request_sd: Annotated[float, Field(ge=0, le=2)] = 0.15
    num_candidates: Annotated[int, Field(ge=2, le=1024)] = 16
    vocab_size: Annotated[int, Field(ge=4)] = 32_000

    @property
    def law_size(self) -> int:
        """Entries of a law: the candidates, the drafter's lump, the target's lump."""
        return self.num_candidates + 2

    @property
    def regime_steps(self) -> NDArray[np.float64]:
        """``[from, to]`` probabilities of the regime's step, hard first."""
        stay, share = self.persistence, np.array([1 - self.easy_share, self.easy_share])
        return np.asarray(stay * np.eye(2) + (1 - stay) * share)


@dataclass(frozen=True, eq=False)
class TextNodes:
    """Nodes of the text, arrays of one shape ``[...]``.

    Attributes:
        key: All that is random about each but its regime, uint64.
        is_easy: Regime.
        offset: Standard normal of its request.
        depth: Levels below the root of the round.
    """

    key: NDArray[np.uint64]
    is_easy: NDArray[np.bool_]
    offset: Float
    depth: Ids

    def at(self, index: Any) -> TextNodes:
        """Some of them."""
        return TextNodes(self.key[index], self.is_easy[index], self.offset[index], self.depth[index])

    def as_roots(self) -> TextNodes:
        """The same nodes as roots of the next round."""
        return TextNodes(self.key, self.is_easy, self.offset, np.zeros_like(self.depth))


def first_roots(process: TokenProcess, rng: np.random.Generator, num_requests: int) -> TextNodes:
    """A root for each request, regime and request drawn from what is usual in the text.

    >>> roots = first_roots(TokenProcess(), np.random.default_rng(0), 3)
    >>> same, again = (children_of(TokenProcess(), roots, np.array([0, 1, 0])) for _ in range(2))
    >>> (same.key == again.key).all(), roots.depth.tolist(), same.depth.tolist()
    (np.True_, [0, 0, 0], [1, 1, 1])
    """
    if num_requests < 1:
        raise InputError("num_requests", "must be >= 1", num_requests)
    key = rng.integers(0, 1 << 64, size=num_requests, dtype=np.uint64)
    is_easy = rng.random(num_requests) < process.easy_share
    offset = rng.standard_normal(num_requests).astype(np.float32)
    return TextNodes(key, is_easy, offset, np.zeros(num_requests, dtype=np.int64))


def children_of(process: TokenProcess, parents: TextNodes, tokens: Ids) -> TextNodes:
    """The child of each parent that holds the token ``tokens[...]``."""
    key = _mixed(parents.key + (tokens.astype(np.uint64) + np.uint64(1)) * _STRIDE)
    chance_easy = process.regime_steps[:, 1].astype(np.float32)
    uniform = (key & _LOW).astype(np.float32) * np.float32(2.0**-32)
    is_easy = uniform < np.where(parents.is_easy, chance_easy[1], chance_easy[0])
    return TextNodes(key, is_easy, parents.offset, parents.depth + 1)


def target_laws(process: TokenProcess, nodes: TextNodes, temperature: float = 1.0) -> Float:
    """Law of the token after each node, ``[..., V]``; at temperature 0 all mass is on token 0.

    >>> nodes = first_roots(process := TokenProcess(), np.random.default_rng(0), 5)
    >>> bool(np.allclose(target_laws(process, nodes).sum(-1), 1)), process.law_size
    (True, 18)
    """
    laws = np.zeros((*nodes.key.shape, process.law_size), dtype=np.float32)
    if temperature == 0:
        laws[..., 0] = 1
        return laws
    drawn = _rows(process, nodes)
    exponent = _exponents(process, nodes.is_easy, nodes.offset, drawn[..., -2]) / np.float32(temperature)
    laws[..., :-2], laws[..., -1] = zipf_laws(process, exponent, None)
    return laws


def draft_laws(process: TokenProcess, nodes: TextNodes, temperature: float = 1.0, *, with_tail: bool = True) -> Float:
    """What the drafter gives after each node, ``[..., V]``.

    Args:
        process: The world.
        nodes: Where.
        temperature: Above 0.
        with_tail: Show the drafter's lump, which a draw may hit. A policy that takes the most probable tokens must not
            see it: it is no token. The law then sums to less than 1.
    """
    if temperature <= 0:
        raise InputError("temperature", "must be > 0 for a draft law", temperature)
    drawn = _rows(process, nodes)
    exponent = _exponents(process, nodes.is_easy, nodes.offset, drawn[..., -2])
    noise = _noise(process, drawn, nodes.depth) / np.float32(temperature)
    laws = np.zeros((*nodes.key.shape, process.law_size), dtype=np.float32)
    scaled = np.minimum(exponent * np.float32(process.calibration), _SHARPEST) / np.float32(temperature)
    laws[..., :-2], tail = zipf_laws(process, scaled, noise)
    if with_tail:
        laws[..., -2] = tail
    return laws


def node_types(process: TokenProcess, num: int = NUM_NODE_TYPES) -> Float:
    """Normals of every kind of node there is, ``[num, candidates + 2]``: the noise, then of exponent and divergence."""
    return _table(process.num_candidates)[:num]


def laws_of_types(
    process: TokenProcess, types: Float, is_easy: bool, offset: float, depth: int, temperature: float = 1.0
) -> tuple[Float, Float, Float, Float]:
    """Laws of nodes given by their normals, for exact means over them: those of ``draft_laws`` and ``target_laws``.

    Returns:
        Draft law of the candidates ``[num, K]`` and of its lump ``[num]``, and the same of the target.
    """
    exponent = _exponents(process, np.array(is_easy), np.float32(offset), types[:, -2])
    noise = _noise(process, types, np.array(depth)) / np.float32(temperature)
    scaled = np.minimum(exponent * np.float32(process.calibration), _SHARPEST) / np.float32(temperature)
    return *zipf_laws(process, scaled, noise), *zipf_laws(process, exponent / np.float32(temperature), None)


def zipf_laws(process: TokenProcess, exponent: Float, noise: Float | None) -> tuple[Float, Float]:
    """Law of the candidates ``[..., K]`` and of all others ``[...]``, proportional to ``i**-exponent exp(noise_i)``."""
    weights = -exponent[..., None] * _log_ranks(process.num_candidates)
    if noise is None:
        weights = np.exp(weights, out=weights)
        tail = np.exp(_log_tail(process, exponent))
    else:
        weights += noise
        largest = weights.max(axis=-1)
        weights -= largest[..., None]
        weights = np.exp(weights, out=weights)
        tail = np.exp(_log_tail(process, exponent) - largest)
    total = weights.sum(axis=-1) + tail
    weights /= total[..., None]
    return weights, tail / total


def _log_tail(process: TokenProcess, exponent: Float) -> Float:
    """Logarithm of the integral of ``x**-exponent`` over the ranks after the candidates, bounds between ranks."""
    begin, end = process.num_candidates + 0.5, max(process.vocab_size, process.num_candidates + 1) + 0.5
    log_ratio = np.float32(np.log(end / begin))
    slope = (exponent - 1) * log_ratio
    slope = np.where(np.abs(slope) < 1e-4, np.float32(1e-4), slope)
    return np.asarray((1 - exponent) * np.float32(np.log(begin)) + np.log(log_ratio * -np.expm1(-slope) / slope))


def _exponents(process: TokenProcess, is_easy: NDArray[np.bool_], offset: Any, normal: Float) -> Float:
    regime = np.where(is_easy, 1 - process.easy_share, -process.easy_share).astype(np.float32)
    log = np.float32(process.regime_gap) * regime + np.float32(process.request_sd) * offset
    log = log + np.float32(process.sharpness_sd) * normal
    return np.asarray(np.minimum(np.float32(process.sharpness) * np.exp(log), np.float32(_SHARPEST)))


def _noise(process: TokenProcess, drawn: Float, depth: Ids) -> Float:
    scale = np.float32(process.divergence) * np.exp(np.float32(process.divergence_sd) * drawn[..., -1])
    scale = scale * (1 + np.float32(process.decay) * depth.astype(np.float32))
    return np.asarray(scale[..., None] * drawn[..., :-2])


def _rows(process: TokenProcess, nodes: TextNodes) -> Float:
    # The regime reads the low half of the key, this the high one.
    index = (nodes.key >> np.uint64(40)).astype(np.int64) & (NUM_NODE_TYPES - 1)
    rows: Float = _table(process.num_candidates)[index]
    return rows


@lru_cache(maxsize=8)
def _table(num_candidates: int) -> Float:
    """Standard normals, in blocks that each have mean 0 and variance 1, and even quantiles in the last two columns.

    So a few blocks are already much like the whole.
    """
    rng = np.random.default_rng(_TABLE_SEED)
    table = rng.standard_normal((NUM_NODE_TYPES // _BLOCK, _BLOCK, num_candidates + 2))
    table = (table - table.mean(axis=1, keepdims=True)) / table.std(axis=1, keepdims=True)
    even = np.array([NormalDist().inv_cdf((i + 0.5) / _BLOCK) for i in range(_BLOCK)])
    for column in (-2, -1):
        table[..., column] = rng.permuted(np.broadcast_to(even / even.std(), table.shape[:2]), axis=1)
    flat: Float = table.reshape(NUM_NODE_TYPES, -1).astype(np.float32)
    flat.flags.writeable = False
    return flat


@lru_cache(maxsize=8)
def _log_ranks(num_candidates: int) -> Float:
    return np.asarray(np.log(np.arange(1, num_candidates + 1)), dtype=np.float32)


_STRIDE: Final = np.uint64(0x9E3779B97F4A7C15)
_LOW: Final = np.uint64(0xFFFFFFFF)


def _mixed(key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014): every bit of the key moves every bit of the result."""
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = key ^ (key >> np.uint64(31))
    return mixed
