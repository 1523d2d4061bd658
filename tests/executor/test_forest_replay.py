"""Replay against the executor that really runs the other policy, on the shipped models."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from specsim.acceptance.replay import Exact, Forest, RecordedText, Superset, chain_lengths, evaluate, visits
from specsim.acceptance.replay.forest import ForestFacts
from specsim.decoding import (
    BestFirst,
    ConfidenceChain,
    Eagle2,
    OptTree,
    Rule,
    StaticTree,
    Talon,
    TreePolicy,
)
from specsim.errors import InputError
from specsim.executor.drafters.lookup import PromptLookup
from specsim.executor.drafters.model import ModelDrafter
from specsim.executor.drafters.recycling import TokenRecycling
from specsim.executor.forest import forced_text, record_forest, record_text, recorded_forest
from specsim.executor.llama import Llama, load_llama
from specsim.executor.method import Method, Sampling
from specsim.executor.rounds import run_round
from specsim.executor.session import TINY
from specsim.executor.texts import start
from specsim.executor.vocabulary import load_tokenizer
from specsim.tree import DraftTree

PROMPTS = ["def __init__(self, name", "import os\nimport sys\n\nclass Reader"]
POSITIONS, TAIL = 40, 8
POLICIES: list[TreePolicy] = [
    StaticTree(DraftTree.chain(4)),
    StaticTree(DraftTree.from_widths((3, 2, 1))),
    Eagle2(4, 3, 16),
    Eagle2(2, 4, 8),
    OptTree(12, 0.1, 5),
    Talon(16, 0.03, 5, 6),
    BestFirst(12, 3, 5),
    ConfidenceChain(8, 0.4, "token", "top"),
]
FACTS = ForestFacts(
    drafter="model",
    models="shipped",
    temperature=0.0,
    num_laws=8,
    num_nodes=12,
    num_children=1,
    max_depth=5,
    num_draws=1,
    output_tokens=POSITIONS + TAIL,
    tail_tokens=TAIL,
    seed=0,
)
SUPERSET = Superset(8, 12, 5, policies=tuple(POLICIES))


@pytest.fixture(scope="module")
def models() -> tuple[Llama, Llama]:
    return load_llama(TINY / "target"), load_llama(TINY / "draft")


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    tokenizer = load_tokenizer(TINY / "target")
    return [tokenizer.encode(text).ids for text in PROMPTS]


@pytest.fixture(scope="module")
def greedy(models: tuple[Llama, Llama], prompts: list[list[int]]) -> Forest:
    target, draft = models
    return recorded_forest(target, lambda: ModelDrafter(target, draft), prompts, SUPERSET, FACTS)


class Written(NamedTuple):
    """A text that the executor wrote, and where in its output each round began."""

    tokens: list[int]
    begin: int
    starts: list[int]

    def rounds(self, num: int) -> int:
        """Those that began among the first ``num`` tokens."""
        return sum(start < num for start in self.starts)

    def tokens_of(self, rounds: int) -> int:
        """Tokens out when so many rounds have ended."""
        return [*self.starts, len(self.tokens) - self.begin][rounds]


def run(
    models: tuple[Llama, Llama], prompts: list[list[int]], method: Method, num: int, seed: int = 0
) -> list[Written]:
    """The method after every prompt, all at once, until each has ``num`` tokens."""
    texts = start(models[0], ModelDrafter(*models), prompts, max(map(len, prompts)) + num + 64, seed)
    starts: list[list[int]] = [[] for _ in prompts]
    while any(len(text) < len(prompt) + num for text, prompt in zip(texts.tokens, prompts, strict=True)):
        for row, prompt in enumerate(prompts):
            starts[row].append(len(texts.tokens[row]) - len(prompt))
        run_round(texts, method)
    return [Written(text, len(prompt), row) for text, prompt, row in zip(texts.tokens, prompts, starts, strict=True)]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_greedy_replay_has_the_rounds_of_the_executor(
    policy: TreePolicy, models: tuple[Llama, Llama], greedy: Forest
) -> None:
    found = evaluate(greedy, policy, "greedy")
    rounds = tokens = 0
    prompts = [text.tokens[: text.begin].tolist() for text in greedy.texts]
    for text, written in zip(greedy.texts, run(models, prompts, Method(policy, "greedy"), POSITIONS), strict=True):
        shared = min(len(written.tokens), len(text.tokens))
        assert written.tokens[:shared] == text.tokens[:shared].tolist()
        count = written.rounds(min(POSITIONS, len(text.output) - policy.limits.depth))
        rounds, tokens = rounds + count, tokens + written.tokens_of(count)
    assert isinstance(found, Exact) and (found.rounds, found.tokens) == (rounds, tokens)
    assert found.value > 1.2  # drafts are kept, or nothing was tested


@pytest.mark.parametrize("policy", [POLICIES[1], POLICIES[2], POLICIES[4]], ids=str)
def test_at_temperature_one_replay_has_the_rounds_of_the_text_that_the_policy_wrote(
    policy: TreePolicy, models: tuple[Llama, Llama], prompts: list[list[int]]
) -> None:
    """One-hot rounds follow from the text, which is the target's whoever drafts: no sampling error is left."""
    num, depth = 30, policy.limits.depth
    written = run(models, prompts, Method(policy, "one_hot", Sampling(1.0)), num + depth)
    texts = [recorded(models, one, policy, num + depth, depth) for one in written]
    found = evaluate(Forest(FACTS.model_copy(update={"temperature": 1.0}), texts), policy, "one_hot")
    assert isinstance(found, Exact) and found.rounds == sum(one.rounds(num) for one in written)


