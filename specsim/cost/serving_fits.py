"""What whole servers added to their kernels' times: fits by engine and version, in ``hwprofiles/serving.json``."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from specsim.cost.fits import HeldOut
from specsim.cost.serving import ServingParams
from specsim.documents import Document, parse, read_json
from specsim.errors import InputError
from specsim.hardware import hwprofiles_dir

Kind = Literal["dense", "experts"]
FILE: Final = "serving.json"


class ServingFit(Document):
    """One engine and version, or all of an engine (version ``*``), or all engines (engine ``*``).

    Attributes:
        kind: Whether models have routed experts, whose times carry more error of their own.
        first_wave: Share of requests that came with the start, as the mean time to the first token tells.
        outside: Requests that wait for another to end, on average, as the same mean tells.
        log_sd: Standard deviation of the logarithm of each parameter.
        quantile_90, ttft_quantile_90: Half-widths in log time that hold 90 % of the rows of models left out, for time
            per output token and time to the first.
        points: Rows fitted.
        heldout, ttft_heldout: Errors on models left out, of all engines of that kind.
    """

    kind: Kind
    engine: str
    version: str
    params: ServingParams
    first_wave: float = Field(ge=0, le=1)
    outside: float = Field(ge=0)
    log_sd: dict[str, float]
    quantile_90: float = Field(ge=0)
    ttft_quantile_90: float = Field(ge=0)
    points: int = Field(ge=0)
    heldout: HeldOut
    ttft_heldout: HeldOut
    source: str = Field(min_length=12)
    date: str


class ServingFits(Document):
    """All fits."""

    fits: tuple[ServingFit, ...]

    def find(self, kind: Kind, engine: str = "", version: str = "") -> ServingFit:
        """The fit of an engine's version, else of the engine, else of all engines.

        Raises:
            InputError: where there is none of that kind at all.
        """
        known = {(fit.kind, fit.engine, fit.version): fit for fit in self.fits}
        for key in ((kind, engine, version), (kind, engine, "*"), (kind, "*", "*")):
            if key in known:
                return known[key]
        raise InputError("kind", "must have a fit of whole servers", kind)


@cache
def load_serving_fits(path: Path | None = None) -> ServingFits:
    """The bundled fits, or those in a file.

    >>> load_serving_fits().find("dense", "vllm").params.step_s < 2e-3
    True
    """
    file = path or hwprofiles_dir() / FILE
    return parse(ServingFits, read_json(file), file.name)
