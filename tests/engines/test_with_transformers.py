"""A real engine's run of an export: Transformers' assisted generation with the shipped tiny models.

What it accepts, round by round, is what the executor accepts; read back, it makes the acceptance that was predicted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from specsim.engines.imports import Observation, acceptance_of, merged, read_observations
from specsim.engines.plan import DraftPlan
from specsim.engines.small_surfaces import ASSISTANT_FILE, to_transformers
from specsim.tree import DraftTree

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

NUM_TOKENS, DRAFT_LEN = 40, 4


def assisted(target: Any, draft: Any, prompt: list[int], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Tokens out, and of each round the tokens proposed and matched."""
    from transformers.generation.candidate_generator import AssistedCandidateGenerator as Generator

    rounds: dict[str, Any] = {"num_matches": [], "num_proposed": []}
    update, propose = Generator.update_candidate_strategy, Generator.get_candidates
    proposed = [0]

    def recorded(self: Any, input_ids: Any, scores: Any, num_matches: Any) -> None:
        rounds["num_matches"].append(int(num_matches))
        rounds["num_proposed"].append(proposed[0])
        update(self, input_ids, scores, num_matches)

    def counted(self: Any, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        found = propose(self, input_ids, *args, **kwargs)
        proposed[0] = found[0].shape[1] - input_ids.shape[1]
        return found

    monkeypatch.setattr(Generator, "update_candidate_strategy", recorded)
    monkeypatch.setattr(Generator, "get_candidates", counted)
    ids = torch.tensor([prompt])
    with torch.no_grad():
        out = target.generate(
            ids, assistant_model=draft, do_sample=False, max_new_tokens=NUM_TOKENS,
            attention_mask=torch.ones_like(ids), pad_token_id=0,
        )  # fmt: skip
    rounds["tokens"] = out[0, len(prompt) :].tolist()
    monkeypatch.undo()
    return rounds


@pytest.mark.filterwarnings("default")
def test_an_export_runs_and_accepts_what_the_executor_accepts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from specsim.executor.session import TINY, Session

    session = Session(ffn_size=None)
    target, draft = (
        transformers.AutoModelForCausalLM.from_pretrained(TINY / name, dtype=torch.float32)
        for name in ("target", "draft")
    )
    plan = DraftPlan.chain("tiny/target", "draft_model", DRAFT_LEN, draft="tiny/draft")
    written = to_transformers(plan, "5.23.0")
    draft.generation_config.update(**json.loads(written.files[ASSISTANT_FILE]))
    seen: list[Observation] = []
    ours: list[int] = []
    for number in range(4):
        found = assisted(target, draft, session.prompts[number], monkeypatch)
        records = [t.record for t in session.generate(DraftTree.chain(DRAFT_LEN), number, NUM_TOKENS)]
        # Near the limit Transformers proposes less, and the last round may be cut.
        whole = next(i for i, n in enumerate([*found["num_proposed"][:-1], 0]) if n != DRAFT_LEN)
        assert found["num_matches"][:whole] == [r.num_accepted for r in records][:whole]
        assert whole >= len(records) - 3
        ours += [r.num_accepted for r in records][:whole]
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps({k: found[k][:whole] for k in ("num_matches", "num_proposed")}))
        seen += read_observations(path)
    read = merged(seen)
    assert read.tokens_per_round == pytest.approx(1 + sum(ours) / len(ours))
    profile = acceptance_of(seen)
    kept = [sum(count >= depth for count in ours) for depth in range(1, DRAFT_LEN + 1)]
    assert profile.accept_prob[0, 0] == pytest.approx(kept[0] / len(ours))
    assert profile.num_trials is not None and profile.num_trials[1] == kept[0]
