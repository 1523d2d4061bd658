"""From work to time: a cost model prices passes, host work and transfers. Two of them exist: this one, from operations,
and ``specsim.cost.steps``, from measured steps. Whoever asks can not tell which answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from specsim.cost.count import count_ops
from specsim.cost.engine import EngineClass, class_of_params, engine_class
from specsim.cost.fits import load_fit
from specsim.cost.fitted import FittedOps
from specsim.cost.params import CostParams, Runtime, Spread, transferred_params
from specsim.cost.roofline import Roofline
from specsim.errors import InputError
from specsim.hardware import HardwareProfile
from specsim.model import ModelSpec
from specsim.work import BOUNDS, Cost, Float, HostWork, Op, Pass, Role, Transfer, Work, by_bound, merged_errors

Pricing = Literal["fitted", "roofline"]


class CostModel(Protocol):
    """What prices work."""

    def price(self, work: Work) -> Cost:
        """The cost of a piece of work, of the work's own shape."""
        ...

    @property
    def log_sd(self) -> Float:
        """Standard deviation of the log of the shared multiplier behind each of ``BOUNDS``."""
        ...


class OpPricer(Protocol):
    """What prices operations on one device."""

    @property
    def hardware(self) -> HardwareProfile:
        """The device."""
        ...

    def price(self, op: Op) -> Cost:
        """The cost of an operation, of the operation's own shape."""
        ...

    @property
    def log_sd(self) -> Float:
        """As of a cost model; what the host shares is the engine's."""
        ...

    @property
    def mem_bw_bytes_per_s(self) -> float:
        """Bandwidth that kernels reach."""
        ...

    def flops_per_s(self, dtype: str) -> float:
        """Arithmetic that kernels reach for weights stored as ``dtype``."""
        ...


@dataclass(frozen=True)
class PassCost:
    """Prices the passes of models on a tensor-parallel group of alike devices, operation by operation.

    Args:
        models: The model behind each role.
        ops: Prices operations on one device.
        engine: How passes are launched, and the host's time.
        tp: Devices that share the target.
        draft_tp: Devices that share the draft; the others wait.
    """

    models: Mapping[Role, ModelSpec]
    ops: OpPricer
    engine: EngineClass
    tp: int = 1
    draft_tp: int = 1

    def __post_init__(self) -> None:
        self._check_width("tp", self.tp, "target")
        self._check_width("draft_tp", self.draft_tp, "draft")

    def _check_width(self, name: str, width: int, role: Role) -> None:
        if width < 1:
            raise InputError(name, "must be >= 1", width)
        device = self.ops.hardware
        if width > 1 and device.link_bw_bytes_per_s is None:
            raise InputError(name, f"must be 1: {device.name} has no link to a second device", width)
        for group in self.models[role].layers if role in self.models else ():
            heads = group.attention.num_heads
            if heads % width:
                raise InputError(name, f"must divide the {heads} attention heads of {self.models[role].name}", width)

    @property
    def log_sd(self) -> Float:
        host = self.engine.layer_s if self.engine.always_eager and self.engine.layer_s else self.engine.step_s
        return np.where(np.array(BOUNDS) == "host", host.log_sd, self.ops.log_sd)

    def price(self, work: Work) -> Cost:
        match work:
            case Pass():
                return self._price_pass(work)
            case HostWork():
                return self._price_host(work)
            case Transfer():
                raise InputError("transfer", "a single host has no link of that name", work.link)

    def breakdown(self, work: Pass) -> list[tuple[Op, int, Cost]]:
        """Each operation of the pass, how often it runs, and the cost of all its runs."""
        model, tp = self.models[work.role], self.tp if work.role == "target" else self.draft_tp
        tokens = self.engine.padded_tokens(work)
        return [(op, n, self.ops.price(op).scaled(n)) for op, n in count_ops(model, work, tp, tokens)]

    def _price_pass(self, work: Pass) -> Cost:
        shape = work.total_new_tokens.shape
        flops, num_bytes, parts = np.zeros(shape), np.zeros(shape), by_bound(shape)
        costs = [cost for _, _, cost in self.breakdown(work)]
        for cost in costs:
            flops, num_bytes, parts = flops + cost.flops, num_bytes + cost.bytes, parts + cost.by_bound
        errors = merged_errors(cost.errors for cost in costs)
        return self._wait_for_host(Cost(flops, num_bytes, parts, np.zeros(shape), errors), work)

    def _wait_for_host(self, device: Cost, work: Pass) -> Cost:
        """Outside graphs the host launches layer by layer: the pass lasts as long as the slower of host and device."""
        layer_s = self.engine.layer_s
        if layer_s is None:
            return device
        host_s = layer_s.value * self.models[work.role].num_layers
        waits = self.engine.is_eager(work) & (device.time_s < host_s)
        parts = np.where(waits[..., None], by_bound(waits.shape, host=host_s), device.by_bound)
        errors = {name: np.where(waits, 0.0, seconds) for name, seconds in device.errors.items()}
        return Cost(device.flops, device.bytes, parts, device.var_s2, errors)

    def _price_host(self, work: HostWork) -> Cost:
        engine = self.engine
        spent: Spread = {"step": engine.step_s, "round": engine.round_s, "draft": engine.draft_s}[work.kind]
        return Cost(np.zeros(()), np.zeros(()), by_bound((), host=spent.value))


