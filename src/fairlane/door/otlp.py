"""Traces by OpenTelemetry's SDK, sent by OTLP over HTTP.

One trace shows a request's way: a server's span, as HTTP has it, with the tenant; in it a span for
each time that it waited in the queue, and one for each upstream that it was sent to, as the
conventions for clients of models have it (gen_ai.py says which). The first token is an event. What
goes to the upstream names the last of these as its parent, so an engine's own spans join in.

Spans leave by a thread of the SDK, from a queue of bounded length (OTEL_BSP_MAX_QUEUE_SIZE; 2,048):
what a collector does not take is lost. The server's log says that once.
"""

import asyncio
import logging
import random
import threading
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from fairlane.core.errors import FairlaneError
from fairlane.door.gen_ai import error_of, operation_of, provider_of
from fairlane.door.tracing import Headers, NoTracing, Trace, TracingConfig
from fairlane.door.visits import Visit

try:
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import (
        ALWAYS_OFF,
        ALWAYS_ON,
        Decision,
        ParentBased,
        Sampler,
        SamplingResult,
    )
    from opentelemetry.trace import (
        Span,
        SpanKind,
        StatusCode,
        Tracer,
        get_current_span,
        set_span_in_context,
    )
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    from opentelemetry.util.types import Attributes
except ImportError as error:
    raise FairlaneError(
        "traces need OpenTelemetry, which is not installed: "
        "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
    ) from error

_W3C = TraceContextTextMapPropagator()
_CONTEXT = {b"traceparent": 128, b"tracestate": 512}  # bytes that are read of each at most
_SEND_S = 5.0  # how long a collector may take
_END_S = 2.0  # to send what is left
_UNNAMED = "unknown_service"  # what the SDK calls a service that the environment does not name
_LOUD = ("opentelemetry.exporter.otlp.proto.http", "opentelemetry.sdk._shared_internal")


class Tracing(NoTracing):
    """Makes traces, and sends them. service: what the server is called in them."""

    def __init__(self, config: TracingConfig, service: str, log: logging.Logger) -> None:
        for name in _LOUD:  # the SDK says at every try what is said once here
            logging.getLogger(name).setLevel(logging.CRITICAL)
        exporter = OTLPSpanExporter(endpoint=config.url, timeout=_SEND_S)
        resource = Resource.create()
        if str(resource.attributes["service.name"]).startswith(_UNNAMED):
            resource = resource.merge(Resource({"service.name": service}))
        self._joins = config.clients != "ignore"
        self._provider = TracerProvider(
            sampler=_sampler(config), resource=resource, shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(_Saying(exporter, log)))
        self._tracer = self._provider.get_tracer("fairlane")

    def begin(self, visit: Visit, headers: Headers) -> Trace:
        """The trace of a request that has come in; its id goes into `visit`."""
        context = _W3C.extract(_told(headers)) if self._joins else Context()
        span = self._tracer.start_span(
            f"{visit.method} {visit.route}", context, SpanKind.SERVER,
            start_time=_ns(visit.at), attributes={
                "http.request.method": visit.method, "http.route": visit.route,
                "url.path": visit.route, "fairlane.tenant": visit.client or "",
                "gen_ai.operation.name": operation_of(visit.route),
                "gen_ai.provider.name": provider_of(visit.route),
            },
        )  # fmt: skip
        visit.trace_id = f"{span.get_span_context().trace_id:032x}"
        return _Traced(self._tracer, span, visit) if span.is_recording() else _Passing(span)

    async def close(self) -> None:
        """Send what is left, as far as that can be soon."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        until = time.monotonic() + _END_S
        while ending.is_alive() and time.monotonic() < until:
            await asyncio.sleep(0.02)


class _Passing(Trace):
    """Of a request that is not traced: whoever is asked next is told so."""

    def __init__(self, span: Span) -> None:
        self._last = span

    def passing(self, headers: Headers) -> Headers:
        """See Trace."""
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, set_span_in_context(self._last, Context()))
        others = [(name, value) for name, value in headers if name not in _CONTEXT]
        return [*others, *((name.encode(), value.encode()) for name, value in carrier.items())]


class _Traced(_Passing):
    """The spans of one request. Of those in the server's, one at a time is open."""

    def __init__(self, tracer: Tracer, span: Span, visit: Visit) -> None:
        super().__init__(span)
        self._tracer = tracer
        self._span = span
        self._context = set_span_in_context(span, Context())
        self._visit = visit
        self._inner: Span | None = None
        self._usage: dict[str, int] = {}

    def waits(self) -> None:
        """See Trace."""
        self._open("queue", SpanKind.INTERNAL, {})

    def sends(self, upstream: str, url: str, model: str) -> None:
        """See Trace."""
        route, there = self._visit.route, urlsplit(url)
        port = there.port or (443 if there.scheme == "https" else 80)
        self._last = self._open(
            f"{operation_of(route)} {model}", SpanKind.CLIENT,
            {
                "gen_ai.operation.name": operation_of(route),
                "gen_ai.provider.name": provider_of(route), "gen_ai.request.model": model,
                "gen_ai.request.stream": self._visit.stream, "server.address": there.hostname or "",
                "server.port": port, "fairlane.upstream": upstream,
            },
        )  # fmt: skip

    def comes_back(self) -> None:
        """See Trace."""
        self._close("not_served")

    def used(self, prompt: int, cached: int, output: int) -> None:
        """See Trace."""
        self._usage = {
            "gen_ai.usage.input_tokens": prompt,
            "gen_ai.usage.cache_read.input_tokens": cached,
            "gen_ai.usage.output_tokens": output,
        }

    def end(self, visit: Visit) -> None:
        """See Trace."""
        span, error = self._span, error_of(visit)
        if visit.first_token_s is not None:
            self._last.add_event("first token", timestamp=_ns(visit.at + visit.first_token_s))
            first = "gen_ai.response.time_to_first_chunk"
            self._last.set_attribute(first, visit.first_token_s)
        if self._inner is not None:
            self._inner.set_attributes(self._usage)
        self._close(error)
        told: dict[str, Any] = {**self._usage, "fairlane.outcome": visit.outcome}
        told["gen_ai.request.stream"] = visit.stream
        optional = {
            "http.response.status_code": visit.status, "fairlane.queue_s": visit.waited_s,
            "gen_ai.request.model": visit.model[:256] or None, "error.type": error or None,
            "fairlane.service": visit.service,
        }  # fmt: skip
        told |= {name: value for name, value in optional.items() if value is not None}
        span.set_attributes(told)
        if visit.outcome == "failed" or (visit.status or 0) >= 500:
            span.set_status(StatusCode.ERROR)
        span.end()

    def _open(self, name: str, kind: SpanKind, attributes: dict[str, Any]) -> Span:
        self._close()
        span = self._tracer.start_span(name, self._context, kind, attributes)
        self._inner = span
        return span

    def _close(self, error: str = "") -> None:
        span, self._inner = self._inner, None
        if span is None:
            return
        if error:
            span.set_attribute("error.type", error)
            span.set_status(StatusCode.ERROR)
        span.end()


