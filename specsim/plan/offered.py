"""What arrives in a replication: drawn anew from a description, or the same trace each time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from specsim.errors import InputError
from specsim.workload.requests import Requests
from specsim.workload.spec import WorkloadSpec, generate


@dataclass(frozen=True, eq=False)
class Offered:
    """Requests by replication: every configuration compared sees the same ones.

    Args:
        workload: A description that each replication draws from, or a recorded trace, which each repeats.
        num_requests: Drawn of a description; of a trace, the first so many, all of them where None.
        seed: Of the draws.
        ttft_slo_s, tpot_slo_s: Targets that requests carry, for policies that look at them; None: their own.

    >>> from specsim.workload.arrivals import Poisson
    >>> from specsim.workload.presets import preset
    >>> offered = Offered(preset("chat", Poisson(rate_per_s=2)), num_requests=10, seed=0)
    >>> len(offered.requests(0)), bool((offered.requests(0).arrival_s == offered.requests(1).arrival_s).all())
    (10, False)
    """

    workload: WorkloadSpec | Requests
    num_requests: int | None
    seed: int
    ttft_slo_s: float | None = None
    tpot_slo_s: float | None = None

    def requests(self, replication: int) -> Requests:
        """Those of one replication.

        Raises:
            InputError: for a description without a number of requests.
        """
        drawn = self._drawn(replication)
        if self.ttft_slo_s is not None:
            drawn = replace(drawn, ttft_slo_s=np.full(len(drawn), self.ttft_slo_s))
        if self.tpot_slo_s is not None:
            drawn = replace(drawn, tpot_slo_s=np.full(len(drawn), self.tpot_slo_s))
        return drawn

    def _drawn(self, replication: int) -> Requests:
        if isinstance(self.workload, Requests):
            return self.workload[: self.num_requests]
        if self.num_requests is None:
            raise InputError("requests", "must be said where they are drawn", None)
        return generate(self.workload, self.num_requests, np.random.default_rng([self.seed, replication]))

    def slo(self) -> tuple[float | None, float | None]:
        """Targets for the first token and the time per token: those said here, else the description's."""
        own = self.workload if isinstance(self.workload, WorkloadSpec) else None
        ttft = self.ttft_slo_s if self.ttft_slo_s is not None or own is None else own.ttft_slo_s
        tpot = self.tpot_slo_s if self.tpot_slo_s is not None or own is None else own.tpot_slo_s
        return ttft, tpot

    def outcomes_seed(self, replication: int) -> int:
        """Of the rounds' outcomes in a replication."""
        return self.seed + 1_000_003 * replication

    def mean_context(self) -> int:
        """Tokens behind a request in the middle of its answer, on average over a first draw."""
        drawn = self._drawn(0)
        return max(1, round(float(np.mean(drawn.prompt_tokens + drawn.output_tokens / 2))))
