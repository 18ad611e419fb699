"""What each client got out of a run: latencies, its share while it waited, its slowdown."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from fairlane.metrics.latency import (
    Spread,
    first_token_latency,
    request_latency,
    time_per_output_token,
)
from fairlane.metrics.service import LINEAR
from fairlane.metrics.shares import shares_while_waiting
from fairlane.metrics.table import CostFunction, Table
from fairlane.records import RequestRecord


@dataclass(frozen=True, slots=True)
class ClientSummary:
    """One client's run. Latencies are seconds, service is in cost units.

    share: its part of all service delivered while it had a request waiting for its first token.
    entitlement: the part it was entitled to then: its weight over that of all who waited, averaged
        over the service delivered. Both are NaN for a client that nothing was delivered beside.
    slowdown: latency over the latency when alone on the server, where that was given.
    """

    client: str
    requests: int
    aborted: int
    service: float
    ttft: Spread
    tpot: Spread
    latency: Spread
    share: float
    entitlement: float
    slowdown: Spread | None = None


def summarise(
    records: Iterable[RequestRecord],
    *,
    cost: CostFunction = LINEAR,
    weights: Mapping[str, float] | None = None,
    alone: Iterable[RequestRecord] | None = None,
) -> list[ClientSummary]:
    """One summary per client, sorted by name.

    weights: of clients, 1 where a client is not named. alone: the same requests, run with each
    client alone on the server. Raises FairlaneError for a run without requests.
    """
    records = list(records)
    table = Table.from_records(records)
    slowdowns = slowdown(records, alone) if alone is not None else {}
    worth = np.where(table.delivered, cost(table.prompt, table.output), 0.0)
    shares = shares_while_waiting(table, cost=cost, weights=weights)
    return [
        ClientSummary(
            client=name,
            requests=int((table.client == c).sum()),
            aborted=int(table.aborted[table.client == c].sum()),
            service=float(worth[table.client == c].sum()),
            ttft=first_token_latency(table, name),
            tpot=time_per_output_token(table, name),
            latency=request_latency(table, name),
            share=shares[name].received,
            entitlement=shares[name].entitled,
            slowdown=slowdowns.get(name),
        )
        for c, name in enumerate(table.clients)
    ]


def slowdown(records: Iterable[RequestRecord], alone: Iterable[RequestRecord]) -> dict[str, Spread]:
    """Per client, each request's latency over the same request's with the client alone.

    Requests are matched by id; those that did not finish in both runs are left out.
    """
    base = {record.id: record.latency_s for record in alone if record.outcome == "finished"}
    ratios: dict[str, list[float]] = {}
    for record in records:
        of_client = ratios.setdefault(record.client, [])
        before = base.get(record.id)
        if before and record.latency_s is not None and record.outcome == "finished":
            of_client.append(record.latency_s / before)
    return {client: Spread.of(np.array(values)) for client, values in sorted(ratios.items())}
