"""What each replica of a cluster did for whom."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from fairlane.metrics.service import LINEAR
from fairlane.metrics.table import CostFunction
from fairlane.records import RequestRecord


@dataclass(slots=True)
class ReplicaSummary:
    """One replica's run. service: in cost units, in all and by client; only of who was served."""

    replica: int
    requests: int = 0
    service: float = 0.0
    by_client: dict[str, float] = field(default_factory=dict)


def summarise_replicas(
    records: Iterable[RequestRecord], replicas: int, *, cost: CostFunction = LINEAR
) -> list[ReplicaSummary]:
    """One summary per replica; requests that none served count nowhere."""
    summaries = [ReplicaSummary(replica) for replica in range(replicas)]
    for record in records:
        if record.replica is None or record.ttft_s is None:
            continue
        one = summaries[record.replica]
        worth = float(cost(record.prompt_len, record.output_len))
        one.requests += 1
        one.service += worth
        one.by_client[record.client] = one.by_client.get(record.client, 0.0) + worth
    return summaries
