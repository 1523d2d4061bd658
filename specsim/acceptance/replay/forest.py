"""A recorded forest: at every position of a text, the draft laws that a superset of policies ran, cut to their top.

Every position has a root law, the drafter's answer after the text up to there. A law keeps its most probable tokens,
best first (ties: lower token first), each with the target's probability and, where the drafter went on from it, the
number of the law after it. What a law leaves out is at most as probable as ``next_probs``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.replay.forced import ForcedText
from specsim.documents import Document, parse
from specsim.errors import InputError

FORMAT: Final = "specsim.forest/1"
NOT_RUN: Final = -1


class ForestFacts(Document):
    """How a forest was recorded; texts recorded otherwise do not belong to it.

    Attributes:
        drafter: Whose laws; its guesses must follow from the text alone.
        models: What was run.
        temperature, top_k, top_p: The law that the texts follow.
        policies: Whose every request was recorded, beside the most probable nodes.
        num_laws, max_depth: Most probable nodes run at each position, and how deep.
        num_nodes: Most probable nodes kept, run or not.
        num_children: Candidates kept after each node run, at least.
        num_draws: Draws without replacement told apart at each token.
        output_tokens: Tokens of each text after its prompt; all but the last ``tail_tokens`` are positions.
        tail_tokens: Looked ahead at only.
        seed: Of the texts.
    """

    drafter: str
    models: str
    temperature: float
    top_k: int | None = None
    top_p: float | None = None
    policies: tuple[str, ...] = ()
    num_laws: int
    num_nodes: int
    num_children: int
    max_depth: int
    num_draws: int
    output_tokens: int
    tail_tokens: int
    seed: int


@dataclass(frozen=True, eq=False)
class Laws:
    """Draft laws of one text, law l's tokens at ``first[l]`` to ``first[l + 1]``.

    Attributes:
        first: ``[l + 1]``.
        tokens, draft_probs, target_probs: ``[c]``, best first within each law; the target's law after the same node.
        child_law: ``[c]`` number of the law after the token, -1 where it was not recorded.
        next_probs: ``[l]`` the largest draft probability left out; 0 where nothing is.
        entropy: ``[l]`` of the target's whole law after the node, in nats.

    Raises:
        InputError: for arrays that do not agree.
    """

    first: NDArray[np.int64]
    tokens: NDArray[np.int32]
    draft_probs: NDArray[np.float32]
    target_probs: NDArray[np.float32] | None
    child_law: NDArray[np.int32]
    next_probs: NDArray[np.float32]
    entropy: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        num_laws, num_tokens = len(self.first) - 1, len(self.tokens)
        sizes = {"draft_probs": num_tokens, "target_probs": num_tokens, "child_law": num_tokens}
        for name, size in (sizes | {"next_probs": num_laws, "entropy": num_laws}).items():
            if (values := getattr(self, name)) is not None and values.shape != (size,):
                raise InputError(name, f"must have {size} entries", values.shape)
        if num_laws < 1 or self.first[0] != 0 or self.first[-1] != num_tokens or np.any(np.diff(self.first) < 0):
            raise InputError("first", f"must rise from 0 to {num_tokens}", self.first.tolist()[:8])
        if num_tokens and not -1 <= self.child_law.min() <= self.child_law.max() < num_laws:
            raise InputError("child_law", f"must be from -1 to {num_laws - 1}", int(self.child_law.max()))
        within = np.ones(num_tokens, dtype=bool)
        within[self.first[:-1][np.diff(self.first) > 0]] = False
        if np.any(np.diff(self.draft_probs, prepend=np.float32(0))[within] > 0):
            raise InputError("draft_probs", "must fall within each law")


@dataclass(frozen=True, eq=False)
class RecordedText:
    """One text with its forest.

    Attributes:
        tokens: Prompt and output; the last few may lie beyond the recorded positions.
        begin: Tokens of the prompt.
        roots: ``[t]`` the law after ``tokens[: begin + t]``.
        laws: All of them.
        forced: What both models say of the output's own tokens, for drafts that are sampled; None at temperature 0.
    """

    tokens: NDArray[np.int64]
    begin: int
    roots: NDArray[np.int64]
    laws: Laws
    forced: ForcedText | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.begin <= len(self.tokens) - len(self.roots):
            limit = len(self.tokens) - len(self.roots)
            raise InputError("begin", f"must be from 1 to {limit}, every position followed by a token", self.begin)
        if not 0 <= self.roots.min(initial=0) <= self.roots.max(initial=0) < len(self.laws.next_probs):
            raise InputError("roots", f"must be from 0 to {len(self.laws.next_probs) - 1}", int(self.roots.max()))

    @property
    def output(self) -> NDArray[np.int64]:
        """The tokens after the prompt: position t is followed by ``output[t]``."""
        return self.tokens[self.begin :]


@dataclass(frozen=True, eq=False)
class Forest:
    """Recorded texts that belong together."""

    facts: ForestFacts
    texts: Sequence[RecordedText]

    def __post_init__(self) -> None:
        if not self.texts:
            raise InputError("texts", "must be at least one", 0)


def save_text(text: RecordedText, facts: ForestFacts, path: Path) -> None:
    """Write one text as an ``.npz``, whole or not at all, so that an interrupted recording keeps what it has.

    Its arrays are ``tokens``, ``begin``, ``roots``, ``laws.<field>``, ``forced.<field>`` as the types name them, and
    ``format`` and ``facts``: a name and a JSON text.
    """
    arrays: dict[str, Any] = {"tokens": text.tokens, "begin": np.array(text.begin), "roots": text.roots}
    for name, part in (("laws", text.laws), ("forced", text.forced)):
        if part is not None:
            given = ((field.name, getattr(part, field.name)) for field in fields(part))
            arrays |= {f"{name}.{key}": values for key, values in given if values is not None}
    unfinished = path.with_suffix(".part")
    try:
        with unfinished.open("wb") as file:
            np.savez(file, format=np.array(FORMAT), facts=np.array(facts.model_dump_json()), **arrays)
        os.replace(unfinished, path)
    except OSError as error:
        raise InputError("forest", f"can not be written ({error.strerror or error})", str(path)) from None


def load_text(path: Path) -> tuple[ForestFacts, RecordedText]:
    """One text and how it was recorded. Raises InputError for a file that is none, or is broken."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise InputError(path.name, f"can not be read ({error})") from None
    except Exception as error:  # a zip archive that is cut short raises what zipfile likes
        raise InputError(path.name, f"is no recorded text ({type(error).__name__})") from None
    if str(arrays.get("format")) != FORMAT:
        raise InputError(path.name, f"must have the format {FORMAT}", str(arrays.get("format")))
    try:
        facts = ForestFacts.model_validate_json(str(arrays["facts"]))
        parts = {
            kind: {k.partition(".")[2]: v for k, v in arrays.items() if k.startswith(f"{kind}.")}
            for kind in ("laws", "forced")
        }
        forced = ForcedText(**parts["forced"]) if parts["forced"] else None
        laws = Laws(**({"target_probs": None, "entropy": None} | parts["laws"]))
        return facts, RecordedText(arrays["tokens"], int(arrays["begin"]), arrays["roots"], laws, forced)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(path.name, f"is no recorded text ({error})") from None


def load_forest(folder: Path) -> Forest:
    """All texts of a folder, which must have been recorded alike.

    Raises:
        InputError: for a folder without texts, a broken one, or texts recorded in different ways.
    """
    paths = sorted(folder.glob("text-*.npz"))
    if not paths:
        raise InputError("forest", "must be a folder of recorded texts (text-0000.npz, ...)", str(folder))
    loaded = [load_text(path) for path in paths]
    for path, (facts, _) in zip(paths, loaded, strict=True):
        check_alike(facts, loaded[0][0], path)
    return Forest(loaded[0][0], [text for _, text in loaded])


def check_alike(facts: ForestFacts, others: ForestFacts, path: Path) -> None:
    """Raise InputError naming the first difference between how two texts were recorded."""
    for name in ForestFacts.model_fields:
        if getattr(facts, name) != getattr(others, name):
            limit = f"{name} must be that of the other texts, {getattr(others, name)!r}"
            raise InputError(path.name, limit, getattr(facts, name))


def facts_from(data: Any) -> ForestFacts:
    """Facts from plain values. Raises InputError naming the first that is wrong."""
    return parse(ForestFacts, data, "forest")
