"""The best configuration that a named engine accepts, searched within what it accepts, and what that costs.

An engine that grows its trees at run time (steps, topk, nodes) is tried with every triple within the limits. Such a
tree is valued as the fixed tree that it would grow if every context were the average one: contexts that differ make it
better where the drafter's confidence is right, so its value is an estimate from below, and is told apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from specsim.acceptance.emitted import Acceptance, longest_chain, path_probs
from specsim.acceptance.profile import AcceptanceProfile
from specsim.acceptance.trie import Path, PathTrie
from specsim.cost.model import PassCost
from specsim.dialect import Dialect, TopkTree, captured_below, dialect, most_topk_nodes
from specsim.scenario import Deployment, EngineUse
from specsim.search.points import nodes_that_fit, point_of
from specsim.search.rounds import Shape, price_rounds, shape_of, simplest_first
from specsim.search.tiers import MAX_BATCH
from specsim.tree import DraftTree
from specsim.work import Float

MIN_DRAFT_LEN: Final = {"trtllm": 1, "tensorrt-llm": 1}
"""Least draft length of a schedule where 'off' is costly to resume, by engine (as costs and as dialects name it);
elsewhere 0. TensorRT-LLM leaves the
drafter's cache stale at a length of 0, and acceptance of running requests collapses afterwards (NVIDIA/TensorRT-LLM
pull request 16888)."""


@dataclass(frozen=True)
class Expressed:
    """One configuration that the engine accepts.

    Args:
        tree: A chain, or a tree that the engine grows.
        draft_tensor_parallel: Devices that share the draft.
        tokens_per_round, round_s, tokens_per_s: Mean tokens of a sequence, seconds of the batch's round, and the rate.
        is_estimate: Whether the tokens are those of the average context (see the module).
    """

    tree: DraftTree | TopkTree
    draft_tensor_parallel: int
    tokens_per_round: float
    round_s: float
    tokens_per_s: float
    is_estimate: bool

    @property
    def label(self) -> str:
        """A short name for people."""
        if isinstance(self.tree, DraftTree):
            return self.tree.label
        return f"top-k tree: steps {self.tree.steps}, topk {self.tree.topk}, {self.tree.num_nodes} nodes"


@dataclass(frozen=True)
class EngineBest:
    """What the engine can do of what was asked.

    Args:
        engine: As the dialect names it.
        best: The fastest configuration of those that it accepts; of equals the simplest.
        ranked: The best of each kind and draft length or triple of steps and topk, best first.
        num_tried: Configurations that were priced.
        plain_tokens_per_s: Without speculation.
        refused: What of the engine's words could not be used, and why.
    """

    engine: str
    best: Expressed
    ranked: tuple[Expressed, ...]
    num_tried: int
    plain_tokens_per_s: float
    refused: tuple[str, ...]

    @property
    def speedup(self) -> float:
        """Over plain decoding."""
        return self.best.tokens_per_s / self.plain_tokens_per_s

    def loss(self, tokens_per_s: float) -> float:
        """Share of another rate, the unrestricted best say, that is given up; below 0 where the engine's tree wins."""
        return 1 - self.best.tokens_per_s / tokens_per_s


def best_expressible(deployment: Deployment, use: EngineUse, max_topk: int = 16) -> EngineBest:
    """Search every chain and every run-time tree of the engine within the scenario's limits.

    Raises:
        InputError: for an engine version that is not known.
        InfeasibleError: where even plain decoding does not fit.
    """
    row = dialect(use.engine, use.version)
    deployment.check(DraftTree.root_only())
    refused: list[str] = []
    kind, found = deployment.scenario.drafter.kind, []
    if kind not in ("none", *row.methods):
        refused.append(f"{row.name} has no {kind} drafter")
    if kind in row.methods and not can_draft(row, deployment):
        refused.append(f"{row.name} drafts for at most {row.max_batch} sequences at once")
    for width in draft_widths(row, deployment):
        found += _tried(sharded(deployment, width), row, width, max_topk, refused)
    places = simplest_first([e.tokens_per_s for e in found], [_size(e) for e in found])
    ranked = [found[place] for place in places]
    plain = next(e for e in ranked if _is_plain(e))
    if row.tree == "none" and deployment.acceptance.max_ranks > 1:
        refused.append(f"{row.name} drafts chains only")
    refused = list(dict.fromkeys(refused))
    return EngineBest(row.name, ranked[0], _best_of_each(ranked), len(found), plain.tokens_per_s, tuple(refused))


