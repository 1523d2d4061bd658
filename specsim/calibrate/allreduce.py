"""Fit all-reduce, library by library, and say how well message sizes that were left out are predicted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from specsim.calibrate.frame import Form, Found, Sizes, fit_kernel
from specsim.calibrate.operators import Table, groups, read_table
from specsim.calibrate.transfer import both_reports
from specsim.cost.fits import profile_name
from specsim.cost.operators.allreduce import AllReduceParams, allreduce_time_s
from specsim.hardware import load_hardware
from specsim.work import Float

DIRECT: Final = {  # start, least, most
    "launch_s": (4e-6, 1e-6, 2e-5),
    "hop_s": (2e-7, 1e-9, 5e-6),
    "second_s": (2e-6, 1e-8, 2e-5),
    "direct_share": (0.6, 0.05, 1.0),
}
RING: Final = {
    "ring_launch_s": (8e-6, 1e-6, 6e-5),
    "ring_hop_s": (1.5e-6, 1e-9, 1e-5),
    "short_share": (0.2, 0.01, 1.0),
    "stream_s": (1e-5, 1e-8, 2e-4),
    "stream_share": (0.7, 0.05, 1.0),
    "crowding": (0.1, 1e-3, 2.0),
}
HOST: Final = {"host_s": (3e-5, 1e-6, 2e-4)}
SIZES: Final = Sizes(("bytes",), (2.0**16, 2.0**22))
LIMITS: Final = tuple(2.0**k for k in range(19, 28))
"""Longest message of an engine's own kernel, tried in turn."""
LIMIT_EXPONENTS: Final = (0.0, 0.5, 1.0, 20.0)
"""How that limit falls with the number of devices; the last leaves all but pairs to NCCL."""


def fit_allreduce(table: Table) -> Iterator[Found]:
    """Fit and errors on unseen message sizes of every library in a table of all-reduces."""
    for (gpu, engine, version, kernel, dtype), rows in groups(
        table, ("gpu", "engine", "version", "kernel", "dtype")
    ).items():
        device = load_hardware(profile_name(gpu))

        def times(rows: Table, params: Mapping[str, float], device: Any = device) -> Float:
            return allreduce_time_s(rows, device, AllReduceParams(**params))

        host = {} if engine == "nccl" or bool(np.all(rows["cuda_graph"])) else HOST
        if engine == "nccl":
            forms = [Form(RING, {"limit_bytes": 0.0}, times)]
        else:
            bounds = {**DIRECT, **RING, **host}
            limits = [{"limit_bytes": b, "limit_exponent": e} for b in LIMITS for e in LIMIT_EXPONENTS]
            forms = [Form(bounds, limit, times) for limit in limits]
        names = {"gpu": gpu, "operator": f"allreduce {kernel}", "engine": engine, "version": version, "dtype": dtype}
        yield fit_kernel(forms, rows, ("bytes",), ("bytes", "n_gpus"), SIZES, **names, variant=kernel)


def allreduce_found(data_dir: Path) -> list[Found]:
    """All fits of the tables in ``data_dir``."""
    return list(fit_allreduce(read_table(data_dir / "gpu_ops" / "allreduce.parquet")))


def allreduce_heldout_report(data_dir: Path) -> list[dict[str, Any]]:
    """Fit everything anew; errors on sizes left out, and on GPUs left out."""
    return both_reports(allreduce_found(data_dir), "allreduce", "unseen sizes")
