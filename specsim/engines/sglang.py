"""Export to SGLang: the flags of its launcher, and the table of draft lengths by batch size.

Source: ``sglang/srt/server_args.py``, ``arg_groups/speculative_hook.py`` and ``speculative/adaptive_spec_params.py`` of
the wheels 0.5.5 to 0.5.23.
"""

from __future__ import annotations

import json
import shlex
from typing import Any, Final

from specsim.dialect import TopkTree, dialect, parse_version
from specsim.engines.plan import DraftPlan, Export, mean_accepted
from specsim.engines.sglang_rules import check_adaptive_table, check_sglang
from specsim.engines.translate import require_expressible
from specsim.engines.weights import CONVERTED, checkpoint_notes, weight_flags

ADAPTIVE_FILE: Final = "draft_len_by_batch.json"
RUNNING_CAP: Final = 48
"""``--max-running-requests`` when it is not given and speculation is on (0.5.5 to 0.5.23)."""
_DRAFT_QUANTIZATION_SINCE: Final = (0, 5, 14)


def to_sglang(plan: DraftPlan, version: str, *, synthetic: bool = False) -> Export:
    """The plan in SGLang's words.

    Args:
        plan: What to serve.
        version: SGLang's, such as ``0.5.23``.
        synthetic: Make the server accept as many drafts on average as ``plan.survival`` says, whatever they say. Its
            output is then not the target's.

    Raises:
        UnexpressibleError: with the reason and the nearest plan that SGLang can run.
        InputError: for a version that is not known, or ``synthetic`` without ``survival``.

    >>> plan = DraftPlan.chain("org/target", "eagle3", 3, draft="org/head")
    >>> to_sglang(plan, "0.5.23").config["--speculative-num-draft-tokens"]
    4
    """
    row = dialect("sglang", version)
    require_expressible(plan, row)
    flags: dict[str, Any] = {"--model-path": plan.target, "--tp-size": plan.tensor_parallel}
    flags |= weight_flags(plan.weights)
    converts = parse_version(version) >= _DRAFT_QUANTIZATION_SINCE
    if plan.max_running is not None:
        flags["--max-running-requests"] = plan.max_running
    config: dict[str, Any] = {}
    files: dict[str, str] = {}
    if plan.drafter == "none":
        notes = ["no speculation is the plan: the command has no speculative option, and adding one would slow it down"]
    else:
        config, files = _config(plan, row.methods[plan.drafter])
        config |= _draft_quantization(plan) if converts else {}
        notes = _notes(plan, converts)
    notes += checkpoint_notes(plan, draft_converts=converts)
    argv = _argv(flags | config)
    warnings = check_sglang(argv, version)
    if files:
        check_adaptive_table(json.loads(files[ADAPTIVE_FILE]), config["--speculative-num-steps"])
    return Export(
        engine="sglang",
        version=version,
        command=shlex.join(["python", "-m", "sglang.launch_server", *argv]),
        config=config,
        env=_synthetic(plan) if synthetic and config else {},
        files=files,
        notes=(*warnings, *notes),
    )


def _config(plan: DraftPlan, algorithm: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The speculative flags, and the files that they name."""
    config: dict[str, Any] = {"--speculative-algorithm": algorithm}
    if plan.draft is not None:
        config["--speculative-draft-model-path"] = plan.draft
    tree = plan.tree()
    if plan.drafter == "ngram":
        # The trie derives steps and topk itself; breadth 1 is its narrowest search.
        config["--speculative-num-draft-tokens"] = tree.num_nodes
        config["--speculative-ngram-min-bfs-breadth"] = 1
        config["--speculative-ngram-max-bfs-breadth"] = 1
        return config, {}
    steps, topk = (tree.steps, tree.topk) if isinstance(tree, TopkTree) else (tree.num_drafted, 1)
    config["--speculative-num-steps"] = steps
    config["--speculative-eagle-topk"] = topk
    config["--speculative-num-draft-tokens"] = tree.num_nodes
    if plan.draft_len_by_batch is None:
        return config, {}
    # A slot with a single candidate never moves: the adaptive controller becomes a fixed table.
    slots = {str(start): {"candidate_steps": [steps]} for start, _, steps in plan.draft_len_by_batch}
    config["--speculative-adaptive"] = True
    config["--speculative-adaptive-config"] = ADAPTIVE_FILE
    return config, {ADAPTIVE_FILE: json.dumps(slots, indent=2) + "\n"}


def _synthetic(plan: DraftPlan) -> dict[str, str]:
    """A mean length, bonus in: floor or ceiling of it in each round, so the spread is not ours."""
    return {"SGLANG_SIMULATE_ACC_LEN": f"{1 + mean_accepted(plan):.4g}", "SGLANG_SIMULATE_ACC_METHOD": "match-expected"}


def _draft_quantization(plan: DraftPlan) -> dict[str, str]:
    """A draft with a checkpoint of its own takes over the target's ``--quantization`` unless it is told another."""
    flag = "--speculative-draft-model-quantization"
    if plan.draft_weights == CONVERTED:
        return {flag: CONVERTED}
    return {flag: "unquant"} if plan.draft is not None and plan.weights == CONVERTED else {}


def _argv(flags: dict[str, Any]) -> list[str]:
    argv = []
    for flag, value in flags.items():
        argv += [flag] if value is True else [flag, str(value)]
    return argv


def _notes(plan: DraftPlan, converts: bool) -> list[str]:
    notes = []
    if plan.draft is not None and plan.weights == CONVERTED and not converts:
        notes.append("this version converts the draft with the target, whatever format it was priced in")
    if plan.drafter == "ngram":
        notes.append("SGLang fills the draft from several matches at once, so its n-gram drafts may branch")
    if plan.drafter == "mtp" and plan.draft is None:
        notes.append("without a draft path SGLang loads the MTP layers from the target, for the models that it knows")
    if plan.topk_tree is not None:
        notes.append("topk > 1 needs page size 1 or a backend that cascades: flashinfer, and later fa3 and triton")
    if plan.draft_len_by_batch is not None:
        notes.append(
            f"write {ADAPTIVE_FILE} where the server starts; SGLang falls back to the fixed draft length, with a "
            "warning, under data-parallel attention, multi-layer EAGLE, two-batch overlap and pdmux"
        )
    if plan.temperature and plan.drafter != "ngram":
        notes.append(
            "at temperature > 0 SGLang drafts greedily and keeps a token with the target's probability for it, unless "
            "--speculative-use-rejection-sampling is on (0.5.14 and later, EAGLE family, topk 1)"
        )
    return notes
