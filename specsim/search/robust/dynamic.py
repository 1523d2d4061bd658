"""Dynamic policies among the candidates of a robust choice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from specsim.decoding import StaticTree
from specsim.search.dynamic.beside import shared_static, standing
from specsim.search.dynamic.tuning import DynamicTuning, label_of
from specsim.search.robust.draws import RateDraws
from specsim.tree import DraftTree


def with_dynamic(
    drawn: RateDraws, trees: Sequence[DraftTree], tuning: DynamicTuning, num: int, rng: np.random.Generator
) -> RateDraws:
    """The draws and the ``num`` best dynamic policies of a tuning.

    The tuning's process and the draws' table of acceptance need not agree on tokens; what is taken from the tuning is
    how a policy compares with the best static tree that both know, in accepted tokens and in the seconds of each part,
    with the error of that comparison. What of the best one's lead did not stand on other texts is taken off them all.

    Args:
        drawn, trees: Of static configurations, and their trees in that order.
        tuning: Of the same deployment.
        num: Policies to add.
        rng: Of the errors.

    Raises:
        InputError: where none of the trees that speculate is in the tuning.
    """
    scores = tuning.scores
    mine, tree = shared_static(tuning, trees)
    like, stands = trees.index(tree), standing(tuning)
    log_sd, found = scores.log_gain_sd(mine), drawn
    accepted = float(drawn.tokens[:, like].mean()) - 1
    parts = (scores.draft_s, scores.verify_s, scores.host_s)
    grows = [i for i in tuning.order if not isinstance(tuning.table.policies[i], StaticTree)]
    for i in grows[:num]:
        tokens = 1 + accepted * float((scores.tokens_per_round[i] - 1) / (scores.tokens_per_round[mine] - 1))
        ratio = [float(part[i] / part[mine]) if part[mine] else 1.0 for part in parts]
        draft, verify, host = (r * float(drawn.parts_s[k, :, like].mean()) for k, r in enumerate(ratio))
        nodes = int(tuning.table.visited[i].num_nodes.max())
        name = label_of(tuning.table.policies[i])
        found = found.with_policy(name, nodes, stands * tokens, (draft, verify, host), like, float(log_sd[i]), rng)
    return found
