"""The tables of a run, the same whether it was simulated or measured."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fairlane.cli.output import format_number, print_table

if TYPE_CHECKING:
    from fairlane.experiments.runs import Range

_METRICS = {
    "total_time": "total time (s)",
    "throughput": "throughput (tokens/s)",
    "mean_first_token_latency": "mean first-token latency (s)",
    "mean_request_latency": "mean request latency (s)",
    "max_accumulated_service_difference": "max accumulated service difference",
    "observed_difference": "largest difference while two wait",
    "bound": "VTC's bound on it",
    "aborted": "rejected or aborted requests",
}
_OF_CLUSTER = {
    "observed_difference": "largest difference while two wait at every replica",
    "bound": "the bound on it",
}
_LATENCIES = [
    f"{quantity}_{spread}"
    for quantity in ("ttft", "tpot")
    for spread in ("mean", "p50", "p90", "p99")
]
_SERVICE = {
    "requests": "requests",
    "aborted": "rejected",
    "service": "service",
    "share": "share",
    "entitlement": "entitled",
    "slowdown_mean": "slowdown",
}
_REPLICAS = 16
_AT_REPLICA = {"observed_difference": "largest difference"}


def print_results(
    title: str,
    metrics: Mapping[str, "Range"],
    clients: Mapping[str, Mapping[str, "Range"]],
    *,
    of_cluster: bool = False,
) -> None:
    """Print the headline metrics, then each client's latencies and shares (`Report`)."""
    labels = _METRICS | (_OF_CLUSTER if of_cluster else {})
    known = {name: label for name, label in labels.items() if name in metrics}
    rows = [[label, _cell(metrics[name])] for name, label in known.items()]
    print_table((f"{title} ", ""), rows)
    print()
    print_table(
        (
            "client ",
            *(
                name.replace("_", " ").upper()[:4] + name[4:].replace("_", " ")
                for name in _LATENCIES
            ),
        ),
        [
            [client, *(_cell(values[name]) for name in _LATENCIES)]
            for client, values in clients.items()
        ],
        "latency of finished requests (s)",
    )
    print()
    service = [name for name in _SERVICE if all(name in known for known in clients.values())]
    about = "service, and its share while waiting"
    if "slowdown_mean" in service:  # known where the same server can be simulated without others
        about = "service, its share while waiting, and slowdown against running alone"
    print_table(
        ("client ", *(_SERVICE[name] for name in service)),
        [
            [client, *(_cell(values[name]) for name in service)]
            for client, values in clients.items()
        ],
        about,
    )


def print_replicas(replicas: Mapping[str, Mapping[str, "Range"]]) -> None:
    """Print what each replica did, of a cluster; the first ones, if there are many."""
    if not replicas:
        return
    shown = list(replicas.items())[:_REPLICAS]
    names = list(shown[0][1])
    about = "served by each replica"
    if len(replicas) > len(shown):
        about += f", of {len(replicas)} the first {len(shown)}; --json has all"
    print()
    print_table(
        ("replica ", *(_AT_REPLICA.get(name, name) for name in names)),
        [[replica, *(_cell(values[name]) for name in names)] for replica, values in shown],
        about,
    )


def _cell(value: "Range") -> str:
    middle = format_number(value.median)
    if value.low == value.high or middle == "-":
        return middle
    return f"{middle} [{format_number(value.low)}, {format_number(value.high)}]"
