"""Sizes by context, stopping rules, load and replay: each against trying everything, or a second way."""

from itertools import pairwise, product

import numpy as np
import pytest

from specsim.errors import InfeasibleError
from specsim.search.exact.load import best_load_schedule
from specsim.search.exact.replayed import RecordedTree, expected_rounds
from specsim.search.exact.robust import best_robust_chain
from specsim.search.exact.sizing import best_sizes, best_stopping


def test_sizes_by_context_beat_every_other_assignment() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        contexts = [np.cumprod(rng.random(rng.integers(0, 5))) for _ in range(3)]
        cost = rng.random(int(rng.integers(1, 6))) + 0.1
        tokens = [np.concatenate(([1.0], 1 + np.cumsum(c)))[: len(cost)] for c in contexts]
        rates = [
            sum(t[n] for t, n in zip(tokens, sizes, strict=True)) / sum(cost[n] for n in sizes)
            for sizes in product(*(range(len(t)) for t in tokens))
        ]
        assert best_sizes(contexts, cost).rate == pytest.approx(max(rates), rel=1e-12)


def test_with_affine_cost_the_best_sizes_are_one_threshold_on_path_probability() -> None:
    rng = np.random.default_rng(1)
    contexts = [-np.sort(-(rng.random(40) ** 3)) for _ in range(30)]
    answer = best_sizes(contexts, 2.0 + 0.1 * np.arange(41))
    for probs, size in zip(contexts, answer.num_nodes, strict=True):
        assert size - 1 == int(np.sum(probs > answer.rate * 0.1))


def every_rule(init, moves, keep, longest, draft, verify) -> float:
    """The best rate of all rules that map a history of states to go on or stop, by trying them all."""
    states = range(len(init))
    histories = [h for n in range(longest) for h in product(states, repeat=n)]
    best = 0.0
    for choice in product((False, True), repeat=len(histories)):
        go = dict(zip(histories, choice, strict=True))
        tokens, cost = 1.0, 0.0
        for path in product(states, repeat=longest):
            chance = init[path[0]] * np.prod([moves[a][b] for a, b in pairwise(path)]) if path else 1
            length = next((n for n in range(longest) if not go[path[:n]]), longest)
            tokens += chance * np.sum(np.cumprod([keep[s] for s in path[:length]]))
            cost += chance * (draft * length + verify[length])
        best = max(best, tokens / cost)
    return best


def test_stopping_beats_every_rule_on_histories() -> None:
    rng = np.random.default_rng(2)
    for _ in range(12):
        longest = int(rng.integers(1, 4))
        init, moves = rng.dirichlet(np.ones(2)), rng.dirichlet(np.ones(2), 2)
        keep, verify = rng.random(2), 1 + np.cumsum(rng.random(longest + 1)) * 0.2
        draft = float(rng.random() * 0.4)
        expected = every_rule(init, moves, keep, longest, draft, verify)
        assert best_stopping(init, moves, keep, longest, draft, verify).rate == pytest.approx(expected, rel=1e-12)


def test_the_queue_is_the_stationary_law_of_its_generator() -> None:
    """Second route: solve pi Q = 0 for the chain cut off far out, for the best of all schedules."""
    rng = np.random.default_rng(3)
    tokens = np.array([1.0, 1.6, 1.9])
    times = 1 + rng.random((3, 3))
    answer = best_load_schedule(0.5, 2.0, tokens, times)
    means = []
    for schedule in product(range(3), repeat=3):
        deaths = [(b + 1) * tokens[g] / (times[b, g] * 2.0) for b, g in enumerate(schedule)]
        if deaths[-1] > 0.5:
            means.append(mean_in_cut_off_queue(0.5, deaths))
    assert answer.mean_in_system == pytest.approx(min(means), rel=1e-9)
    assert answer.mean_latency == pytest.approx(min(means) / 0.5, rel=1e-9)


def mean_in_cut_off_queue(arrivals: float, deaths: list[float], size: int = 400) -> float:
    generator = np.zeros((size, size))
    for state in range(size):
        if state + 1 < size:
            generator[state, state + 1] = arrivals
        if state:
            generator[state, state - 1] = deaths[min(state, len(deaths)) - 1]
        generator[state, state] = -generator[state].sum()
    system = np.vstack((generator.T, np.ones(size)))
    law = np.linalg.lstsq(system, np.append(np.zeros(size), 1.0), rcond=None)[0]
    return float(law @ np.arange(size))


def test_a_queue_that_grows_is_infeasible() -> None:
    with pytest.raises(InfeasibleError, match="unstable"):
        best_load_schedule(1.0, 1.0, [1.0], [[1.0]])


def test_replayed_rounds_are_those_of_a_simulated_text() -> None:
    rng = np.random.default_rng(4)
    accept = rng.random(30)
    counts = []
    for _ in range(20_000):
        out = rounds = 0
        while out < 30:
            kept = 0
            while kept < 3 and (out + kept >= 30 or rng.random() < accept[out + kept]):
                kept += 1
            out, rounds = out + kept + 1, rounds + 1
        counts.append(rounds)
    error = 4 * np.std(counts) / np.sqrt(len(counts))
    assert expected_rounds(accept, [3])[3] == pytest.approx(np.mean(counts), abs=error)


def test_the_regret_over_an_interval_is_worst_at_its_ends() -> None:
    rng = np.random.default_rng(5)
    for _ in range(30):
        longest = int(rng.integers(0, 8))
        low, high = np.sort(rng.random(2))
        verify = 1 + rng.random(longest + 1)
        step = float(rng.random() * 0.3)
        answer = best_robust_chain(low, high, longest, step, verify)
        alphas = np.linspace(low, high, 200)
        lengths = np.arange(longest + 1)
        rates = np.cumsum(alphas[:, None] ** lengths, axis=1) / (step * lengths + verify)
        worst = np.max(1 - rates / rates.max(axis=1, keepdims=True), axis=0)
        assert answer.regret == pytest.approx(worst.min(), abs=1e-12)
        assert np.all(answer.regret_by_draft_len >= worst - 1e-12)


def test_dynamic_trees_on_a_recorded_tree_by_hand() -> None:
    # root -> 0 (.6, .5), 1 (.3, .4); 0 -> 2 (.5, .9), 3 (.4, .1); 1 -> 4 (.9, .8)
    tree = RecordedTree((-1, -1, 0, 0, 1), (0.6, 0.3, 0.5, 0.4, 0.9), (0.5, 0.4, 0.9, 0.1, 0.8))
    assert tree.best_first(3, 2) == [0, 1, 2]  # .6, .3 (shallower than 2, also .3), .3
    assert tree.best_first(3, 1) == [0, 1]
    assert tree.expected_tokens([0, 1, 2], tree.target_probs) == pytest.approx(1 + 0.5 + 0.4 + 0.45)
    assert tree.beam_rerank(1, 2, 9) == [0, 2]
    assert tree.beam_rerank(2, 2, 4) == [0, 1, 2, 4]
