"""One model server: engine steps in which every running sequence plays one round."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy

from specsim.acceptance.emitted import node_accept_probs
from specsim.acceptance.requests import RoundSampler
from specsim.methods.round import Situation, play
from specsim.records import RoundRecord, round_record
from specsim.scenario import Deployment
from specsim.tree import DraftTree
from specsim.work import HostWork, Pass, Role, Work


@dataclass
class Sequence:
    """A request on its way.

    Args:
        request: Its number.
        context_tokens: Tokens in the target's cache (once prefilled); the newest token, the root, is not among them.
        missing_tokens: Tokens still to come out.
        pending_tokens: Tokens that the drafter has not seen, the root included: all that the last round emitted.
    """

    request: int
    context_tokens: int
    missing_tokens: int
    pending_tokens: int = 1


class Replica:
    """A server of one deployment, with one draft configuration.

    Args:
        env: The clock.
        deployment: What prices work, and how often drafts are kept.
        tree: What each round drafts.
        max_running: Sequences that share a step.
        rng: Source of the requests' natures, and of the rounds' outcomes: one number per sequence and step.

    Raises:
        InputError: for a tree that the acceptance can not judge.

    Attributes:
        waiting: Requests not yet admitted, first come first served.
        records: Rounds that are over; a run that was interrupted keeps them.
        prefill_s: Time spent on prompts. It delays every running sequence and is part of nobody's round.
    """

    def __init__(
        self,
        env: simpy.Environment,
        deployment: Deployment,
        tree: DraftTree,
        max_running: int,
        rng: np.random.Generator,
    ) -> None:
        self.sampler = RoundSampler(tree, deployment.acceptance)
        self.env, self.deployment, self.tree, self.max_running, self.rng = env, deployment, tree, max_running, rng
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._states = self.sampler.requests(rng, 0, equal="tokens")  # row by row those of ``running``
        self.records: list[RoundRecord] = []
        self.prefill_s = 0.0
        self._ranks_to = ((), *tree.paths())
        self._accept_prob = tuple(node_accept_probs(tree, deployment.acceptance).tolist())

    def serve(self) -> Iterator[Any]:
        """The server's process: admit, prefill, step, until nobody is left."""
        while self.waiting or self.running:
            if prompts := self._admit():
                spent = sum(self._seconds(work) for work in self._prefill(prompts))
                self.prefill_s += spent
                yield self.env.timeout(spent)
            works = [(work, self._seconds(work)) for work in self._step()]
            yield self.env.timeout(sum(seconds for _, seconds in works))
            self._emit(works)

    def _admit(self) -> list[Sequence]:
        room = min(self.max_running - len(self.running), len(self.waiting))
        admitted = [self.waiting.popleft() for _ in range(room)]
        self.running += admitted
        # Requests end by their tokens, so hard ones play more rounds: natures are drawn for equal tokens.
        self._states = self._states.joined(self.sampler.requests(self.rng, room, equal="tokens"))
        return admitted

    def _prefill(self, admitted: list[Sequence]) -> Iterator[Work]:
        """Prompts through the target, and through a drafter that has its own cache, all in one step."""
        prompts = [float(s.context_tokens) for s in admitted if s.context_tokens]
        if not prompts:
            return
        drafts = self.tree.num_drafted and self.deployment.drafting == "autoregressive"
        roles: tuple[Role, ...] = ("target", "draft") if drafts else ("target",)
        for role in roles:
            yield Pass(role, "prefill", prompts, 0.0)
        yield HostWork("step")

    def _step(self) -> Iterator[Work]:
        contexts = [float(s.context_tokens) for s in self.running]
        pending = [float(s.pending_tokens) for s in self.running]
        return play(self.tree, Situation(contexts, pending), self.deployment.drafting)

    def _emit(self, works: list[tuple[Work, float]]) -> None:
        """Draw how each round ended; its time is the whole step's, which every sequence waited for."""
        nodes = self.sampler.draw(self.rng, self._states)
        for sequence, node in zip(self.running, nodes, strict=True):
            accepted = self._ranks_to[node]
            record = round_record(
                works,
                "model",
                request=sequence.request,
                method=self.tree.label,
                context_tokens=sequence.context_tokens,
                num_drafted=self.tree.num_drafted,
                accepted_ranks=accepted,
                num_emitted=len(accepted) + 1,
                accept_prob=self._accept_prob,
            )
            self.records.append(record)
            sequence.context_tokens += record.num_emitted
            sequence.missing_tokens -= record.num_emitted
            sequence.pending_tokens = record.num_emitted
        going = [row for row, sequence in enumerate(self.running) if sequence.missing_tokens > 0]
        self.running = [self.running[row] for row in going]
        self._states = self._states.kept(np.array(going, dtype=np.int64))

    def _seconds(self, work: Work) -> float:
        return float(np.max(self.deployment.cost.price(work).time_s))
