"""Published times of plain steps and of speculative rounds beside predicted ones: the question is in README.md."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from published import HEAD, LOADS, SETTINGS

from specsim import DraftTree, Scenario, predict, resolve


def deploy(gpu, target, head, workload, **more):
    """The deployment in question. Acceptance is any: it moves a round's time by less than 0.1 %."""
    acceptance = {"kind": "iid", "alpha": 0.7, "source": "any: times are asked for, not tokens"}
    drafter = {"kind": "eagle3", "model": head} if head else {"kind": "none"}
    asked = {"hardware": gpu, "target": {"model": target}, "drafter": drafter, "workload": workload, **more}
    return resolve(Scenario(name=gpu, acceptance=acceptance, **asked))


def rows(setting):
    """Predicted beside measured, a row for each draft length.

    ``cost_error`` is that of the round's cost in plain steps, of which a speed-up's error is the inverse;
    ``log_reach`` is how far the model's own spreads let the logarithm of a time lie, with probability 0.9.
    """
    workload, more = {"context_tokens": setting.context_tokens}, {"engine": setting.engine}
    deployment = deploy(setting.gpu, setting.target, setting.head, workload, tensor_parallel=setting.tp, **more)
    plain_error = 0.0
    for draft_len, measured_ms in sorted(setting.measured_ms.items()):
        spent = predict(deployment, DraftTree.chain(draft_len)).round
        error = 1e3 * float(spent.time_s) / measured_ms - 1
        plain_error = error if draft_len == 0 else plain_error
        reach = 1.645 * float(spent.log_variance(deployment.cost.log_sd).max()) ** 0.5
        row = {"gpu": f"{setting.tp} x {setting.gpu}", "target": setting.target, "draft_len": draft_len}
        row |= {"measured_ms": measured_ms, "predicted_ms": 1e3 * float(spent.time_s), "error": error}
        row |= {"cost_error": (1 + error) / (1 + plain_error) - 1, "log_reach": reach}
        yield {**row, "informed": draft_len in setting.informed, "source": setting.source}


def served(load, batch):
    """The deployment with so many sequences decoding."""
    return deploy(load.gpu, "llama-3.1-8b", HEAD, {"batch": batch, "context_tokens": 512}, engine=load.engine)


def growth(load):
    """How a round's cost in plain steps grows with the batch, over that of the first: of measured, of predicted."""
    chain, first = DraftTree.chain(load.draft_len), next(iter(load.speedups))
    speedups = {batch: predict(served(load, batch), chain).speedup for batch in load.speedups}
    for batch in load.speedups:
        row = {"gpu": load.gpu, "draft_len": load.draft_len, "batch": batch, "source": load.source}
        measured = load.speedups[first] / load.speedups[batch]
        yield {**row, "measured": measured, "predicted": speedups[first] / speedups[batch]}


def summary(found):
    """Of each kind of rows: mean absolute error, mean error, share within the model's own reach."""
    held_out = [r for r in found if not r["informed"]]
    kinds = {
        "held out": held_out,
        "held out, plain steps": [r for r in held_out if r["draft_len"] == 0],
        "held out, rounds": [r for r in held_out if r["draft_len"]],
        "informed the defaults": [r for r in found if r["informed"]],
    }
    return {kind: told(members) for kind, members in kinds.items()}


def told(members):
    """Figures of one kind; ``cost_mape`` is over its rounds."""
    errors, costs = [r["error"] for r in members], [abs(r["cost_error"]) for r in members if r["draft_len"]]
    within = [abs(np.log1p(r["error"])) <= r["log_reach"] for r in members]
    figures = {"num_rows": len(members), "num_sources": len({r["source"] for r in members})}
    figures |= {"mape": np.abs(errors).mean(), "bias": np.mean(errors), "within_frac": np.mean(within)}
    figures |= {"cost_mape": np.mean(costs)} if costs else {}
    return {name: float(value) for name, value in figures.items()}


def draw(found, path):
    """Left: predicted against measured. Right: each row's error, with the reach that the model claims."""
    figure = Figure(figsize=(13, 6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    left.plot([2, 60], [2, 60], color="black", linewidth=0.8)
    for place, row in enumerate(found):
        style = {"color": "C1" if row["draft_len"] else "C0", "fillstyle": "none" if row["informed"] else "full"}
        left.plot(row["measured_ms"], row["predicted_ms"], "o", **style)
        right.plot(100 * row["error"], place, "o", **style)
        ends = [100 * np.expm1(sign * row["log_reach"]) for sign in (-1, 1)]
        right.hlines(place, *ends, color="0.8", linewidth=4, zorder=0)
    left.set(xscale="log", yscale="log", xlabel="measured, ms", ylabel="predicted, ms", title="time of a step or round")
    for axis in (left.xaxis, left.yaxis):
        axis.set_ticks(ticks := (2, 5, 10, 20, 50), ticks)
        axis.set_ticks([], minor=True)
    labels = [f"{r['gpu']}, {r['target']}, {'chain ' * (r['draft_len'] > 0)}{r['draft_len'] or 'plain'}" for r in found]
    right.set_yticks(range(len(found)), labels, fontsize=8)
    right.invert_yaxis()
    right.axvline(0, color="black", linewidth=0.8)
    right.set(xlabel="error of the predicted time, %", title="grey: reach of 90 % that the model claims")
    for name, colour, fill in (
        ("plain", "C0", "full"),
        ("round", "C1", "full"),
        ("informed the defaults", "0.4", "none"),
    ):
        left.plot([], [], "o", color=colour, fillstyle=fill, label=name)
    left.legend(frameon=False)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="the same: the whole takes a second")
    options.add_argument("--out", type=Path, default=Path("results"), help="folder for figures.json, published.png")
    out = options.parse_args().out
    found = [row for setting in SETTINGS for row in rows(setting)]
    for row in found:
        line = (
            "{gpu:17} {target:13} chain {draft_len}: measured {measured_ms:5.2f} ms, predicted {predicted_ms:5.2f} ms"
        )
        print(line.format(**row), f"{row['error']:+6.1%}", "(informed the defaults)" if row["informed"] else "")
    kinds = summary(found)
    for kind, figures in kinds.items():
        line = "{num_rows:g} rows, {num_sources:g} sources: MAPE {mape:.1%}, bias {bias:+.1%}, reach {within_frac:.0%}"
        cost = f"; cost in plain steps: MAPE {figures['cost_mape']:.1%}" if "cost_mape" in figures else ""
        print(f"{kind}: {line.format(**figures)}{cost}")
    loads = [row for load in LOADS for row in growth(load)]
    for row in loads:
        line = "{gpu:9} chain {draft_len} batch {batch:3}: cost x {measured:.2f} measured, x {predicted:.2f} predicted"
        print(line.format(**row))
    out.mkdir(parents=True, exist_ok=True)
    figures = json.dumps({"summary": kinds, "rows": found, "loads": loads}, indent=1)
    (out / "figures.json").write_text(figures + "\n", encoding="utf-8")
    draw(found, out / "published.png")


if __name__ == "__main__":
    main()
