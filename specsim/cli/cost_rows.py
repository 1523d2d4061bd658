"""The numbers behind ``specsim cost``: one row per pass."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from specsim.cost.memory import MemoryLedger, memory_ledger
from specsim.cost.model import PassCost
from specsim.estimate import LEVEL
from specsim.work import BOUNDS, Cost, Pass, Role

Row = dict[str, Any]


def price_passes(priced: PassCost, sweep: Sequence[tuple[int, int, int]], *, with_ops: bool = False) -> list[Row]:
    """A row per model and (batch, context, new tokens), each model's whole sweep priced at once.

    Raises:
        InfeasibleError: when none of them fits in memory.
    """
    ledgers = [_ledger(priced, *where) for where in sweep]
    min(ledgers, key=lambda ledger: ledger.total).check()
    return [row for role in priced.models for row in _price_model(priced, role, sweep, ledgers, with_ops)]


def _price_model(
    priced: PassCost, role: Role, sweep: Sequence[tuple[int, int, int]], ledgers: list[MemoryLedger], with_ops: bool
) -> list[Row]:
    batch, context, tokens = np.array(sweep, dtype=float).T[..., None]
    work = Pass(role, "verify" if role == "target" else "draft", tokens, context, batch)
    found = priced.price(work)
    reach = np.exp(NormalDist().inv_cdf((1 + LEVEL) / 2) * np.sqrt(found.log_variance(priced.log_sd)))
    by_op = priced.breakdown(work) if with_ops else []
    rows = []
    for n, (batch_n, context_n, tokens_n) in enumerate(sweep):
        row = {"role": role, "model": priced.models[role].name, "batch": batch_n, "context_tokens": context_n}
        row |= {"new_tokens": tokens_n} | _counts(found, n)
        row |= {"time_low_s": found.time_s[n] / reach[n], "time_high_s": found.time_s[n] * reach[n]}
        row |= {"intensity_flops_per_byte": found.flops[n] / found.bytes[n]}
        row |= {"by_bound_s": dict(zip(BOUNDS, found.by_bound[n], strict=True))}
        row |= {"memory_bytes": ledgers[n].total, "fits": ledgers[n].fits}
        if with_ops:
            row["ops"] = [{"name": op.name, "runs": runs, **_counts(each, n)} for op, runs, each in by_op]
        rows.append(row)
    return rows


def _counts(found: Cost, n: int) -> Row:
    return {"time_s": found.time_s[n], "flops": found.flops[n], "bytes": found.bytes[n], "bound": str(found.bound[n])}


def _ledger(priced: PassCost, batch: int, context: int, tokens: int) -> MemoryLedger:
    target, draft = priced.models["target"], priced.models.get("draft")
    hardware = priced.ops.hardware
    return memory_ledger(hardware, target, draft, batch, context + tokens, priced.tp, priced.draft_tp)
