"""The gate of C2T, trained on candidates of a process: which of them the target keeps."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.process import TextNodes, TokenProcess
from specsim.decoding import DraftState
from specsim.decoding.policies.c2t import C2t, Gate, law_entropy
from specsim.decoding.policies.eagle2 import Eagle2
from specsim.search.dynamic.text import CHUNK, Pool, Texts, grown, written

Floats = NDArray[np.float64]

HIDDEN: Final = 8
"""Units of the one hidden layer; three inputs need few."""
TOP_K: Final = 8
NUM_SAMPLES: Final = 10_000
LEAST_PATH: Final = 1e-3
"""Candidates trained on, of those with at least this path probability: no threshold of use lies below."""


def train_gate(process: TokenProcess, temperature: float, max_depth: int, num_requests: int, seed: int) -> Gate:
    """A gate of one hidden layer, by maximum likelihood over candidates of EAGLE-2's growth.

    The label of a candidate is whether the text goes through it. Use another seed than for the texts that judge it.

    >>> gate = train_gate(TokenProcess(), 0.0, 2, 24, seed=3)
    >>> sure, not_sure = gate.confidence(np.array([[0.9, 0.3, 1.0], [0.01, 3.0, 1.0]]))
    >>> bool(sure > 0.7 > 0.1 > not_sure)
    True
    """
    features, labels = gate_samples(process, temperature, max_depth, num_requests, seed)
    likely = np.flatnonzero(features[:, 0] >= LEAST_PATH)
    chosen = np.random.default_rng(seed).permutation(likely)[:NUM_SAMPLES]
    return fitted_gate(features[chosen], labels[chosen], seed)


def gate_samples(
    process: TokenProcess, temperature: float, max_depth: int, num_requests: int, seed: int, num_roots: int = 24
) -> tuple[Floats, Floats]:
    """Features ``[candidate, 3]`` of candidates whose parents were run, and whether the target keeps each."""
    texts = written(process, temperature, num_requests, num_roots, max_depth, np.random.default_rng(seed))
    policy = Eagle2(TOP_K, max_depth - 1, 1 + TOP_K)
    features, labels = [], []
    per_chunk = max(1, CHUNK // num_roots)
    for begin in range(0, num_requests, per_chunk):
        some = slice(begin, begin + per_chunk)
        nodes = texts.nodes.at((some, slice(None, num_roots)))
        roots = TextNodes(*(getattr(nodes, n).reshape(-1) for n in ("key", "is_easy", "offset", "depth")))
        state = grown(policy, len(roots.key), Pool(process, roots).draft_laws)[-1]
        found, kept = _candidates(state, _after(texts, some).reshape(len(roots.key), -1))
        features.append(found)
        labels.append(kept)
    return np.concatenate(features), np.concatenate(labels)


def _after(texts: Texts, some: slice) -> NDArray[np.int64]:
    reach = texts.tokens.shape[1] - texts.num_roots
    windows = np.lib.stride_tricks.sliding_window_view(texts.tokens[some, 1:], reach, axis=1)
    return np.asarray(windows[:, : texts.num_roots])


def _candidates(state: DraftState, texts: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Of every node in the pool but the root."""
    parents, tokens = np.asarray(state.parents), np.asarray(state.tokens)
    rows, num = np.arange(len(parents))[:, None], parents.shape[1]
    above = np.maximum(parents, 0)
    entropy, at = np.zeros(parents.shape), 0
    for laws in state.laws:
        width = laws.shape[1]
        entropy[rows, np.asarray(state.expanded)[:, at : at + width]] = law_entropy(laws)
        at += width
    depth, kept = np.zeros(parents.shape, dtype=np.int64), np.ones(parents.shape, dtype=bool)
    for node in range(1, num):
        over = above[:, node]
        depth[:, node] = depth[rows[:, 0], over] + 1
        wanted = texts[rows[:, 0], np.minimum(depth[:, node] - 1, texts.shape[1] - 1)]
        kept[:, node] = kept[rows[:, 0], over] & (tokens[:, node] == wanted)
    real = (parents >= 0) & (np.asarray(state.path_probs) > 0)
    features = np.stack([np.asarray(state.path_probs, dtype=float), entropy[rows, above], depth], axis=-1)
    return features[real], kept[real].astype(float)


def fitted_gate(features: Floats, labels: Floats, seed: int, hidden: int = HIDDEN) -> Gate:
    """The gate that makes these labels likeliest, from one random start."""
    from scipy.optimize import minimize

    centre, spread = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-9)
    x = (features - centre) / spread
    start = np.random.default_rng(seed).standard_normal(5 * hidden + 1) * 0.5

    def loss(flat: Floats) -> tuple[float, Floats]:
        first, bias, last, end = _unpacked(flat, hidden)
        inner = x @ first.T + bias
        active = np.maximum(inner, 0)
        logit = active @ last + end
        error = 1 / (1 + np.exp(-logit)) - labels
        back = np.outer(error, last) * (inner > 0)
        slope = [(back.T @ x).ravel(), back.sum(axis=0), active.T @ error, [error.sum()]]
        value = float(np.logaddexp(0, logit).sum() - labels @ logit) / len(x) + 1e-4 * float(flat @ flat)
        return value, np.concatenate(slope) / len(x) + 2e-4 * flat

    flat = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 150}).x
    first, bias, last, end = _unpacked(np.asarray(flat), hidden)
    raw = first / spread
    layers = ((raw, bias - raw @ centre), (last[None], np.array([end])))
    return Gate(tuple((tuple(map(tuple, w.tolist())), tuple(b.tolist())) for w, b in layers))


def _unpacked(flat: Floats, hidden: int) -> tuple[Floats, Floats, Floats, float]:
    first, bias, last = np.split(flat[:-1], [3 * hidden, 4 * hidden])
    return first.reshape(hidden, 3), bias, last, float(flat[-1])


def auc(scores: Floats, labels: Floats) -> float:
    """Probability that a candidate that is kept scores above one that is not; ties count half.

    >>> auc(np.array([0.9, 0.2, 0.5]), np.array([1.0, 0.0, 0.0]))
    1.0
    """
    from scipy.stats import rankdata

    ranks, kept = rankdata(scores), labels > 0
    num, rest = int(kept.sum()), int((~kept).sum())
    return float((ranks[kept].sum() - num * (num + 1) / 2) / (num * rest))


def c2t_policies(gate: Gate, thresholds: list[float], widths: list[int], depths: list[int]) -> list[C2t]:
    """One for each combination."""
    return [C2t(gate, t, TOP_K, w, d) for t in thresholds for w in widths for d in depths]
