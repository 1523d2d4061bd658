"""Published acceptance as facts: one row for each method, target, drafter, data set, temperature and length measured.

The numbers are those of the sources that each row names, averaged over batch sizes, devices and repetitions, on which
acceptance does not depend. Left out: lossy rules; typical anomalies that their own authors doubt; dynamic trees of
5 and 7 drafted nodes, which accept less than chains of the same depth; contexts beyond a drafter's training (see
``adjustments``); independent chains. ``alpha`` is ``conventions`` applied to ``value``.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from specsim.acceptance.conventions import Convention, Shape

PATH = Path(__file__).with_name("priors.csv")


@dataclass(frozen=True)
class Fact:
    """One published measurement.

    Attributes:
        method: What drafts.
        target, family: Model, and the family it belongs to.
        draft: The drafter's weights, where named.
        task, dataset: Kind of text, and the set of prompts.
        temperature: Of target and draft; None where the source does not say.
        shape, draft_len, nodes, depth: What was drafted; shape is None where it is known by its name alone.
        convention, value: The number as printed.
        alpha: What it amounts to for a chain; None where the shape is None.
        study: Sources that share an author or a harness are one study.
        source: Where it is printed.
    """

    method: str
    target: str
    family: str
    draft: str
    task: str
    dataset: str
    temperature: float | None
    shape: Shape | None
    draft_len: int | None
    nodes: int | None
    depth: int | None
    convention: Convention
    value: float
    alpha: float | None
    study: str
    source: str

    @property
    def length(self) -> int | None:
        """Tokens that a round could accept at most."""
        return self.draft_len or self.depth or {"eagle-25": 5, "medusa-63": 4}.get(self.shape or "")

    @property
    def label(self) -> str:
        """In few words."""
        at = "?" if self.temperature is None else f"{self.temperature:g}"
        drafted = f"chain {self.draft_len}" if self.shape == "chain" else self.shape or "its own configuration"
        if self.shape == "best tree":
            drafted = f"tree of {self.nodes} nodes"
        unit = {"alpha": "per token", "tokens_with_bonus": "tokens/round"}.get(self.convention, self.convention)
        return (
            f"{self.method} on {self.target}, {self.dataset}, T {at}, {drafted}: {self.value:g} {unit} ({self.study})"
        )


@cache
def facts() -> tuple[Fact, ...]:
    """All rows.

    >>> len(facts()) > 400, facts()[0].source
    (True, 'github Tencent/AngelSlim README.md section 1.1 @67394ce')
    """
    with PATH.open(encoding="utf-8", newline="") as file:
        return tuple(_fact(row) for row in csv.DictReader(file))


def _fact(row: dict[str, str]) -> Fact:
    def number(name: str) -> float | None:
        return float(row[name]) if row[name] else None

    def count(name: str) -> int | None:
        return int(row[name]) if row[name] else None

    return Fact(
        **{name: row[name] for name in ("method", "target", "family", "draft", "task", "dataset", "study", "source")},
        temperature=number("temperature"),
        shape=row["shape"] or None,  # type: ignore[arg-type]
        draft_len=count("draft_len"),
        nodes=count("nodes"),
        depth=count("depth"),
        convention=row["convention"],  # type: ignore[arg-type]
        value=float(row["value"]),
        alpha=number("alpha"),
    )


def plain_name(model: str) -> str:
    """A model's name without owner, tuning and case, as the table has it.

    >>> plain_name("meta-llama/Llama-3.1-8B-Instruct"), plain_name("lmsys/vicuna-13b-v1.3")
    ('llama-3.1-8b', 'vicuna-13b')
    """
    name = model.rpartition("/")[2].lower().replace("meta-", "").replace("_", "-")
    for ending in ("-instruct", "-chat", "-hf", "-it", "-2507", "-v1.3", "-v1.5", "-v0.1", "-fp8"):
        name = name.replace(ending, "")
    return name


def family_of(model: str) -> str | None:
    """The family of a model, if the table knows one that its name holds.

    >>> family_of("llama-3.3-70b"), family_of("qwen3-coder-480b-a35b"), family_of("falcon-7b")
    ('llama-3', 'qwen3-coder', None)
    """
    name = plain_name(model)
    by_target = {fact.target: fact.family for fact in facts()}
    if name in by_target:
        return by_target[name]
    held = [family for family in set(by_target.values()) if family in name]
    return max(held, key=len) if held else None
