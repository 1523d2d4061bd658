"""Running every method of the catalogue on the shipped models: recording, timing, measuring."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from specsim.decoding import Cast, StaticTree, TreePolicy
from specsim.errors import InputError
from specsim.methods.catalogue import DrafterName, NamedMethod, catalogue
from specsim.records import RoundRecord, TimedRound, save_records
from specsim.tree import DraftTree

if TYPE_CHECKING:
    from specsim.calibrate.method_times import PassTimes
    from specsim.cli.methods_resume import Journal
    from specsim.executor.drafters.base import Drafter
    from specsim.executor.method import Method
    from specsim.executor.rounds import Round
    from specsim.executor.session import Session

SEQUOIA_WIDTHS: Final = (3, 2, 2, 1, 1, 1, 1, 1)
"""Recorded for the search of Sequoia's tree, beside the trees of the catalogue."""

EXIT_LAYERS: Final = 1
Key = tuple[str, str]
"""A drafter and how children are drawn: what recorded drafts are good for."""


@dataclass(frozen=True)
class Plan:
    """How much is run. ``ffn_size`` is the MLP width that times are taken at; acceptance does not depend on it."""

    prompts: int
    tokens: int
    temperature: float
    seed: int
    out: Path
    ffn_size: int | None
    record_prompts: int
    record_tokens: int
    time_prompts: int
    journal: Journal


@dataclass
class Recorded:
    """Recorded rounds of one drafter and draw, with what they say of each static method.

    Attributes:
        tree: Verified in each round; every static tree of the methods is part of it.
        tokens: By method and prompt, expected tokens of each round.
        variances: By method, of each round, the variance of its tokens over the draws that accept them.
        pending: By method, of each round, the probability that its last accepted node was a leaf.
        path_probs: Of each node of the tree, mean over rounds.
        records: The rounds.
    """

    tree: DraftTree
    tokens: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    variances: dict[str, list[float]] = field(default_factory=dict)
    pending: dict[str, list[float]] = field(default_factory=dict)
    path_sums: Any = 0.0
    records: list[RoundRecord] = field(default_factory=list)

    @property
    def path_probs(self) -> Any:
        return self.path_sums / max(1, len(self.records))


class Bench:
    """The shipped models at two widths of the target: its own to record, a realistic one to time and measure."""

    def __init__(self, plan: Plan, methods: Sequence[NamedMethod]) -> None:
        from specsim.cli.measure import check_prompts, open_session

        self.plan, self.methods, self.is_interrupted = plan, methods, False
        facts: dict[str, Any] = {"seed": plan.seed, "temperature": plan.temperature}
        self.recording: Session = open_session("calibrate", ffn_size=None, **facts)
        self.timing: Session = open_session("calibrate", ffn_size=plan.ffn_size, **facts)
        self.measuring: Session = open_session("validate", ffn_size=plan.ffn_size, **facts)
        self.measuring.target = self.timing.target  # one copy of the wide weights
        check_prompts(self.measuring, plan.prompts)
        check_prompts(self.recording, max(plan.record_prompts, plan.time_prompts))

    def drafter(self, name: DrafterName, session: Session) -> Drafter | None:
        """A drafter for the target of a session, nothing learnt yet."""
        from specsim.executor.choose import drafter_named
        from specsim.executor.drafters.itself import SelfDrafter, early_exit
        from specsim.executor.session import TINY

        if name == "none":
            return None
        if name == "exit":
            return SelfDrafter(session.target, early_exit(session.target.shape.num_layers, EXIT_LAYERS))
        return drafter_named(name, session.target, TINY / "target", None, TINY)

    def method(self, named: NamedMethod, policy: TreePolicy | None = None) -> Method:
        """As the executor takes it."""
        from specsim.executor.method import Method, Sampling

        chosen = policy or named.policy
        if isinstance(chosen, str):
            raise InputError("policy", "must be made before it runs", chosen)
        return Method(chosen, named.rule, Sampling(self.plan.temperature), dict(named.knobs))

    def rounds(self, named: NamedMethod, session: Session, drafter: Drafter | None, prompt: int, tokens: int) -> Run:
        """Decode after one prompt, round by round."""
        from specsim.executor.adaptive import decode_adaptive
        from specsim.executor.rounds import decode

        texts = session.start(drafter, prompt)
        begin = len(texts.tokens[0])
        if named.control is None:
            rounds = decode(texts, self.method(named), tokens, session.clock)
        else:
            rounds = decode_adaptive(texts, self.method(named), named.control, tokens, session.clock)
        return Run(rounds, lambda: (texts.tokens[0] if texts.tokens else texts.finished[0])[begin:])

    def greedy_text(self, prompt: int) -> list[int]:
        """A recorded prompt and what the target writes after it."""
        run = self.rounds(self.methods[0], self.recording, None, prompt, self.plan.record_tokens)
        for _ in run.rounds:
            pass
        return [*self.recording.prompts[prompt], *run.tokens()]

    def timed(self, named: NamedMethod, drafter: Drafter | None, prompt: int) -> list[TimedRound]:
        """Rounds with the time of each piece of work, as many tokens as will be measured: first rounds are slower."""
        found = self.rounds(named, self.timing, drafter, prompt, self.plan.tokens).rounds
        return [as_timed(done, named.name, prompt) for done in found]


