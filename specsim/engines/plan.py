"""A draft configuration in no engine's words, and what a translation of it looks like."""

from __future__ import annotations

import json
from typing import Any

from pydantic import Field, model_validator

from specsim.dialect import DrafterKind, TopkTree
from specsim.documents import Document
from specsim.errors import InfeasibleError, InputError
from specsim.model import Dtype
from specsim.tree import MAX_NODES, DraftTree

_DRAFT_NEEDED = ("draft_model", "eagle", "eagle3", "medusa")
_DRAFT_ABSENT = ("none", "ngram")


class DraftPlan(Document):
    """What to serve and how to speculate.

    Args:
        target, draft: Repository id or path. An MTP drafter is part of its target unless ``draft`` is given.
        drafter: Kind of drafter; ``none`` is no speculation.
        parents: The tree as ``DraftTree`` writes it; the root alone for no speculation or beside ``topk_tree``.
        topk_tree: A tree grown at run time, instead of ``parents``.
        draft_len_by_batch: Tiers ``(start, end, draft_len)`` over the number of running requests, both ends inside,
            from 1 without gaps; the last tier also holds above its end. Chains only; the largest is the chain's length.
        weights, draft_weights: Format the weights are to have, where the checkpoint's own was not what was priced.
        tensor_parallel, draft_tensor_parallel: Devices that share the target, and the draft (default: the same).
        max_running: Most requests that run at once; the engine's own default where left out.
        temperature: Of the traffic the plan was tuned for, where known.
        survival: Predicted probability that at least i drafted tokens are accepted, i = 1..depth.
        confidence_stop: Drafting ends before the first token that the drafter gives less than this probability.

    >>> DraftPlan.chain("org/target", "eagle3", 4, draft="org/head").tree().num_drafted
    4
    """

    target: str = Field(min_length=1, max_length=4096)
    drafter: DrafterKind = "none"
    draft: str | None = Field(default=None, min_length=1, max_length=4096)
    parents: tuple[int, ...] = Field(default=(-1,), max_length=MAX_NODES)
    topk_tree: TopkTree | None = None
    draft_len_by_batch: tuple[tuple[int, int, int], ...] | None = None
    weights: Dtype | None = None
    draft_weights: Dtype | None = None
    tensor_parallel: int = Field(default=1, ge=1)
    draft_tensor_parallel: int | None = Field(default=None, ge=1)
    max_running: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0)
    survival: tuple[float, ...] | None = None
    confidence_stop: float | None = Field(default=None, gt=0, lt=1)

    @classmethod
    def chain(cls, target: str, drafter: DrafterKind, draft_len: int, **others: Any) -> DraftPlan:
        """A plan that drafts ``draft_len`` tokens, one after another."""
        return cls(target=target, drafter=drafter, parents=DraftTree.chain(draft_len).parents, **others)

    def tree(self) -> DraftTree | TopkTree:
        """The shape that one round drafts."""
        return self.topk_tree or DraftTree(self.parents)

    def without_speculation(self) -> DraftPlan:
        """The same deployment, decoding one token at a time."""
        return DraftPlan(
            target=self.target,
            weights=self.weights,
            tensor_parallel=self.tensor_parallel,
            max_running=self.max_running,
            temperature=self.temperature,
        )

    def but(self, **changes: Any) -> DraftPlan:
        """A copy with some fields changed, checked again."""
        return DraftPlan.model_validate(self.model_dump() | changes)

    @model_validator(mode="after")
    def _names_are_printable(self) -> DraftPlan:
        for name in ("target", "draft"):
            text = getattr(self, name) or "x"
            if not text.isprintable():
                raise ValueError(f"{name} must be printable text on one line")
            if text.startswith("-"):
                raise ValueError(f"{name} must not begin with '-': an engine would read it as an option")
        return self

    @model_validator(mode="after")
    def _drafter_is_whole(self) -> DraftPlan:
        try:
            num_drafted = DraftTree(self.parents).num_drafted
        except InputError as error:
            raise ValueError(str(error)) from None
        speculates = num_drafted > 0 or self.topk_tree is not None
        if num_drafted > 0 and self.topk_tree is not None:
            raise ValueError("parents and topk_tree exclude each other")
        if speculates != (self.drafter != "none"):
            raise ValueError(f"drafter {self.drafter} can not draft {num_drafted} tokens")
        if self.confidence_stop is not None and not speculates:
            raise ValueError("confidence_stop needs a drafter")
        if self.drafter in _DRAFT_NEEDED and self.draft is None:
            raise ValueError(f"draft is required by the {self.drafter} drafter")
        if self.drafter in _DRAFT_ABSENT and (self.draft or self.draft_weights or self.draft_tensor_parallel):
            raise ValueError(f"the {self.drafter} drafter has no draft model")
        return self

    @model_validator(mode="after")
    def _schedule_covers(self) -> DraftPlan:
        if self.draft_len_by_batch is None:
            return self
        tree, next_start = self.tree(), 1
        if not isinstance(tree, DraftTree) or not tree.is_chain or tree.num_drafted == 0:
            raise ValueError("draft_len_by_batch needs a chain")
        for start, end, draft_len in self.draft_len_by_batch:
            if start != next_start or end < start or draft_len < 0:
                raise ValueError(
                    f"draft_len_by_batch must be tiers from 1 without gaps, draft_len >= 0, got "
                    f"({start}, {end}, {draft_len}) where {next_start} should start"
                )
            next_start = end + 1
        if max((tier[2] for tier in self.draft_len_by_batch), default=0) != tree.num_drafted:
            raise ValueError(f"the largest of draft_len_by_batch must be the chain's length {tree.num_drafted}")
        return self

    @model_validator(mode="after")
    def _survival_decreases(self) -> DraftPlan:
        if self.survival is None:
            return self
        tree = self.tree()
        depth = tree.depth if isinstance(tree, DraftTree) else tree.steps
        if len(self.survival) != depth:
            raise ValueError(f"survival must have one entry per depth, {depth}, got {len(self.survival)}")
        bounds = zip((1.0, *self.survival), (*self.survival, 0.0), strict=True)
        if any(deeper > shallower for shallower, deeper in bounds):
            raise ValueError("survival must lie in [0, 1] and never rise with depth")
        return self


