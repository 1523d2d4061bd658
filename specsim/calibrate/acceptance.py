"""An acceptance table from recorded rounds: who counts what was kept, at which depth, at which rank."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from specsim.acceptance.profile import AcceptanceProfile, RankOrder
from specsim.acceptance.spread import RequestSpread
from specsim.acceptance.spread_fit import FAR, FittedSpread, equal_requests, fit_spread
from specsim.errors import InputError
from specsim.records import RoundRecord
from specsim.tree import DraftTree

WIDTHS = (3, 2, 2, 1, 1, 1, 1, 1)
"""Children per node and depth of the tree that acceptance is recorded with: contains every chain to 8, many trees."""


def recording_tree() -> DraftTree:
    """The tree of ``WIDTHS``."""
    return DraftTree.from_widths(WIDTHS)


def profile_from_records(
    records: Iterable[RoundRecord], tree: DraftTree, rank_order: RankOrder, source: str
) -> AcceptanceProfile:
    """``accept_prob[depth, rank]`` with its trials, from rounds that all verified ``tree``.

    A depth counts as tried when the node above it was accepted and has children in the tree. Averaging over parents
    of one depth is what the table means; where acceptance differs by parent a tree's estimate can be off (see
    ``specsim.acceptance``), and where parents of one depth have children of different ranks it reads low.

    Raises:
        InputError: when there is no record, or one is not of that tree.
    """
    ranks = 1 + max(tree.ranks)
    paths = ((), *tree.paths())
    known, inner = set(paths), {paths[node] for node in tree.parents[1:]}
    accepted, trials = np.zeros((tree.depth, ranks)), np.zeros(tree.depth)
    emitted: dict[int, list[int]] = {}
    for record in records:
        if record.num_drafted != tree.num_drafted or record.accepted_ranks not in known:
            raise InputError("records", f"must all verify {tree.label}", record.method)
        emitted.setdefault(record.request, []).append(record.num_emitted)
        for depth, rank in enumerate(record.accepted_ranks):
            accepted[depth, rank] += 1
        trials[: record.num_accepted + (record.accepted_ranks in inner)] += 1
    if not trials.size or trials[0] == 0:
        raise InputError("records", "must hold at least one round", 0)
    # A depth never reached is unknown, not zero: one trial's worth of nothing keeps its interval wide.
    return AcceptanceProfile(
        accepted / np.maximum(trials, 1)[:, None],
        np.maximum(trials, 1),
        source,
        rank_order,
        spread=_spread(list(emitted.values())),
        num_requests=equal_requests([len(rounds) for rounds in emitted.values()]),
    )


def spread_from_records(records: Iterable[RoundRecord], rng: np.random.Generator) -> FittedSpread:
    """How requests differ and how their rounds depend on each other, from rounds that all verified one tree.

    Args:
        records: In the order played, of any number of requests.
        rng: Of the resampled requests behind the intervals.

    Raises:
        InputError: for fewer than two requests of enough rounds.
    """
    emitted: dict[int, list[int]] = {}
    for record in records:
        emitted.setdefault(record.request, []).append(record.num_emitted)
    return fit_spread(list(emitted.values()), rng)


def _spread(emitted: list[list[int]]) -> RequestSpread | None:
    if sum(len(rounds) > FAR for rounds in emitted) < 2:
        return None
    # The generator serves the fit's own intervals, which are not kept.
    return fit_spread(emitted, np.random.default_rng(0)).spread
