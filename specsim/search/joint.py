"""Which drafter, on how many devices, in which format, and how much to draft: all of it searched together.

A fixed number of devices is split into replicas of a tensor-parallel group each, among which the requests in flight
are shared as evenly as they can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from specsim.documents import Document, parse, read_toml
from specsim.errors import InfeasibleError, InputError
from specsim.model import Dtype
from specsim.scenario import Candidate, Deployment, Scenario, resolve
from specsim.search.break_even import BreakEven, break_even
from specsim.search.exact.certificate import checked_count
from specsim.search.points import PointBest, best_at, moved, point_of
from specsim.search.rounds import TIE, simplest_first


class _Candidates(Document):
    candidate: tuple[Candidate, ...] = Field(min_length=1, max_length=64)


class Setup(NamedTuple):
    """One way to use the devices.

    Args:
        drafter: Name of the candidate.
        tensor_parallel, replicas: Devices of a replica, and how many replicas.
        weights: Storage of the target's weights; None: as the scenario says.
        draft_tensor_parallel: Devices of a replica that share the draft; None: it has no model of its own.
    """

    drafter: str
    tensor_parallel: int
    replicas: int
    weights: Dtype | None
    draft_tensor_parallel: int | None = None

    @property
    def label(self) -> str:
        """A short name for people."""
        stored = f", {self.weights}" if self.weights else ""
        shards = self.draft_tensor_parallel
        drafted = "" if shards in (None, self.tensor_parallel) else f", draft on {shards}"
        return f"{self.drafter}, {self.replicas} x TP {self.tensor_parallel}{drafted}{stored}"


@dataclass(frozen=True)
class Option:
    """A setup at one number of requests in flight, with its best configuration.

    Args:
        setup: What runs.
        in_flight: Requests in flight on all devices; ``batch``: on the fullest replica.
        best: The answer on the fullest replica.
        tokens_per_s: Of all replicas, each with what is fastest for its own batch.
        time_per_token_s: Of a sequence on the fullest replica.
        usd_per_million_tokens: Where a price is known.
    """

    setup: Setup
    in_flight: int
    batch: int
    best: PointBest
    tokens_per_s: float
    time_per_token_s: float
    usd_per_million_tokens: float | None


@dataclass(frozen=True)
class Refused:
    """What was not possible, and why; ``in_flight`` is None where it is at any number."""

    setup: Setup
    in_flight: int | None
    reason: str


@dataclass(frozen=True)
class Needs:
    """What a candidate drafter needs to pay, in the setup where it does best."""

    drafter: str
    setup: Setup
    in_flight: int
    batch: int
    needs: BreakEven


@dataclass(frozen=True)
class JointAnswer:
    """All options, best first within each number in flight, what was refused, and what each drafter needs to pay."""

    options: tuple[Option, ...]
    refused: tuple[Refused, ...]
    needs: tuple[Needs, ...]

    def at(self, in_flight: int) -> list[Option]:
        """The options at one number of requests in flight, best first."""
        return [option for option in self.options if option.in_flight == in_flight]

    @property
    def front(self) -> list[Option]:
        """Options that no other beats in both tokens per second and time per token, by rising time."""
        return pareto(self.options)


def load_candidates(path: Path) -> tuple[Candidate, ...]:
    """Drafters from a TOML file of ``[[candidate]]`` tables. Raises InputError; names must differ."""
    found = parse(_Candidates, read_toml(path), path.name).candidate
    _check_names(f"{path.name}: candidate.name", found)
    return found


def _check_names(field: str, candidates: Sequence[Candidate]) -> None:
    names = [one.name for one in candidates]
    for name in names:
        if names.count(name) > 1:
            raise InputError(field, "must differ from the others'", name)


def joint_search(
    scenario: Scenario,
    devices: int,
    in_flight: Sequence[int],
    *,
    candidates: Sequence[Candidate] = (),
    tensor_parallel: Sequence[int] | None = None,
    draft_tensor_parallel: Sequence[int] | None = None,
    weights: Sequence[Dtype | None] = (None,),
    max_time_per_token_s: float | None = None,
) -> JointAnswer:
    """Try every drafter on every split of ``devices`` in every format, each with its best draft configuration.

    Args:
        scenario: Its drafter is a candidate, named by its kind, and so are its ``drafters``; its batch and
            tensor_parallel are not used.
        devices: To be used, all of them: group sizes that do not divide them are left out.
        in_flight: Numbers of requests in flight to answer for.
        candidates: Further drafters.
        tensor_parallel: Group sizes to try; None: all divisors of ``devices``.
        draft_tensor_parallel: Devices of a group that share the draft, to try; None: what the drafter asks for, or one
            and all of the group. Sizes beyond the group are left out.
        weights: Formats of the target's weights to try; None stands for the scenario's own.
        max_time_per_token_s: What a sequence may wait for a token at most.

    Raises:
        InputError: for a wrong limit.
        InfeasibleError: where no setup is possible at all.
    """
    checked_count("devices", devices, 1, 4096)
    for number in in_flight:
        checked_count("in_flight", number, 1, 1_000_000)
    checked_count("in_flight: length", len(in_flight), 1, 256)
    own = Candidate(name=scenario.drafter.kind, drafter=scenario.drafter, acceptance=scenario.acceptance)
    everyone = [own, *scenario.drafters, *candidates]
    _check_names("drafters: name", everyone)
    for number in draft_tensor_parallel or ():
        checked_count("draft_tensor_parallel", number, 1, 1024)
    groups = divisors(devices) if tensor_parallel is None else list(dict.fromkeys(tensor_parallel))
    if wrong := [tp for tp in groups if tp < 1 or devices % tp]:
        raise InputError("tensor_parallel", f"must divide the {devices} devices", wrong[0])
    options: list[Option] = []
    refused: list[Refused] = []
    known: dict[Setup, Deployment] = {}
    fits_nowhere = False  # of what was refused, something for its size and not for its words
    for one in everyone:
        for tp in groups:
            for stored, shards in product(dict.fromkeys(weights), _draft_groups(one, tp, draft_tensor_parallel)):
                setup = Setup(one.name, tp, devices // tp, stored, shards)
                try:
                    known[setup] = _resolved(scenario, one, setup)
                except (InfeasibleError, InputError) as error:
                    fits_nowhere |= isinstance(error, InfeasibleError)
                    refused.append(Refused(setup, None, str(error)))
                    continue
                _evaluate(known[setup], setup, in_flight, max_time_per_token_s, options, refused)
    if not known:
        why = f"no setup is possible, the first because {refused[0].reason}"
        raise InfeasibleError(why) if fits_nowhere else InputError("scenario", why)
    ranked = [option for number in dict.fromkeys(in_flight) for option in _ranked(options, number)]
    return JointAnswer(tuple(ranked), tuple(refused), _needs(everyone, ranked, known))


def _draft_groups(one: Candidate, tp: int, asked: Sequence[int] | None) -> list[int | None]:
    """Devices over which a candidate's own passes may be spread, all of the group first: of equals it is simplest."""
    if one.drafter.kind in ("none", "ngram"):
        return [None]
    if asked is not None:
        return [
            size for size in sorted({*asked, tp}, reverse=True) if size <= tp and (size in asked or min(asked) > tp)
        ]
    own = one.drafter.tensor_parallel
    return list(dict.fromkeys([tp, 1])) if own is None else [own]