def synthetic_rates(plan: DraftPlan) -> tuple[float, ...]:
    """Unconditional acceptance by position, for engines that can be made to accept so.

    Raises:
        InputError: for a plan without a prediction.
    """
    if plan.survival is None:
        raise InputError("survival", "is required for synthetic acceptance: predict the plan first")
    return plan.survival


def mean_accepted(plan: DraftPlan) -> float:
    """Predicted draft tokens accepted per round, bonus out: the sum of survival.

    >>> round(mean_accepted(DraftPlan.chain("t", "ngram", 2, survival=(0.8, 0.5))), 3)
    1.3
    """
    return float(sum(synthetic_rates(plan)))


class Export(Document):
    """A plan in one engine's words.

    Args:
        command: The launch command, quoted for a POSIX shell; ``env`` stands before it.
        env: Environment variables that it needs.
        config: The engine's speculative options alone: its own names and values; empty without speculation.
        files: Content of each file that the command refers to, to be written beside it.
        notes: What the user should know before relying on it.
    """

    engine: str
    version: str
    command: str
    config: dict[str, Any]
    env: dict[str, str] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()


class UnexpressibleError(InfeasibleError):
    """The engine can not run the plan; ``nearest`` is the closest plan that it can, for the caller to evaluate."""

    def __init__(self, reason: str, nearest: DraftPlan) -> None:
        self.reason, self.nearest = reason, nearest
        super().__init__(f"{reason}; nearest expressible plan: {describe(nearest)}")


def describe(plan: DraftPlan) -> str:
    """The drafting part of a plan in a few words.

    >>> describe(DraftPlan.chain("t", "ngram", 3)), describe(DraftPlan(target="t"))
    ('ngram chain of 3', 'no speculation')
    """
    tree = plan.tree()
    if isinstance(tree, TopkTree):
        text = f"{plan.drafter} top-k tree, steps {tree.steps}, topk {tree.topk}, {tree.num_nodes} nodes with the root"
    elif not tree.num_drafted:
        return "no speculation"
    else:
        text = f"{plan.drafter} {'chain' if tree.is_chain else 'tree'} of {tree.num_drafted}"
    if plan.draft_len_by_batch is not None:
        text += f", by batch {json.dumps(plan.draft_len_by_batch)}"
    if plan.confidence_stop is not None:
        text += f", stopping below {plan.confidence_stop:g}"
    if plan.draft_tensor_parallel is not None:
        text += f", draft on {plan.draft_tensor_parallel} devices"
    return text
