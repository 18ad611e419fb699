"""Two clients that ask for more than a cluster can serve, and what each got meanwhile."""

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np

from fairlane.metrics import Table, delivered_between
from fairlane.policies.registry import create_policy
from fairlane.records import Run
from fairlane.simulator.cluster import CentralCluster, Cluster, RoutedCluster
from fairlane.simulator.exchange import Exchange
from fairlane.simulator.profile import get_profile
from fairlane.simulator.routers import Reach, make_router
from fairlane.simulator.run import simulate_cluster
from fairlane.simulator.serving import NO_NOISE, AnyServer, ServerConfig
from fairlane.workloads.trace import TracedRequest

SERVER = ServerConfig(profile=get_profile("a10g-llama-2-7b"), memory_tokens=4000, noise=NO_NOISE)
GAIN = 2.0 * SERVER.memory_tokens  # U of one replica
WEIGHTS = {"A": 4.0, "B": 1.0}
SENDING_S = 60.0
WARM_S = 20.0


def flood(
    replicas: int, seed: int = 1, clients: str = "AB", sending_s: float = SENDING_S
) -> list[TracedRequest]:
    """Each client alone asks for about twice what all replicas can do."""
    rng, now = Random(seed), 0.0
    requests: list[TracedRequest] = []
    while now < sending_s:
        now += rng.expovariate(8.0 * replicas * len(clients))
        prompt, output = rng.randint(50, 150), rng.randint(50, 150)
        requests.append(TracedRequest(len(requests), rng.choice(clients), now, prompt, output))
    return requests


def make_cluster(
    requests: list[TracedRequest],
    replicas: int,
    exchange: float | str,
    *,
    scheduler: str = "vtc",
    router: str = "round-robin",
    reach: dict[str, float] | None = None,
    guard: float = 0.05,
    max_debt: float | None = None,
    **options: Any,
) -> Cluster:
    """exchange: seconds, "off" or "central". options: of the scheduler."""
    if exchange == "central":
        return CentralCluster(requests, create_policy(scheduler, **options), replicas)
    policies = [create_policy(scheduler, **options) for _ in range(replicas)]
    hub = None
    if not isinstance(exchange, str):
        hub = Exchange(policies, exchange, gain=GAIN, guard=guard, max_debt=max_debt)
    return RoutedCluster(
        requests, policies, make_router(router, 0), Reach(replicas, reach or {}, 0), hub
    )


def serve(cluster: Cluster, server: AnyServer = SERVER, seed: int = 0) -> Run:
    return simulate_cluster(cluster, server, seed=seed)


def without_replicas(run: Run) -> Run:
    return replace(run, records=[replace(r, replica=None) for r in run.records], manifest={})


def served(run: Run, begin: float = WARM_S, end: float = SENDING_S) -> dict[str, float]:
    """Service of each client while all send."""
    table = Table.from_records(run.records)
    amounts = delivered_between(table, np.array([begin]), np.array([end]))[0]
    return dict(zip(table.clients, map(float, amounts), strict=True))


def ratio(run: Run) -> float:
    """What A got for each unit that B got."""
    amounts = served(run)
    return amounts["A"] / amounts["B"]