def can_draft(row: Dialect | None, deployment: Deployment) -> bool:
    """Whether the engine speculates with this drafter, for this batch."""
    s = deployment.scenario
    if row is None or s.drafter.kind == "none":
        return row is None
    return s.drafter.kind in row.methods and s.workload.batch <= (row.max_batch or s.workload.batch)


def draft_lens(row: Dialect | None, deployment: Deployment, longest: int, least: int = 0) -> tuple[int, ...]:
    """Chain lengths that the engine accepts with this drafter, from ``least`` on; 0 alone where it has no such drafter.

    vLLM takes at most as many tokens from a model's MTP modules as there are, or a multiple (vllm/config/speculative.py
    of 0.24 to 0.33).
    """
    kind = deployment.scenario.drafter.kind
    if kind == "none" or not can_draft(row, deployment):
        return (0,)
    found = range(least, min(longest, longest_chain(deployment.acceptance)) + 1)
    modules = deployment.target.mtp_layers
    if row is None or row.engine != "vllm" or kind != "mtp" or not modules:
        return tuple(found)
    return tuple(n for n in found if n <= modules or n % modules == 0)


def tier_ends(row: Dialect | None, max_batch: int) -> list[int] | None:
    """Batch sizes at which a tier may end: captured sizes, where the engine rounds up to them before it looks."""
    if row is None or row.schedule != "slots":
        return None
    return [batch for batch in range(1, min(max_batch, MAX_BATCH) + 1) if captured_below(row, batch) == batch]


def takes_schedule(row: Dialect | None, deployment: Deployment) -> bool:
    """Whether the engine takes draft lengths by batch size with this drafter."""
    return row is None or (row.schedule != "none" and deployment.scenario.drafter.kind in row.schedule_drafters)


def grown_tokens(profile: Acceptance, steps: int, topk: int, max_nodes: int) -> Float:
    """Mean tokens per round ``[steps - 1, nodes - 1]`` of trees grown ``topk`` wide from the average context.

    Each step keeps the ``topk`` likeliest nodes of the level and offers as many children of each; in the end the
    likeliest of all offered are verified, parents before children. A capacity passed is NaN; where paths were counted,
    so is a tree that would offer one never recorded.

    Source: Li et al. 2024, EAGLE-2 (arXiv:2406.16858), section 4; SGLang 0.5.23 ``eagle_utils.py``.

    >>> profile = AcceptanceProfile.from_ranks([0.6, 0.3], max_depth=2)
    >>> grown_tokens(profile, steps=2, topk=2, max_nodes=5).round(2).tolist()
    [[1.0, 1.6, 1.9, nan, nan], [1.0, 1.6, 1.96, 2.26, 2.44]]
    """
    found = np.full((steps, max_nodes), np.nan)
    offered = np.empty(0)
    if isinstance(profile, PathTrie):
        levels = _levels_of_paths(profile, steps, topk)
    else:
        levels = _levels_of_table(profile, steps, topk)
    for step, level in enumerate(levels):
        offered = -np.sort(-np.concatenate((offered, level)))
        tokens = np.concatenate(([1.0], 1 + np.cumsum(offered)))[:max_nodes]
        found[step, : len(tokens)] = tokens
    return found


def _levels_of_table(profile: AcceptanceProfile, steps: int, topk: int) -> Iterator[Float]:
    """Probabilities of all nodes that each step offers."""
    frontier = np.ones(1)
    for row in profile.accept_prob[:steps, :topk]:
        level = (frontier[:, None] * row).ravel()
        frontier = -np.sort(-level)[:topk]
        yield level


def _levels_of_paths(trie: PathTrie, steps: int, topk: int) -> Iterator[Float]:
    """The same by path, as long as all were recorded."""
    frontier: list[Path] = [()]
    for _ in range(steps):
        paths = [(*path, rank) for path in frontier for rank in range(topk)]
        if not all(path in trie.node_of for path in paths):
            return
        level = trie.node_probs[[trie.node_of[path] for path in paths]]
        frontier = [paths[place] for place in np.argsort(-level, kind="stable")[:topk]]
        yield level


