"""Seconds that a policy itself takes on this machine's processor: ranking what was drafted, choosing what is verified.

An engine's price list (``dynamic_prices``) holds what its host does for each draft pass, whatever the policy. Where the
policy runs as it does here, in numpy beside the models, its own time can be put in that place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.process import TokenProcess, first_roots
from specsim.decoding import TreePolicy
from specsim.errors import InputError
from specsim.search.dynamic.text import Pool

Floats = NDArray[np.float64]


def policy_seconds(
    policies: Sequence[TreePolicy],
    process: TokenProcess,
    vocab_size: int,
    num_rounds: int = 5,
    clock: Callable[[], float] = time.thread_time,
) -> Floats:
    """Mean seconds per round and sequence ``[policy]``, at batch 1, without the rounds that warm up.

    Args:
        policies: What is timed.
        process: Where laws come from; their candidates are spread over a vocabulary of this size.
        vocab_size: Entries of a law, at least those of the process.
        num_rounds: Of each policy, one more of which is not counted.
        clock: Reads seconds.

    Raises:
        InputError: for a vocabulary that has no room for the candidates.
    """
    if vocab_size < process.law_size:
        raise InputError("vocab_size", f"must be >= {process.law_size}, the entries of the process's laws", vocab_size)
    roots = first_roots(process, np.random.default_rng(0), num_rounds + 1)
    found = np.zeros(len(policies))
    for number, policy in enumerate(policies):
        spent = [
            _round_s(policy, Pool(process, roots.at(slice(i, i + 1))), vocab_size, clock) for i in range(num_rounds + 1)
        ]
        found[number] = np.mean(spent[1:])
    return found


def _round_s(policy: TreePolicy, pool: Pool, vocab_size: int, clock: Callable[[], float]) -> float:
    began = clock()
    state = policy.start(np.zeros(1, dtype=np.int64))
    spent = clock() - began
    while state.frontier.shape[1]:
        laws = pool.draft_laws(state)
        wide = np.zeros((*laws.shape[:-1], vocab_size), dtype=np.float32)
        wide[..., : laws.shape[-1]] = laws
        began = clock()
        state = policy.expand(state, wide)
        spent += clock() - began
    began = clock()
    policy.select(state)
    return spent + clock() - began
