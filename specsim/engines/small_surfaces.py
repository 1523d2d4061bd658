"""Export to engines with few words for speculation: Transformers, LMDeploy, MLC-LLM, and the planner aiconfigurator."""

from __future__ import annotations

import json
import shlex
from typing import Any, Final

from specsim.dialect import dialect
from specsim.engines.plan import DraftPlan, Export, mean_accepted
from specsim.engines.translate import require_expressible
from specsim.errors import InputError

ASSISTANT_FILE: Final = "assistant_generation_config.json"
MLC_MODES: Final = ("disable", "small_draft", "eagle", "medusa")


def _without_synthetic(engine: str, synthetic: bool) -> None:
    if synthetic:
        raise InputError("synthetic", f"{engine} can not be made to accept at given rates")


def to_transformers(plan: DraftPlan, version: str, *, synthetic: bool = False) -> Export:
    """The plan for ``model.generate``: a generation config for the assistant, which is where it is read.

    ``num_assistant_tokens`` given to ``generate`` itself is ignored; and nothing checks these fields, so they are
    checked here. Batch size 1 only.

    Source: transformers 5.23.0, read and run; issue transformers#40739.

    >>> written = to_transformers(DraftPlan.chain("org/t", "draft_model", 4, draft="org/d"), "5.23.0")
    >>> written.config["num_assistant_tokens"], written.config["assistant_confidence_threshold"]
    (4, 0.0)
    """
    _without_synthetic("transformers", synthetic)
    row = dialect("transformers", version)
    require_expressible(plan, row)
    config: dict[str, Any] = {}
    files: dict[str, str] = {}
    load = f"model = AutoModelForCausalLM.from_pretrained({plan.target!r})"
    call, notes = "model.generate(**inputs)", ["Transformers speculates for one sequence at a time"]
    if plan.drafter == "ngram":
        config = {"prompt_lookup_num_tokens": plan.tree().num_nodes - 1}
        call = f"model.generate(**inputs, prompt_lookup_num_tokens={config['prompt_lookup_num_tokens']})"
    elif plan.drafter == "draft_model":
        config = {
            "num_assistant_tokens": plan.tree().num_nodes - 1,
            "num_assistant_tokens_schedule": "constant",
            "assistant_confidence_threshold": plan.confidence_stop or 0.0,
        }
        check_transformers(config)
        files = {ASSISTANT_FILE: json.dumps(config, indent=2) + "\n"}
        load += f"; draft = AutoModelForCausalLM.from_pretrained({plan.draft!r})"
        load += f"; draft.generation_config.update(**{config!r})"
        call = "model.generate(**inputs, assistant_model=draft)"
        notes.append(
            f"merge {ASSISTANT_FILE} into the assistant's generation_config.json, or update its generation_config in "
            "code: given to generate() these values are ignored"
        )
        if plan.confidence_stop is not None:
            notes.append("with scikit-learn installed, Transformers moves the confidence threshold as it goes")
    command = f"from transformers import AutoModelForCausalLM; {load}; {call}"
    return Export(
        engine="transformers", version=version, command=command, config=config, files=files, notes=tuple(notes)
    )


def check_transformers(config: dict[str, Any]) -> None:
    """Refuse values that ``GenerationConfig.validate`` lets pass.

    >>> check_transformers({"num_assistant_tokens": -3})
    Traceback (most recent call last):
    specsim.errors.InputError: num_assistant_tokens: must be a whole number >= 1, got -3
    """
    known = {"num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"}
    for key in config:
        if key not in known:
            raise InputError(key, f"must be one of {', '.join(sorted(known))}")
    length = config.get("num_assistant_tokens", 20)
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise InputError("num_assistant_tokens", "must be a whole number >= 1", length)
    schedules = ("constant", "heuristic", "heuristic_transient")
    if config.get("num_assistant_tokens_schedule", "constant") not in schedules:
        name = "num_assistant_tokens_schedule"
        raise InputError(name, f"must be one of {', '.join(schedules)}", config[name])
    threshold = config.get("assistant_confidence_threshold", 0.4)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold < 1:
        raise InputError("assistant_confidence_threshold", "must be from 0 to below 1", threshold)