def _tried(deployment: Deployment, row: Dialect, width: int, max_topk: int, refused: list[str]) -> list[Expressed]:
    s, profile = deployment.scenario, deployment.acceptance
    fits = nodes_that_fit(deployment, point_of(deployment))
    trees: list[DraftTree | TopkTree] = [
        DraftTree.chain(n) for n in draft_lens(row, deployment, s.search.max_draft_len) if n < max(fits, 1)
    ]
    survival = path_probs(DraftTree.chain(longest_chain(profile)), profile)
    tokens = [float(survival[: tree.num_nodes].sum()) for tree in trees]
    if row.tree == "topk" and s.drafter.kind in row.tree_drafters and can_draft(row, deployment):
        widest = min(max_topk, profile.max_ranks)
        if widest < max_topk:
            refused.append(f"topk above {widest} was not tried: acceptance is known to {profile.max_ranks} ranks")
        for topk in range(2, widest + 1):
            grown = grown_tokens(profile, s.search.max_depth, topk, min(s.search.max_nodes, fits))
            # A tree of one step needs no more than its candidates; a smaller one than the steps is never deep.
            known = np.isfinite(grown[:, :1]).all(axis=1)
            if not known.all():
                steps = int(known.argmin())
                refused.append(f"topk {topk} was tried to {steps} steps: deeper it offers paths that were not recorded")
            for step, last in zip(*np.nonzero(np.isfinite(grown)), strict=True):
                if step < last < most_topk_nodes(row, int(step) + 1, topk):
                    trees.append(TopkTree.model_construct(steps=int(step) + 1, topk=topk, num_nodes=int(last) + 1))
                    tokens.append(float(grown[step, last]))
    return _priced(deployment, trees, np.array(tokens), width)


def _priced(
    deployment: Deployment, trees: Sequence[DraftTree | TopkTree], tokens: Float, width: int
) -> list[Expressed]:
    w = deployment.scenario.workload
    shapes: dict[Shape, int] = {}
    which = [shapes.setdefault(shape_of(tree), len(shapes)) for tree in trees]
    depths = np.array([shape.depth for shape in shapes])[which]
    pending = np.maximum(1.0, np.minimum(tokens, depths + 1.0))
    cost, drafting = deployment.cost, deployment.drafting
    time_s = price_rounds(cost, drafting, list(shapes), which, w.batch, w.context_tokens, pending).time_s
    rates = w.batch * tokens / time_s
    rows = zip(trees, tokens.tolist(), time_s.tolist(), rates.tolist(), strict=True)
    return [Expressed(tree, width, tau, s, rate, isinstance(tree, TopkTree)) for tree, tau, s, rate in rows]


def draft_widths(row: Dialect, deployment: Deployment) -> list[int]:
    """Numbers of devices over which the engine can shard the draft, first the one nearest to what the scenario asks.

    A scenario that asks nothing has its draft sharded like the target, which is also what engines do unless told.
    """
    devices, asked = deployment.scenario.tensor_parallel, deployment.scenario.drafter.tensor_parallel
    if deployment.draft is None or row.draft_tensor_parallel == "target" or devices == 1:
        return [devices]
    if row.draft_tensor_parallel == "one":
        return [1]
    if asked in (1, devices):
        return [asked]
    wanted = devices if asked is None else asked
    return sorted((1, devices), key=lambda width: max(width, wanted) / min(width, wanted))


def sharded(deployment: Deployment, width: int) -> Deployment:
    """The deployment with its draft on ``width`` devices."""
    s = deployment.scenario
    if deployment.draft is None or width == deployment.draft_tensor_parallel:
        return deployment
    drafter = s.drafter.model_copy(update={"tensor_parallel": width})
    cost = deployment.cost
    if isinstance(cost, PassCost):  # what else prices passes knows no sharding
        cost = replace(cost, draft_tp=width)
    return replace(deployment, scenario=s.model_copy(update={"drafter": drafter}), cost=cost)


def _size(one: Expressed) -> tuple[int, int]:
    return one.tree.num_nodes, isinstance(one.tree, TopkTree)


def _is_plain(one: Expressed) -> bool:
    return isinstance(one.tree, DraftTree) and not one.tree.num_drafted


def _best_of_each(ranked: Sequence[Expressed]) -> tuple[Expressed, ...]:
    """The first of each chain length and of each pair of steps and topk."""
    found: dict[tuple[int, int], Expressed] = {}
    for one in ranked:
        tree = one.tree
        found.setdefault((tree.num_drafted, 1) if isinstance(tree, DraftTree) else (tree.steps, tree.topk), one)
    return tuple(found.values())
