"""One request's way: it waits for its turn, goes to an upstream, and its answer comes back.

While it waits its client may hang up: then it is out of the queue at once and was never sent. A
stream that waits long gets its head and then a comment now and again, so that nobody on the way
gives up; a whole answer cannot be kept alive, so it is refused in time. A request is sent again,
elsewhere if there is an elsewhere, only as long as nothing of an answer has gone to the client.
"""

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fairlane.core.types import Outcome
from fairlane.door.admission import Refused
from fairlane.door.answers import Message, Receive, Send, as_headers
from fairlane.door.tracing import Trace
from fairlane.door.visits import Visit
from fairlane.gateway.body import Asked, Dialect, Price, Route
from fairlane.gateway.counting import Counter, Usage, output_of, usage_of
from fairlane.gateway.desk import Failure, Served, Ticket, Wish
from fairlane.gateway.http_client import (
    Headers,
    UpstreamError,
    UpstreamSilent,
    UpstreamUnreachable,
)
from fairlane.gateway.upstream import Answer, Upstream, headers_for_client

log = logging.getLogger("fairlane.gateway")
_KEEP_ALIVE = b": waiting for a turn\n\n"
_BUSY = (429, 503)
_LONGEST_RETRY_S = 30.0
_STALLED_S = 60.0  # a client that takes nothing of its answer for so long holds its place no more
STREAM_HEADERS = as_headers(
    {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-store",
        "x-accel-buffering": "no",
    }
)


@dataclass(frozen=True, slots=True)
class Patience:
    """comment: seconds between signs of life to a stream that waits. tries: how often a request is
    sent, at most.
    """

    comment: float = 10.0
    tries: int = 3


@dataclass(slots=True)
class Call:
    """One request on its way."""

    ticket: Ticket
    wish: Wish
    asked: Asked
    route: Route
    path: str
    headers: Headers
    client: str
    served: Served
    visit: Visit
    trace: Trace
    tries: int = 0
    head_sent: bool = False


