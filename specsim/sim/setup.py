"""What replicas share: shapes of drafts, seconds of their steps, memory, and how steps are computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from specsim.acceptance import RequestSpread
from specsim.acceptance.emitted import check_tree_fits, emitted_distribution, tokens_per_round
from specsim.errors import InputError
from specsim.model import kv_bytes_per_token
from specsim.scenario import Deployment
from specsim.sim import arrays, kernel
from specsim.sim.config import PrefillPool, ServerConfig
from specsim.sim.jobs import Rules
from specsim.sim.kernel import Floats, Limits, Tables
from specsim.sim.kv import num_blocks
from specsim.sim.natures import latent_of
from specsim.sim.policies import Admission, DraftControl
from specsim.sim.ragged import view_of_nobody
from specsim.sim.step_times import Rounds, step_tables
from specsim.tree import DraftTree

_PATIENCE: Final = 3000
"""Stretches of steps from which loading the compiled kernel is worth its time."""


def shapes_of(control: DraftControl, trees: tuple[DraftTree, ...] | None) -> tuple[DraftTree, ...]:
    """What is drafted, by draft length; the one shape of a control that never varies."""
    known = trees or tuple(DraftTree.chain(k) for k in range(control.max_draft_len + 1))
    if len(known) <= control.max_draft_len:
        raise InputError("trees", f"must be {control.max_draft_len + 1}, one for each draft length", len(known))
    if control.depends_on != "nothing":
        return known
    _, length = control.choose(control.start(), view_of_nobody())
    return (known[int(length)],)


def server_tables(
    deployment: Deployment, control: DraftControl, config: ServerConfig, trees: tuple[DraftTree, ...] | None = None
) -> Tables:
    """The tables that ``serve`` would make: made once, they serve many runs of one deployment, control and config."""
    return _tables(deployment, shapes_of(control, trees), config, control.max_draft_len > 0)


def _tables(deployment: Deployment, shapes: tuple[DraftTree, ...], config: ServerConfig, has_drafter: bool) -> Tables:
    most = deployment.target.max_context_tokens or 131_072
    tokens = config.token_budget + config.max_running * max(tree.num_nodes for tree in shapes)
    lanes = config.pipeline_parallel
    slots = -(-config.max_running // lanes)
    tables = step_tables(deployment, Rounds(shapes, slots, most, min(tokens, 2 * most + tokens), has_drafter))
    hops_s = (lanes - 1) * config.hop_s
    tokens_out = np.array([tokens_per_round(tree, deployment.acceptance) for tree in shapes])
    host_s = tables.host_s + config.token_s * tokens_out[:, None] * np.arange(1, slots + 1)
    return tables._replace(host_s=host_s + hops_s, step_s=tables.step_s + hops_s)


def rules_of(
    deployment: Deployment,
    config: ServerConfig,
    shapes: tuple[DraftTree, ...],
    admission: Admission,
    control: DraftControl,
    identity_tokens: int,
    tables: Tables | None,
    compiled: bool | None,
    by_step: bool,
    checks: bool,
    spread: RequestSpread | None,
) -> Rules:
    kind, has_drafter = deployment.scenario.drafter.kind, control.max_draft_len > 0
    if has_drafter and kind == "none":
        raise InputError("drafter.kind", f"must name a drafter to draft {control.max_draft_len} tokens", kind)
    for tree in shapes:
        check_tree_fits(tree, deployment.acceptance)
    if config.preemption == "swap" and config.swap_bytes_per_s is None:
        raise InputError("swap_bytes_per_s", "must be said where caches are swapped", None)
    if config.prefix_caching and identity_tokens and identity_tokens % config.block_tokens:
        limit = f"must be a multiple of the server's block of {config.block_tokens} tokens"
        raise InputError("block_tokens", limit, identity_tokens)
    longest = max(tree.num_drafted for tree in shapes)
    lookahead = config.lookahead_tokens
    if lookahead is None:
        lookahead = 0 if kind in ("ngram", "none") else longest
    lanes, block = config.pipeline_parallel, config.block_tokens
    blocks = config.kv_blocks or num_blocks(deployment, block, has_drafter, lanes)
    swap_s = kv_bytes_per_token(deployment.target) / config.swap_bytes_per_s if config.swap_bytes_per_s else 0.0
    return Rules(
        config=config.model_copy(update={"max_running": -(-config.max_running // lanes)}),
        tables=tables or _tables(deployment, shapes, config, has_drafter),
        limits=Limits(block, lookahead, config.token_budget, config.mixes, config.chunks),
        num_blocks=blocks // lanes,
        survival=_survival(deployment, shapes),
        latent=latent_of(spread),
        admission=admission,
        control=control,
        blocks_per_identity=max(identity_tokens // block, 1),
        drops_last=has_drafter and kind in ("eagle", "eagle3", "mtp"),
        longest_draft=longest,
        advance=_advance(compiled),
        by_step=by_step,
        swap_s_per_token=swap_s,
        checks=checks,
    )


def prefill_rules(rules: Rules, pool: PrefillPool) -> Rules:
    """Of replicas that read prompts and nothing else: no room for drafts, and whoever is read leaves."""
    limits, lanes = rules.limits._replace(lookahead=0), rules.config.pipeline_parallel
    config = rules.config.model_copy(update={"reserves": False})
    if (own := pool.config) is not None:
        if (own.block_tokens, own.pipeline_parallel) != (limits.block_tokens, lanes):
            said = own.block_tokens, own.pipeline_parallel
            raise InputError(
                "prefill.config", f"must have the blocks and stages of config, {(limits.block_tokens, lanes)}", said
            )
        limits = Limits(limits.block_tokens, 0, own.token_budget, own.mixes, own.chunks)
        config = own.model_copy(update={"reserves": False, "max_running": -(-own.max_running // lanes)})
    blocks = own.kv_blocks // lanes if own is not None and own.kv_blocks else rules.num_blocks
    return rules._replace(config=config, limits=limits, num_blocks=blocks, prefills=True)


def cache_bytes_per_token(deployment: Deployment, has_drafter: bool) -> int:
    """What is sent for each token of a prompt: the target's cache, and the drafter's where it has one."""
    draft = deployment.draft if has_drafter else None
    return kv_bytes_per_token(deployment.target) + (kv_bytes_per_token(draft) if draft else 0)


def _survival(deployment: Deployment, shapes: tuple[DraftTree, ...]) -> Floats:
    """``[shape, depth]`` probability that a round keeps at least so many draft tokens."""
    deepest = max(1, *(tree.depth for tree in shapes))
    table = np.zeros((len(shapes), deepest))
    for row, tree in zip(table, shapes, strict=True):
        pmf = emitted_distribution(tree, deployment.acceptance)[1:]
        row[: tree.depth] = pmf[::-1].cumsum()[::-1][1:]
    return table


def _advance(compiled: bool | None) -> Callable[..., Any]:
    """How stretches are computed: in machine code, in columns, or in columns until the former is worth its loading."""
    if compiled is False:
        return arrays.advance
    if compiled:
        fast = kernel.compiled()
        if fast is None:
            raise InputError("compiled", "needs numba: install specsim[fast]", compiled)
        return fast
    calls, chosen = 0, arrays.advance

    def advance(*args: Any) -> Any:
        nonlocal calls, chosen
        calls += 1
        if calls == _PATIENCE:
            chosen = kernel.compiled() or chosen
        return chosen(*args)

    return advance
