"""Verification rules, row by row: against a plain loop, against hand-worked trees, on numpy and on torch."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from specsim.decoding import Draws, Rule, Verdict, accept_prob_and_residual, outcome, token_rejection, verify
from specsim.decoding.rules import RULES as LABELS
from specsim.errors import InputError

RULES: tuple[Rule, ...] = get_args(Rule)
CHAIN_RULES = tuple(rule for rule in RULES if LABELS[rule].chains_only)


def random_laws(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    """Laws with zeros, and some one-hot."""
    weights = rng.random(shape) * (rng.random(shape) < 0.7)
    weights[..., 0] += weights.sum(-1) == 0
    return weights / weights.sum(-1, keepdims=True)


def random_round(seed: int, batch: int = 6, nodes: int = 7, vocab: int = 4, chain: bool = False) -> dict[str, Any]:
    """Ragged random trees, with tokens that their draft law may have made."""
    rng = np.random.default_rng(seed)
    parents = np.full((batch, nodes), -2)
    for row in parents:
        size = rng.integers(1, nodes + 1)
        row[:size] = [-1, *(node - 1 if chain else rng.integers(node) for node in range(1, size))]
    return {
        "parents": parents,
        "tokens": rng.integers(vocab, size=(batch, nodes)),
        "draft_probs": random_laws(rng, batch, nodes, vocab),
        "target_probs": random_laws(rng, batch, nodes, vocab),
        "draws": Draws(rng.random((batch, nodes)), rng.random(batch)),
    }


Path = tuple[list[int], int]


def plain_loop(rule: Rule, row: int, case: dict[str, Any]) -> Path:
    """The rule told for one tree, with lists and division, no arrays of nodes."""
    size = int((case["parents"][row] != -2).sum())
    parents, tokens = case["parents"][row, :size].tolist(), case["tokens"][row, :size].tolist()
    laws = case["draft_probs"][row], case["target_probs"][row]
    coins, bonus = case["draws"].accept[row], case["draws"].bonus[row]
    match rule:
        case "greedy" | "one_hot":
            return followed(rule == "greedy", parents, tokens, laws[1], coins)
        case "traversal" | "traversal_with_replacement":
            return traversed(parents, tokens, *laws, coins, bonus, rule != "traversal")
        case "k_seq":
            return selected(parents, tokens, *laws, coins, bonus)
        case "block_verification":
            return judged_as_a_block(tokens, *laws, coins, bonus)
        case "typical_acceptance" | "joint_ratio":
            return longest(rule, parents, tokens, *laws, bonus)
        case "leniency" | "reject_then_sample":
            return lenient(0.5 if rule == "leniency" else 1.0, rule == "leniency", tokens, *laws, coins, bonus)
    return rejected_recursively(parents, tokens, *laws, coins, bonus, rule != "recursive_rejection")


def followed(is_greedy: bool, parents: list[int], tokens: list[int], target: Any, coins: Any) -> Path:
    path = [0]
    while True:
        law = target[path[-1]]
        chosen = int(np.argmax(law)) if is_greedy else invert(law, coins[path[-1]])
        children = [child for child in range(len(parents)) if parents[child] == path[-1] and tokens[child] == chosen]
        if not children:
            return path, chosen
        path.append(children[0])


def rejected_recursively(
    parents: list[int], tokens: list[int], draft: Any, target: Any, coins: Any, bonus: float, replacement: bool
) -> Path:
    path = [0]
    while True:
        law, proposal = target[path[-1]].copy(), draft[path[-1]].copy()
        for child in [child for child in range(len(parents)) if parents[child] == path[-1]]:
            token = tokens[child]
            if proposal[token] == 0:
                continue
            if coins[child] * proposal[token] < law[token]:
                path.append(child)
                break
            law = norm(np.maximum(law - proposal, 0), law)
            if not replacement:
                proposal[token] = 0
                proposal = norm(proposal, proposal)
        else:
            return path, invert(law, bonus)


def traversed(
    parents: list[int], tokens: list[int], draft: Any, target: Any, coins: Any, bonus: float, replacement: bool
) -> Path:
    """As in the paper: take the first leaf that is left, accept its path or delete it and correct its parent."""
    law, proposal = target.copy(), draft.copy()
    left, at_root = set(range(len(parents))), {0: 1.0}

    def rate(node: int) -> float:
        if node in at_root:
            return at_root[node]
        above, token = parents[node], tokens[node]
        drawn = proposal[above][token]
        return min(rate(above) * law[above][token] / drawn, 1.0) if drawn > 0 else 0.0

    while True:
        leaf = 0
        while children := [node for node in sorted(left) if parents[node] == leaf]:
            leaf = children[0]
        if leaf == 0 or coins[leaf] < rate(leaf):
            return path_of(parents, leaf), invert(law[leaf], bonus)
        left.discard(leaf)
        above, token = parents[leaf], tokens[leaf]
        if proposal[above][token] == 0:
            continue
        gain = np.maximum(rate(above) * law[above] - proposal[above], 0)
        total = gain.sum() + 1 - rate(above)
        at_root[above] = gain.sum() / total if total > 0 else rate(above)
        law[above] = norm(gain, law[above])
        if not replacement:
            proposal[above][token] = 0
            proposal[above] = norm(proposal[above], proposal[above])


def judged_as_a_block(tokens: list[int], draft: Any, target: Any, coins: Any, bonus: float) -> Path:
    p, best, law = 1.0, 0, target[0]
    for i in range(len(tokens)):
        if i:
            drawn = draft[i - 1][tokens[i]]
            p = min(p * target[i - 1][tokens[i]] / drawn, 1.0) if drawn > 0 else 0.0
        gain = np.maximum(p * target[i] - draft[i], 0)
        is_last = i == len(tokens) - 1
        h = p if is_last else gain.sum() / (gain.sum() + 1 - p) if gain.sum() + 1 - p > 0 else 0.0
        if i == 0 or coins[i] < h:
            best, law = i, target[i] if is_last else norm(gain, target[i])
    return list(range(best + 1)), invert(law, bonus)


def selected(parents: list[int], tokens: list[int], draft: Any, target: Any, coins: Any, bonus: float) -> Path:
    """k-SEQ with the set of nodes that still agree with the text; their eldest gives the laws."""
    agreeing = [0]
    while True:
        law, proposal = target[agreeing[0]], draft[agreeing[0]]
        candidates = [node for node in range(len(parents)) if parents[node] in agreeing]
        k = len(candidates)
        rho = optimize.brentq(excess, 1, k, args=(law, proposal, k), xtol=1e-14) if k > 1 else 1.0
        for node in candidates:
            token = tokens[node]
            if proposal[token] > 0 and coins[node] < law[token] / rho / proposal[token]:
                agreeing = [other for other in candidates if tokens[other] == token]
                break
        else:
            rest = law - np.minimum(law, rho * proposal) if k else law
            return path_of(parents, agreeing[0]), invert(norm(np.maximum(rest, 0), law), bonus)


def excess(rho: float, law: Any, proposal: Any, k: int) -> float:
    beta = np.minimum(law / rho, proposal).sum()
    return float(1 - (1 - beta) ** k - rho * beta)


def longest(rule: Rule, parents: list[int], tokens: list[int], draft: Any, target: Any, bonus: float) -> Path:
    best, score = [0], 1.0
    for node in range(1, len(parents)):
        path = path_of(parents, node)
        p = np.array([target[parents[n]][tokens[n]] for n in path[1:]])
        q = np.array([draft[parents[n]][tokens[n]] for n in path[1:]])
        if rule == "typical_acceptance":
            entropy = np.array([stats.entropy(target[parents[n]]) for n in path[1:]])
            passes, value = bool((p > np.minimum(0.09, 0.3 * np.exp(-entropy))).all()), p.prod()
        else:
            passes = bool(q.prod() > 0 and p.prod() > 0.5 * q.prod())
            value = p.prod() / q.prod() if passes else 0.0
        if passes and (len(path), value) > (len(best), score if len(path) == len(best) else 0.0):
            best, score = path, value
    return best, invert(target[best[-1]], bonus)


def lenient(
    leniency: float, residual: bool, tokens: list[int], draft: Any, target: Any, coins: Any, bonus: float
) -> Path:
    for i in range(1, len(tokens)):
        law, proposal = target[i - 1], leniency * draft[i - 1]
        drawn = proposal[tokens[i]]
        if drawn == 0 or coins[i] >= law[tokens[i]] / drawn:
            rest = norm(np.maximum(law - proposal, 0), law) if residual and drawn > 0 else law
            return list(range(i)), invert(rest, bonus)
    return list(range(len(tokens))), invert(target[len(tokens) - 1], bonus)


def path_of(parents: list[int], node: int) -> list[int]:
    return [*path_of(parents, parents[node]), node] if node else [0]


def norm(weights: Any, otherwise: Any) -> Any:
    return weights / weights.sum() if weights.sum() > 0 else otherwise


def invert(law: np.ndarray[Any, Any], uniform: float) -> int:
    return int(np.searchsorted(np.cumsum(law), uniform * law.sum(), side="right"))


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_batched_rule_equals_a_plain_loop(rule: Rule, seed: int) -> None:
    case = random_round(seed, chain=rule in CHAIN_RULES)
    if rule == "k_seq":
        # A candidate that its law can not make may be refused where refusal has probability 0, and no residual is left.
        case["draft_probs"] = (case["draft_probs"] + 0.1) / 1.4
    got = verify(rule, **case)
    for row in range(len(case["parents"])):
        path, bonus = plain_loop(rule, row, case)
        assert [node for node in got.path[row].tolist() if node >= 0] == path
        assert (int(got.num_accepted[row]), int(got.bonus[row])) == (len(path) - 1, bonus)


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_row_does_not_depend_on_its_neighbours_or_padding(rule: Rule, seed: int) -> None:
    case = random_round(seed, chain=rule in CHAIN_RULES)
    got = verify(rule, **case)
    for row, parents in enumerate(case["parents"]):
        size = int((parents != -2).sum())
        alone = verify(
            rule,
            *(case[key][row : row + 1, :size] for key in ("parents", "tokens", "draft_probs", "target_probs")),
            Draws(case["draws"].accept[row : row + 1, :size], case["draws"].bonus[row : row + 1]),
        )
        width = alone.path.shape[1]
        np.testing.assert_array_equal(got.path[row, :width], alone.path[0])
        assert (got.path[row, width:] == -1).all() and got.bonus[row] == alone.bonus[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", RULES)
def test_torch_and_numpy_answer_alike(rule: Rule, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    case = random_round(seed=1, batch=500, nodes=9, vocab=16, chain=rule in CHAIN_RULES)
    case |= {key: case[key].astype(dtype) for key in ("draft_probs", "target_probs")}
    case["draws"] = Draws(case["draws"].accept.astype(dtype), case["draws"].bonus.astype(dtype))
    mirrored = {key: torch.from_numpy(value) for key, value in case.items() if key != "draws"}
    draws = Draws(torch.from_numpy(case["draws"].accept), torch.from_numpy(case["draws"].bonus))
    ours, theirs = verify(rule, **case), verify(rule, **mirrored, draws=draws)
    for name in Verdict.__dataclass_fields__:
        assert isinstance(getattr(theirs, name), torch.Tensor)
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name).numpy())
    laws = [
        {key: part[key] for key in ("parents", "tokens", "draft_probs", "target_probs")} for part in (case, mirrored)
    ]
    ours, theirs = (outcome(rule, **law) for law in laws)
    np.testing.assert_allclose(ours.accept_probs, theirs.accept_probs.numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours.bonus_probs, theirs.bonus_probs.numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_outcome_is_a_law(rule: Rule, seed: int) -> None:
    case = random_round(seed, chain=rule in CHAIN_RULES)
    del case["draws"]
    result = outcome(rule, **case)
    parents = case["parents"]
    assert (result.accept_probs[parents == -2] == 0).all() and (result.accept_probs[:, 0] == 1).all()
    for node in range(parents.shape[1]):
        mass = (result.accept_probs * (parents == node)).sum(1)
        assert (mass <= 1 + 1e-9).all()
    np.testing.assert_allclose(result.bonus_probs.sum(-1), 1, atol=1e-9)


def test_two_siblings_without_replacement_by_hand() -> None:
    """Draft (.5, .25, .25), target (.2, .5, .3), draws 0 then 1.

    Token 0: accept .2/.5 = .4; residual (0, .25, .05)/.3 = (0, 5/6, 1/6), rest (0, .5, .5).
    Token 1: accept min(1, (5/6)/.5) = 1. So token 0 .4, token 1 .6.
    In the other order: token 1 is accepted outright.
    """
    draft, target = np.array([[[0.5, 0.25, 0.25]] * 3]), np.array([[[0.2, 0.5, 0.3]] * 3])
    parents = np.array([[-1, 0, 0]])
    result = outcome("recursive_rejection", parents, np.array([[2, 0, 1]]), draft, target)
    np.testing.assert_allclose(result.accept_probs, [[1, 0.4, 0.6]])
    result = outcome("recursive_rejection", parents, np.array([[2, 1, 0]]), draft, target)
    np.testing.assert_allclose(result.accept_probs, [[1, 1, 0]])
    draws = Draws(np.array([[0.0, 0.41, 0.99]]), np.array([0.0]))
    got = verify("recursive_rejection", parents, np.array([[2, 0, 1]]), draft, target, draws)
    assert (got.path.tolist(), got.num_accepted.tolist(), got.bonus.tolist()) == ([[0, 2]], [1], [0])


def test_with_replacement_the_proposal_stays() -> None:
    """Draft (.5, .5), target (.1, .9), draws 0, 0: accept .2, then residual (0, 1) never accepts 0 again."""
    draft, target = np.array([[[0.5, 0.5]] * 3]), np.array([[[0.1, 0.9]] * 3])
    tokens = np.array([[1, 0, 0]])
    result = outcome("recursive_rejection_with_replacement", np.array([[-1, 0, 0]]), tokens, draft, target)
    np.testing.assert_allclose(result.accept_probs, [[1, 0.2, 0]])
    np.testing.assert_allclose(result.bonus_probs[0, 0], [0, 1])


def test_root_alone_is_plain_decoding() -> None:
    """A chain of length 0 accepts nothing and adds one token of the target: the baseline needs no branch."""
    law = np.array([[[0.0, 0.25, 0.75]]])
    draws = Draws(np.array([[0.3]]), np.array([0.3]))
    for rule in RULES:
        got = verify(rule, np.array([[-1]]), np.array([[5]]), np.zeros_like(law), law, draws)
        assert (got.path.tolist(), got.num_accepted.tolist(), got.bonus.tolist()) == ([[0]], [0], [2])


def test_equal_laws_accept_every_draw() -> None:
    """Draft = target: no rejection for any uniform below one, in float32 as well."""
    rng = np.random.default_rng(0)
    law = random_laws(rng, 2000, 5).astype(np.float32)
    token = np.argmax(law, axis=-1)
    accept, residual, _ = accept_prob_and_residual(law, law, token)
    assert (accept == 1).all()
    np.testing.assert_array_equal(residual, law)  # empty residual: the law is kept, not divided by zero


def test_block_and_traversal_by_hand() -> None:
    """Draft (.5, .5) thrice; target (.1, .9) then (.9, .1); drafted 0, 0.

    p(1) = .1/.5 = .2, p(2) = .2 * .9/.5 = .36. After prefix 0: S = (.9 - .5) = .4, rate 1, residual (0, 1). After
    prefix 1: (.2 * .9 - .5)+ = 0, so its rate is 0. Token by token it would be .2 * 1 for either length.
    """
    draft, target = np.array([[[0.5, 0.5]] * 3]), np.array([[[0.1, 0.9], [0.9, 0.1], [0.5, 0.5]]])
    parents, tokens = np.array([[-1, 0, 1]]), np.array([[1, 0, 0]])
    for rule in ("block_verification", "traversal"):
        result = outcome(rule, parents, tokens, draft, target)
        np.testing.assert_allclose(result.accept_probs, [[1, 0.36, 1]])
        np.testing.assert_allclose(result.bonus_probs[0, 0], [0, 1])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_leniency_1_is_token_rejection(seed: int) -> None:
    case = random_round(seed, chain=True)
    lenient, strict = verify("leniency", **case, leniency=1.0), verify("token_rejection", **case)
    for name in Verdict.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(lenient, name), getattr(strict, name))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), first=st.floats(0, 3), second=st.floats(0, 3))
def test_a_higher_joint_ratio_never_accepts_more(seed: int, first: float, second: float) -> None:
    case = random_round(seed)
    loose, strict = (verify("joint_ratio", **case, theta=x).num_accepted for x in sorted((first, second)))
    assert (loose >= strict).all()


def test_joint_ratio_0_accepts_all_that_both_models_allow() -> None:
    case = random_round(seed=3, chain=True) | {"draft_probs": np.full((6, 7, 4), 0.25)}
    case["target_probs"] = np.full((6, 7, 4), 0.25)
    assert verify("joint_ratio", **case, theta=0.0).num_accepted.tolist() == ((case["parents"] >= 0).sum(1)).tolist()


def test_long_chains_stay_in_range() -> None:
    """Products of forty probabilities near 1e-3 are below the smallest single-precision number."""
    rng = np.random.default_rng(0)
    parents = np.arange(-1, 40)[None]
    law = np.full((1, 41, 1000), 1e-3, dtype=np.float32)
    for rule in RULES:
        draws = Draws(np.full((1, 41), 0.999, dtype=np.float32), np.zeros(1, dtype=np.float32))
        got = verify(rule, parents, rng.integers(1, 1000, size=(1, 41)), law, law, draws)
        assert int(got.num_accepted[0]) == (0 if rule in ("greedy", "one_hot") else 40), rule


def test_knobs_are_checked() -> None:
    case = random_round(seed=0, chain=True)
    with pytest.raises(InputError, match="theta: must be left out for token_rejection"):
        verify("token_rejection", **case, theta=0.3)
    with pytest.raises(InputError, match=r"leniency: must be in \[1e-06, 1\], got 0"):
        verify("leniency", **case, leniency=0.0)
    with pytest.raises(InputError, match="epsilon: must be in"):
        verify("typical_acceptance", **case, epsilon=float("nan"))
    with pytest.raises(InputError, match="rule: must be one of"):
        verify("votes", **case)  # type: ignore[arg-type]


def test_greedy_ties_go_to_the_lowest_id() -> None:
    law = np.array([[[0.4, 0.4, 0.2]]])
    assert verify("greedy", np.array([[-1]]), np.array([[0]]), None, law, None).bonus.tolist() == [0]


def test_what_a_rule_misses_is_named() -> None:
    case = random_round(seed=0)
    with pytest.raises(InputError, match="parents: must be chains"):
        branching = np.array([[-1, 0, 0]])
        token_rejection(
            branching, branching, np.ones((1, 3, 2)), np.ones((1, 3, 2)), Draws(np.ones((1, 3)), np.ones(1))
        )
    with pytest.raises(InputError, match="draft_probs: must have the shape"):
        verify("recursive_rejection", **(case | {"draft_probs": None}))
    with pytest.raises(InputError, match="draws: must be given"):
        verify("one_hot", **(case | {"draws": None}))
    with pytest.raises(InputError, match="target_probs: must have shape"):
        verify("greedy", **(case | {"target_probs": case["target_probs"][:, 1:]}))


@pytest.mark.parametrize("rule", [r for r in RULES if "sampled" in LABELS[r].draws and not LABELS[r].chains_only])
def test_what_deletions_leave_of_a_law_may_be_smaller_than_any_inverse(rule: Rule) -> None:
    """The elder takes all of the drafter's law but 1e-310, whose inverse is no number: the younger is then certain."""
    case = {
        "parents": np.array([[-1, 0, 0]]),
        "tokens": np.array([[0, 0, 1]]),
        "draft_probs": np.array([[[1 - 1e-310, 1e-310], [0.5, 0.5], [0.5, 0.5]]]),
        "target_probs": np.full((1, 3, 2), 0.5),
    }
    verify(rule, **case, draws=Draws(np.array([[0.5, 0.6, 0.4]]), np.array([0.5])))  # warnings are errors here
    laws = outcome(rule, **case)
    total = laws.accept_probs[0, 1:].sum()
    assert 0 <= total <= 1 + 1e-12 and laws.bonus_probs.sum(-1) == pytest.approx(1)
