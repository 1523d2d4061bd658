"""Rows of whole forward passes (a model, its format, so many tokens) and their predictions.

llama.cpp and TensorRT-Edge-LLM have kernels of their own, priced by ``specsim.cost.forward`` from an engine-wide fit;
passes of any other engine are sums of fitted operators. The datasheet is all that is known of the device, unless a
measured point (another row of the same device, engine, model and weights) anchors the row.
"""

from __future__ import annotations

from typing import Final, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from specsim.calibrate.operators import REASON_CHARS, Prediction, Table, groups
from specsim.cost.engine import Engine
from specsim.cost.fits import OperatorFit, load_fit, profile_name
from specsim.cost.forward import ENGINES, ForwardShape, build_of, forward_pass, known_kind, price
from specsim.cost.model import pass_cost
from specsim.cost.packed import PackedParams
from specsim.errors import InputError
from specsim.hardware import HardwareProfile, hardware_names, load_hardware
from specsim.model import ModelSpec, load_model, matmul_params, quantized
from specsim.model.formats import Arithmetic, StorageFormat, storage_format
from specsim.model.spec import Dtype
from specsim.work import BOUNDS, Cost, Float

FORWARD: Final = "forward"
ONE_POINT: Final = "forward one-point"
ASSUMED_CONTEXT: Final = 256.0
"""Keys that a token attends to where a row leaves ``mean_context`` blank: a short prompt."""
SAME: Final = ("gpu", "engine", "model", "weights")
"""What an anchor and the rows it serves have in common."""
SPREADS: Final = {"common": 0.05, "memory": 0.10, "compute": 0.10, "launch": 0.30}
"""Standard deviation of the log of what may be off for a device, engine and model: everything alike, or one bound."""
NOISE: Final = 0.03
"""Of a single measurement, in log time."""
_SURE: Final = 1.645  # a normal's 90 % interval, in standard deviations
_PLAIN: Final[dict[Arithmetic, Dtype]] = {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16", "fp8": "fp8"}


class Priced(NamedTuple):
    """Rows of one device, engine, model, format, kind and build: their numbers in the table, cost, and half-width."""

    rows: NDArray[np.int64]
    cost: Cost
    half_width: Float
    one_point_half_width: float


def predict_forward(table: Table, anchor: Table | None = None) -> Prediction:
    """Every row from the datasheet of its device; or, where ``anchor`` has such a row with ``latency_ms``, from both.

    >>> one = {"gpu": ["RTX-3090"], "engine": ["llama.cpp"], "model": ["Llama-3-8B"], "weights": ["f16"],
    ...        "kind": ["microbatch"], "source": [""], "n_tokens": [1.0], "mean_context": [256.0]}
    >>> found = predict_forward({name: np.array(values) for name, values in one.items()})
    >>> round(float(found.time_s[0]) * 1e3)  # 14 GB over 936 GB/s, and launches
    17
    """
    num = len(table["gpu"])
    time_s, half = np.full(num, np.nan), np.full(num, np.nan)
    priced, refused = _priced(table)
    points = _points(anchor) if anchor is not None else {}
    for part in priced:
        key = tuple(str(table[name][part.rows[0]]) for name in SAME)
        time_s[part.rows], half[part.rows] = part.cost.time_s, part.half_width
        if key in points:
            moved = np.exp(shift(gradient(part.cost), *points[key]))
            time_s[part.rows], half[part.rows] = part.cost.time_s * moved, part.one_point_half_width
    return Prediction(time_s, half, refused)


def _priced(table: Table) -> tuple[list[Priced], NDArray[np.str_]]:
    """The table's rows by what they have in common, and why the others can not be predicted."""
    num = len(table["gpu"])
    refused = np.full(num, "", dtype=f"<U{REASON_CHARS}")
    builds = np.array([str(build_of(word)) for word in table["source"].tolist()])
    numbered = {**table, "build": builds, "row": np.arange(num)}
    found = list[Priced]()
    for key, rows in groups(numbered, (*SAME, "kind", "build")).items():
        index = rows["row"].astype(np.int64)
        try:
            found.append(_price(key, rows, index))
        except InputError as error:
            refused[index] = str(error)[:REASON_CHARS]
    return found, refused


def _price(key: tuple[str, ...], rows: Table, index: NDArray[np.int64]) -> Priced:
    gpu, engine, model_name, weights, kind_name, build = key
    hardware = _device(gpu)
    model, kind, n = load_model(model_name), known_kind(kind_name), np.asarray(rows["n_tokens"], dtype=float)
    context = np.where(np.isnan(rows["mean_context"]), ASSUMED_CONTEXT, rows["mean_context"]).astype(float)
    storage, name = storage_format(weights), ENGINES.get(engine.strip().lower())
    if name is None:
        work = forward_pass(kind, n, context)
        known = engine if engine in get_args(Engine) else ""
        ops = pass_cost(hardware, {"target": _plain(model, storage, weights)}, engine=known)
        cost = ops.price(work)
        half = _SURE * np.sqrt(cost.log_variance(ops.log_sd))
        return Priced(index, cost, half, float(np.mean(half)))
    fit, one_point = engine_fit(FORWARD, name), engine_fit(ONE_POINT, name)
    shape = ForwardShape(hardware, model, storage, kind, n, context, name, int(build))
    cost = price(shape, PackedParams(**fit.params))
    return Priced(index, cost, np.full(len(n), fit.quantile_90), one_point.quantile_90)


def _device(gpu: str) -> HardwareProfile:
    name = profile_name(gpu)
    if name not in hardware_names():
        raise InputError("gpu", "has no profile", gpu)
    hardware = load_hardware(name)
    if hardware.kind == "cpu":
        raise InputError("gpu", "must be a GPU: no passes of a CPU are fitted", gpu)
    return hardware


def _plain(model: ModelSpec, storage: StorageFormat, weights: str) -> ModelSpec:
    """The model stored in a format that operators are fitted for."""
    if storage.arithmetic in _PLAIN:
        return quantized(model, _PLAIN[storage.arithmetic])
    if storage.arithmetic == "w16":
        return quantized(quantized(model, "fp16"), "int4" if storage.layer_bits < 8 else "int8")
    raise InputError("weights", f"must be plain, fp8, int8 or int4 outside {', '.join(sorted(set(ENGINES)))}", weights)


def engine_fit(operator: str, engine: str) -> OperatorFit:
    """The bundled engine-wide fit. Raises InputError where there is none."""
    for fit in load_fit("transferred").fits:
        if fit.operator == operator and fit.engine == engine:
            return fit
    raise InputError("engine", "has no fit of whole passes", engine)


def gradient(cost: Cost) -> Float:
    """Derivatives of log time to the logs of what ``SPREADS`` names, shape [rows, 4]; what is left is the launches'."""
    shares = cost.by_bound / cost.time_s[..., None]
    memory, compute = shares[..., BOUNDS.index("memory")], shares[..., BOUNDS.index("compute")]
    return np.stack([np.ones_like(memory), memory, compute, 1.0 - memory - compute], axis=-1)


def _points(anchor: Table) -> dict[tuple[str, ...], tuple[Float, Float]]:
    """Gradient and log(measured / predicted) of the anchor's rows, by what they share with the rows they serve."""
    found = dict[tuple[str, ...], tuple[Float, Float]]()
    for part in _priced(anchor)[0]:
        measured = np.asarray(anchor["latency_ms"], dtype=float)[part.rows] * 1e-3
        known = np.isfinite(measured) & (measured > 0)
        if not known.any():
            continue
        rise = np.log(measured[known] / part.cost.time_s[known])
        key = tuple(str(anchor[name][part.rows[0]]) for name in SAME)
        before = found.get(key, (np.zeros((0, len(SPREADS))), np.zeros(0)))
        found[key] = (np.vstack([before[0], gradient(part.cost)[known]]), np.append(before[1], rise))
    return found


def shift(rows: Float, points: Float, rise: Float) -> Float:
    """What measured points change in the log time of rows: the mean of a normal posterior.

    What may be off has the spreads of ``SPREADS``, each measurement ``NOISE``; a point bound by memory says much about
    rows that are, and little about others.
    """
    prior = np.diag(np.square(list(SPREADS.values())))
    seen = points @ prior @ points.T + NOISE**2 * np.eye(len(rise))
    return np.asarray(rows @ prior @ points.T @ np.linalg.solve(seen, rise))


def has_point(table: Table, anchor: Table) -> NDArray[np.bool_]:
    """Which rows the anchor's points serve."""
    points = _points(anchor)
    keys = zip(*(table[name].tolist() for name in SAME), strict=True)
    return np.array([tuple(map(str, key)) in points for key in keys])


def one_point_split(table: Table, usable: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which usable rows anchor (the fewest tokens of each device, engine, model and weights), and which those serve."""
    anchors = np.zeros(len(usable), dtype=bool)
    for rows in groups({**table, "row": np.arange(len(usable)), "usable": usable}, SAME).values():
        index = rows["row"][rows["usable"]].astype(int)
        if len(index) > 1:
            anchors[index[np.argmin(table["n_tokens"][index])]] = True
    served = np.zeros(len(usable), dtype=bool)
    for rows in groups({**table, "row": np.arange(len(usable)), "anchor": anchors}, SAME).values():
        served[rows["row"].astype(int)] = rows["anchor"].any()
    return anchors, served & usable & ~anchors


def least_bytes(model: str, weights: str) -> float:
    """Bytes of the layers' weights that a single token reads, scales included: nothing runs without them."""
    spec = load_model(model)
    ends = spec.lm_head_rows * spec.hidden_size
    return (matmul_params(spec) - ends) * storage_format(weights).layer_bits / 8
