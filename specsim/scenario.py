"""A deployment in question: hardware, models, drafter, workload, acceptance; read from TOML, then resolved."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

from pydantic import Field, model_validator

from specsim.acceptance.emitted import Acceptance
from specsim.acceptance.inputs import AcceptanceInput
from specsim.cost.engine import Engine
from specsim.cost.memory import MemoryLedger, memory_ledger
from specsim.cost.model import CostModel, Pricing, pass_cost
from specsim.cost.params import Runtime
from specsim.dialect import DrafterKind, EngineName
from specsim.documents import Document, parse, read_toml
from specsim.errors import InputError
from specsim.hardware import HardwareProfile, load_hardware
from specsim.methods.round import Drafting, Situation
from specsim.model import Dtype, ModelSpec, check_draft_fits, check_family, load_model, mtp_module, quantized
from specsim.tree import DraftTree
from specsim.work import Role

DRAFTING: Final[dict[DrafterKind, Drafting]] = {
    "none": "lookup",
    "draft_model": "autoregressive",
    "eagle": "autoregressive",
    "eagle3": "autoregressive",
    "mtp": "autoregressive",
    "medusa": "heads",
    "ngram": "lookup",
}


class ModelUse(Document):
    """A model: its shape by bundled name or path, its weights' storage if not the config's, its name for an engine."""

    model: str = Field(min_length=1)
    weights: Dtype | None = None
    id: str | None = None

    def load(self) -> ModelSpec:
        spec = load_model(self.model)
        return quantized(spec, self.weights) if self.weights else spec


class DrafterUse(Document):
    """The drafter. ``model`` is its shape, absent for n-gram lookup and for MTP modules inside the target."""

    kind: DrafterKind
    model: str | None = None
    weights: Dtype | None = None
    id: str | None = None
    tensor_parallel: int | None = Field(default=None, ge=1, le=1024)

    @model_validator(mode="after")
    def _has_a_model(self) -> Self:
        needs = self.kind in ("draft_model", "eagle", "eagle3", "medusa")
        if needs and self.model is None:
            raise ValueError(f"model is required by the {self.kind} drafter")
        if self.model is None and self.weights is not None:
            raise ValueError("weights is of no model: an MTP module inside the target is stored as the target is")
        if self.kind in ("none", "ngram") and self.model is not None:
            raise ValueError(f"the {self.kind} drafter has no model")
        return self


class WorkloadUse(Document):
    """A steady state: ``batch`` sequences decoding together, each with ``context_tokens`` behind it."""

    batch: int = Field(default=1, ge=1, le=100_000)
    context_tokens: int = Field(default=1024, ge=0, le=100_000_000)
    temperature: float = Field(default=0.0, ge=0, le=10)


class SearchUse(Document):
    """What is tried: chains up to ``max_draft_len``, static trees up to ``max_nodes`` (root in) and ``max_depth``."""

    max_draft_len: int = Field(default=8, ge=0, le=512)
    max_nodes: int = Field(default=64, ge=1, le=4096)
    max_depth: int = Field(default=8, ge=0, le=512)


class EngineUse(Document):
    """An engine that the answer is written for."""

    engine: EngineName
    version: str


class Candidate(Document):
    """A drafter that might be used, with its own acceptance; ``joint_search`` holds it against the scenario's own."""

    name: str = Field(min_length=1)
    drafter: DrafterUse
    acceptance: AcceptanceInput