class Relay:
    """Takes calls to upstreams and answers back. upstreams: by name; may change while it runs."""

    def __init__(self, upstreams: Mapping[str, Upstream], patience: Patience) -> None:
        self._upstreams = upstreams
        self._patience = patience

    async def serve(self, call: Call, receive: Receive, send: Send) -> None:
        """Serve a call to its end, whatever that is. Raises Refused as long as no head was sent."""
        task = asyncio.current_task()
        assert task is not None
        reader = _Reader(send)
        gone = asyncio.create_task(_cancel_if_gone(receive, reader, task))
        try:
            await self._through(call, reader.send)
        except asyncio.CancelledError:
            if not gone.done() or task.uncancel():  # it was not the client
                raise
            call.visit.hung_up = True
        finally:
            gone.cancel()

    # -- waiting -----------------------------------------------------------------------------

    async def _through(self, call: Call, send: Send) -> None:
        """Turn after turn until an upstream answers; errors after the head are events."""
        try:
            while not await self._tried(call, send):
                call.trace.comes_back()
        except (Refused, UpstreamError) as error:
            refused = _as_refused(error)
            if not call.head_sent:
                raise refused from None
            await _send_error(call, send, refused)

    async def _tried(self, call: Call, send: Send) -> bool:
        """Wait for a turn and take it; whether that settled the call."""
        call.visit.waits()
        call.trace.waits()
        name = await self._awaited(call, send)
        call.visit.sent(name)
        upstream = self._upstreams.get(name)
        if upstream is None:  # it was taken away just now
            return False
        try:
            return await self._sent(call, upstream, send)
        except UpstreamUnreachable:
            call.served.refused = True
            call.ticket.fails(Failure(unreachable=True))  # who waits for it is kept; this one too
            return False
        except UpstreamSilent:
            # else it would swallow one after the other
            call.ticket.fails(Failure(unreachable=True))
            raise

    async def _awaited(self, call: Call, send: Send) -> str:
        """Wait for a turn: a stream hears that it waits."""
        if not call.asked.stream:
            return await call.ticket.turn(call.wish)
        turn = asyncio.ensure_future(call.ticket.turn(call.wish))
        try:
            while True:
                done, _ = await asyncio.wait({turn}, timeout=self._patience.comment)
                if done:
                    return turn.result()
                await self._begin(call, send, 200, STREAM_HEADERS)
                await _send_part(send, _KEEP_ALIVE)
        finally:
            turn.cancel()

    # -- the answer --------------------------------------------------------------------------

    async def _sent(self, call: Call, upstream: Upstream, send: Send) -> bool:
        """Send it to an upstream; whether that settled it, else it may be sent again."""
        call.served.sent, call.served.refused = True, False
        call.served.output_tokens = 0 if call.asked.stream else None  # not seen as they come
        call.tries += 1
        last = call.tries >= self._patience.tries
        try:
            call.trace.sends(call.visit.upstream, upstream.url, call.wish.model)
            headers = call.trace.passing(upstream.naming(call.client, call.headers))
            async with await upstream.send(
                "POST", call.path, headers, call.asked.content
            ) as answer:
                if answer.status in _BUSY:
                    call.ticket.fails(Failure(retry_after_s=_retry_after(answer)))
                    if not last:
                        call.served.refused = True
                        return False
                if _is(answer, b"event-stream") and call.route.dialect is not Dialect.PLAIN:
                    await self._pass_stream(call, answer, send)
                elif call.route.dialect is Dialect.MEDIA and not _is(answer, b"json"):
                    await self._pass_bytes(call, answer, send)
                else:
                    await self._pass_whole(call, answer, send)
                return True
        except UpstreamUnreachable:
            call.tries -= 1  # it has not seen the request
            raise
        except UpstreamSilent:
            call.served.output_tokens = call.served.output_tokens or 0
            raise
        except UpstreamError:
            call.served.refused = not call.served.output_tokens
            if last or call.head_sent:
                raise
            return False

    async def _pass_stream(self, call: Call, answer: Answer, send: Send) -> None:
        counter = Counter(call.route.dialect, hides_usage=call.asked.hides_usage)
        headers = headers_for_client(answer.headers)
        try:
            async for part in _with_rest(counter, answer.parts):
                if counter.chunks:
                    if not call.served.output_tokens:
                        call.ticket.flows()
                        call.visit.has_token()
                    call.served.output_tokens = max(1, counter.so_far)
                    call.ticket.tokens(call.served.output_tokens)
                if part:
                    await self._begin(call, send, answer.status, headers)
                    await _send_part(send, part)
        finally:
            call.served.usage = _priced(counter.usage, call.route.price)
            call.served.output_tokens = counter.in_all
        if counter.finished and not counter.error:
            call.served.outcome = Outcome.FINISHED
        await self._begin(call, send, answer.status, headers)
        await send({"type": "http.response.body", "body": b""})

    async def _pass_whole(self, call: Call, answer: Answer, send: Send) -> None:
        body = b"".join([part async for part in answer.parts])
        good = answer.status < 400
        call.served.refused = not good
        call.ticket.flows()
        if good:
            usage = usage_of(call.route.dialect, body)
            output = output_of(call.route.dialect, body, usage)
            call.served.usage = _priced(usage, call.route.price)
            call.served.output_tokens = output
            call.ticket.tokens(output)
        if call.head_sent:  # a stream that waited, and now an error in its place
            await _send_part(send, _event(call.route.dialect, _error_of(body, answer.status)))
            await send({"type": "http.response.body", "body": b""})
            return
        if good:
            call.served.outcome = Outcome.FINISHED
        headers = headers_for_client(answer.headers)
        headers.append((b"content-length", str(len(body)).encode()))
        await self._begin(call, send, answer.status, headers)
        await send({"type": "http.response.body", "body": body})

    async def _pass_bytes(self, call: Call, answer: Answer, send: Send) -> None:
        """What has no tokens, such as spoken words."""
        call.ticket.flows()
        call.served.refused, call.served.output_tokens = answer.status >= 400, 0
        async for part in answer.parts:
            await self._begin(call, send, answer.status, headers_for_client(answer.headers))
            await _send_part(send, part)
        if answer.status < 400:
            call.served.outcome = Outcome.FINISHED
        await self._begin(call, send, answer.status, headers_for_client(answer.headers))
        await send({"type": "http.response.body", "body": b""})

    async def _begin(self, call: Call, send: Send, status: int, headers: Headers) -> None:
        """Send the head, once."""
        if call.head_sent:
            return
        call.head_sent = True
        call.visit.status = status
        message: Message = {"type": "http.response.start", "status": status}
        await send({**message, "headers": [*headers, *as_headers(call.ticket.rate_headers)]})