def recorded(models: tuple[Llama, Llama], written: Written, policy: TreePolicy, num: int, tail: int) -> RecordedText:
    """The forest of the first ``num`` tokens, the last ``tail`` of which are looked ahead at."""
    tokens, superset = written.tokens[: written.begin + num], Superset(1, 1, 1, policies=(policy,))
    return record_text(
        models[0], lambda: ModelDrafter(*models), tokens, written.begin, superset, Sampling(1.0), 1, tail
    )


def test_at_temperature_one_replay_agrees_on_texts_that_another_policy_wrote(
    models: tuple[Llama, Llama], prompts: list[list[int]]
) -> None:
    """Recorded on one policy's texts, run on its own: two samples, |z| < 3.5 (5e-4 by chance)."""
    policy, other = POLICIES[2], Method(POLICIES[0], "one_hot", Sampling(1.0))
    texts = [recorded(models, one, policy, 48, 8) for one in run(models, prompts * 2, other, 48, seed=100)]
    own = run(models, prompts * 8, Method(policy, "one_hot", Sampling(1.0)), 40)
    mean = [one.tokens_of(one.rounds(40)) / one.rounds(40) for one in own]
    found = evaluate(Forest(FACTS.model_copy(update={"temperature": 1.0}), texts), policy, "one_hot")
    assert isinstance(found, Exact)
    sd = np.hypot(np.std(mean) / np.sqrt(len(mean)), (found.high - found.low) / 2 / 1.75)
    assert abs(found.value - np.mean(mean)) < 3.5 * sd and sd < 0.15 * found.value


@pytest.mark.parametrize("draft_len", [1, 3, 6])
@pytest.mark.parametrize("rule", ["token_rejection", "block_verification"])
def test_one_pass_over_a_text_gives_the_rounds_of_every_draft_length(
    rule: Rule, draft_len: int, models: tuple[Llama, Llama], prompts: list[list[int]]
) -> None:
    """Given the text a round's length is a draw from a known law: |z| < 4 over all texts (6e-5 by chance)."""
    method = Method(StaticTree(DraftTree.chain(draft_len), "sampled"), rule, Sampling(1.0))
    surplus = variance = 0.0
    for seed, one in enumerate(run(models, prompts * 5, method, 60 + draft_len)):
        forced = forced_text(*models, one.tokens[: one.begin + 60 + draft_len], one.begin, Sampling(1.0))
        reach = chain_lengths(forced, draft_len, rule)  # type: ignore[arg-type]
        assert len(reach) == 60
        simulated = simulated_rounds(reach, 400, np.random.default_rng(seed))
        assert visits(reach).sum() == pytest.approx(simulated.mean(), abs=5 * simulated.std() / 20 + 1e-9)
        surplus, variance = surplus + one.rounds(60) - visits(reach).sum(), variance + simulated.var()
    assert variance > 0 and abs(surplus) < 4 * variance**0.5


