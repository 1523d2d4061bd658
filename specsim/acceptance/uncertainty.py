"""How sure the tokens per round are: what the counts leave open, the spread between requests and between workloads."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from specsim.acceptance.emitted import Acceptance, check_tree_fits, emitted_distribution, path_probs_of
from specsim.acceptance.profile import AcceptanceProfile, Array
from specsim.acceptance.trie import PathTrie
from specsim.errors import InputError
from specsim.tree import DraftTree

NUM_DRAWS: Final = 2000
"""Draws behind an interval: the ends of a 90 % interval then wander by about 2 % of its level."""

MOST_DRAWN: Final = 1000
"""Requests of a sample whose natures are drawn one by one; the mean over more is drawn as a normal."""


class TokensInterval(NamedTuple):
    """Equal-tailed interval of tokens per round, with the mean of the draws."""

    lo: float
    mean: float
    hi: float


class Sample(NamedTuple):
    """What an interval is for, where it is not the long run: the mean over so many requests of so many rounds each."""

    num_requests: int
    num_rounds: float


def posterior_draws(
    profile: AcceptanceProfile, rng: np.random.Generator, size: int, design_effect: float = 1.0
) -> Array:
    """Tables that the trials leave possible, ``[draw, depth - 1, rank]``; all equal when ``num_trials`` is None.

    Each row is a Dirichlet over its ranks and "none of them", with prior weight 1 in all, spread evenly: Jeffreys'
    prior for a chain, Perks' (1947) for more ranks, whose weight does not grow with the width of the table.
    Depths from ``tied_from`` on share one draw. Trials count ``design_effect`` times less than they number.
    """
    table = profile.accept_prob
    if profile.num_trials is None:
        return np.broadcast_to(table, (size, *table.shape))
    none = np.clip(1 - table.sum(axis=1, keepdims=True), 0, 1)
    counts = np.concatenate((table, none), axis=1) * profile.num_trials[:, None] / design_effect
    gammas = rng.standard_gamma(counts + 1 / counts.shape[1], size=(size, *counts.shape))
    draws: Array = (gammas / gammas.sum(axis=-1, keepdims=True))[..., :-1]
    if profile.tied_from is not None:
        draws[:, profile.tied_from - 1 :] = draws[:, profile.tied_from - 1, None]
    return draws


def tokens_draws(
    tree: DraftTree, acceptance: Acceptance, rng: np.random.Generator, size: int, sample: Sample | None = None
) -> Array:
    """Possible tokens per round ``[draw]``: sampling error of the counts, times the spread between workloads.

    The latter multiplies the accepted tokens by a log-normal factor of mean 1 and relative deviation ``task_sd``,
    cut off where every round would accept the whole depth. ``sample`` adds how far so few requests stray from the mean
    of all, by the acceptance's ``spread``.
    """
    check_tree_fits(tree, acceptance)
    if isinstance(acceptance, PathTrie):
        tokens, known = _trie_draws(tree, acceptance, rng, size)
    else:
        effect, known = _effect_of_clusters(tree, acceptance, rng)
        tokens = path_probs_of(tree, posterior_draws(acceptance, rng, size, effect)).sum(axis=-1)
    centre = float(tokens.mean())
    if sample is not None:
        tokens = tokens + _strays(tree, acceptance, rng, size, sample)
    if known > 1:
        # How much requests differ was learnt from these few as well: Student's t.
        tokens = centre + (tokens - centre) * np.sqrt((known - 1) / rng.chisquare(known - 1, size))
    log_var = np.log1p(acceptance.task_sd**2)
    factor = np.exp(np.sqrt(log_var) * rng.standard_normal(size) - log_var / 2)
    tokens = 1 + (tokens - 1) * factor
    return np.asarray(np.clip(tokens, 1.0, tree.depth + 1.0))


def tokens_interval(
    tree: DraftTree,
    acceptance: Acceptance,
    level: float,
    rng: np.random.Generator,
    sample: Sample | None = None,
) -> TokensInterval:
    """Interval that holds the true tokens per round with probability ``level``, and the posterior mean.

    Args:
        tree: What is drafted.
        acceptance: What is known of it.
        level: For instance 0.9.
        rng: Of the draws.
        sample: Left out: the long run over all requests. Given: the mean that so many requests will show.

    >>> profile = AcceptanceProfile.iid(0.8, max_depth=4, num_trials=500)
    >>> lo, mean, hi = tokens_interval(DraftTree.chain(4), profile, 0.9, np.random.default_rng(0))
    >>> lo < 3.3616 < hi, hi - lo < 0.5
    (True, True)
    """
    if not 0 < level < 1:
        raise InputError("level", "must be between 0 and 1", level)
    draws = tokens_draws(tree, acceptance, rng, NUM_DRAWS, sample)
    lo, hi = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return TokensInterval(float(lo), float(draws.mean()), float(hi))


def tokens_log_variance(
    tree: DraftTree, acceptance: Acceptance, rng: np.random.Generator, sample: Sample | None = None
) -> float:
    """Variance of the logarithm of tokens per round, to be added to that of the step time."""
    return float(np.log(tokens_draws(tree, acceptance, rng, NUM_DRAWS, sample)).var())


def _effect_of_clusters(tree: DraftTree, profile: AcceptanceProfile, rng: np.random.Generator) -> tuple[float, float]:
    """How many times less the trials are worth for rounds of one request being alike, and requests that they are of.

    Rounds are numbered by what the counts are worth for this tree, as if independent, whatever the rows share. Without
    a spread they are taken as independent, of no number of requests: (1, 0).
    """
    if profile.spread is None or profile.num_requests is None or profile.num_trials is None:
        return 1.0, 0.0
    pmf = emitted_distribution(tree, profile)
    numbers = np.arange(len(pmf))
    variance = float(pmf @ numbers**2 - (pmf @ numbers) ** 2)
    alone = float(path_probs_of(tree, posterior_draws(profile, rng, NUM_DRAWS)).sum(axis=-1).var())
    if variance <= 0 or alone <= 0:
        return 1.0, profile.num_requests
    rounds = max(1.0, variance / alone / profile.num_requests)
    return max(1.0, profile.spread.design_effect(pmf, rounds)), profile.num_requests


def _trie_draws(tree: DraftTree, trie: PathTrie, rng: np.random.Generator, size: int) -> tuple[Array, float]:
    """Tokens per round under requests weighed at random (the Bayesian bootstrap, Rubin 1981), ``[draw]``, and of how
    many requests of one length; of fewer than two, rounds are taken as independent."""
    nodes = [trie.node_of[path] for path in ((), *tree.paths())]
    num = trie.num_equal
    if num < 2:
        return np.asarray(_row_draws(trie, rng, size)[:, nodes].sum(axis=-1)), 0.0
    weights = rng.standard_exponential((size, trie.num_requests))
    weights *= trie.num_requests / weights.sum(axis=1, keepdims=True)
    tokens = trie.probs_of(weights @ trie.tried, weights @ trie.kept)[:, nodes].sum(axis=-1)
    centre = float(trie.node_probs[nodes].sum())
    # Random weights have the variance of a mean of R + 1, about the spread of a sample of R.
    return np.asarray(centre + (tokens - centre) * np.sqrt((num + 1) / (num - 1))), num


def _row_draws(trie: PathTrie, rng: np.random.Generator, size: int) -> Array:
    """Path probabilities of a trie of one request, its rounds taken as independent, ``[draw, node]``."""
    tree = trie.tree
    tried, kept = trie.tried.sum(axis=0), trie.kept.sum(axis=0)
    probs = np.ones((size, tree.num_nodes))
    for node, children in enumerate(tree.children):
        if children:
            own, prior = list(children), 1 / (len(children) + 1)
            none = max(0.0, float(tried[own].max() - kept[own].sum()))
            gammas = rng.standard_gamma(np.append(kept[own], none) + prior, size=(size, len(own) + 1))
            probs[:, own] = probs[:, [node]] * (gammas / gammas.sum(axis=-1, keepdims=True))[:, :-1]
    return probs


def _strays(tree: DraftTree, acceptance: Acceptance, rng: np.random.Generator, size: int, sample: Sample) -> Array:
    """How far means over ``sample`` lie from the mean of all requests, ``[draw]``."""
    if sample.num_requests < 1 or not sample.num_rounds >= 1:
        raise InputError("sample", "must be of at least one request of at least one round", tuple(sample))
    pmf = emitted_distribution(tree, acceptance)
    tokens = np.arange(len(pmf))
    mean = float(pmf @ tokens)
    if acceptance.spread is None:
        variance = float(pmf @ tokens**2 - mean**2) / (sample.num_requests * sample.num_rounds)
        return np.asarray(np.sqrt(max(0.0, variance)) * rng.standard_normal(size))
    whole = acceptance.spread.mean_variance(pmf, sample.num_rounds)
    if sample.num_requests > MOST_DRAWN:
        return np.asarray(np.sqrt(max(0.0, whole) / sample.num_requests) * rng.standard_normal(size))
    noise = max(0.0, whole - acceptance.spread.between_sd(pmf) ** 2) / sample.num_requests
    natures = acceptance.spread.request_means(pmf, rng.standard_normal((size, sample.num_requests)))
    return np.asarray(natures.mean(axis=1) - mean + np.sqrt(noise) * rng.standard_normal(size))
