"""What every export does before it speaks an engine's words: refuse what the engine has no words for."""

from __future__ import annotations

from specsim.dialect import Dialect, captured_below, expressible, nearest
from specsim.engines.plan import DraftPlan, UnexpressibleError
from specsim.tree import DraftTree


def require_expressible(plan: DraftPlan, dialect: Dialect) -> None:
    """Raise UnexpressibleError unless every part of ``plan`` has a word in ``dialect``.

    The nearest plan that the error carries is expressible in every part, not just in the one that failed first.
    """
    reasons, closest = [], plan
    for part in (_tree, _draft_tensor_parallel, _schedule, _confidence):
        reason, closest = part(closest, dialect)
        reasons += [reason] if reason else []
    if reasons:
        raise UnexpressibleError(" and ".join(reasons), closest)


def _tree(plan: DraftPlan, dialect: Dialect) -> tuple[str | None, DraftPlan]:
    reason = expressible(dialect, plan.drafter, plan.tree())
    if reason is None:
        return None, plan
    tree = nearest(dialect, plan.drafter, plan.tree())
    if not isinstance(tree, DraftTree):
        return reason, plan.but(parents=(-1,), topk_tree=tree, survival=None)
    if tree.num_drafted == 0:
        return reason, plan.without_speculation()
    return reason, plan.but(parents=tree.parents, topk_tree=None, survival=None)


def _draft_tensor_parallel(plan: DraftPlan, dialect: Dialect) -> tuple[str | None, DraftPlan]:
    draft, target = plan.draft_tensor_parallel, plan.tensor_parallel
    allowed = {"target": {target}, "one": {1}, "one_or_target": {1, target}}[dialect.draft_tensor_parallel]
    if draft is None or draft in allowed:
        return None, plan
    # Sharding costs and gains by ratios, so the nearer of the two is the nearer in ratio.
    closest = min(sorted(allowed), key=lambda size: max(size, draft) / min(size, draft))
    words = " or ".join(str(size) for size in sorted(allowed))
    reason = f"{dialect.engine} shards the draft over {words} devices here, not over {draft}"
    return reason, plan.but(draft_tensor_parallel=closest)


def _schedule(plan: DraftPlan, dialect: Dialect) -> tuple[str | None, DraftPlan]:
    tiers = plan.draft_len_by_batch
    if tiers is None:
        return None, plan
    if plan.drafter not in dialect.schedule_drafters:
        reason = f"{dialect.name} takes no draft length by batch size with the {plan.drafter} drafter"
        return reason, plan.but(draft_len_by_batch=None)
    if dialect.schedule == "off_above":
        return _off_above(plan, tiers, dialect)
    if dialect.schedule != "slots":
        return None, plan
    captured = _on_captured_sizes(tiers, dialect)
    if captured == tiers:
        return None, plan
    reason = f"{dialect.name} rounds the batch up to a captured graph size before it looks up the draft length"
    longest = max(draft_len for _, _, draft_len in captured)
    if longest == 0:
        return reason, plan.without_speculation()
    if longest == max(draft_len for _, _, draft_len in tiers):
        return reason, plan.but(draft_len_by_batch=captured)
    chain = DraftTree.chain(longest)
    return reason, plan.but(draft_len_by_batch=captured, parents=chain.parents, survival=None)


def _off_above(
    plan: DraftPlan, tiers: tuple[tuple[int, int, int], ...], dialect: Dialect
) -> tuple[str | None, DraftPlan]:
    """One draft length up to some batch size and none beyond; the longest, up to where the plan first turns it off."""
    longest = max(draft_len for _, _, draft_len in tiers)
    last = next((start - 1 for start, _, draft_len in tiers if draft_len == 0), None)
    if last is None and len(tiers) == 1:
        return None, plan
    if (
        last
        and {draft_len for start, _, draft_len in tiers if start > last} == {0}
        and {draft_len for start, _, draft_len in tiers if start <= last} == {longest}
    ):
        return None, plan
    reason = f"{dialect.name} is told one draft length, and a batch size above which there is none"
    if last is None:
        return reason, plan.but(draft_len_by_batch=None)
    end = max(tiers[-1][1], last + 1)
    return reason, plan.but(draft_len_by_batch=((1, last, longest), (last + 1, end, 0)))


def _confidence(plan: DraftPlan, dialect: Dialect) -> tuple[str | None, DraftPlan]:
    if plan.confidence_stop is None or plan.drafter in dialect.confidence_stop:
        return None, plan
    return f"{dialect.name} does not stop a {plan.drafter} draft by confidence", plan.but(confidence_stop=None)


def _on_captured_sizes(tiers: tuple[tuple[int, int, int], ...], dialect: Dialect) -> tuple[tuple[int, int, int], ...]:
    """The tiers with every inner end moved down to a captured size; a tier that this empties goes to the next one."""
    moved: list[tuple[int, int, int]] = []
    start = 1
    for tier, (_, end, draft_len) in enumerate(tiers):
        last = tier == len(tiers) - 1
        captured = end if last else captured_below(dialect, end)
        if captured >= start:
            moved.append((start, captured, draft_len))
            start = captured + 1
    return tuple(moved)