class Scenario(Document):
    """One deployment question. ``load_scenario`` reads it from TOML; every key is checked, unknown ones are refused.

    ``price_usd_per_hour`` is what one device costs you; without it, the profile's, if it has one. ``engine`` runs the
    passes: its kernels, its captured graphs; without it, those of any engine. ``pricing`` may be the roofline where
    operators were fitted too. ``drafters`` are others that might be used: only the joint search looks at them.
    """

    name: str = Field(min_length=1)
    note: str = ""
    hardware: str
    tensor_parallel: int = Field(default=1, ge=1, le=1024)
    price_usd_per_hour: float | None = Field(default=None, gt=0, le=1e6)
    runtime: Runtime = "graph"
    engine: Engine | None = None
    pricing: Pricing = "fitted"
    target: ModelUse
    drafter: DrafterUse
    workload: WorkloadUse = WorkloadUse()
    acceptance: AcceptanceInput
    search: SearchUse = SearchUse()
    export: tuple[EngineUse, ...] = ()
    drafters: tuple[Candidate, ...] = Field(default=(), max_length=64)

    def varied(self, **changes: Any) -> Scenario:
        """The same question with some answers changed, checked again as if a file said so.

        Args:
            changes: Fields of the workload (``batch``, ``context_tokens``, ``temperature``) or of the scenario itself
                (``hardware``, ``tensor_parallel``, ``runtime``, ...). None means what it means in the field.

        Raises:
            InputError: for an unknown name, for ``workload`` as a whole, and for a value that the field refuses.

        >>> asked = find_scenario("llama-3.1-8b-agx-orin").varied(hardware="h200", batch=8)
        >>> asked.hardware, asked.workload.batch, asked.workload.context_tokens
        ('h200', 8, 1024)
        """
        if "workload" in changes:
            raise InputError("options: workload", f"must be given by its fields: {', '.join(WorkloadUse.model_fields)}")
        said = {name: value for name, value in changes.items() if name in WorkloadUse.model_fields}
        others = {name: value for name, value in changes.items() if name not in said}
        data = self.model_dump()
        return parse(Scenario, {**data, **others, "workload": {**data["workload"], **said}}, "options")


@dataclass(frozen=True)
class Deployment:
    """A scenario resolved: everything loaded, checked against each other, and ready to be asked.

    Args:
        acceptance: Acceptance by depth and rank, or by path.
        cost: What prices work.
        drafting: How the drafter works.
        at: Where a round starts, less its pending tokens.
        hardware, target, draft: Facts of device and models.
        scenario: The question as asked.
    """

    scenario: Scenario
    hardware: HardwareProfile
    target: ModelSpec
    draft: ModelSpec | None
    cost: CostModel
    acceptance: Acceptance
    drafting: Drafting
    at: Situation

    @property
    def usd_per_s(self) -> float | None:
        """What all devices of the deployment cost, where a price is known."""
        price = self.scenario.price_usd_per_hour
        if price is None and self.hardware.price_usd_per_hour is not None:
            price = self.hardware.price_usd_per_hour.value
        return None if price is None else price * self.scenario.tensor_parallel / 3600

    def ledger(self, tree: DraftTree) -> MemoryLedger:
        """Memory per device when rounds of ``tree`` run; without speculation the draft is not loaded."""
        s = self.scenario
        draft = self.draft if tree.num_drafted else None
        held = s.workload.context_tokens + tree.num_nodes
        return memory_ledger(
            self.hardware, self.target, draft, s.workload.batch, held, s.tensor_parallel, self.draft_tensor_parallel
        )

    def check(self, tree: DraftTree) -> None:
        """Raise InputError where there is nothing to draft ``tree`` with or the context is too long for it,
        InfeasibleError where it does not fit."""
        if tree.num_drafted and self.scenario.drafter.kind == "none":
            raise InputError("drafter.kind", f"must name a drafter to draft {tree.label}", "none")
        _check_context(self.scenario, self.target, self.draft, tree.depth)
        self.ledger(tree).check()

    @cached_property
    def draft_tensor_parallel(self) -> int:
        return self.scenario.drafter.tensor_parallel or self.scenario.tensor_parallel


def load_scenario(path: Path) -> Scenario:
    """A scenario from a TOML file. Raises InputError naming the file, the key, the value and the limit."""
    return parse(Scenario, read_toml(path), path.name)


def bundled_scenarios() -> Mapping[str, Path]:
    """Scenarios that ship with the package, by name."""
    folder = Path(__file__).parent / "scenarios"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_scenario(name_or_path: str) -> Scenario:
    """A bundled scenario by name, or one from a file."""
    bundled = bundled_scenarios()
    if name_or_path in bundled:
        return load_scenario(bundled[name_or_path])
    if not os.path.isfile(name_or_path):  # no error for a name that no file can have, unlike Path.is_file
        raise InputError("scenario", f"must be a TOML file or one of {', '.join(bundled)}", name_or_path)
    return load_scenario(Path(name_or_path))


