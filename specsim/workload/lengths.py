"""How long prompts and answers are."""

from __future__ import annotations

from math import log
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from specsim.documents import Document
from specsim.errors import InputError

Ints = NDArray[np.int64]
Tokens = Annotated[int, Field(ge=1, le=100_000_000)]
P90: Final = 1.2815515655446004
"""The standard normal's 90th percentile."""


class Fixed(Document):
    """Every one has ``tokens``."""

    kind: Literal["fixed"] = "fixed"
    tokens: Tokens

    def draw(self, num: int, rng: np.random.Generator) -> Ints:
        return np.full(num, self.tokens, np.int64)


class LogNormal(Document):
    """Log-normal by its median and 90th percentile, rounded, and held between ``least`` and ``most``.

    >>> import numpy as np
    >>> drawn = LogNormal(median=1000, p90=4000).draw(100_000, np.random.default_rng(0))
    >>> np.quantile(drawn, [0.5, 0.9]).round(-2).tolist()
    [1000.0, 4000.0]
    """

    kind: Literal["log_normal"] = "log_normal"
    median: float = Field(ge=1, le=1e8)
    p90: float = Field(ge=1, le=1e8)
    least: Tokens = 1
    most: Tokens = 1_000_000

    @model_validator(mode="after")
    def _rises(self) -> LogNormal:
        if self.p90 < self.median:
            raise ValueError(f"p90 must be >= the median {self.median:g}")
        if self.most < self.least:
            raise ValueError(f"most must be >= least, {self.least}")
        return self

    def draw(self, num: int, rng: np.random.Generator) -> Ints:
        sigma = log(self.p90 / self.median) / P90
        return np.clip(np.rint(self.median * np.exp(sigma * rng.standard_normal(num))), self.least, self.most).astype(
            np.int64
        )


class Empirical(Document):
    """One of ``tokens``, each as likely as it is often there."""

    kind: Literal["empirical"] = "empirical"
    tokens: tuple[Tokens, ...] = Field(min_length=1)

    def draw(self, num: int, rng: np.random.Generator) -> Ints:
        return rng.choice(np.array(self.tokens, np.int64), num)


Lengths = Annotated[Fixed | LogNormal | Empirical, Field(discriminator="kind")]


def paired(prompts: Ints, outputs: Ints, num: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """``num`` pairs drawn with replacement from measured pairs ``[N]``: long prompts keep their own answers.

    Raises:
        InputError: for arrays of different lengths, or none at all.
    """
    if len(prompts) != len(outputs) or not len(prompts):
        raise InputError("outputs", f"must be one per prompt ({len(prompts)}), at least one", len(outputs))
    rows = rng.integers(len(prompts), size=num)
    return prompts[rows], outputs[rows]