def pass_cost(
    hardware: HardwareProfile,
    models: Mapping[Role, ModelSpec],
    runtime: Runtime = "graph",
    tp: int = 1,
    draft_tp: int | None = None,
    engine: str = "",
    version: str = "",
    pricing: Pricing = "fitted",
) -> PassCost:
    """A cost model for ``models`` on ``tp`` devices of ``hardware``; the draft runs on as many unless said otherwise.

    Operations are priced by what was fitted to the device or transfers to it from its kin, and by the roofline of
    ``roofline_cost`` where nothing does (CPUs, other vendors without fits of their own) or where asked for.

    Args:
        hardware: The device.
        models: The model behind each role.
        runtime: Whether passes run in captured graphs.
        tp, draft_tp: Devices of the target, and of the draft.
        engine: Whose kernels, captured sizes and host time (``vllm, sglang, trtllm, hf``); empty for any engine:
            vLLM's kernels, and graphs of every size.
        version: Of the engine, where its kernels were fitted more than once.
        pricing: ``fitted``, or ``roofline`` in any case.

    >>> from specsim.hardware import load_hardware
    >>> from specsim.model import load_model
    >>> cost = pass_cost(load_hardware("h100-sxm"), {"target": load_model("llama-3.1-8b")})
    >>> step = cost.price(Pass("target", "decode", new_tokens=[1], context_tokens=[1024]))
    >>> str(step.bound), round(float(step.time_s) * 1e3, 1)
    ('memory', 6.2)
    """
    launched = engine_class(engine, runtime, hardware)
    roofline = Roofline(hardware, transferred_params(hardware, runtime))
    ops: OpPricer = roofline
    if pricing == "fitted" and has_fits(hardware):
        ops = FittedOps(hardware, roofline, launched.kernels, version, launched.always_eager)
    return PassCost(models, ops, launched, tp, tp if draft_tp is None else draft_tp)


def has_fits(hardware: HardwareProfile) -> bool:
    """Whether operators were fitted to the device, or to others of its vendor's GPUs; they multiply in 16 bits."""
    is_gpu = hardware.kind != "cpu" and not {"bf16", "fp16"}.isdisjoint(hardware.peak_flops_per_s)
    return is_gpu and (hardware.vendor == "NVIDIA" or bool(load_fit(hardware.name).fits))


def roofline_cost(
    hardware: HardwareProfile,
    models: Mapping[Role, ModelSpec],
    runtime: Runtime = "graph",
    tp: int = 1,
    draft_tp: int | None = None,
    params: CostParams | None = None,
) -> PassCost:
    """The same from a roofline with two efficiencies, whatever was fitted: the form that needs no measurement.

    >>> from specsim.hardware import load_hardware
    >>> from specsim.model import load_model
    >>> cost = roofline_cost(load_hardware("h100-sxm"), {"target": load_model("llama-3.1-8b")})
    >>> step = cost.price(Pass("target", "decode", new_tokens=[1], context_tokens=[1024]))
    >>> str(step.bound), round(float(step.time_s) * 1e3, 1)  # 15.0 GB of weights / (3.352 TB/s x 0.87), and launches
    ('memory', 5.9)
    """
    chosen = params or transferred_params(hardware, runtime)
    roofline = Roofline(hardware, chosen)
    return PassCost(models, roofline, class_of_params(chosen), tp, tp if draft_tp is None else draft_tp)
