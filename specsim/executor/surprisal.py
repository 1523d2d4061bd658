"""How surprising a text is to a model: one pass over it, nothing drafted."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from specsim.executor.llama import Llama
from specsim.executor.method import Sampling


@torch.inference_mode()
def text_surprisals(model: Llama, text: list[int], begin: int, sampling: Sampling) -> NDArray[np.float64]:
    """``-log p`` of the tokens from place ``begin`` (at least 1) on, nats, under the model's law at this temperature.

    A token that the law gives no probability counts as one of 1e-12.
    """
    tokens = torch.tensor(text, device=model.device)
    hidden = model.prefill(tokens[None, :-1], model.new_cache(len(text)))
    laws = sampling.law(model.logits(hidden)[0, begin - 1 :].double())
    taken = laws.gather(1, tokens[begin:, None])[:, 0]
    return np.asarray(-torch.log(taken.clamp(min=1e-12)).cpu().numpy())
