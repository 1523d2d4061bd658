"""One answer for each problem of ``specsim.search.exact.problems``: status, objective, argument, certificate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

from specsim.errors import InfeasibleError
from specsim.search.exact.certificate import Certificate
from specsim.search.exact.chain import best_chain
from specsim.search.exact.classes import best_mixture_tree, best_robust_tree
from specsim.search.exact.forest import best_forest
from specsim.search.exact.load import best_load_schedule
from specsim.search.exact.ordered_width import best_ordered_width_tree
from specsim.search.exact.problems import (
    AdaptiveStop,
    Alpha,
    BestFirst,
    Chain,
    ChainRobust,
    DynamicSize,
    DynamicTreeReplay,
    Forest,
    LoadSchedule,
    ReplayChain,
    TreeFixed,
    TreeMixture,
    TreeRate,
    TreeRobust,
    TreeWidth,
)
from specsim.search.exact.replayed import RecordedTree, expected_rounds
from specsim.search.exact.robust import best_robust_chain
from specsim.search.exact.sizing import best_sizes, best_stopping
from specsim.search.exact.tree import best_tree, ranks_fall, trees_by_limit
from specsim.search.exact.width import best_width_tree

_TIE: Final = 1e-12
Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Answer:
    """What a solver found.

    Args:
        status: ``optimal`` with its certificate; ``bounded``: the certificate's bound is apart from the objective;
            ``infeasible``: no candidate at all, and ``reason`` says why.
        objective: None where the family has none.
        argmax: What reaches it.
        extra: Further keys of the family.
    """

    status: Literal["optimal", "bounded", "infeasible"]
    objective: float | None = None
    argmax: dict[str, Any] | None = None
    certificate: dict[str, Any] | None = None
    reason: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The answer as ``specsim solve`` prints it."""
        main = {
            "status": self.status,
            "objective": self.objective,
            "argmax": self.argmax,
            "certificate": self.certificate,
        }
        return main | ({} if self.reason is None else {"reason": self.reason}) | self.extra


def solve(problem: Any) -> Answer:
    """Solve one problem, an input document of ``specsim.search.exact.problems``.

    Raises:
        InputError: for tables that do not fit each other.

    >>> from specsim.search.exact.problems import read_problems
    >>> data = {"p": [[0.6, 0.3], [0.5, 0.2]], "n": 4, "depth_limit": 2, "rank_order": "free"}
    >>> [(_, problem)], _ = read_problems({"family": "tree_fixed_n", "input": data}, "problem")
    >>> answer = solve(problem)
    >>> round(answer.objective, 12), answer.argmax
    (2.2, {'paths': [[1], [2], [1, 1]]})
    """
    try:
        return _SOLVERS[type(problem)](problem)
    except InfeasibleError as error:
        return Answer("infeasible", certificate={"kind": "infeasible", "bound": None}, reason=str(error))


def _found(objective: float, argmax: dict[str, Any], certificate: Certificate, **extra: Any) -> Answer:
    gap = abs(certificate.bound - objective)
    status: Literal["optimal", "bounded"] = "optimal" if gap <= _TIE * max(1.0, abs(objective)) else "bounded"
    return Answer(status, objective, argmax, {"kind": certificate.kind, "bound": certificate.bound}, extra=extra)


def _paths(paths: Sequence[Sequence[int]]) -> list[list[int]]:
    return [[rank + 1 for rank in path] for path in paths]


def _chain(x: Chain) -> Answer:
    survival = np.array(x.alpha.survival(x.gamma_max))
    if x.mode == "synchronised":  # the batch goes on as far as its worst sequence
        survival = survival**x.batch
    alpha = np.divide(survival[1:], survival[:-1], out=np.zeros(x.gamma_max), where=survival[:-1] > 0)
    verify = [x.verify_cost[x.batch * (length + 1) - 1] for length in range(x.gamma_max + 1)]
    answer = best_chain(alpha, x.draft_step_cost[: x.gamma_max], verify, x.batch)
    return _found(answer.tokens_per_s, {"gamma": answer.draft_len}, answer.certificate)


def _depth(limit: int, *tables: Sequence[object]) -> int:
    """The depth limit, or the deepest of which anything is known."""
    return min(limit, max(map(len, tables)))


def _reaching(depth: int, tables: Sequence[Rows]) -> list[Rows]:
    """Tables of the same depth; one that ends before it offers nothing there."""
    return [(*rows, *[()] * (depth - len(rows))) for rows in tables]


def _tree_fixed(x: TreeFixed) -> Answer:
    depth = _depth(x.depth_limit, x.p)
    tokens, paths = trees_by_limit(x.p, x.n, depth, x.rank_order)
    row = tokens[depth]
    size = x.n if x.rank_order == "ordered" else int(np.isfinite(row).sum())
    if not np.isfinite(row[size - 1]):
        raise InfeasibleError(f"no tree at most {depth} deep has {x.n} nodes")
    kind: Literal["best_first", "dynamic_program"] = "best_first"
    if x.rank_order == "ordered" and not ranks_fall(x.p, depth):
        kind = "dynamic_program"
    found = {"paths": _paths(paths(depth, size))}
    return _found(float(row[size - 1]), found, Certificate(kind, float(row[size - 1])))