def simulated_rounds(reach: NDArray[np.float64], num: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Rounds of ``num`` walks along the text."""
    place, rounds = np.zeros(num, dtype=int), np.zeros(num)
    while (going := place < len(reach)).any():
        table = reach[np.minimum(place, len(reach) - 1)]
        place = place + going * ((rng.random((num, 1)) < table).sum(1))  # reach[0] = 1 is the bonus token
        rounds += going
    return rounds


def test_a_recording_goes_on_where_it_was_interrupted(
    models: tuple[Llama, Llama], prompts: list[list[int]], tmp_path: Path
) -> None:
    target, draft = models
    facts = FACTS.model_copy(update={"output_tokens": 12, "tail_tokens": 6, "temperature": 1.0})
    superset = Superset(3, 4, 3)
    made: list[int] = []

    def make() -> ModelDrafter:
        made.append(1)
        return ModelDrafter(target, draft)

    both = recorded_forest(target, make, prompts, superset, facts)
    interrupted = record_forest(target, make, prompts, superset, facts, tmp_path)
    next(interrupted)
    interrupted.close()
    assert [path.name for path in tmp_path.iterdir()] == ["text-0000.npz"]
    made.clear()
    resumed = recorded_forest(target, make, prompts, superset, facts, tmp_path)
    for one, other in zip(both.texts, resumed.texts, strict=True):
        assert one.tokens.tolist() == other.tokens.tolist()
        assert np.array_equal(one.laws.draft_probs, other.laws.draft_probs)
    num_made = len(made)
    recorded_forest(target, make, prompts, superset, facts, tmp_path)
    assert num_made > 0 and len(made) == num_made  # all was there: nothing ran
    with pytest.raises(InputError, match=r"text-0000.npz: seed must be that of the other texts, 5, got 0"):
        list(record_forest(target, make, prompts, superset, facts.model_copy(update={"seed": 5}), tmp_path))
    with pytest.raises(InputError, match="must begin with the same prompt"):
        list(record_forest(target, make, prompts[::-1], superset, facts, tmp_path))


def test_drafters_that_learn_from_rounds_are_refused_and_lookup_is_not(
    models: tuple[Llama, Llama], prompts: list[list[int]]
) -> None:
    target, vocab = models[0], models[0].shape.vocab_size
    text = prompts[1] * 3
    with pytest.raises(InputError, match="drafter: must draft from the text alone"):
        record_text(target, lambda: TokenRecycling(vocab), text, 12, Superset(2, 2, 2), Sampling(), 1, 4)
    found = record_text(target, lambda: PromptLookup(vocab), text, 12, Superset(3, 4, 3), Sampling(), 1, 4)
    played = evaluate(Forest(FACTS, [found]), StaticTree(DraftTree.chain(3)), "greedy")
    assert isinstance(played, Exact) and played.value > 2  # the text repeats itself


def test_a_text_that_does_not_fit_is_refused(models: tuple[Llama, Llama], prompts: list[list[int]]) -> None:
    with pytest.raises(InputError, match="tail_tokens: must be less than the 0 tokens"):
        record_text(models[0], lambda: ModelDrafter(*models), prompts[0], len(prompts[0]), SUPERSET, Sampling())
    with pytest.raises(InputError, match="temperature: must be > 0"):
        forced_text(*models, prompts[0], 3, Sampling())
    assert torch.get_num_threads() == 1
