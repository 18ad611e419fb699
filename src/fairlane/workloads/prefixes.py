"""A workload in which prompts share prefixes: what locality-aware scheduling is for.

Each client has one long system prompt, and asks short questions of its own behind it. One client
sends as much as three others. The prefixes together are larger than a small prefix cache, so the
order of service decides what is found in it.
"""

import numpy as np

from fairlane.workloads.config import WorkloadConfig, WorkloadError, whole_count
from fairlane.workloads.suites import workload
from fairlane.workloads.trace import TracedRequest

PREFIX_TOKENS = 1024


@workload(
    "shared-prefix",
    title="eight overloading clients, each with a system prompt of 1,024 tokens",
    config=WorkloadConfig(
        num_adapters=8,
        req_rate=(1.2, *(0.4,) * 7),
        duration=360,
        input_range=(16, 128),
        output_range=(16, 128),
        mode="shared-prefix",
    ),
)
def shared_prefix(config: WorkloadConfig, seed: int) -> list[TracedRequest]:
    """Poisson arrivals; input_range is of the question behind the prefix, in tokens."""
    if not isinstance(config.req_rate, tuple):
        raise WorkloadError("shared-prefix needs a rate for each client")
    rng = np.random.default_rng(seed)
    drawn: list[tuple[float, int]] = []
    for client, rate in enumerate(config.req_rate):
        whole_count(rate * config.duration)  # refuses more than fit
        count = int(rng.poisson(rate * config.duration))
        arrivals = rng.random(count) * config.duration
        drawn += [(float(arrival), client) for arrival in arrivals]
    requests = []
    for i, (arrival, client) in enumerate(sorted(drawn)):
        question, output = (
            int(rng.integers(*bounds)) for bounds in (config.input_range, config.output_range)
        )
        requests.append(
            TracedRequest(
                i,
                str(client),
                arrival,
                PREFIX_TOKENS + question,
                output,
                prefix=f"system prompt of {client}",
                prefix_len=PREFIX_TOKENS,
            )
        )
    return requests
