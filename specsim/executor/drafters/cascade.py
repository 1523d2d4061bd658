"""A cascade: the drafter's own tokens come from speculative decoding of a middle model by a smaller drafter."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import torch

from specsim.decoding import DraftState
from specsim.decoding.arrays import PADDING
from specsim.errors import InputError
from specsim.executor.cache import KvCache, TailMask
from specsim.executor.drafters.base import Drafter, Extra, Frontier, Prompt, Verified
from specsim.executor.drafters.heads import padded
from specsim.executor.drafters.lookup import PromptLookup
from specsim.executor.llama import Llama
from specsim.executor.masks import RunNodes, only_root
from specsim.executor.method import as_tensor, on_host
from specsim.methods.round import Drafting


@dataclass
class _Row:
    """One text's round: every node that anybody drafted, and what the middle model answered after those it ran.

    ``laws`` holds for each the logits of its pass, and its row and place in them. ``slots`` says which slot of the
    round each took in the middle model's cache, after ``num_before`` slots of text that it had not run; ``of_pool``
    which node stands for a node of the policy's pool.
    """

    tokens: list[int]
    num_before: int
    parents: list[int] = field(default_factory=lambda: [-1])
    laws: dict[int, tuple[torch.Tensor, int, int]] = field(default_factory=dict)
    slots: dict[int, int] = field(default_factory=dict)
    run_by_small: list[int] = field(default_factory=list)
    of_pool: dict[int, int] = field(default_factory=lambda: {0: 0})

    def child(self, parent: int, token: int) -> int:
        """The node of this token after that node, made where it is new."""
        for node in range(parent + 1, len(self.tokens)):
            if self.parents[node] == parent and self.tokens[node] == token:
                return node
        self.tokens.append(token)
        self.parents.append(parent)
        return len(self.tokens) - 1

    def found(self, state: DraftState, row: int, pool_node: int) -> int:
        """The node that stands for one of the policy's pool."""
        if pool_node not in self.of_pool:
            parent = self.found(state, row, int(state.parents[row, pool_node]))
            self.of_pool[pool_node] = self.child(parent, int(state.tokens[row, pool_node]))
        return self.of_pool[pool_node]

    def fed(self, pending: list[int], new: list[int], num_old: int) -> list[tuple[int, int, list[int]]]:
        """What the middle model runs after ``num_old`` slots of the round: token, offset after its text, slots seen."""
        before = [] if num_old else [(pending[n], n, list(range(n + 1))) for n in range(self.num_before)]
        found = list(before)
        for node in new:
            self.slots[node] = num_old + len(found)
            path = self.path(node)
            slots = [*range(self.num_before), *(self.slots[n] for n in path)]
            found.append((self.tokens[node], self.num_before + len(path) - 1, slots))
        return found

    def depth(self, node: int) -> int:
        """How far below the root."""
        return len(self.path(node)) - 1

    def path(self, node: int) -> list[int]:
        """Nodes from the root down to this one."""
        path = [node]
        while path[-1]:
            path.append(self.parents[path[-1]])
        return path[::-1]


