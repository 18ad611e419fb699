"""Gates: rules that may turn a request away before it is queued.

A gate composes with any policy. It sees a request at `enqueue` and answers with a Rejection, or
None to let it pass. It counts only what was let in, and remembers a client only while that
matters. Time is handed in.
"""

from collections import deque
from typing import Protocol

from fairlane.core.options import ABOVE_ZERO, AT_LEAST_ONE
from fairlane.core.types import Rejection, Request

_PAST_THE_EDGE_S = 0.001  # an arrival exactly one window old still counts


class Gate(Protocol):
    """A rule consulted before a request is queued."""

    def check(self, request: Request, now: float) -> Rejection | None:
        """A rejection, or None when the request may pass. Changes nothing that matters."""

    def accepted(self, request: Request, now: float) -> None:
        """Every gate let the request pass: it waits now."""

    def left(self, request: Request) -> None:
        """It waits no more: it was admitted, or cancelled."""

    def returned(self, request: Request) -> None:
        """It was put back and waits again."""


class RequestRate:
    """At most `limit` accepted requests per client in any window of `window_s` seconds.

    The artifact's rate limiter (paper, section 5.1, "RPM"): a request is turned away when the
    client already has `limit` accepted arrivals not older than `window_s`. Remembers nothing
    older than that, whoever sent it.
    """

    def __init__(self, limit: int, window_s: float = 60.0) -> None:
        AT_LEAST_ONE.check("rate_limit", limit)
        ABOVE_ZERO.check("window_s", window_s)
        self._limit = limit
        self._window_s = window_s
        self._accepted: deque[tuple[float, str]] = deque()  # of all clients, oldest first
        self._by_client: dict[str, deque[float]] = {}

    def check(self, request: Request, now: float) -> Rejection | None:
        """A rejection that says when the oldest accepted request has left the window."""
        self._expire(now)
        times = self._by_client.get(request.client)
        if times is None or len(times) < self._limit:
            return None
        wait = self._window_s - (now - times[0])
        return Rejection("rate_limit", wait + _PAST_THE_EDGE_S)

    def accepted(self, request: Request, now: float) -> None:
        """Count an accepted arrival."""
        self._accepted.append((now, request.client))
        self._by_client.setdefault(request.client, deque()).append(now)

    def left(self, request: Request) -> None:
        """Arrivals count, whatever became of them."""

    def returned(self, request: Request) -> None:
        """Arrivals count once."""

    def _expire(self, now: float) -> None:
        """Drop the arrivals of all clients that are older than the window."""
        while self._accepted and now - self._accepted[0][0] > self._window_s:
            _, client = self._accepted.popleft()
            times = self._by_client[client]
            times.popleft()
            if not times:
                del self._by_client[client]


class QueueLimit:
    """At most `limit` waiting requests per client; what is put back is never turned away."""

    def __init__(self, limit: int) -> None:
        AT_LEAST_ONE.check("a limit of waiting requests", limit)
        self._limit = limit
        self._waiting: dict[str, int] = {}

    def check(self, request: Request, now: float) -> Rejection | None:
        """A rejection while the client has `limit` requests waiting."""
        if self._waiting.get(request.client, 0) < self._limit:
            return None
        return Rejection("queue_full")

    def accepted(self, request: Request, now: float) -> None:
        """One more waits."""
        self.returned(request)

    def left(self, request: Request) -> None:
        """One less waits."""
        waiting = self._waiting.pop(request.client) - 1
        if waiting:
            self._waiting[request.client] = waiting

    def returned(self, request: Request) -> None:
        """One more waits."""
        self._waiting[request.client] = self._waiting.get(request.client, 0) + 1
