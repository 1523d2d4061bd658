"""How often the target keeps what the drafter proposes: one table ``accept_prob[depth, rank]``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.errors import InputError

if TYPE_CHECKING:
    from specsim.acceptance.spread import RequestSpread

RankOrder = Literal["free", "ordered"]
ROW_SLACK = 1e-9
"""How far a row may pass 1 by rounding."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class AcceptanceProfile:
    """Acceptance of draft tokens by depth and by the drafter's rank, the same for every parent of one depth.

    Args:
        accept_prob: ``[depth - 1, rank]``, probability that this rank is the accepted child, given that its parent was
            accepted. The ranks of a row exclude each other, so a row sums to at most 1.
        num_trials: ``[depth - 1]``, accepted parents that each row was observed on; None: taken as exact.
        source: Where the numbers come from, for people.
        rank_order: ``free``: candidates are chosen deterministically, a tree may hold any subset of ranks. ``ordered``:
            candidates are drawn one after another, a rank needs every better rank in the tree.
        tied_from: Depths from this one on (1-based) share one row, known from the same trials; None: each its own.
        task_sd: Spread between workloads: standard deviation of accepted tokens per round, relative to their mean.
            Sampling error shrinks with the trials, this does not.
        spread: How requests differ and how neighbouring rounds depend; None: rounds are drawn independently.
        num_requests: Requests that the trials come from, all as long (see ``spread_fit.equal_requests``). With
            ``spread``, their rounds are worth fewer trials than they number; None: each is taken as one of its own.

    Raises:
        InputError: naming field, value and limit.
    """

    accept_prob: Array
    num_trials: Array | None = None
    source: str = "given"
    rank_order: RankOrder = "free"
    tied_from: int | None = None
    task_sd: float = 0.0
    spread: RequestSpread | None = None
    num_requests: float | None = None

    def __post_init__(self) -> None:
        accept_prob = checked_accept_prob(self.accept_prob)
        object.__setattr__(self, "accept_prob", accept_prob)
        if self.num_trials is not None:
            object.__setattr__(self, "num_trials", _checked_trials(self.num_trials, len(accept_prob)))
        if self.rank_order not in ("free", "ordered"):
            raise InputError("rank_order", "must be 'free' or 'ordered'", self.rank_order)
        if self.tied_from is not None and not 1 <= self.tied_from <= len(accept_prob):
            raise InputError("tied_from", f"must be from 1 to {len(accept_prob)}", self.tied_from)
        if self.tied_from is not None and np.ptp(accept_prob[self.tied_from - 1 :], axis=0).any():
            raise InputError("tied_from", "must begin a run of equal rows of accept_prob", self.tied_from)
        if not 0 <= self.task_sd < np.inf:
            raise InputError("task_sd", "must be >= 0 and finite", self.task_sd)
        if self.num_requests is not None and not 0 < self.num_requests < np.inf:
            raise InputError("num_requests", "must be > 0 and finite", self.num_requests)

    @property
    def max_depth(self) -> int:
        """Deepest level that the table speaks of."""
        return int(self.accept_prob.shape[0])

    @property
    def max_ranks(self) -> int:
        """Candidates per parent that the table speaks of."""
        return int(self.accept_prob.shape[1])

    def extended(self, max_depth: int) -> AcceptanceProfile:
        """The table carried on to ``max_depth`` by repeating its last row: an assumption that the caller makes.

        >>> AcceptanceProfile.from_survival([0.8, 0.4]).extended(4).accept_prob[:, 0].tolist()
        [0.8, 0.5, 0.5, 0.5]
        """
        if max_depth < self.max_depth:
            raise InputError("max_depth", f"must be >= {self.max_depth}, the measured depth", max_depth)
        more = max_depth - self.max_depth
        trials = None if self.num_trials is None else np.pad(self.num_trials, (0, more), mode="edge")
        return replace(
            self,
            accept_prob=np.pad(self.accept_prob, ((0, more), (0, 0)), mode="edge"),
            num_trials=trials,
            source=f"{self.source}; depths beyond {self.max_depth} assumed like depth {self.max_depth}",
            tied_from=self.tied_from or self.max_depth,
        )

    @classmethod
    def iid(cls, alpha: float, max_depth: int, num_trials: float | None = None) -> AcceptanceProfile:
        """Every draft token is kept with the same probability ``alpha``, given that its prefix was.

        ``num_trials``: draft tokens with an accepted prefix that ``alpha`` was measured on.

        >>> AcceptanceProfile.iid(0.8, max_depth=3).accept_prob.tolist()
        [[0.8], [0.8], [0.8]]
        """
        if not 0 <= alpha <= 1:
            raise InputError("alpha", "must be a probability from 0 to 1", alpha)
        return cls.from_ranks([alpha], max_depth, num_trials, source=f"i.i.d. alpha {alpha:g}")

    @classmethod
    def from_ranks(
        cls,
        vector: ArrayLike,
        max_depth: int,
        num_trials: float | None = None,
        *,
        source: str = "rank vector at every depth",
        rank_order: RankOrder = "free",
    ) -> AcceptanceProfile:
        """One vector of rank probabilities used at every depth, as in Sequoia (arXiv:2402.12374)."""
        if max_depth < 1:
            raise InputError("max_depth", "must be >= 1", max_depth)
        row = as_floats("vector", vector, ndim=1)
        trials = None if num_trials is None else np.full(max_depth, num_trials, dtype=np.float64)
        return cls(np.tile(row, (max_depth, 1)), trials, source, rank_order, tied_from=1)

    @classmethod
    def from_survival(
        cls, survival: ArrayLike, num_drafts: float | None = None, *, source: str = "survival by position"
    ) -> AcceptanceProfile:
        """From the fraction of drafts whose first i + 1 tokens were all accepted, as vLLM reports it by position.

        Row i is ``survival[i] / survival[i - 1]``; its trials are the drafts that came so far.

        >>> profile = AcceptanceProfile.from_survival([0.8, 0.4, 0.3], num_drafts=1000)
        >>> profile.accept_prob[:, 0].round(3).tolist(), profile.num_trials.tolist()
        ([0.8, 0.5, 0.75], [1000.0, 800.0, 400.0])
        """
        survival = checked_probs("survival", as_floats("survival", survival, ndim=1))
        before = np.concatenate(([1.0], survival[:-1]))
        if (rising := np.flatnonzero(survival > before)).size:
            position = int(rising[0])
            limit = f"must not rise, at most {before[position]:g}"
            raise InputError(f"survival[{position}]", limit, float(survival[position]))
        alpha = np.divide(survival, before, out=np.zeros_like(survival), where=before > 0)
        return cls(alpha[:, None], None if num_drafts is None else num_drafts * before, source)

    @classmethod
    def from_counts(
        cls,
        accepted: ArrayLike,
        trials: ArrayLike,
        *,
        source: str = "counts",
        rank_order: RankOrder = "free",
    ) -> AcceptanceProfile:
        """From counts: rank kept ``accepted[depth - 1, rank]`` times, of ``trials[depth - 1]`` accepted parents."""
        counts, parents = as_floats("accepted", accepted, ndim=2), as_floats("trials", trials, ndim=1)
        if parents.shape != counts.shape[:1]:
            raise InputError("trials", f"must be one per depth ({counts.shape[0]})", parents.size)
        if not (parents > 0).all():
            raise InputError("trials", "must be > 0 at each depth", trials)
        return cls(counts / parents[:, None], parents, source, rank_order)

    @classmethod
    def from_cumulative_topk(
        cls, table: ArrayLike, num_trials: float | None = None, *, source: str = "cumulative top-k accuracy"
    ) -> AcceptanceProfile:
        """From ``table[head, k - 1]``, how often the right token is among the head's k best, as for Medusa heads.

        Such accuracies are not conditioned on accepted parents; using them so assumes that heads err independently,
        which reads some percent high.

        >>> AcceptanceProfile.from_cumulative_topk([[0.56, 0.67, 0.73]]).accept_prob.round(2).tolist()
        [[0.56, 0.11, 0.06]]
        """
        cumulative = checked_probs("table", as_floats("table", table, ndim=2))
        steps = np.diff(cumulative, axis=1, prepend=0.0)
        if (steps < 0).any():
            head, k = (int(index) for index in np.argwhere(steps < 0)[0])
            limit = f"must not fall with k, at least {cumulative[head, k - 1]:g}"
            raise InputError(f"table[{head}][{k}]", limit, float(cumulative[head, k]))
        trials = None if num_trials is None else np.full(len(steps), num_trials, dtype=np.float64)
        return cls(steps, trials, source)

    @classmethod
    def from_tokens_per_round(cls, tau: float, draft_len: int, num_rounds: float | None = None) -> AcceptanceProfile:
        """The i.i.d. profile under which a chain of ``draft_len`` emits ``tau`` tokens per round, bonus token in.

        Solves ``1 + alpha + ... + alpha**draft_len = tau``, which rises in alpha (Leviathan et al. 2023,
        arXiv:2211.17192, eq. 1).

        >>> round(float(AcceptanceProfile.from_tokens_per_round(3.3616, draft_len=4).accept_prob[0, 0]), 6)
        0.8
        """
        if draft_len < 1:
            raise InputError("draft_len", "must be >= 1", draft_len)
        if not 1 <= tau <= draft_len + 1:
            raise InputError("tau", f"must be from 1 to {draft_len + 1}, the length of an accepted chain", tau)
        alpha = constant_alpha(tau - 1, draft_len)
        # A position is tried when the one before it was accepted, and the last is never a parent.
        trials = None if num_rounds is None else num_rounds * (tau - alpha**draft_len)
        profile = cls.iid(alpha, draft_len, trials)
        return replace(profile, source=f"i.i.d. alpha {alpha:.4g} from {tau:g} tokens per round")


