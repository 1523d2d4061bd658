"""Why speculation does no better here: each cause taken away alone, and what the rate would then be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from specsim.engines.imports.observation import Observation
from specsim.engines.sglang import RUNNING_CAP
from specsim.errors import SpecsimError
from specsim.estimate import Estimate, predict
from specsim.scenario import Deployment, resolve
from specsim.tree import DraftTree
from specsim.work import BOUNDS, Cost

LEAST: Final = 0.01
"""A cause whose absence would give less than this share is not told."""
MOST_BATCH: Final = 4096


@dataclass(frozen=True)
class Cause:
    """One cause.

    Args:
        name: In a few words.
        gain: What the rate would gain without it, relatively; what is lost to plain decoding where that is the cure.
        why: The figures behind it.
        cure: What to change.
    """

    name: str
    gain: float
    why: str
    cure: str


def causes(expected: Deployment, seen: Deployment, tree: DraftTree, observed: Observation) -> list[Cause]:
    """All that apply, the largest gain first.

    Args:
        expected: The deployment with the acceptance that was expected.
        seen: The same with the acceptance observed.
        tree: The configuration in use.
        observed: What the engine showed.
    """
    now = predict(seen, tree)
    found = [
        *_acceptance(expected, seen, now),
        *_below_break_even(seen, now),
        *_launches(now),
        *_captured_sizes(seen, now, observed),
        *_experts(seen, now),
        *_memory(seen, tree, observed),
        *_host(now, observed),
        *_cap(observed),
        *_long_context(seen),
    ]
    return sorted((cause for cause in found if cause.gain >= LEAST), key=lambda cause: -cause.gain)


def _acceptance(expected: Deployment, seen: Deployment, now: Estimate) -> Iterator[Cause]:
    before = predict(expected, now.tree)
    gain = before.tokens_per_round / now.tokens_per_round - 1
    why = f"{now.tokens_per_round:.2f} tokens per round where {before.tokens_per_round:.2f} were expected"
    yield Cause(
        "acceptance below what was expected", gain, why, "check prompts, template, temperature and quantisation"
    )


def _below_break_even(seen: Deployment, now: Estimate) -> Iterator[Cause]:
    """Slower than plain decoding: because of the batch where a single sequence would gain, else of the pair."""
    if now.speedup >= 1:
        return
    batch = seen.scenario.workload.batch
    last = last_paying_batch(seen, now.tree)
    if last is not None and last < batch:
        yield Cause(
            "batch beyond the crossover",
            1 / now.speedup - 1,
            f"{now.tree.label} pays up to about {last} running requests, {batch} are",
            f"draft less or nothing above {last}",
        )
        return
    alone = at_batch(seen, 1)
    ratio = _seconds(now.draft) / _seconds(predict(alone, DraftTree.root_only()).round)
    yield Cause(
        "acceptance too low for this size ratio",
        1 / now.speedup - 1,
        f"a round costs {now.tokens_per_round / now.speedup:.2f} plain steps and gives "
        f"{now.tokens_per_round:.2f} tokens (drafting alone costs {ratio:.2f} steps)",
        "a smaller or better drafter, a shorter draft, or none",
    )


def last_paying_batch(deployment: Deployment, tree: DraftTree) -> int | None:
    """The largest batch size (of powers of two, refined) up to which speculation pays; None where it never does."""
    if _speedup(deployment, tree, 1) < 1:
        return None
    low = 1
    while low < MOST_BATCH and _speedup(deployment, tree, 2 * low) >= 1:
        low *= 2
    high = 2 * low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _speedup(deployment, tree, middle) >= 1 else (low, middle)
    return low


def _speedup(deployment: Deployment, tree: DraftTree, batch: int) -> float:
    try:
        return predict(at_batch(deployment, batch), tree).speedup
    except SpecsimError:
        return 0.0  # it does not fit


def at_batch(deployment: Deployment, batch: int) -> Deployment:
    """The same deployment with another number of running requests."""
    workload = deployment.scenario.workload.model_copy(update={"batch": batch})
    scenario = deployment.scenario.model_copy(update={"workload": workload})
    return replace(deployment, scenario=scenario, at=replace(deployment.at, num_seqs=[float(batch)]))


def _launches(now: Estimate) -> Iterator[Cause]:
    part = float(now.draft.by_bound.reshape(-1, len(BOUNDS))[0][BOUNDS.index("launch")])
    host = float(now.draft.by_bound.reshape(-1, len(BOUNDS))[0][BOUNDS.index("host")])
    drafting = _seconds(now.draft)
    if drafting and part + host > 0.5 * drafting:
        yield Cause(
            "drafting is bound by launches",
            _without(now, part + host),
            f"{(part + host) / drafting:.0%} of {1e3 * drafting:.2f} ms of drafting is launching kernels",
            "capture the draft in graphs, or draft with fewer passes",
        )


def _captured_sizes(seen: Deployment, now: Estimate, observed: Observation) -> Iterator[Cause]:
    """What graphs of just the right size would save; and what leaving graphs costs, where the engine says it did."""
    s = seen.scenario
    if observed.cuda_graph is False and s.runtime == "graph":
        try:
            eager = predict(_as(seen, runtime="eager"), now.tree)
        except SpecsimError:
            return
        gain = _seconds(eager.round) / _seconds(now.round) - 1
        why = "steps ran outside captured graphs"
        yield Cause(
            "off captured graph sizes", gain, why, "capture this batch size, or cap the running requests at one"
        )
        return
    if s.engine is None:
        return
    free = predict(_as(seen, engine=None), now.tree)
    tokens = s.workload.batch * now.tree.num_nodes
    why = f"verifying {tokens} tokens is padded, or runs beyond the largest captured size"
    gain = _seconds(now.round) / _seconds(free.round) - 1
    yield Cause("off captured graph sizes", gain, why, "choose batch x (draft length + 1) on a captured size")


def _as(deployment: Deployment, **changes: object) -> Deployment:
    other = resolve(deployment.scenario.varied(**changes))
    return replace(other, acceptance=deployment.acceptance)


def _experts(seen: Deployment, now: Estimate) -> Iterator[Cause]:
    """Verifying as if more tokens woke no more experts than one does."""
    if not any(hasattr(group.mlp, "num_experts") for group in seen.target.layers):
        return
    plain = predict(seen, DraftTree.root_only())
    more = _seconds(now.verify) - _seconds(plain.verify)
    if more > 0:
        yield Cause(
            "experts spread",
            _without(now, more),
            f"verifying costs {_seconds(now.verify) / _seconds(plain.verify):.2f} times a plain step: "
            "each drafted token may wake other experts",
            "draft less; a mixture of few active parameters leaves a drafter little to save",
        )


def _memory(seen: Deployment, tree: DraftTree, observed: Observation) -> Iterator[Cause]:
    """Requests that fit beside a drafter and without it, where requests do wait."""
    if not observed.num_waiting and (observed.kv_used_frac or 0) < 0.9:
        return
    batch = seen.scenario.workload.batch
    with_draft, without = (seen.ledger(shape) for shape in (tree, DraftTree.root_only()))
    room = [
        (held.limit - held.target_weights - held.draft_weights) / ((held.target_kv + held.draft_kv) / batch)
        for held in (with_draft, without)
        if held.target_kv + held.draft_kv > 0
    ]
    if len(room) == 2 and room[0] > 0:
        why = f"{int(room[0])} sequences fit beside the drafter, {int(room[1])} without it, and requests wait"
        cure = "a smaller drafter, more memory for the cache, or no speculation at this load"
        yield Cause("the drafter takes cache from requests", room[1] / room[0] - 1, why, cure)


def _host(now: Estimate, observed: Observation) -> Iterator[Cause]:
    host = _seconds(now.host)
    share = host / _seconds(now.round)
    yield Cause(
        "host time between passes", _without(now, host), f"{1e3 * host:.2f} ms of each round, {share:.0%}",
        "overlap scheduling, fewer and longer rounds",
    )  # fmt: skip
    if observed.step_s is not None:
        excess = observed.step_s - _seconds(now.round)
        if excess > 0.15 * observed.step_s:
            yield Cause(
                "time that the prediction does not know",
                observed.step_s / _seconds(now.round) - 1,
                f"steps take {1e3 * observed.step_s:.2f} ms where {1e3 * _seconds(now.round):.2f} ms were predicted",
                "prompts mixed into steps, other load on the device, sampling on the host: profile a step",
            )


def _cap(observed: Observation) -> Iterator[Cause]:
    running, waiting = observed.num_running or 0, observed.num_waiting or 0
    if observed.source.startswith("sglang") and running >= 0.95 * RUNNING_CAP and running <= RUNNING_CAP and waiting:
        why = f"{running:g} run and {waiting:g} wait; SGLang runs {RUNNING_CAP} at most with speculation on"
        yield Cause("cap on running requests", waiting / running, why, "set --max-running-requests")


def _long_context(seen: Deployment) -> Iterator[Cause]:
    draft, context = seen.draft, seen.scenario.workload.context_tokens
    if draft is not None and draft.max_context_tokens is not None and context > draft.max_context_tokens:
        why = f"{context:,} tokens of context, {draft.name} was made for {draft.max_context_tokens:,}"
        yield Cause(
            "context beyond the drafter's training", LEAST, why, "a drafter trained on long texts, or no drafting"
        )


def _without(now: Estimate, seconds: float) -> float:
    spent = _seconds(now.round)
    return spent / max(spent - seconds, 0.05 * spent) - 1


def _seconds(cost: Cost) -> float:
    return float(np.max(cost.time_s))
