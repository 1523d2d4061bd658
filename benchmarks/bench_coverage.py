"""How often the stated 90 % intervals hold what prompts not seen by the fit then show.

    SPECSIM_DATA=... python benchmarks/bench_coverage.py

Published traces: prompts are shuffled; the profile and its spread are fitted on some, and the mean tokens per round
over all rounds of the others is to fall into the interval stated for so many prompts. ``independent`` is the interval
of the same counts with every round taken as one of its own. Synthetic: the truth is known, and so is the law.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from specsim.acceptance import (
    AcceptanceProfile,
    PathTrie,
    RequestSpread,
    RoundSampler,
    Sample,
    emitted_distribution,
    fit_spread,
    profile_from_histogram,
    spread_from_totals,
    tokens_interval,
    tokens_per_round,
)
from specsim.acceptance.spread_fit import equal_requests
from specsim.tree import DraftTree

TRIALS = 300
LEVEL = 0.9


class Prompts(NamedTuple):
    """A trace: the tokens of each round of each prompt, or its rounds and tokens only."""

    name: str
    rounds: list[np.ndarray] | None
    num_rounds: np.ndarray
    num_emitted: np.ndarray


def traces(folder: Path) -> Iterator[Prompts]:
    """The published ones; turns of one question are one prompt."""
    for name, file in (
        ("EAGLE, Vicuna-7B, Spec-Bench", "specbench_yukiki_vicuna7b_eagle.jsonl"),
        ("REST, Vicuna-7B, MT-bench", "rest_mtbench_vicuna7b_v1.5_a6000_rest.jsonl"),
    ):
        lines = (folder / file).read_text().splitlines()
        # A round of 0 ends a turn in one of the files: nothing came of it.
        rounds = [np.array([n for n in json.loads(line)["accept_lengths"] if n > 0], float) for line in lines]
        rounds = [each for each in rounds if len(each)]
        yield Prompts(name, rounds, np.array([len(r) for r in rounds]), np.array([r.sum() for r in rounds]))
    for name, file, arm in (
        ("Medusa-1, Vicuna-7B, MT-bench", "medusa1_mtbench_vicuna_a100_perturn.csv", {"model": "7b", "run": "0"}),
        ("Medusa-1, Vicuna-13B, MT-bench", "medusa1_mtbench_vicuna_a100_perturn.csv", {"model": "13b", "run": "0"}),
        ("EAGLE, Llama-2-70B, MT-bench", "eagle_llama2chat70b_mtbench_perturn.csv", {"arm": "ea70"}),
    ):
        found: dict[str, list[float]] = {}
        with (folder / file).open() as table:
            for row in csv.DictReader(table):
                if all(row[key] == value for key, value in arm.items()):
                    sums = found.setdefault(row["qid"], [0.0, 0.0])
                    sums[0] += float(row["idx_last_step(0-based)"]) + 1
                    sums[1] += float(next(value for key, value in row.items() if key.startswith("new_tokens")))
        totals = np.array(list(found.values()))
        yield Prompts(name, None, totals[:, 0], totals[:, 1])


def fitted(prompts: Prompts, rows: np.ndarray, rng: np.random.Generator) -> AcceptanceProfile:
    """From these prompts alone."""
    rounds, tokens = prompts.num_rounds[rows], prompts.num_emitted[rows]
    if prompts.rounds is not None:
        chosen = [prompts.rounds[row] for row in rows]
        counts = np.bincount(np.concatenate(chosen).astype(int))[1:]
        found = fit_spread(chosen, rng)
        return replace(profile_from_histogram(counts), spread=found.spread, num_requests=found.num_equal)
    # Only totals: the law is taken as that of one rate, five deep, and the memory as on Spec-Bench.
    profile = AcceptanceProfile.from_tokens_per_round(tokens.sum() / rounds.sum(), 5, float(rounds.sum()))
    law = emitted_distribution(DraftTree.chain(5), profile)
    totals = spread_from_totals(rounds, tokens, law, 0.12, rng)
    return replace(profile, spread=totals.spread, num_requests=totals.num_equal)


def held_out(prompts: Prompts, num_fit: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """Share of shuffles in which the others' mean was inside, with the spread and without; mean width."""
    inside, naive, width = 0, 0, 0.0
    for _ in range(TRIALS):
        order = rng.permutation(len(prompts.num_rounds))
        seen, rest = order[:num_fit], order[num_fit:]
        profile = fitted(prompts, seen, rng)
        tree = DraftTree.chain(profile.max_depth)
        rounds = prompts.num_rounds[rest]
        mean = prompts.num_emitted[rest].sum() / rounds.sum()
        num = equal_requests(rounds)
        sample = Sample(max(1, round(num)), rounds.sum() / num)
        lo, _, hi = tokens_interval(tree, profile, LEVEL, rng, sample)
        inside += lo <= mean <= hi
        width += (hi - lo) / mean / TRIALS
        alone = tokens_interval(tree, replace(profile, spread=None), LEVEL, rng, sample)
        naive += alone.lo <= mean <= alone.hi
    return inside / TRIALS, naive / TRIALS, width


