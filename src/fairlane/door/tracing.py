"""Traces of requests for an OpenTelemetry collector. Their part of the configuration:

    [tracing]
    endpoint = "http://127.0.0.1:4318"      # a collector that takes OTLP over HTTP
    environment = false     # instead of that: where OTEL_EXPORTER_OTLP_ENDPOINT says
    sample = 1.0            # the part of requests that are traced
    clients = "join"        # a request with a `traceparent` goes on with that trace; "follow": and
                            # its flag decides whether it is traced; "ignore": it gets a new one

What a client sends may be forged: with "join", the dice decide whether its request is traced,
whatever flag and whatever trace it names; what is no traceparent, or too long, is as if not sent.
The collector's own key belongs into OTEL_EXPORTER_OTLP_HEADERS. The library is imported only where
something is traced (otlp.py).
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from fairlane.addresses import server_url
from fairlane.core.errors import FairlaneError
from fairlane.core.options import Range
from fairlane.door.visits import Visit
from fairlane.validation import checked

Headers = list[tuple[bytes, bytes]]
PATH = "/v1/traces"
_ADDRESSES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SPOKEN = "http/protobuf"


@dataclass(frozen=True, slots=True)
class TracingConfig:
    """[tracing]: see the module."""

    endpoint: str = ""
    environment: bool = False
    sample: Annotated[float, Range(ge=0, le=1)] = 1.0
    clients: Literal["join", "follow", "ignore"] = "join"

    @classmethod
    def parse(cls, table: Mapping[str, Any]) -> "TracingConfig":
        """From the table. Raises FairlaneError, also where the library is not installed."""
        config = cls(**checked(cls, table, what="key"))
        if not config.on:
            for key in table:
                raise FairlaneError(f"{key}: nothing is traced; name an endpoint, or remove it")
            return config
        config.check()
        return config

    @property
    def on(self) -> bool:
        """Whether anything is traced."""
        return bool(self.endpoint) or self.environment

    @property
    def url(self) -> str | None:
        """Where traces go; None where the environment says that."""
        if self.environment:
            return None
        return self.endpoint.rstrip("/") + ("" if urlsplit(self.endpoint).path.strip("/") else PATH)

    def check(self) -> None:
        """Raise FairlaneError for what cannot be."""
        from fairlane.door import otlp  # noqa: F401 - whether it is installed

        if self.endpoint:
            server_url(self.endpoint, "endpoint", "a key belongs into OTEL_EXPORTER_OTLP_HEADERS")
        if not self.environment:
            return
        if self.endpoint:
            raise FairlaneError("environment: there is an endpoint; remove one of them")
        if not any(os.environ.get(name) for name in _ADDRESSES):
            raise FairlaneError(f"environment: it has no {' and no '.join(_ADDRESSES)}")
        spoken = next((os.environ[name] for name in _PROTOCOLS if os.environ.get(name)), _SPOKEN)
        if spoken != _SPOKEN:
            raise FairlaneError(f"environment: only {_SPOKEN} is spoken here, not {spoken}")


class Trace:
    """The spans of one request, on its way from its arrival to its end; this one has none."""

    def waits(self) -> None:
        """It begins to wait for its turn."""

    def sends(self, upstream: str, url: str, model: str) -> None:
        """It goes to an upstream."""

    def comes_back(self) -> None:
        """The upstream did not serve it."""

    def passing(self, headers: Headers) -> Headers:
        """The headers for whoever is asked next."""
        return headers

    def used(self, prompt: int, cached: int, output: int) -> None:
        """Tokens that the engine told."""

    def end(self, visit: Visit) -> None:
        """It is over."""


UNTRACED = Trace()


class NoTracing:
    """Makes traces; this one makes none."""

    def begin(self, visit: Visit, headers: Headers) -> Trace:
        """The trace of a request that has come in; its id goes into `visit`."""
        return UNTRACED

    async def close(self) -> None:
        """Send what is left, as far as that can be soon."""


def tracing_of(config: TracingConfig, service: str, log: logging.Logger) -> NoTracing:
    """What a configuration wants. service: what the server is called in traces."""
    if not config.on:
        return NoTracing()
    from fairlane.door.otlp import Tracing

    return Tracing(config, service, log)
