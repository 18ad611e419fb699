"""What a run produces: one record per request, and JSON Lines in and out.

A run is written as `NAME.jsonl`, one request per line, with `NAME.manifest.json` beside it: the
settings the run was made with, its total time and its number of requests. `read_run` also reads
the result files of the artifact, so that its measurements and ours go through the same metrics.
"""

from dataclasses import dataclass, field
from typing import Any


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
    outcome: str = "finished"
    reason: str = ""
    token_times_s: list[float] | None = None  # since arrival, only from real servers


@dataclass(slots=True)
class Run:
    """All requests of one run, in arrival order, and what they were made with."""

    manifest: dict[str, Any]
    records: list[RequestRecord] = field(default_factory=list)
    total_time_s: float = 0.0
