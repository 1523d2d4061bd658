"""Ceilings of sampled chains: check C6, and the rules of the package held to them by exact enumeration."""

from __future__ import annotations

import numpy as np
import pytest

from specsim.acceptance.limits import ceiling_iid, entropy_moments, optimum
from specsim.acceptance.limits_sampled import ceiling_from_drafts, ceiling_from_texts, ceiling_sampled_chain
from specsim.decoding import outcome
from specsim.decoding.law import Language, draft_rows, total_variation
from specsim.tree import DraftTree


def test_c6_a_chain_drawn_from_the_targets_own_law_is_accepted_whole() -> None:
    law = np.full(16, 1 / 16)
    assert ceiling_sampled_chain(law, law, 16).token_rule[-1] == pytest.approx(16)
    assert optimum(lambda path: law, 16).accepted[-1] == pytest.approx(1)  # one level of 16 tokens
    assert float(ceiling_iid(*entropy_moments(law), 16)) == pytest.approx(2)


@pytest.mark.parametrize("seed", range(4))
def test_the_rules_reach_their_ceilings_and_none_passes_the_last(seed: int) -> None:
    rng = np.random.default_rng(seed)
    target = Language.random(rng, sharpness=0.8)
    draft = target.near(rng, noise=0.8)
    tree = DraftTree.chain(3)
    found = ceiling_sampled_chain(list(target.laws), list(draft.laws), 3)
    tokens, weights = draft_rows(tree, draft, "sampled")
    parents = np.broadcast_to(np.array(tree.parents), tokens.shape)
    laws = draft.at_nodes(parents, tokens), target.at_nodes(parents, tokens)
    exact = {
        rule: float(weights @ np.asarray(outcome(rule, parents, tokens, *laws).expected_accepted(parents)))
        for rule in ("token_rejection", "block_verification", "traversal")
    }
    assert found.token_rule[-1] == pytest.approx(exact["token_rejection"])
    assert found.best_rule[-1] == pytest.approx(exact["block_verification"]) == pytest.approx(exact["traversal"])
    apart = [total_variation(target.joint(n), draft.joint(n)) for n in (1, 2, 3)]
    assert found.any_rule[-1] == pytest.approx(3 - sum(apart))
    assert (found.token_rule <= found.best_rule + 1e-12).all() and (found.best_rule <= found.any_rule + 1e-12).all()


def test_equal_laws_after_every_text_and_the_drafts_themselves_agree() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(3), size=2)
    together = ceiling_sampled_chain(p, q, 4)
    axes = (
        [np.broadcast_to(p, (3,) * (d + 1)) for d in range(4)],
        [np.broadcast_to(q, (3,) * (d + 1)) for d in range(4)],
    )
    listed = ceiling_sampled_chain(*axes, 4)
    drawn = rng.choice(3, p=q, size=(40_000, 4))
    sampled = ceiling_from_drafts(p[drawn], q[drawn])
    text = rng.choice(3, p=p, size=40_000)
    forced = ceiling_from_texts([-np.log(p[text])], [-np.log(q[text])], 4)
    for one, two, three, four in zip(together, listed, sampled, forced, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-9)
        np.testing.assert_allclose(three, two, atol=0.03)
        np.testing.assert_allclose(four, two, atol=0.03)
