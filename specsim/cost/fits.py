"""What was fitted to one device's measured operators, and how well it does on shapes that it did not see.

A profile (``hwprofiles/<device>.toml``) holds facts; ``hwprofiles/<device>.fit.json`` holds these fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import Field, ValidationError

from specsim.documents import Document
from specsim.errors import InputError
from specsim.hardware import HardwareProfile, hwprofiles_dir
from specsim.work import Float

PROFILE_OF: Final = {
    "A100-SXM-80GB": "a100-80gb-sxm",
    "A100-PCIE-80GB": "a100-80gb-pcie",
    "H200-SXM": "h200",
    "JETSON-AGX-ORIN-64": "jetson-agx-orin-64gb",
    "JETSON-ORIN-NX-16": "jetson-orin-nx-16gb",
    "JETSON-ORIN-NANO-8-SUPER": "jetson-orin-nano",
    "JETSON-AGX-THOR": "jetson-agx-thor",
}
"""Bundled profile of a device as measured tables name it, where the two names differ by more than case."""


def profile_name(device: str) -> str:
    """The bundled profile's name for a device as a table names it.

    >>> profile_name("A100-SXM-80GB"), profile_name("L40S")
    ('a100-80gb-sxm', 'l40s')
    """
    return PROFILE_OF.get(device, device.strip().lower().replace(" ", "-").replace("_", "-"))


class HeldOut(Document):
    """Errors on shapes that the fit did not see, all fractions (0.07 is seven percent); bias is the mean signed one."""

    mape: float
    median_ape: float
    p90_ape: float
    bias: float
    coverage_90: float
    rows: int


class Widths(Document):
    """Half-widths in log time by size: of rows whose columns multiply to at most each edge, and last of those above.

    >>> by_tokens = Widths(columns=("batch", "q_len"), edges=(16, 64), half_widths=(0.1, 0.2, 0.3))
    >>> by_tokens.at({"batch": [2, 16, 64], "q_len": [8, 4, 4]}).tolist()
    [0.1, 0.2, 0.3]
    """

    columns: tuple[str, ...]
    edges: tuple[float, ...]
    half_widths: tuple[float, ...]

    def at(self, columns: Mapping[str, Any]) -> Float:
        """Half-width of every row."""
        size = reduce(np.multiply, (np.asarray(columns[name], dtype=float) for name in self.columns))
        return np.asarray(np.array(self.half_widths)[np.searchsorted(self.edges, size)])


class Residual(Document):
    """A correction learned on top of the fit, and what is left of the errors with it.

    Attributes:
        network: The file ``residual.<network>.npz`` that holds it.
        copies: Most weights or caches that the loops behind it went round; 0 for whole layers, always from memory.
        log_sd, quantile_90, widths, heldout: As of the fit, for formula and correction together.
    """

    network: str
    copies: float = Field(ge=0)
    log_sd: float = Field(ge=0)
    quantile_90: float = Field(ge=0)
    widths: Widths | None = None
    heldout: HeldOut | None = None


class OperatorFit(Document):
    """One operator on one device, by engine, version and dtype.

    Attributes:
        variant: Kernel family, where the operator has several.
        params: Physical parameters by name, as the operator's own module documents them.
        covariance: Of the logarithms of the parameters in ``fitted``, in that order; one row alone is its diagonal.
        fitted: Names of the parameters that were fitted; the others were held.
        log_sd: Spread of log(measured / predicted) of a single row of an unseen shape.
        quantile_90: Half-width in log time of the interval that held 90 % of the rows of unseen shapes.
        widths: The same by size, where there are rows enough to tell.
        residual: What is known of a learned correction; None where none was learned.
        points: Rows fitted.
        valid_range: Smallest and largest value of each column fitted; outside it the fit extrapolates.
    """

    operator: str
    engine: str
    version: str
    dtype: str
    variant: str = ""
    params: dict[str, float]
    fitted: tuple[str, ...] = ()
    covariance: tuple[tuple[float, ...], ...] = ()
    log_sd: float = Field(ge=0)
    quantile_90: float = Field(ge=0)
    widths: Widths | None = None
    residual: Residual | None = None
    points: int = Field(ge=0)
    valid_range: dict[str, tuple[float, float]]
    heldout: HeldOut | None = None
    source: str = Field(min_length=12)
    date: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What tells one fit of a device from another: operator, engine, version, dtype."""
        return self.operator, self.engine, self.version, self.dtype

    def half_width(self, columns: Mapping[str, Any]) -> Float | float:
        """Half of the 90 % interval of the formula alone, in log time: of every row where it differs by size."""
        return self.quantile_90 if self.widths is None else self.widths.at(columns)


class DeviceFit(Document):
    """All fits of one device, sorted by operator, engine, version and dtype."""

    device: str
    fits: tuple[OperatorFit, ...] = ()

    def find(self, operator: str, dtype: str, engine: str = "", version: str = "") -> OperatorFit | None:
        """The fit of an operator and dtype; of several engines or versions the one asked for, else the closest error.

        An engine or version without a fit of its own gets another one's: their kernels are mostly the same libraries.
        None where the device has no fit of that operator and dtype at all.
        """
        found = [fit for fit in self.fits if fit.operator == operator and fit.dtype == dtype]
        if not found:
            return None
        return min(found, key=lambda f: (f.engine != engine, f.version != version, f.quantile_90))

    def merged(self, fits: Iterable[OperatorFit]) -> DeviceFit:
        """These fits with others added; an equal key is replaced."""
        by_key = {fit.key: fit for fit in (*self.fits, *fits)}
        return DeviceFit(device=self.device, fits=tuple(by_key[key] for key in sorted(by_key)))


def load_fit(device: str) -> DeviceFit:
    """The fits bundled with a profile, or in a file of one's own; of a device without a fit, none.

    Args:
        device: A device's name, or the path of a ``.json`` file.

    >>> load_fit("rtx-4090").fits
    ()
    """
    if device.endswith(".json"):
        return read_fit(Path(device))
    path = hwprofiles_dir() / f"{profile_name(device)}.fit.json"
    return read_fit(path) if path.is_file() else DeviceFit(device=profile_name(device))


def read_fit(path: Path) -> DeviceFit:
    """The fits in a file. Raises InputError when it can not be read or is no such file."""
    try:
        return DeviceFit.model_validate_json(path.read_bytes())  # several times quicker than by way of Python's objects
    except OSError as error:
        raise InputError(str(path), f"can not be read ({error.strerror or error})") from None
    except ValidationError as error:
        raise InputError.from_validation(error, path.name) from None


def find_fit(
    device: HardwareProfile, operator: str, dtype: str, engine: str = "", version: str = ""
) -> OperatorFit | None:
    """The device's own fit, else what transfers from its architecture, else from all devices; None where nothing does.

    A transferred fit's interval is wider: it is as wide as the errors on devices that were left out.

    >>> from specsim.hardware import load_hardware
    >>> find_fit(load_hardware("l40s"), "gemm", "bfloat16").engine
    'Ada'
    """
    transferred = load_fit("transferred")
    names = (dtype, *_SAME_KERNELS.get(dtype, ()))
    for name in names:
        if own := load_fit(device.name).find(operator, name, engine, version):
            return own
    for name in names:
        for kin in (device.arch, "any"):
            fit = transferred.find(operator, name, kin)
            if fit is not None and fit.engine == kin:
                return fit
    return None


_SAME_KERNELS: Final = {"float16": ("bfloat16",), "bfloat16": ("float16",)}
"""Dtypes that run at the same speed through the same libraries."""
