"""C2T: a small classifier, not the product of probabilities, says which candidates are drafted on and verified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from specsim.decoding.arrays import Array, along, array_namespace, device, pick, row_numbers
from specsim.decoding.policies.pool import all_nodes, ascending, check_at_least, check_share, top_children_of_each
from specsim.decoding.propose import top
from specsim.decoding.state import DraftState, Draw, Limits, TokenTree, rooted, subtree
from specsim.errors import InputError

NUM_FEATURES = 3
ENTROPY_TOKENS = 1000
"""The entropy is of so many of a law's most probable tokens, as in the paper."""


@dataclass(frozen=True)
class Gate:
    """A network of layers with ReLU between them and a sigmoid at the end.

    Its inputs are a candidate's path probability, the entropy in nats of the law that it was taken from (of the law's
    thousand largest entries, as they are), and its depth, 1 below the root.

    Args:
        layers: Of each, the weights ``[outputs][inputs]`` and the biases ``[outputs]``; the last has one output.

    Raises:
        InputError: for layers that do not fit one another.

    >>> import numpy as np
    >>> by_path = Gate(((((1.0, 0.0, 0.0),), (0.0,)),))  # rises with the path probability alone
    >>> by_path.confidence(np.array([[0.0, 1.0, 2.0]])).tolist()
    [0.5]
    """

    layers: tuple[tuple[tuple[tuple[float, ...], ...], tuple[float, ...]], ...]

    def __post_init__(self) -> None:
        num_inputs = NUM_FEATURES
        for number, (weights, biases) in enumerate(self.layers):
            if not weights or any(len(row) != num_inputs for row in weights) or len(biases) != len(weights):
                raise InputError(f"layers[{number}]", f"must be rows of {num_inputs} weights and a bias each", weights)
            num_inputs = len(weights)
        if not self.layers or num_inputs != 1:
            raise InputError("layers", "must end with one output", num_inputs)

    def confidence(self, features: Array) -> Array:
        """``[...]`` in (0, 1) for ``features[..., 3]``."""
        xp = array_namespace(features)
        values = features
        for number, (weights, biases) in enumerate(self.layers):
            matrix = xp.asarray(weights, dtype=features.dtype, device=device(features))
            values = values @ matrix.T + xp.asarray(biases, dtype=features.dtype, device=device(features))
            if number < len(self.layers) - 1:
                values = values.clip(min=0)
        return 1 / (1 + xp.exp(-values[..., 0]))


@dataclass(frozen=True)
class C2t:
    """Level by level, candidates of which the gate is surer than ``threshold``; all of them are verified.

    Args:
        gate: Trained on candidates of this drafter and target (``specsim.search.dynamic.gate`` does it).
        threshold: In [0, 1]; published: 0.2 to 0.5, and 0.85 for chains.
        top_k: Most probable children of each node that the gate looks at; published: 15.
        width: Nodes that a level keeps at most, the surest.
        max_depth: Most levels; published: 10.

    Source: Huo et al. 2025 (arXiv:2502.13652).
    """

    gate: Gate
    threshold: float
    top_k: int
    width: int
    max_depth: int
    kind: Literal["c2t"] = "c2t"
    draw: ClassVar[Draw] = "top"

    def __post_init__(self) -> None:
        check_at_least(1, top_k=self.top_k, width=self.width, max_depth=self.max_depth)
        check_share(threshold=self.threshold)

    @property
    def limits(self) -> Limits:
        """Every level full."""
        first = min(self.width, self.top_k)
        nodes = first + (self.max_depth - 1) * self.width
        return Limits(1 + nodes, self.max_depth, self.max_depth, 1 + (nodes - self.width if self.max_depth > 1 else 0))

    def start(self, root_tokens: Array) -> DraftState:
        """The roots ``[B]``."""
        return rooted(root_tokens, num_draws=0)

    def expand(self, state: DraftState, draft_probs: Array, uniforms: Array | None = None) -> DraftState:
        """Add the candidates that pass; they are run next."""
        xp = array_namespace(draft_probs)
        columns, tokens = top_children_of_each(state, draft_probs, min(self.top_k, draft_probs.shape[-1]))
        sure = xp.where(columns >= 0, self._sure(state, draft_probs, columns, tokens), -1.0)
        found, places = top(sure, min(self.width, columns.shape[1]))
        num_before, padding = state.parents.shape[1], columns.shape[1]
        # Back in the order of nodes run and of their children's probability, whatever the gate thinks of them.
        places = ascending(xp.where(found > self.threshold, places, padding), padding)
        kept = places.shape[1]
        if kept == 0:
            return state.grown(draft_probs, places, places)
        at = places.clip(min=0)
        columns = xp.where(places >= 0, along(columns, at), -1)
        state = state.grown(draft_probs, columns, along(tokens, at))
        if len(state.laws) == self.max_depth:
            return state
        level = num_before + xp.arange(kept, device=device(columns))
        return state.then(xp.where(columns >= 0, level, -1))

    def select(self, state: DraftState) -> TokenTree:
        """All nodes."""
        return subtree(state, all_nodes(state))

    def _sure(self, state: DraftState, draft_probs: Array, columns: Array, tokens: Array) -> Array:
        """The gate's confidence in each candidate ``[B, W]``; -1 in those that are impossible."""
        xp = array_namespace(draft_probs)
        at = columns.clip(min=0)
        above = pick(state.path_probs, state.frontier) * (state.frontier >= 0)
        path_probs = pick(above, at) * draft_probs[row_numbers(at)[:, None], at, tokens]
        depth = xp.zeros_like(path_probs) + (len(state.laws) + 1)
        features = xp.stack([path_probs, pick(law_entropy(draft_probs), at), depth], axis=-1)
        return xp.where(path_probs > 0, self.gate.confidence(features), -1.0)


def law_entropy(laws: Array) -> Array:
    """``[...]`` minus the sum of p ln p over the thousand largest entries of ``laws[..., V]``, in nats.

    >>> import numpy as np
    >>> float(law_entropy(np.array([0.5, 0.5, 0.0])).round(4))
    0.6931
    """
    xp = array_namespace(laws)
    if laws.shape[-1] > ENTROPY_TOKENS:
        laws, _ = top(laws, ENTROPY_TOKENS)
    return -xp.sum(laws * xp.log(laws.clip(min=1e-30)), axis=-1)
