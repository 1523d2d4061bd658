"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples on every run, so that what passed passes again; `HYPOTHESIS_PROFILE=explore` draws new ones.
settings.register_profile("same", derandomize=True)
settings.register_profile("explore", derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Measured tables that are not part of the repository: the folder that ``$SPECSIM_DATA`` names."""
    folder = os.environ.get("SPECSIM_DATA")
    if folder is None or not Path(folder).is_dir():
        pytest.skip("measured tables absent: set SPECSIM_DATA to their folder")
    return Path(folder)
