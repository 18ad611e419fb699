"""Traces: requests with their arrival times and true lengths, as CSV and as a summary."""

import csv
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TextIO, TypeVar

import numpy as np

from fairlane.core.errors import FairlaneError
from fairlane.files import atomic_write

N = TypeVar("N", int, float)

COLUMNS = ("client", "arrival_s", "prompt_len", "output_len")


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


def read_csv(
    path: str | os.PathLike[str], *, max_total_len: int | None = None
) -> list[TracedRequest]:
    """Read a trace: columns client, arrival_s, prompt_len, output_len; rows in arrival order.

    Ids are row numbers from 0. `max_total_len` is the memory in tokens that prompt and output
    must fit in. Raises TraceError, naming file and line, for anything that does not fit.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            requests = list(_parse(str(path), file, max_total_len))
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({(error.strerror or '').lower()})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path}: not a CSV file in UTF-8 ({error})") from error
    if not requests:
        raise TraceError(f"{path}: holds no requests")
    return requests


def _parse(path: str, file: TextIO, max_total_len: int | None) -> Iterator[TracedRequest]:
    reader = csv.DictReader(file, strict=True)
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise TraceError(
            f"{path}:1: no column {', '.join(missing)}; "
            f"the first line must name {','.join(COLUMNS)}"
        )
    previous = 0.0
    for number, row in enumerate(reader):
        try:
            request = _request(number, row)
            check(request, previous, max_total_len)
        except ValueError as error:
            raise TraceError(f"{path}:{reader.line_num}: {error}") from None
        previous = request.arrival_s
        yield request


def _request(number: int, row: dict[str, str]) -> TracedRequest:
    if None in row or None in row.values():
        raise ValueError("not as many fields as the first line names")
    return TracedRequest(
        id=number,
        client=row["client"],
        arrival_s=_number(row, "arrival_s", float),
        prompt_len=_number(row, "prompt_len", int),
        output_len=_number(row, "output_len", int),
    )


def _number(row: dict[str, str], column: str, kind: type[N]) -> N:
    try:
        return kind(row[column])
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"{column} must be {what}, not {row[column]!r}") from None


def checked(
    path: str | os.PathLike[str],
    requests: Iterable[TracedRequest],
    max_total_len: int | None = None,
) -> Iterator[TracedRequest]:
    """Each request, once it has been checked. Raises TraceError, naming file and request."""
    previous = 0.0
    for request in requests:
        try:
            check(request, previous, max_total_len)
        except ValueError as error:
            raise TraceError(f"{path}: request {request.id!r}: {error}") from None
        previous = request.arrival_s
        yield request


def check(request: TracedRequest, previous: float, max_total_len: int | None) -> None:
    """Raise ValueError, saying why, where `request` cannot follow an arrival at `previous`."""
    lengths = request.prompt_len, request.output_len
    if not request.client or not request.client.isprintable():
        raise ValueError(f"client must be a name in printable characters, not {request.client!r}")
    if not 0 <= request.arrival_s < math.inf:
        raise ValueError(f"arrival_s must be seconds >= 0, not {request.arrival_s}")
    if request.arrival_s < previous:
        raise ValueError(f"arrival_s {request.arrival_s} is before the one above; sort by it")
    if min(lengths) < 1:
        raise ValueError(
            "prompt_len and output_len must be at least 1, not {} and {}".format(*lengths)
        )
    if max_total_len is not None and sum(lengths) > max_total_len:
        raise ValueError(
            f"prompt_len + output_len is {sum(lengths)}, more than the memory of "
            f"{max_total_len} tokens; leave the request out or give more memory"
        )


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
    """What a trace asks for. `duration_s` is the last arrival; rates are over it.

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
    duration = requests[-1].arrival_s
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
