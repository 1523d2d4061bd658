"""The controller of Draft & Verify, driven by real rounds."""

from __future__ import annotations

from itertools import islice

import pytest

from specsim.decoding import AdaptiveThreshold, ConfidenceChain, StaticTree
from specsim.errors import InputError
from specsim.executor.adaptive import decode_adaptive
from specsim.executor.drafters.itself import SelfDrafter, early_exit
from specsim.executor.method import Method
from specsim.executor.rounds import decode
from specsim.executor.session import Session
from specsim.executor.texts import start
from specsim.tree import DraftTree

CONTROL = AdaptiveThreshold(threshold=0.3, draft_len=5, step=0.2, inertia=0.5)
POLICY = ConfidenceChain(5, 0.9, "token", "top")


def test_each_text_follows_its_own_controller_and_stays_exact() -> None:
    session = Session(ffn_size=None)
    drafter = SelfDrafter(session.target, early_exit(session.target.shape.num_layers, 3))
    prompts = [session.prompts[0], session.prompts[3]]
    texts = start(session.target, drafter, prompts, 400)
    controls = {0: CONTROL, 1: CONTROL}
    for done in decode_adaptive(texts, Method(POLICY, "greedy"), CONTROL, 24):
        used = done.method.policy
        assert isinstance(used, ConfidenceChain)
        thresholds = [used.threshold] if len(done.requests) == 1 else used.threshold.tolist()
        for row, request in enumerate(done.requests):
            assert thresholds[row] == pytest.approx(min(1.0, controls[request].threshold), abs=1e-6)
            num_drafted = int((done.tree.parents[row] >= 0).sum())
            controls[request] = controls[request].updated(num_drafted, len(done.path[row]) - 1)
    assert controls[0] != controls[1]
    plain = start(session.target, None, prompts, 400)
    for _ in islice(decode(plain, Method(StaticTree(DraftTree.chain(0)), "greedy"), 24), 100):
        pass
    for request, prompt in enumerate(prompts):
        end = len(prompt) + 24
        assert texts.finished[request][:end] == plain.finished[request][:end]


def test_a_policy_without_a_threshold_is_refused() -> None:
    session = Session(ffn_size=None)
    texts = start(session.target, None, [session.prompts[0]], 400)
    with pytest.raises(InputError, match="confidence_chain"):
        next(decode_adaptive(texts, Method(StaticTree(DraftTree.chain(0)), "greedy"), CONTROL, 4))
    with pytest.raises(InputError, match="draft_len"):
        next(decode_adaptive(texts, Method(ConfidenceChain(4, 0.5, "token", "top"), "greedy"), CONTROL, 4))
