"""Fairness and the prefix cache, as a Markdown table: `python -m benchmarks.locality`.

Eight overloading clients, each with a system prompt of 1,024 tokens of its own; one sends as much
as three others. By size of the prefix cache: how fast each scheduler serves them all, and the
largest difference in service while two wait, with cached input free.
"""

from benchmarks import parser
from fairlane.core.audit import Auditor
from fairlane.core.cost import LinearCost
from fairlane.experiments.settings import Settings
from fairlane.metrics import headline
from fairlane.simulator.prefix_cache import PrefixCache
from fairlane.simulator.run import simulate

CACHES = (0, 2048, 4096, 16384)
SCHEDULERS = (
    ("fcfs", None),
    ("vtc", None),
    ("lpm", None),
    ("dlpm", 1000.0),
    ("dlpm", 4000.0),
    ("dlpm", 16000.0),
)


def measure(
    scheduler: str, quantum: float | None, cache_tokens: int, duration: float | None
) -> tuple[float, float]:
    """(tokens a second, largest difference)."""
    settings = Settings(
        suite="shared-prefix", scheduler=scheduler, quantum=quantum, duration=duration
    )
    requests = settings.requests()
    cache = PrefixCache(requests, cache_tokens)
    policy = settings.policy(requests, cache)
    auditor = Auditor(cost=LinearCost(cached_price=0.0))
    policy.watch(auditor)
    run = simulate(requests, policy, settings.server(), cache=cache)
    return headline(run)["throughput"], auditor.report().observed


def main() -> None:
    """Prints the table."""
    duration = 20.0 if parser(__doc__).parse_args().quick else None
    print("| scheduler | " + " | ".join(f"cache of {size:,}" for size in CACHES) + " |")
    print("|---" * (1 + len(CACHES)) + "|")
    for scheduler, quantum in SCHEDULERS:
        cells = [measure(scheduler, quantum, size, duration) for size in CACHES]
        name = scheduler if quantum is None else f"{scheduler}, quantum {quantum:,.0f}"
        row = " | ".join(f"{rate:,.0f} tokens/s, {difference:,.0f}" for rate, difference in cells)
        print(f"| {name} | {row} |")


if __name__ == "__main__":
    main()