def _tree_rate(x: TreeRate) -> Answer:
    answer = best_tree(x.p, x.level_cost, x.verify_cost, x.n_max, _depth(x.depth_limit, x.p), x.rank_order)
    return _found(answer.rate, {"paths": _paths(answer.tree.paths())}, answer.certificate)


def _tree_width(x: TreeWidth) -> Answer:
    solver, depth = best_width_tree, _depth(x.depth_limit, x.p)
    if x.rank_order == "ordered" and not ranks_fall(x.p, depth):
        solver = best_ordered_width_tree
    answer = solver(x.p, x.level_width_cost, x.verify_cost, x.n_max, depth, x.width_convention)
    return _found(answer.rate, {"paths": _paths(answer.paths)}, answer.certificate)


def _forest(x: Forest) -> Answer:
    depth = _depth(x.depth_limit, *x.sequences)
    sequences = _reaching(depth, x.sequences)
    answer = best_forest(sequences, x.level_cost, x.verify_cost, x.n_max_total, depth, x.rank_order)
    return _found(answer.rate, {"paths": [_paths(paths) for paths in answer.paths]}, answer.certificate)


def _mixture(x: TreeMixture) -> Answer:
    weights, tables = [c.weight for c in x.classes], [c.p for c in x.classes]
    depth = _depth(x.depth_limit, *tables)
    answer = best_mixture_tree(weights, _reaching(depth, tables), x.n, depth, x.rank_order)
    return _found(answer.tokens_per_round, {"paths": _paths(answer.paths)}, answer.certificate)


def _chain_robust(x: ChainRobust) -> Answer:
    answer = best_robust_chain(x.alpha_lo, x.alpha_hi, x.gamma_max, x.draft_step_cost, x.verify_cost)
    return _found(answer.regret, {"gamma": answer.draft_len}, Certificate("scan", answer.regret))


def _tree_robust(x: TreeRobust) -> Answer:
    depth = _depth(x.depth_limit, *x.scenarios)
    scenarios = _reaching(depth, x.scenarios)
    answer = best_robust_tree(scenarios, x.level_cost, x.verify_cost, x.n_max, depth, x.rank_order)
    return _found(answer.regret, {"paths": _paths(answer.paths)}, answer.certificate)


def _load(x: LoadSchedule) -> Answer:
    alpha = Alpha(iid=x.alpha) if isinstance(x.alpha, float) else x.alpha
    survival = alpha.survival(x.gamma_max)
    times = [row[: x.gamma_max + 1] for row in x.step_time[: x.batch_max]]
    answer = best_load_schedule(x.arrival_rate, x.mean_output_tokens, np.cumsum(survival), times)
    argmax = {"gamma_by_batch": list(answer.draft_len_by_batch)}
    certificate = Certificate("scan", answer.mean_in_system)
    return _found(answer.mean_in_system, argmax, certificate, mean_latency=answer.mean_latency)


def _replay(x: ReplayChain) -> Answer:
    rounds = expected_rounds(x.a, x.gammas)
    extra = {"expected_steps": {str(length): value for length, value in rounds.items()}}
    return Answer("optimal", None, {}, {"kind": "recursion", "bound": None}, extra=extra)


def _sizes(x: DynamicSize) -> Answer:
    answer = best_sizes(x.contexts, x.verify_cost)
    return _found(answer.rate, {"n_by_context": list(answer.num_nodes)}, Certificate("scan", answer.rate))


def _stopping(x: AdaptiveStop) -> Answer:
    answer = best_stopping(x.init, x.transition, x.accept, x.gamma_max, x.draft_step_cost, x.verify_cost)
    argmax = {"mean_draft_len": answer.mean_draft_len}
    return _found(answer.rate, argmax, Certificate("dynamic_program", answer.rate))


def _dynamic_replay(x: DynamicTreeReplay) -> Answer:
    parents, draft, target = ([node[i] for node in x.nodes] for i in range(3))
    tree = RecordedTree(tuple(int(p) for p in parents), tuple(draft), tuple(target))
    results = []
    for policy in x.policies:
        if isinstance(policy, BestFirst):
            nodes = tree.best_first(policy.n, policy.depth)
        else:
            nodes = tree.beam_rerank(policy.top_k, policy.depth, policy.n)
        results.append(
            {
                "nodes": nodes,
                "expected_tokens": tree.expected_tokens(nodes, tree.target_probs),
                "surrogate_expected_tokens": tree.expected_tokens(nodes, tree.draft_probs),
            }
        )
    return Answer("optimal", None, {}, {"kind": "replay", "bound": None}, extra={"results": results})


_SOLVERS: Final[dict[type, Callable[[Any], Answer]]] = {
    Chain: _chain,
    TreeFixed: _tree_fixed,
    TreeRate: _tree_rate,
    TreeWidth: _tree_width,
    Forest: _forest,
    TreeMixture: _mixture,
    ChainRobust: _chain_robust,
    TreeRobust: _tree_robust,
    LoadSchedule: _load,
    ReplayChain: _replay,
    DynamicSize: _sizes,
    AdaptiveStop: _stopping,
    DynamicTreeReplay: _dynamic_replay,
}
