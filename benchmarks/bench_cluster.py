"""What a simulated cluster costs: events a second, CPU and wall time, peak memory.

One row for each kind of exchange: none, every second, every 0.2 s. Clients are many more than
replicas, a few of them send most, and everyone asks for a little more than there is. An event is
one step of one replica, or one request that arrives; each row runs in a process of its own, for its
memory.
"""

import random
import resource
from argparse import Namespace
from itertools import accumulate
from multiprocessing import get_context
from time import perf_counter, process_time
from typing import NamedTuple

from benchmarks import chosen, parser
from fairlane.policies.registry import create_policy
from fairlane.simulator.cluster import RoutedCluster
from fairlane.simulator.exchange import Exchange
from fairlane.simulator.profile import get_profile
from fairlane.simulator.routers import Reach, make_router
from fairlane.simulator.run import simulate_cluster
from fairlane.simulator.serving import MEASURED_NOISE, ServerConfig
from fairlane.workloads.trace import TracedRequest

RATE = 12.0  # requests a second for each replica
GAIN = 20_000.0  # U of a replica


class Counted(RoutedCluster):
    """Counts its events."""

    events = 0

    def _arrive(self, position: int, delay_s: float) -> None:
        self.events += 1
        super()._arrive(position, delay_s)

    def _advanced(self, replica: int) -> None:
        self.events += 1
        super()._advanced(replica)


class Cost(NamedTuple):
    """Of one run."""

    simulated_s: float
    events: int
    cpu_s: float
    wall_s: float
    peak_bytes: int


def workload(requests: int, clients: int, replicas: int) -> list[TracedRequest]:
    """Random arrivals; the k-th client sends in proportion to 1/k."""
    rng, now = random.Random(1), 0.0
    names = [f"client {k}" for k in range(clients)]
    likely = list(accumulate(1 / (k + 1) for k in range(clients)))
    sent = []
    for i in range(requests):
        now += rng.expovariate(RATE * replicas)
        (client,) = rng.choices(names, cum_weights=likely)
        sent.append(TracedRequest(i, client, now, rng.randint(50, 150), rng.randint(50, 150)))
    return sent


def run(asked: Namespace, every_s: float | None) -> Cost:
    """Simulate once."""
    requests = workload(asked.requests, asked.clients, asked.replicas)
    config = ServerConfig(profile=get_profile("a10g-llama-2-7b"), noise=MEASURED_NOISE)
    start, cpu_start = perf_counter(), process_time()
    policies = [create_policy("vtc") for _ in range(asked.replicas)]
    exchange = None
    if every_s is not None:
        exchange = Exchange(policies, every_s, gain=GAIN, guard=0.05)
    router, reach = make_router(asked.router, 0), Reach(asked.replicas, {}, 0)
    cluster = Counted(requests, policies, router, reach, exchange)
    simulated = simulate_cluster(cluster, config).total_time_s
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    cpu_s, wall_s = process_time() - cpu_start, perf_counter() - start
    return Cost(simulated, cluster.events, cpu_s, wall_s, peak)


def main() -> None:
    """Prints the table."""
    options = parser(__doc__)
    options.add_argument("--replicas", type=int, default=1000)
    options.add_argument("--clients", type=int, default=10_000)
    options.add_argument("--requests", type=int, default=1_000_000)
    options.add_argument("--router", default="random", help="a name of fairlane simulate --router")
    options.add_argument("--exchange", nargs="+", default=["off", "1", "0.2"], help="off, seconds")
    asked = chosen(options, replicas=20, clients=100, requests=2000)
    print(
        f"{asked.replicas:,} replicas, {asked.clients:,} clients, {asked.requests:,} requests, "
        f"router {asked.router}\n"
    )
    print("| exchange | simulated | events | events a CPU second | CPU | wall | peak memory |")
    print("|---|---|---|---|---|---|---|")
    for exchange in asked.exchange:
        every_s, name = (None, "off") if exchange == "off" else (float(exchange), f"{exchange} s")
        with get_context("spawn").Pool(1) as pool:
            cost = pool.apply(run, (asked, every_s))
        print(
            f"| {name} | {cost.simulated_s:,.0f} s | {cost.events:,} | "
            f"{cost.events / cost.cpu_s:,.0f} | {cost.cpu_s:,.1f} s | {cost.wall_s:,.1f} s | "
            f"{cost.peak_bytes / 1e9:.2f} GB |"
        )


if __name__ == "__main__":
    main()
