"""Recording a forest: a text is written once, then a superset of drafts is run from every position of it.

Trees recorded only where the recording method's own rounds began would favour positions that follow its own luck; see
``acceptance.replay``. Each position is a row of a batch that continues its part of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch

from specsim.acceptance.replay.forced import ForcedText, draw_accepts
from specsim.acceptance.replay.forest import Forest, ForestFacts, RecordedText, check_alike, load_text, save_text
from specsim.acceptance.replay.superset import Superset, collect, joined
from specsim.decoding import StaticTree
from specsim.errors import InputError
from specsim.executor.drafters.base import Drafter
from specsim.executor.drafters.eagle import Eagle
from specsim.executor.drafters.itself import SelfDrafter
from specsim.executor.drafters.lookup import PromptLookup
from specsim.executor.drafters.medusa import Medusa
from specsim.executor.drafters.model import ModelDrafter
from specsim.executor.llama import Llama
from specsim.executor.method import Method, Sampling
from specsim.executor.rounds import check_depth, decode, run_round
from specsim.executor.texts import start
from specsim.tree import DraftTree

ROWS: Final = 32
"""Positions drafted from at once; each has its own copy of the text in the caches."""

SAMPLES: Final = 64
"""Simulated rows of elder draws behind each figure of ``ForcedText.draws`` after the first."""

FROM_THE_TEXT: Final = (ModelDrafter, Eagle, Medusa, SelfDrafter, PromptLookup)
"""Drafters whose guesses follow from the text alone. Others learn from the trees that were verified before, which are
the recording policy's and would have been another's."""

MakeDrafter = Callable[[], Drafter]


def write_text(target: Llama, prompt: list[int], sampling: Sampling, num_tokens: int, seed: int) -> list[int]:
    """The prompt and ``num_tokens`` of the target's own continuation, decoded without speculation."""
    texts = start(target, None, [prompt], min(len(prompt) + num_tokens + 1, target.shape.max_context_tokens), seed)
    rule: Final = "greedy" if sampling.temperature == 0 else "one_hot"
    method = Method(StaticTree(DraftTree.root_only()), rule, sampling)
    for _ in decode(texts, method, num_tokens):
        pass
    tokens = texts.finished[0]
    if len(tokens) < len(prompt) + num_tokens:
        limit = f"must leave room for {num_tokens} tokens in a context of {texts.max_context_tokens}"
        raise InputError("prompt", limit, len(prompt))
    return tokens


def record_text(
    target: Llama,
    make_drafter: MakeDrafter,
    tokens: list[int],
    begin: int,
    superset: Superset,
    sampling: Sampling,
    num_draws: int = 1,
    tail_tokens: int = 0,
    seed: int = 0,
) -> RecordedText:
    """The forest of a text: the superset's drafts after each token from ``tokens[begin - 1]`` on.

    Args:
        target: What judged, and wrote the text.
        make_drafter: A new drafter, nothing read yet.
        tokens: Prompt and output.
        begin: Tokens of the prompt.
        superset: What is drafted at each position.
        sampling: The law that the text follows.
        num_draws: Draws without replacement told apart, for replays of sampled trees; 1 does for chains.
        tail_tokens: Of the output's end, not drafted from.
        seed: Of the simulated draws.

    Raises:
        InputError: for a drafter whose guesses depend on the rounds before, one that does not propose so deep, a
            device other than the processor, or a text that does not fit.
    """
    check_drafter(make_drafter(), target)
    num = len(tokens) - begin - tail_tokens
    if num < 1:
        raise InputError(
            "tail_tokens", f"must be less than the {len(tokens) - begin} tokens of the output", tail_tokens
        )
    method = Method(superset, "greedy" if sampling.temperature == 0 else "one_hot", sampling)
    room = min(len(tokens) + superset.limits.expanded + 2, target.shape.max_context_tokens)
    found = []
    for first in range(0, num, ROWS):
        prefixes = [tokens[: begin + t] for t in range(first, min(first + ROWS, num))]
        texts = start(target, make_drafter(), prefixes, room)
        check_depth(texts, method)
        done = run_round(texts, method)
        target_probs = sampling.law(done.target_logits.numpy())
        found += collect(superset, done.drafted, done.verified, target_probs)
    laws, roots = joined(found)
    forced = None
    drafter = make_drafter()
    if sampling.temperature > 0 and isinstance(drafter, ModelDrafter) and drafter.shared is None:
        forced = forced_text(target, drafter.model, tokens, begin, sampling, num_draws, seed)
    return RecordedText(np.array(tokens, dtype=np.int64), begin, roots, laws, forced)


