"""The rows of one temperature: acceptance and times on some prompts, predictions, then the same methods on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from specsim.acceptance.profile import AcceptanceProfile
from specsim.calibrate.method_times import MethodCost, PassTimes, fit_pass_times, host_s, passes_of
from specsim.cli.measure import progress
from specsim.cli.methods_notes import comment
from specsim.cli.methods_resume import Done
from specsim.cli.methods_run import (
    Bench,
    Key,
    Plan,
    Recorded,
    as_timed,
    key_of,
    made_policy,
    methods_of,
    record,
    record_trees,
)
from specsim.cli.methods_world import fitted, simulated
from specsim.methods.catalogue import NamedMethod
from specsim.records import RoundRecord, TimedRound, save_records
from specsim.validate.methods import (
    Forecast,
    MethodRow,
    accept_table,
    interval_around,
    mean_of,
    predicted_round_s,
    relative_interval,
    row_of,
)

if TYPE_CHECKING:
    from specsim.acceptance.process import TokenProcess
    from specsim.methods.round import Drafting


@dataclass
class Known:
    """What is known before anything is measured."""

    recorded: dict[Key, Recorded]
    timed: dict[str, list[TimedRound]] = field(default_factory=dict)
    worlds: dict[Key, TokenProcess] = field(default_factory=dict)
    target: Any = None
    drafts: dict[str, PassTimes] = field(default_factory=dict)

    def cost(self, named: NamedMethod) -> MethodCost:
        return MethodCost(
            self.target, self.drafts.get(named.drafter), host_s(self.timed[named.name]), named.window_tokens
        )


def rows_at(plan: Plan, only: Sequence[str]) -> tuple[list[MethodRow], bool]:
    """Every method at the plan's temperature, and whether all prompts were run."""
    methods = methods_of(plan.temperature, only)
    bench = Bench(plan, methods)
    known = Known(_recorded(bench, methods))
    _time(bench, [m for m in methods if not isinstance(m.policy, str)], known)
    _fit_times(known, methods)
    methods = [_made(named, known) for named in methods]
    _time(bench, [m for m in methods if m.name not in known.timed], known)
    _fit_times(known, methods)
    _fit_worlds(bench, methods, known)
    forecasts = _forecasts(bench, methods, known)
    runs, texts = _measured(bench, methods)
    plain = methods[0]
    rows = [
        row_of(
            named, plan.temperature, runs[named.name], runs[plain.name], forecasts[named.name], forecasts[plain.name],
            _same(texts, named, plain, list(runs[plain.name]), plan),
        )
        for named in methods
    ]  # fmt: skip
    return [comment(row, rows, bench) for row in rows], not bench.is_interrupted


def _recorded(bench: Bench, methods: Sequence[NamedMethod]) -> dict[Key, Recorded]:
    """Drafts of every drafter on the calibration prompts, the target at its own size: equal logits, small times."""
    plan, found = bench.plan, {}
    trees = record_trees(methods)
    with progress(f"T={plan.temperature:g}: recording acceptance", len(trees) * plan.record_prompts) as advance:
        for key, tree in trees.items():
            found[key], drafter = Recorded(tree), bench.drafter(key[0], bench.recording)  # type: ignore[arg-type]
            for prompt in range(plan.record_prompts):
                record(bench, key, tree, methods, prompt, found[key], drafter)
                advance()
    return found


def _time(bench: Bench, methods: Sequence[NamedMethod], known: Known) -> None:
    """Rounds of each method on calibration prompts, methods taking turns so that drift hits all alike."""
    plan = bench.plan
    drafters = {named.name: bench.drafter(named.drafter, bench.timing) for named in methods}
    rng, journal = np.random.default_rng(plan.seed), plan.journal
    kept = {named.name: journal.kept("timing", plan.temperature, named, plan.time_prompts) for named in methods}
    with progress(f"T={plan.temperature:g}: timing", len(methods) * plan.time_prompts) as advance:
        for prompt in range(plan.time_prompts):
            for index in rng.permutation(len(methods)):
                named = methods[index]
                done = kept[named.name].get(prompt)
                if done is None:
                    done = Done(bench.timed(named, drafters[named.name], prompt), [])
                    journal.add("timing", plan.temperature, named, prompt, done)
                known.timed.setdefault(named.name, []).extend(done.rounds)
                advance()


def _fit_times(known: Known, methods: Sequence[NamedMethod]) -> None:
    known.target = fit_pass_times(pair for rounds in known.timed.values() for pair in passes_of(rounds, "target"))
    for drafter in {named.drafter for named in methods}:
        rounds = [r for m in methods if m.drafter == drafter for r in known.timed.get(m.name, ())]
        if passes := passes_of(rounds, "draft"):
            known.drafts[drafter] = fit_pass_times(passes)


def _made(named: NamedMethod, known: Known) -> NamedMethod:
    """With the policy that its name stands for."""
    if not isinstance(named.policy, str):
        return named
    recorded = known.recorded["model", "top"]
    table = accept_table(recorded.tree, recorded.path_probs)
    typical = float(np.median([host_s(rounds) for rounds in known.timed.values()]))
    return named.made(made_policy(named, table, known.target, known.drafts["model"], typical))


def _fit_worlds(bench: Bench, methods: Sequence[NamedMethod], known: Known) -> None:
    temperature, vocab_size = bench.plan.temperature, bench.recording.target.shape.vocab_size
    with progress(f"T={temperature:g}: fitting the simulator's worlds", len(known.recorded)) as advance:
        for key, recorded in known.recorded.items():
            grows = any(named.tree is None for named in methods if key_of(named) == key)
            known.worlds[key] = fitted(recorded, temperature, key, vocab_size, grows=grows)
            advance()


