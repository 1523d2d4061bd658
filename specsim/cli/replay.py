"""``specsim replay``: what many policies would have done on texts that are recorded once."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from specsim.cli.output import AsJson, print_json, whole_numbers
from specsim.errors import InfeasibleError, InputError

if TYPE_CHECKING:
    from specsim.acceptance.replay import Forest, Superset
    from specsim.decoding import Rule, TreePolicy

    Case = tuple[str, TreePolicy, Rule]

Policies = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        help="chain N or widths A,B,.. (then sampled or block, if drafts are sampled), or as `generate` takes it.",
    ),
]
Record = Annotated[Path | None, typer.Option(help="Keep the recording in this folder; what is there already is read.")]
FromForest = Annotated[Path | None, typer.Option("--forest", help="Read this folder and run no model.")]
Texts = Annotated[int, typer.Option(min=1, help="Texts to record.")]
Tokens = Annotated[int, typer.Option(min=1, help="Positions recorded of each.")]
PromptTokens = Annotated[int, typer.Option(min=1, max=256, help="Tokens of each prompt, at most.")]
Temperature = Annotated[float, typer.Option(help="0 decodes greedily.")]
DrafterName = Annotated[str, typer.Option(help="model, eagle, medusa, skipped or lookup.")]
NumLaws = Annotated[int, typer.Option(min=1, help="Most probable nodes run at each position, policies apart.")]
MaxDepth = Annotated[int, typer.Option(min=1, help="Their depth.")]
NumChildren = Annotated[int, typer.Option(min=1, max=64, help="Candidates kept after each node run, at least.")]
Level = Annotated[float, typer.Option(help="Of the interval.")]
Seed = Annotated[int, typer.Option(min=0, help="Of sampling.")]

USUAL: Final = (
    "chain 0", "chain 2", "chain 4", "chain 6", "widths 3,2,1", "eagle2 top_k=4 depth=4 total_tokens=16",
    "opt_tree nodes=15 threshold=0.1 max_depth=5", "talon budget=15 mu=0.03 top_k=6 max_depth=5",
    "best_first budget=15 batch=4 max_passes=5", "confidence_chain draft_len=8 threshold=0.4 measure=token draw=top",
)  # fmt: skip
USUAL_SAMPLED: Final = (
    "chain 2 sampled", "chain 4 sampled", "chain 4 block", "widths 3,2,1 sampled",
    "confidence_chain draft_len=8 threshold=0.4 measure=token draw=sampled",
)  # fmt: skip
TAIL_TOKENS: Final = 8
NUM_DRAWS: Final = 4


def replay(
    policy: Policies = None,
    record: Record = None,
    forest: FromForest = None,
    texts: Texts = 6,
    tokens: Tokens = 48,
    prompt_tokens: PromptTokens = 48,
    temperature: Temperature = 0.0,
    drafter: DrafterName = "model",
    num_laws: NumLaws = 12,
    max_depth: MaxDepth = 6,
    num_children: NumChildren = 10,
    level: Level = 0.9,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Record texts of the shipped models once, and say what every policy would have drafted and kept on them.

    Exact where it can be, with the interval that few texts leave; bounds where a policy asks for nodes that were not
    recorded; refused, with the reason, where the recording can not tell.
    """
    from specsim.acceptance.replay import Superset, load_forest
    from specsim.decoding import check_sampling

    if forest is not None and record is not None:
        raise InputError("record", "must be left out where forest is given", str(record))
    if not 0 < level < 1:
        raise InputError("level", "must be between 0 and 1", level)
    check_sampling(temperature)
    if forest is not None:
        recorded = load_forest(forest)
        cases = cases_from(policy, recorded.facts.temperature)
    else:
        cases = cases_from(policy, temperature)
        sizes = {"texts": texts, "tokens": tokens, "prompt_tokens": prompt_tokens, "seed": seed}
        superset = Superset(num_laws, 2 * num_laws, max_depth, num_children)
        recorded = _recorded(cases, drafter, temperature, sizes, superset, record)
    rows = [_row(recorded, case, level) for case in cases]
    answer = {
        "settings": recorded.facts,
        "num_texts": len(recorded.texts),
        "num_positions": sum(len(text.roots) for text in recorded.texts),
        "level": level,
        "rows": rows,
    }
    if as_json:
        print_json("replay", answer)
    else:
        _show(answer)


def cases_from(words: list[str] | None, temperature: float) -> list[Case]:
    """Policies with their rules; where none are named, the usual ones.

    >>> [(name, rule) for name, _, rule in cases_from(["chain 2", "chain 2 block"], temperature=1.0)]
    [('chain 2', 'one_hot'), ('chain 2 block', 'block_verification')]
    """
    chosen = words or [*USUAL, *(USUAL_SAMPLED if temperature > 0 else ())]
    return [(name, *_policy(name, temperature)) for name in chosen]


