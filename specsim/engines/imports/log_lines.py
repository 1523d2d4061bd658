"""Log lines that people paste: vLLM (three generations), SGLang, llama.cpp."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from specsim.documents import parse
from specsim.engines.imports.observation import Observation
from specsim.errors import InputError

MAX_LINE: Final = 20_000
_N: Final = r"(-?\d+(?:\.\d+)?|nan|inf)"


def _number(pattern: str, line: str) -> float | None:
    found = re.search(pattern.replace("<n>", _N), line, re.IGNORECASE)
    return None if found is None else float(found[1])


def _numbers(pattern: str, line: str) -> tuple[float, ...]:
    found = re.search(pattern, line)
    return () if found is None else tuple(float(one) for one in re.findall(_N, found[1]))


def log_observations(text: str, source: str) -> list[Observation]:
    """One observation per line that tells of speculation, in order; loads come from the line beside it.

    vLLM prints the load and the acceptance on neighbouring lines, in either order.

    Raises:
        InputError: naming the line whose numbers contradict each other; and where no line tells anything.
    """
    found: list[Observation] = []
    load: dict[str, Any] = {}
    waiting: dict[str, Any] | None = None  # a vLLM line whose load may be on the next
    where = source

    def close() -> None:
        nonlocal waiting
        if waiting is not None:
            found.append(parse(Observation, {**load, **waiting}, where))
        waiting = None

    for number, line in enumerate(text.split("\n"), start=1):
        line = line[:MAX_LINE]
        for reader in _READERS:
            if (data := reader(line)) is None:
                continue
            if reader is _vllm_load:
                load = data
                close()
            else:
                close()
                where = f"{source}:{number}"
                if reader in (_vllm_v1, _vllm_v0):
                    waiting = {"label": f"line {number}", **data}
                else:
                    found.append(parse(Observation, {"label": f"line {number}", **data}, where))
            break
    close()
    if not found:
        raise InputError(source, "must hold log lines of speculative decoding (vLLM, SGLang or llama.cpp)")
    return found


def _vllm_load(line: str) -> dict[str, Any] | None:
    if "Avg generation throughput" not in line:
        return None
    kv = _number(r"KV cache usage: <n>%", line)
    return {
        "tokens_per_s": _number(r"Avg generation throughput: <n> tokens/s", line),
        "num_running": _number(r"Running: <n> reqs", line),
        "num_waiting": _number(r"(?:Waiting|Pending): <n> reqs", line),
        "kv_used_frac": None if kv is None else kv / 100,
    }


def _vllm_v1(line: str) -> dict[str, Any] | None:
    if "SpecDecoding metrics:" not in line:
        return None
    accepted, drafted = _number(r"Accepted: <n> tokens", line), _number(r"Drafted: <n> tokens", line)
    tau = _number(r"Mean acceptance length: <n>", line)
    rates = _numbers(r"Per-position acceptance rate: ([-\d., naif]+)", line)
    if accepted is None or drafted is None or tau is None:
        return None
    # Drafts are not printed: of a mean length and the accepted tokens, tau = 1 + accepted / drafts. A rate of the first
    # position and the mean are both rounded; the whole number of tokens per draft is exact where it is one.
    depth = len(rates)
    drafts = drafted / depth if depth else (accepted / (tau - 1) if tau > 1 else None)
    data: dict[str, Any] = {"source": "vllm log", "num_drafted": drafted, "num_accepted": accepted}
    if drafts is not None and drafts > 0 and depth and abs(1 + accepted / drafts - tau) > 0.006 + 1e-9:
        # Draft lengths vary: the longest is not the mean.
        drafts = accepted / (tau - 1) if tau > 1 else None
        data["notes"] = ("draft lengths vary: acceptance at deep positions reads low, they were not always drafted",)
    elif depth:
        data["draft_len"] = depth
    data["num_drafts"] = drafts
    if drafts and depth:
        total = sum(rates) * drafts
        scale = accepted / total if total > 0 else 1.0  # rates have three digits; the counts are whole
        data["accepted_by_position"] = tuple(min(rate * drafts * scale, drafts) for rate in rates)
    return data


def _vllm_v0(line: str) -> dict[str, Any] | None:
    if "Speculative metrics:" not in line:
        return None
    draft_len = _number(r"Number of speculative tokens: <n>", line)
    accepted = _number(r"Number of accepted tokens: <n>", line)
    drafted = _number(r"Number of draft tokens: <n>", line)
    emitted = _number(r"Number of emitted tokens: <n>", line)
    if None in (draft_len, accepted, drafted, emitted) or not draft_len:
        return None
    return {
        "source": "vllm log (V0 engine)",
        "num_drafted": drafted,
        "num_accepted": accepted,
        "num_drafts": drafted / draft_len,  # type: ignore[operator]
        "draft_len": int(draft_len),
        "num_generated": emitted,
    }


def _sglang(line: str) -> dict[str, Any] | None:
    if "Decode batch" not in line or "accept len:" not in line:
        return None
    tau, rate = _number(r"accept len: <n>", line), _number(r"accept rate: <n>", line)
    running = _number(r"#running-req: <n>", line)
    held, speed = _number(r"#token: <n>", line), _number(r"gen throughput \(token/s\): <n>", line)
    if tau is None:
        return None
    graph = re.search(r"cuda graph: (True|False)", line)
    data = {
        "source": "sglang log",
        "num_running": running,
        "num_waiting": _number(r"#queue-req: <n>", line),
        "kv_used_frac": _number(r"token usage: <n>", line),
        "tokens_per_s": speed,
        "cuda_graph": None if graph is None else graph[1] == "True",
        "context_tokens": held / running if held is not None and running else None,
        # A line stands for 40 decode iterations by default; means are weighted by what they stand for.
        "num_drafts": 40.0 * (running or 1.0),
        "num_accepted": 40.0 * (running or 1.0) * max(tau - 1, 0.0),
        "notes": ("counts assume that a line stands for 40 iterations, the default of --decode-log-interval",),
    }
    if rate is not None and 0 < rate <= 1 and tau > 1:
        nodes = (tau - 1) / rate
        data["num_drafted"] = max(data["num_drafts"] * nodes, data["num_accepted"])  # type: ignore[operator, type-var]
        if abs(nodes - round(nodes)) < 0.06 * max(nodes, 1):
            data["draft_len"] = max(round(nodes), 1)
    if speed and running:
        data["step_s"] = tau * running / speed
    return data


def _llamacpp(line: str) -> dict[str, Any] | None:
    statistics = re.search(r"statistics\s+(\S+?):? #calls|statistics\s+(\S+):", line)
    if statistics is not None and "#gen drafts" in line:
        drafts, drafted = _number(r"#gen drafts = +<n>", line), _number(r"#gen tokens = +<n>", line)
        accepted = _number(r"#acc tokens = +<n>", line)
        rates = _numbers(r"#acc rate/pos = \(([^)]*)\)", line)
        spent = _numbers(r"dur\(b,g,a\) = ([-\d., ]+)", line)
        if None in (drafts, drafted, accepted):
            return None
        data: dict[str, Any] = {
            "source": f"llama.cpp log ({statistics[1] or statistics[2]})",
            "num_drafts": drafts,
            "num_drafted": drafted,
            "num_accepted": accepted,
        }
        if len(spent) == 3 and drafts:
            data["draft_s"] = spent[1] / 1000 / drafts
        if rates and drafts:
            total = sum(rates) * drafts
            scale = accepted / total if total > 0 else 1.0  # type: ignore[operator]
            data["accepted_by_position"] = tuple(min(rate * drafts * scale, drafts) for rate in rates)
        return data
    if "draft acceptance" not in line or "accepted" not in line:
        return None
    pair = re.search(r"\(\s*(\d+) accepted /\s*(\d+) generated\)", line)
    if pair is None:
        return None
    tau = _number(r"mean len = +<n>", line)
    accepted, drafted = float(pair[1]), float(pair[2])
    drafts = accepted / (tau - 1) if tau is not None and tau > 1 else None
    return {"source": "llama.cpp log", "num_accepted": accepted, "num_drafted": drafted, "num_drafts": drafts}


_READERS: Final[tuple[Callable[[str], dict[str, Any] | None], ...]] = (
    _vllm_load, _vllm_v1, _vllm_v0, _sglang, _llamacpp,
)  # fmt: skip


def is_log(text: str) -> bool:
    """Whether any line is one that ``log_observations`` reads."""
    return any(True for _ in _known(text))


def _known(text: str) -> Iterator[str]:
    marks = ("SpecDecoding metrics:", "Speculative metrics:", "accept len:", "#gen drafts", "draft acceptance")
    return (line for line in text.split("\n") if any(mark in line for mark in marks))
