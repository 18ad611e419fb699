"""What the field calls requests for models, and how long they took: OpenTelemetry's `gen_ai.*`.

The names are those of semantic-conventions-genai 0.1 (2026), which the conventions of generative AI
moved to; all of it, the `gen_ai.server.*` metrics too, has the status "development" there, so names
may still change. A provider is whose API is spoken, as the conventions want of a server that is
asked in another's tongue. In Prometheus' text the dots are underscores, and units come last.
"""

from bisect import bisect_left
from collections.abc import Container, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from fairlane.door.visits import Visit

_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
_SECONDS = tuple(0.01 * 2**k for k in range(14))
_TOKENS = tuple(4**k for k in range(14))
_FIRST = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
_EACH = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_LABELS = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
_METRICS: Mapping[str, tuple[str, Sequence[float], Sequence[str]]] = {
    "gen_ai_server_request_duration_seconds": (
        "From a request's arrival to the last byte of its answer.", _SECONDS, ("error_type",),
    ),
    "gen_ai_server_time_to_first_token_seconds": (
        "From arrival to the first token, of streams that came to their end.", _FIRST, (),
    ),
    "gen_ai_server_time_per_output_token_seconds": (
        "Of each token after the first, in streams that came to their end.", _EACH, (),
    ),
    "gen_ai_client_token_usage": (
        "Tokens of a request that came to its end, as the engine said.",
        _TOKENS, ("gen_ai_token_type",),
    ),
}  # fmt: skip


def operation_of(route: str) -> str:
    """What a route does."""
    return _OPERATIONS.get(route) or route.removeprefix("/v1/").strip("/").replace("/", "_")


def provider_of(route: str) -> str:
    """Whose API a route is of."""
    return "anthropic" if route == "/v1/messages" else "openai"


def error_of(visit: Visit) -> str:
    """What kept a request from its end, "" for nothing: a code, a status, or who."""
    if visit.outcome == "finished":
        return ""
    return visit.code or ("client_closed" if visit.hung_up else str(visit.status or "_OTHER"))


class _Histogram:
    """How many numbers are at most as large as each bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def tell(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Add it to a family, with these labels."""
        names = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        family.add_metric(
            labels, list(zip(names, accumulate(self._counts), strict=True)), self._sum
        )


class GenAiMetrics(Collector):
    """Counts requests for models that are served. models: their names, as they are now."""

    def __init__(self, models: Container[str]) -> None:
        self._models = models
        self._found: dict[str, dict[tuple[str, ...], _Histogram]] = {name: {} for name in _METRICS}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def __call__(self, visit: Visit) -> None:
        """Count a request that is over."""
        if visit.model not in self._models:
            return
        labels = (operation_of(visit.route), provider_of(visit.route), visit.model)
        self._add(
            "gen_ai_server_request_duration_seconds", visit.duration_s, *labels, error_of(visit)
        )
        if visit.outcome != "finished":
            return
        first, after = visit.first_token_s, visit.output_tokens - 1
        if first is not None:
            self._add("gen_ai_server_time_to_first_token_seconds", first, *labels)
            if after > 0:
                each = (visit.duration_s - first) / after
                self._add("gen_ai_server_time_per_output_token_seconds", each, *labels)
        for kind, tokens in (("input", visit.input_tokens), ("output", visit.output_tokens)):
            self._add("gen_ai_client_token_usage", tokens, *labels, kind)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> list[Metric]:
        """For the registry."""
        families: list[Metric] = []
        for name, (meaning, _, more) in _METRICS.items():
            family = HistogramMetricFamily(name, meaning, labels=[*_LABELS, *more])
            for labels, histogram in self._found[name].items():
                histogram.tell(family, labels)
            families.append(family)
        return families

    def _add(self, name: str, value: float, *labels: str) -> None:
        known = self._found[name]
        histogram = known.get(labels)
        if histogram is None:
            histogram = known[labels] = _Histogram(_METRICS[name][1])
        histogram.add(value)
