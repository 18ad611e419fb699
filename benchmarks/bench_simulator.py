"""What a simulated run costs: CPU seconds, time an iteration, and the plain loop's multiple.

Each row is one workload under one scheduler: the fast loop (the median of several runs, records
included) beside the obvious loop that the tests hold it against, in the same process. An iteration
is one prefill or decode step of the serving loop.
"""

import random
from collections.abc import Callable
from functools import partial
from statistics import median
from time import process_time

from benchmarks import chosen, parser
from fairlane.policies.registry import create_policy
from fairlane.simulator.profile import get_profile
from fairlane.simulator.randomness import Randomness
from fairlane.simulator.run import simulate
from fairlane.simulator.serving import MEASURED_NOISE, ServerConfig
from fairlane.simulator.slora import ServingLoop
from fairlane.workloads.suites import get_suite
from fairlane.workloads.synthesis import synthesize
from fairlane.workloads.trace import TracedRequest
from tests.simulator.plain_loop import PlainLoop


def poisson(count: int = 2700, rate: float = 4.5) -> list[TracedRequest]:
    """Requests of 256 tokens in and out at random times, of two clients."""
    rng = random.Random(1)
    now, requests = 0.0, []
    for i in range(count):
        now += rng.expovariate(rate)
        requests.append(TracedRequest(i, str(rng.randrange(2)), now, 256, 256))
    return requests


WORKLOADS: dict[str, Callable[[], list[TracedRequest]]] = {
    "2,700 of 256/256, Poisson 4.5/s": poisson,
    "overload suite": get_suite("overload").requests,
    "27 clients, mixed lengths": lambda: synthesize(seed=42),
}


def seconds(run: Callable[[], object], times: int) -> float:
    """CPU seconds, the median over `times` runs."""
    taken = []
    for _ in range(times):
        start = process_time()
        run()
        taken.append(process_time() - start)
    return median(taken)


def row(requests: list[TracedRequest], scheduler: str, times: int) -> tuple[float, int, float]:
    """Seconds of a run, its iterations, and how many times longer the plain loop takes."""
    config = ServerConfig(profile=get_profile("a10g-llama-2-7b"), noise=MEASURED_NOISE)
    loop = ServingLoop(requests, create_policy(scheduler), config, Randomness(0, config.noise))
    loop.run()
    fast = seconds(lambda: simulate(requests, create_policy(scheduler), config), times)
    plain = seconds(
        lambda: PlainLoop(
            requests, create_policy(scheduler), config, Randomness(0, config.noise)
        ).run(),
        max(1, times // 3),
    )
    return fast, loop.turn, plain / fast


def main() -> None:
    """Prints the table."""
    options = parser(__doc__)
    options.add_argument("--times", type=int, default=5, help="runs of which the median counts")
    asked = chosen(options, times=1)
    workloads = {"100 of 256/256": partial(poisson, 100)} if asked.quick else WORKLOADS
    print("| workload | scheduler | seconds | us an iteration | plain loop |")
    print("|---|---|---|---|---|")
    for name, workload in workloads.items():
        requests = workload()
        for scheduler in ("fcfs", "vtc", "vtc-predict"):
            fast, turns, ratio = row(requests, scheduler, asked.times)
            print(
                f"| {name} | {scheduler} | {fast:.3f} | {fast / turns * 1e6:.2f} | {ratio:.1f}x |"
            )


if __name__ == "__main__":
    main()
