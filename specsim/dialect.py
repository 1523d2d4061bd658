"""What an inference engine can express: drafters, tree shapes, schedules by batch size, and how it counts. Data.

An engine's words change from version to version, so every row names the versions it was read from, and a version
outside all rows is refused: a guess would start a server that does something else than what was predicted.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from pydantic import Field, model_validator

from specsim.dialects_known import ROWS
from specsim.documents import Document
from specsim.errors import InputError
from specsim.tree import MAX_NODES, DraftTree

DrafterKind = Literal["none", "draft_model", "eagle", "eagle3", "mtp", "medusa", "ngram"]
EngineName = Literal[
    "vllm", "sglang", "tensorrt-llm", "llama.cpp", "transformers", "lmdeploy", "mlc-llm", "aiconfigurator"
]


class TopkTree(Document):
    """A tree that the engine grows at run time: ``topk`` children per frontier node, the best ``num_nodes - 1`` kept.

    Args:
        steps: Depth, the number of draft steps S.
        topk: Children per expanded node k, and frontier nodes kept per step; 1 would be a chain.
        num_nodes: Nodes verified N, root included, at most ``capacity(steps, topk)``.

    Source: SGLang 0.5.23 ``eagle_utils.py`` (``torch.topk`` over all candidates keeps ``num_draft_token - 1``);
    Li et al. 2024, EAGLE-2 (arXiv:2406.16858), section 4.
    """

    steps: int = Field(ge=1, le=MAX_NODES)
    topk: int = Field(ge=2, le=MAX_NODES)
    num_nodes: int = Field(ge=2, le=MAX_NODES)

    @model_validator(mode="after")
    def _fits(self) -> TopkTree:
        most = topk_capacity(self.steps, self.topk)
        if self.num_nodes > most:
            raise ValueError(f"num_nodes must be <= 1 + k + (S-1) k^2 = {most}")
        return self


def topk_capacity(steps: int, topk: int) -> int:
    """Most nodes, root included, that S steps of top-k growth can offer: 1 + k + (S-1) k^2.

    The first step gives k candidates, each later one k children for each of k frontier nodes.

    >>> topk_capacity(steps=3, topk=4), topk_capacity(steps=5, topk=1)
    (37, 6)
    """
    return 1 + topk + (steps - 1) * topk**2


class Dialect(Document):
    """What one engine accepts over a range of its versions.

    Args:
        engine: Engine name.
        first_version, last_version: Inclusive; both ends were read. ``0.33`` holds for every ``0.33.*``. Where an
            engine has no release numbers, the commit that was read, and no other.
        methods: The engine's own word for each drafter that it supports.
        tree: ``none`` (chains only) or ``topk`` (grown at run time, given as a triple of steps, topk, nodes).
        tree_drafters: Drafters that may use such a tree.
        max_topk_nodes_per_level: Draft nodes of such a tree per level and topk; None where only its capacity bounds it.
        schedule: Form of a draft length by batch size: ``none``, ``ranges`` (inclusive triples), ``slots`` (keyed by
            the first batch size of each tier), ``upper_bounds`` (keyed by the last) or ``off_above`` (one length up to
            a batch size, none beyond).
        schedule_drafters: Drafters that may use a schedule.
        counts_root: Whether the engine's number of draft tokens counts the root.
        captured_batches: Rule for captured graph sizes that a schedule's batch size is rounded up to, as
            ``(first, last, step)``; empty when the schedule is read at the exact batch size.
        draft_tensor_parallel: ``target`` (the draft is always sharded like its target), ``one_or_target``, or ``one``.
        max_batch: Most sequences at once with which it speculates; None: any number.
        confidence_stop: Drafters that may stop at the first token that they give less than some probability.
        synthetic: What can be made of draft tokens whatever they say: ``rates`` by position, a mean ``length``, or
            ``none``.
        source: Where these facts were read.
    """

    engine: EngineName
    first_version: str
    last_version: str
    methods: dict[DrafterKind, str]
    tree: Literal["none", "topk"]
    tree_drafters: tuple[DrafterKind, ...] = ()
    max_topk_nodes_per_level: int | None = None
    schedule: Literal["none", "ranges", "slots", "upper_bounds", "off_above"]
    schedule_drafters: tuple[DrafterKind, ...] = ()
    counts_root: bool
    captured_batches: tuple[tuple[int, int, int], ...] = ()
    draft_tensor_parallel: Literal["target", "one_or_target", "one"]
    max_batch: int | None = None
    confidence_stop: tuple[DrafterKind, ...] = ()
    synthetic: Literal["rates", "length", "none"] = "none"
    source: str

    @property
    def name(self) -> str:
        """The engine and its versions, as a sentence names them."""
        last = "" if self.first_version == self.last_version else f" to {self.last_version}"
        return f"{self.engine} {self.first_version}{last}"

    @property
    def is_numbered(self) -> bool:
        """Whether the engine's versions are release numbers."""
        return "." in self.first_version

    def holds(self, version: str) -> bool:
        """Whether ``version`` lies in the range of this row."""
        if not self.is_numbered:
            return version == self.first_version
        release, last = parse_version(released(self.engine, version)), parse_version(self.last_version)
        return parse_version(self.first_version) <= release and release[: len(last)] <= last


DIALECTS: Final[tuple[Dialect, ...]] = tuple(Dialect.model_validate(row) for row in ROWS)


