"""Phones that draft and servers that verify: cost of a client on a server, batteries, and who goes where.

Source: Koh & Yang 2025 (arXiv:2511.01695): the delays, the objective and the two-phase matching. There, a rejected
token is replaced by a sample of the target itself, to avoid sending the draft's law: that is exact for greedy decoding
alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specsim.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Edge:
    """M clients and E servers.

    Args:
        draft_s: ``[M]`` time that each client takes to draft a round.
        draft_joules: ``[M]`` energy of that.
        battery_joules: ``[M]`` what is left in each.
        upload_bits: ``[M]`` size of a round's draft.
        bandwidth_hz: ``[E]`` of each server's cell, shared evenly by its clients.
        snr: ``[M, E]`` of each client at each server, linear.
        verify_flops: ``[M]`` work of verifying a round.
        server_flops_per_s: ``[E]`` shared evenly by a server's clients.
        per_client_s: Time that a server loses to each further client (the paper's kappa).
        balance: Weight of the squared difference of draft and upload time, which keeps the two in step.
        energy_weight: Weight of energy over what is left of the battery.

    Raises:
        InputError: for shapes that do not agree, or a quantity that is not positive.
    """

    draft_s: Floats
    draft_joules: Floats
    battery_joules: Floats
    upload_bits: Floats
    bandwidth_hz: Floats
    snr: Floats
    verify_flops: Floats
    server_flops_per_s: Floats
    per_client_s: float = 1e-3
    balance: float = 1e-2
    energy_weight: float = 20.0

    def __post_init__(self) -> None:
        clients, servers = self.snr.shape if self.snr.ndim == 2 else (0, 0)
        shapes = {"draft_s": clients, "draft_joules": clients, "battery_joules": clients, "upload_bits": clients}
        shapes |= {"verify_flops": clients, "bandwidth_hz": servers, "server_flops_per_s": servers}
        for name, size in shapes.items():
            values = getattr(self, name)
            if values.shape != (size,) or not size:
                raise InputError(name, f"must be {size} numbers, as snr has it", values.shape)
            if not (values > 0).all():
                raise InputError(name, "must be > 0", float(values.min()))
        if not (self.snr > 0).all():
            raise InputError("snr", "must be > 0", float(self.snr.min()))

    def delays(self, server_of: Ints) -> tuple[Floats, Floats, Floats]:
        """Upload, verification and total time of a round of each client ``[M]``, on its server ``server_of[M]``."""
        load = np.bincount(server_of, minlength=self.snr.shape[1])[server_of]
        rows = np.arange(len(server_of))
        rate = self.bandwidth_hz[server_of] / load * np.log2(1 + self.snr[rows, server_of])
        upload = self.upload_bits / rate
        verify = self.per_client_s * load + self.verify_flops * load / self.server_flops_per_s[server_of]
        return upload, verify, np.maximum(self.draft_s, upload) + verify

    def objective(self, server_of: Ints) -> float:
        """Sum over clients of local and server delay, imbalance, and energy over battery."""
        upload, verify, _ = self.delays(server_of)
        imbalance = self.balance * (self.draft_s - upload) ** 2
        energy = self.energy_weight * self.draft_joules / self.battery_joules
        return float(np.sum(self.draft_s + upload + verify + imbalance + energy))

    def rounds_left(self) -> Ints:
        """Rounds ``[M]`` that each battery still has in it: a client whose battery is empty drafts no more."""
        left: Ints = np.floor(self.battery_joules / self.draft_joules).astype(np.int64)
        return left


def matched(edge: Edge, most_swaps: int = 10_000) -> Ints:
    """Two-phase matching: each client to its best channel, then moves and swaps as long as one improves the objective.

    Every step improves it, so it ends; ``most_swaps`` bounds the time.
    """
    server_of = max_snr(edge)
    best = edge.objective(server_of)
    for _ in range(most_swaps):
        better = _best_step(edge, server_of, best)
        if better is None:
            return server_of
        server_of, best = better
    return server_of


def _best_step(edge: Edge, server_of: Ints, best: float) -> tuple[Ints, float] | None:
    """The first move of a client, or swap of two, that improves the objective."""
    clients, servers = edge.snr.shape
    for client in range(clients):
        for server in range(servers):
            if server != server_of[client]:
                other = server_of.copy()
                other[client] = server
                if (value := edge.objective(other)) < best * (1 - 1e-12):
                    return other, value
        for second in range(client + 1, clients):
            if server_of[second] != server_of[client]:
                other = server_of.copy()
                other[[client, second]] = other[[second, client]]
                if (value := edge.objective(other)) < best * (1 - 1e-12):
                    return other, value
    return None


def max_snr(edge: Edge) -> Ints:
    """Baseline: each client on the server that hears it best."""
    return np.asarray(np.argmax(edge.snr, axis=1))


def max_compute(edge: Edge) -> Ints:
    """Baseline: each client, in turn, on the server with the most arithmetic left per client."""
    load, chosen = np.zeros(edge.snr.shape[1]), []
    for _ in range(edge.snr.shape[0]):
        server = int(np.argmax(edge.server_flops_per_s / (load + 1)))
        load[server] += 1
        chosen.append(server)
    return np.array(chosen)


def at_random(edge: Edge, rng: np.random.Generator) -> Ints:
    """Baseline: any server."""
    return np.asarray(rng.integers(edge.snr.shape[1], size=edge.snr.shape[0]))


BASELINES: dict[str, Callable[[Edge], Ints]] = {"max_snr": max_snr, "max_compute": max_compute}
