"""Rounds of tree policies on one process, kept, so that any deployment prices them in milliseconds.

What a policy drafts and what the target keeps of it does not depend on the device. The table holds the rounds; a price
list of the deployment (``dynamic_prices``) turns them into tokens per second, with errors that all policies share, as
they decode the same texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.process import TokenProcess
from specsim.decoding import ConfidenceChain, Eagle2, OptTree, StaticTree, Talon, TreePolicy
from specsim.decoding.policies.best_first import BestFirst
from specsim.decoding.policies.c2t import C2t, Gate
from specsim.errors import InputError
from specsim.search.dynamic.text import rounds_everywhere, written
from specsim.search.dynamic.totals import WARM_ROOTS, Totals, Visited, totals_of, visited_of
from specsim.tree import DraftTree

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DynamicTable:
    """Rounds of several policies on the same texts.

    Args:
        policies: What was decoded.
        visited: Of each.
        process, temperature, seed, num_requests: What the texts are; no process where the rounds were recorded.
        exact_tokens: ``[policy]`` tokens per round where a law gives them, NaN elsewhere.
        note: Where the rounds come from, for people.
    """

    policies: tuple[TreePolicy, ...]
    visited: tuple[Visited, ...]
    process: TokenProcess | None
    temperature: float
    seed: int
    num_requests: int
    exact_tokens: Floats
    note: str = "fitted process"
    _by_batch: dict[int, Totals] = field(default_factory=dict, repr=False)

    @cached_property
    def most_tokens(self) -> int:
        """The largest tree, root in."""
        return max(int(v.num_nodes.max()) for v in self.visited)

    def at_batch(self, batch: int) -> Totals:
        """The rounds of ``batch`` sequences that share passes: kept once worked out.

        A batch is put together of rounds of one block of requests, the same draw for all policies; a pass runs all of
        their nodes, without padding, as ``methods.round`` plays it.
        """
        if batch < 1:
            raise InputError("batch", "must be >= 1", batch)
        if batch not in self._by_batch:
            self._by_batch[batch] = totals_of(self.visited, batch, self.num_requests)
        return self._by_batch[batch]

    def only(self, chosen: Iterable[int]) -> DynamicTable:
        """Some of the policies."""
        kept = list(chosen)
        return replace(
            self,
            policies=tuple(self.policies[i] for i in kept),
            visited=tuple(self.visited[i] for i in kept),
            exact_tokens=self.exact_tokens[kept],
            _by_batch={},
        )

    def with_more(self, other: DynamicTable) -> DynamicTable:
        """The same policies on more requests."""
        if other.policies != self.policies:
            raise InputError("policies", "must be the same to add requests", len(other.policies))
        both = []
        for ours, theirs in zip(self.visited, other.visited, strict=True):
            theirs = replace(theirs, request=theirs.request + self.num_requests)
            both.append(Visited(*(np.concatenate(pair) for pair in zip(_columns(ours), _columns(theirs), strict=True))))
        return replace(self, visited=tuple(both), num_requests=self.num_requests + other.num_requests, _by_batch={})

    def save(self, path: Path) -> None:
        """As one .npz file."""
        about = {
            "schema": SCHEMA,
            "policies": [_as_data(policy) for policy in self.policies],
            "process": self.process and self.process.model_dump(),
            "temperature": self.temperature,
            "seed": self.seed,
            "num_requests": self.num_requests,
            "note": self.note,
        }
        ends = np.cumsum([len(v.request) for v in self.visited])
        depth = max(v.widths.shape[1] for v in self.visited)
        wide = [np.pad(v.widths, ((0, 0), (0, depth - v.widths.shape[1]))) for v in self.visited]
        np.savez_compressed(
            path,
            about=json.dumps(about),
            ends=ends,
            exact_tokens=self.exact_tokens,
            request=np.concatenate([v.request for v in self.visited]).astype(np.uint16),
            weight=np.concatenate([v.weight for v in self.visited]).astype(np.uint8),
            emitted=np.concatenate([v.emitted for v in self.visited]),
            num_nodes=np.concatenate([v.num_nodes for v in self.visited]).astype(np.uint16),
            widths=np.concatenate(wide).astype(np.uint16),
        )


SCHEMA: Final = "specsim.dynamic_table/1"


def load_table(path: Path) -> DynamicTable:
    """A table that was saved.

    Raises:
        InputError: for a file that is none.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays["about"]))
        if about["schema"] != SCHEMA:
            raise KeyError("schema")
        policies = tuple(policy_of(data) for data in about["policies"])
        columns = [arrays[n].astype(float if n == "emitted" else np.int64) for n in _COLUMNS]
    except (ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise InputError("table", f"must be a table of dynamic policies ({SCHEMA})", path.name) from error
    visited, begin = [], 0
    for end in arrays["ends"].tolist():
        visited.append(Visited(*(column[begin:end] for column in columns)))
        begin = end
    return DynamicTable(
        policies,
        tuple(visited),
        about["process"] and TokenProcess.model_validate(about["process"]),
        about["temperature"],
        about["seed"],
        about["num_requests"],
        arrays["exact_tokens"],
        about["note"],
    )


_COLUMNS: Final = ("request", "weight", "emitted", "num_nodes", "widths")
_KINDS: Final[dict[str, Any]] = {
    "best_first": BestFirst, "confidence_chain": ConfidenceChain, "eagle2": Eagle2, "opt_tree": OptTree, "talon": Talon,
}  # fmt: skip


def _columns(visited: Visited) -> list[Any]:
    return [getattr(visited, name) for name in _COLUMNS]


def _as_data(policy: Any) -> dict[str, Any]:
    return {**asdict(policy), "draw": policy.draw}


def policy_of(data: dict[str, Any]) -> TreePolicy:
    """The policy that a file describes."""
    fields = dict(data)
    kind = fields.pop("kind")
    if kind == "static":
        tree = fields["tree"]
        return StaticTree(DraftTree(tuple(tree["parents"]), tuple(tree["ranks"])), fields["draw"])
    if kind == "c2t":
        fields.pop("draw")
        layers = tuple((tuple(map(tuple, w)), tuple(b)) for w, b in fields.pop("gate")["layers"])
        return C2t(Gate(layers), **fields)
    if kind != "confidence_chain":
        fields.pop("draw")
    made: TreePolicy = _KINDS[kind](**fields)
    return made


def dynamic_table(
    process: TokenProcess,
    policies: Sequence[TreePolicy],
    temperature: float,
    num_requests: int,
    seed: int,
    num_roots: int = 28,
) -> DynamicTable:
    """Play policies on texts that a process writes: greedy at temperature 0, one-hot above.

    Args:
        process: The world.
        policies: Which take the most probable candidates.
        temperature: Of the target.
        num_requests: Texts, each with a character of its own.
        seed: The same gives the same texts.
        num_roots: Positions of a text where rounds may begin.

    Raises:
        InputError: for no policies, fewer than two requests, a policy that samples.
    """
    if not policies:
        raise InputError("policies", "must be one at least", 0)
    if num_requests < 2:
        raise InputError("num_requests", "must be >= 2, to tell how far they differ", num_requests)
    if num_roots <= WARM_ROOTS:
        raise InputError("num_roots", f"must be > {WARM_ROOTS}", num_roots)
    reach = max(1, *(policy.limits.depth for policy in policies))
    texts = written(process, temperature, num_requests, num_roots, reach, np.random.default_rng(seed))
    found: dict[int, Visited] = {}
    for growth, members in families(policies):
        variants = [(policies[i], policies[i].limits.passes) for i in members]
        for i, rounds in zip(members, rounds_everywhere(texts, growth, variants), strict=True):
            found[i] = visited_of(rounds)
    nothing = np.full(len(policies), np.nan)
    visited = tuple(found[i] for i in range(len(policies)))
    return DynamicTable(tuple(policies), visited, process, temperature, seed, num_requests, nothing)


def families(policies: Sequence[Any]) -> list[tuple[TreePolicy, list[int]]]:
    """Policies by what they share: the growth of the deepest, and the numbers of those that stop it earlier.

    EAGLE-2, OPT-Tree, chains and C2T decide level by level without looking at how many levels there may be.

    >>> shared = families([Eagle2(4, 2, 8), Eagle2(4, 5, 32), Eagle2(8, 2, 8)])
    >>> [(growth.depth, members) for growth, members in shared]
    [(5, [0, 1]), (2, [2])]
    """
    groups: dict[Any, list[int]] = {}
    for number, policy in enumerate(policies):
        match policy:
            case Eagle2():
                key: Any = ("eagle2", policy.top_k)
            case OptTree():
                key = ("opt_tree", policy.nodes, policy.threshold)
            case ConfidenceChain():
                key = ("chain", policy.threshold, policy.measure)
            case C2t():
                key = ("c2t", policy.gate, policy.threshold, policy.top_k, policy.width)
            case _:
                key = number
        groups.setdefault(key, []).append(number)
    return [(policies[max(members, key=lambda i: policies[i].limits.passes)], members) for members in groups.values()]
