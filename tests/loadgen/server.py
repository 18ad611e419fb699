"""A small OpenAI-compatible server with one of our policies: real sockets, no model, no clock.

It runs in a thread with an event loop of its own. Its engine holds `slots` requests; in each step
it admits what the policy picks and writes one token to every stream, in order. So which token comes
when depends on the policy and on what has arrived, not on any timing: with `hold`, the engine
stalls until so many requests have come. Requests whose output length is a key of `faults` get that
answer in place of a stream.
"""

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

from fairlane.core.policy import Policy
from fairlane.core.types import Outcome, Request
from fairlane.policies.fcfs import fcfs
from tests.processes import PATIENCE_S

Json = dict[str, Any]
Fault = Callable[["CompletionServer", web.Request], Awaitable[web.StreamResponse]]
STREAMED = {"Content-Type": "text/event-stream"}


def event(value: Json | str) -> bytes:
    """One server-sent event."""
    return f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n".encode()


def chunk(text: str | None = " hi", finish: str | None = None) -> Json:
    """One chunk of a completion."""
    return {"id": "cmpl-0", "choices": [{"index": 0, "text": text, "finish_reason": finish}]}


def usage(prompt_tokens: int, completion_tokens: int) -> Json:
    """The chunk that ends a stream with its counts."""
    counts = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return {"id": "cmpl-0", "choices": [], "usage": counts}


async def open_stream(request: web.Request) -> web.StreamResponse:
    """A stream of events whose head has been sent."""
    response = web.StreamResponse(headers=STREAMED)
    await response.prepare(request)
    return response


def answer_with(status: int, body: Json | str, headers: dict[str, str] | None = None) -> Fault:
    """A whole answer instead of a stream."""

    async def fault(server: "CompletionServer", request: web.Request) -> web.StreamResponse:
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=status, text=text, headers=headers)

    return fault


def stream_of(*parts: bytes, cut: bool = False) -> Fault:
    """These bytes, each written by itself; with `cut` the connection is then cut."""

    async def fault(server: "CompletionServer", request: web.Request) -> web.StreamResponse:
        response = await open_stream(request)
        for part in parts:
            await response.write(part)
        if cut:
            cut_connection(request)
        return response

    return fault


async def hang_up(server: "CompletionServer", request: web.Request) -> web.StreamResponse:
    """Cut the connection instead of answering."""
    cut_connection(request)
    return web.Response()


async def never_answer(server: "CompletionServer", request: web.Request) -> web.StreamResponse:
    """Say nothing for as long as the server runs."""
    await server.closing.wait()
    return web.Response(status=503)


def cut_connection(request: web.Request) -> None:
    """Send what was written, then close the connection in the middle of the answer."""
    assert request.transport is not None
    request.transport.close()


@dataclass(eq=False)
class Stream:
    """One request that the engine serves; its answer begins with its first token."""

    request: web.Request
    body: Json
    response: web.StreamResponse
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    delivered: int = 0


@dataclass
class Seen:
    """One request as it arrived: when on the clock of `time.monotonic`, its body and headers."""

    at: float
    body: Json
    headers: dict[str, str]


