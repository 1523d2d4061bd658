"""Seconds of engine steps, priced before the clock starts: tables over batch, context, drafts and prompt tokens.

A step without prompts is a round, tabulated for every batch and interpolated in the mean context, on which attention
depends almost linearly. Prompts share the target's pass: dense layers run once on all tokens, attention is the sum over
both kinds of sequences. So a step with prompts is its round, and a pass of the prompts alone, less the layers of either
and plus the layers of both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np

from specsim.acceptance.emitted import tokens_per_round
from specsim.cost.model import CostModel, PassCost
from specsim.methods.round import Situation, play
from specsim.scenario import Deployment
from specsim.sim.kernel import Floats, Tables
from specsim.tree import DraftTree
from specsim.work import Attention, HostWork, Pass, Role

NODES_PER_OCTAVE: Final = 8
KEYS: Final[Floats] = np.array([2.0**n for n in range(18)])
_LOGITS: Final = ("lm head", "sampling")
_HARDLY: Final = 1.0
"""Tokens of context of a decoding sequence; none at all would be priced as a prompt."""


@dataclass(frozen=True)
class Rounds:
    """What steps of a server may be: shapes of drafts, and how far the tables must go.

    Args:
        trees: The shapes that rounds may have.
        max_running: Largest batch.
        max_context: Longest context; beyond, the last line goes on.
        max_tokens: Most tokens of a step.
        has_drafter: Whether a drafter is loaded, with whatever it costs where nothing is drafted.
    """

    trees: tuple[DraftTree, ...]
    max_running: int
    max_context: int
    max_tokens: int
    has_drafter: bool


def step_tables(deployment: Deployment, rounds: Rounds) -> Tables:
    """Price all steps that a server of ``deployment`` may take.

    Args:
        deployment: Its cost model prices rounds and prompts.
        rounds: What they may be.
    """
    context, device = _octaves(rounds.max_context), _device_only(deployment.cost)
    parts = [_round(deployment, device, tree, rounds, context) for tree in rounds.trees]
    tokens = _tokens(rounds.max_tokens)
    keys = KEYS[: int(np.searchsorted(KEYS, rounds.max_context)) + 1]
    layers, head_s = _layers(device, tokens)
    eager_above, eager_s = _eager(deployment)
    drafts_prompts = rounds.has_drafter and deployment.drafting == "autoregressive"
    return Tables(
        context,
        np.stack([part.drafting for part in parts]),
        np.stack([part.verifying for part in parts]),
        np.stack([np.full(rounds.max_running, part.host_s) for part in parts]),
        np.stack([part.least for part in parts]) * eager_s,
        tokens,
        keys,
        layers,
        device.price(_prompts("target", tokens, keys)).time_s,
        deployment.cost.price(_prompts("draft", tokens, keys)).time_s if drafts_prompts else np.zeros((1, 1)),
        -head_s,
        float(deployment.cost.price(HostWork("step")).time_s),
        eager_above,
        eager_s,
        np.array([tree.num_drafted for tree in rounds.trees], dtype=np.int64),
    )


class _Round(NamedTuple):
    """Seconds of one shape, ``[batch - 1, context]``; ``least`` where its target pass runs outside graphs."""

    drafting: Floats
    verifying: Floats
    host_s: float
    least: Floats


def _round(deployment: Deployment, device: CostModel, tree: DraftTree, rounds: Rounds, context: Floats) -> _Round:
    batch = np.arange(1.0, rounds.max_running + 1)[:, None, None]
    pending = 1.0
    if tree.num_drafted:
        pending = max(1.0, min(tokens_per_round(tree, deployment.acceptance), tree.depth + 1.0))
    at = Situation(np.maximum(context, pending - 1)[None, :, None], [pending], batch)
    size = (rounds.max_running, len(context))
    drafting, verifying, host_s, least = np.zeros(size), np.zeros(size), 0.0, np.zeros(rounds.max_running)
    for work in play(tree, at, deployment.drafting):
        if isinstance(work, Pass) and work.role == "target":
            verifying += device.price(work).time_s
            least += _is_eager(deployment.cost, work)[:, 0]
        elif isinstance(work, Pass) or work.kind == "draft":  # type: ignore[union-attr]  # one host has no transfers
            drafting += deployment.cost.price(work).time_s
        else:
            host_s += float(deployment.cost.price(work).time_s)
    if rounds.has_drafter and not tree.num_drafted and deployment.drafting == "autoregressive":
        # A drafter that waits keeps up with the text, or it could not draft when asked again.
        drafting += deployment.cost.price(Pass("draft", "draft", 1.0, at.context_tokens, batch, (0,))).time_s
    return _Round(drafting, verifying, host_s, least)


def _is_eager(cost: CostModel, work: Pass) -> Any:
    if not isinstance(cost, PassCost) or cost.engine.layer_s is None:
        return np.zeros(work.total_new_tokens.shape)
    return cost.engine.is_eager(work)


def _prompts(role: Role, tokens: Floats, keys: Floats) -> Pass:
    """Passes of prompts alone, shape ``[tokens, keys]``: one prompt with context before it, or several short ones,
    whatever sees so many keys in the mean."""
    prompt, seen = tokens[:, None], keys[None, :]
    long = seen >= (prompt + 1) / 2
    each = np.where(long, prompt, np.maximum(2 * seen - 1, 1.0))
    before = np.where(long, seen - (prompt + 1) / 2, 0.0)
    return Pass(role, "prefill", each[..., None], before[..., None], (prompt / each)[..., None])


def _layers(device: CostModel, tokens: Floats) -> tuple[Floats, float]:
    """Seconds of the layers without attention and logits, by tokens; and of the logits of one token, which a pass with
    both kinds of sequences would count twice. A model that is not made of operations has neither apart."""
    work = Pass("target", "decode", 1.0, _HARDLY, tokens[:, None])
    if not isinstance(device, PassCost):
        return np.asarray(device.price(work).time_s), 0.0
    head, layers = np.zeros(len(tokens)), np.zeros(len(tokens))
    for op, _, cost in device.breakdown(work):
        if op.name in _LOGITS:
            head += cost.time_s
        elif not isinstance(op, Attention):
            layers += cost.time_s
    return layers, float(head[0])


def _device_only(cost: CostModel) -> CostModel:
    """The cost model without the host's launches of passes outside graphs, a floor that does not add up."""
    if isinstance(cost, PassCost) and cost.engine.layer_s is not None:
        return replace(cost, engine=cost.engine.model_copy(update={"layer_s": None}))
    return cost


