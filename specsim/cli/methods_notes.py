"""What the literature says of a mechanism, beside what ours shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from specsim.cli.methods_run import Bench
    from specsim.validate.methods import MethodRow

PAIRS = {
    "chain of 4, block": "chain of 4",
    "RSD-C 2,2,1, traversal": "RSD-C 2,2,1",
}
"""A better rule, and the one that it is held against on the same drafts."""

NOT_BUILT = "SDSAT (arXiv:2403.18647) and its identity, speed-up (2 + X) T(1) / (2 T(k + 1)), are not built."


def comment(row: MethodRow, rows: Sequence[MethodRow], bench: Bench) -> MethodRow:
    """The row with how it compares, where there is a figure to compare with."""
    words = ""
    if row.name in PAIRS:
        words = _against(row, rows)
    elif row.drafter in ("skipped", "exit"):
        words = _ceiling(row, bench)
    elif row.name == "Medusa, 63 nodes" and row.temperature == 0:
        words = _heads(row, bench)
    elif not row.lossless:
        words = f"lossy: total variation {row.total_variation:.2f} in the toy language"
    return replace(row, comment=words)


def _against(row: MethodRow, rows: Sequence[MethodRow]) -> str:
    other = next((one for one in rows if one.name == PAIRS[row.name]), None)
    if other is None:
        return ""
    on_same = row.tokens_predicted / other.tokens_predicted - 1
    measured = row.tokens_measured / other.tokens_measured - 1
    return (
        f"{on_same:+.1%} tokens over {other.rule.replace('_', ' ')} on the same drafts (published: +2 to +3 %); "
        f"measured on texts of their own {measured:+.1%}"
    )


def _ceiling(row: MethodRow, bench: Bench) -> str:
    """Weights left set the limit that no acceptance passes: published 1.57 and 1.93 times for 13B and 70B."""
    share = _weights_left(row, bench)
    return f"runs {share:.0%} of the weights, so at most x{1 / share:.2f} (published sets: x1.57, x1.93); ours x" + (
        f"{row.speedup_measured:.2f}"
    )


def _weights_left(row: MethodRow, bench: Bench) -> float:
    from specsim.executor.drafters.itself import SelfDrafter

    drafter = bench.drafter(row.drafter, bench.timing)  # type: ignore[arg-type]
    assert isinstance(drafter, SelfDrafter)
    shape = drafter.target.shape
    attention = shape.hidden_size * shape.head_dim * 2 * (shape.num_heads + shape.num_kv_heads)
    mlp = 3 * shape.hidden_size * shape.intermediate_size
    head = shape.vocab_size * shape.hidden_size
    kept = sum(attention * attends + mlp * mixes for attends, mixes in drafter.sublayers)
    return (kept + head) / (shape.num_layers * (attention + mlp) + head)


def _heads(row: MethodRow, bench: Bench) -> str:
    """Tokens per round that the heads' accuracies promise were they independent, as published tables are read."""
    from specsim.acceptance.emitted import tokens_per_round
    from specsim.acceptance.profile import AcceptanceProfile
    from specsim.executor.drafters.medusa import Medusa
    from specsim.executor.expected import head_accuracy
    from specsim.trees_known import MEDUSA_63

    drafter = bench.drafter("medusa", bench.recording)
    assert isinstance(drafter, Medusa)
    texts = [
        (bench.greedy_text(prompt), len(bench.recording.prompts[prompt])) for prompt in range(bench.plan.record_prompts)
    ]
    accuracy = head_accuracy(bench.recording.target, drafter, texts, 1 + max(MEDUSA_63.ranks))
    table = AcceptanceProfile(np.diff(accuracy[: MEDUSA_63.depth], axis=1, prepend=0.0))
    promised = tokens_per_round(MEDUSA_63, table)
    return (
        f"independent heads promise {promised:.2f}, {promised / row.tokens_measured - 1:+.0%} over measured, "
        f"{promised / row.tokens_predicted - 1:+.0%} over the recorded paths (published heads: +7 to +13 %)"
    )
