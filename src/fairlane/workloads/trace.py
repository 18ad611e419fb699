"""Traces: requests with their arrival times and true lengths, as CSV and as a summary.

A trace's clock is whatever its recorder had: seconds since 1970, or since a service was started.
Requests are counted from the first arrival; what the clock said then is kept beside them.
"""

import csv
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import groupby

import numpy as np

from fairlane.core.errors import FairlaneError
from fairlane.files import atomic_write
from fairlane.workloads.rows import Row, read_rows

COLUMNS = ("client", "arrival_s", "prompt_len", "output_len")
_LATEST_S = 1e11  # the year 5138: later than any clock in seconds


class TraceError(FairlaneError):
    """A trace that cannot be used; the message names file and line."""


@dataclass(frozen=True, slots=True)
class TracedRequest:
    """One request of a workload. `output_len` is the truth that no scheduler may look at.

    id: unique in the workload. arrival_s: seconds since the start. Lengths are tokens. prefix,
    prefix_len: the first tokens of the prompt are those of every request with the same prefix.
    """

    id: int
    client: str
    arrival_s: float
    prompt_len: int
    output_len: int
    prefix: str = ""
    prefix_len: int = 0


def since(start_s: float, arrival_s: float) -> float:
    """Seconds from one instant to another, exact in the decimals that both are written with.

    Plain subtraction would give 0.0999999 s between 1700000000.1 and 1700000000.2.
    """
    return float(Decimal(repr(arrival_s)) - Decimal(repr(start_s))) if start_s else arrival_s


def from_first_arrival(requests: Sequence[TracedRequest]) -> tuple[list[TracedRequest], float]:
    """The requests counted from the first arrival, and what their clock said then.

    requests: at least one, in arrival order.
    """
    start = requests[0].arrival_s
    return [replace(r, arrival_s=since(start, r.arrival_s)) for r in requests], start


def read_csv(path: str | os.PathLike[str]) -> list[TracedRequest]:
    """The requests of a trace, as `read_trace` gives them, counted from the first arrival."""
    return from_first_arrival([request for request, _ in read_trace(path)])[0]


def read_trace(path: str | os.PathLike[str]) -> list[tuple[TracedRequest, int]]:
    """Read a trace: columns client, arrival_s, prompt_len, output_len; rows in arrival order.

    Gives each request with its line; by the trace's own clock, ids are row numbers from 0. Raises
    TraceError, naming file and line, for what cannot be used.
    """
    requests: list[tuple[TracedRequest, int]] = []

    def parse(row: Row) -> tuple[TracedRequest, int]:
        request = TracedRequest(
            id=len(requests),
            client=row.fields["client"],
            arrival_s=row.number("arrival_s"),
            prompt_len=row.whole("prompt_len"),
            output_len=row.whole("output_len"),
        )
        check(request, requests[-1][0].arrival_s if requests else 0.0)
        return request, row.line

    for request in read_rows(path, parse, TraceError, COLUMNS):
        requests.append(request)
    if not requests:
        raise TraceError(f"{path}: holds no requests")
    return requests


def checked(
    path: str | os.PathLike[str], requests: Iterable[TracedRequest]
) -> Iterator[TracedRequest]:
    """Each request, once it has been checked. Raises TraceError, naming file and request."""
    previous = 0.0
    for request in requests:
        try:
            check(request, previous)
        except ValueError as error:
            raise TraceError(f"{path}: request {request.id!r}: {error}") from None
        previous = request.arrival_s
        yield request


def check(request: TracedRequest, previous: float) -> None:
    """Raise ValueError, saying why, where `request` cannot follow an arrival at `previous`."""
    client, arrival, lengths = request.client, request.arrival_s, _lengths(request)
    if not client or not client.isprintable() or client != client.strip():
        raise ValueError(f"client must be a name in printable characters, not {client!r}")
    if not 0 <= arrival < math.inf:
        raise ValueError(f"arrival_s must be seconds >= 0, not {arrival}")
    if arrival >= _LATEST_S:
        raise ValueError(f"arrival_s must be seconds; {arrival:g} is too many: milliseconds?")
    if arrival < previous:
        raise ValueError(f"arrival_s {arrival} is before the one above; sort by it")
    if min(lengths) < 1:
        raise ValueError(
            "prompt_len and output_len must be at least 1, not {} and {}".format(*lengths)
        )


def _lengths(request: TracedRequest) -> tuple[int, int]:
    return request.prompt_len, request.output_len


def write_csv(path: str | os.PathLike[str], requests: Iterable[TracedRequest]) -> None:
    """Write a trace that `read_csv` gives back, but for ids.

    Raises OutputError where `path` is unwritable and TraceError for what could not be read back.
    """
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for r in checked(path, requests):
            writer.writerow((r.client, r.arrival_s, r.prompt_len, r.output_len))


@dataclass(frozen=True, slots=True)
class LengthInfo:
    """How long prompts or outputs are, in tokens."""

    mean: float
    min: int
    p50: float
    p90: float
    p99: float
    max: int


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """One client's part of a trace."""

    client: str
    requests: int
    requests_per_minute: float
    mean_prompt: float
    mean_output: float


@dataclass(frozen=True, slots=True)
class TraceInfo:
    """What a trace asks for. `duration_s`: from its first arrival to its last; rates are over it.

    clients: heaviest first. gini: inequality of requests per client, 0 (all send the same) to 1.
    gap_cv: standard deviation of the time between arrivals over its mean; 1 is Poisson.
    """

    requests: int
    duration_s: float
    requests_per_minute: float
    prompt: LengthInfo
    output: LengthInfo
    gini: float
    gap_cv: float
    clients: tuple[ClientInfo, ...]


def info(requests: Sequence[TracedRequest]) -> TraceInfo:
    """Summarise a trace of at least one request, in arrival order."""
    duration = since(requests[0].arrival_s, requests[-1].arrival_s)
    minutes = duration / 60 if duration > 0 else math.nan
    per_client = [
        _client_info(client, list(group), minutes)
        for client, group in groupby(sorted(requests, key=_client), key=_client)
    ]
    counts = sorted(client.requests for client in per_client)
    ranks = np.arange(1, len(counts) + 1)
    gaps = np.diff([r.arrival_s for r in requests])
    return TraceInfo(
        requests=len(requests),
        duration_s=duration,
        requests_per_minute=len(requests) / minutes,
        prompt=_length_info([r.prompt_len for r in requests]),
        output=_length_info([r.output_len for r in requests]),
        gini=float((2 * ranks - len(counts) - 1) @ counts / (len(counts) * sum(counts))),
        gap_cv=float(gaps.std() / gaps.mean()) if gaps.sum() > 0 else math.nan,
        clients=tuple(sorted(per_client, key=lambda client: -client.requests)),
    )


def _client(request: TracedRequest) -> str:
    return request.client


def _client_info(client: str, requests: list[TracedRequest], minutes: float) -> ClientInfo:
    return ClientInfo(
        client=client,
        requests=len(requests),
        requests_per_minute=len(requests) / minutes,
        mean_prompt=float(np.mean([r.prompt_len for r in requests])),
        mean_output=float(np.mean([r.output_len for r in requests])),
    )


def _length_info(lengths: list[int]) -> LengthInfo:
    p50, p90, p99 = (float(p) for p in np.percentile(lengths, (50, 90, 99)))
    return LengthInfo(float(np.mean(lengths)), min(lengths), p50, p90, p99, max(lengths))
