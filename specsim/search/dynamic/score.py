"""Tokens per second of every policy of a table, at a deployment's prices: a few products of matrices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specsim.errors import InputError
from specsim.scenario import Deployment
from specsim.search.dynamic.table import DynamicTable
from specsim.work import HostWork, Pass, Role

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DynamicPrices:
    """Seconds of the work of a round.

    Args:
        batch: Sequences that share it.
        verify_s, draft_s, first_s: Of passes over as many tokens as the table's totals have points for.
        pass_s: Host work of each draft pass: the policy's choice among what was drafted.
        round_s: Host work of each round that speculates.
        step_s: Host work of every round.
    """

    batch: int
    verify_s: Floats
    draft_s: Floats
    first_s: Floats
    pass_s: float
    round_s: float
    step_s: float


def dynamic_prices(deployment: Deployment, table: DynamicTable) -> DynamicPrices:
    """What the deployment's cost model asks for the work in the table, at the deployment's batch and context.

    Sequences of a pass are taken as alike: its tokens are shared out evenly among them, and where there are fewer
    tokens than sequences, as many sequences take part.
    """
    totals, cost = table.at_batch(deployment.scenario.workload.batch), deployment.cost

    def pass_s(role: Role, total: Floats) -> Floats:
        seqs = np.clip(total, 1.0, totals.batch)
        each = np.maximum(total / seqs, 1.0)
        context = float(deployment.at.context_tokens[0])
        work = Pass(role, "draft" if role == "draft" else "verify", each[:, None], context, seqs[:, None])
        return np.asarray(cost.price(work).time_s)

    nothing = deployment.drafting == "lookup"
    first_at = np.full_like(totals.first_at, totals.batch) if deployment.drafting == "heads" else totals.first_at
    below = deployment.drafting == "autoregressive"
    host = {kind: float(cost.price(HostWork(kind)).time_s) for kind in ("step", "round", "draft")}
    return DynamicPrices(
        totals.batch,
        pass_s("target", totals.verified_at),
        pass_s("draft", totals.drafted_at) if below else np.zeros(len(totals.drafted_at)),
        np.zeros(len(first_at)) if nothing else pass_s("draft", first_at),
        host["draft"],
        host["round"],
        host["step"],
    )


@dataclass(frozen=True, eq=False)
class DynamicScores:
    """Rates of the table's policies, arrays ``[policy]``.

    Args:
        tokens_per_s: Of all sequences together.
        tokens_per_round: Of a sequence, bonus in.
        draft_s, verify_s, host_s: Mean seconds of a round's parts.
        nodes: Mean nodes verified by a sequence, root in.
        log_jack: ``[policy, block]`` logarithm of the rate without each block of requests.
    """

    tokens_per_s: Floats
    tokens_per_round: Floats
    draft_s: Floats
    verify_s: Floats
    host_s: Floats
    nodes: Floats
    log_jack: Floats

    @property
    def best(self) -> int:
        """The policy of the highest rate."""
        return int(np.argmax(self.tokens_per_s))

    @property
    def log_sd(self) -> Floats:
        """Standard error of the logarithm of each rate: of the process's texts, not of the process."""
        return _jack_sd(self.log_jack)

    def log_gain_sd(self, other: int) -> Floats:
        """Standard error of the logarithm of each rate over that of one policy; what the texts do to both cancels."""
        return _jack_sd(self.log_jack - self.log_jack[other])

    def interval(self, confidence: float) -> tuple[Floats, Floats]:
        """Of each rate by itself."""
        reach = np.exp(t_quantile(confidence, self.log_jack.shape[1]) * self.log_sd)
        return self.tokens_per_s / reach, self.tokens_per_s * reach

    def held_out_gain(self, among: NDArray[np.bool_], other: int) -> float:
        """Logarithm of the gain over one policy of the best of some: chosen on half the blocks, judged on the others.

        The best of many as it was found has also been the luckiest; what is judged on other texts has not.
        """
        num = self.log_jack.shape[1]
        whole = np.log(self.tokens_per_s / self.tokens_per_s[other])[:, None]
        by_block = num * whole - (num - 1) * (self.log_jack - self.log_jack[other])  # pseudo-values of the jackknife
        half, places = np.arange(num) % 2 == 0, np.flatnonzero(among)
        gains = []
        for chosen_on, judged_on in ((half, ~half), (~half, half)):
            choice = places[int(np.argmax(by_block[places][:, chosen_on].mean(axis=1)))]
            gains.append(by_block[choice, judged_on].mean())
        return float(np.mean(gains))

    def may_be_best(self, confidence: float, num_looks: int = 1) -> NDArray[np.bool_]:
        """Policies that are not shown to be slower than the best one found.

        With this confidence at least, all that are left out are slower than it: each of the comparisons errs with its
        share of the rest only (Bonferroni), over all looks at the data.
        """
        num = max(1, len(self.tokens_per_s) - 1) * num_looks
        reach = t_quantile(1 - 2 * (1 - confidence) / num, self.log_jack.shape[1])
        below = np.log(self.tokens_per_s[self.best] / self.tokens_per_s)
        return np.asarray(below <= reach * self.log_gain_sd(self.best))


