"""Drafters, devices and formats together against each alone; break-even by putting it back in; explanations by hand."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_deployment import ToyCost, deployment, fields, table

from specsim.documents import parse
from specsim.errors import InputError
from specsim.estimate import predict
from specsim.scenario import EngineUse, Scenario, resolve
from specsim.search.break_even import break_even
from specsim.search.explain import WithoutTerm, explain
from specsim.search.expressible import best_expressible
from specsim.search.joint import Candidate, divisors, joint_search, load_candidates, pareto
from specsim.search.tune import tune
from specsim.tree import DraftTree

HOST = {"step": 0.5, "round": 0.75, "draft": 0.125}
SEARCH = {"max_draft_len": 4, "max_nodes": 6, "max_depth": 4}
CHAIN = {"kind": "iid", "alpha": 0.7, "max_depth": 8, "source": "made up for tests"}
LOOKUP = Candidate.model_validate(
    {"name": "lookup", "drafter": {"kind": "ngram"}, "acceptance": CHAIN | {"alpha": 0.3}}
)


def scenario(**changes: Any) -> Scenario:
    return parse(
        Scenario,
        fields(**{"hardware": "h100-sxm", "pricing": "roofline", "search": SEARCH, "acceptance": CHAIN} | changes),
        "toy",
    )


def test_every_setup_is_what_it_is_alone() -> None:
    asked = scenario(price_usd_per_hour=2.0)
    answer = joint_search(asked, 4, [4, 10], candidates=[LOOKUP], weights=[None, "fp8"])
    # The draft model on one device or all of the group: 1, 2 and 2 ways for groups of 1, 2 and 4; lookup has none.
    assert len(answer.options) == ((1 + 2 + 2) + 3) * 2 * 2 and not answer.refused
    for option in answer.options:
        setup = option.setup
        assert setup.tensor_parallel * setup.replicas == 4
        changes: dict[str, Any] = {"tensor_parallel": setup.tensor_parallel, "batch": 1}
        if setup.drafter == "draft_model":
            drafter = {"kind": "draft_model", "model": "llama-3.2-1b"}
            changes["drafter"] = drafter | {"tensor_parallel": setup.draft_tensor_parallel}
            assert setup.draft_tensor_parallel in (1, setup.tensor_parallel)
        if setup.weights:
            changes["target"] = {"model": "llama-3.1-8b", "weights": setup.weights}
        if setup.drafter == "lookup":
            changes |= {"drafter": {"kind": "ngram"}, "acceptance": LOOKUP.acceptance.model_dump()}
        least, more = divmod(option.in_flight, setup.replicas)
        rate = 0.0
        for batch, times in ((least + 1, more), (least, setup.replicas - more)):
            if batch and times:
                best = tune(resolve(asked.varied(**changes | {"batch": batch}))).best
                rate += times * best.tokens_per_s
        assert option.tokens_per_s == pytest.approx(rate, rel=1e-9)
        assert option.usd_per_million_tokens == pytest.approx(1e6 * 4 * 2.0 / 3600 / rate)
    for number in (4, 10):
        rates = [option.tokens_per_s for option in answer.at(number)]
        assert rates == sorted(rates, reverse=True) and len(rates) == 16


def test_the_front_is_what_no_other_option_beats() -> None:
    answer = joint_search(scenario(), 4, [1, 8, 64], candidates=[LOOKUP])
    for option in answer.options:
        beaten = any(
            (o.time_per_token_s <= option.time_per_token_s and o.tokens_per_s > option.tokens_per_s * (1 + 1e-9))
            or (o.time_per_token_s < option.time_per_token_s and o.tokens_per_s >= option.tokens_per_s)
            for o in answer.options
        )
        assert beaten == (option not in answer.front)
    assert pareto([]) == []


def test_what_can_not_be_is_refused_with_its_reason() -> None:
    large = joint_search(scenario(target={"model": "llama-3.1-70b"}), 4, [2], max_time_per_token_s=1.0)
    assert {r.setup.tensor_parallel for r in large.refused if r.in_flight is None} == {1}
    assert all("memory" in r.reason for r in large.refused)
    slow = joint_search(scenario(), 1, [2], max_time_per_token_s=1e-6)
    assert not slow.options and "time per token" in slow.refused[0].reason and slow.front == []
    # 3 devices do not divide the heads: refused, where one and all others are not
    assert any("heads" in r.reason for r in joint_search(scenario(), 3, [2]).refused)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"devices": 0}, "devices"),
        ({"in_flight": [0]}, "in_flight"),
        ({"in_flight": []}, "in_flight"),
        ({"tensor_parallel": [3]}, "tensor_parallel"),
        ({"tensor_parallel": [1], "weights": ["fp4x"]}, "no setup is possible"),
    ],
)
def test_wrong_joint_questions_are_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        joint_search(scenario(), **{"devices": 4, "in_flight": [1]} | options)


def test_candidates_are_read_from_a_file(tmp_path: Path) -> None:
    acceptance = 'acceptance = {kind = "iid", alpha = 0.5, source = "made up for tests"}'
    one = f'[[candidate]]\nname = "a"\ndrafter = {{kind = "ngram"}}\n{acceptance}\n'
    path = tmp_path / "drafters.toml"
    path.write_text(one)
    assert load_candidates(path)[0].drafter.kind == "ngram"
    for text, line in ((one + one, "must differ"), ("", "candidate"), (one.replace("ngram", "x"), "drafter.kind")):
        path.write_text(text)
        with pytest.raises(InputError, match=line):
            load_candidates(path)
    assert divisors(7) == [1, 7]


@pytest.mark.parametrize("kind", ["toy", "draft model", "lookup"])
def test_at_break_even_the_chain_is_as_fast_as_plain_decoding(kind: str) -> None:
    changes: dict[str, Any] = {"lookup": {"drafter": {"kind": "ngram"}}}.get(kind, {})
    cost = ToyCost(draft_s=2.0, draft_node_s=0.3, node_s=0.1, host_s=HOST) if kind == "toy" else None
    asked = deployment(cost=cost, search=SEARCH, acceptance=CHAIN, **changes)
    found = break_even(asked)
    for length, alpha in enumerate(found.by_draft_len.tolist(), start=1):
        there = deployment(cost=cost, search=SEARCH, acceptance=CHAIN | {"alpha": alpha}, **changes)
        assert predict(there, DraftTree.chain(length)).speedup == pytest.approx(1.0, rel=1e-11)
    assert found.alpha == min(found.by_draft_len) and found.pays and found.has_alpha == pytest.approx(0.7)


def test_a_draft_as_dear_as_its_target_never_pays() -> None:
    found = break_even(deployment(cost=ToyCost(draft_s=11.0), search=SEARCH, acceptance=CHAIN))
    assert found.alpha is None and found.pays is False and np.isnan(found.by_draft_len).all()
    none = break_even(deployment(cost=ToyCost(), drafter={"kind": "none"}))
    assert none.alpha is None and none.pays is False
    deeper = break_even(deployment(cost=ToyCost(), search=SEARCH, acceptance=table(*[(0.05,)] * 4)))
    assert deeper.pays is False and deeper.has_alpha == pytest.approx(0.05)


def test_worlds_without_a_term_by_hand() -> None:
    cost = ToyCost(draft_s=2.0, node_s=0.5, host_s=HOST)
    asked = deployment(cost=cost, search=SEARCH, acceptance=table(*[(0.7 - 0.1 * d,) for d in range(4)]))
    why = explain(asked, tune(asked))
    tokens = 1 + np.cumsum(np.concatenate(([0.0], np.cumprod([0.7, 0.6, 0.5, 0.4]))))
    lens = np.arange(5)

    def best(
        draft: float = 2.0, node: float = 0.5, more: float = 0.75, each: float = 0.125, emit: Any = tokens
    ) -> float:
        return float(np.max(emit / (10.5 + lens * (draft + node + each) + more * (lens > 0))))

    worlds = {c.term: c for c in why.counterfactuals}
    assert worlds["draft cost"].tokens_per_s == pytest.approx(best(draft=0))
    assert worlds["verification growth"].tokens_per_s == pytest.approx(best(node=0))
    assert worlds["host work"].tokens_per_s == pytest.approx(best(more=0, each=0))
    assert worlds["acceptance decay"].tokens_per_s == pytest.approx(best(emit=np.cumsum(0.7**lens)))
    assert worlds["acceptance"].tokens_per_s == pytest.approx(best(emit=lens + 1.0))
    assert why.best.tokens_per_s == pytest.approx(best()) and "memory" not in worlds and "engine" not in worlds
    assert why.decided_by and why.decided_by.term == "draft cost"
    assert [c.gain for c in why.counterfactuals] == sorted((c.gain for c in why.counterfactuals), reverse=True)
    # One token more costs its draft, its verification and its host work.
    assert why.steps[1].draft_s == pytest.approx(2.0) and why.steps[1].verify_s == pytest.approx(0.5)
    assert why.steps[0].host_s == pytest.approx(0.875) and why.steps[1].tokens == pytest.approx(0.42)
    rates = tokens / (10.5 + lens * 2.625 + 0.75 * (lens > 0))
    assert [step.pays for step in why.steps] == (np.diff(rates) > 0).tolist()
    assert why.last_step == next((step for step in why.steps if not step.pays), None)


def test_memory_and_engines_are_terms_too() -> None:
    tight = deployment(
        hardware="l4", workload={"context_tokens": 2048, "batch": 15}, search=SEARCH, acceptance=CHAIN
    )  # the target alone fits, a draft beside it does not
    why = explain(tight, tune(tight))
    assert why.best.tree == DraftTree.root_only()
    assert why.decided_by and why.decided_by.term == "memory" and why.decided_by.speedup > 1
    ranks = table(*[(0.5, 0.3)] * 4)
    asked = deployment(cost=ToyCost(draft_s=0.3, node_s=0.1), search=SEARCH, acceptance=ranks)
    tuning = tune(asked)
    why = explain(asked, tuning, best_expressible(asked, EngineUse(engine="vllm", version="0.33.0")))
    engine = next(c for c in why.counterfactuals if c.term == "engine")
    assert engine.tokens_per_s == tuning.best.tokens_per_s and engine.gain > 0


def test_a_world_without_a_drafter_has_no_terms() -> None:
    asked = deployment(cost=ToyCost(), drafter={"kind": "none"})
    assert explain(asked, tune(asked)).counterfactuals == ()
    assert WithoutTerm(asked.cost, "host work").log_sd.tolist() == asked.cost.log_sd.tolist()


def test_every_shape_of_shares() -> None:
    from specsim.search.joint import _shares

    for number, replicas in product(range(1, 9), range(1, 5)):
        shares = _shares(number, replicas)
        assert sum(batch * times for batch, times in shares) == number
        assert sum(times for _, times in shares) == replicas


def test_the_draft_is_spread_as_asked() -> None:
    asked = scenario()
    answer = joint_search(asked, 4, [4], tensor_parallel=[2, 4], draft_tensor_parallel=[1, 4])
    assert {(o.setup.tensor_parallel, o.setup.draft_tensor_parallel) for o in answer.options} == {
        (2, 1),
        (4, 1),
        (4, 4),
    }
    only = joint_search(asked, 4, [4], tensor_parallel=[2], draft_tensor_parallel=[4])
    assert [o.setup.draft_tensor_parallel for o in only.options] == [2]  # none of those fits the group: all of it
    own = scenario(drafter={"kind": "draft_model", "model": "llama-3.2-1b", "tensor_parallel": 2}, tensor_parallel=2)
    found = joint_search(own, 4, [4], tensor_parallel=[1, 4])
    assert [o.setup.draft_tensor_parallel for o in found.options] == [2]
    assert "must be <= 1, the devices of the target" in found.refused[0].reason
    labels = {o.setup.label for o in answer.options}
    assert labels == {"draft_model, 2 x TP 2, draft on 1", "draft_model, 1 x TP 4, draft on 1", "draft_model, 1 x TP 4"}
    with pytest.raises(InputError, match="draft_tensor_parallel"):
        joint_search(asked, 4, [4], draft_tensor_parallel=[0])


def test_drafters_of_the_scenario_are_candidates(tmp_path: Path) -> None:
    listed = LOOKUP.model_dump()
    asked = scenario(drafters=[listed])
    found, told = joint_search(asked, 2, [4]), joint_search(scenario(), 2, [4], candidates=[LOOKUP])
    assert [(o.setup, o.tokens_per_s) for o in found.options] == [(o.setup, o.tokens_per_s) for o in told.options]
    assert {one.drafter for one in found.needs} == {"draft_model", "lookup"}
    assert (
        tune(resolve(asked)).best.tokens_per_s == tune(resolve(scenario())).best.tokens_per_s
    )  # nobody else looks at them
    with pytest.raises(InputError, match="must differ from the others'"):
        joint_search(asked, 2, [4], candidates=[LOOKUP])
    with pytest.raises(InputError, match="must differ"):
        joint_search(scenario(drafters=[listed | {"name": "draft_model"}]), 2, [4])
    with pytest.raises(InputError, match="drafters"):
        scenario(drafters=[{"name": "lookup"}])
