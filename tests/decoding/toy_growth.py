"""A drafter whose laws hang on the path alone, so that a row drafts the same whatever stands beside it."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specsim.decoding import DraftState, TokenTree, TreePolicy

Path = tuple[int, ...]


@dataclass(frozen=True)
class PathLaws:
    """Dirichlet laws after each path of tokens, drawn from the seed, the row and the path."""

    seed: int
    vocab: int
    sharpness: float = 0.3
    ties: bool = False

    def law(self, row: int, path: Path) -> NDArray[np.float64]:
        return _law(self, row, path)

    def uniforms(self, row: int, path: Path, num: int) -> NDArray[np.float64]:
        return np.random.default_rng([self.seed, 1, row, *path]).random(num)

    def path_prob(self, row: int, path: Path) -> float:
        return float(np.prod([self.law(row, path[:i])[token] for i, token in enumerate(path)]))

    def all_paths(self, row: int, max_depth: int) -> dict[Path, float]:
        """Path probability of every node to that depth, root left out."""
        tokens = range(self.vocab)
        paths = itertools.chain.from_iterable(itertools.product(tokens, repeat=d + 1) for d in range(max_depth))
        return {path: self.path_prob(row, path) for path in paths}


@cache
def _law(laws: PathLaws, row: int, path: Path) -> NDArray[np.float64]:
    rng = np.random.default_rng([laws.seed, 0, row, *path])
    probs = rng.dirichlet(np.full(laws.vocab, laws.sharpness))
    if laws.ties:  # eighths: equal probabilities, zeros, and certainties abound
        counts = np.bincount(rng.choice(laws.vocab, 8, p=probs), minlength=laws.vocab)
        probs = counts / 8
    probs.flags.writeable = False
    return probs


def best(values: dict[Path, float], num: int) -> set[Path]:
    """The ``num`` paths of largest value, of those above 0; ties to the shorter."""
    return set(heapq.nsmallest(num, (p for p in values if values[p] > 0), key=lambda p: (-values[p], len(p), p)))


def paths_of(parents: Any, tokens: Any, row: int) -> list[Path]:
    """Path of tokens to each node of one row, padding left out."""
    paths: list[Path] = []
    for parent, token in zip(np.asarray(parents)[row].tolist(), np.asarray(tokens)[row].tolist(), strict=True):
        if parent == -2:
            paths.append((-1,))
        else:
            paths.append(() if parent == -1 else (*paths[parent], token))
    return paths


def grow(
    policy: TreePolicy, laws: PathLaws, rows: list[int], convert: Any = np.asarray
) -> tuple[DraftState, TokenTree]:
    """One round for these rows; padding of the frontier gets laws of nonsense, which must not leak."""
    state, num_passes = policy.start(convert(np.array(rows))), 0
    while state.frontier.shape[1]:
        num_passes += 1
        assert num_passes <= policy.limits.passes
        frontier = np.asarray(state.frontier)
        probs = np.random.default_rng(num_passes).dirichlet(np.ones(laws.vocab), size=frontier.shape)
        uniforms = np.full(state.uniforms_shape(laws.vocab), 0.5)
        for place, row in enumerate(rows):
            paths = paths_of(state.parents, state.tokens, place)
            for column in np.flatnonzero(frontier[place] >= 0):
                path = paths[frontier[place, column]]
                probs[place, column] = laws.law(row, path)
                uniforms[place, column] = laws.uniforms(row, path, uniforms.shape[2])
        state = policy.expand(state, convert(probs), convert(uniforms) if state.num_draws else None)
    return state, policy.select(state)


def kept_paths(tree: TokenTree, row: int = 0) -> list[Path]:
    """Paths of one row's tree, root left out, in node order."""
    return [path for path in paths_of(tree.parents, tree.tokens, row)[1:] if path != (-1,)]
