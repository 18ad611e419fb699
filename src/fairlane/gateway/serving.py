"""One request's way: it waits for its turn, goes to an upstream, and its answer comes back.

While it waits its client may hang up: then it is out of the queue at once and was never sent. A
stream that waits long gets its head and then a comment now and again, so that nobody on the way
gives up; a whole answer cannot be kept alive, so it is refused in time. A request is sent again,
elsewhere if there is an elsewhere, only as long as nothing of an answer has gone to the client.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fairlane.core.types import Outcome, Rejection, Request
from fairlane.door.admission import Refused, Turns
from fairlane.door.answers import Message, Receive, Send, as_headers
from fairlane.gateway.body import Asked, Dialect
from fairlane.gateway.counting import Counter, Usage, usage_of
from fairlane.gateway.dispatch import Dispatcher, NotQueued
from fairlane.gateway.http_client import (
    Headers,
    UpstreamError,
    UpstreamSilent,
    UpstreamUnreachable,
)
from fairlane.gateway.pool import Lane
from fairlane.gateway.upstream import Answer, Upstream, headers_for_client

T = TypeVar("T")
_KEEP_ALIVE = b": waiting for a turn\n\n"
_BUSY = (429, 503)
_LONGEST_RETRY_S = 30.0
STREAM_HEADERS = as_headers(
    {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-store",
        "x-accel-buffering": "no",
    }
)


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. comment: between signs of life to a stream that waits. whole: how long a request
    waits that is not streamed. tries: how often one is sent, at most.
    """

    comment: float
    whole: float
    tries: int


@dataclass(slots=True)
class Served:
    """What became of a request, for whoever counts.

    sent: whether an engine was given it; refused: whether the engine then did no work for it.
    output_tokens: so far, and in all at the end. usage: what the engine said of it.
    """

    outcome: Outcome = Outcome.ABORTED
    sent: bool = False
    refused: bool = False
    output_tokens: int = 0
    usage: Usage | None = None

    def in_all(self, estimated: int) -> Usage:
        """What it is charged for in the end; `estimated`: its prompt, where nobody said more."""
        if not self.sent or self.refused:
            return Usage()
        told = self.usage or Usage()
        if not told.input:
            return Usage(estimated, 0, self.output_tokens)
        return Usage(told.input, min(told.cached, told.input), self.output_tokens)


@dataclass(slots=True)
class Call:
    """One request on its way. flows: called once, when its first token comes."""

    request: Request
    asked: Asked
    dialect: Dialect
    method: str
    path: str
    headers: Headers
    more_headers: Callable[[], Headers]
    flows: Callable[[], None]
    served: Served = field(default_factory=Served)
    entered: bool = False
    tries: int = 0
    head_sent: bool = False


