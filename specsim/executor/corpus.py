"""Real text that every machine with Python has: the sources of the standard library, one file in ten held out."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from pathlib import Path

_SKIPPED = {"test", "tests", "site-packages", "idlelib", "lib2to3", "__pycache__", "ensurepip"}


def source_files(held_out: bool) -> list[Path]:
    """Standard library sources, tests left out, sorted; which half a file is in depends on its name alone."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = []
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name not in _SKIPPED]  # installed packages may be many
        files += [Path(folder, name) for name in names if name.endswith(".py")]
    files.sort()
    return [p for p in files if _is_held_out(p.relative_to(root)) == held_out]


def _is_held_out(path: Path) -> bool:
    return int(hashlib.sha256(path.as_posix().encode()).hexdigest(), 16) % 10 == 0
