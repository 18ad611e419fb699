"""What is noted of one request, from its arrival to its end: for the log, metrics and traces."""

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["finished", "aborted", "failed", "refused"]
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_LONGEST_TRACEPARENT = 128  # bytes; version 00 has 55
_NO_TRACE = b"0" * 32
_CLIENT_GONE = 499


@dataclass(slots=True)
class Visit:
    """One request. Names are as a client sent them, so they may hold anything.

    at: seconds of the epoch when it came; began: by a clock that never goes back. client: None
    until it is known. upstream: where it was sent last, "" where it was not. status: of the
    answer, code: of what went wrong. input_tokens: those of the cache too. service: charged, None
    where that is not known. waited_s: for its turn, first_token_s: from arrival. outcome: failed
    are those that an upstream did not bring to an end; refused those that none was given.
    """

    method: str
    route: str
    at: float = field(default_factory=time.time)
    began: float = field(default_factory=time.monotonic)
    client: str | None = None
    model: str = ""
    upstream: str = ""
    stream: bool = False
    status: int | None = None
    code: str = ""
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    service: float | None = None
    waited_s: float | None = None
    first_token_s: float | None = None
    duration_s: float = 0.0
    outcome: Outcome = "failed"
    trace_id: str = ""
    hung_up: bool = False
    _since: float | None = None

    @classmethod
    def of(cls, scope: Mapping[str, Any]) -> "Visit":
        """Of a request that comes in, as ASGI has it."""
        visit = cls(str(scope.get("method", "GET")), str(scope["path"]))
        visit.trace_id = trace_of(scope["headers"])
        return visit

    def waits(self) -> None:
        """It begins to wait for its turn."""
        self._since = time.monotonic()

    def sent(self, upstream: str) -> None:
        """It goes to an upstream."""
        self._waits_no_more()
        self.upstream = upstream

    def has_token(self) -> None:
        """Its answer has a first token."""
        if self.first_token_s is None:
            self.first_token_s = time.monotonic() - self.began

    def refuse(self, status: int, code: str) -> None:
        """It is answered with an error of ours."""
        self.status, self.code = status, code
        self.hung_up = self.hung_up or status == _CLIENT_GONE

    def was_served(self, prompt: int, cached: int, output: int, service: float) -> None:
        """An engine has done with it, or with one of the requests that it was made into."""
        self.input_tokens += prompt
        self.cached_tokens += cached
        self.output_tokens += output
        self.service = (self.service or 0.0) + service

    def end(self, *, finished: bool) -> None:
        """It is over."""
        self._waits_no_more()
        self.duration_s = time.monotonic() - self.began
        if finished:
            self.outcome = "finished"
        elif self.hung_up:
            self.outcome = "aborted"
        elif self.code and not self.upstream:
            self.outcome = "refused"

    def _waits_no_more(self) -> None:
        if self._since is not None:
            self.waited_s = (self.waited_s or 0.0) + time.monotonic() - self._since
            self._since = None


def trace_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The trace that a request says it is part of, "" where it says none. Source: W3C."""
    for name, value in headers:
        if name == b"traceparent":
            found = len(value) <= _LONGEST_TRACEPARENT and _TRACEPARENT.fullmatch(value)
            return found[1].decode() if found and found[1] != _NO_TRACE else ""
    return ""
