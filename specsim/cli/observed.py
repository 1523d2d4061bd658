"""Options of commands that read what an engine wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from specsim.engines.imports import Observation

Files = Annotated[
    list[Path],
    typer.Argument(help="What the engine wrote: a metrics scrape, a log, JSON of a benchmark or of requests."),
]
Before = Annotated[
    Path | None, typer.Option(help="An earlier scrape of the same server: counters are then those since.")
]
DraftInUse = Annotated[
    int | None, typer.Option("--draft-len", min=1, help="Draft length in use, where the file does not tell.")
]


def observed_in(files: list[Path], before: Path | None) -> list[Observation]:
    """All that the files say. Raises InputError where an earlier scrape is given beside several files."""
    from specsim.engines.imports import read_observations
    from specsim.errors import InputError

    if before is not None and len(files) != 1:
        raise InputError("before", "must go with one file", len(files))
    return [one for path in files for one in read_observations(path, before)]
