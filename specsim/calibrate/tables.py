"""Tables of measured operators, anyone's: read, told apart by their columns, and brought into the documented form.

A table has one row per measured shape. What every kind must have is in ``KINDS``; further columns (``gpu, engine,
version, kernel, dtype, kv_dtype``) say whose fit predicts it, and what is assumed where they are absent is in
``ASSUMED``.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specsim.calibrate.operators import Table, read_table
from specsim.errors import InputError

ATTENTION: Final = ("batch", "q_len", "context", "n_heads", "n_kv_heads")
KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "attention": ATTENTION,
    "moe": ("num_tokens", "hidden", "inter", "topk", "n_experts", "tp", "ep"),
    "layers": ("op", "num_tokens", "hidden", "inter", "tp"),
    "allreduce": ("bytes", "n_gpus"),
    "gemm": ("m", "n", "k"),
    "serving": ("isl", "osl", "concurrency", "tpot_ms"),
    "forward": ("n_tokens", "mean_context", "latency_ms"),
}
"""Columns by which a kind of table is known; the first kind whose columns are all there is taken."""
NAMES: Final[Mapping[str, tuple[str, str]]] = {
    "gemm": ("gemm", "gemm"),
    "attention": ("attention", ""),
    "attention_decode": ("attention", "attention_decode"),
    "attention_verify": ("attention", "attention_decode"),
    "attention_prefill": ("attention", "attention_prefill"),
    "moe": ("moe", "moe"),
    "allreduce": ("allreduce", "allreduce"),
    "elementwise": ("layers", "elementwise"),
    "vidur_layer_ops": ("layers", ""),
    "silicon_e2e": ("serving", "serving"),
    "forward_consumer_edge": ("forward", "forward"),
}
"""Names of a table, by which it can be asked for, with its kind and the operator of its rows (or each row its own)."""
ASSUMED: Final = {
    "engine": "",
    "version": "",
    "kernel": "",
    "dtype": "bfloat16",
    "weight_copies": 1.0,
    "cuda_graph": True,
    "distribution": "balanced",
    "model": "",
    "tp": 1.0,
    "gated": 1.0,
    "moe_tp": 1.0,
    "moe_ep": 1.0,
}
"""What a table without such a column is taken to have meant; an answer names those it used."""
FORWARD_WORDS: Final = ("model", "weights", "kind", "source")
"""What says what was run in a table of whole passes; the source may be blank, the others not."""
VERIFY_TOKENS: Final = 128
"""Most new tokens a sequence that count as decoding or verifying where a cache is behind them; beyond, a prompt."""
MOST: Final = 1e12
_MAX_BYTES: Final = 2**30
_WORDS: Final = (
    *("gpu", "engine", "version", "kernel", "dtype", "kv_dtype", "op", "distribution", "model", "layout"),
    *("weights", "kind", "source"),
)
_NUMBERS: Final = (
    *dict.fromkeys(name for names in KINDS.values() for name in names),
    *("weight_copies", "calls", "head_dim", "latency_us", "latency_ms", "gated", "ttft_ms", "moe_tp", "moe_ep"),
)
_TRUTHS: Final = {"": "nan", "none": "nan", "true": "1", "false": "0"}
_SAME: Final = {"bf16": "bfloat16", "fp16": "float16", "torch.bfloat16": "bfloat16", "torch.float16": "float16"}


class Measured(NamedTuple):
    """Rows in the documented form, with each row's operator, seconds (NaN without any), and what is wrong with it."""

    rows: dict[str, NDArray[Any]]
    operator: NDArray[np.str_]
    measured_s: NDArray[np.float64]
    wrong: NDArray[np.str_]
    assumed: dict[str, Any]


def load_measured(path: Path, op: str = "") -> Measured:
    """A table in the documented columns, of the kind that ``op`` or its columns say.

    Raises:
        InputError: when it can not be read, has no row, or is of no known kind.
    """
    raw = _read(path)
    kind, operator = _kind(path, raw, op)
    if "gpu" not in raw:
        raise InputError(path.name, "must have a column gpu")
    num = len(raw["gpu"])
    if not num:
        raise InputError(path.name, "must have at least one row")
    rows, assumed = _with_defaults(kind, raw, num)
    operators = _operators(kind, operator, rows, num)
    return Measured(rows, operators, _seconds(rows, num), _wrong(kind, rows, num), assumed)


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if path.suffix.lower() in (".parquet", ".pq"):
        if not path.is_file():
            raise InputError(str(path), "can not be read (no such file)")
        return {name: _typed(path.name, name, values) for name, values in read_table(path).items()}
    return {name: _typed(path.name, name, values) for name, values in _read_csv(path).items()}


