"""Export to llama.cpp: the options of ``llama-server``.

Source: llama.cpp at 0c1e57098 (inside llama-cpp-python 0.3.36), built and run. Options were renamed on the way:
``--draft-max`` and its kin end the program there, so a server that still has them needs the older words.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Final

from specsim.dialect import dialect
from specsim.engines.plan import DraftPlan, Export, synthetic_rates
from specsim.engines.translate import require_expressible
from specsim.errors import InputError

REMOVED: Final = {
    "--draft": "--spec-draft-n-max", "--draft-n": "--spec-draft-n-max", "--draft-max": "--spec-draft-n-max",
    "--draft-min": "--spec-draft-n-min", "--draft-n-min": "--spec-draft-n-min",
    "--spec-ngram-size-n": "--spec-ngram-simple-size-n", "--spec-ngram-size-m": "--spec-ngram-simple-size-m",
}  # fmt: skip
TYPES: Final = (
    "none", "draft-simple", "draft-eagle3", "draft-dflash", "draft-dspark", "draft-mtp", "ngram-cache", "ngram-simple",
    "ngram-map-k", "ngram-map-k4v", "ngram-mod",
)  # fmt: skip
_NUMBERS: Final = {
    "--spec-draft-n-max": (0, 10**6), "--spec-draft-n-min": (0, 10**6), "--spec-draft-p-min": (0, 1),
    "--spec-draft-p-split": (0, 1), "--spec-ngram-simple-size-n": (1, 1024), "--spec-ngram-simple-size-m": (1, 1024),
    "--parallel": (1, 10**6),
}  # fmt: skip


def to_llamacpp(plan: DraftPlan, version: str, *, synthetic: bool = False) -> Export:
    """The plan in llama.cpp's words.

    Args:
        plan: What to serve; paths of GGUF files.
        version: The commit whose options are known; ``detected_version`` finds it from ``llama-server --help``.
        synthetic: Make the server accept drafts at the rates in ``plan.survival`` whatever they say.

    Raises:
        UnexpressibleError: with the reason and the nearest plan that it can run.
        InputError: for a version that is not known, or ``synthetic`` without ``survival``.

    >>> plan = DraftPlan.chain("t.gguf", "draft_model", 3, draft="d.gguf")
    >>> to_llamacpp(plan, "0c1e57098").config["--spec-draft-n-max"]
    3
    """
    row = dialect("llama.cpp", version)
    require_expressible(plan, row)
    command = ["llama-server", "--model", plan.target]
    if plan.max_running is not None:
        command += ["--parallel", str(plan.max_running)]
    config: dict[str, str | int | float] = {}
    if plan.drafter != "none":
        length = plan.tree().num_nodes - 1
        config["--spec-type"] = row.methods[plan.drafter]
        if plan.draft is not None:
            config["--spec-draft-model"] = plan.draft
        if plan.drafter == "ngram":
            config["--spec-ngram-simple-size-m"] = length
        else:
            config["--spec-draft-n-max"] = length
        if plan.confidence_stop is not None:
            config["--spec-draft-p-min"] = plan.confidence_stop
        if synthetic:
            config["--spec-synth-rates"] = ",".join(f"{rate:.6g}" for rate in synthetic_rates(plan))
    argv = [text for flag, value in config.items() for text in (flag, str(value))]
    check_llamacpp(argv)
    notes = ["llama.cpp shares a draft over no devices; place it with --spec-draft-device where there are several"]
    if plan.drafter != "none" and plan.confidence_stop is None:
        notes.append("each request may set its own speculative.n_max, the only way to draft less under load")
    if synthetic:
        notes.append("acceptance is synthetic; requests of one seed accept alike: give each its own")
    return Export(
        engine="llama.cpp", version=version, command=shlex.join([*command, *argv]), config=config, notes=tuple(notes)
    )


def check_llamacpp(argv: Sequence[str]) -> None:
    """Refuse what ``llama-server`` would refuse of its speculative options, and values that make no sense.

    Raises:
        InputError: naming option, value and limit.

    >>> check_llamacpp(["--draft-max", "8"])
    Traceback (most recent call last):
    specsim.errors.InputError: --draft-max: was removed, its name is now --spec-draft-n-max
    """
    given = dict(zip(argv[::2], argv[1::2], strict=False))
    for flag, value in given.items():
        if flag in REMOVED:
            raise InputError(flag, f"was removed, its name is now {REMOVED[flag]}")
        if flag in _NUMBERS:
            least, most = _NUMBERS[flag]
            if not re.fullmatch(r"\d+(\.\d+)?", value) or not least <= float(value) <= most:
                raise InputError(flag, f"must be a number from {least} to {most}", value)
        if flag == "--spec-type" and not set(value.split(",")) <= set(TYPES):
            raise InputError(flag, f"must be among {', '.join(TYPES)}", value)
    if "--spec-synth-rates" in given:
        rates = [float(rate) for rate in given["--spec-synth-rates"].split(",")]
        length = given.get("--spec-draft-n-max", given.get("--spec-ngram-simple-size-m", "3"))
        if len(rates) != int(length):
            raise InputError("--spec-synth-rates", f"must be one per drafted token, {length}", len(rates))
        if not all(0 <= rate <= 1 for rate in rates) or sorted(rates, reverse=True) != rates:
            raise InputError("--spec-synth-rates", "must be probabilities that never rise", given["--spec-synth-rates"])
    if given.get("--spec-type", "").startswith("draft-simple") and "--spec-draft-model" not in given:
        raise InputError("--spec-draft-model", "is required by draft-simple")


def detected_version(help_text: str) -> str:
    """The commit whose options a server has, from what its ``--help`` prints.

    Raises:
        InputError: where the options are not those of a commit that was read.

    >>> detected_version("--spec-type ... --spec-draft-n-max N ... --spec-synth-rates R")
    '0c1e57098'
    """
    if "--spec-draft-n-max" in help_text and "--spec-type" in help_text:
        return "0c1e57098"
    older = re.search(r"--draft-(max|n)\b", help_text)
    why = "has the older --draft-max and its kin" if older else "has no speculative options that are known"
    raise InputError("llama.cpp version", f"must be one with --spec-draft-n-max; this one {why}")
