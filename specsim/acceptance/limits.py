"""The speed of light: the most draft tokens that a target can accept from a drafter that draws nothing at random.

A deterministic drafter picks P nodes, closed under ancestors, before the target's tokens are drawn. Every lossless
rule accepts a node with at most the target's probability ``pi`` of the path to it, and following the target's own
sample reaches that, so the best P nodes are the P largest ``pi`` and ``E[X*_P]`` is their sum. With ``S_n = -log pi``
along the target's own text, that sum is a renewal count, hence the closed forms below; logarithms are natural.

Source: our derivation; the question, and a looser bound (``published_bound``), are of Pankratov & Alistarh 2025
(arXiv:2512.11718). Not covered, see ``NOT_COVERED``.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.errors import InputError

Array = NDArray[np.float64]
Path = tuple[int, ...]
LawAfter = Callable[[Path], Array]

NOT_COVERED: Final = (
    "Sampled drafts are not bound by it: they share randomness with the target through the rejection rule.",
    "Lossy rules (typical acceptance, leniency, margins) are not bound by it.",
    "It is per target pass: asynchronous drafting changes time, not tokens; branches kept from an earlier round are "
    "outside.",
)
"""What the limit does not speak of; printed beside every number."""


@dataclass(frozen=True, eq=False)
class BestTree:
    """The P best nodes for every P.

    Attributes:
        accepted: ``[P]`` expected accepted draft tokens with P drafted, from P = 0.
        paths: Nodes in the order in which they are drafted: the first P of them are the tree of size P.
    """

    accepted: Array
    paths: tuple[Path, ...]


def optimum(law_after: LawAfter, num_drafted: int, target_after: LawAfter | None = None) -> BestTree:
    """The trees of the largest path probabilities, for P from 0 to ``num_drafted``, by best-first search.

    Args:
        law_after: Next-token law after a path of tokens from the root: the target's own for the limit, a drafter's for
            the best tree that this drafter could know of.
        num_drafted: Largest P.
        target_after: What accepts, where the drafter's law is another.

    Raises:
        InputError: for a negative number of nodes.

    >>> optimum(lambda path: np.array([0.6, 0.4]), 3).accepted.round(2).tolist()  # .6, .4, .36
    [0.0, 0.6, 1.0, 1.36]
    """
    if num_drafted < 0:
        raise InputError("num_drafted", "must be >= 0", num_drafted)
    # A heap entry is a candidate: its path probability, then its parent's order of tokens and its place in there.
    # The next sibling and the first child of what is taken are the only new candidates, so two per node drafted.
    order, law = _sorted_law(law_after, ())
    heap: list[Any] = [(-law[0], 0, (), 1.0, order, law, 0)]
    paths: list[Path] = []
    gains: list[float] = []
    serial = 0
    judged: dict[Path, float] = {(): 1.0}
    while heap and len(paths) < num_drafted:
        minus, _, parent, base, order, law, place = heapq.heappop(heap)
        path = (*parent, int(order[place]))
        paths.append(path)
        if target_after is None:
            gains.append(-minus)
        else:
            judged[path] = judged[parent] * float(target_after(parent)[path[-1]])
            gains.append(judged[path])
        if place + 1 < len(order):
            serial += 1
            heapq.heappush(heap, (-base * law[place + 1], serial, parent, base, order, law, place + 1))
        own_order, own_law = _sorted_law(law_after, path)
        serial += 1
        heapq.heappush(heap, (minus * own_law[0], serial, path, -minus, own_order, own_law, 0))
    accepted = np.concatenate(([0.0], np.cumsum(gains)))
    return BestTree(accepted, tuple(paths))


def _sorted_law(law_after: LawAfter, path: Path) -> tuple[NDArray[np.int64], Array]:
    law = np.asarray(law_after(path), dtype=np.float64)
    order = np.argsort(-law, kind="stable")
    return order, law[order]


def entropy_moments(laws: ArrayLike) -> tuple[float, float]:
    """``mu`` and ``mu2``: mean entropy of the laws ``[..., V]``, and their mean second moment of surprisal, nats.

    >>> mu, mu2 = entropy_moments([0.5, 0.5])
    >>> round(mu, 4), round(mu2, 4)
    (0.6931, 0.4805)
    """
    p = np.asarray(laws, dtype=np.float64)
    log = np.log(np.maximum(p, 1e-300))
    return float(-(p * log).sum(-1).mean()), float((p * log**2).sum(-1).mean())


LEAST_NATS = 1e-9
"""Below it a target is as good as certain, and its limit beyond any number of draft tokens."""


def ceiling_iid(mu: float, mu2: float, num_drafted: ArrayLike) -> Array:
    """No more than this is accepted, for every P >= 1, where nodes' laws are drawn independently of each other.

    ``(mu log P + mu2) / mu**2``: Wald's identity and Lorden's bound on the overshoot of a renewal walk.

    Args:
        mu: Mean entropy of the target's next-token law, nats, above 0.
        mu2: Its mean second moment of surprisal, at least ``mu**2``.
        num_drafted: P, any shape.

    >>> ceiling_iid(0.860, 3.31, [4, 4096]).round(2).tolist()
    [6.09, 14.15]
    """
    log_p = _log_drafted(mu, mu2, num_drafted)
    return np.asarray((mu * log_p + mu2) / mu**2)


def asymptote(mu: float, mu2: float, num_drafted: ArrayLike) -> Array:
    """What ``E[X*_P]`` approaches for large P: ``(log P + log mu) / mu + mu2 / (2 mu**2) - 1``, arguments as above.

    For laws whose surprisals are not all multiples of one number; uniform laws oscillate about it.

    >>> asymptote(0.860, 3.31, 4096).round(1).item()
    10.7
    """
    log_p = _log_drafted(mu, mu2, num_drafted)
    return np.asarray((log_p + np.log(mu)) / mu + mu2 / (2 * mu**2) - 1)


def published_bound(mu: float, mu2: float, num_drafted: ArrayLike) -> Array:
    """``(mu + mu2) log P / mu**2``, a reference line: as published, without its unknown constant.

    Its slope is ``1 + mu2 / mu`` times the true one. Source: arXiv:2512.11718, abstract.
    """
    return np.asarray((mu + mu2) * _log_drafted(mu, mu2, num_drafted) / mu**2)


def _log_drafted(mu: float, mu2: float, num_drafted: ArrayLike) -> Array:
    if not LEAST_NATS <= mu < 1 / LEAST_NATS:
        raise InputError("mu", f"must be from {LEAST_NATS:g} nats on: a target without entropy has no limit", mu)
    if not mu**2 * (1 - 1e-9) <= mu2 < np.inf:
        raise InputError("mu2", f"must be >= {mu**2:g}, the square of mu", mu2)
    drafted = np.asarray(num_drafted, dtype=np.float64)
    if not (drafted >= 1).all():
        raise InputError("num_drafted", "must be >= 1", float(drafted.min()))
    return np.asarray(np.log(drafted))


def surprisal_moments(texts: Sequence[ArrayLike]) -> tuple[float, float]:
    """``mu`` and ``mu2`` from surprisals of sampled text: their mean and mean square."""
    all_of_them = np.concatenate([np.asarray(text, dtype=np.float64) for text in texts])
    return float(all_of_them.mean()), float((all_of_them**2).mean())


@dataclass(frozen=True, eq=False)
class LimitEstimate:
    """The limit from logged surprisals.

    Attributes:
        num_drafted: ``[i]`` P.
        accepted: ``[i]`` bound on the expected accepted draft tokens.
        standard_error: ``[i]`` of it, over texts; None for a single text.
        threshold: ``[i]`` best threshold t, nats.
        num_texts, num_windows: What it rests on.
        horizon: Tokens of each window.
        cut_share: ``[i]`` share of windows whose surprisal had not passed t at their end: what they would still have
            accepted is bounded, not seen.
    """

    num_drafted: NDArray[np.int64]
    accepted: Array
    standard_error: Array | None
    threshold: Array
    num_texts: int
    num_windows: int
    horizon: int
    cut_share: Array


def limit_from_logprobs(
    texts: Sequence[ArrayLike], num_drafted: ArrayLike, horizon: int | None = None, grid: int = 600
) -> LimitEstimate:
    """``E[X*_P] <= min over t of P e^-t + E sum_n (1 - e^(S_n - t))_+``, from one pass over the target's own texts.

    By Lagrangian duality; nothing is assumed of the laws. It is the optimum where the number of nodes may vary from
    round to round with mean P, so it bounds what P nodes in every round can do. Windows start at every token. Beyond
    the horizon h no surprisal is seen; a tree of P nodes is at most P deep and S only grows, so at most ``(P - h)_+``
    times the window's last term is added. Each term is in [0, 1]. Minimising over t on the same texts reads low by
    less than the standard error.

    Args:
        texts: Of each text the surprisals ``-log p`` of its tokens, nats, under the law they were sampled from.
        num_drafted: P, integers >= 0 in one dimension.
        horizon: Tokens of each window; left out, half the longest text, at most the largest P. Shorter texts are left
            out.
        grid: Thresholds tried.

    Raises:
        InputError: for a negative or infinite surprisal, or no text as long as the horizon.

    >>> rng = np.random.default_rng(0)  # i.i.d. tokens of probabilities .6 and .4
    >>> texts = [-np.log(np.where(rng.random(4000) < 0.6, 0.6, 0.4)) for _ in range(4)]
    >>> limit_from_logprobs(texts, [3]).accepted.round(2).tolist()  # 0.6 + 0.4 + 0.36
    [1.36]
    """
    sizes = np.asarray(num_drafted, dtype=np.int64)
    if sizes.ndim != 1 or not len(sizes) or sizes.min() < 0:
        raise InputError("num_drafted", "must be integers >= 0 in one dimension", num_drafted)
    found = [_checked_surprisals(number, text) for number, text in enumerate(texts)]
    longest = max((len(text) for text in found), default=0)
    if horizon is None:
        horizon = max(1, min(longest // 2, int(sizes.max())))
    used = [text for text in found if len(text) >= horizon >= 1]
    if not used:
        raise InputError("horizon", f"must be from 1 to {longest}, the tokens of the longest text", horizon)
    thresholds = np.linspace(0.0, float(np.log(max(sizes.max(), 1))) + 4.0, grid)
    # [text, threshold] mean over the text's windows, and the number of these.
    counts, gains, lasts = zip(*(_window_terms(text, horizon, thresholds) for text in used), strict=True)
    weights = np.array(counts, dtype=float) / np.sum(counts)
    gain, last = np.array(gains), np.array(lasts)
    beyond = np.maximum(sizes - horizon, 0)[:, None]
    bound = sizes[:, None] * np.exp(-thresholds) + weights @ gain + beyond * (weights @ last)
    best = bound.argmin(axis=1)
    accepted = np.minimum(bound[np.arange(len(sizes)), best], sizes)
    by_text = gain[:, best] + beyond[:, 0] * last[:, best]
    error = None
    if len(used) > 1:
        apart = by_text - weights @ by_text
        # Of a weighted mean over texts, each text one draw (Cochran 1977, eq. 6.10, ratio estimate).
        error = np.sqrt(len(used) / (len(used) - 1) * ((weights[:, None] * apart) ** 2).sum(0))
    cut = weights @ np.array([_cut_share(text, horizon, thresholds)[best] for text in used])
    return LimitEstimate(
        sizes, accepted, error, thresholds[best], len(used), int(np.sum(counts)), horizon, np.asarray(cut)
    )


def _checked_surprisals(number: int, text: ArrayLike) -> Array:
    values = np.asarray(text, dtype=np.float64)
    if values.ndim != 1 or not ((values >= -1e-6) & np.isfinite(values)).all():
        raise InputError(f"texts[{number}]", "must be surprisals, numbers >= 0 in one dimension")
    return np.asarray(np.maximum(values, 0.0))


def _sums_at(text: Array, horizon: int, offset: int) -> Array:
    """``S_n`` of every window ``[window]`` at n = offset + 1."""
    upto = np.concatenate(([0.0], np.cumsum(text)))
    starts = np.arange(len(text) - horizon + 1)
    return np.asarray(upto[starts + offset + 1] - upto[starts])


def _window_terms(text: Array, horizon: int, thresholds: Array) -> tuple[int, Array, Array]:
    """Number of windows; mean over them of ``sum_n (1 - e^(S_n - t))_+`` and of its last term, by threshold."""
    num = len(text) - horizon + 1
    gain, last = np.zeros(len(thresholds)), np.zeros(len(thresholds))
    for offset in range(horizon):
        sums = _sums_at(text, horizon, offset)
        sums = np.sort(sums[sums <= thresholds[-1]])
        if not len(sums):
            last = np.zeros(len(thresholds))
            break  # S only grows: no later term counts
        below = np.searchsorted(sums, thresholds, side="right")
        upto = np.concatenate(([0.0], np.cumsum(np.exp(sums))))
        last = np.maximum(below - np.exp(-thresholds) * upto[below], 0.0)
        gain += last
    return num, gain / num, last / num


def _cut_share(text: Array, horizon: int, thresholds: Array) -> Array:
    sums = np.sort(_sums_at(text, horizon, horizon - 1))
    return np.asarray(np.searchsorted(sums, thresholds, side="right") / len(sums))


@dataclass(frozen=True, eq=False)
class LimitRate:
    """The fastest that a free drafter makes a target.

    Attributes:
        num_drafted: P at which it is reached.
        tokens_per_round: There, bonus token in.
        verify_s: Seconds of the pass over P + 1 tokens of each sequence.
        tokens_per_s: All sequences together.
        rates: ``[P]`` tokens per second at every P, from 0.
    """

    num_drafted: int
    tokens_per_round: float
    verify_s: float
    tokens_per_s: float
    rates: Array


def limit_rate(accepted: ArrayLike, verify_s: ArrayLike, batch: float = 1) -> LimitRate:
    """``max over P of batch (1 + E[X*_P]) / T(P + 1)``: drafting and host work take no time.

    Args:
        accepted: ``[P]`` accepted draft tokens, from P = 0, where there are none.
        verify_s: ``[P]`` seconds of one target pass over P + 1 tokens of each sequence.
        batch: Sequences that advance together.

    >>> best = limit_rate([0, 0.6, 1.0, 1.36], [1.0, 1.0, 1.0, 1.5])
    >>> best.num_drafted, best.tokens_per_s
    (2, 2.0)
    """
    tokens, seconds = 1 + np.asarray(accepted, dtype=float), np.asarray(verify_s, dtype=float)
    if tokens.shape != seconds.shape or tokens.ndim != 1 or not len(tokens):
        raise InputError("verify_s", "must be one time for each number of drafted tokens, from 0", seconds.shape)
    if not (seconds > 0).all() or tokens[0] != 1:
        raise InputError("accepted", "must begin with 0 accepted of 0 drafted, and each pass take time", tokens[0] - 1)
    rates = batch * tokens / seconds
    best = int(rates.argmax())
    return LimitRate(best, float(tokens[best]), float(seconds[best]), float(rates[best]), rates)