def _read_csv(path: Path) -> dict[str, NDArray[Any]]:
    """The columns of a CSV file as words. Without pyarrow: anyone's spreadsheet can be read."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(path.name, f"must be at most {_MAX_BYTES} bytes", path.stat().st_size)
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, strict=True)
            names = [name.strip() for name in next(lines, [])]
            rows = list(_whole_rows(path.name, lines, len(names)))
    except OSError as error:
        raise InputError(str(path), f"can not be read ({error.strerror or error})") from None
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error
        raise InputError(path.name, f"can not be read as CSV ({reason})") from None
    if not any(names):
        raise InputError(path.name, "must begin with a line of column names")
    if len(set(names)) < len(names):
        raise InputError(path.name, "must not name a column twice", next(n for n in names if names.count(n) > 1))
    columns = zip(*rows, strict=True) if rows else [() for _ in names]
    return {name: np.array(values, dtype=str) for name, values in zip(names, columns, strict=True)}


def _whole_rows(name: str, lines: Iterator[list[str]], num_columns: int) -> Iterator[list[str]]:
    for number, line in enumerate(lines, start=2):
        if line and len(line) != num_columns:
            raise InputError(f"{name}: row {number}", f"must have {num_columns} cells as the first line", len(line))
        if line:
            yield line


def _typed(table: str, name: str, values: NDArray[Any]) -> NDArray[Any]:
    """A column in its documented type; NaN and the empty word where a cell is blank."""
    if name in _WORDS:
        words = np.char.strip(values.astype(str))
        words = np.where(np.isin(words, ("None", "nan")), "", words)
        return _normalised(words) if name in ("dtype", "kv_dtype") else words
    if name == "cuda_graph":
        return np.isin(np.char.lower(values.astype(str)), ("true", "1", "1.0"))
    if name in _NUMBERS:
        return _numbers(table, name, values)
    return values


def _normalised(words: NDArray[np.str_]) -> NDArray[np.str_]:
    distinct, code = np.unique(words, return_inverse=True)
    return np.asarray(np.array([_SAME.get(word, word) for word in distinct.tolist()])[code], dtype=str)


def _numbers(table: str, name: str, values: NDArray[Any]) -> NDArray[np.float64]:
    if values.dtype.kind in "fiub":
        return values.astype(float)
    numbers = np.empty(len(values))
    for row, word in enumerate(np.char.strip(values.astype(str)).tolist()):
        try:
            numbers[row] = float(_TRUTHS.get(word.lower(), word))
        except ValueError:
            raise InputError(f"{table}: {name}, row {row + 2}", "must be a number", word) from None
    return numbers


def _kind(path: Path, raw: Table, op: str) -> tuple[str, str]:
    if op:
        if op not in NAMES:
            raise InputError("op", f"must be one of {', '.join(NAMES)}", op)
        kind, operator = NAMES[op]
    else:
        kind = next((kind for kind, names in KINDS.items() if set(names) <= raw.keys()), "")
        operator = "" if kind in ("attention", "layers") else kind
    if not kind:
        known = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in KINDS.items())
        raise InputError(path.name, f"must have the columns of one kind of table ({known})", sorted(raw))
    missing = [name for name in KINDS[kind] if name not in raw]
    if missing:
        raise InputError(path.name, f"is a table of {kind} and must have the column {', '.join(missing)}")
    return kind, operator


def _with_defaults(kind: str, raw: Table, num: int) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    rows, assumed = dict(raw), dict[str, Any]()
    wanted = ["engine", "version", "kernel", "dtype"]
    if kind == "attention":
        rows = _with_layout(rows, num)
    elif kind == "moe":
        wanted += ["distribution"]
    elif kind == "layers":
        wanted += ["model", "gated"]
        rows["m"] = rows["num_tokens"]
        rows |= {
            name: np.full(num, word) for name, word in (("engine", "vidur"), ("version", "2024")) if name not in raw
        }
    elif kind == "gemm":
        wanted += ["weight_copies", "cuda_graph"]
    elif kind == "serving":
        wanted += ["model", "tp", "moe_tp", "moe_ep"]
        rows = {"dtype": _normalised(rows["gemm_dtype"].astype(str)), **rows} if "gemm_dtype" in rows else rows
    elif kind == "forward":
        rows, blank = {**{name: np.full(num, "") for name in FORWARD_WORDS}, **rows}, np.isnan(rows["mean_context"])
        rows["dtype"] = rows["weights"]  # what its errors are grouped by
        if blank.any():
            assumed["mean_context"] = "256 where blank"
        if "prefill_batches" in rows["kind"]:
            assumed["prompt of prefill_batches"] = "10 tokens"
    for name in wanted:
        if name not in rows:
            rows[name] = np.full(num, ASSUMED[name])
            if ASSUMED[name] != "":
                assumed[name] = ASSUMED[name]
    if kind == "attention" and "kv_dtype" not in rows:
        rows["kv_dtype"], assumed["kv_dtype"] = rows["dtype"], "that of dtype"
    return rows, assumed


def _with_layout(rows: dict[str, NDArray[Any]], num: int) -> dict[str, NDArray[Any]]:
    """Head dimensions from a column ``layout``: ``gqa hd128``; ``mla 576/512`` caches one row of 576 for all heads."""
    layout = rows.get("layout", np.full(num, ""))
    dim = rows.get("head_dim", np.full(num, np.nan)).copy()
    width, flop_width, kernel = 2 * dim, 2 * dim, rows.get("kernel", np.full(num, "")).astype("<U96")
    for word in np.unique(layout).tolist():
        mask = layout == word
        if found := re.search(r"hd(\d{1,5})\b", word):
            dim[mask] = float(found[1])
            width[mask] = flop_width[mask] = 2 * dim[mask]
        elif found := re.search(r"mla (\d{1,5})/(\d{1,5})", word):
            dim[mask], width[mask] = float(found[1]), float(found[1])
            flop_width[mask] = float(found[1]) + float(found[2])
            kernel[mask] = (
                "fa3"  # latent attention has no fit of its own; its Hopper kernels are cut as FlashAttention-3
            )
    if "layout" not in rows:
        return {**rows, "head_dim": dim}
    return {**rows, "head_dim": dim, "kv_width": width, "flop_width": flop_width, "kernel": kernel}


def _operators(kind: str, operator: str, rows: Table, num: int) -> NDArray[np.str_]:
    if operator:
        return np.full(num, operator, dtype="<U24")
    if kind == "attention":
        fresh = (rows["context"] == 0) | (rows["q_len"] > VERIFY_TOKENS)
        return np.where(fresh, "attention_prefill", "attention_decode")
    dense = np.nan_to_num(rows.get("n", np.zeros(num))) > 0
    return np.where(dense, "gemm", "elementwise")


def _seconds(rows: Table, num: int) -> NDArray[np.float64]:
    if "latency_us" in rows:
        values = rows["latency_us"] * 1e-6
    elif "latency_ms" in rows:
        values = rows["latency_ms"] * 1e-3
    elif "tpot_ms" in rows:
        values = rows["tpot_ms"] * 1e-3
    else:
        return np.full(num, np.nan)
    return np.asarray(np.where((values > 0) & (values < MOST), values, np.nan))


_LEAST: Final = {"context": 0.0, "bytes": 0.0, "ep": 1.0}


def _wrong(kind: str, rows: Table, num: int) -> NDArray[np.str_]:
    """Why a row's shape can be nothing measured, else an empty word."""
    wrong = np.full(num, "", dtype="<U96")
    names: Sequence[str] = [name for name in KINDS[kind] if name not in ("op", "tpot_ms")]
    if kind == "forward":
        names = ["n_tokens"]
        wrong[rows["mean_context"] < 0] = "mean_context is below 0"
    if kind == "attention":
        names = [*names, "head_dim"]
    elif kind == "serving":
        names = [*names, "tp", "moe_tp", "moe_ep"]
    for name in names:
        least = _LEAST.get(name, 1.0)
        bad = ~((rows[name] >= least) & (rows[name] <= MOST)) & (wrong == "")
        wrong[bad] = f"{name} is blank or not from {least:g} to {MOST:g}"
    return wrong
