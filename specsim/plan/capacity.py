"""The least number of replicas that serves a load within its latency targets, by simulation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, isfinite

from specsim.errors import InputError
from specsim.metrics.serving import ServingSummary, Target, summary
from specsim.plan.offered import Offered
from specsim.plan.setup import Setup
from specsim.sim.serve import ServingRun

CLEARLY = 0.1
"""One replication that misses the share by this much need not be repeated."""

IDLE = 0.01
"""Replicas are idle where twice as many shorten the mean latencies by less than this share."""


@dataclass(frozen=True)
class Goal:
    """What is promised to users.

    Args:
        target: Latencies that a request must meet.
        attain_frac: Share of requests that must meet them.
        replications: Independent runs that a judgement rests on.
        warmup_frac: Share of the time of arrivals that is left out at its begin.
        level: Probability of the interval of the share.

    Raises:
        InputError: for a number out of its range.
    """

    target: Target
    attain_frac: float = 0.95
    replications: int = 4
    warmup_frac: float = 0.2
    level: float = 0.9

    def __post_init__(self) -> None:
        for name, most in (("attain_frac", 1.0), ("warmup_frac", 0.9), ("level", 0.999)):
            if not 0 <= getattr(self, name) <= most:
                raise InputError(name, f"must be from 0 to {most:g}", getattr(self, name))
        if self.replications < 1:
            raise InputError("replications", "must be >= 1", self.replications)


@dataclass(frozen=True)
class Trial:
    """A number of replicas, tried.

    Args:
        replicas: How many.
        enough: Whether the queue kept up in all runs, and the share's interval is not below the one promised.
        verdict: ``stable``, ``unstable`` or ``no request could be served``.
        why: In words, where it is not enough.
        summary: Of all its runs; None where none was served.
    """

    replicas: int
    enough: bool
    verdict: str
    why: str
    summary: ServingSummary | None


@dataclass(frozen=True)
class Capacity:
    """The answer for one setup.

    Args:
        setup: Which.
        trials: All that were tried, by number of replicas.
        best: The least that is enough; None where not even the most allowed are.
        reason: Why there is none.
    """

    setup: Setup
    trials: tuple[Trial, ...]
    best: Trial | None
    reason: str = ""

    @property
    def gpus(self) -> int | None:
        return None if self.best is None else self.best.replicas * self.setup.gpus_per_replica

    @property
    def next_smaller(self) -> Trial | None:
        """The largest number tried that was not enough."""
        below = [t for t in self.trials if not t.enough and (self.best is None or t.replicas < self.best.replicas)]
        return below[-1] if below else None


def capacity(
    setup: Setup,
    offered: Offered,
    goal: Goal,
    max_replicas: int = 64,
    told: Callable[[int, int], None] = lambda replicas, num_left: None,
) -> Capacity:
    """The least replicas that are enough: doubled until they are, then halved in between.

    Every number sees the same requests with the same luck, so that more of them are hardly ever worse.

    Args:
        setup: What a replica is.
        offered: What arrives at all of them together.
        goal: What is promised.
        max_replicas: No more are tried.
        told: Hears the number being tried, and how many more requests left.

    Raises:
        InputError: for ``max_replicas`` below 1, and what ``serve`` refuses.
        InfeasibleError: where a replica's weights do not fit.
    """
    if max_replicas < 1:
        raise InputError("max_replicas", "must be >= 1", max_replicas)
    setup = _impatient(setup, offered, goal)
    tried: dict[int, Trial] = {}

    def enough(replicas: int) -> bool:
        tried[replicas] = try_out(setup, offered, goal, replicas, lambda left: told(replicas, left))
        return tried[replicas].enough

    above = 1
    while not enough(above):
        if above == max_replicas or tried[above].summary is None or _in_vain(tried.get(above // 2), tried[above]):
            return Capacity(setup, _sorted(tried), None, _reason(tried[above]))
        above = min(2 * above, max_replicas)
    below = max((n for n, t in tried.items() if not t.enough), default=0)
    while above - below > 1:
        middle = (above + below) // 2
        above, below = (middle, below) if enough(middle) else (above, middle)
    return Capacity(setup, _sorted(tried), tried[above])


def _impatient(setup: Setup, offered: Offered, goal: Goal) -> Setup:
    """A queue ten times the one whose end would wait too long ends a run: it is lost already."""
    first = offered.requests(0)
    span_s = float(first.arrival_s[-1])
    if not isfinite(goal.target.ttft_s) or not span_s:
        return setup
    most = min(setup.config.max_waiting, max(1000, ceil(10 * goal.target.ttft_s * len(first) / span_s)))
    return replace(setup, config=setup.config.model_copy(update={"max_waiting": most}))


def try_out(
    setup: Setup,
    offered: Offered,
    goal: Goal,
    replicas: int,
    told: Callable[[int], None] = lambda num_left: None,
) -> Trial:
    """Run the replications with so many replicas and judge them; what misses clearly is not repeated.

    Raises:
        KeyboardInterrupt: where the user ends a run: half of one says little.
    """
    runs: list[ServingRun] = []
    for replication in range(goal.replications):
        run = setup.run(offered, replication, replicas, told=told)
        if run.verdict == "interrupted":
            raise KeyboardInterrupt
        runs.append(run)
        trial = _judged(setup, goal, replicas, runs)
        said = trial.summary
        if said is None or trial.verdict != "stable" or said.attained.value < goal.attain_frac - CLEARLY:
            return replace(trial, enough=False)
    return trial


def _judged(setup: Setup, goal: Goal, replicas: int, runs: list[ServingRun]) -> Trial:
    if not any(run.num_finished for run in runs):
        why = next((text for run in runs for text in run.refusals.values()), runs[0].reason)
        return Trial(replicas, False, "no request could be served", why, None)
    usd, watts = setup.usd_per_s_per_replica, setup.watts_per_replica
    said = summary(
        [run.requests for run in runs],
        warmup_s=goal.warmup_frac * float(runs[0].requests.arrival_s.max()),
        target=goal.target,
        num_gpus=replicas * setup.gpus_per_replica,
        usd_per_s=None if usd is None else usd * replicas,
        power_w=None if watts is None else watts * replicas,
        level=goal.level,
    )
    unstable = [run for run in runs if run.verdict != "stable"]
    if unstable:
        return Trial(replicas, False, unstable[0].verdict, unstable[0].reason, said)
    low = said.attained.low if said.attained.low == said.attained.low else said.attained.value
    short = low < goal.attain_frac
    why = f"{said.attained.value:.1%} met the targets, {low:.1%} at the interval's low end" if short else ""
    return Trial(replicas, not short, "stable", why, said)


def _in_vain(before: Trial | None, now: Trial) -> bool:
    """Whether twice the replicas, all of them keeping up, made nothing faster: what is missing is not replicas."""
    if before is None or before.summary is None or now.summary is None:
        return False
    if not before.verdict == now.verdict == "stable" or now.summary.attained.value > before.summary.attained.value:
        return False
    means = [(before.summary.mean[kind].value, now.summary.mean[kind].value) for kind in ("ttft_s", "tpot_s")]
    return not any(after < (1 - IDLE) * first for first, after in means)


def _reason(last: Trial) -> str:
    if last.verdict == "stable":
        return f"{last.replicas} replicas keep up, and still {last.why}"
    return f"with {last.replicas} replicas: {last.verdict}: {last.why}"


def _sorted(tried: dict[int, Trial]) -> tuple[Trial, ...]:
    return tuple(tried[n] for n in sorted(tried))
