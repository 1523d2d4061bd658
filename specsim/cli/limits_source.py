"""Where ``specsim limits`` has the target's surprisals from: a file, two moments, or the shipped models."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from specsim.documents import MAX_DOCUMENT_BYTES
from specsim.errors import InputError

if TYPE_CHECKING:
    from specsim.acceptance.limits import LimitEstimate
    from specsim.acceptance.limits_sampled import SampledCeilings
    from specsim.acceptance.profile import AcceptanceProfile

Array = NDArray[np.float64]

NUM_TEXTS: Final = 24
"""Texts that the shipped target writes at most, and tokens of each: seconds of one core."""
TEXT_TOKENS: Final = 256
PROFILE_PROMPTS: Final = 8
PROFILE_TOKENS: Final = 128
SAMPLED_LEN: Final = 8


@dataclass(frozen=True)
class Surprisals:
    """What is known of a workload.

    Attributes:
        mu, mu2: Mean and mean square of the surprisal, nats.
        texts: Surprisals by text; none where only the moments are given.
        draft_texts: The same tokens under the drafter, where known.
        profile: Acceptance measured on the way.
        source: Where from, for people.
    """

    mu: float
    mu2: float
    source: str
    texts: tuple[Array, ...] = ()
    draft_texts: tuple[Array, ...] = ()
    profile: AcceptanceProfile | None = None

    @property
    def cross_entropy(self) -> float | None:
        """Mean surprisal of the target's tokens under the drafter."""
        return float(np.concatenate(self.draft_texts).mean()) if self.draft_texts else None

    def estimate(self, num_drafted: NDArray[np.int64], horizon: int | None) -> LimitEstimate | None:
        """The limit from the texts, if there are any."""
        from specsim.acceptance.limits import limit_from_logprobs

        return limit_from_logprobs(self.texts, num_drafted, horizon) if self.texts else None

    def sampled(self) -> SampledCeilings | None:
        """Ceilings of chains drawn from the drafter, where both laws are known."""
        from specsim.acceptance.limits_sampled import ceiling_from_texts

        if not self.draft_texts:
            return None
        longest = max(len(text) for text in self.texts)
        return ceiling_from_texts(self.texts, self.draft_texts, min(SAMPLED_LEN, longest))


def from_moments(text: str) -> Surprisals:
    """From ``mu,mu2``.

    >>> from_moments("0.86,3.31").mu2
    3.31
    """
    parts = text.split(",")
    try:
        mu, mu2 = (float(part) for part in parts)
    except ValueError:
        raise InputError("entropy", "must be two numbers, mu,mu2 in nats", text) from None
    if not (0 < mu < np.inf and mu**2 * (1 - 1e-9) <= mu2 < np.inf):
        raise InputError("entropy", "must be mu > 0 and mu2 >= mu squared, nats", text)
    return Surprisals(mu, mu2, f"moments as given: mu {mu:g}, mu2 {mu2:g} nats")


def from_file(path: Path) -> Surprisals:
    """From JSON lines: each a list of logprobs (nats, <= 0) of one text's tokens, or an object with ``logprobs`` and,
    of the same tokens under the drafter, ``draft_logprobs``.

    Raises:
        InputError: naming file and line.
    """
    from specsim.acceptance.limits import surprisal_moments

    texts: list[Array] = []
    drafts: list[Array] = []
    for number, line in enumerate(_lines(path), start=1):
        where = f"{path.name}:{number}"
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):
            raise InputError(where, "not valid JSON (is the file truncated?)") from None
        if isinstance(data, list):
            data = {"logprobs": data}
        if not isinstance(data, dict) or not {"logprobs"} <= data.keys() <= {"logprobs", "draft_logprobs"}:
            raise InputError(where, "must be a list of logprobs, or an object of logprobs and draft_logprobs")
        texts.append(_surprisals(where, "logprobs", data["logprobs"]))
        if "draft_logprobs" in data:
            drafts.append(_surprisals(where, "draft_logprobs", data["draft_logprobs"]))
            if len(drafts[-1]) != len(texts[-1]):
                raise InputError(f"{where}: draft_logprobs", f"must be {len(texts[-1])} numbers", len(drafts[-1]))
    if not texts:
        raise InputError(path.name, "must hold at least one text")
    if drafts and len(drafts) != len(texts):
        raise InputError(path.name, "must give draft_logprobs of every text or of none", len(drafts))
    mu, mu2 = surprisal_moments(texts)
    if mu <= 0:
        raise InputError(path.name, "must hold a token that was not certain: the limit is infinite", mu)
    return Surprisals(mu, mu2, f"{len(texts)} texts of {path.name}", tuple(texts), tuple(drafts))


