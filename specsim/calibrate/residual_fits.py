"""Learned corrections of dense layers and decode attention, on top of the bundled fits of their formulas.

    python -m specsim.calibrate.residual_fits DATA_DIR [NETWORK ...]

trains them (some minutes on one core), writes ``residual.<network>.npz``, and what the corrections reach into the
devices' ``.fit.json``. The formulas keep their parameters; fitting those anew drops their corrections.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from specsim.calibrate.attention import SIZES, decode_found
from specsim.calibrate.frame import Found, Sizes
from specsim.calibrate.gemm import LARGE_M_WEIGHT, SMALL_M, impossible
from specsim.calibrate.gemm_fits import EDGES, Group, by_fold, gemm_groups, judged, with_errors
from specsim.calibrate.operators import save_operator_fits, select
from specsim.calibrate.residual import (
    Learned,
    Plan,
    Sample,
    errors_by_group,
    learn,
    mean_error,
    save_network,
    with_residual,
)
from specsim.cost.fits import OperatorFit, load_fit, profile_name
from specsim.cost.operators.attention import kv_element_bytes
from specsim.cost.operators.gemm import format_of, gemm_from_fit
from specsim.cost.shape_features import GEMM_SIZES, MOST_HELD, decode_features, gemm_features
from specsim.hardware import load_hardware

FOLD_ROWS: Final = 1000
"""Rows that each fold's formula of dense layers is made of."""
PLANS: Final = {
    "gemm": Plan("gemm", epochs=30, dropout=0.1, sizes=Sizes(("m",), EDGES)),
    "layer_gemm": Plan("layer_gemm", epochs=20, dropout=0.2, sizes=Sizes(("m",), EDGES)),
    "attention_decode": Plan("attention_decode", epochs=45, dropout=0.0, sizes=SIZES),
}


def gemm_samples(data_dir: Path) -> Iterator[Sample]:
    """Loops of dense layers."""
    yield from (gemm_sample(g) for g in gemm_groups(data_dir) if g.engine != "vidur")


def layer_gemm_samples(data_dir: Path) -> Iterator[Sample]:
    """Dense layers of whole models."""
    yield from (gemm_sample(g) for g in gemm_groups(data_dir) if g.engine == "vidur")


def gemm_sample(group: Group) -> Sample:
    """The rows of one bundled fit, with its errors on this module's folds."""
    table, device = group.rows
    name = profile_name(group.gpu)
    fit = next(f for f in load_fit(name).fits if f.key == ("gemm", group.engine, group.version, group.dtype))
    seconds = by_fold(group, fit.variant, FOLD_ROWS)
    fit = with_errors(fit, judged(group, seconds))
    usable = ~impossible(table, device, group.dtype)
    rows, copies = select(table, usable), 0.0
    over_l2 = np.full(int(usable.sum()), 2.0**MOST_HELD)
    if "weight_copies" in rows:
        weights = rows["n"] * rows["k"] * format_of(group.dtype).weight_bytes
        over_l2, copies = rows["weight_copies"] * weights / device.l2_bytes.value, float(rows["weight_copies"].max())
    features = gemm_features(rows, device, over_l2).T
    if not copies:  # five models are too few to learn from their sizes: they would be told apart by them
        features[:, GEMM_SIZES] = 0
    return Sample(
        group.gpu,
        fit,
        rows,
        features,
        {i: (fold[usable], s[usable]) for i, (fold, s) in enumerate(zip(group.folds, seconds, strict=True))},
        gemm_from_fit(rows, device, fit, resident=True, residual=False)[0],
        np.where(rows["m"] <= SMALL_M, 1.0, LARGE_M_WEIGHT),
        copies,
    )


def decode_samples(data_dir: Path) -> Iterator[Sample]:
    """Loops of decode attention; their formulas are fitted anew, which takes less time than to find them."""
    yield from map(decode_sample, decode_found(data_dir))


def decode_sample(found: Found) -> Sample:
    """The rows of one kernel."""
    rows, device = found.rows, load_hardware(profile_name(found.gpu))
    cache = 2 * rows["batch"] * (rows["context"] + rows["q_len"]) * rows["n_kv_heads"] * rows["head_dim"]
    over_l2 = cache * kv_element_bytes(found.fit.dtype) / device.l2_bytes.value
    features = decode_features(rows, device, over_l2).T
    whole_s = found.times(rows, found.fit.params)
    return Sample(found.gpu, found.fit, rows, features, found.folds, whole_s, np.ones(len(whole_s)), 1.0)


SAMPLES: Final[Mapping[str, Callable[[Path], Iterator[Sample]]]] = {
    "gemm": gemm_samples,
    "layer_gemm": layer_gemm_samples,
    "attention_decode": decode_samples,
}


SPLITS: Final = {
    "gemm": ("gemm", "unseen shapes"),
    "layer_gemm": ("layer gemm", "unseen models"),
    "attention_decode": ("attention_decode", "unseen head configurations"),
}
CORRECTED: Final = ", corrected"
"""What a split's name ends in where the learned corrections are on."""


def residual_heldout_report(data_dir: Path, names: Sequence[str] = tuple(SAMPLES)) -> list[dict[str, Any]]:
    """Formulas and corrections made anew without each fold; errors on what it left out, without and with them."""
    rows = []
    for name in names:
        samples = list(SAMPLES[name](data_dir))
        rows += rows_of(name, samples, learn(samples, PLANS[name]))
    return rows


def rows_of(name: str, samples: Sequence[Sample], learned: Learned) -> list[dict[str, Any]]:
    """Rows of the accuracy page."""
    operator, split = SPLITS[name]
    return [
        *errors_by_group(samples, {}, PLANS[name], operator, split),
        *errors_by_group(samples, learned.folds, PLANS[name], operator, split + CORRECTED),
    ]


def main(arguments: Sequence[str]) -> None:
    """Train, write, and print the mean errors of the formulas alone and corrected."""
    for name in arguments[1:] or SAMPLES:
        samples = list(SAMPLES[name](Path(arguments[0])))
        learned = learn(samples, PLANS[name])
        save_learned(name, samples, learned)
        print(f"{name}: formula {mean_error(samples):.4f}, corrected {mean_error(samples, learned.folds):.4f}")


def save_learned(name: str, samples: Sequence[Sample], learned: Learned) -> None:
    """Write the network, and what is known of its corrections into the fits."""
    save_network(learned.network, name)
    by_device: dict[str, list[OperatorFit]] = {}
    for sample in samples:
        by_device.setdefault(profile_name(sample.gpu), []).append(with_residual(sample, learned, PLANS[name]))
    for device, fits in by_device.items():
        save_operator_fits(device, fits)


if __name__ == "__main__":
    main(sys.argv[1:])
