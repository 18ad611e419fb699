"""A run as columns, the form in which all metrics read it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairlane.core.errors import FairlaneError
from fairlane.records import RequestRecord

Floats = NDArray[np.float64]
# The worth of a request's (input tokens, output tokens); called once with two arrays.
CostFunction = Callable[[Any, Any], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The requests of one run, one array entry each, grouped by client.

    clients: names, sorted as strings; index c is used wherever metrics have a client axis.
    first: index of each client's first row. client: index c of each row.
    arrival, start, end: seconds; start and end are the first and the last token's time, and the
        arrival where no token came. ttft, latency: seconds since arrival, NaN where none came.
    prompt, output: tokens. delivered: whether tokens came. aborted: whether it did not finish.
    replica: the number of the server, 0 where there is one, or none served it.
    """

    clients: tuple[str, ...]
    first: NDArray[np.intp]
    client: NDArray[np.intp]
    arrival: Floats
    start: Floats
    end: Floats
    ttft: Floats
    latency: Floats
    prompt: Floats
    output: Floats
    delivered: NDArray[np.bool_]
    aborted: NDArray[np.bool_]
    replica: NDArray[np.intp]

    @classmethod
    def from_records(cls, records: Iterable[RequestRecord]) -> "Table":
        """The columns of `records`; within a client, rows keep their order.

        Raises FairlaneError where there are none: nothing can be said about such a run.
        """
        rows = sorted(records, key=lambda record: record.client)
        if not rows:
            raise FairlaneError("the run holds no requests, so it has no metrics")
        clients = tuple(dict.fromkeys(record.client for record in rows))
        index = {name: c for c, name in enumerate(clients)}
        client = np.array([index[record.client] for record in rows], dtype=np.intp)
        arrival = np.array([record.arrival_s for record in rows], dtype=np.float64)
        ttft = np.array([_or_nan(record.ttft_s) for record in rows], dtype=np.float64)
        latency = np.array([_or_nan(record.latency_s) for record in rows], dtype=np.float64)
        delivered = ~np.isnan(ttft) & ~np.isnan(latency)
        return cls(
            clients=clients,
            first=np.searchsorted(client, np.arange(len(clients))),
            client=client,
            arrival=arrival,
            start=np.where(delivered, arrival + ttft, arrival),
            end=np.where(delivered, arrival + latency, arrival),
            ttft=ttft,
            latency=latency,
            prompt=np.array([record.prompt_len for record in rows], dtype=np.float64),
            output=np.array([record.output_len for record in rows], dtype=np.float64),
            delivered=delivered,
            aborted=np.array([record.outcome != "finished" for record in rows], dtype=np.bool_),
            replica=np.array([record.replica or 0 for record in rows], dtype=np.intp),
        )

    def at(self, replica: int) -> "Table":
        """The same requests, as if nothing had been delivered but by this replica."""
        return replace(self, delivered=self.delivered & (self.replica == replica))

    def without_aborted(self) -> "Table":
        """Only the requests that finished, and only the clients that have any."""
        kept = ~self.aborted
        present, client = np.unique(self.client[kept], return_inverse=True)
        columns = {name: getattr(self, name)[kept] for name in _ROW_COLUMNS}
        return Table(
            clients=tuple(self.clients[c] for c in present),
            first=np.searchsorted(client, np.arange(len(present))),
            client=client,
            **columns,
        )

    def per_client(self, values: Floats) -> Floats:
        """Sums over each client's rows: the last axis goes from rows to clients."""
        if not self.clients:  # all of them were aborted and left out
            return np.zeros((*values.shape[:-1], 0))
        sums: Floats = np.add.reduceat(values, self.first, axis=-1)
        return sums


_ROW_COLUMNS = tuple(
    column.name for column in fields(Table) if column.name not in ("clients", "first", "client")
)


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value
