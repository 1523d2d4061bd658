"""What the engines are asked: plans in their words by our exporters, and configurations that should be refused.

A case is one launch: its arguments, the files beside them, and whether our own rules take it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from typing import Any, Final

from specsim.dialect import TopkTree
from specsim.engines.plan import DraftPlan, Export
from specsim.engines.sglang import ADAPTIVE_FILE, to_sglang
from specsim.engines.sglang_rules import check_adaptive_table, check_sglang
from specsim.engines.vllm import to_vllm
from specsim.engines.vllm_rules import check_vllm
from specsim.errors import InputError

VERSIONS: Final = {"vllm": "0.33.0", "sglang": "0.5.23"}
TIERS: Final = ((1, 8, 4), (9, 32, 2), (33, 256, 0))
GAPLESS: Final = ((1, 4, 3), (5, 16, 1), (17, 64, 0))
RATES: Final = (0.8, 0.6, 0.4, 0.3)

_LLAMA: Final = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "intermediate_size": 704,
    "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 32, "num_hidden_layers": 4, "vocab_size": 1024,
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "hidden_act": "silu", "torch_dtype": "bfloat16",
    "tie_word_embeddings": False, "rope_theta": 10000.0, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
_MTP: Final = {
    **_LLAMA, "architectures": ["Glm4MoeForCausalLM"], "model_type": "glm4_moe", "num_nextn_predict_layers": 1,
    "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 128,
    "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "norm_topk_prob": True, "routed_scaling_factor": 1.0,
    "partial_rotary_factor": 0.5, "use_qk_norm": False,
}  # fmt: skip
MODELS: Final[dict[str, dict[str, Any]]] = {
    "models/target": _LLAMA,
    "models/draft": {**_LLAMA, "num_hidden_layers": 1},
    "models/other-vocabulary": {**_LLAMA, "num_hidden_layers": 1, "vocab_size": 2048},
    "models/eagle": {**_LLAMA, "num_hidden_layers": 1, "architectures": ["EagleLlamaForCausalLM"]},
    "models/eagle3": {
        **_LLAMA, "num_hidden_layers": 1, "architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": 1024,
    },
    "models/mtp": _MTP,
}  # fmt: skip
"""Checkpoints of which an engine reads only ``config.json`` before it loads weights."""


def plan(drafter: str, draft_len: int, **others: Any) -> DraftPlan:
    """A chain on the small models; sixty-four sequences at most, so that no engine caps them silently."""
    target = "models/mtp" if drafter == "mtp" else "models/target"
    draft = {"draft_model": "models/draft", "eagle": "models/eagle", "eagle3": "models/eagle3"}.get(drafter)
    return DraftPlan.chain(target, drafter, draft_len, **{"draft": draft, "max_running": 64, **others})  # type: ignore[arg-type]


VLLM_PLANS: Final[dict[str, tuple[DraftPlan, bool]]] = {
    "no speculation": (DraftPlan(target="models/target", max_running=64), False),
    "n-gram chain": (plan("ngram", 4), False),
    "n-gram by batch": (plan("ngram", 4, draft_len_by_batch=TIERS), False),
    "n-gram, synthetic": (plan("ngram", 4, survival=RATES), True),
    "draft model chain": (plan("draft_model", 3), False),
    "draft model by batch": (plan("draft_model", 3, draft_len_by_batch=GAPLESS), False),
    "draft model on one of two": (plan("draft_model", 3, tensor_parallel=2, draft_tensor_parallel=1), False),
    "draft model, synthetic": (plan("draft_model", 4, survival=RATES), True),
    "EAGLE chain": (plan("eagle", 3), False),
    "EAGLE-3 chain": (plan("eagle3", 5), False),
    "EAGLE-3 by batch": (plan("eagle3", 4, draft_len_by_batch=TIERS), False),
    "EAGLE-3 by batch, synthetic": (plan("eagle3", 4, draft_len_by_batch=TIERS, survival=RATES), True),
    "EAGLE-3, fp8 weights": (plan("eagle3", 2, weights="fp8"), False),
    "MTP chain of 1": (plan("mtp", 1), False),
    "MTP by batch": (plan("mtp", 2, draft_len_by_batch=((1, 16, 2), (17, 64, 1))), False),
}
_NGRAM: Final = {"method": "ngram", "num_speculative_tokens": 4}
_DRAFT: Final = {"method": "draft_model", "model": "models/draft", "num_speculative_tokens": 3}
_EAGLE3: Final = {"method": "eagle3", "model": "models/eagle3", "num_speculative_tokens": 4}
_SCHEDULE: Final = "num_speculative_tokens_per_batch_size"
SILENT: Final = "vLLM takes it and does something else"
CHECKPOINT: Final = "needs the checkpoints"
# Name: configuration, and where vLLM and we must differ, why.
VLLM_BY_HAND: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "a token tree": ({**_EAGLE3, "speculative_token_tree": "[(0,)]"}, ""),
    "disable_by_batch_size": ({**_EAGLE3, "disable_by_batch_size": 8}, ""),
    "a misspelt key": ({"method": "ngram", "num_speculative_token": 4}, ""),
    "tensor_parallel_size of the draft": ({**_DRAFT, "tensor_parallel_size": 1}, ""),
    "Medusa": ({**_EAGLE3, "method": "medusa"}, ""),
    "lookahead": ({**_NGRAM, "method": "lookahead"}, ""),
    "no tokens": ({**_NGRAM, "num_speculative_tokens": 0}, ""),
    "n-gram without a length": ({"method": "ngram"}, ""),
    "draft model without a length": ({"method": "draft_model", "model": "models/draft"}, ""),
    "EAGLE-3 without a head": ({"method": "eagle3", "num_speculative_tokens": 4}, ""),
    "draft on two devices of one": ({**_DRAFT, "draft_tensor_parallel_size": 2}, ""),
    "lookup window upside down": ({**_NGRAM, "prompt_lookup_min": 6, "prompt_lookup_max": 5}, ""),
    "lookup window of nothing": ({**_NGRAM, "prompt_lookup_min": 0}, ""),
    "a verifier of 0.19": ({**_NGRAM, "rejection_sample_method": "strict"}, ""),
    "block verification": ({**_NGRAM, "rejection_sample_method": "block"}, ""),
    "rates without synthetic": ({**_NGRAM, "synthetic_acceptance_rates": [0.5, 0.4, 0.3, 0.2]}, ""),
    "synthetic without rates": ({**_NGRAM, "rejection_sample_method": "synthetic"}, ""),
    "synthetic length": (
        {**_NGRAM, "rejection_sample_method": "synthetic", "synthetic_acceptance_length": 2.7}, ""),
    "synthetic length beyond K + 1": (
        {**_NGRAM, "rejection_sample_method": "synthetic", "synthetic_acceptance_length": 5.5}, ""),
    "three rates for four tokens": (
        {**_NGRAM, "rejection_sample_method": "synthetic", "synthetic_acceptance_rates": [1, 1, 1]}, ""),
    "rates that rise": (
        {**_NGRAM, "rejection_sample_method": "synthetic", "synthetic_acceptance_rates": [0.5, 0.6, 0.1, 0]}, ""),
    "a rate above one": (
        {**_NGRAM, "rejection_sample_method": "synthetic", "synthetic_acceptance_rates": [1.5, 0.6, 0.1, 0]}, ""),
    "a length that is not whole": ({**_NGRAM, "num_speculative_tokens": 4.5}, ""),
    "a length that is a switch": ({**_NGRAM, "num_speculative_tokens": True}, SILENT),
    "schedule from 2": ({**_NGRAM, _SCHEDULE: [[2, 8, 4]]}, ""),
    "schedule of nothing": ({**_NGRAM, _SCHEDULE: []}, ""),
    "schedule that overlaps": ({**_NGRAM, _SCHEDULE: [[1, 8, 4], [8, 9, 2]]}, ""),
    "schedule upside down": ({**_NGRAM, _SCHEDULE: [[8, 1, 2]]}, ""),
    "schedule of pairs": ({**_NGRAM, _SCHEDULE: [[1, 8]]}, ""),
    "schedule below zero": ({**_NGRAM, _SCHEDULE: [[1, 8, -1]]}, ""),
    "schedule with a gap": ({**_NGRAM, _SCHEDULE: [[1, 8, 4], [16, 32, 2]]}, ""),
    "schedule above the length": ({**_NGRAM, _SCHEDULE: [[1, 8, 5]]}, SILENT),
    "another vocabulary": ({**_DRAFT, "model": "models/other-vocabulary"}, CHECKPOINT),
    "MTP of a target without it": ({"method": "mtp", "num_speculative_tokens": 1}, CHECKPOINT),
    "draft longer than its context": ({**_DRAFT, "max_model_len": 4096}, CHECKPOINT),
}  # fmt: skip
SGLANG_PLANS: Final[dict[str, tuple[DraftPlan, bool]]] = {
    "no speculation": (DraftPlan(target="models/target", max_running=64), False),
    "n-gram chain": (plan("ngram", 7), False),
    "draft model chain": (plan("draft_model", 3), False),
    "draft model tree": (plan("draft_model", 0, topk_tree=TopkTree(steps=3, topk=2, num_nodes=6)), False),
    "EAGLE chain": (plan("eagle", 3), False),
    "EAGLE-3 chain": (plan("eagle3", 5), False),
    "EAGLE-3 tree": (plan("eagle3", 0, topk_tree=TopkTree(steps=5, topk=4, num_nodes=8)), False),
    "EAGLE-3 tree at its capacity": (
        plan("eagle3", 0, topk_tree=TopkTree(steps=3, topk=4, num_nodes=37)), False),
    "EAGLE-3 by batch": (plan("eagle3", 4, draft_len_by_batch=TIERS), False),
    "EAGLE by batch": (plan("eagle", 3, draft_len_by_batch=GAPLESS), False),
    "EAGLE-3, synthetic": (plan("eagle3", 4, survival=RATES), True),
    "MTP chain of 1": (plan("mtp", 1), False),
}  # fmt: skip
_TARGET: Final = "--model-path models/target --max-running-requests 64 "
_HEAD: Final = _TARGET + "--speculative-algorithm EAGLE3 --speculative-draft-model-path models/eagle3 "
_TRIPLE: Final = "--speculative-num-steps {} --speculative-eagle-topk {} --speculative-num-draft-tokens {}"
_ADAPTIVE: Final = f"--speculative-adaptive --speculative-adaptive-config {ADAPTIVE_FILE}"
SG_SILENT: Final = "SGLang takes it and does something else, or dies later"
# Name: arguments, table of draft lengths, and where SGLang and we must differ, why.
SGLANG_BY_HAND: Final[dict[str, tuple[str, Any, str]]] = {
    "Medusa": (_TARGET + "--speculative-algorithm MEDUSA", None, ""),
    "a flag of 0.5.9": (_TARGET + "--speculative-algorithm NGRAM --speculative-ngram-branch-length 18", None, ""),
    "steps alone": (_HEAD + "--speculative-num-steps 3", None, ""),
    "no triple": (_HEAD, None, ""),
    "a chain that forgets its root": (_HEAD + _TRIPLE.format(3, 1, 3), None, SG_SILENT),
    "a tree beyond its capacity": (_HEAD + _TRIPLE.format(1, 2, 64), None, SG_SILENT),
    "a number in words": (_HEAD + _TRIPLE.format("three", 1, 4), None, ""),
    "standalone without a draft": (
        _TARGET + "--speculative-algorithm STANDALONE " + _TRIPLE.format(3, 1, 4), None, SG_SILENT),
    "n-gram breadths upside down": (
        _TARGET + "--speculative-algorithm NGRAM --speculative-ngram-min-bfs-breadth 4 "
        "--speculative-ngram-max-bfs-breadth 2", None, SG_SILENT),
    "table without slots": (_HEAD + _TRIPLE.format(3, 1, 4) + " " + _ADAPTIVE, {"candidate_steps": [1, 3, 7]}, ""),
    "table without the steps": (
        _HEAD + _TRIPLE.format(3, 1, 4) + " " + _ADAPTIVE, {"1": {"candidate_steps": [2]}}, ""),
    "table of a negative step": (
        _HEAD + _TRIPLE.format(3, 1, 4) + " " + _ADAPTIVE, {"1": {"candidate_steps": [3, -1]}}, ""),
    "table of no candidates": (
        _HEAD + _TRIPLE.format(3, 1, 4) + " " + _ADAPTIVE, {"1": {"candidate_steps": []}}, ""),
    "table that starts at 8": (
        _HEAD + _TRIPLE.format(3, 1, 4) + " " + _ADAPTIVE, {"8": {"candidate_steps": [3]}}, SG_SILENT),
    "table for a tree": (
        _HEAD + _TRIPLE.format(3, 2, 6) + " " + _ADAPTIVE, {"1": {"candidate_steps": [3]}}, SG_SILENT),
    "table for a draft model": (
        _TARGET + "--speculative-algorithm STANDALONE --speculative-draft-model-path models/draft "
        + _TRIPLE.format(3, 1, 4) + " " + _ADAPTIVE, {"1": {"candidate_steps": [3]}}, SG_SILENT),
    "rejection sampling of a tree": (
        _HEAD + _TRIPLE.format(3, 2, 6) + " --speculative-use-rejection-sampling", None, ""),
    "rejection sampling of n-grams": (
        _TARGET + "--speculative-algorithm NGRAM --speculative-use-rejection-sampling", None, SG_SILENT),
    "rejection sampling with a threshold": (
        _HEAD + _TRIPLE.format(3, 1, 4)
        + " --speculative-use-rejection-sampling --speculative-accept-threshold-single 0.9", None, ""),
    "a threshold above one": (
        _HEAD + _TRIPLE.format(3, 1, 4) + " --speculative-accept-threshold-single 1.5", None, SG_SILENT),
}  # fmt: skip


def vllm_cases() -> list[dict[str, Any]]:
    """Every vLLM launch with our own verdict; ``schedule`` is what its scheduler would check when it starts."""
    cases = []
    for name, (asked, synthetic) in VLLM_PLANS.items():
        export = to_vllm(asked, VERSIONS["vllm"], synthetic=synthetic)
        cases.append(_exported(name, export, 2))
    for name, (config, differs) in VLLM_BY_HAND.items():
        argv = ["models/target", "--max-num-seqs", "64", "--speculative-config", json.dumps(config)]
        cases.append(_case(name, "by hand", argv, {}, differs, lambda c=config: check_vllm(c, VERSIONS["vllm"])))
    return cases


def sglang_cases() -> list[dict[str, Any]]:
    """Every SGLang launch with our own verdict."""
    cases = []
    for name, (asked, synthetic) in SGLANG_PLANS.items():
        export = to_sglang(asked, VERSIONS["sglang"], synthetic=synthetic)
        cases.append(_exported(name, export, 3))
    for name, (words, table, differs) in SGLANG_BY_HAND.items():
        files = {} if table is None else {ADAPTIVE_FILE: json.dumps(table)}
        argv = shlex.split(words)
        cases.append(_case(name, "by hand", argv, files, differs, lambda a=argv, t=table: _our_sglang(a, t)))
    return cases


CASES: Final[dict[str, Callable[[], list[dict[str, Any]]]]] = {"vllm": vllm_cases, "sglang": sglang_cases}


def _our_sglang(argv: list[str], table: Any) -> None:
    check_sglang(argv, VERSIONS["sglang"])
    if table is not None:
        check_adaptive_table(table, int(argv[argv.index("--speculative-num-steps") + 1]))


def _exported(name: str, export: Export, num_words: int) -> dict[str, Any]:
    argv = shlex.split(export.command)[num_words:]
    return _case(name, "exporter", argv, export.files, "", lambda: None) | {"env": export.env}


def _case(
    name: str, by: str, argv: list[str], files: Mapping[str, str], differs: str, ours: Callable[[], object]
) -> dict[str, Any]:
    try:
        ours()
        verdict = "accept"
    except InputError:
        verdict = "reject"
    return {"name": name, "by": by, "argv": argv, "files": dict(files), "differs": differs, "ours": verdict}
