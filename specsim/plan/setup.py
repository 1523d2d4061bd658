"""A deployment as it is served: what is drafted, how replicas are run, and what it costs while it is up."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from specsim.plan.offered import Offered
from specsim.scenario import Deployment
from specsim.sim.config import ServerConfig
from specsim.sim.kernel import Tables
from specsim.sim.policies import Admission, DraftControl, Routing
from specsim.sim.policies.basic import FirstCome
from specsim.sim.policies.routing import LeastLoaded
from specsim.sim.serve import ServingRun, serve
from specsim.sim.setup import server_tables
from specsim.workload.log import RequestLog


@dataclass(frozen=True)
class Setup:
    """One way to serve.

    Args:
        name: For people: what is drafted, and what else is varied.
        deployment: One replica's devices and models.
        control: How much is drafted; a longest draft of 0 is plain decoding.
        config: Of each replica.
        admission, routing: Who is first, and which replica takes whom.
    """

    name: str
    deployment: Deployment
    control: DraftControl
    config: ServerConfig = ServerConfig()  # noqa: RUF009  # a frozen value
    admission: Admission = FirstCome()  # noqa: RUF009
    routing: Routing = LeastLoaded()  # noqa: RUF009

    @cached_property
    def tables(self) -> Tables:
        """Seconds of steps, priced once for all runs."""
        return server_tables(self.deployment, self.control, self.config)

    @property
    def gpus_per_replica(self) -> int:
        return self.deployment.scenario.tensor_parallel * self.config.pipeline_parallel

    @property
    def usd_per_s_per_replica(self) -> float | None:
        price = self.deployment.usd_per_s
        return None if price is None else price * self.config.pipeline_parallel

    @property
    def watts_per_replica(self) -> float | None:
        """At the design power of its devices: what it draws at most."""
        tdp = self.deployment.hardware.tdp_w
        return None if tdp is None else tdp.value * self.gpus_per_replica

    def run(
        self,
        offered: Offered,
        replication: int,
        replicas: int,
        *,
        keep_steps: bool = False,
        told: Callable[[int], None] = lambda num_left: None,
    ) -> ServingRun:
        """Serve the requests of one replication; ``told`` hears now and then how many more have left.

        Requests differ in acceptance where the deployment's acceptance knows how. An interrupt ends the run with the
        records so far and the verdict ``interrupted``.
        """
        logs: list[RequestLog] = []

        def sink(log: RequestLog) -> None:
            logs.append(log)
            told(len(log))

        seed = offered.outcomes_seed(replication)
        run = serve(
            self.deployment,
            offered.requests(replication),
            control=self.control,
            replicas=replicas,
            admission=self.admission,
            routing=self.routing,
            config=self.config,
            seed=seed,
            tables=self.tables,
            compiled=True if "numba" in sys.modules else None,  # an earlier run found it worth its loading
            sink=sink,
            keep_steps=keep_steps,
        )
        return replace(run, requests=_in_order([*logs, run.requests]))


def _in_order(logs: list[RequestLog]) -> RequestLog:
    """Chunks as one log by number; an interrupt may have left a request twice."""
    columns = {name: np.concatenate([getattr(log, name) for log in logs]) for name in RequestLog.__dataclass_fields__}
    order = np.unique(columns["request"], return_index=True)[1]
    return RequestLog(**{name: column[order] for name, column in columns.items()})