def score(table: DynamicTable, prices: DynamicPrices, policy_s: Floats | None = None) -> DynamicScores:
    """Mean tokens / mean time of every policy.

    Where some policy's tokens per round are known from a law, the texts' luck with it is taken off the others as far
    as theirs goes along with it (a control variate).

    Args:
        table: Of the rounds.
        prices: Of this table at some batch size.
        policy_s: ``[policy]`` seconds per round and sequence of the policy's own work, in the place of the host work of
            draft passes (``dynamic_bookkeeping``).

    Raises:
        InputError: for prices of another table.
    """
    t = table.at_batch(prices.batch)
    for name, points in (("verify_s", t.verified_at), ("draft_s", t.drafted_at), ("first_s", t.first_at)):
        if len(getattr(prices, name)) != len(points):
            raise InputError(name, f"must have the table's {len(points)} points", len(getattr(prices, name)))
    draft, verify = t.drafted @ prices.draft_s + t.first @ prices.first_s, t.verified @ prices.verify_s
    policy = prices.pass_s * t.passes
    if policy_s is not None:
        if np.shape(policy_s) != (len(table.policies),):
            raise InputError("policy_s", f"must be one for each of {len(table.policies)} policies", np.shape(policy_s))
        policy = prices.batch * policy_s[:, None] * t.rounds
    host = policy + prices.round_s * t.speculating + prices.step_s * t.rounds
    time = draft + verify + host
    rounds = t.rounds.sum(axis=1)
    log_rate, log_tokens = (np.log(_whole(t.tokens) / _whole(by)) for by in (time, t.rounds))
    gift = _luck(table.exact_tokens, log_tokens, log_rate)
    log_rate, log_tokens = log_rate - gift, log_tokens - gift
    nodes = _whole(t.verified @ t.verified_at)[:, 0] / rounds / prices.batch
    draft_s, verify_s, host_s = (part.sum(axis=1) / rounds for part in (draft, verify, host))
    rate = prices.batch * np.exp(log_rate[:, 0])
    return DynamicScores(rate, np.exp(log_tokens[:, 0]), draft_s, verify_s, host_s, nodes, log_rate[:, 1:])


def _whole(by_block: Floats) -> Floats:
    """``[policy, 1 + block]``: the sum over blocks, then the sum without each."""
    total = by_block.sum(axis=1, keepdims=True)
    return np.concatenate((total, total - by_block), axis=1)


def _luck(exact: Floats, log_tokens: Floats, log_rate: Floats) -> Floats:
    """What is to be taken off, ``[policy, 1 + block]``: of a policy that is known, all that its texts gave it.

    Of another, its regression over blocks on the known one that it goes along with best.
    """
    known = np.flatnonzero(np.isfinite(exact))
    if not len(known):
        return np.zeros_like(log_rate)
    off = log_tokens[known] - np.log(exact[known])[:, None]
    x, y = (part[:, 1:] - part[:, 1:].mean(axis=1, keepdims=True) for part in (off, log_rate))
    xx, yy, xy = (x**2).sum(axis=1), (y**2).sum(axis=1), y @ x.T
    usable = np.where(xx > 0, xx, np.inf)
    with np.errstate(invalid="ignore", divide="ignore"):
        which = np.argmax(np.nan_to_num(xy**2 / usable / yy[:, None]), axis=1)
    slope = np.clip(xy[np.arange(len(y)), which] / usable[which], 0.0, 1.5)
    gift = slope[:, None] * off[which]
    gift[known] = off
    return np.asarray(gift)


def _jack_sd(log_jack: Floats) -> Floats:
    num = log_jack.shape[1]
    return np.asarray(np.sqrt((num - 1) * log_jack.var(axis=1)))


def t_quantile(confidence: float, num_blocks: int) -> float:
    """Standard errors to either side of a mean over blocks that hold it with this confidence.

    >>> round(t_quantile(0.95, 16), 3)
    2.131
    """
    if not 0 < confidence < 1:
        raise InputError("confidence", "must be between 0 and 1", confidence)
    from scipy.stats import t

    return float(t.ppf((1 + confidence) / 2, num_blocks - 1))
