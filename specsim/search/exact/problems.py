"""The search problems as data: what ``specsim solve`` reads, family by family, and what it answers.

A problem is ``{"family": NAME, "input": {...}}``. Ranks and sizes count from 1 here, as people do; a tree is a list of
paths of ranks, the root left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from specsim.documents import Document, parse
from specsim.errors import InputError

Probability = Annotated[float, Field(ge=0, le=1, strict=True)]
Cost = Annotated[float, Field(ge=0, strict=True)]
Positive = Annotated[float, Field(gt=0, strict=True)]
ROW_SLACK: Final = 1e-9


def _checked_table(rows: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
    """Rows whose ranks exclude each other. They may differ in length: a depth offers as many ranks as its row has."""
    for number, row in enumerate(rows):
        if not row:
            raise InputError(f"[{number}]", "must have a rank at least", len(row))
        if sum(row) > 1 + ROW_SLACK:
            raise InputError(f"[{number}]", "ranks exclude each other, must sum to at most 1", sum(row))
    return rows


Table = Annotated[tuple[tuple[Probability, ...], ...], AfterValidator(_checked_table)]
Order = Literal["free", "ordered"]
MAX_COUNT: Final = 100_000


def _count(least: int) -> Any:
    return Field(ge=least, le=MAX_COUNT, strict=True)


class Alpha(Document):
    """Acceptance of a chain: one rate, one per position given its prefix, or a mixture [[weight, rate], ...]."""

    iid: Probability | None = None
    pos: tuple[Probability, ...] | None = None
    mixture: tuple[tuple[Probability, Probability], ...] | None = None

    @model_validator(mode="after")
    def _one_of_three(self) -> Alpha:
        said = [name for name in ("iid", "pos", "mixture") if getattr(self, name) is not None]
        if len(said) != 1:
            raise InputError("alpha", "must be exactly one of iid, pos, mixture", said)
        if self.mixture is not None and abs(sum(weight for weight, _ in self.mixture) - 1) > 1e-9:
            raise InputError("mixture", "weights must sum to 1", sum(weight for weight, _ in self.mixture))
        return self

    def survival(self, max_len: int) -> list[float]:
        """Probability that the first i tokens are all kept, i = 0..max_len."""
        if self.iid is not None:
            return [self.iid**i for i in range(max_len + 1)]
        if self.mixture is not None:
            return [sum(weight * rate**i for weight, rate in self.mixture) for i in range(max_len + 1)]
        assert self.pos is not None
        if len(self.pos) < max_len:
            raise InputError("alpha.pos", f"must have at least {max_len} positions", len(self.pos))
        found = [1.0]
        for rate in self.pos[:max_len]:
            found.append(found[-1] * rate)
        return found


class Problem(Document):
    """An input whose costs reach as far as its limits. A depth that ``p`` does not hold has nothing to draft."""

    @model_validator(mode="after")
    def _tables_reach(self) -> Self:
        for name, needed in self.needs().items():
            length = len(getattr(self, name))
            if length < needed:
                raise InputError(name, f"must be at least {needed} long", length)
        return self

    def needs(self) -> dict[str, int]:
        """Least length of each table of costs."""
        limits = {"level_cost": "depth_limit", "level_width_cost": "depth_limit"}
        found = {name: getattr(self, limit) for name, limit in limits.items() if hasattr(self, name)}
        for limit in ("n_max", "n_max_total"):
            if hasattr(self, limit):
                found["verify_cost"] = getattr(self, limit)
        return found


class Chain(Problem):
    alpha: Alpha
    gamma_max: int = _count(0)
    draft_step_cost: tuple[Cost, ...]
    verify_cost: tuple[Positive, ...]
    batch: int = _count(1)
    mode: Literal["ragged", "synchronised"]

    def needs(self) -> dict[str, int]:
        return {"draft_step_cost": self.gamma_max, "verify_cost": self.batch * (self.gamma_max + 1)}


class TreeFixed(Problem):
    p: Table
    n: int = _count(1)
    depth_limit: int = _count(0)
    rank_order: Order


class TreeRate(Problem):
    p: Table
    n_max: int = _count(1)
    depth_limit: int = _count(0)
    level_cost: tuple[Cost, ...]
    verify_cost: tuple[Positive, ...]
    rank_order: Order


class TreeWidth(Problem):
    p: Table
    n_max: int = _count(1)
    depth_limit: int = _count(0)
    level_width_cost: tuple[tuple[Cost, ...], ...]
    verify_cost: tuple[Positive, ...]
    rank_order: Order
    width_convention: Literal["all", "expanded"]


class Forest(Problem):
    sequences: tuple[Table, ...] = Field(min_length=1)
    n_max_total: int = _count(1)
    depth_limit: int = _count(0)
    level_cost: tuple[Cost, ...]
    verify_cost: tuple[Positive, ...]
    rank_order: Order


class WeightedClass(Document):
    weight: Probability
    p: Table


class TreeMixture(Problem):
    classes: tuple[WeightedClass, ...] = Field(min_length=1)
    n: int = _count(1)
    depth_limit: int = _count(0)
    rank_order: Order


class ChainRobust(Problem):
    alpha_lo: Probability
    alpha_hi: Probability
    gamma_max: int = _count(0)
    draft_step_cost: Cost
    verify_cost: tuple[Positive, ...]

    def needs(self) -> dict[str, int]:
        return {"verify_cost": self.gamma_max + 1}


class TreeRobust(Problem):
    scenarios: tuple[Table, ...] = Field(min_length=1)
    n_max: int = _count(1)
    depth_limit: int = _count(0)
    level_cost: tuple[Cost, ...]
    verify_cost: tuple[Positive, ...]
    rank_order: Order


class LoadSchedule(Problem):
    arrival_rate: Positive
    mean_output_tokens: Positive
    alpha: Probability | Alpha
    gamma_max: int = _count(0)
    batch_max: int = _count(1)
    step_time: tuple[tuple[Positive, ...], ...]

    def needs(self) -> dict[str, int]:
        for number, row in enumerate(self.step_time):
            if len(row) <= self.gamma_max:
                raise InputError(f"step_time[{number}]", f"must be at least {self.gamma_max + 1} long", len(row))
        return {"step_time": self.batch_max}


class ReplayChain(Problem):
    a: tuple[Probability, ...]
    gammas: tuple[Annotated[int, Field(ge=0, le=MAX_COUNT, strict=True)], ...]


class DynamicSize(Problem):
    contexts: tuple[tuple[Probability, ...], ...] = Field(min_length=1)
    verify_cost: tuple[Positive, ...] = Field(min_length=1)


class AdaptiveStop(Problem):
    init: tuple[Probability, ...] = Field(min_length=1)
    transition: tuple[tuple[Probability, ...], ...]
    accept: tuple[Probability, ...]
    gamma_max: int = _count(0)
    draft_step_cost: Cost
    verify_cost: tuple[Positive, ...]

    def needs(self) -> dict[str, int]:
        for name, law in (("init", self.init), *((f"transition[{i}]", row) for i, row in enumerate(self.transition))):
            if abs(sum(law) - 1) > ROW_SLACK:
                raise InputError(name, "must sum to 1", sum(law))
        return {"verify_cost": self.gamma_max + 1}


class BestFirst(Document):
    type: Literal["best_first"]
    n: int = _count(0)
    depth: int = _count(0)


class BeamRerank(Document):
    type: Literal["beam_rerank"]
    top_k: int = _count(1)
    depth: int = _count(0)
    n: int = _count(0)


class DynamicTreeReplay(Problem):
    nodes: tuple[tuple[int, Probability, Probability], ...]
    policies: tuple[Annotated[BestFirst | BeamRerank, Field(discriminator="type")], ...]
    verification: Literal["one_hot", "greedy"]


FAMILIES: Final[Mapping[str, type[Problem]]] = {
    "chain": Chain,
    "tree_fixed_n": TreeFixed,
    "tree_ordered_fixed_n": TreeFixed,
    "tree_rate": TreeRate,
    "tree_ordered_rate": TreeRate,
    "tree_width_all": TreeWidth,
    "tree_width_expanded": TreeWidth,
    "forest_rate": Forest,
    "tree_mixture_fixed_n": TreeMixture,
    "chain_robust": ChainRobust,
    "tree_robust_scenarios": TreeRobust,
    "load_schedule": LoadSchedule,
    "replay_chain": ReplayChain,
    "dynamic_size_rate": DynamicSize,
    "adaptive_stop": AdaptiveStop,
    "dynamic_tree_replay": DynamicTreeReplay,
}
_IMPLIED: Final[Mapping[str, tuple[str, str]]] = {
    "tree_fixed_n": ("rank_order", "free"),
    "tree_ordered_fixed_n": ("rank_order", "ordered"),
    "tree_rate": ("rank_order", "free"),
    "tree_ordered_rate": ("rank_order", "ordered"),
    "tree_width_all": ("width_convention", "all"),
    "tree_width_expanded": ("width_convention", "expanded"),
}


def read_problems(data: Any, source: str) -> tuple[list[tuple[str, Problem]], bool]:
    """The problems in a file's JSON value, each a family and its input, and whether it was a list.

    Raises:
        InputError: naming the problem, the key, the value and the limit.
    """
    many = isinstance(data, list)
    items: Sequence[Any] = data if many else [data]
    return [_problem(item, f"{source}[{i}]" if many else source) for i, item in enumerate(items)], many


def _problem(item: Any, where: str) -> tuple[str, Problem]:
    if not isinstance(item, dict) or set(item) != {"family", "input"}:
        raise InputError(where, "must be an object with the keys family and input", item)
    family = item["family"]
    if not isinstance(family, str) or family not in FAMILIES:
        raise InputError(f"{where}: family", f"must be one of {', '.join(FAMILIES)}", family)
    data = parse(FAMILIES[family], item["input"], f"{where}: {family}")
    if family in _IMPLIED:
        key, value = _IMPLIED[family]
        if getattr(data, key) != value:
            raise InputError(f"{where}: {key}", f"of the family {family} must be {value}", getattr(data, key))
    return family, data