@torch.inference_mode()
def forced_text(
    target: Llama,
    draft: Llama,
    tokens: list[int],
    begin: int,
    sampling: Sampling,
    num_draws: int = 1,
    seed: int = 0,
) -> ForcedText:
    """One pass of both models over a text: what each says of every token of the output.

    >>> # forced_text(target, draft, tokens, begin, Sampling(1.0)).draft_probs.shape == (len(tokens) - begin,)
    """
    if sampling.temperature == 0:
        raise InputError("temperature", "must be > 0 where drafts are sampled", 0)
    ids = torch.tensor([tokens[:-1]])
    laws = []
    for model in (draft, target):
        hidden = model.prefill(ids, model.new_cache(len(tokens)))[0, begin - 1 :]
        laws.append(sampling.law(model.logits(hidden).numpy()))
    ours, theirs = laws
    output = np.array(tokens[begin:])
    rows = np.arange(len(output))
    rng = np.random.default_rng(seed)
    return ForcedText(
        draft_probs=ours[rows, output].astype(np.float32),
        target_probs=theirs[rows, output].astype(np.float32),
        surest=ours.max(axis=1).astype(np.float32),
        draws=draw_accepts(ours, theirs, output, num_draws, SAMPLES, rng),
    )


def check_drafter(drafter: Drafter, target: Llama) -> None:
    """Raise InputError for a drafter that can not be recorded."""
    if not isinstance(drafter, FROM_THE_TEXT):
        limit = "must draft from the text alone, not from what earlier rounds verified"
        raise InputError("drafter", limit, type(drafter).__name__)
    if target.device.type != "cpu":
        raise InputError("device", "must be cpu where a forest is recorded", str(target.device))


def record_forest(
    target: Llama,
    make_drafter: MakeDrafter,
    prompts: list[list[int]],
    superset: Superset,
    facts: ForestFacts,
    folder: Path | None,
) -> Iterator[RecordedText]:
    """Write and record a text after each prompt; with a folder, each is saved when done, and read if it is there.

    Raises:
        InputError: as ``record_text``, and for a folder that holds texts recorded otherwise.
    """
    sampling = Sampling(facts.temperature, facts.top_k, facts.top_p)
    for number, prompt in enumerate(prompts):
        path = None if folder is None else folder / f"text-{number:04}.npz"
        if path is not None and path.exists():
            others, text = load_text(path)
            check_alike(others, facts, path)
            if text.tokens[: text.begin].tolist() != prompt:
                raise InputError(path.name, "must begin with the same prompt", text.begin)
            yield text
            continue
        tokens = write_text(target, prompt, sampling, facts.output_tokens, facts.seed + number)
        tokens = tokens[: len(prompt) + facts.output_tokens]
        text = record_text(
            target,
            make_drafter,
            tokens,
            len(prompt),
            superset,
            sampling,
            facts.num_draws,
            facts.tail_tokens,
            facts.seed + number,
        )
        if path is not None:
            save_text(text, facts, path)
        yield text


def recorded_forest(
    target: Llama,
    make_drafter: MakeDrafter,
    prompts: list[list[int]],
    superset: Superset,
    facts: ForestFacts,
    folder: Path | None = None,
) -> Forest:
    """All of ``record_forest``."""
    return Forest(facts, list(record_forest(target, make_drafter, prompts, superset, facts, folder)))
