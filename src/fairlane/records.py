"""What a run produces: one record per request, and JSON Lines in and out.

A run is written as `NAME.jsonl`, one request per line, with `NAME.manifest.json` beside it: the
settings the run was made with, its total time and its number of requests. `read_run` also reads
the result files of the artifact, so that its measurements and ours go through the same metrics.
"""

import csv
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from fairlane.core.errors import FairlaneError
from fairlane.files import atomic_write

T = TypeVar("T")

_SUITES_BEGIN_WITHIN_S = 60.0  # their first arrival is within seconds, unless rates are tiny
OUTCOMES = ("finished", "rejected", "aborted")


class RecordError(FairlaneError):
    """A result file that cannot be used; the message names file and line."""


@dataclass(slots=True)
class RequestRecord:
    """One request as its client saw it. Times are seconds, lengths are tokens."""

    id: int | str
    client: str
    arrival_s: float  # nominal: when the workload says that the request is sent
    prompt_len: int
    output_len: int  # delivered, or requested where nothing was delivered
    ttft_s: float | None = None  # since arrival; None where no token came
    latency_s: float | None = None  # since arrival, of the last token
    outcome: str = "finished"  # one of OUTCOMES
    reason: str = ""
    asked_prompt_len: int | None = None  # where the server counted another prompt
    asked_output_len: int | None = None  # where another number of tokens was delivered
    replica: int | None = None  # which of a cluster's replicas served it, from 0
    token_times_s: list[float] | None = None  # since arrival, only from real servers

    @property
    def asked(self) -> tuple[int, int]:
        """(prompt, output) tokens of the request as it was sent, whatever came of it."""
        prompt, output = self.asked_prompt_len, self.asked_output_len
        return (
            self.prompt_len if prompt is None else prompt,
            self.output_len if output is None else output,
        )


@dataclass(slots=True)
class Run:
    """All requests of one run, in arrival order, and what they were made with.

    start_s: what the clock of the file that it was read from said at second 0; not written.
    """

    manifest: dict[str, Any]
    records: list[RequestRecord] = field(default_factory=list)
    total_time_s: float = 0.0
    start_s: float = 0.0


def manifest_path(path: str | os.PathLike[str]) -> Path:
    """Where the manifest of the result file `path` lies: `<stem>.manifest.json` beside it."""
    result = Path(path)
    return result.parent / f"{result.stem}.manifest.json"  # with_suffix refuses a folder's "."


def write_manifest(path: str | os.PathLike[str], run: Run) -> None:
    """Write the manifest that belongs to the result file `path`. Raises OutputError."""
    measured = {"total_time_s": run.total_time_s, "request_count": len(run.records)}
    with atomic_write(manifest_path(path)) as file:
        json.dump({**run.manifest, **measured}, file, indent=2, sort_keys=True, allow_nan=False)
        file.write("\n")


def write_jsonl(path: str | os.PathLike[str], run: Run) -> None:
    """Write `run` and its manifest, each whole or not at all. Raises OutputError."""
    with atomic_write(path) as file:
        for record in run.records:
            file.write(json.dumps(_line(record), allow_nan=False) + "\n")
    write_manifest(path, run)


def write_csv(path: str | os.PathLike[str], run: Run) -> None:
    """Write one row per request, without token times, and the manifest. Raises OutputError."""
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, _CSV_COLUMNS, dialect="unix")
        writer.writeheader()
        writer.writerows(_row(record) for record in run.records)
    write_manifest(path, run)


