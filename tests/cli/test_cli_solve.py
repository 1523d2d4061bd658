"""The door for problems as data: the worked examples, both forms of the answer, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from specsim.cli import main

P2 = [[0.6, 0.3], [0.5, 0.2]]
TREE = {"p": P2, "n_max": 4, "depth_limit": 2, "level_cost": [0.1, 0.1], "verify_cost": [1, 1, 1, 1]}
CHAIN = {
    "alpha": {"iid": 0.5},
    "gamma_max": 2,
    "draft_step_cost": [0.25, 0.25],
    "verify_cost": [1, 1, 1],
    "batch": 1,
    "mode": "ragged",
}
RECORDED = {
    "nodes": [[-1, 0.6, 0.5], [-1, 0.3, 0.4], [0, 0.5, 0.9]],
    "policies": [{"type": "best_first", "n": 2, "depth": 2}, {"type": "beam_rerank", "top_k": 1, "depth": 2, "n": 2}],
    "verification": "one_hot",
}
WORKED: list[tuple[str, dict[str, Any], float | None, Any]] = [
    ("chain", CHAIN, 1.2, {"gamma": 1}),
    ("chain", {**CHAIN, "verify_cost": [1] * 6, "batch": 2, "mode": "synchronised"}, 2.0, {"gamma": 0}),
    ("chain", {**CHAIN, "alpha": {"mixture": [[0.5, 1.0], [0.5, 0.0]]}}, 2 / 1.5, {"gamma": 2}),
    ("tree_fixed_n", {"p": P2, "n": 4, "depth_limit": 2, "rank_order": "free"}, 2.2, {"paths": [[1], [2], [1, 1]]}),
    ("tree_ordered_fixed_n", {"p": [[0.1, 0.8]], "n": 2, "depth_limit": 1, "rank_order": "ordered"}, 1.1, None),
    ("tree_ordered_fixed_n", {"p": [[0.1, 0.8]], "n": 3, "depth_limit": 1, "rank_order": "ordered"}, 1.9, None),
    ("tree_rate", {**TREE, "rank_order": "free"}, 2.2 / 1.2, {"paths": [[1], [2], [1, 1]]}),
    (
        "tree_width_all",
        {**{k: v for k, v in TREE.items() if k != "level_cost"}, "level_width_cost": [[0.1], [0.1, 0.4]]}
        | {"rank_order": "free", "width_convention": "all"},
        1.9 / 1.1,
        None,
    ),
    ("replay_chain", {"a": [0.5, 0.5], "gammas": [1]}, None, {}),
    ("dynamic_tree_replay", RECORDED, None, {}),
]


def asked(tmp_path: Path, capsys: pytest.CaptureFixture[str], problem: Any) -> tuple[int, str, str]:
    path = tmp_path / "problem.json"
    path.write_text(problem if isinstance(problem, str) else json.dumps(problem))
    code = main(["solve", str(path)])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(("family", "data", "objective", "argmax"), WORKED)
def test_worked_problems(tmp_path, capsys, family, data, objective, argmax) -> None:
    code, out, _ = asked(tmp_path, capsys, {"family": family, "input": data})
    answer = json.loads(out)
    assert (code, answer["status"]) == (0, "optimal")
    assert answer["objective"] == (None if objective is None else pytest.approx(objective, rel=1e-12))
    if argmax is not None:
        assert answer["argmax"] == argmax


def test_extra_keys_of_replays(tmp_path, capsys) -> None:
    problems = [{"family": f, "input": d} for f, d, _, _ in WORKED if f in ("replay_chain", "dynamic_tree_replay")]
    chain, tree = json.loads(asked(tmp_path, capsys, problems)[1])
    assert chain["expected_steps"] == {"1": 1.5}
    assert [result["nodes"] for result in tree["results"]] == [[0, 1], [0, 2]]
    assert tree["results"][0]["expected_tokens"] == pytest.approx(1.9)
    assert tree["results"][1]["surrogate_expected_tokens"] == pytest.approx(1.9)


def test_what_is_infeasible_is_an_answer(tmp_path, capsys) -> None:
    load = {"arrival_rate": 9.0, "mean_output_tokens": 1.0, "alpha": 0.5, "gamma_max": 0, "batch_max": 1}
    fixed = {"p": [[0.5]], "n": 3, "depth_limit": 1, "rank_order": "ordered"}
    forest = {"sequences": [[[0.5]], [[0.5]]], "n_max_total": 1, "depth_limit": 1, "level_cost": [0.1]}
    code, out, _ = asked(
        tmp_path,
        capsys,
        [
            {"family": "load_schedule", "input": {**load, "step_time": [[1.0]]}},
            {"family": "tree_ordered_fixed_n", "input": fixed},
            {"family": "forest_rate", "input": {**forest, "verify_cost": [1.0], "rank_order": "free"}},
        ],
    )
    assert code == 0
    assert [answer["status"] for answer in json.loads(out)] == ["infeasible"] * 3
    assert all(answer["objective"] is None and answer["reason"] for answer in json.loads(out))


def test_objectives_have_17_significant_digits(tmp_path, capsys) -> None:
    out = asked(tmp_path, capsys, {"family": "chain", "input": CHAIN})[1]
    assert '"objective": 1.2,' in out  # the double nearest to 1.2 needs no more digits
    assert '"bound": 1.2' in out
    third = {**CHAIN, "verify_cost": [3, 3, 3], "draft_step_cost": [9, 9]}
    assert '"objective": 0.33333333333333331,' in asked(tmp_path, capsys, {"family": "chain", "input": third})[1]


@pytest.mark.parametrize(
    ("problem", "named"),
    [
        ({"family": "riddle", "input": {}}, "family"),
        ({"family": "chain"}, "input"),
        ({"family": "chain", "input": {**CHAIN, "depth": 1}}, "depth"),
        ({"family": "chain", "input": {**CHAIN, "draft_step_cost": [0.1, -0.1]}}, "draft_step_cost"),
        ({"family": "chain", "input": {**CHAIN, "verify_cost": [1, 1]}}, "verify_cost"),
        ({"family": "chain", "input": {**CHAIN, "alpha": {"mixture": [[0.5, 0.1], [0.4, 0.2]]}}}, "mixture"),
        ({"family": "tree_rate", "input": {**TREE, "p": [[0.7, 0.4], [0.5, 0.2]], "rank_order": "free"}}, "p"),
        ({"family": "tree_rate", "input": {**TREE, "verify_cost": [1, 1], "rank_order": "free"}}, "verify_cost"),
        ({"family": "tree_rate", "input": {**TREE, "rank_order": "ordered"}}, "rank_order"),
        ('{"family": "replay_chain", "input": {"a": [NaN], "gammas": [1]}}', "a"),
        ({"family": "chain", "input": {**CHAIN, "alpha": {"iid": "0.5"}}}, "iid"),
        ({"family": "chain", "input": {**CHAIN, "alpha": {"iid": True}}}, "iid"),
        ("{", "JSON"),
        ([{"family": "chain", "input": CHAIN}, {"family": "no"}], "[1]"),
    ],
)
def test_what_is_malformed_is_refused_in_one_line(tmp_path, capsys, problem, named) -> None:
    code, out, err = asked(tmp_path, capsys, problem)
    assert (code, out) == (2, "")
    assert named in err
    assert err.count("\n") == 1
