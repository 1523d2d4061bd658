"""Learn what the formulas leave over, and say how much of it holds on shapes that neither formula nor network saw.

One network for all kernels of an operator. For each fold a network is trained on the rows that the fold keeps, against
formulas fitted to the same rows; it is judged, and its intervals made, on what the fold leaves out. The network that is
kept is then trained on all rows, against the formulas that are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specsim.calibrate.frame import Sizes, Unseen, judged, report_rows
from specsim.calibrate.network import Rows, train
from specsim.calibrate.operators import Table, heldout, quantile_90, select, widths_by_size
from specsim.cost.fits import OperatorFit, Residual, profile_name
from specsim.cost.residual import CHUNK_ROWS, Network, evaluate, key_of, plain, residual_file, within
from specsim.cost.shape_features import Rows32
from specsim.work import Float

LEAST_ROWS: Final = 200
"""A kernel with fewer rows gets no correction: it would be a copy of them."""
Folds = Mapping[int, tuple[NDArray[np.bool_], Float]]


class Sample(NamedTuple):
    """The rows of one kernel's fit.

    Attributes:
        table: Their columns; impossible ones are left out.
        features: float32, shape [rows, features].
        folds: For each fold the rows it leaves out, and the seconds of all rows by the formula fitted without them.
        whole_s: Seconds of all rows by the formula that is kept.
        weight: Of each row in the loss.
        copies: As in ``specsim.cost.fits.Residual``.
    """

    gpu: str
    fit: OperatorFit
    table: Table
    features: Rows32
    folds: Folds
    whole_s: Float
    weight: Float
    copies: float

    @property
    def measured_s(self) -> Float:
        return np.asarray(self.table["latency_us"] * 1e-6)


class Plan(NamedTuple):
    """How a network is trained: its file's name, epochs, dropout, and by what size its intervals differ."""

    name: str
    epochs: int
    dropout: float
    sizes: Sizes


class Learned(NamedTuple):
    """The network that is kept, and by key of device and fit what it does to the folds' seconds."""

    network: Network
    folds: dict[str, Folds]


def learn(samples: Sequence[Sample], plan: Plan) -> Learned:
    """Train without each fold, correct what it left out, and train on everything."""
    samples = [s for s in samples if len(s.measured_s) >= LEAST_ROWS]
    keys = tuple(key_of(profile_name(s.gpu), s.fit) for s in samples)
    corrected: dict[str, dict[int, tuple[NDArray[np.bool_], Float]]] = {key: {} for key in keys}
    for fold in sorted({fold for s in samples for fold in s.folds}):
        kept = [~s.folds[fold][0] if fold in s.folds else np.ones(len(s.measured_s), dtype=bool) for s in samples]
        formula = [s.folds[fold][1] if fold in s.folds else s.whole_s for s in samples]
        network = _train(samples, kept, formula, keys, plan)
        for kernel, (key, sample) in enumerate(zip(keys, samples, strict=True)):
            if fold in sample.folds:
                mask, seconds = sample.folds[fold]
                corrected[key][fold] = mask, seconds * np.exp(_log_correction(network, kernel, sample, kept[kernel]))
    everything = [np.ones(len(s.measured_s), dtype=bool) for s in samples]
    network = _train(samples, everything, [s.whole_s for s in samples], keys, plan)
    return Learned(network, {key: folds for key, folds in corrected.items()})


def _train(
    samples: Sequence[Sample],
    kept: Sequence[NDArray[np.bool_]],
    formula: Sequence[Float],
    keys: tuple[str, ...],
    plan: Plan,
) -> Network:
    wanted = [np.log(s.measured_s / f)[mask] for s, f, mask in zip(samples, formula, kept, strict=True)]
    rows = Rows(
        np.concatenate([s.features[mask] for s, mask in zip(samples, kept, strict=True)]),
        np.concatenate([np.full(len(w), i) for i, w in enumerate(wanted)]),
        np.concatenate(wanted).astype(np.float32),
        np.concatenate([s.weight[mask] for s, mask in zip(samples, kept, strict=True)]).astype(np.float32),
    )
    return train(rows, keys, plan.epochs, plan.dropout)