def _policy(name: str, temperature: float) -> tuple[TreePolicy, Rule]:
    from specsim.decoding import StaticTree
    from specsim.executor.choose import policy_from, usual_rule
    from specsim.tree import DraftTree

    kind, *rest = name.split() or [""]
    if kind not in ("chain", "widths"):
        policy = policy_from(name)
        is_chain = name.startswith("confidence_chain")
        return policy, _rule(usual_rule(policy.draw, is_chain, temperature), policy.draw)
    if not 1 <= len(rest) <= 2 or rest[1:] not in ([], ["sampled"], ["block"]):
        raise InputError("policy", f"must be {kind}, its size, and perhaps sampled or block", name)
    if kind == "chain":
        tree = DraftTree.chain(whole_numbers("policy", rest[0], 0)[0])
    else:
        tree = DraftTree.from_widths(tuple(whole_numbers("policy", rest[0], 1)))
    if rest[1:] == ["block"]:
        if not tree.is_chain:
            raise InputError("policy", "must be a chain to be judged as a block", name)
        return StaticTree(tree, "sampled"), "block_verification"
    policy = StaticTree(tree, "sampled" if rest[1:] else "top")
    return policy, _rule(usual_rule(policy.draw, tree.is_chain, temperature), policy.draw)


def _rule(usual: Rule, draw: str) -> Rule:
    """At temperature 0 too a sampled draft is judged by the rule that suits it: greedy would refuse to be replayed."""
    return "recursive_rejection" if usual == "greedy" and draw != "top" else usual


def _recorded(
    cases: list[Case],
    drafter: str,
    temperature: float,
    sizes: dict[str, int],
    wide: Superset,
    folder: Path | None,
) -> Forest:
    from specsim.acceptance.replay import Forest
    from specsim.acceptance.replay.forest import ForestFacts
    from specsim.cli.measure import check_prompts, made_folder, open_session, progress
    from specsim.decoding import Cast
    from specsim.executor.choose import drafter_named
    from specsim.executor.forest import check_drafter, record_forest
    from specsim.executor.session import TINY

    session = open_session("validate", ffn_size=None, temperature=temperature, seed=sizes["seed"])
    check_prompts(session, sizes["texts"])

    def make() -> Any:
        return drafter_named(drafter, session.target, TINY / "target", None, TINY)

    first = make()
    check_drafter(first, session.target)
    policies = tuple(policy for _, policy, _ in cases if policy.draw == "top" and not isinstance(policy, Cast))
    depth = wide.max_depth if first.max_depth is None else min(wide.max_depth, first.max_depth)
    superset = replace(wide, max_depth=depth, policies=policies)
    tail = max([TAIL_TOKENS, *(policy.limits.depth for _, policy, _ in cases)])
    facts = ForestFacts(
        drafter=drafter, models="shipped", temperature=temperature, policies=tuple(map(str, policies)),
        num_laws=wide.num_laws, num_nodes=wide.num_nodes, num_children=wide.num_children, max_depth=depth,
        num_draws=NUM_DRAWS,
        output_tokens=sizes["tokens"] + tail, tail_tokens=tail, seed=sizes["seed"],
    )  # fmt: skip
    prompts = [prompt[: sizes["prompt_tokens"]] for prompt in session.prompts[: sizes["texts"]]]
    found = []
    with progress("Recording texts", len(prompts)) as advance:
        where = None if folder is None else made_folder(folder)
        for text in record_forest(session.target, make, prompts, superset, facts, where):
            found.append(text)
            advance()
    return Forest(facts, found)


def _row(forest: Forest, case: Case, level: float) -> dict[str, Any]:
    """One policy's answer; ``kind`` says which of the three it is."""
    from specsim.acceptance.replay import Exact, ReplayRefused, evaluate

    name, policy, rule = case
    row: dict[str, Any] = {"policy": name, "rule": rule}
    try:
        found = evaluate(forest, policy, rule, level)
    except ReplayRefused as refusal:
        return row | {"kind": "refused", "why": str(refusal)}
    kind = "exact" if isinstance(found, Exact) else "bounds"
    return row | {"kind": kind} | {key: value for key, value in asdict(found).items() if value is not None}


def _show(answer: dict[str, Any]) -> None:
    from specsim.report import show, table

    interval = f"{answer['level']:.0%} interval"
    columns = ("policy", "rule", "tokens/round", interval, "exact?", "nodes", "passes")
    facts = answer["settings"]
    title = (
        f"{answer['num_positions']} positions of {answer['num_texts']} texts at temperature {facts.temperature:g}, "
        f"drafter {facts.drafter}"
    )
    show(table(title, columns, [_cells(row) for row in answer["rows"]]))
    for row in answer["rows"]:
        if "why" in row:
            show(f"{row['policy']}: {row['why']}.")
    if all(row["kind"] == "refused" for row in answer["rows"]):
        raise InfeasibleError("nothing that was asked for can be replayed on this recording")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    start = (row["policy"], row["rule"].replace("_", " "))
    if row["kind"] == "refused":
        return (*start, "-", "-", "refused", "-", "-")
    if row["kind"] == "bounds":
        return (*start, f"{row['low']:.2f}-{row['high']:.2f}", "-", "bounds", "-", "-")
    spread = f"{row['low']:.2f}-{row['high']:.2f}"
    nodes, passes = (f"{row[key]:.1f}" if key in row else "-" for key in ("nodes", "passes"))
    return (*start, f"{row['value']:.3f}", spread, "exact", nodes, passes)