def checked_accept_prob(accept_prob: ArrayLike) -> Array:
    """``accept_prob[depth - 1, rank]`` as a read-only array of its own, or InputError naming what is wrong."""
    table = checked_probs("accept_prob", as_floats("accept_prob", accept_prob, ndim=2))
    total = table.sum(axis=1)
    if (total > 1 + ROW_SLACK).any():
        row = int(total.argmax())
        raise InputError(f"accept_prob[{row}]", "ranks exclude each other, must sum to at most 1", float(total[row]))
    table.flags.writeable = False
    return table


def constant_alpha(accepted: float, draft_len: int) -> float:
    """The alpha from 0 to 1 for which ``alpha + ... + alpha**draft_len = accepted``, by halving.

    >>> round(constant_alpha(0.75, draft_len=2), 6)
    0.5
    """
    low, high = 0.0, 1.0
    for _ in range(60):  # below the spacing of doubles
        alpha = (low + high) / 2
        enough = float(np.sum(alpha ** np.arange(1, draft_len + 1))) >= accepted
        low, high = (low, alpha) if enough else (alpha, high)
    return high


def checked_probs(field: str, table: Array) -> Array:
    """``table`` if all its entries are probabilities, or InputError naming the first that is not."""
    wrong = np.argwhere(~((table >= 0) & (table <= 1)))  # written so that NaN is wrong too
    if wrong.size:
        where = tuple(int(index) for index in wrong[0])
        name = field + "".join(f"[{index}]" for index in where)
        raise InputError(name, "must be a probability from 0 to 1", float(table[where]))
    return table


def _checked_trials(num_trials: ArrayLike, max_depth: int) -> Array:
    trials = as_floats("num_trials", num_trials, ndim=1)
    if len(trials) != max_depth:
        raise InputError("num_trials", f"must be one per depth ({max_depth})", len(trials))
    if not ((trials >= 0) & (trials < np.inf)).all():
        raise InputError("num_trials", "must be >= 0 and finite", trials.tolist())
    trials.flags.writeable = False
    return trials


def as_floats(field: str, values: ArrayLike, ndim: int) -> Array:
    """A new array of these numbers, or InputError unless it has ``ndim`` dimensions and is not empty."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(field, f"must be numbers in {ndim} dimensions, rows of one length", values) from None
    if array.ndim != ndim or array.size == 0:
        raise InputError(field, f"must have {ndim} dimensions and not be empty, its shape is", array.shape)
    return array
