"""The work of a round: passes, host work, transfers; the operations a pass is made of; and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.errors import InputError

Role = Literal["target", "draft"]
PassKind = Literal["prefill", "decode", "draft", "verify"]
Float = NDArray[np.float64]

BOUNDS: Final = ("memory", "compute", "launch", "link", "host", "measured")
"""What can bound a piece of work, in the order of the last axis of ``Cost.by_bound``.

``measured`` is time that was timed as a whole and never taken apart (a fitted step, for instance).
"""


@dataclass(frozen=True)
class Pass:
    """One forward of one model over groups of alike sequences: the only unit of device work.

    Args:
        role: Which model runs.
        kind: What the pass is for; a prefill needs logits for the last token only, the others for every token.
        new_tokens: Tokens that each sequence feeds, shape [..., groups]; leading axes are a sweep.
        context_tokens: Tokens that each sequence already holds in its KV cache, same shape or broadcastable.
        num_seqs: Sequences in each group, same shape or broadcastable.
        nodes: The nodes of the round's draft tree that are fed; a world that only keeps time ignores them.

    >>> Pass("target", "verify", new_tokens=[5], context_tokens=[1024], num_seqs=[8]).total_new_tokens
    array(40.)
    """

    role: Role
    kind: PassKind
    new_tokens: Any
    context_tokens: Any
    num_seqs: Any = 1.0
    nodes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        least = {"new_tokens": 1, "context_tokens": 0, "num_seqs": 0}
        values = [np.array(getattr(self, name), dtype=float, ndmin=1) for name in least]
        if len({value.shape for value in values}) > 1:
            try:  # one shape for all three, or a group that only the context tells apart would not be counted
                values = list(np.broadcast_arrays(*values))
            except ValueError:
                got = [v.shape for v in values]
                raise InputError(", ".join(least), "must have shapes that broadcast", got) from None
        for name, value in zip(least, values, strict=True):
            if not (value >= least[name]).all():
                raise InputError(name, f"must be >= {least[name]}", float(np.min(value)))
            object.__setattr__(self, name, value)

    @property
    def total_new_tokens(self) -> Float:
        """Tokens in the pass, all sequences together, shape [...]."""
        return np.asarray(np.sum(self.new_tokens * self.num_seqs, axis=-1))

    @property
    def logit_tokens(self) -> Float:
        """Positions whose logits are computed, shape [...]."""
        if self.kind != "prefill":
            return self.total_new_tokens
        return np.asarray(np.sum(self.num_seqs, axis=-1))


@dataclass(frozen=True)
class HostWork:
    """Work of the host that the device waits for: once per engine step, per speculative round, or per draft pass.

    ``num_nodes`` is how many nodes of the tree it handles; a world may charge for them or not.
    """

    kind: Literal["step", "round", "draft"]
    num_nodes: int = 1


@dataclass(frozen=True)
class Transfer:
    """Bytes over a named link between two devices."""

    num_bytes: float
    link: str = "network"


Work = Pass | HostWork | Transfer


@dataclass(frozen=True)
class Gemm:
    """``m`` tokens times a weight of ``k`` inputs by ``n`` outputs."""

    m: Any
    n: float
    k: float
    dtype: str
    weight_bits: float
    act_bytes: float = 2.0
    launches: int = 1
    name: str = "gemm"

    @property
    def flops(self) -> Any:
        return 2.0 * self.m * self.n * self.k

    @property
    def bytes(self) -> Any:
        """Weights once, activations in and out once."""
        return self.n * self.k * self.weight_bits / 8 + self.m * (self.n + self.k) * self.act_bytes


@dataclass(frozen=True)
class AttentionCall:
    """The columns of a measured attention call.

    Args:
        num_seqs, new_tokens, context_tokens: Of groups of alike sequences, shape [..., groups].
        num_heads, num_kv_heads: On one device; a latent cache is one KV head that all query heads share.
        head_dim: Elements of a head.
        kv_dtype: Of the cache.
        window_tokens: Keys that a query sees at most, itself included; None is all.
        kv_width: Elements cached per token and KV head, keys and values together.
        flop_width: Multiply-adds per query head and key: scores and weighted values.
    """

    num_seqs: Float
    new_tokens: Float
    context_tokens: Float
    num_heads: float
    num_kv_heads: float
    head_dim: float
    kv_dtype: str
    window_tokens: int | None
    kv_width: float
    flop_width: float


@dataclass(frozen=True)
class Attention:
    """Queries of a pass against the KV cache: one pass over each sequence's KV serves all of its queries.

    ``query_keys`` counts pairs (query, key attended) and ``kv_tokens`` keys read, both summed over the sequences;
    ``flops_per_pair`` and ``bytes_per_kv_token`` carry heads and head sizes (GQA and MLA differ only there). These are
    the counts; ``call`` is what was counted, as measured tables of attention write it.
    """

    query_keys: Any
    kv_tokens: Any
    flops_per_pair: float
    bytes_per_kv_token: float
    dtype: str
    call: AttentionCall
    launches: int = 1
    name: str = "attention"

    @property
    def flops(self) -> Any:
        return self.query_keys * self.flops_per_pair

    @property
    def bytes(self) -> Any:
        return self.kv_tokens * self.bytes_per_kv_token


@dataclass(frozen=True)
class Experts:
    """Routed experts of one layer: each token visits ``top_k`` of ``num_experts``; an expert is read if visited.

    Each is ``num_matrices`` (3 gated, 2 not) of ``hidden`` by ``inter`` weights, of which this device holds its share.
    ``launches``: routing, sorting, two grouped products, and the weighted sum.
    """

    m: Any
    num_experts: float
    top_k: float
    hidden: float
    inter: float
    num_matrices: int
    dtype: str
    weight_bits: float
    launches: int = 5
    name: str = "experts"

    @property
    def params_per_expert(self) -> float:
        """Weights of one expert on this device."""
        return self.num_matrices * self.hidden * self.inter

    @property
    def distinct(self) -> Any:
        """Expected experts visited under balanced, independent routing: E (1 - (1 - k/E)^m)."""
        return self.num_experts * (1.0 - (1.0 - self.top_k / self.num_experts) ** self.m)

    @property
    def flops(self) -> Any:
        return 2.0 * self.m * self.top_k * self.params_per_expert

    @property
    def bytes(self) -> Any:
        return self.distinct * self.params_per_expert * self.weight_bits / 8


@dataclass(frozen=True)
class Elementwise:
    """Norms, rotary embedding, activation, residual add: bytes that move, FLOPs that do not count."""

    num_bytes: Any
    launches: int = 1
    name: str = "elementwise"
    flops: float = 0.0

    @property
    def bytes(self) -> Any:
        return self.num_bytes


@dataclass(frozen=True)
class AllReduce:
    """Sum of ``message_bytes`` over ``num_devices``; a ring moves 2 (n - 1) / n of the message over each link."""

    message_bytes: Any
    num_devices: int
    launches: int = 1
    name: str = "all-reduce"
    flops: float = 0.0

    @property
    def bytes(self) -> Any:
        return 2.0 * (self.num_devices - 1) / self.num_devices * self.message_bytes


Op = Gemm | Attention | Experts | Elementwise | AllReduce


@dataclass(frozen=True)
class Cost:
    """Time, FLOPs and bytes of some work, with what bounds it.

    Args:
        flops: Floating-point operations per device, one multiply-add counted as two, shape [...].
        bytes: Bytes moved through the memory of one device, shape [...].
        by_bound: Seconds by what bounds them, shape [..., len(BOUNDS)]; their sum is the time.
        var_s2: Variance of the time that is this work's own and shared with no other, shape [...].
        errors: Seconds by which one standard deviation of an error shifts the time, by the error's name. The same name
            is the same error wherever it comes, different names are independent.

    Each bound has one shared, unknown multiplier (an efficiency that is off, a slower launch), the same for all work on
    the device. So ``by_bound`` is also the gradient of the time to the logarithms of these multipliers: errors that
    both sides of a speed-up share cancel in ``log_ratio_variance``, and add in a sum.
    """

    flops: Float
    bytes: Float
    by_bound: Float
    var_s2: Float = field(default_factory=lambda: np.zeros(()))
    errors: Mapping[str, Float] = field(default_factory=dict)

    @property
    def time_s(self) -> Float:
        """Seconds, shape [...]."""
        return np.asarray(np.sum(self.by_bound, axis=-1))

    @property
    def bound(self) -> NDArray[np.str_]:
        """The name of what takes most of the time, shape [...]."""
        names: NDArray[np.str_] = np.asarray(BOUNDS)
        return np.asarray(names[np.argmax(self.by_bound, axis=-1)])

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.flops + other.flops,
            self.bytes + other.bytes,
            self.by_bound + other.by_bound,
            self.var_s2 + other.var_s2,
            merged_errors((self.errors, other.errors)),
        )

    def scaled(self, count: float) -> Cost:
        """``count`` repetitions, their own errors moving together."""
        errors = {name: seconds * count for name, seconds in self.errors.items()}
        return Cost(self.flops * count, self.bytes * count, self.by_bound * count, self.var_s2 * count**2, errors)

    def log_variance(self, log_sd: Float) -> Float:
        """Variance of log(time), shape [...]; ``log_sd[len(BOUNDS)]`` of the shared multipliers."""
        shares = self.by_bound / self.time_s[..., None]
        own = self.var_s2 + sum(seconds**2 for seconds in self.errors.values())
        return np.asarray(np.sum((shares * log_sd) ** 2, axis=-1) + own / self.time_s**2)

    def log_ratio_variance(self, other: Cost, log_sd: Float) -> Float:
        """Variance of log(self / other): what both owe to the same multiplier or error cancels.

        >>> half = Cost(*np.zeros((2, 1)), np.array([[1.0, 0, 0, 0, 0, 0]]))
        >>> float(half.log_ratio_variance(half + half, np.full(6, 0.1))[0])
        0.0
        """
        shares = self.by_bound / self.time_s[..., None] - other.by_bound / other.time_s[..., None]
        own = self.var_s2 / self.time_s**2 + other.var_s2 / other.time_s**2
        for name in self.errors.keys() | other.errors.keys():
            own = own + (self.errors.get(name, 0.0) / self.time_s - other.errors.get(name, 0.0) / other.time_s) ** 2
        return np.asarray(np.sum((shares * log_sd) ** 2, axis=-1) + own)


def by_bound(shape: tuple[int, ...], **parts: ArrayLike) -> Float:
    """The ``Cost.by_bound`` array with the named parts filled in.

    >>> by_bound((), memory=2.0, launch=0.5).tolist()
    [2.0, 0.0, 0.5, 0.0, 0.0, 0.0]
    """
    result = np.zeros((*shape, len(BOUNDS)))
    for name, seconds in parts.items():
        result[..., BOUNDS.index(name)] = seconds
    return result


def merged_errors(several: Iterable[Mapping[str, Float]]) -> dict[str, Float]:
    """The errors of a sum: those of one name add up.

    >>> merged_errors(({"a": np.array(1.0)}, {"a": np.array(2.0), "b": np.array(1.0)}))
    {'a': array(3.), 'b': array(1.)}
    """
    result: dict[str, Float] = {}
    for errors in several:
        for name, seconds in errors.items():
            result[name] = np.asarray(result[name] + seconds) if name in result else seconds
    return result


def no_cost() -> Cost:
    """The cost of doing nothing."""
    return Cost(np.zeros(()), np.zeros(()), by_bound(()))


def total(costs: Sequence[Cost]) -> Cost:
    """The sum of one or more costs."""
    return reduce(add, costs)