def dialect(engine: str, version: str) -> Dialect:
    """The row of ``engine`` that holds for ``version``.

    Raises:
        InputError: for an engine or a version that nobody has read, listing those known.

    >>> dialect("vllm", "0.33.0").methods["eagle3"], dialect("sglang", "0.5.23").counts_root
    ('eagle3', True)
    """
    rows = [row for row in DIALECTS if row.engine == engine]
    if not rows:
        raise InputError("engine", f"must be one of {', '.join(sorted({d.engine for d in DIALECTS}))}", engine)
    for row in rows:
        if row.holds(version):
            return row
    known = f"between {rows[0].first_version} and {rows[-1].last_version}"
    limit = f"must be {known if rows[0].is_numbered else rows[0].first_version}, whose options are known"
    raise InputError(f"{engine} version", limit, version)


def released(engine: str, version: str) -> str:
    """The release that a pre-release counts as, where all that changed before it was read; else ``version`` itself.

    TensorRT-LLM's newest line has release candidates only, all with the later meaning of its schedule; those of 1.3 lie
    on either side of the change and stay refused.

    >>> released("tensorrt-llm", "1.4.0rc1"), released("tensorrt-llm", "1.3.0rc5")
    ('1.4.0', '1.3.0rc5')
    """
    found = re.fullmatch(r"(1\.4\.\d+)rc\d+", version) if engine == "tensorrt-llm" else None
    return version if found is None else found[1]


def parse_version(text: str) -> tuple[int, ...]:
    """The release numbers of a version, compared as a tuple; post-releases and local builds count as their release.

    Pre-releases are refused: their options may be of either side.

    >>> parse_version("0.5.15.post1"), parse_version("v0.33.0+cu129")
    ((0, 5, 15), (0, 33, 0))
    """
    found = re.fullmatch(r"v?(\d{1,6}(?:\.\d{1,6}){1,3})(?:\.post\d+)?(?:\+[\w.]+)?", text, re.ASCII)
    if found is None:
        raise InputError("version", "must be release numbers such as 0.33.0", text)
    return tuple(int(part) for part in found[1].split("."))


def expressible(dialect: Dialect, drafter: DrafterKind, tree: DraftTree | TopkTree) -> str | None:
    """Why ``dialect`` can not run this drafter with this tree; None where it can.

    >>> row = dialect("vllm", "0.33.0")
    >>> expressible(row, "eagle3", DraftTree((-1, 0, 1)))
    >>> expressible(row, "eagle3", DraftTree((-1, 0, 0)))
    'vllm 0.33 drafts chains only, and this tree is not one'
    """
    if isinstance(tree, DraftTree) and tree.num_drafted == 0:
        return None  # no speculation needs nothing of the engine, whatever the drafter
    if drafter not in dialect.methods:
        return f"{dialect.name} has no {drafter} drafter"
    if isinstance(tree, DraftTree) and is_plain_chain(tree):
        return None
    if dialect.tree == "none" or drafter not in dialect.tree_drafters:
        who = "" if dialect.tree == "none" else f" with the {drafter} drafter"
        return f"{dialect.name} drafts chains only{who}, and this tree is not one"
    if isinstance(tree, DraftTree):
        return f"{dialect.name} grows its trees at run time (steps, topk, nodes), and this one is fixed beforehand"
    most = most_topk_nodes(dialect, tree.steps, tree.topk)
    if tree.num_nodes > most:
        return f"{dialect.name} keeps at most {most} nodes (root in) of {tree.steps} steps of top-{tree.topk}"
    return None


def most_topk_nodes(dialect: Dialect, steps: int, topk: int) -> int:
    """Most nodes, root included, of a run-time tree in this dialect.

    >>> most_topk_nodes(dialect("tensorrt-llm", "1.4.0"), 3, 4), most_topk_nodes(dialect("sglang", "0.5.23"), 3, 4)
    (13, 37)
    """
    capacity, each = topk_capacity(steps, topk), dialect.max_topk_nodes_per_level
    return capacity if each is None else min(capacity, 1 + each * steps * topk)


def nearest(dialect: Dialect, drafter: DrafterKind, tree: DraftTree | TopkTree) -> DraftTree | TopkTree:
    """The tree that comes closest to ``tree`` among those ``dialect`` can run with ``drafter``.

    The tree itself where it is expressible, no speculation where the drafter is not; a branching tree becomes a chain
    of its depth, or the run-time tree of the same depth, widest branching and node count (within its capacity).
    What the change costs is for the caller to evaluate.

    >>> nearest(dialect("sglang", "0.5.23"), "eagle3", DraftTree((-1, 0, 0, 1, 1, 2)))
    TopkTree(steps=2, topk=2, num_nodes=6)
    """
    if expressible(dialect, drafter, tree) is None:
        return tree
    if drafter not in dialect.methods:
        return DraftTree.root_only()
    steps = tree.depth if isinstance(tree, DraftTree) else tree.steps
    if drafter not in dialect.tree_drafters:
        return DraftTree.chain(steps)
    topk = tree.topk if isinstance(tree, TopkTree) else min(max(tree.ranks) + 1, MAX_NODES)
    return TopkTree(steps=steps, topk=topk, num_nodes=min(tree.num_nodes, most_topk_nodes(dialect, steps, topk)))


def captured_below(dialect: Dialect, batch: int) -> int:
    """The largest captured graph size that is at most ``batch``, or ``batch`` where the engine does not round.

    >>> row = dialect("sglang", "0.5.23")
    >>> captured_below(row, 8), captured_below(row, 9), captured_below(row, 33)
    (8, 8, 32)
    """
    sizes = [
        min(last, batch) - (min(last, batch) - first) % step
        for first, last, step in dialect.captured_batches
        if first <= batch
    ]
    return max(sizes, default=batch)


def is_plain_chain(tree: DraftTree) -> bool:
    """Whether every token is the drafter's first choice after the one before: what engines call a chain."""
    return tree.is_chain and not any(tree.ranks)
