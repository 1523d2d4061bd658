"""From the words of a command line to a policy, a rule and a drafter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, get_args

from pydantic import Field, TypeAdapter, ValidationError

from specsim.decoding import Draw, TreePolicy
from specsim.decoding.policies.best_first import BestFirst
from specsim.decoding.policies.confidence import ConfidenceChain
from specsim.decoding.policies.dyspec import DySpec
from specsim.decoding.policies.eagle2 import Eagle2
from specsim.decoding.policies.opt_tree import OptTree
from specsim.decoding.policies.rsd import StochasticBeam
from specsim.decoding.policies.talon import Talon
from specsim.decoding.rules import Rule
from specsim.errors import InputError
from specsim.executor.drafters.base import Drafter
from specsim.executor.drafters.cascade import Cascade
from specsim.executor.drafters.eagle import load_eagle
from specsim.executor.drafters.itself import load_skipped
from specsim.executor.drafters.lookahead import Lookahead
from specsim.executor.drafters.lookup import PromptLookup
from specsim.executor.drafters.medusa import load_medusa
from specsim.executor.drafters.model import ModelDrafter, load_model_drafter
from specsim.executor.drafters.recycling import TokenRecycling
from specsim.executor.llama import Llama

GrownPolicy: TypeAlias = Eagle2 | BestFirst | OptTree | Talon | ConfidenceChain | DySpec | StochasticBeam
"""Policies whose tree follows from what the drafter says; static ones are named by their tree."""

_POLICY: Final[TypeAdapter[GrownPolicy]] = TypeAdapter(Annotated[GrownPolicy, Field(discriminator="kind")])


def policy_from(text: str) -> TreePolicy:
    """A policy from its kind and its fields.

    Raises:
        InputError: for a kind that is none, a field that is missing, unknown or out of range.

    >>> policy_from("eagle2 top_k=4 depth=3 total_tokens=16")
    Eagle2(top_k=4, depth=3, total_tokens=16, kind='eagle2')
    """
    kind, *words = text.split() or [""]
    kinds = [policy.kind for policy in get_args(GrownPolicy)]
    if kind not in kinds:
        raise InputError("policy", f"must begin with one of {', '.join(kinds)}", text)
    fields: dict[str, Any] = {"kind": kind}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name in fields:
            raise InputError("policy", "must be a kind followed by field=value, each once", word)
        fields[name] = _number(value)
    try:
        policy: TreePolicy = _POLICY.validate_python(fields)
    except ValidationError as error:
        raise InputError.from_validation(error, "policy") from None
    known = [field.name for field in dataclasses.fields(type(policy))]  # type: ignore[arg-type]
    for name in fields:
        if name not in known:
            raise InputError(f"policy: {kind}", f"has the fields {', '.join(known)} and no other", name)
    return policy


def _number(text: str) -> int | float | str:
    """What these characters mean: a number where they are one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def usual_rule(draw: Draw, is_chain: bool, temperature: float) -> Rule:
    """The lossless rule that suits: greedy at temperature 0; above it, what suits how children are chosen.

    >>> usual_rule("top", is_chain=False, temperature=1.0)
    'one_hot'
    """
    if temperature == 0:
        return "greedy"
    if draw == "top":
        return "one_hot"
    if draw == "sampled_with_replacement":
        return "recursive_rejection_with_replacement"
    return "token_rejection" if is_chain else "recursive_rejection"


DRAFTERS: Final[dict[str, Callable[[Llama, Path, Path], Drafter]]] = {
    "model": lambda target, target_dir, folder: load_model_drafter(target, target_dir, folder),
    "eagle": lambda target, _, folder: load_eagle(folder, target),
    "medusa": lambda target, _, folder: load_medusa(folder, target),
    "skipped": lambda target, _, folder: load_skipped(folder, target),
    "lookup": lambda target, *_: PromptLookup(target.shape.vocab_size),
    "recycling": lambda target, *_: TokenRecycling(target.shape.vocab_size),
    "lookahead": lambda target, *_: Lookahead(target.shape.vocab_size),
    "cascade": lambda target, target_dir, folder: _cascade(target, target_dir, folder),
}
"""Drafters by name, each made from the target, its folder, and what of the drafter lies on disk."""

SHIPPED: Final = {"model": "draft", "eagle": "eagle", "medusa": "medusa", "skipped": "skipped.json", "cascade": "draft"}
"""What of each drafter ships beside the tiny target."""

NEEDS_NO_FILES: Final = tuple(name for name in DRAFTERS if name not in SHIPPED)


def drafter_named(name: str, target: Llama, target_dir: Path, source: Path | None, tiny: Path) -> Drafter:
    """A drafter by name, read from ``source``, or the shipped one for the shipped target in ``tiny``.

    Raises:
        InputError: for a name that is none, or a drafter whose files are missing or do not fit the target.
    """
    if name not in DRAFTERS:
        raise InputError("drafter", f"must be one of {', '.join(DRAFTERS)}", name)
    if name in NEEDS_NO_FILES:
        if source is not None:
            raise InputError("draft", f"must be left out for {name}, which reads nothing", str(source))
        return DRAFTERS[name](target, target_dir, tiny)
    if source is None:
        if target_dir != tiny / "target":
            raise InputError("draft", "must be given together with the target")
        source = tiny / SHIPPED[name]
    return DRAFTERS[name](target, target_dir, source)


def _cascade(target: Llama, target_dir: Path, folder: Path) -> Drafter:
    """A small model that is itself drafted for by prompt lookup."""
    middle = load_model_drafter(target, target_dir, folder)
    if not isinstance(middle, ModelDrafter) or middle.shared is not None:
        raise InputError("draft", "must have the target's vocabulary in a cascade", str(folder))
    return Cascade(middle.model, PromptLookup(target.shape.vocab_size), num_ahead=4)