class _Dice(Sampler):
    """Whether a request is traced, whatever trace it says it is part of: a client chose that id."""

    def __init__(self, part: float) -> None:
        self._part = part

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        *_: Any,
        **__: Any,
    ) -> SamplingResult:
        """See the SDK."""
        decision = Decision.RECORD_AND_SAMPLE if random.random() < self._part else Decision.DROP
        state = get_current_span(parent_context).get_span_context().trace_state
        return SamplingResult(decision, attributes, trace_state=state)

    def get_description(self) -> str:
        """See the SDK."""
        return f"Dice({self._part:g})"


def _sampler(config: TracingConfig) -> Sampler:
    dice, follows = _Dice(config.sample), config.clients == "follow"
    return ParentBased(
        dice,
        remote_parent_sampled=ALWAYS_ON if follows else dice,
        remote_parent_not_sampled=ALWAYS_OFF if follows else dice,
    )


class _Saying(SpanExporter):
    """Says once that a collector does not take what it is sent, and once that it does again."""

    def __init__(self, exporter: SpanExporter, log: logging.Logger) -> None:
        self._exporter = exporter
        self._log = log
        self._fails = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See the SDK."""
        result = self._exporter.export(spans)
        fails = result is not SpanExportResult.SUCCESS
        if fails and not self._fails:
            self._log.warning("the collector does not take traces: they are lost meanwhile")
        elif self._fails and not fails:
            self._log.warning("the collector takes traces again")
        self._fails = fails
        return result

    def shutdown(self) -> None:
        """See the SDK."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """See the SDK."""
        return self._exporter.force_flush(timeout_millis)


def _told(headers: Headers) -> dict[str, str]:
    """The context that a request brings; nothing where it says it twice, or at length."""
    found: dict[str, str] = {}
    for name, value in headers:
        if name in _CONTEXT:
            key = name.decode()
            found[key] = (
                f"{found[key]},{value.decode('latin-1')}"
                if key in found
                else (value.decode("latin-1"))
            )
    return {key: value for key, value in found.items() if len(value) <= _CONTEXT[key.encode()]}


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
