"""Export to TensorRT-LLM: the YAML that ``trtllm-serve`` reads.

Source: ``tensorrt_llm/llmapi/llm_args.py`` of main at 00043967 (1.3 and 1.4 release candidates); 1.2 by pull request
8194. The meaning of ``draft_len_schedule`` was reversed by 10860: what is written here depends on the version.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any, Final

from specsim.dialect import Dialect, TopkTree, dialect, parse_version, released
from specsim.engines.plan import DraftPlan, Export, mean_accepted
from specsim.engines.translate import require_expressible
from specsim.errors import InputError

CONFIG_FILE: Final = "trtllm.yaml"
FORCED: Final = "TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS"
_RENAMED: Final = (1, 3)
_COMMON: Final = {
    "decoding_type", "max_draft_len", "max_total_draft_tokens", "speculative_model", "max_concurrency",
    "draft_len_schedule", "acceptance_rate_window_size", "acceptance_rate_threshold", "use_rejection_sampling",
    "load_format",
}  # fmt: skip
_TREE: Final = {"use_dynamic_tree", "dynamic_tree_max_topK"}
_KEYS: Final = {
    "Eagle3": _COMMON | _TREE | {"eagle3_layers_to_capture", "eagle3_one_model", "sa_config"},
    "MTP": _COMMON | _TREE | {"use_relaxed_acceptance_for_thinking", "relaxed_topk", "relaxed_delta", "sa_config"},
    "NGram": _COMMON | {"max_matching_ngram_size", "is_keep_all", "is_use_oldest", "is_public_pool"},
    "Draft_Target": _COMMON,
}


def to_tensorrt_llm(plan: DraftPlan, version: str, *, synthetic: bool = False) -> Export:
    """The plan in TensorRT-LLM's words.

    Args:
        plan: What to serve.
        version: Such as ``1.3.0``; a release candidate of 1.4 is taken, one of 1.3 may lie on either side of the
            change.
        synthetic: Make the server accept as many drafts on average as ``plan.survival`` says. Its output is then not
            the target's.

    Raises:
        UnexpressibleError: with the reason and the nearest plan that it can run.
        InputError: for a version that is not known, or ``synthetic`` without ``survival``.

    >>> plan = DraftPlan.chain("org/t", "ngram", 4, draft_len_by_batch=((1, 8, 4), (9, 32, 2), (33, 64, 0)))
    >>> to_tensorrt_llm(plan, "1.4.0").config["draft_len_schedule"]
    {8: 4, 32: 2}
    """
    row = dialect("tensorrt-llm", version)
    require_expressible(plan, row)
    renamed = parse_version(released("tensorrt-llm", version)) >= _RENAMED
    config = _config(plan, row, renamed) if plan.drafter != "none" else {}
    env = {FORCED: f"{mean_accepted(plan):.4g}"} if synthetic and config else {}
    if config and row.schedule == "upper_bounds":
        check_tensorrt_llm(config)
    document: dict[str, Any] = {"tensor_parallel_size": plan.tensor_parallel}
    if plan.max_running is not None:
        document["max_batch_size"] = plan.max_running
    if config:
        document["speculative_config"] = config
    option = "--config" if renamed else "--extra_llm_api_options"
    return Export(
        engine="tensorrt-llm",
        version=version,
        command=shlex.join(["trtllm-serve", plan.target, option, CONFIG_FILE]),
        config=config,
        env=env,
        files={CONFIG_FILE: yaml_of(document)},
        notes=tuple(_notes(plan, row, synthetic)),
    )


def _config(plan: DraftPlan, row: Dialect, renamed: bool) -> dict[str, Any]:
    kind, tree = row.methods[plan.drafter], plan.tree()
    steps = tree.steps if isinstance(tree, TopkTree) else tree.num_drafted
    length = "num_nextn_predict_layers" if kind == "MTP" and not renamed else "max_draft_len"
    config: dict[str, Any] = {"decoding_type": kind, length: steps}
    if plan.draft is not None:
        config["speculative_model" if renamed else "speculative_model_dir"] = plan.draft
    if isinstance(tree, TopkTree):
        config |= {
            "use_dynamic_tree": True,
            "dynamic_tree_max_topK": tree.topk,
            "max_total_draft_tokens": tree.num_nodes - 1,
        }
    if plan.draft_len_by_batch is None:
        return config
    drafting = [(end, draft_len) for _, end, draft_len in plan.draft_len_by_batch if draft_len > 0]
    if row.schedule == "off_above":
        return config | ({"max_concurrency": drafting[-1][0]} if len(drafting) < len(plan.draft_len_by_batch) else {})
    return config | _schedule(plan.draft_len_by_batch, plan.max_running)


def _schedule(tiers: tuple[tuple[int, int, int], ...], max_running: int | None) -> dict[str, Any]:
    """Keys are the last batch size of each tier; above the last key nothing is drafted, so a last tier of 0 goes."""
    entries = {end: draft_len for _, end, draft_len in tiers}
    if tiers[-1][2] == 0:
        del entries[tiers[-1][1]]
    elif max_running is not None:
        # The plan's last tier holds above its end, TensorRT-LLM's does not.
        entries = {end: k for end, k in entries.items() if end != tiers[-1][1]}
        entries[max(max_running, tiers[-1][1])] = tiers[-1][2]
    return {"draft_len_schedule": entries}


def check_tensorrt_llm(config: Mapping[str, Any]) -> None:
    """Refuse what TensorRT-LLM (1.3 and later) would refuse of a ``speculative_config``.

    Raises:
        InputError: naming the first key, its value and the rule.

    >>> check_tensorrt_llm({"decoding_type": "NGram", "max_draft_len": 4, "draft_len_schedule": {1: 4, 9: 2, 33: 0}})
    >>> check_tensorrt_llm({"decoding_type": "NGram", "max_draft_len": 4, "draft_len_schedule": {8: 2, 32: 4}})
    Traceback (most recent call last):
    specsim.errors.InputError: draft_len_schedule: must give max_draft_len 4 at its smallest key 8, got 2
    """
    kind = config.get("decoding_type")
    if kind not in _KEYS:
        raise InputError("decoding_type", f"must be one of {', '.join(_KEYS)}", kind)
    for key in config:
        if key not in _KEYS[kind]:
            raise InputError(key, f"is no key of {kind}")
    length = config.get("max_draft_len")
    if not _whole(length) or length < 1:  # type: ignore[operator]
        raise InputError("max_draft_len", "must be a whole number >= 1", length)
    if kind in ("Eagle3", "Draft_Target") and not config.get("speculative_model"):
        raise InputError("speculative_model", f"is required by {kind}")
    _check_tree(config, int(length))  # type: ignore[arg-type]
    _check_schedule(config, int(length))  # type: ignore[arg-type]


def _check_tree(config: Mapping[str, Any], length: int) -> None:
    if not config.get("use_dynamic_tree"):
        return
    topk = config.get("dynamic_tree_max_topK")
    if not _whole(topk) or topk < 1:  # type: ignore[operator]
        raise InputError("dynamic_tree_max_topK", "is required with use_dynamic_tree, a whole number >= 1", topk)
    total = config.get("max_total_draft_tokens", topk * length)  # type: ignore[operator]
    if not _whole(total) or not length <= total <= topk * length:  # type: ignore[operator]
        raise InputError("max_total_draft_tokens", f"must be from {length} to {topk * length}", total)  # type: ignore[operator]


def _check_schedule(config: Mapping[str, Any], length: int) -> None:
    schedule, concurrency = config.get("draft_len_schedule"), config.get("max_concurrency")
    if concurrency is not None and (not _whole(concurrency) or concurrency < 1):
        raise InputError("max_concurrency", "must be a whole number >= 1", concurrency)
    if schedule is None:
        return
    if concurrency is not None:
        raise InputError("draft_len_schedule", "excludes max_concurrency")
    if not isinstance(schedule, Mapping) or not schedule:
        raise InputError("draft_len_schedule", "must map batch sizes to draft lengths", schedule)
    for key, value in schedule.items():
        if not _whole(key) or key < 1 or not _whole(value) or not 0 <= value <= length:
            raise InputError("draft_len_schedule", f"must map sizes >= 1 to lengths from 0 to {length}", {key: value})
    first = min(schedule)
    if schedule[first] != length:
        limit = f"must give max_draft_len {length} at its smallest key {first}"
        raise InputError("draft_len_schedule", limit, schedule[first])


def _notes(plan: DraftPlan, row: Dialect, synthetic: bool) -> list[str]:
    notes = [f"write {CONFIG_FILE} where the server starts"]
    tiers = plan.draft_len_by_batch
    if tiers is not None and any(draft_len == 0 for _, _, draft_len in tiers):
        notes.append(
            "a draft length of 0 under load leaves the drafter's state behind: when load falls, requests that live on "
            "lose acceptance (pull request 16888); where load comes and goes, end the schedule with 1"
        )
    if tiers is not None and tiers[-1][2] > 0 and row.schedule == "upper_bounds" and plan.max_running is None:
        notes.append(f"above batch size {tiers[-1][1]} TensorRT-LLM drafts nothing, where the plan goes on drafting")
    if plan.weights is not None:
        notes.append(f"{plan.weights} weights were priced: the checkpoint must be stored so")
    if synthetic:
        notes.append("acceptance is forced to its mean, in integer part and coin: the spread of a round is not ours")
    if plan.temperature:
        notes.append("at temperature > 0 drafts are accepted by exact match unless use_rejection_sampling is true")
    return notes


def yaml_of(document: Mapping[Any, Any], indent: str = "") -> str:
    """Nested mappings of numbers, booleans and text as YAML; text is quoted as JSON, which YAML reads alike."""
    lines = []
    for key, value in document.items():
        if isinstance(value, Mapping):
            lines.append(f"{indent}{key}:\n{yaml_of(value, indent + '  ')}")
        else:
            lines.append(f"{indent}{key}: {json.dumps(value)}\n")
    return "".join(lines)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
