"""Workloads by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from specsim.documents import parse, read_toml
from specsim.errors import InputError
from specsim.workload.arrivals import Arrivals
from specsim.workload.spec import WorkloadSpec


def preset_names() -> list[str]:
    """What ``preset`` knows.

    >>> preset_names()
    ['chat', 'code', 'summarisation', 'rag', 'agentic', 'reasoning', 'batch-rewriting', 'json', 'many-samples']
    """
    return list(_presets())


def preset(name: str, arrivals: Arrivals | None = None) -> WorkloadSpec:
    """A common workload; without ``arrivals`` it comes all at once.

    Raises:
        InputError: for a name that is none of ``preset_names``.

    >>> preset("chat").output.median
    129.0
    """
    known = _presets()
    if name not in known:
        raise InputError("workload", f"must be one of {', '.join(known)}", name)
    spec = parse(WorkloadSpec, {"name": name, **known[name]}, "presets.toml")
    return spec if arrivals is None else spec.model_copy(update={"arrivals": arrivals})


def _presets() -> dict[str, Any]:
    return read_toml(Path(__file__).with_name("presets.toml"))
