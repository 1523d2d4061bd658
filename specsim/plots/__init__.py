"""Pictures. Matplotlib is loaded by the functions that draw, and only by them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from specsim.errors import InputError

FORMATS: Final = (".png", ".svg")
# Okabe and Ito's palette: told apart by every kind of eye.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def check_plot_path(path: Path) -> None:
    """Raise InputError unless a picture can be written to ``path``: ask before the work, not after it."""
    if path.suffix.lower() not in FORMATS:
        raise InputError("plot", f"must end in {' or '.join(FORMATS)}", str(path))
    if not path.parent.is_dir():
        raise InputError("plot", "must be in a folder that exists", str(path))
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError("plot", "must be a file that can be written", str(path))
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError("plot", "needs matplotlib (the extra `plots`)", str(path)) from None


def new_figure(width_in: float = 8.0, height_in: float = 5.0, num_columns: int = 1) -> tuple[Any, Any]:
    """A figure and its axes, an array of them where there are several columns.

    Without pyplot, which would keep the figure and look for a screen."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, figure.subplots(1, num_columns)


def log_axis(axis: Any, set_scale: Any) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    set_scale("log")
    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def save_figure(figure: Any, path: Path) -> None:
    """Write a PNG or an SVG, as the name ends; the same picture gives the same bytes."""
    check_plot_path(path)
    from matplotlib import rc_context

    metadata = {"Date": None} if path.suffix.lower() == ".svg" else {"Software": None}
    try:
        with rc_context({"svg.hashsalt": "specsim"}):  # names of SVG elements are random otherwise
            figure.savefig(path, dpi=150, metadata=metadata)
    except OSError as error:
        raise InputError("plot", f"can not be written ({error.strerror or error})", str(path)) from None
