"""The executor as a server: each text is that of decoding alone, records add up, and simulation foretells them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest
from toy_deployment import deployment

from specsim.errors import InputError
from specsim.executor.method import Method, Sampling, lossless_rule
from specsim.executor.serving import BatchServer
from specsim.executor.session import Session
from specsim.sim.config import ServerConfig
from specsim.sim.measured import measured_tables
from specsim.sim.policies.basic import FixedDraftLen
from specsim.sim.serve import serve
from specsim.tree import DraftTree
from specsim.workload.requests import Requests

ARRIVALS = [0.0, 0.0, 3.0, 10.0, 10.5, 400.0]
OUTPUTS = [9, 1, 12, 5, 7, 4]


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(ffn_size=None)


def server(session: Session, draft_len: int, max_running: int) -> BatchServer:
    """Every look at the clock takes a second."""
    method = Method(*lossless_rule(DraftTree.chain(draft_len), 0.0), Sampling(0.0))
    ticks: Iterator[int] = count()
    draft = session.draft if draft_len else None
    return BatchServer(session.target, draft, method, max_running, clock=lambda: float(next(ticks)))


@pytest.mark.parametrize("draft_len", [0, 3])
def test_whoever_joins_or_leaves_each_text_is_its_own(session: Session, draft_len: int) -> None:
    prompts = [prompt[: 20 + 7 * row] for row, prompt in enumerate(session.prompts[:6])]
    alone = [server(session, 0, 1).serve([0.0], [p], [n]).texts[0] for p, n in zip(prompts, OUTPUTS, strict=True)]
    done = server(session, draft_len, 3).serve(ARRIVALS, prompts, OUTPUTS)
    assert done.texts == alone
    log, steps = done.requests, done.steps
    assert log.output_tokens.tolist() == OUTPUTS == [len(text) for text in alone]
    assert steps.num_emitted.sum() == sum(OUTPUTS)
    assert steps.prefill_tokens.sum() == sum(map(len, prompts))
    assert steps.num_running.max() == 3
    assert log.num_rounds.tolist() == [len(rounds) for rounds in done.rounds]
    assert (np.diff([log.arrival_s, log.admitted_s, log.first_token_s, log.finished_s], axis=0) >= 0).all()
    if not draft_len:
        assert log.num_rounds.tolist() == [n - 1 for n in OUTPUTS]


def test_steps_of_known_seconds_are_foretold_exactly(session: Session) -> None:
    """On a clock that counts its own readings every round takes as long: the simulator puts the same steps in the same
    order, but for the readings between steps."""
    prompts = [prompt[:30] for prompt in session.prompts[:5]]
    asked = Requests(np.arange(5) * 40.0, np.full(5, 30), np.array([6, 3, 8, 2, 5]))
    done = server(session, 0, 2).serve(asked.arrival_s.tolist(), prompts, asked.output_tokens.tolist())
    reads = done.steps.prefill_tokens > 0
    prompt_s, round_s = done.steps.duration_s[reads], done.steps.duration_s[~reads]
    assert np.ptp(prompt_s) == 0 and np.ptp(round_s) == 0
    gap_s = 1.0  # between the end of a step and the beginning of the next the clock is read once
    tables = measured_tables([0], [[round_s[0] + gap_s] * 2], prompt_s[0] + gap_s, 0.0)
    assert tables.verifying.shape == (1, 2, 2)
    config = ServerConfig(max_running=2, mixes=False, chunks=False, token_budget=1, kv_blocks=10**6)
    plain = deployment(drafter={"kind": "none"})
    log = serve(plain, asked, control=FixedDraftLen(0), config=config, tables=tables, compiled=False).requests
    for name in ("admitted_s", "first_token_s", "finished_s"):
        np.testing.assert_allclose(getattr(log, name), getattr(done.requests, name), atol=3 * gap_s)
    np.testing.assert_array_equal(np.argsort(log.finished_s), np.argsort(done.requests.finished_s))


def test_what_can_not_be_served(session: Session) -> None:
    with pytest.raises(InputError, match="draft: must be given"):
        BatchServer(session.target, None, session.method(DraftTree.chain(2)), 1)
    with pytest.raises(InputError, match="max_running: must be >= 1"):
        BatchServer(session.target, None, session.method(DraftTree.chain(0)), 0)
    with pytest.raises(InputError, match="must leave room"):
        server(session, 0, 1).serve([0.0], [[1] * 30], [10**6])
    with pytest.raises(InputError, match="must be one per arrival"):
        server(session, 0, 1).serve([0.0], [], [])
