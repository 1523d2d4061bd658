"""Rows of served models (clients, prompt and answer lengths, measured time per output token) and their predictions.

Nothing measured is an input: a row's configuration alone says what its requests do and what the passes cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specsim.calibrate.operators import REASON_CHARS, Prediction, Table
from specsim.cost.fits import profile_name
from specsim.cost.model import pass_cost
from specsim.cost.serving import SCHEDULING, Load, Scheduling, Served, StepTimes, cache_slots, closed_loop, step_times
from specsim.cost.serving_fits import Kind, ServingFit, ServingFits, load_serving_fits
from specsim.errors import InputError
from specsim.hardware import HardwareProfile, hardware_names, load_hardware
from specsim.model import Dtype, ModelSpec, MoeMlp, load_model, quantized, weight_bytes
from specsim.work import Float

SERVING: Final = "serving"
TTFT: Final = "serving ttft"
"""What a row is judged on: time per output token, and beside it time to the first."""
MOST_DEVICES: Final = 8
MEAN_LENGTH: Final = {"inferencemax-dump": 0.9}
"""Mean length of prompts and answers as a share of the nominal one, by campaign: InferenceMAX draws them evenly from
0.8 to 1 of it (its benchmark's random range ratio)."""
_BLOCKS: Final = 8 + 32 / 128**2
_STORED: Final[dict[str, tuple[Dtype, dict[str, Any]]]] = {
    "bfloat16": ("bf16", {}),
    "float16": ("fp16", {}),
    "fp8": ("fp8", {"kv_dtype": "fp8"}),
    "fp8_block": ("fp8", {"weight_bits": _BLOCKS}),
    "int8_wo": ("int8", {}),
    "int4_wo": ("int4", {}),
    "sq": ("int8", {}),
}
"""How dense layers are stored. Per-tensor fp8 checkpoints (ModelOpt's) bring fp8 caches; block-scaled ones do not."""
_FORMATS: Final = ("-fp8", "-fp8-dynamic", "-fp8-block", "-bf16", "-awq", "-w4a16", "-nvfp4", "-fp4", "-int4", "-hf")
_SAME_SHAPE: Final = {
    "deepseek-r1-distill-llama-70b": "llama-3.3-70b",
    "deepseek-r1-distill-llama-8b": "llama-3.1-8b",
    "deepseek-r1-distill-qwen-32b": "qwen2.5-32b",
    "deepseek-r1-distill-qwen-14b": "qwen2.5-14b",
    "qwq-32b": "qwen2.5-32b",
}
_KEYS: Final = ("gpu", "engine", "version", "model", "dtype", "tp", "moe_tp", "moe_ep")


class Priced(NamedTuple):
    """Rows of one deployment with the prices of their steps, and whose fit holds for it."""

    rows: NDArray[np.int64]
    times: StepTimes
    kind: Kind
    facts: dict[str, Any]

    def only(self, mask: NDArray[np.bool_]) -> Priced:
        """Some of the rows."""
        return self._replace(rows=self.rows[mask], times=self.times.only(mask))

    def fit(self, fits: ServingFits) -> ServingFit:
        """The engine's and version's fit, or the next best."""
        return fits.find(self.kind, self.facts["engine"], self.facts["version"])


def predict_serving(operator: str, table: Table, fits: ServingFits | None = None) -> Prediction:
    """Seconds per output token, or to the first, of every row of a serving table."""
    num = len(table["gpu"])
    time_s, half, refused = np.full(num, np.nan), np.full(num, np.nan), np.full(num, "", dtype=f"<U{REASON_CHARS}")
    chosen = fits or load_serving_fits()
    for rows, found in price_rows(table):
        if isinstance(found, InputError):
            refused[rows] = str(found)[:REASON_CHARS]
            continue
        fit = found.fit(chosen)
        served = closed_loop(found.times, fit.params)
        time_s[rows] = served.tpot_s if operator == SERVING else mean_ttft_s(served, fit.first_wave, fit.outside)
        half[rows] = fit.quantile_90 if operator == SERVING else fit.ttft_quantile_90
    return Prediction(time_s, half, refused)


def mean_ttft_s(served: Served, first_wave: float, outside: float) -> Float:
    """Mean seconds to the first token over a benchmark.

    Args:
        served: The steady state.
        first_wave: Share of the requests that came all at once, at the start.
        outside: Requests that wait until another one ends (servers that take one fewer than there are clients).
    """
    steady = served.ttft_s + outside * served.turn_s
    return np.asarray(steady + first_wave * np.maximum(served.first_wave_s - steady, 0.0))


def price_rows(table: Table) -> Iterator[tuple[NDArray[np.int64], Priced | InputError]]:
    """Every deployment of a table: its rows, and their prices or why there are none."""
    codes = np.stack([np.unique(table[key], return_inverse=True)[1] for key in _KEYS])
    for code in np.unique(codes, axis=1).T:
        rows = np.flatnonzero((codes == code[:, None]).all(axis=0))
        facts = {key: table[key][rows[0]].item() for key in _KEYS}
        try:
            yield rows, _priced(rows, table, facts)
        except InputError as error:
            yield rows, error


def _priced(rows: NDArray[np.int64], table: Table, facts: dict[str, Any]) -> Priced:
    device, model = _device(facts["gpu"]), stored_model(facts["model"], facts["dtype"])
    engine, scheduling = facts["engine"], SCHEDULING.get(facts["engine"], Scheduling())
    part = {name: values[rows] for name, values in table.items()}
    devices = int(devices_of(part)[0])
    if devices > MOST_DEVICES:
        raise InputError("tp", f"must be at most the {MOST_DEVICES} devices of a node", devices)
    if weight_bytes(model) / devices > device.mem_bytes.value:
        raise InputError("tp", f"must be enough devices for the weights of {model.name}", devices)
    load = Load(part["concurrency"], *lengths(part), np.ones(len(rows)))
    load = load._replace(slots=cache_slots(device, model, devices, load, scheduling))
    cost = pass_cost(device, {"target": model}, tp=devices, engine=engine, version=facts["version"])
    captured = replace(cost, engine=cost.engine.model_copy(update={"layer_s": None}))  # the fit has its own host time
    experts = any(isinstance(group.mlp, MoeMlp) for group in model.layers)
    times = step_times(captured, load, scheduling, model.num_layers, devices)
    return Priced(rows, times, "experts" if experts else "dense", facts)


def is_unexplained(rows: Table) -> NDArray[np.bool_]:
    """Rows that nothing explains: they are predicted and judged as any others, and never fitted.

    nvidia/Llama-3.1-8B-Instruct-FP8 under vLLM 0.12.0 runs prompts about as fast as the datasheet's FP8 peak, and a few
    rows beat the datasheet; prompts that repeat and are found in the cache would do it. gpt-oss under vLLM with 512
    clients gives tokens four times as fast as with 64 clients.
    """
    small = (rows["model"] == "nvidia/Llama-3.1-8B-Instruct-FP8") & (rows["version"] == "0.12.0")
    crowded = (rows["model"] == "openai/gpt-oss-120b") & (rows["engine"] == "vllm") & (rows["concurrency"] == 512)
    return np.asarray(small | crowded)


def _device(gpu: str) -> HardwareProfile:
    name = profile_name(gpu)
    if name not in hardware_names():
        raise InputError("gpu", "must be a bundled profile", gpu)
    return load_hardware(name)


def devices_of(rows: Table) -> Float:
    """Devices of each row's deployment: experts may be spread over more of them than attention."""
    return np.asarray(np.maximum(rows["tp"], rows["moe_tp"] * rows["moe_ep"]))


def lengths(rows: Table) -> tuple[Float, Float]:
    """Mean tokens of prompt and answer of each row."""
    share: Any = 1.0
    if "source" in rows:
        share = np.array([MEAN_LENGTH.get(word, 1.0) for word in rows["source"].tolist()])
    return np.maximum(rows["isl"] * share, 1.0), np.maximum(rows["osl"] * share, 1.0)


def stored_model(name: str, dtype: str) -> ModelSpec:
    """The bundled shape behind a table's name of a model, stored as the table's dtype of dense layers says.

    Models whose experts alone are quantised (gpt-oss) keep the formats of their own checkpoint. Qwen's own fp8
    checkpoints have block scales, whatever the table calls them.

    Raises:
        InputError: for a model or dtype that is not known.

    >>> stored_model("nvidia/Llama-3.1-8B-Instruct-FP8", "fp8").kv_dtype
    'fp8'
    """
    model = load_model(_plain_name(name))
    if model.attention_dtype is not None:
        return model
    if dtype == "fp8" and name.lower().startswith("qwen/"):
        dtype = "fp8_block"
    if dtype not in _STORED:
        raise InputError("gemm_dtype", f"must be one of {', '.join(_STORED)}", dtype)
    storage, changes = _STORED[dtype]
    return quantized(model, storage).model_copy(update=changes)


def _plain_name(name: str) -> str:
    plain = name.strip().lower()
    for word in _FORMATS:
        plain = plain.removesuffix(word)
    return _SAME_SHAPE.get(plain.split("/")[-1], plain)
