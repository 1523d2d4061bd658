"""When requests arrive."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from specsim.documents import Document

Floats = NDArray[np.float64]
Rate = Annotated[float, Field(gt=0, le=1e9)]


class Poisson(Document):
    """Independent of each other, ``rate_per_s`` on average."""

    kind: Literal["poisson"] = "poisson"
    rate_per_s: Rate

    def gaps(self, num: int, rng: np.random.Generator) -> Floats:
        """Seconds between one arrival and the next, ``[num]``."""
        return rng.exponential(1 / self.rate_per_s, num)


class Gamma(Document):
    """Gaps from a gamma law: ``burstiness`` 1 is Poisson, below it arrivals come in bursts, above it more evenly.

    The coefficient of variation of the gaps is ``burstiness ** -0.5``; so `vllm bench serve --burstiness` has it.

    >>> import numpy as np
    >>> gaps = Gamma(rate_per_s=4, burstiness=0.25).gaps(200_000, np.random.default_rng(0))
    >>> round(float(gaps.mean()), 2), round(float(gaps.std() / gaps.mean()), 1)
    (0.25, 2.0)
    """

    kind: Literal["gamma"] = "gamma"
    rate_per_s: Rate
    burstiness: float = Field(gt=0, le=1e6)

    def gaps(self, num: int, rng: np.random.Generator) -> Floats:
        return rng.gamma(self.burstiness, 1 / (self.burstiness * self.rate_per_s), num)


class Uniform(Document):
    """One every ``1 / rate_per_s`` seconds."""

    kind: Literal["uniform"] = "uniform"
    rate_per_s: Rate

    def gaps(self, num: int, rng: np.random.Generator) -> Floats:
        return np.full(num, 1 / self.rate_per_s)


class Burst(Document):
    """All at once, at time 0: what a benchmark with an infinite request rate does."""

    kind: Literal["burst"] = "burst"

    def gaps(self, num: int, rng: np.random.Generator) -> Floats:
        return np.zeros(num)


class ClosedLoop(Document):
    """``num_users`` users, each sending the next request ``think_s`` after the answer to the one before."""

    kind: Literal["closed_loop"] = "closed_loop"
    num_users: int = Field(ge=1, le=1_000_000)
    think_s: float = Field(default=0.0, ge=0, le=1e6)


Arrivals = Annotated[Poisson | Gamma | Uniform | Burst | ClosedLoop, Field(discriminator="kind")]