def write_parquet(path: str | os.PathLike[str], run: Run) -> None:
    """Write one row per request, ids as strings, and the manifest.

    Raises FairlaneError where pyarrow is missing and OutputError where `path` is unwritable.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise FairlaneError(
            "Parquet needs pyarrow, which is not installed: pip install pyarrow"
        ) from error
    text, integer, real = pa.string(), pa.int64(), pa.float64()
    types = (
        text, text, real, integer, integer, real, real, text, text, integer, integer, integer,
        pa.list_(real),
    )  # fmt: skip
    schema = pa.schema(list(zip(_COLUMNS, types, strict=True)))
    rows = [{**asdict(record), "id": str(record.id)} for record in run.records]
    with atomic_write(path, binary=True) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema), file)
    write_manifest(path, run)


def read_jsonl(path: str | os.PathLike[str]) -> Run:
    """Read what `write_jsonl` wrote. Raises RecordError, naming file and line."""
    records = [_checked(path, number, entry, _record) for number, entry in _lines(path)]
    manifest, total_time_s = _read_manifest(manifest_path(path), len(records))
    return Run(manifest, records, total_time_s)


def _read_manifest(path: Path, request_count: int) -> tuple[dict[str, Any], float]:
    """(settings, total time) of a run whose result file holds so many requests."""
    try:
        manifest = _parse_json(path.read_text(encoding="utf-8"))
        _require(isinstance(manifest, dict), "not a JSON object")
        count = manifest.pop("request_count", None)
        _require(count == request_count, f"says {count} requests, beside it are {request_count}")
        return manifest, _time(manifest.pop("total_time_s", None), "total_time_s")
    except OSError as error:
        cause = (error.strerror or "").lower()
        raise RecordError(f"{path}: cannot be read ({cause}); a run needs it beside it") from error
    except ValueError as error:
        raise RecordError(f"{path}: not the manifest of this run: {error}") from error


def read_run(path: str | os.PathLike[str]) -> Run:
    """Read a result file of ours or of the artifact. Raises RecordError.

    Counted from the first arrival, but for a run of a suite: its clock starts with its clients.

    A run of the artifact gets `source: artifact`, its settings as `config` and its own sums as
    `reported`. Those sums are not to be trusted: its abort count is always 0, its throughput
    counts aborted requests, and what it calls first-token latency is the whole request's.
    """
    lines = _lines(path)
    first = next(lines, None)
    if first is None:
        raise RecordError(f"{path}: holds no requests")
    number, entry = first
    if not (isinstance(entry, dict) and "config" in entry and "result" in entry):
        return _from_first_arrival(read_jsonl(path))
    if next(lines, None) is not None:
        raise RecordError(f"{path}: holds several experiments; put each in a file of its own")
    return _from_first_arrival(_checked(path, number, entry, _artifact_run))


def _from_first_arrival(run: Run) -> Run:
    """The run on a clock that starts when its first request comes.

    Left alone where the clock is its own: it began with a suite's clients, of whom the first sends
    within seconds. A trace has its recorder's clock, and nothing was there to be served before.
    """
    from fairlane.workloads.trace import since  # numpy, which `import fairlane` does without

    first = min((record.arrival_s for record in run.records), default=0.0)
    if first == 0 or (_is_of_suite(run.manifest) and first <= _SUITES_BEGIN_WITHIN_S):
        return run
    records = [replace(r, arrival_s=since(first, r.arrival_s)) for r in run.records]
    total = run.total_time_s  # may count from the first arrival already
    return Run(run.manifest, records, since(first, total) if total >= first else total, first)


def _is_of_suite(manifest: dict[str, Any]) -> bool:
    """Whether the workload was drawn, so that its times count from when its clients began."""
    config = manifest.get("config")
    made_by = config.get("mode") if isinstance(config, dict) else manifest.get("suite")
    return isinstance(made_by, str) and made_by.strip().lower() != "real"


def _lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, Any]]:
    """(line number, parsed JSON) of every line that is not blank."""
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _checked(path, number, line, _parse_json)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({(error.strerror or '').lower()})") from error
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: not a text file in UTF-8") from error


def _checked(path: str | os.PathLike[str], number: int, entry: Any, parse: Callable[[Any], T]) -> T:
    """`parse(entry)`; what is wrong with it is said with file and line."""
    try:
        return parse(entry)
    except ValueError as error:
        raise RecordError(f"{path}:{number}: {error}") from error


def _parse_json(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number")

    try:
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise ValueError("nested too deeply to be a result") from None


def _record(entry: Any) -> RequestRecord:
    """One line of ours. Raises ValueError that says what is wrong with it."""
    _require(isinstance(entry, dict), "not a JSON object with the fields of a request")
    for name in entry:
        _require(name in _COLUMNS, f"unknown field {name!r}")
    for name in _REQUIRED:
        _require(name in entry, f"no field {name!r}")
    record = RequestRecord(**entry)
    is_id = isinstance(record.id, str) or _is_whole(record.id)
    _require(is_id, "id must be a whole number or a string")
    _require(isinstance(record.client, str), "client must be a string")
    _require(isinstance(record.reason, str), "reason must be a string")
    _require(record.outcome in OUTCOMES, f"outcome must be one of {', '.join(OUTCOMES)}")
    _tokens(record.prompt_len, "prompt_len")
    _tokens(record.output_len, "output_len")
    _time(record.arrival_s, "arrival_s")
    for name in ("ttft_s", "latency_s"):
        if record.outcome == "finished" or getattr(record, name) is not None:
            _time(getattr(record, name), name)
    for name in ("asked_prompt_len", "asked_output_len"):
        if getattr(record, name) is not None:
            _tokens(getattr(record, name), name)
    if record.replica is not None:
        is_number = _is_whole(record.replica) and record.replica >= 0
        _require(is_number, f"replica must be a whole number >= 0, not {record.replica!r}")
    times = record.token_times_s
    _require(times is None or isinstance(times, list), "token_times_s must be a list of seconds")
    for time in times or ():
        _time(time, "token_times_s")
    return record


def _artifact_run(entry: dict[str, Any]) -> Run:
    """One line of the artifact's. Raises ValueError that says what is wrong with it."""
    try:
        reported = dict(entry["result"])
        responses = reported.pop("responses")
        total_time_s = _time(reported.pop("total_time"), "total_time")
        records = [_artifact_record(i, response) for i, response in enumerate(responses)]
    except KeyError as error:
        raise ValueError(f"no field {error} in a result of the artifact") from None
    except (TypeError, AttributeError) as error:
        raise ValueError(f"not a result of the artifact ({error})") from None
    manifest = {"source": "artifact", "config": entry["config"], "reported": reported}
    return Run(manifest, records, total_time_s)