def synthetic(num_requests: int, num_rounds: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """Profile, trie and plain counts of simulated requests against the known mean."""
    truth = AcceptanceProfile.from_survival([0.85, 0.7, 0.5, 0.3, 0.2])
    tree = DraftTree.chain(5)
    pmf, tau = emitted_distribution(tree, truth), tokens_per_round(tree, truth)
    sampler = RoundSampler(tree, replace(truth, spread=RequestSpread.measured(0.6, 0.15, pmf)))
    inside = np.zeros(3)
    for _ in range(TRIALS):
        states = sampler.requests(rng, num_requests, equal="rounds")
        tokens = np.stack([sampler.tokens[sampler.draw(rng, states)] for _ in range(num_rounds)], axis=1)
        found = fit_spread(list(tokens), rng)
        counts = np.bincount(tokens.ravel(), minlength=7)[1:]
        plain = profile_from_histogram(counts)
        profile = replace(plain, spread=found.spread, num_requests=found.num_equal)
        kept = np.stack([(tokens > depth).sum(axis=1) for depth in range(6)], axis=1).astype(float)
        tried = np.column_stack((kept[:, 0], kept[:, :-1]))
        trie = PathTrie(tree, tried, kept, 0.0, "simulated")
        for place, acceptance in enumerate((profile, trie, plain)):
            lo, _, hi = tokens_interval(tree, acceptance, LEVEL, rng)
            inside[place] += lo <= tau <= hi
    return tuple(float(x) for x in inside / TRIALS)  # type: ignore[return-value]


def main() -> None:
    rng = np.random.default_rng(0)
    print(f"stated {LEVEL:.0%}, {TRIALS} shuffles each\n")
    print(f"{'trace':34}{'prompts':>8}{'fitted on':>10}{'held':>8}{'width':>8}{'independent':>13}")
    for prompts in traces(Path(os.environ["SPECSIM_DATA"]) / "published" / "traces"):
        num = len(prompts.num_rounds)
        for num_fit in (num // 2, 20, 10):
            held, naive, width = held_out(prompts, num_fit, rng)
            print(f"{prompts.name:34}{num:8}{num_fit:10}{held:8.1%}{width:8.1%}{naive:13.1%}")
    print(f"\n{'synthetic: requests x rounds':34}{'profile':>10}{'trie':>8}{'independent':>13}")
    for size in ((8, 100), (20, 50), (100, 50)):
        profile, trie, plain = synthetic(*size, rng)
        print(f"{f'{size[0]} x {size[1]}':34}{profile:10.1%}{trie:8.1%}{plain:13.1%}")


if __name__ == "__main__":
    main()