class Serving:
    """Serves calls of one pool. upstreams: by the name of their lane."""

    def __init__(
        self, dispatcher: Dispatcher, upstreams: dict[str, Upstream], patience: Patience
    ) -> None:
        self._dispatcher = dispatcher
        self._upstreams = upstreams
        self._patience = patience

    async def serve(self, call: Call, turns: Turns, receive: Receive, send: Send) -> None:
        """Serve a call to its end, whatever that is. Raises Refused as long as no head was sent.

        turns: how many requests each client may have under way.
        """
        request_id = str(call.request.id)
        task = asyncio.current_task()
        assert task is not None
        gone = asyncio.create_task(_cancel_if_gone(receive, task))
        try:
            await self._through(call, turns, send)
        except asyncio.CancelledError:
            if not gone.done() or task.uncancel():  # it was not the client
                raise
        finally:
            gone.cancel()
            if call.served.sent:
                final = call.served.in_all(call.request.prompt_tokens)
                self._dispatcher.settle(request_id, final)
            self._dispatcher.end(request_id, call.served.outcome)
            if call.entered:
                turns.leave(call.request.client)

    # -- waiting -----------------------------------------------------------------------------

    async def _through(self, call: Call, turns: Turns, send: Send) -> None:
        """Turn after turn until an upstream answers; errors after the head are events."""
        try:
            if not turns.entered(call.request.client):
                await self._awaited(call, send, turns.enter(call.request.client))
            call.entered = True
            self._dispatcher.arrive(call.request)
            while not await self._tried(call, send):
                self._dispatcher.again(str(call.request.id))
        except (Refused, NotQueued, UpstreamError) as error:
            refused = _as_refused(error)
            if not call.head_sent:
                raise refused from None
            await _send_error(call, send, refused)

    async def _tried(self, call: Call, send: Send) -> bool:
        """Wait for a turn and take it; whether that settled the call."""
        request_id = str(call.request.id)
        lane = self._dispatcher.at_once(request_id)
        if lane is None:
            lane = await self._awaited(call, send, self._dispatcher.turn(request_id))
        try:
            return await self._sent(call, lane, send)
        except UpstreamUnreachable:
            call.served.refused = True
            self._dispatcher.unreachable(lane)  # who waits for it is kept; this one too
            return False

    async def _awaited(self, call: Call, send: Send, what: Coroutine[Any, Any, T]) -> T:
        """Wait for a turn: a stream hears that it waits, another request not for ever."""
        turn = asyncio.ensure_future(what)
        try:
            if not call.asked.stream:
                async with asyncio.timeout(self._patience.whole):
                    return await turn
            while True:
                done, _ = await asyncio.wait({turn}, timeout=self._patience.comment)
                if done:
                    return turn.result()
                await self._begin(call, send, 200, STREAM_HEADERS)
                await _send_part(send, _KEEP_ALIVE)
        except TimeoutError:
            wait = self._dispatcher.pool.expected_wait()
            raise Refused(
                504, "queue_timeout", "The request waited too long for its turn.",
                Rejection("queue_timeout", wait),
            ) from None  # fmt: skip
        finally:
            turn.cancel()

    # -- the answer --------------------------------------------------------------------------

    async def _sent(self, call: Call, lane: Lane, send: Send) -> bool:
        """Send it to the lane's upstream; whether that settled it, else it may be sent again."""
        upstream = self._upstreams[lane.name]
        call.served.sent, call.served.refused = True, False
        call.tries += 1
        last = call.tries >= self._patience.tries
        try:
            async with await upstream.send(
                call.method, call.path, call.headers, call.asked.content
            ) as answer:
                if answer.status in _BUSY:
                    self._dispatcher.turned_away(lane, _retry_after(answer))
                    if not last:
                        call.served.refused = True
                        return False
                if call.asked.stream and _is_stream(answer):
                    await self._pass_stream(call, answer, send)
                else:
                    await self._pass_whole(call, answer, send)
                return True
        except UpstreamUnreachable:
            call.tries -= 1  # it has not seen the request
            raise
        except UpstreamSilent:
            raise
        except UpstreamError:
            call.served.refused = not call.served.output_tokens
            if last or call.head_sent:
                raise
            return False

    async def _pass_stream(self, call: Call, answer: Answer, send: Send) -> None:
        counter = Counter(call.dialect, hides_usage=call.asked.hides_usage)
        request_id = str(call.request.id)
        headers = headers_for_client(answer.headers)
        try:
            async for part in _with_rest(counter, answer.parts):
                if counter.chunks:
                    if not call.served.output_tokens:
                        call.flows()
                    call.served.output_tokens = max(1, counter.so_far)
                    self._dispatcher.tokens(request_id, call.served.output_tokens)
                if part:
                    await self._begin(call, send, answer.status, headers)
                    await _send_part(send, part)
        finally:
            call.served.usage = counter.usage
            call.served.output_tokens = counter.in_all
            self._dispatcher.tokens(request_id, counter.in_all)
        if counter.finished and not counter.error:
            call.served.outcome = Outcome.FINISHED
        await self._begin(call, send, answer.status, headers)
        await send({"type": "http.response.body", "body": b""})

    async def _pass_whole(self, call: Call, answer: Answer, send: Send) -> None:
        body = b"".join([part async for part in answer.parts])
        call.served.refused = answer.status >= 400
        if call.head_sent:  # a stream that waited, and now an error in its place
            await _send_part(send, _event(call.dialect, _error_of(body, answer.status)))
            await send({"type": "http.response.body", "body": b""})
            return
        call.flows()
        usage = usage_of(call.dialect, body) if answer.status < 400 else None
        if usage is not None:
            call.served.usage, call.served.output_tokens = usage, usage.output
            self._dispatcher.tokens(str(call.request.id), usage.output)
        if answer.status < 400:
            call.served.outcome = Outcome.FINISHED
        headers = headers_for_client(answer.headers)
        headers.append((b"content-length", str(len(body)).encode()))
        await self._begin(call, send, answer.status, headers)
        await send({"type": "http.response.body", "body": body})

    async def _begin(self, call: Call, send: Send, status: int, headers: Headers) -> None:
        """Send the head, once."""
        if call.head_sent:
            return
        call.head_sent = True
        message: Message = {"type": "http.response.start", "status": status}
        await send({**message, "headers": [*headers, *call.more_headers()]})


async def _with_rest(counter: Counter, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for part in parts:
        yield counter.feed(part)
    yield counter.rest()


async def _cancel_if_gone(receive: Receive, task: "asyncio.Task[Any]") -> None:
    """Cancel what is done for a client that hangs up."""
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()


async def _send_part(send: Send, part: bytes) -> None:
    await send({"type": "http.response.body", "body": part, "more_body": True})


async def _send_error(call: Call, send: Send, refused: Refused) -> None:
    """After the head an error can only be an event; the SDKs raise it with its message."""
    error = {"message": refused.message, "type": "server_error", "code": refused.code}
    await _send_part(send, _event(call.dialect, error))
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


def _is_stream(answer: Answer) -> bool:
    types = [value for name, value in answer.headers if name.lower() == b"content-type"]
    return answer.status < 300 and any(b"event-stream" in value for value in types)


def _retry_after(answer: Answer) -> float:
    for name, value in answer.headers:
        if name.lower() == b"retry-after" and value.strip().isdigit():
            return min(float(value), _LONGEST_RETRY_S)
    return 1.0


def _as_refused(error: Exception) -> Refused:
    if isinstance(error, Refused):
        return error
    if isinstance(error, NotQueued):
        return _not_queued(error)
    status = 504 if isinstance(error, UpstreamSilent) else 502
    return Refused(status, "upstream_error", f"The engine did not answer to the end ({error}).")


def _not_queued(error: NotQueued) -> Refused:
    if error.reason == "policy_error":
        return Refused(500, "policy_error", "The scheduling policy failed; see the gateway's log.")
    return Refused(
        429, "rate_limit_exceeded", "The scheduler turned the request away.",
        Rejection(error.reason, None),
    )  # fmt: skip