def _log_correction(network: Network, kernel: int, sample: Sample, kept: NDArray[np.bool_]) -> Float:
    """As it will be applied: fading outside the columns that the kept rows span."""
    seen = select(sample.table, kept)
    ranges = {name: (float(seen[name].min()), float(seen[name].max())) for name in sample.fit.valid_range}
    net, x = plain(network, kernel), sample.features.T
    parts = [evaluate(net, x[:, i : i + CHUNK_ROWS]) for i in range(0, x.shape[1], CHUNK_ROWS)]
    return np.asarray(np.concatenate(parts) * within(sample.table, ranges))


def with_residual(sample: Sample, learned: Learned, plan: Plan) -> OperatorFit:
    """The sample's fit with what is known of its correction; without one where too few folds could judge it."""
    folds = learned.folds.get(key_of(profile_name(sample.gpu), sample.fit), {})
    if len(folds) < 2:
        return sample.fit
    unseen = judged({}, sample.table, folds, plan.sizes)
    errors = np.log(unseen.measured_s / unseen.predicted_s)
    out = np.concatenate([np.flatnonzero(mask) for mask, _ in folds.values()])
    widths = widths_by_size({name: sample.table[name][out] for name in plan.sizes.columns}, *plan.sizes, errors)
    found = Residual(
        network=plan.name,
        copies=sample.copies,
        log_sd=float(np.std(errors)),
        quantile_90=quantile_90(errors),
        widths=widths,
        heldout=heldout(unseen.predicted_s, unseen.measured_s, unseen.half_width),
    )
    return sample.fit.model_copy(update={"residual": found})


def save_network(network: Network, name: str) -> None:
    """Write the bundled file: half precision, compressed."""
    arrays = {n: getattr(network, n).astype(np.float16) for n in Network._fields if n not in ("keys", "mean", "scale")}
    path = residual_file(name)
    with path.open("wb") as file:
        np.savez_compressed(file, keys=np.array(network.keys), mean=network.mean, scale=network.scale, **arrays)


def errors_by_group(
    samples: Sequence[Sample], folds_of: Mapping[str, Folds], plan: Plan, operator: str, split: str
) -> list[dict[str, Any]]:
    """Errors on what the folds left out: by group, and by size, whose ranges the plan has; ``small`` up to the last."""
    found = list[tuple[Unseen, Float]]()
    for sample in samples:
        folds = folds_of.get(key_of(profile_name(sample.gpu), sample.fit), sample.folds)
        names = ("operator", "engine", "version", "dtype")
        key = {"gpu": sample.gpu, **{name: str(getattr(sample.fit, name)) for name in names}}
        unseen = judged(key, sample.table, folds, plan.sizes)
        if len(unseen.measured_s):
            out = np.concatenate([np.flatnonzero(mask) for mask, _ in folds.values()])
            found.append((unseen, np.prod([sample.table[name][out] for name in plan.sizes.columns], axis=0)))
    edges = plan.sizes.edges
    ranges = {f"{a + 1:g}-{b:g}": (a, b) for a, b in zip((0.0, *edges), (*edges, 16384.0), strict=True)}
    ranges |= {"small": (0.0, edges[-1])} if plan.sizes.columns == ("m",) else {}
    ranges |= {"all": (0.0, np.inf)}
    rows = []
    for label, (least, most) in ranges.items():
        parts = [_only(unseen, (size > least) & (size <= most)) for unseen, size in found]
        rows += [{**row, "tokens": label} for row in report_rows(parts, operator, split)]
    return rows


def _only(unseen: Unseen, mask: NDArray[np.bool_]) -> Unseen:
    return Unseen(unseen.key, unseen.predicted_s[mask], unseen.measured_s[mask], unseen.half_width[mask])


def mean_error(samples: Iterable[Sample], folds_of: Mapping[str, Folds] | None = None) -> float:
    """Mean absolute error on what the folds left out, by the formulas or by what ``folds_of`` has for their keys."""
    errors = []
    for s in samples:
        folds = s.folds if folds_of is None else folds_of.get(key_of(profile_name(s.gpu), s.fit), s.folds)
        errors += [np.abs(seconds[mask] / s.measured_s[mask] - 1) for mask, seconds in folds.values()]
    return float(np.mean(np.concatenate(errors)))
