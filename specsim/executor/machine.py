"""Measure the machine at hand: a hardware profile of one core, by what reads, copies and products reach."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional

from specsim.executor.layers import linear


def measure_machine() -> dict[str, object]:
    """The fields of a ``HardwareProfile`` for one core of this CPU, each measured or read from the system."""
    torch.set_num_threads(1)
    today = date.today().isoformat()
    name = cpu_name()
    how = f"measured on {name}, one thread, torch {torch.__version__}, {today}: best of 7"
    bandwidth = _bandwidth_bytes_per_s()
    return {
        "name": "cpu-local",
        "vendor": name.split()[0],
        "arch": platform.machine(),
        "form": "cpu",
        "kind": "cpu",
        "sources": {"here": how, "system": f"what the operating system reports, {today}"},
        "peak_flops_per_s": {
            "fp32": _figure(_linear_flops_per_s(torch.float32)),
            "bf16": _figure(_linear_flops_per_s(torch.bfloat16)),
        },
        "mem_bytes": _figure(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "system"),
        "mem_bw_bytes_per_s": _figure(bandwidth),
        "l2_bytes": _told_or_assumed(_cache_bytes(2), 1024.0**2, "common for a core's second cache level"),
        "num_sms": _figure(1, "system"),
        "clock_hz": _told_or_assumed(_clock_hz(), 2.0e9, "a low base clock of a server's processor"),
        "launch_overhead_s": _figure(_launch_s()),
        "unified_memory": True,
        "note": "One core. num_sms counts cores in use; the last-level cache is not l2_bytes.",
    }


def cpu_name() -> str:
    """The processor's name as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _figure(value: float, source: str = "here") -> dict[str, object]:
    return {"value": float(value), "source": source, "kind": "measured"}


def _told_or_assumed(told: float | None, otherwise: float, why: str) -> dict[str, object]:
    """What the operating system says, or an assumption that is called one."""
    if told is not None:
        return _figure(told, "system")
    return {"value": otherwise, "source": f"assumed, {why}: the operating system does not tell", "kind": "assumed"}


def _best_s(work: Callable[[], object], repeats: int = 7) -> float:
    work()
    times = []
    for _ in range(repeats):
        begin = time.thread_time()
        work()
        times.append(time.thread_time() - begin)
    return min(times)


def _bandwidth_bytes_per_s() -> float:
    """Reading 256 MiB, several times the last-level cache of most machines."""
    data = torch.ones(64 * 1024 * 1024)
    return data.numel() * 4 / _best_s(data.sum)


def _linear_flops_per_s(dtype: torch.dtype) -> float:
    """The best of skinny and square products: a peak is what the hardware reached, not what one shape did."""
    rates = []
    for m, n, k in ((64, 2048, 2048), (512, 1024, 1024), (1024, 1024, 1024)):
        x, weight = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
        products = [partial(linear(weight, packed=True), x), partial(functional.linear, x, weight)]
        rates += [2.0 * m * n * k / _best_s(product) for product in products]
    return max(rates)


def _launch_s() -> float:
    """One small operator's dispatch, from a thousand additions of one number."""
    one = torch.ones(1)

    def thousand() -> None:
        for _ in range(1000):
            one.add(1)

    return _best_s(thousand) / 1000


def _cache_bytes(level: int, folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> float | None:
    """Bytes of this cache level of the first core; None where the system does not tell."""
    for index in sorted(folder.glob("index*")):
        if (index / "level").read_text().strip() == str(level):
            text = (index / "size").read_text().strip()
            return float(text.rstrip("KM")) * (1024 if text.endswith("K") else 1024**2)
    return None


def _clock_hz(info: Path = Path("/proc/cpuinfo")) -> float | None:
    """The fastest core's clock just now; None where the system does not tell."""
    lines = info.read_text().splitlines() if info.exists() else []
    rates = [float(line.split(":", 1)[1]) * 1e6 for line in lines if line.startswith("cpu MHz")]
    return max(rates) if rates else None
