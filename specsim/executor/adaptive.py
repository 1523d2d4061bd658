"""Decoding whose method changes from round to round: Draft & Verify's threshold, led by what the target keeps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from specsim.decoding import AdaptiveThreshold, ConfidenceChain
from specsim.errors import InputError
from specsim.executor.method import Method
from specsim.executor.rounds import Clock, Round, decode
from specsim.executor.texts import Texts


def decode_adaptive(
    texts: Texts, method: Method, control: AdaptiveThreshold, max_new_tokens: int, clock: Clock = time.thread_time
) -> Iterator[Round]:
    """As ``rounds.decode``, each text's threshold updated after each of its rounds.

    Args:
        texts: Where to go on.
        method: Of a confidence chain, whose own threshold is not used.
        control: What every text starts with.
        max_new_tokens: Of each text.
        clock: Reads seconds.

    Raises:
        InputError: for a policy without a threshold, or a controller of another length.
    """
    policy = method.policy
    if not isinstance(policy, ConfidenceChain):
        raise InputError("policy", "must be a confidence_chain where its threshold adapts", policy.__class__.__name__)
    if control.draft_len != policy.draft_len:
        raise InputError("control.draft_len", f"must be the policy's, {policy.draft_len}", control.draft_len)
    goals = {request: len(text) + max_new_tokens for request, text in zip(texts.requests, texts.tokens, strict=True)}
    controls = dict.fromkeys(texts.requests, control)

    def has_all(request: int, text: list[int]) -> bool:
        return len(text) >= goals[request]

    while True:
        thresholds = [
            min(max(controls[request].threshold, 0.0), 1.0)  # the controller itself knows no bounds
            for request, text in zip(texts.requests, texts.tokens, strict=True)
            if not _ended(text, goals[request], policy.limits.depth, texts)
        ]
        if not thresholds:
            texts.keep_rows([])
            return
        values = thresholds[0] if len(thresholds) == 1 else torch.tensor(thresholds, device=texts.target.device)
        now = replace(method, policy=replace(policy, threshold=values))
        done = next(decode(texts, now, max_new_tokens, clock, has_all), None)
        if done is None:
            return
        for row, request in enumerate(done.requests):
            num_drafted = int((done.tree.parents[row] >= 0).sum())
            controls[request] = controls[request].updated(num_drafted, len(done.path[row]) - 1)
        yield done


def _ended(text: list[int], goal: int, reach: int, texts: Texts) -> bool:
    """As ``decode`` will find: enough tokens, or no room for another round."""
    return len(text) >= goal or len(text) + reach >= texts.max_context_tokens
