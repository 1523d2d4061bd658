"""A workload as a person writes it: arrivals, lengths, conversations; and the requests drawn from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from math import ceil
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from pydantic import Field, model_validator

from specsim.documents import Document, parse, read_toml
from specsim.errors import InputError
from specsim.workload.arrivals import Arrivals, Burst, ClosedLoop
from specsim.workload.lengths import Fixed, Lengths
from specsim.workload.requests import Requests

CHUNK: Final = 4096
"""Requests drawn at a time: what a run keeps in memory of a long workload. Another number draws other requests."""


Share = Annotated[float, Field(ge=0, le=1)]


class Turns(Document):
    """Conversations: each turn's prompt is all that was said before, and something new.

    Args:
        mean_turns: Turns of a conversation on average, geometric, at least 1.
        think_s: From an answer to the next turn, on average (exponential).
        max_turns: A conversation ends here at the latest.
    """

    mean_turns: float = Field(ge=1, le=1000)
    think_s: float = Field(default=0.0, ge=0, le=1e6)
    max_turns: int = Field(default=64, ge=1, le=10_000)


class WorkloadSpec(Document):
    """What is asked of a deployment.

    Args:
        name: For people.
        source: Where the lengths come from; "assumed" where nobody published them.
        arrivals: When requests (or conversations) arrive.
        prompt: Tokens of a prompt; in conversations, tokens that a turn adds.
        output: Tokens of an answer.
        shared_prefix_tokens: Leading tokens that all prompts share, a system prompt say; part of every prompt.
        turns: Conversations; None: every request stands alone.
        samples_per_prompt: Answers asked of each prompt, as requests that arrive together and share it whole.
        block_tokens: Tokens per block of the identities by which a prefix cache knows equal text.
        ttft_slo_s, tpot_slo_s: Latency targets.
        priority_shares: How often requests have priority 0 (the first to be served), 1, ...; none of them has one where
            left out.

    >>> import numpy as np
    >>> spec = WorkloadSpec(
    ...     name="toy", source="made up for a test", arrivals={"kind": "poisson", "rate_per_s": 2.0},
    ...     prompt={"kind": "fixed", "tokens": 100}, output={"kind": "log_normal", "median": 50, "p90": 200},
    ... )
    >>> asked = generate(spec, 1000, np.random.default_rng(0))
    >>> len(asked), round(1000 / float(asked.arrival_s[-1]), 1)
    (1000, 2.0)
    """

    name: str = Field(min_length=1)
    source: str = Field(min_length=1)
    arrivals: Arrivals = Burst()
    prompt: Lengths
    output: Lengths
    shared_prefix_tokens: int = Field(default=0, ge=0, le=10_000_000)
    turns: Turns | None = None
    samples_per_prompt: int = Field(default=1, ge=1, le=10_000)
    block_tokens: int = Field(default=16, ge=1, le=65_536)
    ttft_slo_s: float | None = Field(default=None, gt=0)
    tpot_slo_s: float | None = Field(default=None, gt=0)
    priority_shares: tuple[Share, ...] = Field(default=(), max_length=1000)

    @model_validator(mode="after")
    def _one_structure(self) -> WorkloadSpec:
        if self.priority_shares and not abs(sum(self.priority_shares) - 1) < 1e-6:
            raise ValueError(f"priority_shares must sum to 1, not {sum(self.priority_shares):g}")
        if self.turns is not None and self.samples_per_prompt > 1:
            raise ValueError("samples_per_prompt must be 1 in conversations")
        if self.turns is not None and isinstance(self.arrivals, ClosedLoop):
            raise ValueError("arrivals must be open where there are turns: these already wait for their answers")
        return self


def load_workload(path: Path) -> WorkloadSpec:
    """A workload from a TOML file. Raises InputError naming the file, the key, the value and the limit."""
    return parse(WorkloadSpec, read_toml(path), path.name)


def generate(spec: WorkloadSpec, num_requests: int, rng: np.random.Generator) -> Requests:
    """``num_requests`` requests of a workload; the same as ``stream`` gives in pieces.

    Raises:
        InputError: for a number below 1.
    """
    return joined(list(stream(spec, num_requests, rng)))


def stream(spec: WorkloadSpec, num_requests: int, rng: np.random.Generator) -> Iterator[Requests]:
    """The requests in pieces of at most ``CHUNK`` arrivals, so that a long run holds only what is under way.

    Conversations overlap in time, so a workload of them comes as one piece.
    """
    if num_requests < 1:
        raise InputError("num_requests", "must be >= 1", num_requests)
    if spec.turns is not None:
        yield _conversations(spec, num_requests, rng)
        return
    if isinstance(spec.arrivals, ClosedLoop):
        yield _closed_loop(spec, num_requests, rng)
        return
    now, done = 0.0, 0
    while done < num_requests:
        num_prompts = ceil(min(CHUNK, num_requests - done) / spec.samples_per_prompt)
        first = np.cumsum(spec.arrivals.gaps(num_prompts, rng)) + now
        now = float(first[-1])
        piece = _alone(spec, first, done // spec.samples_per_prompt, num_requests - done, rng)
        done += len(piece)
        yield piece


def _alone(spec: WorkloadSpec, first: np.ndarray, number: int, most: int, rng: np.random.Generator) -> Requests:
    """Requests that know of no others but the samples of their own prompt."""
    prompts = np.repeat(spec.prompt.draw(len(first), rng) + spec.shared_prefix_tokens, spec.samples_per_prompt)
    arrival = np.repeat(first, spec.samples_per_prompt)
    outputs = spec.output.draw(len(arrival), rng)
    blocks = None
    if spec.samples_per_prompt > 1:
        owner = np.repeat(np.arange(number, number + len(first)), spec.samples_per_prompt)
        blocks = [_block_ids(spec, int(o), int(p)) for o, p in zip(owner[:most], prompts[:most], strict=True)]
    elif spec.shared_prefix_tokens >= spec.block_tokens:
        shared = tuple(range(spec.shared_prefix_tokens // spec.block_tokens))
        blocks = [shared] * min(most, len(arrival))
    return _requests(spec, arrival[:most], prompts[:most], outputs[:most], blocks, rng)


def _requests(
    spec: WorkloadSpec,
    arrival: np.ndarray,
    prompts: np.ndarray,
    outputs: np.ndarray,
    blocks: list[tuple[int, ...]] | None,
    rng: np.random.Generator,
    **columns: np.ndarray,
) -> Requests:
    slos = {n: np.full(len(arrival), v) for n in ("ttft_slo_s", "tpot_slo_s") if (v := getattr(spec, n)) is not None}
    if spec.priority_shares:
        shares = np.array(spec.priority_shares)
        columns["priority"] = rng.choice(len(shares), len(arrival), p=shares / shares.sum()).astype(np.float64)
    return Requests(arrival, prompts, outputs, prefix_blocks=blocks, block_tokens=spec.block_tokens, **slos, **columns)


def _block_ids(spec: WorkloadSpec, owner: int, tokens: int) -> tuple[int, ...]:
    """Identities of the whole blocks of ``tokens`` tokens: those of the shared prefix, then the owner's own.

    The owner's are odd and the shared ones even, so that they never meet.
    """
    shared, whole = spec.shared_prefix_tokens // spec.block_tokens, tokens // spec.block_tokens
    own = (((owner << 24) + place) * 2 + 1 for place in range(shared, whole))
    return (*(2 * place for place in range(min(shared, whole))), *own)


def _closed_loop(spec: WorkloadSpec, num_requests: int, rng: np.random.Generator) -> Requests:
    """Each user is a session; its requests stand alone but wait for the answer before."""
    assert isinstance(spec.arrivals, ClosedLoop)
    turn, user = np.divmod(np.arange(num_requests), spec.arrivals.num_users)
    prompts = spec.prompt.draw(num_requests, rng) + spec.shared_prefix_tokens
    blocks = None
    if spec.shared_prefix_tokens >= spec.block_tokens:
        blocks = [_block_ids(spec, 0, spec.shared_prefix_tokens)] * num_requests
    outputs = spec.output.draw(num_requests, rng)
    delay = np.where(turn > 0, spec.arrivals.think_s, 0.0)
    return _requests(spec, np.zeros(num_requests), prompts, outputs, blocks, rng, session=user, delay_s=delay)


def _conversations(spec: WorkloadSpec, num_requests: int, rng: np.random.Generator) -> Requests:
    """Conversations until there are ``num_requests`` turns; the last one may be cut short."""
    assert spec.turns is not None and not isinstance(spec.arrivals, ClosedLoop)
    num_turns = np.minimum(rng.geometric(1 / spec.turns.mean_turns, num_requests), spec.turns.max_turns)
    session = np.repeat(np.arange(num_requests), num_turns)[:num_requests]
    starts = np.cumsum(spec.arrivals.gaps(int(session[-1]) + 1, rng))
    turn = np.arange(num_requests) - np.searchsorted(session, session)
    added, outputs = spec.prompt.draw(num_requests, rng), spec.output.draw(num_requests, rng)
    said = np.cumsum(added + outputs) - outputs  # all prompts so far, this one in, and all answers before
    before_session = np.concatenate(([0], np.cumsum(added + outputs)))[np.searchsorted(session, session)]
    prompts = said - before_session + spec.shared_prefix_tokens
    delay = np.where(turn > 0, rng.exponential(spec.turns.think_s, num_requests) if spec.turns.think_s else 0.0, 0.0)
    blocks = [_block_ids(spec, int(s), int(p)) for s, p in zip(session, prompts, strict=True)]
    return _requests(spec, starts[session], prompts, outputs, blocks, rng, session=session, delay_s=delay)


def joined(pieces: list[Requests]) -> Requests:
    """Pieces of one workload as one."""
    first = pieces[0]
    if len(pieces) == 1:
        return first
    names = [field.name for field in fields(Requests) if field.name not in ("prefix_blocks", "block_tokens")]
    columns = {n: np.concatenate([getattr(p, n) for p in pieces]) for n in names if getattr(first, n) is not None}
    blocks = None
    if first.prefix_blocks is not None:
        blocks = [ids for piece in pieces for ids in piece.prefix_blocks or ()]
    return Requests(**columns, prefix_blocks=blocks, block_tokens=first.block_tokens)


def fixed(prompt_tokens: int, output_tokens: int, arrivals: Arrivals, name: str = "fixed lengths") -> WorkloadSpec:
    """Every request alike: what most published load tests send."""
    prompt, output = Fixed(tokens=prompt_tokens), Fixed(tokens=output_tokens)
    return WorkloadSpec(name=name, source="given", arrivals=arrivals, prompt=prompt, output=output)
