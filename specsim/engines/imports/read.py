"""Any file an engine wrote: which format it has, and what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from specsim.engines.imports.json_results import observations_of
from specsim.engines.imports.log_lines import is_log, log_observations
from specsim.engines.imports.observation import Observation
from specsim.engines.imports.prometheus import samples, scrape
from specsim.errors import InputError

MAX_BYTES: Final = 64 * 1024 * 1024
FORMATS: Final = (
    "Prometheus text (vLLM, LMDeploy, llama.cpp, TensorRT-LLM)",
    "log lines (vLLM, SGLang, llama.cpp)",
    "vllm bench serve JSON",
    "vLLM and AIPerf per-request JSON(L)",
    "SGLang meta_info, server_info, bench_serving and bench_speculative JSON(L)",
    "TensorRT-LLM iteration statistics",
    "llama.cpp timings and batched-bench JSON(L)",
    "Transformers rounds, JSON",
)


def read_observations(path: Path, before: Path | None = None) -> list[Observation]:
    """What a file says of speculation, in order.

    Args:
        path: A metrics scrape, a log, or JSON of any of ``FORMATS``.
        before: An earlier scrape of the same server; counters are then those between the two.

    Raises:
        InputError: naming file, line, value and limit: a file that can not be read, is too large or truncated, is of
            no known format, or contradicts itself.
    """
    text = _text(path)
    if before is not None:
        return [scrape(text, path.name, _text(before))]
    if _looks_like_json(text):
        return _json(text, path.name)
    if is_log(text):
        return log_observations(text, path.name)
    if samples(text, path.name):
        return [scrape(text, path.name)]
    raise InputError(path.name, f"must be one of: {'; '.join(FORMATS)}")


def _text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(path.name, f"must be at most {MAX_BYTES} bytes", size)
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(str(path), f"can not be read ({error.strerror or error})") from None


def _looks_like_json(text: str) -> bool:
    first = text.lstrip("\ufeff \t\r\n")[:1]
    return first == "{" or (first == "[" and not is_log(text))  # log lines may begin with [time]


def _json(text: str, source: str) -> list[Observation]:
    found: list[Observation] = []
    unknown = None
    for where, value in _values(text, source):
        for one in value if isinstance(value, list) else [value]:
            known = observations_of(one, where)
            if known is None:
                unknown = unknown or where
            else:
                found += known
    if not found:
        raise InputError(source, f"must be one of: {'; '.join(FORMATS)}")
    if unknown is not None:
        raise InputError(unknown, "is of no known format, unlike what came before it")
    return found


def _values(text: str, source: str) -> Iterator[tuple[str, Any]]:
    """JSON values one after another, on lines of their own or not: what `--append-result` writes, and JSON lines."""
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    text = text.lstrip("\ufeff")
    line, counted, at = 1, 0, 0
    while True:
        while at < len(text) and text[at] in " \t\r\n":
            at += 1
        if at >= len(text):
            return
        line, counted = line + text.count("\n", counted, at), at
        where = f"{source}:{line}"
        try:
            value, at = decoder.raw_decode(text, at)
        except RecursionError:
            raise InputError(where, "is nested too deeply") from None
        except ValueError as error:
            why = " ".join(str(error).split())[:120]
            raise InputError(where, f"not valid JSON: {why} (is the file truncated?)") from None
        yield where, value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")
