"""GET /metrics in Prometheus' format: vLLM's names for what vLLM has, and how late tokens come."""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from fairlane.simulated.realtime import LATE_BOUNDS_S, RealTimeEngine

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LABELS = ("model_name", "engine")
_Kind = type[GaugeMetricFamily] | type[CounterMetricFamily]
_REASONS = ("stop", "length", "abort", "error")


def render(engine: RealTimeEngine, model: str) -> bytes:
    """All metrics as they are now."""
    registry = CollectorRegistry()
    registry.register(_Engine(engine, model))
    return generate_latest(registry)


class _Engine(Collector):
    def __init__(self, engine: RealTimeEngine, model: str) -> None:
        self._engine = engine
        self._values = [model, "0"]

    def collect(self) -> Iterator[Metric]:
        load, counts, tell = self._engine.load(), self._engine.counts, self._tell
        gauge, counter = GaugeMetricFamily, CounterMetricFamily
        yield tell(gauge, "num_requests_running", "Requests in the running batch.", load.running)
        yield tell(gauge, "num_requests_waiting", "Requests in the queue.", load.waiting)
        reasons = {"capacity": load.waiting, "deferred": 0}
        name = "num_requests_waiting_by_reason"
        yield self._tell_each(gauge, name, "Requests in the queue, by reason.", "reason", reasons)
        yield tell(gauge, "kv_cache_usage_perc", "KV cache in use; 1: all of it.", load.memory_used)
        yield tell(counter, "num_preemptions", "Running requests put back.", load.preemptions)
        meaning = "Prompt tokens of requests with a first token."
        yield tell(counter, "prompt_tokens", meaning, counts.prompt_tokens)
        yield tell(counter, "generation_tokens", "Tokens handed out.", counts.generation_tokens)
        ended = {reason: counts.ended[reason] for reason in _REASONS}
        meaning = "Requests that ended, by reason."
        yield self._tell_each(counter, "request_success", meaning, "finished_reason", ended)
        yield self._late()

    def _tell(self, kind: _Kind, name: str, meaning: str, value: float) -> Metric:
        family = kind(f"vllm:{name}", meaning, labels=_LABELS)
        family.add_metric(self._values, value)
        return family

    def _tell_each(
        self, kind: _Kind, name: str, meaning: str, label: str, values: Mapping[str, float]
    ) -> Metric:
        family = kind(f"vllm:{name}", meaning, labels=[*_LABELS, label])
        for key, value in values.items():
            family.add_metric([*self._values, key], value)
        return family

    def _late(self) -> Metric:
        counts = self._engine.counts
        family = HistogramMetricFamily(
            "fairlane_simulated_lateness_seconds",
            "How much later than at its time a token was handed out, in real time.",
            labels=_LABELS,
        )
        total, buckets = 0, []
        for bound, count in zip([*map(str, LATE_BOUNDS_S), "+Inf"], counts.late, strict=True):
            total += count
            buckets.append((bound, float(total)))
        family.add_metric(self._values, buckets, counts.late_sum_s)
        return family
