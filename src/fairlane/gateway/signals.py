"""What engines tell of their load, each in its words: how many requests run, how many wait."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

# Engines by their metrics: running and waiting. All are gauges; several engines of one server
# (labels) are added up.
_METRICS = (
    ("vllm:num_requests_running", "vllm:num_requests_waiting"),
    ("sglang:num_running_reqs", "sglang:num_queue_reqs"),
    ("llamacpp:requests_processing", "llamacpp:requests_deferred"),
    ("tgi_batch_current_size", "tgi_queue_size"),
    ("trtllm_num_requests_running", "trtllm_num_requests_waiting"),
)
_NAMES = tuple(name for pair in _METRICS for name in pair)
LONGEST = 8 << 20  # bytes of an answer that are looked at


@dataclass(frozen=True, slots=True)
class Load:
    """Requests in an engine, whoever sent them."""

    running: int
    waiting: int


def from_metrics(text: str) -> Load | None:
    """From Prometheus' text format; None where none of the known metrics is there."""
    lines = [line for line in text.splitlines() if line.startswith(_NAMES)]
    try:
        sums = _sums("\n".join(lines) + "\n")
    except (ValueError, KeyError, IndexError):
        return None
    for running, waiting in _METRICS:
        if running in sums and waiting in sums:
            return _load(sums[running], sums[waiting])
    return None


def from_loads(body: str) -> Load | None:
    """From SGLang's GET /v1/loads: one entry a rank."""
    try:
        told: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    ranks = told.get("loads", told) if isinstance(told, Mapping) else told
    if isinstance(ranks, Mapping):
        ranks = [ranks]
    if not isinstance(ranks, list) or not all(isinstance(rank, Mapping) for rank in ranks):
        return None
    try:
        return _load(_added(ranks, "num_running_reqs"), _added(ranks, "num_waiting_reqs"))
    except (KeyError, TypeError, ValueError):
        return None


def _added(ranks: Iterable[Mapping[str, Any]], name: str) -> float:
    return sum(float(rank[name]) for rank in ranks)


def _sums(text: str) -> dict[str, float]:
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


def _load(running: float, waiting: float) -> Load | None:
    good = 0 <= running < 1e9 and 0 <= waiting < 1e9  # NaN is neither
    return Load(int(running), int(waiting)) if good else None