class Cascade:
    """A model whose passes also run ``num_ahead`` tokens that a smaller drafter expects to be asked for next.

    The law it gives is the middle model's own, so it proposes what that model alone would: the smaller drafter saves
    passes of the middle one, where its guess is what the policy then chooses, and changes nothing else. That makes each
    level exact, greedy or sampled: a guess is kept when it is the token drawn, as in the one-hot rule. The smaller
    drafter may be a cascade too, a lookup (Spector and Re draft with n-grams), or any other that needs no features.

    Args:
        middle: The model that drafts for the target.
        small: What drafts for the middle model; asked for chains.
        num_ahead: Tokens guessed at a time.

    Attributes:
        num_passes: Passes that the middle model has made since ``start``, its prefill left out.

    Raises:
        InputError: for num_ahead below 1, or a smaller drafter that reads features.

    Source: Spector and Re 2023 (arXiv:2308.04623), the speculation of the draft model there.
    """

    drafting: Final[Drafting] = "autoregressive"
    max_depth: Final = None
    needs_features: Final = False

    def __init__(self, middle: Llama, small: Drafter, num_ahead: int) -> None:
        if num_ahead < 1:
            raise InputError("num_ahead", "must be >= 1", num_ahead)
        if small.needs_features:
            limit = "must not read the target's features: it drafts for the middle model"
            raise InputError("small", limit, type(small).__name__)
        self.middle, self.small, self.num_ahead = middle, small, num_ahead
        self.needs_prompt_logits: bool = small.needs_prompt_logits
        self.cache: KvCache
        self._seen_by_small: RunNodes
        self.pending: list[list[int]] = []
        self.rows: list[_Row] = []
        self.num_passes = 0

    @property
    def max_context_tokens(self) -> int | None:
        own, other = self.middle.shape.max_context_tokens, self.small.max_context_tokens
        return (own if other is None else min(own, other)) - self.num_ahead

    @property
    def pending_tokens(self) -> list[int]:
        return [len(tokens) for tokens in self.pending]

    def start(self, prompt: Prompt) -> None:
        texts = [tokens[:-1] for tokens in prompt.tokens]
        capacity = min(max(prompt.cache.capacity, *map(len, texts), 1), self.middle.shape.max_context_tokens)
        self.cache = self.middle.new_cache(capacity, len(texts))
        if any(texts):
            self.middle.prefill(padded(texts, self.middle.device), self.cache)
            self.cache.keep([list(range(len(text))) for text in texts])
        self.small.start(prompt)
        self.pending, self.rows, self.num_passes = [tokens[-1:] for tokens in prompt.tokens], [], 0

    def law(self, frontier: Frontier) -> torch.Tensor:
        state = frontier.state
        if not state.expanded.shape[1]:
            self.rows = [_Row(tokens[-1:], len(tokens) - 1) for tokens in self.pending]
        asked = [
            [row.found(state, number, node) if node >= 0 else 0 for node in nodes]
            for number, (row, nodes) in enumerate(zip(self.rows, state.frontier.tolist(), strict=True))
        ]
        missing = [
            [node for node in dict.fromkeys(nodes) if node not in row.laws]
            for row, nodes in zip(self.rows, asked, strict=True)
        ]
        if any(missing):
            guessed = self._guesses([nodes[0] if nodes else None for nodes in missing])
            self._run([nodes + more for nodes, more in zip(missing, guessed, strict=True)])
        found = [row.laws[node] for row, nodes in zip(self.rows, asked, strict=True) for node in nodes]
        laws = torch.stack([logits[number, place] for logits, number, place in found])
        return laws.view(len(asked), -1, laws.shape[-1])

    def _guesses(self, after: list[int | None]) -> list[list[int]]:
        """Per row the chain that the smaller drafter expects after this node, fewer where it has nothing to say."""
        plans = [
            [] if node is None else [n for n in row.path(node) if n not in row.run_by_small]
            for row, node in zip(self.rows, after, strict=True)
        ]
        found: list[list[int]] = [[] for _ in plans]
        while any(plans):
            nodes = [plan.pop(0) if plan else -1 for plan in plans]
            expected = self._expected(nodes)
            for number, (row, node) in enumerate(zip(self.rows, nodes, strict=True)):
                if node < 0 or plans[number] or (token := expected[number]) is None:
                    continue
                found[number].append(row.child(node, token))
                if len(found[number]) < self.num_ahead:
                    plans[number].append(found[number][-1])
        return found

    def _expected(self, nodes: list[int]) -> list[int | None]:
        """The smaller drafter's best token after one node per row, None where it has nothing to say."""
        if isinstance(self.small, PromptLookup):  # whose law is one token: to spell it out takes longer than to ask
            for row, node in zip(self.rows, nodes, strict=True):
                row.run_by_small.append(node)
            return [
                None if node < 0 else self.small.expected(number, [row.tokens[n] for n in row.path(node)[1:]])
                for number, (row, node) in enumerate(zip(self.rows, nodes, strict=True))
            ]
        laws = on_host(self._small_laws(nodes))
        best, is_even = laws.argmax(-1).tolist(), (laws == laws[:, :1]).all(-1).tolist()
        return [None if even else token for token, even in zip(best, is_even, strict=True)]

    def _small_laws(self, nodes: list[int]) -> torch.Tensor:
        """The smaller drafter's logits ``[B, V]`` after one node per row, -1 for rows that ask nothing."""
        state, device, mask = self._state(nodes), self.middle.device, None
        if self.small.drafting != "lookup":  # which runs no model, so that nothing of it sees anything
            if not state.expanded.shape[1]:
                self._seen_by_small = only_root(state.frontier)
            else:
                self._seen_by_small = self._seen_by_small.grown(state)
                mask = self.middle.mask(as_tensor(self._seen_by_small.seen[:, -1:, 1:]))
        tokens = [[row.tokens[max(node, 0)]] for row, node in zip(self.rows, nodes, strict=True)]
        depths = [[row.depth(node) if node >= 0 else 0] for row, node in zip(self.rows, nodes, strict=True)]
        asked = Frontier(state, torch.tensor(tokens, device=device), torch.tensor(depths, device=device), mask)
        for row, node in zip(self.rows, nodes, strict=True):
            row.run_by_small.append(node)
        return self.small.law(asked)[:, 0]

    def _state(self, frontier: list[int]) -> DraftState:
        """All nodes as the smaller drafter knows them."""
        most = max(len(row.tokens) for row in self.rows)
        return DraftState(
            parents=np.array([row.parents + [PADDING] * (most - len(row.parents)) for row in self.rows]),
            tokens=np.array([row.tokens + [0] * (most - len(row.tokens)) for row in self.rows]),
            probs=(ones := np.ones((len(self.rows), most), np.float32)),
            path_probs=ones,
            frontier=np.array(frontier)[:, None],
            num_draws=0,
            expanded=np.array([row.run_by_small for row in self.rows], dtype=np.int64),
        )

    def _run(self, nodes: list[list[int]]) -> None:
        """One pass of the middle model over these nodes of each row, parents first, and over text it has not run."""
        num_old = self.cache.end - self.cache.text_end
        fed = [
            row.fed(self.pending[number], new, num_old)
            for number, (row, new) in enumerate(zip(self.rows, nodes, strict=True))
        ]
        size, device = max(map(len, fed)), self.middle.device
        padded_fed = [of_row + [(0, 0, [num_old + n]) for n in range(len(of_row), size)] for of_row in fed]
        tokens, offsets = (np.array([[one[part] for one in of_row] for of_row in padded_fed]) for part in (0, 1))
        positions = offsets + np.array(self.cache.lengths)[:, None]
        mask = self._mask([[slots for *_, slots in of_row] for of_row in padded_fed], num_old + size)
        texts, at = torch.from_numpy(tokens).to(device), torch.from_numpy(positions).to(device)
        logits = self.middle.forward(texts, at, self.cache, mask)
        for number, (row, of_row, new) in enumerate(zip(self.rows, fed, nodes, strict=True)):
            begin = len(of_row) - len(new)
            row.laws.update({node: (logits, number, place) for place, node in enumerate(new, start=begin)})
        self.num_passes += 1

    def _mask(self, slots: list[list[list[int]]], num_slots: int) -> TailMask | None:
        """Who sees which slots of the round; None for one token per row that sees them all."""
        if all(len(of_row) == 1 and len(of_row[0]) == num_slots for of_row in slots):
            return None
        if num_slots == len(slots[0]) and all(
            of_row == [[*range(n + 1)] for n in range(num_slots)] for of_row in slots
        ):
            return self.middle.causal(num_slots)
        seen = np.zeros((len(slots), len(slots[0]), num_slots), dtype=bool)
        for number, of_row in enumerate(slots):
            for place, visible in enumerate(of_row):
                seen[number, place, visible] = True
        return self.middle.mask(torch.from_numpy(seen))

    def extra(self) -> Extra | None:
        return self.small.extra()

    def observe(self, verified: Verified) -> None:
        if not verified.state.expanded.shape[1]:
            self.pending = [old + new for old, new in zip(self.pending, verified.emitted, strict=True)]
            self.small.observe(verified)
            return
        kept, begin = [], self.cache.text_end
        nodes = [
            [row.found(verified.state, number, node) if node >= 0 else -1 for node in of_row]
            for number, (row, of_row) in enumerate(zip(self.rows, verified.nodes.tolist(), strict=True))
        ]
        for number, (row, path) in enumerate(zip(self.rows, verified.path, strict=True)):
            run = [row.slots[node] for tree_node in path if (node := nodes[number][tree_node]) in row.slots]
            kept.append([begin + slot for slot in [*range(row.num_before), *run]])
            self.pending[number] = verified.emitted[number][len(run) - 1 :]
        self.cache.keep(kept)
        state = self._state([-1] * len(nodes))
        self.small.observe(replace(verified, nodes=np.array(nodes), state=state))

    def keep_rows(self, rows: list[int]) -> None:
        self.cache.keep_rows(rows)
        self.small.keep_rows(rows)
        self.pending = [self.pending[row] for row in rows]
