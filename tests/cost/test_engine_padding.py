"""Padding to captured sizes: whole counts stay whole, or the next tile begins."""

from __future__ import annotations

import numpy as np
import pytest

from specsim.cost.engine import engine_class, round_up
from specsim.cost.model import pass_cost
from specsim.hardware import load_hardware
from specsim.model import load_model
from specsim.work import Pass

H100 = load_hardware("h100-sxm")


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("per_seq", [1, 3, 5, 7])
def test_padding_is_exact(engine: str, per_seq: int) -> None:
    """369 tokens are padded to 384 of them, not to 384.00000000000006."""
    launched = engine_class(engine, "graph", H100)  # type: ignore[arg-type]
    seqs = np.arange(1.0, 2200.0)
    padded = launched.padded_tokens(Pass("target", "verify", per_seq, 500.0, seqs[:, None]))
    counted = seqs * per_seq if launched.counts == "tokens" else seqs
    share = per_seq if launched.counts == "sequences" else 1
    np.testing.assert_array_equal(padded, round_up(counted, launched.captured) * share)
    np.testing.assert_array_equal(padded, np.rint(padded))


def test_products_that_miss_a_captured_size_by_rounding_are_of_it() -> None:
    """A prompt given as so many short ones: n / 3 sequences of 3 tokens are n tokens, captured or not."""
    vllm, tokens = engine_class("vllm", "graph", H100), np.array([8, 160, 248, 256, 496, 512, 513, 4672.0])
    for each in (3.0, 7.0, 11.0, 1.7):
        work = Pass("target", "prefill", each, 0.0, (tokens / each)[:, None])
        assert vllm.padded_tokens(work).tolist() == tokens.tolist()
        assert vllm.is_eager(work).tolist() == [n > 512 for n in tokens]
    assert vllm.padded_tokens(Pass("target", "verify", [3.3], [10.0], [100.0])) == 336
    nobody = Pass("target", "verify", [3.0], [10.0], [0.0])
    assert vllm.padded_tokens(nobody) == 0


def test_a_pass_costs_the_same_alone_and_in_a_sweep_with_longer_ones() -> None:
    """Sizes beyond those that curves are kept for, where a rounded count would begin a tile more."""
    cost = pass_cost(H100, {"target": load_model("llama-3.1-8b")}, engine="vllm")
    tokens = np.array([10, 369, 376, 512, 1000, 4096, 4097, 8192.0])
    swept = cost.price(Pass("target", "prefill", tokens[:, None], 0.0)).time_s
    alone = [float(cost.price(Pass("target", "prefill", [n], 0.0)).time_s) for n in tokens]
    assert swept == pytest.approx(alone, rel=1e-7)  # corrections are single precision
