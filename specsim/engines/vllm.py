"""Export to vLLM: the JSON of ``--speculative-config`` and the launch command.

Source: ``vllm/config/speculative.py`` and ``vllm/v1/spec_decode/dynamic/utils.py`` of the wheels 0.24.0 to 0.33.0.
"""

from __future__ import annotations

import json
import shlex
from typing import Any

from specsim.dialect import dialect
from specsim.engines.plan import DraftPlan, Export, synthetic_rates
from specsim.engines.translate import require_expressible
from specsim.engines.vllm_rules import check_vllm
from specsim.engines.weights import CONVERTED, checkpoint_notes, weight_flags


def to_vllm(plan: DraftPlan, version: str, *, synthetic: bool = False) -> Export:
    """The plan in vLLM's words.

    Args:
        plan: What to serve.
        version: vLLM's, such as ``0.33.0``.
        synthetic: Make the server accept drafts at the rates in ``plan.survival`` whatever they say, to test a
            predicted throughput. Its output is then not the target's.

    Raises:
        UnexpressibleError: with the reason and the nearest plan that vLLM can run.
        InputError: for a version that is not known, or ``synthetic`` without ``survival``.

    >>> to_vllm(DraftPlan.chain("org/target", "ngram", 3), "0.33.0").config
    {'method': 'ngram', 'num_speculative_tokens': 3}
    """
    row = dialect("vllm", version)
    require_expressible(plan, row)
    command = ["vllm", "serve", plan.target, "--tensor-parallel-size", str(plan.tensor_parallel)]
    for flag, value in weight_flags(plan.weights).items():
        command += [flag, value]
    if plan.max_running is not None:
        command += ["--max-num-seqs", str(plan.max_running)]
    if plan.drafter == "none":
        notes = ["no speculation is the plan: the command has no speculative option, and adding one would slow it down"]
        notes += checkpoint_notes(plan, draft_converts=True)
        return Export(engine="vllm", version=version, command=shlex.join(command), config={}, notes=tuple(notes))
    config = _config(plan, row.methods[plan.drafter], synthetic)
    warnings = check_vllm(config, version, tensor_parallel=plan.tensor_parallel)
    command += ["--speculative-config", json.dumps(config)]
    notes = [*warnings, *checkpoint_notes(plan, draft_converts=True), *_notes(plan, synthetic)]
    return Export(engine="vllm", version=version, command=shlex.join(command), config=config, notes=tuple(notes))


def _config(plan: DraftPlan, method: str, synthetic: bool) -> dict[str, Any]:
    config: dict[str, Any] = {"method": method}
    if plan.draft is not None:
        config["model"] = plan.draft
    if plan.draft_weights == CONVERTED:
        config["quantization"] = CONVERTED
    config["num_speculative_tokens"] = len(plan.parents) - 1
    if plan.draft_tensor_parallel is not None:
        config["draft_tensor_parallel_size"] = plan.draft_tensor_parallel
    if plan.draft_len_by_batch is not None:
        config["num_speculative_tokens_per_batch_size"] = [list(tier) for tier in plan.draft_len_by_batch]
    if synthetic:
        # Rates, not the mean length: vLLM turns a length into the law of least variance, which is not ours.
        config["rejection_sample_method"] = "synthetic"
        config["synthetic_acceptance_rates"] = [round(rate, 6) for rate in synthetic_rates(plan)]
    return config


def _notes(plan: DraftPlan, synthetic: bool) -> list[str]:
    notes = []
    if plan.draft_len_by_batch is not None:
        notes.append(
            "the batch size of the schedule is the number of requests in the step, prefills included; vLLM switches "
            "the schedule off under data parallelism, and its V1 runner then captures piecewise graphs only"
        )
        if any(draft_len == 0 for _, _, draft_len in plan.draft_len_by_batch):
            notes.append(
                "a tier of 0 drafts nothing but keeps the drafter loaded and its checks in the step: where most "
                "traffic falls in it, serve without speculation instead"
            )
    if plan.temperature:
        notes.append(
            'at temperature > 0 vLLM still drafts greedily by default ("draft_sample_method": "greedy"); an acceptance '
            "predicted for sampled drafts needs the value probabilistic"
        )
    if plan.drafter == "ngram":
        notes.append("prompt_lookup_min and prompt_lookup_max are both 5 unless given")
    if plan.drafter == "mtp":
        notes.append(
            "a checkpoint with n_predict MTP modules takes a draft length of at most, or a multiple of, n_predict"
        )
    if synthetic:
        notes.append("acceptance is synthetic: measure speed with this server, never read its output")
    return notes
