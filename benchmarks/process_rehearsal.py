"""What predictions of the token process are worth on rounds that it has not seen: errors, coverage of 90 % intervals.

    python benchmarks/process_rehearsal.py DATA [markov] [dirichlet] [sweeps] [profiles] [traces] [records=FOLDER]

DATA is a folder of published measurements (see ``docs/process.md``); ``records=`` one of executor records, a file
``DRAFTER-TEMPERATURE-POLICY.jsonl`` for each, request numbers from 1000 on being the prompts to predict. Without names,
all that need no records.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from process_worlds import Dirichlet, Markov

from specsim.acceptance.process_fit import FittedProcess, fit
from specsim.acceptance.process_seen import (
    Recorded,
    alike,
    seen_lengths,
    seen_records,
    seen_survival,
    seen_tokens,
)
from specsim.decoding import ConfidenceChain, Eagle2, OptTree, StaticTree, TreePolicy
from specsim.records import load_records
from specsim.sim.rounds_predict import Measured, Prediction, predict_tokens
from specsim.tree import DraftTree
from specsim.trees_known import EAGLE_25

CHAIN = DraftTree.chain
SAME = Measured(same_requests=True)
BUSHY = DraftTree.from_widths((3, 2, 2, 1))


class Case(NamedTuple):
    """One prediction beside what was measured."""

    source: str
    task: str
    truth: float
    said: Prediction

    def told(self) -> Case:
        """Itself, having been printed."""
        print(
            f"  {self.source}; {self.task}: {self.truth:.3f} in {self.said.low:.3f}..{self.said.high:.3f}", flush=True
        )
        return self

    @property
    def error(self) -> float:
        return self.said.mean / self.truth - 1

    @property
    def is_covered(self) -> bool:
        return self.said.low <= self.truth <= self.said.high


def sweeps(data: Path) -> Iterator[Case]:
    """Chains of several lengths on the same prompts, one per source, target, drafter and text."""
    found: dict[tuple[str, ...], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in csv.DictReader((data / "calibrate.csv").open()):
        length = re.search(r"chain,? ?(?:k=|n-max=)?(\d+)", row["k_or_tree"])
        if not length or not row["mean_tokens_per_step"] or row["tier"] == "X":
            continue
        draft_len, tokens = int(length[1]), float(row["mean_tokens_per_step"])
        if 1 < tokens <= draft_len + 1:
            key = row["row_id"].split("-")[0], row["target_model"], row["draft"], row["context_or_dataset"]
            found[key][row["batch_size"]][draft_len] = tokens
    for key, by_load in found.items():
        by_len = max(by_load.values(), key=len)
        lengths = sorted(by_len)
        short = [k for k in lengths if k <= 3]
        tasks = {"k <= 3, longer": (short, [k for k in lengths if k > 3])} if len(short) > 1 else {}
        tasks |= {"shortest, longer": (lengths[:1], lengths[1:]), "longest, shorter": (lengths[-1:], lengths[:-1])}
        for task, (given, asked) in tasks.items():
            if given and asked:
                fitted = fit([seen_tokens(by_len[k], CHAIN(k)) for k in given])
                for k in asked:
                    yield Case(key[0], task, by_len[k], predict_tokens(fitted, CHAIN(k), "greedy", measured=SAME))


def profiles(data: Path) -> Iterator[Case]:
    """Survival by position: of its first three positions the rest, and shorter chains from all of it."""
    known = json.loads((data / "traces/acceptance_profiles.json").read_text())
    sweep = known["k_sweep_same_prompts"]
    same = {
        "swiss-EAGLEe3-k7-opb-C1": "EAGLE-3.1 e3, opb, C=1 (MAT by k)",
        "swiss-DSpark-k7-opb-C1": "DSpark e10, opb, C=1",
    }
    same["swiss-DSpark-k7-chat-C8"] = "DSpark e10, chat"
    for one in known["profiles"]:
        survival = one["survival"]
        fitted = fit([seen_survival(survival[:3], num_rounds=one["drafts"], draft_len=7)])
        said = predict_tokens(fitted, CHAIN(7), "greedy", measured=SAME)
        yield Case(one["id"], "first 3 positions, k = 7", 1 + sum(survival), said)
        fitted = fit([seen_survival(survival, num_rounds=one["drafts"])])
        for k, tokens in sweep.get(same.get(one["id"], ""), {}).items():
            if int(k) < 7:
                said = predict_tokens(fitted, CHAIN(int(k)), "greedy", measured=SAME)
                yield Case(one["id"], "k = 7 by position, shorter", float(tokens), said)


def traces(data: Path, num_splits: int = 12) -> Iterator[Case]:
    """Recorded lengths of rounds: other prompts, of the same texts and of another kind of text."""
    eagle = [json.loads(line) for line in (data / "traces/specbench_yukiki_vicuna7b_eagle.jsonl").open()]
    rest = [json.loads(line) for line in (data / "traces/rest_mtbench_vicuna7b_v1.5_a6000_rest.jsonl").open()]
    rng = np.random.default_rng(0)
    longest = max(max(row["accept_lengths"]) for row in rest)
    for name, rows, tree in (("EAGLE, Spec-Bench", eagle, EAGLE_25), ("REST, MT-bench", rest, CHAIN(longest - 1))):
        lengths = [[min(n - 1, tree.depth) for n in row["accept_lengths"]] for row in rows if row["accept_lengths"]]
        for _ in range(num_splits):
            for num in (8, 30):
                order = rng.permutation(len(lengths))
                seen, unseen = [lengths[i] for i in order[:num]], [lengths[i] for i in order[num : 2 * num]]
                rounds = [n for one in unseen for n in one]
                fitted = fit([seen_lengths(seen, tree)])
                measured = Measured(alike(unseen), len(rounds) // alike(unseen))
                said = predict_tokens(fitted, tree, "greedy", measured=measured)
                yield Case(name, f"{num} prompts, {num} others", 1 + float(np.mean(rounds)), said)


def markov(num_worlds: int = 60) -> Iterator[Case]:
    """Chains of 1 to 3, then 7, on the same requests and on others."""
    for world in range(num_worlds):
        rng = np.random.default_rng(world)
        truth = Markov.random(rng)
        seen = [seen_lengths(truth.lengths(k, 60, 24, rng), CHAIN(k)) for k in (1, 2, 3)]
        fitted = fit(seen)
        for k in (5, 7):
            lengths = truth.lengths(k, 60, 24, rng)
            said = predict_tokens(fitted, CHAIN(k), "greedy", measured=Measured(24, 60))
            yield Case("two regimes", f"k <= 3, k = {k} of others", 1 + float(np.mean(lengths)), said)


POLICIES: dict[str, TreePolicy] = {
    "chain 7": StaticTree(CHAIN(7)),
    "34 nodes": StaticTree(BUSHY),
    "EAGLE-2, 16": Eagle2(4, 4, 16),
    "EAGLE-2, 40": Eagle2(8, 6, 40),
    "chain to 8 while sure": ConfidenceChain(8, 0.4, "token", "top"),
    "OPT-Tree, 24": OptTree(24, 0.3, 6),
}


def dirichlet(num_worlds: int = 10) -> Iterator[Case]:
    """Records of chains of 1 to 3 (with how sure the drafter was), or of a bushy tree; other policies on others."""
    for number in range(num_worlds):
        rng = np.random.default_rng(1000 + number)
        world, temperature = Dirichlet.random(rng), float(number % 3 == 2)
        rule = "one_hot" if temperature else "greedy"
        trees = {"chains 1 to 3": [CHAIN(k) for k in (1, 2, 3)], "bushy tree": [DraftTree.from_widths((3, 2, 2))]}
        for task, given in trees.items():
            parts = [
                Recorded(tree, world.rounds(StaticTree(tree), temperature, 40, 24, rng)[1], temperature, False)
                for tree in given
            ]
            fitted = fit([seen_records(part) for part in parts])
            for name, policy in POLICIES.items():
                lengths, _ = world.rounds(policy, temperature, 40, 40, rng)
                said = predict_tokens(fitted, policy, rule, temperature=temperature, measured=Measured(40, 40))
                yield Case(f"Dirichlet, T={temperature:g}", f"{task}: {name}", 1 + float(np.mean(lengths)), said)


def records(folder: Path) -> Iterator[Case]:
    """Executor records: some trees on some prompts, all policies on others."""
    policies = POLICIES | {
        "chain1": StaticTree(CHAIN(1)), "chain2": StaticTree(CHAIN(2)), "chain3": StaticTree(CHAIN(3)),
        "chain7": StaticTree(CHAIN(7)), "tree322": StaticTree(BUSHY), "eagle2b": Eagle2(8, 6, 40),
        "conf": POLICIES["chain to 8 while sure"], "opt": OptTree(24, 0.3, 6),
    }  # fmt: skip
    policies |= {f"schain{k}": StaticTree(CHAIN(k), "sampled") for k in (1, 2, 3, 7)}
    policies["stree322"] = StaticTree(DraftTree.from_widths((3, 2, 2)), "sampled")
    found = {path.stem: list(load_records(path)) for path in sorted(folder.glob("*.jsonl"))}
    for drafter, heat in sorted({tuple(name.split("-")[:2]) for name in found}):
        temperature = float(heat)
        mine = {name.split("-")[2]: rows for name, rows in found.items() if name.startswith(f"{drafter}-{heat}-")}
        short = [f"chain{k}" for k in (1, 2, 3)] if temperature == 0 else [f"schain{k}" for k in (1, 2, 3)]
        given = {"chains 1 to 3": short, "bushy tree": ["tree322"] if temperature == 0 else ["stree322"]}
        for task, names in given.items():
            if not all(name in mine for name in names):
                continue
            parts = []
            for name in names:
                policy = policies[name]
                assert isinstance(policy, StaticTree)
                rows = [row for row in mine[name] if row.request < 1000]
                parts.append(seen_records(Recorded(policy.tree, rows, temperature, policy.draw != "top")))
            fitted = fit(parts)
            yield from _of_records(f"{drafter}, T={heat}", task, fitted, mine, policies, temperature)


def _of_records(source, task, fitted: FittedProcess, mine, policies, temperature) -> Iterator[Case]:  # type: ignore[no-untyped-def]
    for name, rows in mine.items():
        other = [row for row in rows if row.request >= 1000]
        if not other:
            continue
        draw = policies[name].draw
        chain = name.startswith("schain")
        rule = (
            "greedy"
            if temperature == 0
            else "one_hot"
            if draw == "top"
            else "token_rejection"
            if chain
            else "recursive_rejection"
        )
        num = len({row.request for row in other})
        said = predict_tokens(
            fitted, policies[name], rule, temperature=temperature, measured=Measured(num, len(other) // num)
        )
        yield Case(source, f"{task}: {name}", float(np.mean([row.num_emitted for row in other])), said)


def table(cases: list[Case]) -> None:
    """By source and task."""
    groups: dict[tuple[str, str], list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.source, case.task].append(case)
    print(f"{'source':<28} {'task':<38} {'cases':>5} {'bias':>7} {'error':>6} {'worst':>6} {'width':>6} {'covered':>7}")
    for (source, task), some in [*groups.items(), (("all", ""), cases)]:
        errors = np.array([case.error for case in some])
        width = np.mean([(case.said.high - case.said.low) / 2 / case.said.mean for case in some])
        covered = np.mean([case.is_covered for case in some])
        print(
            f"{source[:28]:<28} {task:<38} {len(some):5} {errors.mean():+7.1%} {abs(errors).mean():6.1%}"
            f" {abs(errors).max():6.1%} {width:6.1%} {covered:7.0%}", flush=True,
        )  # fmt: skip


def main() -> None:
    data, names = Path(sys.argv[1]), sys.argv[2:] or ["markov", "dirichlet", "sweeps", "profiles", "traces"]
    for name in names:
        print(f"\n{name}", flush=True)
        if name.startswith("records="):
            cases = [case.told() for case in records(Path(name.removeprefix("records=")))]
        elif name in ("markov", "dirichlet"):
            cases = [case.told() for case in {"markov": markov, "dirichlet": dirichlet}[name]()]
        else:
            cases = list({"sweeps": sweeps, "profiles": profiles, "traces": traces}[name](data))
        table(cases)


if __name__ == "__main__":
    main()
