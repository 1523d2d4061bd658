"""A tuned deployment in an engine's own words: the best configuration that it can express, and what that costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from specsim.acceptance.emitted import Acceptance, emitted_distribution
from specsim.dialect import dialect
from specsim.documents import parse
from specsim.engines.llamacpp import to_llamacpp
from specsim.engines.plan import DraftPlan, Export, UnexpressibleError
from specsim.engines.sglang import to_sglang
from specsim.engines.small_surfaces import to_aiconfigurator, to_lmdeploy, to_mlc, to_transformers
from specsim.engines.tensorrt_llm import to_tensorrt_llm
from specsim.engines.vllm import to_vllm
from specsim.errors import InfeasibleError, InputError
from specsim.estimate import Estimate
from specsim.model import Dtype, load_model
from specsim.scenario import Deployment, EngineUse, ModelUse, resolve
from specsim.search.tune import Tuning, tune
from specsim.tree import DraftTree

EXPORTERS: Final[dict[str, Callable[..., Export]]] = {
    "vllm": to_vllm,
    "sglang": to_sglang,
    "tensorrt-llm": to_tensorrt_llm,
    "llama.cpp": to_llamacpp,
    "transformers": to_transformers,
    "lmdeploy": to_lmdeploy,
    "mlc-llm": to_mlc,
    "aiconfigurator": to_aiconfigurator,
}
"""Each takes a plan and the engine's version, and ``synthetic``."""


@dataclass(frozen=True)
class EngineAnswer:
    """What to run.

    Args:
        export: The command and its configuration.
        chosen: The configuration it runs.
        loss: Share of the best rate that is given up because the engine can not express the best.
        refused: Why the best was refused; empty where it was not.
    """

    export: Export
    chosen: Estimate
    loss: float
    refused: str


def export_best(deployment: Deployment, tuning: Tuning, use: EngineUse) -> EngineAnswer:
    """The best configuration that the engine accepts; tuned again where it shards the draft otherwise than asked.

    Raises:
        InputError: for an engine version that is not known.
        InfeasibleError: when it accepts none of them.
    """
    sharded = _as_engine_shards(deployment, use)
    among = tuning if sharded is deployment else tune(sharded)
    sharding = "" if among is tuning else f"it shards the draft over all {deployment.scenario.tensor_parallel} devices"
    first = ""
    for one in among.ranked:
        try:
            export = EXPORTERS[use.engine](draft_plan(sharded, one.tree), use.version)
        except UnexpressibleError as error:
            first = first or error.reason
            continue
        why = "; ".join(filter(None, (sharding, first)))
        return EngineAnswer(export, one, 1 - one.tokens_per_s / tuning.best.tokens_per_s, why)
    raise InfeasibleError(f"{use.engine} {use.version} can express no configuration tried ({first})")


def _as_engine_shards(deployment: Deployment, use: EngineUse) -> Deployment:
    s = deployment.scenario
    shards = dialect(use.engine, use.version).draft_tensor_parallel
    if shards != "target" or s.drafter.tensor_parallel in (None, s.tensor_parallel):
        return deployment
    drafter = s.drafter.model_copy(update={"tensor_parallel": None})
    return resolve(s.model_copy(update={"drafter": drafter}))


def draft_plan(deployment: Deployment, tree: DraftTree) -> DraftPlan:
    """The configuration as engines are told it, with the predicted survival where acceptance is known that far.

    Raises:
        InputError: for a tree without a drafter, or an id that could not be told to a shell or an engine.
    """
    s, speculates = deployment.scenario, tree.num_drafted > 0
    use = s.drafter
    plan = {
        "target": s.target.id or s.target.model,
        "drafter": use.kind if speculates else "none",
        "draft": (use.id or use.model) if speculates and use.kind not in ("mtp", "ngram") else None,
        "parents": tree.parents,
        "weights": _converted(s.target),
        "draft_weights": _converted(ModelUse(model=use.model, weights=use.weights))
        if speculates and use.model
        else None,
        "tensor_parallel": s.tensor_parallel,
        "draft_tensor_parallel": use.tensor_parallel if speculates and use.kind != "ngram" else None,
        "temperature": s.workload.temperature,
        "survival": _survival(deployment.acceptance, tree) if speculates else None,
    }
    return parse(DraftPlan, plan, s.name)


def _converted(use: ModelUse) -> Dtype | None:
    """The format asked for, where the checkpoint's config says another."""
    stored = load_model(use.model).weight_dtype
    return None if use.weights == stored else use.weights


def _survival(profile: Acceptance, tree: DraftTree) -> tuple[float, ...] | None:
    """P(at least i accepted) from P(n emitted) = P(n - 1 accepted)."""
    try:
        emitted = emitted_distribution(tree, profile)
    except InputError:  # deeper or wider than acceptance is known
        return None
    survival = np.clip(1 - emitted.cumsum()[1:-1], 0, 1)
    return tuple(np.minimum.accumulate(survival).tolist())
