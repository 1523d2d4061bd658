"""The target drafts for itself with some of its layers: early exit, and Draft & Verify's skipped sublayers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from specsim.documents import read_json
from specsim.errors import InputError
from specsim.executor.cache import KvCache, TailMask
from specsim.executor.drafters.base import Extra, Frontier, Prompt, Verified
from specsim.executor.llama import Llama, Sublayers, text_lengths
from specsim.methods.round import Drafting
from specsim.model.count import param_counts
from specsim.model.spec import ModelSpec


class SelfDrafter:
    """The target without some of its sublayers, on the target's own cache.

    So the text costs it nothing, and what it writes for drafted nodes lies where the target's pass over them then
    writes the true keys and values. What is kept decides how well it drafts, never what comes out.

    Args:
        target: The model.
        sublayers: For each layer, whether its attention and its MLP run; ``early_exit`` and ``without`` make them.

    Raises:
        InputError: unless there is one pair for each layer.

    Source: Zhang et al. 2023 (arXiv:2309.08168).
    """

    drafting: Final[Drafting] = "autoregressive"
    max_depth: Final = None
    needs_features: Final = False
    needs_prompt_logits: Final = False

    def __init__(self, target: Llama, sublayers: Sublayers) -> None:
        if len(sublayers) != target.shape.num_layers:
            raise InputError("sublayers", f"must be {target.shape.num_layers}, one pair per layer", len(sublayers))
        self.target, self.sublayers = target, sublayers
        self.max_context_tokens: int | None = target.shape.max_context_tokens
        self.cache: KvCache

    @property
    def pending_tokens(self) -> list[int]:
        return [1] * len(self.cache.lengths)

    def start(self, prompt: Prompt) -> None:
        self.cache = prompt.cache

    def law(self, frontier: Frontier) -> torch.Tensor:
        mask = frontier.mask
        if mask is not None:  # the root is no text here: it is the first slot of the round, which every node sees
            mask = TailMask(torch.nn.functional.pad(mask.seen, (1, 0), value=True))
        positions = text_lengths(self.cache) + frontier.depths
        return self.target.logits(self.target.hidden(frontier.tokens, positions, self.cache, mask, self.sublayers))

    def extra(self) -> Extra | None:
        return None

    def observe(self, verified: Verified) -> None:
        """The cache is the target's, which keeps what was accepted."""

    def keep_rows(self, rows: list[int]) -> None:
        """As in ``observe``."""


def early_exit(num_layers: int, num_kept: int) -> Sublayers:
    """The first ``num_kept`` layers, then the LM head. Raises InputError unless that is 1 to all of them.

    >>> early_exit(3, 1)
    [(True, True), (False, False), (False, False)]
    """
    if not 1 <= num_kept <= num_layers:
        raise InputError("num_kept", f"must be from 1 to {num_layers}", num_kept)
    return [(layer < num_kept, layer < num_kept) for layer in range(num_layers)]


def without(num_layers: int, attention: Sequence[int], mlp: Sequence[int]) -> Sublayers:
    """All but the attention of some layers and the MLP of others. Raises InputError for a layer that there is not.

    >>> without(2, attention=[1], mlp=[])
    [(True, True), (False, True)]
    """
    for name, skipped in (("attention", attention), ("mlp", mlp)):
        if bad := [layer for layer in skipped if not 0 <= layer < num_layers]:
            raise InputError(name, f"must be layers from 0 to {num_layers - 1}", bad[0])
    return [(layer not in attention, layer not in mlp) for layer in range(num_layers)]


def part_of(model: ModelSpec, sublayers: Sublayers) -> ModelSpec:
    """What such a drafter costs: the model with as many whole layers as have the weights of the sublayers that run.

    >>> from specsim.model import load_model
    >>> part_of(load_model("llama-2-13b"), without(40, attention=range(24), mlp=range(10))).layers[0].count
    25
    """
    counts, (layer,) = param_counts(model), model.layers
    weights = [counts["attention"] * attends + counts["mlp"] * mixes for attends, mixes in sublayers]
    kept = max(1, round(sum(weights) / (counts["attention"] + counts["mlp"])))
    return model.model_copy(update={"layers": (layer.model_copy(update={"count": kept}),)})


def load_skipped(path: Path, target: Llama) -> SelfDrafter:
    """The drafter whose ``skipped_attention`` and ``skipped_mlp`` stand in a file that a search has written.

    Raises:
        InputError: where these are not there, or no lists of the target's layers.
    """
    found = read_json(path)
    skipped = []
    for name in ("skipped_attention", "skipped_mlp"):
        layers = found.get(name) if isinstance(found, dict) else None
        if not isinstance(layers, list) or not all(isinstance(layer, int) for layer in layers):
            raise InputError(name, f"must be a list of layers in {path.name}", layers)
        skipped.append(layers)
    return SelfDrafter(target, without(target.shape.num_layers, *skipped))