def _eager(deployment: Deployment) -> tuple[float, float]:
    """Tokens above which a pass with prompts runs outside graphs, and how long it then lasts at least."""
    cost = deployment.cost
    if not isinstance(cost, PassCost) or cost.engine.layer_s is None:
        return float("inf"), 0.0
    engine, floor_s = cost.engine, cost.engine.layer_s.value * deployment.target.num_layers
    if engine.always_eager or (engine.captured and not engine.captures_prompts):
        return 0.0, floor_s
    return float(max((last for _, last, _ in engine.captured), default=float("inf"))), floor_s


def _octaves(most: int) -> Floats:
    """From a few tokens to ``most`` and beyond in equal ratios."""
    octaves = np.arange(0, np.log2(max(most, 2)) + 1 / NODES_PER_OCTAVE, 1 / NODES_PER_OCTAVE)
    return np.unique(np.round(2.0**octaves))[NODES_PER_OCTAVE:]


def _tokens(most: int) -> Floats:
    """Tokens of passes with prompts: both sides of each tile of 64, and of each captured size up to 512."""
    steps = np.concatenate([np.arange(8, 513, 8), np.arange(576, max(most, 1024) + 64, 64)])
    return np.unique(np.concatenate([np.arange(1, 65), steps, steps + 1])).astype(float)