def _forecasts(bench: Bench, methods: Sequence[NamedMethod], known: Known) -> dict[str, Forecast]:
    with progress(f"T={bench.plan.temperature:g}: predicting", len(methods)) as advance:
        found = {}
        for named in methods:
            found[named.name] = _forecast(bench, named, known)
            advance()
    return found


def _forecast(bench: Bench, named: NamedMethod, known: Known) -> Forecast:
    plan, cost, rng = bench.plan, known.cost(named), np.random.default_rng(bench.plan.seed)
    contexts = [len(bench.measuring.prompts[p]) - 1 + plan.tokens / 2 for p in range(plan.prompts)]
    if named.drafter == "none":
        assert named.tree is not None
        return Forecast(1.0, (1.0, 1.0), predicted_round_s(cost, named.tree, "lookup", contexts, 1.0), 1.0, "paths")
    drafter = bench.drafter(named.drafter, bench.timing)
    assert drafter is not None
    recorded, world = known.recorded[key_of(named)], known.worlds[key_of(named)]
    sim = simulated(world, named, plan.temperature, drafter.drafting, cost, float(np.mean(contexts)), plan.seed)
    some = recorded.tokens.get(named.name)
    variance = 0.0 if some is None else float(np.mean(recorded.variances[named.name]))
    reach = relative_interval(some or _all_tokens(recorded), plan.prompts, rng, variance, plan.prompts * plan.tokens)
    if some is None and named.tree is not None:
        table = AcceptanceProfile(accept_table(recorded.tree, recorded.path_probs))
        tokens = _table_tokens(named, table)
    elif some is None:
        return Forecast(
            sim.tokens, interval_around(sim.tokens, reach, _depth(named)), sim.round_s, sim.tokens, "process"
        )
    else:
        tokens = mean_of(some)
    pending = _pending(named, drafter.drafting, tokens, float(np.mean(recorded.pending.get(named.name, [0.3]))))
    assert named.tree is not None
    round_s = predicted_round_s(cost, named.tree, drafter.drafting, contexts, pending)
    return Forecast(tokens, interval_around(tokens, reach, _depth(named)), round_s, sim.tokens, "paths")


def _all_tokens(recorded: Recorded) -> dict[int, list[float]]:
    """Tokens that the whole recorded tree brought."""
    found: dict[int, list[float]] = {}
    for one in recorded.records:
        found.setdefault(one.request, []).append(float(one.num_emitted))
    return found


def _table_tokens(named: NamedMethod, table: AcceptanceProfile) -> float:
    from specsim.acceptance.emitted import tokens_per_round

    assert named.tree is not None
    return tokens_per_round(named.tree, table)


def _depth(named: NamedMethod) -> int:
    assert not isinstance(named.policy, str)
    return named.policy.limits.depth


def _pending(named: NamedMethod, drafting: Drafting, tokens: float, leaf: float) -> float:
    """Tokens of the drafter's first pass: EAGLE runs again all that was accepted, a model what it had not run."""
    if named.drafter == "eagle":
        return tokens
    return 1.0 + leaf if named.drafter in ("model", "cascade") else 1.0


Runs = dict[str, dict[int, list[RoundRecord]]]
Texts = dict[tuple[str, int], list[int]]


def _measured(bench: Bench, methods: Sequence[NamedMethod]) -> tuple[Runs, Texts]:
    """Every method on every prompt, shuffled per prompt. Interrupted, it ends with the prompts that all have."""
    plan, rng = bench.plan, np.random.default_rng(bench.plan.seed)
    kept = {named.name: plan.journal.kept("measuring", plan.temperature, named, plan.prompts) for named in methods}
    runs: Runs = {named.name: {} for named in methods}
    texts: Texts = {}
    drafters = {named.name: bench.drafter(named.drafter, bench.measuring) for named in methods}
    with progress(f"T={plan.temperature:g}: measuring", plan.prompts * len(methods)) as advance:
        try:
            for prompt in range(plan.prompts):
                for index in rng.permutation(len(methods)):
                    named = methods[index]
                    done = kept[named.name].get(prompt)
                    if done is None:
                        run = bench.rounds(named, bench.measuring, drafters[named.name], prompt, plan.tokens)
                        done = Done([as_timed(one, named.name, prompt) for one in run.rounds], run.tokens())
                        save_records([one.record for one in done.rounds], plan.out / "methods.jsonl")
                        plan.journal.add("measuring", plan.temperature, named, prompt, done)
                    runs[named.name][prompt] = [one.record for one in done.rounds]
                    texts[named.name, prompt] = done.tokens
                    advance()
        except KeyboardInterrupt:
            bench.is_interrupted = True
            if not _of_all(runs):
                raise
    return {name: {prompt: found[prompt] for prompt in _of_all(runs)} for name, found in runs.items()}, texts


def _of_all(runs: Runs) -> list[int]:
    """The prompts that every method has decoded."""
    return sorted(set.intersection(*(set(found) for found in runs.values())))


def _same(texts: Texts, named: NamedMethod, plain: NamedMethod, prompts: Sequence[int], plan: Plan) -> bool | None:
    if plan.temperature > 0:
        return None
    return all(texts[named.name, p][: plan.tokens] == texts[plain.name, p][: plan.tokens] for p in prompts)
