"""A tuned deployment in an engine's own words: the best configuration that it can express, and what that costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from specsim.acceptance.emitted import Acceptance, emitted_distribution
from specsim.dialect import TopkTree, dialect, expressible
from specsim.documents import parse
from specsim.engines.llamacpp import to_llamacpp
from specsim.engines.plan import DraftPlan, Export
from specsim.engines.sglang import to_sglang
from specsim.engines.small_surfaces import to_aiconfigurator, to_lmdeploy, to_mlc, to_transformers
from specsim.engines.tensorrt_llm import to_tensorrt_llm
from specsim.engines.vllm import to_vllm
from specsim.errors import InputError
from specsim.model import Dtype, load_model
from specsim.scenario import Deployment, EngineUse, ModelUse
from specsim.search.expressible import EngineBest, Expressed, best_expressible, draft_widths
from specsim.search.tune import Tuning
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
        loss: Share of the best rate of any engine that is given up; below 0 where another sharding of the draft than
            asked for is faster.
        refused: Why the best of any engine was refused; empty where it was not.
    """

    export: Export
    chosen: Expressed
    loss: float
    refused: str


def export_best(deployment: Deployment, tuning: Tuning, use: EngineUse) -> EngineAnswer:
    """The best configuration that the engine accepts, searched within what it accepts, in its words.

    Args:
        deployment, tuning: A question, and its answer where every chain and static tree is accepted.
        use: The engine.

    Raises:
        InputError: for an engine version that is not known.
        InfeasibleError: where even plain decoding does not fit.
    """
    found = best_expressible(deployment, use)
    best = found.best
    export = export_of(deployment, use, best.tree, best.draft_tensor_parallel)
    return EngineAnswer(export, best, found.loss(tuning.best.tokens_per_s), _refused(deployment, tuning, use, found))


def _refused(deployment: Deployment, tuning: Tuning, use: EngineUse, found: EngineBest) -> str:
    s, row, best = deployment.scenario, dialect(use.engine, use.version), tuning.best.tree
    said = []
    devices = found.best.draft_tensor_parallel
    if found.best.tree != DraftTree.root_only() and devices != deployment.draft_tensor_parallel:
        said.append(f"it shards the draft over {devices} of {s.tensor_parallel} devices")
    if found.best.tree != best:
        said.append(expressible(row, s.drafter.kind, best) or "; ".join(found.refused) or "its draft lengths differ")
    return "; ".join(said)


def export_of(
    deployment: Deployment, use: EngineUse, tree: DraftTree | TopkTree, draft_tensor_parallel: int | None = None
) -> Export:
    """One configuration in the engine's words.

    Args:
        deployment, use: The question and the engine.
        tree: A chain, or a tree that it grows.
        draft_tensor_parallel: Devices that share the draft; None: as the engine can, as near as it can to what the
            scenario asks.

    Raises:
        UnexpressibleError: where the engine has no words for it.
    """
    if draft_tensor_parallel is None:
        draft_tensor_parallel = draft_widths(dialect(use.engine, use.version), deployment)[0]
    if isinstance(tree, DraftTree):
        plan = draft_plan(deployment, tree)
    else:
        chain = draft_plan(deployment, DraftTree.chain(tree.steps))
        plan = chain.but(parents=(-1,), topk_tree=tree.model_dump(), survival=None)
    told = plan.draft_tensor_parallel is not None or draft_tensor_parallel != plan.tensor_parallel
    if told and plan.drafter not in ("none", "ngram"):
        plan = plan.but(draft_tensor_parallel=draft_tensor_parallel)
    return EXPORTERS[use.engine](plan, use.version)


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
