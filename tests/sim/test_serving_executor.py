"""The serving simulator against the executor's own batched server, on whatever machine runs this."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import serve_tiny


@pytest.mark.slow
@pytest.mark.parametrize("draft_len", [0, 2])
def test_a_real_server_is_foretold(draft_len: int) -> None:
    """Step times and acceptance come from other prompts; bounds are loose, as the machine is shared with others."""
    serve_tiny.quiet_torch()
    row = serve_tiny.compare(serve_tiny.sessions(), draft_len, 4, load=0.7, num=30)
    assert abs(row.error("tokens/s")) < 0.15
    assert abs(row.error("TPOT")) < 0.2
    assert abs(row.error("e2e")) < 0.4
