"""A collector on a socket that takes OTLP over HTTP, and keeps the spans that it was sent."""

import gzip
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.talking import until


@dataclass(frozen=True)
class Told:
    """A span, as it came. service: whose; events: their names with seconds since its begin."""

    name: str
    kind: int  # 1 internal, 2 server, 3 client
    trace: str
    id: str
    parent: str
    begin: int
    end: int
    failed: bool
    state: str
    service: str
    attributes: dict[str, Any] = field(default_factory=dict)
    events: dict[str, float] = field(default_factory=dict)


class Collector:
    """Used as a context manager. headers: of what it was sent last."""

    def __init__(self) -> None:
        self.spans: list[Told] = []
        self.headers: dict[str, str] = {}
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                collector.headers = {name.lower(): value for name, value in self.headers.items()}
                collector.spans += _spans(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait_for(self, count: int) -> list[Told]:
        """So many spans, those that began first before others."""
        until(lambda: len(self.spans) >= count)
        assert len(self.spans) == count
        return sorted(self.spans, key=lambda span: span.begin)


def _spans(request: Any) -> list[Told]:
    return [
        Told(
            name=span.name,
            kind=span.kind,
            trace=span.trace_id.hex(),
            id=span.span_id.hex(),
            parent=span.parent_span_id.hex(),
            begin=span.start_time_unix_nano,
            end=span.end_time_unix_nano,
            failed=span.status.code == 2,
            state=span.trace_state,
            service=_values(of_one.resource.attributes)["service.name"],
            attributes=_values(span.attributes),
            events={
                event.name: (event.time_unix_nano - span.start_time_unix_nano) / 1e9
                for event in span.events
            },
        )
        for of_one in request.resource_spans
        for scope in of_one.scope_spans
        for span in scope.spans
    ]


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