def resolve(scenario: Scenario) -> Deployment:
    """Load what the scenario names and check that it fits together.

    Raises:
        InputError: for an unknown name, a model that is not what the drafter's kind says, a head for a target, a
            mismatch of vocabularies, a draft on more devices than the target, a context beyond a model's limit, a
            search deeper than the acceptance is known.
        InfeasibleError: when even plain decoding does not fit in memory.
    """
    target, draft = scenario.target.load(), _draft(scenario)
    check_family("target.model", target, None)
    if draft is not None:
        check_draft_fits(target, draft)
    _check_context(scenario, target, draft, _deepest(scenario))
    _check_devices(scenario)
    hardware = load_hardware(scenario.hardware)
    models: dict[Role, ModelSpec] = {"target": target}
    if draft is not None:
        models["draft"] = draft
    cost = pass_cost(
        hardware,
        models,
        scenario.runtime,
        scenario.tensor_parallel,
        scenario.drafter.tensor_parallel,
        scenario.engine or "",
        pricing=scenario.pricing,
    )
    _check_temperature(scenario)
    profile = scenario.acceptance.profile()
    _check_depth(scenario, profile)
    at = Situation([float(scenario.workload.context_tokens)], num_seqs=[float(scenario.workload.batch)])
    drafting = DRAFTING[scenario.drafter.kind]
    deployment = Deployment(scenario, hardware, target, draft, cost, profile, drafting, at)
    deployment.ledger(DraftTree.root_only()).check()
    return deployment


def _draft(scenario: Scenario) -> ModelSpec | None:
    use = scenario.drafter
    if use.model is not None:
        draft = ModelUse(model=use.model, weights=use.weights).load()
        check_family("drafter.model", draft, None if use.kind == "draft_model" else use.kind)
        return draft
    return mtp_module(scenario.target.load()) if use.kind == "mtp" else None


def _check_devices(scenario: Scenario) -> None:
    devices, drafting = scenario.tensor_parallel, scenario.drafter.tensor_parallel
    if drafting is not None and drafting > devices:
        raise InputError("drafter.tensor_parallel", f"must be <= {devices}, the devices of the target", drafting)


def _deepest(scenario: Scenario) -> int:
    """The depth that the search goes to."""
    return max(scenario.search.max_draft_len, scenario.search.max_depth) if scenario.drafter.kind != "none" else 0


def _check_context(scenario: Scenario, target: ModelSpec, draft: ModelSpec | None, depth: int) -> None:
    """Raise InputError where a round ``depth`` deep would end beyond what a model has positions for."""
    # Heads on the target's features go where it goes; their configs repeat limits of the model they were made from.
    bound = [target, draft] if draft is not None and scenario.drafter.kind == "draft_model" else [target]
    context, round_tokens = scenario.workload.context_tokens, depth + 1
    for model in bound:
        longest = model.max_context_tokens
        if longest is not None and context + round_tokens > longest:
            limit = f"must be <= {longest - round_tokens}: with the {round_tokens} tokens of a round it may not pass"
            raise InputError("workload.context_tokens", f"{limit} the {longest} of {model.name}", context)


def _check_temperature(scenario: Scenario) -> None:
    """A published acceptance is of one temperature: it must be the workload's."""
    said, asked = getattr(scenario.acceptance, "temperature", None), scenario.workload.temperature
    if said is not None and said != asked:
        raise InputError("acceptance.temperature", f"must be the workload's, {asked:g}", said)


def _check_depth(scenario: Scenario, profile: Acceptance) -> None:
    search = scenario.search
    for field, depth in (("max_draft_len", search.max_draft_len), ("max_depth", search.max_depth)):
        if scenario.drafter.kind != "none" and depth > profile.max_depth:
            limit = f"must be <= {profile.max_depth}, the depth acceptance is known to (see acceptance.extend_to_depth)"
            raise InputError(f"search.{field}", limit, depth)