def to_lmdeploy(plan: DraftPlan, version: str, *, synthetic: bool = False) -> Export:
    """The plan in LMDeploy's words, for its PyTorch backend alone.

    Source: lmdeploy 0.18.0.

    >>> to_lmdeploy(DraftPlan.chain("org/t", "eagle3", 3, draft="org/head"), "0.18.0").config
    {'--speculative-algorithm': 'eagle3', '--speculative-draft-model': 'org/head', '--speculative-num-draft-tokens': 3}
    """
    _without_synthetic("lmdeploy", synthetic)
    row = dialect("lmdeploy", version)
    require_expressible(plan, row)
    command = [
        "lmdeploy",
        "serve",
        "api_server",
        plan.target,
        "--backend",
        "pytorch",
        "--tp",
        str(plan.tensor_parallel),
    ]
    if plan.max_running is not None:
        command += ["--max-batch-size", str(plan.max_running)]
    config: dict[str, Any] = {}
    if plan.drafter != "none":
        config["--speculative-algorithm"] = row.methods[plan.drafter]
        if plan.draft is not None:
            config["--speculative-draft-model"] = plan.draft
        config["--speculative-num-draft-tokens"] = plan.tree().num_nodes - 1
    argv = [text for flag, value in config.items() for text in (flag, str(value))]
    notes = ["the TurboMind backend warns and decodes without speculation: keep --backend pytorch"]
    if plan.drafter == "mtp":
        notes.append("deepseek_mtp is for DeepSeek; hy3_mtp and qwen3_5_mtp are the words for those families")
    return Export(
        engine="lmdeploy", version=version, command=shlex.join([*command, *argv]), config=config, notes=tuple(notes)
    )


def to_mlc(plan: DraftPlan, version: str, *, synthetic: bool = False) -> Export:
    """The plan in MLC-LLM's words.

    Source: mlc-llm at 04e38057; ``spec_draft_length`` 0 is its own fixed table in later builds, so it is never written.

    >>> to_mlc(DraftPlan.chain("t", "draft_model", 4, draft="d"), "04e38057").config
    {'speculative_mode': 'small_draft', 'spec_draft_length': 4}
    """
    _without_synthetic("mlc-llm", synthetic)
    row = dialect("mlc-llm", version)
    require_expressible(plan, row)
    command = ["mlc_llm", "serve", plan.target]
    config: dict[str, Any] = {"speculative_mode": "disable"}
    if plan.drafter != "none":
        config = {"speculative_mode": row.methods[plan.drafter], "spec_draft_length": plan.tree().num_nodes - 1}
        command += ["--speculative-mode", config["speculative_mode"]]
        command += ["--overrides", f"spec_draft_length={config['spec_draft_length']}"]
        if plan.draft is not None:
            command += ["--additional-models", plan.draft]
    return Export(engine="mlc-llm", version=version, command=shlex.join(command), config=config)


def to_aiconfigurator(plan: DraftPlan, version: str, *, synthetic: bool = False) -> Export:
    """What the planner asks of speculation: the draft length, and the tokens accepted of it on average.

    It knows MTP alone, has no acceptance of its own and requires the number; ours is the predicted mean, bonus out.

    Source: aiconfigurator 0.12.0: ``--nextn``, ``--nextn-accepted`` in [0, nextn].

    >>> to_aiconfigurator(DraftPlan.chain("org/t", "mtp", 2, survival=(0.8, 0.5)), "0.12.0").config
    {'--nextn': 2, '--nextn-accepted': 1.3}
    """
    row = dialect("aiconfigurator", version)
    require_expressible(plan, row)
    length = plan.tree().num_nodes - 1
    config: dict[str, Any] = {"--nextn": length}
    if length:
        config["--nextn-accepted"] = round(mean_accepted(plan), 4)
    argv = [text for flag, value in config.items() for text in (flag, str(value))]
    notes = ("add the planner's own options: model, system, request lengths and targets",)
    return Export(
        engine="aiconfigurator", version=version, command=shlex.join(["aiconfigurator", "cli", "default", *argv]),
        config=config, notes=notes,
    )  # fmt: skip