class _Reader:
    """Who an answer is for; notices whether it is taken."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._offered = self._taken = self._seen = 0

    async def send(self, message: Message) -> None:
        """Hand on a piece, and wait until there is room for more."""
        self._offered += 1
        await self._send(message)
        self._taken += 1

    def stands_still(self) -> bool:
        """Whether the same piece waited at the last question."""
        waits = self._offered if self._offered > self._taken else 0
        before, self._seen = self._seen, waits
        return waits > 0 and waits == before


def _priced(usage: Usage | None, price: Price) -> Usage | None:
    """Usage in tokens, also of an engine that tells seconds."""
    if usage is None or not usage.seconds or usage.input:
        return usage
    return replace(usage, input=price.request + math.ceil(usage.seconds * price.second))


async def _with_rest(counter: Counter, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for part in parts:
        yield counter.feed(part)
    yield counter.rest()


async def _cancel_if_gone(receive: Receive, reader: _Reader, task: "asyncio.Task[Any]") -> None:
    """Cancel what is done for a client that hangs up, or takes nothing of its answer for long."""
    while True:
        try:
            async with asyncio.timeout(_STALLED_S):
                if (await receive())["type"] == "http.disconnect":
                    break
        except TimeoutError:
            if reader.stands_still():
                log.warning("hanging up on a client that takes nothing of its answer")
                break
    task.cancel()


async def _send_part(send: Send, part: bytes) -> None:
    await send({"type": "http.response.body", "body": part, "more_body": True})


async def _send_error(call: Call, send: Send, refused: Refused) -> None:
    """After the head an error can only be an event; the SDKs raise it with its message."""
    call.visit.code = refused.code
    error = {"message": refused.message, "type": "server_error", "code": refused.code}
    await _send_part(send, _event(call.route.dialect, error))
    await send({"type": "http.response.body", "body": b""})


def _event(dialect: Dialect, error: dict[str, Any]) -> bytes:
    if dialect is Dialect.OPENAI:
        return b"data: " + json.dumps({"error": error}).encode() + b"\n\n"
    value = {"type": "error", "error": error}
    return b"event: error\ndata: " + json.dumps(value).encode() + b"\n\n"


def _error_of(body: bytes, status: int) -> dict[str, Any]:
    """An upstream's error as an object, whatever it sent."""
    try:
        error = json.loads(body)["error"]
        if isinstance(error, dict):
            return error
        message = str(error)
    except (ValueError, LookupError, TypeError, RecursionError):
        message = f"the upstream answered {status}"
    return {"message": message, "type": "upstream_error", "code": str(status)}


def _is(answer: Answer, kind: bytes) -> bool:
    """Whether a good answer is of this content type."""
    types = [value for name, value in answer.headers if name.lower() == b"content-type"]
    return answer.status < 300 and any(kind in value.lower() for value in types)


def _retry_after(answer: Answer) -> float:
    for name, value in answer.headers:
        if name.lower() == b"retry-after" and value.strip().isdigit():
            return min(float(value), _LONGEST_RETRY_S)
    return 1.0


def _as_refused(error: Refused | UpstreamError) -> Refused:
    if isinstance(error, Refused):
        return error
    status = 504 if isinstance(error, UpstreamSilent) else 502
    return Refused(status, "upstream_error", f"The engine did not answer to the end ({error}).")
