"""How smooth each scheduler's service is, as Markdown tables: `python -m benchmarks.smoothness`.

Two or more overloading clients on a simulated server. For windows of 2, 10 and 60 s: the mean
difference in service between the best- and the worst-served client, relative to a fair share. For
the running batch: how far, on average, a client's part is from its fair one (0 is always even; 1,
for two clients, a batch that is always of one client alone). Last, the largest difference while
both wait, beside VTC's bound.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from benchmarks import parser
from fairlane.core.audit import Auditor, service_bound
from fairlane.experiments.settings import Settings
from fairlane.metrics.smoothness import batch_shares, window_differences
from fairlane.metrics.table import Table
from fairlane.simulator.run import simulate

WINDOWS = (2.0, 10.0, 60.0)
SEEDS = 5
WORKLOADS = {
    "two clients, equal lengths, batch of about 20": Settings(suite="overload", scheduler="vtc"),
    "two clients, equal lengths, batch of about 70": Settings(
        suite="overload-s4-35000-256", scheduler="vtc", memory_tokens=35_000, duration=360
    ),
    "eight clients, equal lengths": Settings(suite="overload-multi", scheduler="vtc"),
    "two clients, lengths 16 to 511": Settings(
        suite="poisson-on-off-overload", scheduler="vtc", rates=(2.0, 4.0), duration=360
    ),
}
SCHEDULERS = ("fcfs", "vtc", "vtc-predict", "vtc-oracle", "drr", "round-robin")


def measure(settings: Settings) -> Iterator[float]:
    """Relative differences by window, the batch's unevenness, and the largest difference."""
    requests = settings.requests()
    policy, server = settings.policy(requests), settings.server()
    auditor = Auditor()
    policy.watch(auditor)
    table = Table.from_records(simulate(requests, policy, server, seed=settings.seed).records)
    begin, end = 60.0, requests[-1].arrival_s
    fair = table.prompt.sum() + 2 * table.output.sum()
    fair /= (table.end.max() - table.start.min()) * len(table.clients)
    for window in WINDOWS:
        yield float(window_differences(table, begin, end, window).mean()) / fair
    shares = batch_shares(table, np.arange(begin, end, 0.5))
    even = 1 / len(table.clients)
    yield float(np.nanmean(np.abs(shares - even))) / (2 * even * (1 - even))
    yield auditor.report().observed


def main() -> None:
    """Prints a table for each workload."""
    quick = parser(__doc__).parse_args().quick
    for title, full in WORKLOADS.items():
        settings = replace(full, duration=130.0) if quick else full
        requests = settings.requests()
        prompt = max(request.prompt_len for request in requests) + 2
        bound = service_bound(settings.server().memory_tokens, prompt)
        print(f"\n{title} (bound {bound:,.0f})\n")
        print("| scheduler | 2 s | 10 s | 60 s | batch | largest difference |")
        print("|---|---|---|---|---|---|")
        for scheduler in SCHEDULERS:
            runs = [
                list(measure(replace(settings, scheduler=scheduler, seed=seed)))
                for seed in range(1 if quick else SEEDS)
            ]
            *windows, batch, largest = np.median(runs, axis=0)
            cells = " | ".join(f"{value:.2f}" for value in (*windows, batch))
            print(f"| {scheduler} | {cells} | {largest:,.0f} |")


if __name__ == "__main__":
    main()
