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
_METRICS: Mapping[str, tuple[str, str, Sequence[str]]] = {
    "duration": (
        "gen_ai_server_request_duration_seconds",
        "From a request's arrival to the last byte of its answer.", ["error_type"],
    ),
    "first": (
        "gen_ai_server_time_to_first_token_seconds",
        "From arrival to the first token, of streams that came to their end.", [],
    ),
    "each": (
        "gen_ai_server_time_per_output_token_seconds",
        "Of each token after the first, in streams that came to their end.", [],
    ),
    "tokens": (
        "gen_ai_client_token_usage",
        "Tokens of a request that came to its end, as it was charged.", ["gen_ai_token_type"],
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
        """Add it to a family, with these labels, unless it is empty."""
        if not any(self._counts):
            return
        names = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        family.add_metric(
            labels, list(zip(names, accumulate(self._counts), strict=True)), self._sum
        )


class _Counted:
    """The histograms of one route and model, those of errors by what they were."""

    def __init__(self, route: str, model: str) -> None:
        self.labels = (operation_of(route), provider_of(route), model)
        self.durations: dict[str, _Histogram] = {"": _Histogram(_SECONDS)}
        self.first, self.each = _Histogram(_FIRST), _Histogram(_EACH)
        self.tokens = {"input": _Histogram(_TOKENS), "output": _Histogram(_TOKENS)}

    def failed(self, error: str) -> _Histogram:
        """Durations of requests that ended by this error."""
        return self.durations.setdefault(error, _Histogram(_SECONDS))

    def tell(self, families: Mapping[str, HistogramMetricFamily]) -> None:
        """Add all of it that is something."""
        for error, durations in self.durations.items():
            durations.tell(families["duration"], (*self.labels, error))
        self.first.tell(families["first"], self.labels)
        self.each.tell(families["each"], self.labels)
        for kind, tokens in self.tokens.items():
            tokens.tell(families["tokens"], (*self.labels, kind))


class GenAiMetrics(Collector):
    """Counts requests for models that are served. models: their names, as they are now."""

    def __init__(self, models: Container[str]) -> None:
        self._models = models
        self._counted: dict[tuple[str, str], _Counted] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def __call__(self, visit: Visit) -> None:
        """Count a request that is over."""
        counted = self._counted.get((visit.route, visit.model))
        if counted is None:
            if visit.model not in self._models or not visit.route:
                return
            counted = _Counted(visit.route, visit.model)
            self._counted[visit.route, visit.model] = counted
        if visit.outcome != "finished":
            counted.failed(error_of(visit)).add(visit.duration_s)
            return
        counted.durations[""].add(visit.duration_s)
        counted.tokens["input"].add(visit.input_tokens)
        counted.tokens["output"].add(visit.output_tokens)
        first, after = visit.first_token_s, visit.output_tokens - 1
        if first is not None:
            counted.first.add(first)
            if after > 0:
                counted.each.add((visit.duration_s - first) / after)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> list[Metric]:
        """For the registry."""
        families = {
            key: HistogramMetricFamily(name, meaning, labels=[*_LABELS, *more])
            for key, (name, meaning, more) in _METRICS.items()
        }
        for counted in self._counted.values():
            counted.tell(families)
        return list(families.values())