def _artifact_record(index: int, response: dict[str, Any]) -> RequestRecord:
    """One response; the artifact marks an aborted one by latencies of -1."""
    adapter = response["adapter_dir"]
    client = adapter.rpartition("-")[2]
    _require(client.isdigit(), f"response {index}: no client number in adapter {adapter!r}")
    record = RequestRecord(
        id=index,
        client=client,
        arrival_s=_time(response["req_time"], f"response {index}: req_time"),
        prompt_len=_tokens(response["prompt_len"], f"response {index}: prompt_len"),
        output_len=_tokens(response["output_len"], f"response {index}: output_len"),
        outcome="aborted",
    )
    if response["request_latency"] != -1:
        record.outcome = "finished"
        record.ttft_s = _time(response["first_token_latency"], f"response {index}: FTL")
        record.latency_s = _time(response["request_latency"], f"response {index}: latency")
    return record


def _require(condition: bool, complaint: str) -> None:
    if not condition:
        raise ValueError(complaint)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _time(value: Any, name: str) -> float:
    number = isinstance(value, float) or _is_whole(value)
    _require(number and 0 <= value < math.inf, f"{name} must be seconds >= 0, not {value!r}")
    return float(value)


def _tokens(value: Any, name: str) -> int:
    _require(_is_whole(value) and value >= 0, f"{name} must be a whole number >= 0, not {value!r}")
    return int(value)


def _row(record: RequestRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in _CSV_COLUMNS}


def _line(record: RequestRecord) -> dict[str, Any]:
    """A record as JSON, without the fields that say nothing of most records."""
    row = {name: getattr(record, name) for name in _COLUMNS}
    return {name: value for name, value in row.items() if name not in _RARE or value is not None}


_COLUMNS = tuple(column.name for column in fields(RequestRecord))
_CSV_COLUMNS = _COLUMNS[:-1]
_REQUIRED = _COLUMNS[:5]
_RARE = ("asked_prompt_len", "asked_output_len", "replica", "token_times_s")