class CompletionServer:
    """Used as a context manager. seen: what arrived; delivered: tokens by (user, output length)."""

    def __init__(
        self,
        policy: Policy[Any] | None = None,
        *,
        slots: int = 8,
        hold: int = 0,
        faults: dict[int, Fault] | None = None,
        models: Json | None = None,
        tokens_added: int = 0,
        port: int = 0,
    ) -> None:
        self.policy = policy or fcfs()
        self.slots = slots
        self.hold = hold
        self.faults = faults or {}
        self.models = {"data": [{"id": "tiny"}]} if models is None else models
        self.tokens_added = tokens_added
        self.port = port
        self.seen: list[Seen] = []
        self.delivered: dict[tuple[str, int], int] = {}
        self.url = ""
        self._started = threading.Event()
        self._arrived = threading.Condition()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._steps = 0
        self._streams: dict[int, Stream] = {}
        self._running: list[int] = []

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(PATIENCE_S)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self.closing.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def wait_for(self, count: int) -> None:
        """Wait until so many requests have arrived."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.seen) >= count, PATIENCE_S)

    def release(self) -> None:
        """End the stall that `hold` made."""
        self.hold = 0
        self._loop.call_soon_threadsafe(self._work.set)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.closing, self._work = asyncio.Event(), asyncio.Event()
        app = web.Application(client_max_size=64 << 20)
        app.router.add_get("/v1/models", self._list_models)
        app.router.add_get("/moved/v1/models", self._send_on)
        app.router.add_post("/v1/completions", self._complete)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        engine = asyncio.create_task(self._engine())
        engine.add_done_callback(lambda _: self.closing.set())
        self._started.set()
        await self.closing.wait()
        engine.cancel()
        for stream in self._streams.values():
            stream.ended.set()
        await runner.cleanup()
        with suppress(asyncio.CancelledError):
            await engine  # raises what ended it

    async def _list_models(self, request: web.Request) -> web.Response:
        return web.json_response(self.models)

    async def _send_on(self, request: web.Request) -> web.Response:
        raise web.HTTPMovedPermanently("http://h/v1/models")

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        with self._arrived:
            self.seen.append(Seen(time.monotonic(), body, dict(request.headers)))
            self._arrived.notify_all()
        self._work.set()  # this may be the last that a stalled engine waits for
        if not body.get("stream"):
            return self._count(body)
        fault = self.faults.get(body["max_tokens"])
        if fault is not None:
            return await fault(self, request)
        return await self._stream(request, body)

    def _count(self, body: Json) -> web.Response:
        tokens = self.tokens_added + len(body["prompt"].split())
        return web.json_response(usage(tokens, 1))

    async def _stream(self, request: web.Request, body: Json) -> web.StreamResponse:
        prompt = body["prompt"]
        is_text = isinstance(prompt, str)
        length = self.tokens_added + len(prompt.split()) if is_text else len(prompt)
        number = len(self.seen)
        known = Request(number, body["user"], length, body["max_tokens"])
        rejection = self.policy.enqueue(known, self._steps)
        if rejection is not None:
            error = {"message": "slow down", "code": rejection.reason}
            wait = {"Retry-After": f"{rejection.retry_after_s or 1:.0f}"}
            return web.json_response({"error": error}, status=429, headers=wait)
        body["prompt"] = length
        stream = Stream(request, body, web.StreamResponse(headers=STREAMED))
        self._streams[number] = stream
        self._work.set()
        await stream.ended.wait()
        return stream.response

    async def _engine(self) -> None:
        while True:
            self._work.clear()
            while len(self.seen) >= self.hold and await self._step():
                pass
            await self._work.wait()

    async def _step(self) -> bool:
        """Admit, write one token to every stream, settle; whether there was anything to do."""
        while len(self._running) < self.slots and (head := self.policy.peek(self._steps)):
            assert isinstance(head.id, int)
            self.policy.admit(head.id, self._steps)
            self._running.append(head.id)
        self._steps += 1
        batch = tuple(self._running)
        for number in batch:
            await self._deliver(number, self._streams[number])
        await asyncio.sleep(0)  # lets requests in that came meanwhile
        return bool(batch)

    async def _deliver(self, number: int, stream: Stream) -> None:
        body = stream.body
        last = stream.delivered + 1 == body["max_tokens"]
        events = [event(chunk(finish="length" if last else None))]
        if last:
            events += [event(usage(body["prompt"], body["max_tokens"])), event("[DONE]")]
        try:
            if not stream.delivered:
                await stream.response.prepare(stream.request)
            await stream.response.write(b"".join(events))
        except ConnectionError:
            self._end(number, stream, Outcome.ABORTED)
            return
        stream.delivered += 1
        self.delivered[body["user"], body["max_tokens"]] = stream.delivered
        self.policy.record_tokens({number: 1}, self._steps)
        if last:
            self._end(number, stream, Outcome.FINISHED)

    def _end(self, number: int, stream: Stream, outcome: Outcome) -> None:
        self._running.remove(number)
        self.policy.finish(number, self._steps, outcome)
        stream.ended.set()
