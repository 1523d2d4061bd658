"""Prometheus text of vLLM, LMDeploy, llama.cpp and TensorRT-LLM: counters, of one scrape or between two."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from specsim.documents import parse
from specsim.engines.imports.observation import Observation
from specsim.errors import InputError

Samples = dict[tuple[str, str], float]
"""Value by metric name and ``position`` label, all other labels summed over."""


class Family(NamedTuple):
    """How one engine names the counters."""

    engine: str
    drafts: str
    drafted: str
    accepted: str
    accepted_at: str
    drafted_at: str
    position: str
    generated: str
    running: str
    waiting: str
    kv: str


def _family(engine: str, prefix: str, generated: str, running: str = "", waiting: str = "", kv: str = "") -> Family:
    head = f"{prefix}:spec_decode_num_"
    return Family(
        engine, f"{head}drafts_total", f"{head}draft_tokens_total", f"{head}accepted_tokens_total",
        f"{head}accepted_tokens_per_pos_total", "", "position", f"{prefix}:{generated}", running, waiting, kv,
    )  # fmt: skip


_VLLM_LOAD: Final = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
_LLAMA_LOAD: Final = ("llamacpp:requests_processing", "llamacpp:requests_deferred")
_TRT: Final = "trtllm_spec_decode_"
FAMILIES: Final = (
    _family("vllm", "vllm", "generation_tokens_total", *_VLLM_LOAD),
    _family("llama.cpp", "llamacpp", "tokens_predicted_total", *_LLAMA_LOAD),
    _family("lmdeploy", "lmdeploy", "generation_tokens_total"),
    Family(
        "tensorrt-llm",
        drafts="",  # not counted: those with a token at position 0
        drafted=f"{_TRT}num_draft_tokens_total",
        accepted=f"{_TRT}num_accepted_tokens_total",
        accepted_at=f"{_TRT}accepted_tokens_total",
        drafted_at=f"{_TRT}drafted_tokens_total",
        position="token_position",
        generated="",
        running="",
        waiting="",
        kv="",
    ),
)
_LINE: Final = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?\s*$")
_LABEL: Final = re.compile(r'([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"')
_GAUGES: Final = frozenset(name for f in FAMILIES for name in (f.running, f.waiting, f.kv) if name)


def samples(text: str, source: str) -> Samples:
    """The counters of one scrape that any family knows.

    Names must be exact: ``*_created`` gauges and diffusion models' counters share the beginning.

    Raises:
        InputError: for a line of a known counter that can not be read, or a value that is none; with its number.
    """
    wanted = {name for family in FAMILIES for name in family if name}
    found: Samples = {}
    for number, line in enumerate(text.split("\n"), start=1):
        name: str = re.split(r"[{\s]", line, maxsplit=1)[0]
        if name not in wanted:
            continue
        matched = _LINE.match(line)
        if matched is None:
            raise InputError(f"{source}:{number}", "not a Prometheus sample (is the file truncated?)", line[:120])
        labels = dict(_LABEL.findall(matched[2] or ""))
        at: tuple[str, str] = (name, labels.get("position") or labels.get("token_position") or "")
        found[at] = found.get(at, 0.0) + _value(matched[3], f"{source}:{number}")
    return found


def _value(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise InputError(where, "must be a number >= 0", text[:40])
    return value


def scrape(text: str, source: str, before: str | None = None) -> Observation:
    """What the counters say since the server's start, or since ``before``, an earlier scrape of the same server.

    Raises:
        InputError: for a malformed line, for a scrape without speculation's counters, and for counters that go back,
            as they do when a server was restarted.
    """
    now = samples(text, source)
    family = next((f for f in FAMILIES if (f.drafted, "") in now or (f.drafts, "") in now), None)
    if family is None:
        raise InputError(source, "must hold counters of speculative decoding (vllm:spec_decode_..., for one)")
    if before is not None:
        now = _since(now, samples(before, f"{source} (before)"), source)
    return _observed(now, family, source, before is not None)


def _since(now: Samples, before: Samples, source: str) -> Samples:
    result = {}
    for (name, position), value in now.items():
        earlier = 0.0 if name in _GAUGES else before.get((name, position), 0.0)
        if value < earlier:
            limit = f"must not go back, at least {earlier:g}: was the server restarted?"
            raise InputError(f"{source}: {name}", limit, value)
        result[name, position] = value - earlier
    gone = next((at for at in before if at not in now and at[0] not in _GAUGES), None)
    if gone is not None:
        raise InputError(f"{source}: {gone[0]}", "must still be there: is this another server?")
    return result


def _observed(values: Mapping[tuple[str, str], float], family: Family, source: str, is_difference: bool) -> Observation:
    accepted_at = _by_position(values, family.accepted_at, source)
    drafted_at = _by_position(values, family.drafted_at, source)
    drafts = values.get((family.drafts, "")) if family.drafts else (drafted_at[0] if drafted_at else None)
    drafted = values.get((family.drafted, ""))
    per_round = drafted / drafts if drafts and drafted is not None else None
    same = per_round is not None and abs(per_round - round(per_round)) < 1e-9
    notes = [] if is_difference else ["counted since the server started; two scrapes give a stretch of time"]
    if per_round is not None and not same and not drafted_at:
        notes.append("draft lengths vary: acceptance at deep positions reads low, they were not always drafted")
    data = {
        "source": f"{family.engine} counters",
        "num_drafts": drafts,
        "num_drafted": drafted,
        "num_accepted": values.get((family.accepted, "")),
        "accepted_by_position": accepted_at or None,
        "drafted_by_position": drafted_at or None,
        "draft_len": round(per_round) if same and per_round is not None else None,
        "num_generated": values.get((family.generated, "")),
        "num_running": values.get((family.running, "")),
        "num_waiting": values.get((family.waiting, "")),
        "kv_used_frac": values.get((family.kv, "")),
        "notes": tuple(notes),
    }
    return parse(Observation, data, source)


def _by_position(values: Mapping[tuple[str, str], float], name: str, source: str) -> tuple[float, ...]:
    at = {position: value for (metric, position), value in values.items() if name and metric == name}
    if not all(position.isdecimal() and len(position) < 6 for position in at):
        raise InputError(f"{source}: {name}", "must be labelled by whole positions", sorted(at)[:3])
    numbered = {int(position): value for position, value in at.items()}
    if sorted(numbered) != list(range(len(numbered))):
        raise InputError(f"{source}: {name}", "must have every position from 0 on", sorted(numbered)[:8])
    return tuple(numbered[position] for position in range(len(numbered)))