def _lines(path: Path) -> list[str]:
    try:
        if path.stat().st_size > 16 * MAX_DOCUMENT_BYTES:
            raise InputError(path.name, f"must be at most {16 * MAX_DOCUMENT_BYTES} bytes", path.stat().st_size)
        return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(str(path), f"can not be read ({error})") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError("path", f"can not be read ({error})", str(path)) from None


def _surprisals(where: str, name: str, values: Any) -> Array:
    is_numbers = isinstance(values, list) and all(isinstance(v, int | float) and type(v) is not bool for v in values)
    if not is_numbers or not values:
        raise InputError(f"{where}: {name}", "must be a list of numbers")
    logs = np.array(values, dtype=np.float64)
    if not ((logs <= 1e-6) & (logs > -np.inf)).all():
        worst = int(np.flatnonzero(~((logs <= 1e-6) & (logs > -np.inf)))[0])
        raise InputError(
            f"{where}: {name}[{worst}]", "must be a finite logarithm of a probability, <= 0", values[worst]
        )
    return np.asarray(np.maximum(-logs, 0.0))


def from_executor(temperature: float, seed: int = 0) -> Surprisals:
    """Texts that the shipped target writes, under it and under the shipped draft; acceptance on other prompts.

    At temperature 0 the text is greedy and the surprisals are the drafter's of it: its belief, as calibrated as it is.
    """
    from specsim.acceptance.limits import surprisal_moments
    from specsim.calibrate.acceptance import profile_from_records, recording_tree
    from specsim.cli.measure import open_session, progress
    from specsim.decoding import StaticTree
    from specsim.executor.drafters.model import ModelDrafter
    from specsim.executor.method import Method, Sampling
    from specsim.executor.rounds import decode
    from specsim.executor.surprisal import text_surprisals
    from specsim.executor.texts import start
    from specsim.tree import DraftTree

    session = open_session("validate", ffn_size=None, temperature=temperature, seed=seed)
    rule = "greedy" if temperature == 0 else "one_hot"
    plain = Method(StaticTree(DraftTree.root_only(), "top"), rule, Sampling(temperature))  # type: ignore[arg-type]
    prompts, others = session.prompts[:-PROFILE_PROMPTS][:NUM_TEXTS], len(session.prompts) - PROFILE_PROMPTS
    texts = start(session.target, None, prompts, TEXT_TOKENS + max(map(len, prompts)) + 1, seed)
    with progress("Writing texts", TEXT_TOKENS) as advance:
        for _ in decode(texts, plain, TEXT_TOKENS):
            advance()
    law, models = Sampling(temperature or 1.0), (session.target, session.draft)
    target_says, draft_says = (
        tuple(text_surprisals(model, texts.finished[i], len(prompt), law) for i, prompt in enumerate(prompts))
        for model in models
    )
    tree, records = recording_tree(), []
    method = Method(StaticTree(tree, "top"), rule, Sampling(temperature))  # type: ignore[arg-type]
    with progress("Recording acceptance", PROFILE_PROMPTS) as advance:
        for number in range(others, others + PROFILE_PROMPTS):
            run = session.run(method, ModelDrafter(session.target, session.draft), number, PROFILE_TOKENS)
            records += [timed.record for timed in run]
            advance()
    source = f"the shipped models at temperature {temperature:g}, children the most probable, rule {rule}"
    profile = profile_from_records(records, tree, "free", source)
    if temperature == 0:
        mu, mu2 = surprisal_moments(draft_says)
        said = f"belief of the shipped draft in {len(prompts)} greedy texts of the shipped target"
        return Surprisals(mu, mu2, said, draft_says, (), profile)
    mu, mu2 = surprisal_moments(target_says)
    said = f"{len(prompts)} texts of {TEXT_TOKENS} tokens of the shipped target at temperature {temperature:g}"
    return Surprisals(mu, mu2, said, target_says, draft_says, profile)