@dataclass(frozen=True)
class Run:
    """Rounds that are decoded as they are asked for, and the new tokens so far."""

    rounds: Iterator[Round]
    tokens: Callable[[], list[int]]


def as_timed(done: Round, name: str, prompt: int) -> TimedRound:
    """A round with its record, which goes by the method's name."""
    from specsim.executor.recording import records_of

    record = records_of(done, "cpu")[0]
    return TimedRound(record.model_copy(update={"request": prompt, "method": name}), tuple(done.timed))


def record_trees(methods: Sequence[NamedMethod]) -> dict[Key, DraftTree]:
    """By drafter and draw, the tree that holds all static trees of the methods."""
    paths: dict[Key, set[tuple[int, ...]]] = {}
    for named in methods:
        if isinstance(named.policy, StaticTree) and named.policy.tree.num_drafted:
            paths.setdefault(key_of(named), set()).update(named.policy.tree.paths())
    for named in methods:
        if not isinstance(named.policy, StaticTree) and named.drafter != "recycling":
            extra = DraftTree.from_widths(SEQUOIA_WIDTHS) if named.policy == "Sequoia" else DraftTree.chain(4)
            paths.setdefault(key_of(named), set()).update(extra.paths())
    order = {key: sorted(found, key=lambda path: (len(path), path)) for key, found in paths.items()}
    return {key: DraftTree.from_paths(found) for key, found in order.items()}


def key_of(named: NamedMethod) -> Key:
    """What its drafts are recorded under."""
    return named.drafter, named.draw


def record(bench: Bench, key: Key, tree: DraftTree, methods: Sequence[NamedMethod], prompt: int, into: Recorded,
           drafter: Drafter | None) -> None:  # fmt: skip
    """Decode one prompt with the whole tree, and judge each method's part of it by the method's own rule."""
    from specsim.executor.expected import accepted_paths

    lossless = {
        "top": "one_hot", "sampled": "recursive_rejection",
        "sampled_with_replacement": "recursive_rejection_with_replacement",
    }  # fmt: skip
    rule: Any = "greedy" if bench.plan.temperature == 0 else lossless[key[1]]
    whole = NamedMethod(f"recorded {key[0]} {key[1]}", "-", key[0], StaticTree(tree, key[1]), rule)  # type: ignore[arg-type]
    node_of = {path: node for node, path in enumerate(tree.paths(), start=1)} | {(): 0}
    parts = [(m, [0, *(node_of[path] for path in m.tree.paths())]) for m in methods if m.tree and key_of(m) == key]
    found = []
    for done in bench.rounds(whole, bench.recording, drafter, prompt, bench.plan.record_tokens).rounds:
        found.append(as_timed(done, whole.name, prompt).record)
        into.path_sums = into.path_sums + accepted_paths(done, list(range(tree.num_nodes)), whole.rule, {})
        for named, nodes in parts:
            probs = accepted_paths(done, nodes, named.rule, named.knobs)
            assert named.tree is not None
            inner = set(named.tree.parents)
            leaves = [node for node in range(len(nodes)) if node not in inner]
            into.tokens.setdefault(named.name, {}).setdefault(prompt, []).append(float(probs.sum()))
            # Of a number that is above d with probability P(d), the mean square is the sum of (2 d + 1) P(d).
            square = float((probs * (2 * named.tree.depths + 1)).sum())
            into.variances.setdefault(named.name, []).append(max(square - float(probs.sum()) ** 2, 0.0))
            into.pending.setdefault(named.name, []).append(float(probs[leaves].sum()))
    into.records += found
    save_records(found, bench.plan.out / "methods.acceptance.jsonl")


def made_policy(named: NamedMethod, accept_prob: Any, target: PassTimes, draft: PassTimes, host_s: float) -> TreePolicy:
    """What a policy's name stands for, now that acceptance and times are known."""
    from specsim.search.exact.tree import best_tree
    from specsim.work import Pass

    verify = [float(target.time_s(Pass("target", "verify", [n], [200.0]))) + host_s for n in range(1, 17)]
    drafting = [float(draft.time_s(Pass("draft", "draft", [n], [200.0], 1.0, (1,)))) for n in range(1, 5)]
    if named.policy == "CAST":
        unit = verify[0]
        costs = tuple(d / unit for d in drafting), tuple(v / unit for v in verify)
        return Cast(top_k=3, max_depth=7, draft_cost=costs[0], verify_cost=costs[1], prices=None, recent=4)
    answer = best_tree(accept_prob, [drafting[1]] * len(accept_prob), verify, len(verify), len(accept_prob), "free")
    return StaticTree(answer.tree, "top")


def methods_of(temperature: float, only: Sequence[str] = ()) -> list[NamedMethod]:
    """The catalogue, or its methods of these names, plain decoding always in."""
    known = catalogue(temperature)
    unknown = [name for name in only if name not in {m.name for m in known}]
    if unknown:
        raise InputError("only", f"must be names of methods at temperature {temperature:g}", unknown[0])
    return [_known(named) for named in known if not only or named.name in only or named.drafter == "none"]


def _known(named: NamedMethod) -> NamedMethod:
    from specsim.executor.drafters.recycling import RECYCLING_80

    return replace(named, policy=StaticTree(RECYCLING_80, "top")) if named.policy == "Token Recycling" else named