def divisors(number: int) -> list[int]:
    """All divisors, rising.

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    return [n for n in range(1, number + 1) if number % n == 0]


def pareto(options: Sequence[Option]) -> list[Option]:
    """Options that no other beats in both tokens per second and time per token, by rising time.

    Of options alike in both, the first.
    """
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: (o.time_per_token_s, -o.tokens_per_s)):
        if not kept or option.tokens_per_s > kept[-1].tokens_per_s * (1 + TIE):
            kept.append(option)
    return kept


def _resolved(scenario: Scenario, one: Candidate, setup: Setup) -> Deployment:
    changes: dict[str, Any] = {
        "tensor_parallel": setup.tensor_parallel,
        "drafter": one.drafter.model_dump() | {"tensor_parallel": setup.draft_tensor_parallel},
        "acceptance": one.acceptance.model_dump(),
        "batch": 1,
    }
    if setup.weights is not None:
        changes["target"] = scenario.target.model_dump() | {"weights": setup.weights}
    return resolve(scenario.varied(**changes))


def _evaluate(
    deployment: Deployment,
    setup: Setup,
    in_flight: Sequence[int],
    limit_s: float | None,
    options: list[Option],
    refused: list[Refused],
) -> None:
    """The setup's option at each number in flight, or why there is none."""
    batches = sorted({b for number in in_flight for b, _ in _shares(number, setup.replicas) if b})
    found = dict(zip(batches, best_at(deployment, [point_of(deployment, b) for b in batches]), strict=True))
    for number in dict.fromkeys(in_flight):
        shares = [(found[b], times) for b, times in _shares(number, setup.replicas) if b and times]
        best, batch = shares[0][0], _shares(number, setup.replicas)[0][0]
        if best.reason:
            refused.append(Refused(setup, number, best.reason))
            continue
        time_s = best.round_s / best.tokens_per_round
        if limit_s is not None and time_s > limit_s:
            said = f"time per token: {time_s * 1e3:.4g} ms, limit {limit_s * 1e3:.4g} ms"
            refused.append(Refused(setup, number, said))
            continue
        rate = sum(one.tokens_per_s * times for one, times in shares)
        usd_per_s = deployment.usd_per_s
        usd = None if usd_per_s is None else 1e6 * usd_per_s * setup.replicas / rate
        options.append(Option(setup, number, batch, best, rate, time_s, usd))


def _shares(in_flight: int, replicas: int) -> list[tuple[int, int]]:
    """Batches and how many replicas have each, the fullest first."""
    least, more = divmod(in_flight, replicas)
    return [(least + 1, more), (least, replicas - more)] if more else [(least, replicas)]


def _ranked(options: Sequence[Option], in_flight: int) -> list[Option]:
    mine = [option for option in options if option.in_flight == in_flight]
    sizes = [(o.best.tree.num_drafted, o.best.tree.depth, o.setup.tensor_parallel) for o in mine]
    return [mine[place] for place in simplest_first([o.tokens_per_s for o in mine], sizes)]


def _needs(
    everyone: Sequence[Candidate], ranked: Sequence[Option], known: dict[Setup, Deployment]
) -> tuple[Needs, ...]:
    """For every drafter and number in flight, what it needs in the setup where it does best."""
    found = []
    for one in everyone:
        if one.drafter.kind == "none":
            continue
        for number in dict.fromkeys(option.in_flight for option in ranked):
            option = next((o for o in ranked if o.setup.drafter == one.name and o.in_flight == number), None)
            if option is not None:
                here = moved(known[option.setup], batch=option.batch)
                found.append(Needs(one.name, option.setup, number, option.batch, break_even(here)))
    return tuple(found)
