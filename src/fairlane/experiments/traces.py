"""Traces as experiments take them: any format, counted from the first arrival, cut and fitted."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from fairlane.core.errors import FairlaneError, UnknownNameError
from fairlane.records import manifest_path, read_run
from fairlane.workloads.artifact_trace import import_artifact_pickle
from fairlane.workloads.lengths import TOO_LONG, LengthLimit
from fairlane.workloads.suites import Suite
from fairlane.workloads.trace import (
    TracedRequest,
    TraceError,
    checked,
    from_first_arrival,
    read_trace,
    write_csv,
)

_DONE = {"drop": "dropped", "clip": "clipped"}


@dataclass(frozen=True, slots=True)
class Trace:
    """The requests of a file, in arrival order.

    start_s: what the file's own clock said at second 0. places: where each request stands, for
    messages. too_long: how many were dropped or clipped.
    """

    path: str
    requests: list[TracedRequest]
    places: list[str]
    start_s: float
    too_long: int = 0

    def until(self, seconds: float) -> "Trace":
        """What arrives until then."""
        kept = sum(request.arrival_s <= seconds for request in self.requests)
        return replace(self, requests=self.requests[:kept], places=self.places[:kept])

    def within(self, limit: LengthLimit, too_long: str | None = None) -> "Trace":
        """The trace, with requests that are too long for `limit` treated by a name in TOO_LONG.

        By default the first of them is refused, naming its line. Raises TraceError for that, and
        where none is left.
        """
        if too_long is not None and too_long not in TOO_LONG:
            raise UnknownNameError("way with requests that are too long", too_long, TOO_LONG)
        long = limit.exceeded_by(self.requests)
        if not long:
            return self
        if too_long not in _DONE:
            raise TraceError(self._refusal(limit, long))
        if too_long == "clip":
            requests = list(self.requests)
            for i in long:
                requests[i] = limit.clip(requests[i])
            return replace(self, requests=requests, too_long=len(long))
        if len(long) == len(self.requests):
            raise TraceError(f"{self._refusal(limit, long)}: none of the trace is left")
        dropped = set(long)
        kept = [i for i in range(len(self.requests)) if i not in dropped]
        return replace(
            self,
            requests=[self.requests[i] for i in kept],
            places=[self.places[i] for i in kept],
            too_long=len(long),
        ).from_first_arrival()

    def from_first_arrival(self) -> "Trace":
        """The trace on a clock that starts when its first request comes."""
        requests, more = from_first_arrival(self.requests)
        return replace(self, requests=requests, start_s=self.start_s + more)

    def _refusal(self, limit: LengthLimit, long: list[int]) -> str:
        first = self.requests[long[0]]
        count = f"{len(long):,} of {len(self.requests):,} requests are too long"
        return (
            f"{self.places[long[0]]}: {limit.complaint(first)} ({count}); give more memory, or "
            "--too-long drop or clip"
        )


def read_requests(path: str) -> Trace:
    """A trace as CSV, the artifact's as .pkl, or the requests that a result file (.jsonl) holds.

    Counted from the first arrival, but for the result file of a suite, whose clock is the run's.
    Raises FairlaneError, naming file and line, for what is no such trace.
    """
    return _read(path, tuple(_version(Path(name)) for name in (path, manifest_path(path))))


def _version(path: Path) -> tuple[str, int, int]:
    """Another one for a file that was written anew; a trace is asked for several times a run."""
    try:
        status = path.stat()
    except OSError:
        return str(path.absolute()), 0, 0
    return str(path.absolute()), status.st_mtime_ns, status.st_size


@lru_cache(maxsize=8)
def _read(path: str, _versions: tuple[tuple[str, int, int], ...]) -> Trace:
    if path.endswith(".jsonl"):
        run = read_run(path)
        requests = [
            TracedRequest(i, r.client, r.arrival_s, *r.asked) for i, r in enumerate(run.records)
        ]
        return _trace(path, list(checked(path, requests)), run.start_s)
    if path.endswith(".pkl"):
        pickled = import_artifact_pickle(path)
        return _trace(path, list(checked(path, pickled)), 0.0).from_first_arrival()
    rows = read_trace(path)
    places = [f"{path}:{line}" for _, line in rows]
    return Trace(path, [request for request, _ in rows], places, 0.0).from_first_arrival()


def _trace(path: str, requests: list[TracedRequest], start_s: float) -> Trace:
    if not requests:
        raise TraceError(f"{path}: holds no requests")
    return Trace(path, requests, [f"{path}: request {r.id}" for r in requests], start_s)


def scaled_requests(
    suite: Suite,
    rate_scale: float,
    seed: int,
    duration: float | None = None,
    trace: list[TracedRequest] | None = None,
) -> list[TracedRequest]:
    """A suite at `rate_scale` times its rate: the workload of so many times the duration.

    A suite's silent windows keep their length; a trace is sent in so much less time.
    """
    if rate_scale == 1.0:
        return suite.requests(seed=seed, duration=duration, trace=trace)
    config = suite.config
    if duration is None and trace is None:
        duration = config.duration
    windows = config.on_off * rate_scale if config.on_off > 0 else config.on_off
    requests = replace(suite, config=replace(config, on_off=windows)).requests(
        seed=seed, duration=None if duration is None else duration * rate_scale, trace=trace
    )
    faster = 1 / rate_scale
    return [replace(request, arrival_s=request.arrival_s * faster) for request in requests]


def about_trace(trace: Trace | None, too_long: str | None = None) -> dict[str, float]:
    """What a manifest says of a trace: its own clock at second 0, and how many were too long."""
    if trace is None:
        return {}
    counted = {f"trace_{_DONE[too_long]}": trace.too_long} if too_long in _DONE else {}
    return {"trace_start_s": trace.start_s, **counted}


def notes_on_trace(trace: Trace, too_long: str | None = None) -> list[str]:
    """What a user should know of how a trace was read."""
    notes = []
    if trace.start_s:
        notes.append(f"{trace.path}: counted from its first arrival, at {trace.start_s:,} s")
    if too_long in _DONE:
        count = len(trace.requests) + (trace.too_long if too_long == "drop" else 0)
        notes.append(
            f"{trace.path}: {trace.too_long:,} of {count:,} requests too long, {_DONE[too_long]}"
        )
    return notes


def import_trace(
    file: str, output: Path, *, memory_tokens: int | None = None, too_long: str | None = None
) -> list[str]:
    """Write any trace as CSV, counted from its first arrival; what is to be said of it.

    memory_tokens: what each request must fit in. Raises FairlaneError for what cannot be used.
    """
    trace = read_requests(file)
    if memory_tokens is not None:
        trace = trace.within(LengthLimit(memory_tokens - 1, memory_tokens), too_long)
    elif too_long is not None:
        raise FairlaneError("too-long acts where there is a limit: give --memory-tokens")
    trace = trace.from_first_arrival()
    write_csv(output, trace.requests)
    return [*notes_on_trace(trace, too_long), f"wrote {output}: {len(trace.requests)} requests"]


def trace_until(path: str, duration: float | None, rate_scale: float) -> Trace:
    """What of a trace is sent within `duration` seconds at so many times its rate."""
    return read_requests(path).until(math.inf if duration is None else duration * rate_scale)
