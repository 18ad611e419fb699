"""An upstream whose answers are written byte by byte, and whose faults are those of sockets."""

import asyncio
import random
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit

from tests.loadgen.server import chunk, event, usage
from tests.processes import PATIENCE_S

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    b"Connection: close\r\n\r\n"
)
EVENTS = [event(chunk()), event(chunk(finish="length")), event(usage(5, 2)), event("[DONE]")]
STREAM = b"".join(EVENTS[:2] + EVENTS[3:])  # what a client gets that did not ask for usage
LAST = b"0\r\n\r\n"


def part(data: bytes) -> bytes:
    """A piece of a body, as HTTP frames it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def whole(status: str, body: bytes, *headers: str) -> bytes:
    """A whole answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Line:
    """A connection on which a request has come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.written = 0  # bytes that the other side's system has taken

    async def write(self, *data: bytes) -> None:
        """Write, and wait until it is taken."""
        for one in data:
            self.writer.write(one)
            await self.writer.drain()
            self.written += len(one)

    def reset(self) -> None:
        """Cut it without a goodbye."""
        linger = struct.pack("ii", 1, 0)
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def hang(self) -> None:
        """Say nothing until the other side has gone."""
        await self.reader.read()


Answer = Callable[[Line], Awaitable[None]]


async def good(line: Line) -> None:
    """A stream of two tokens."""
    await line.write(HEAD, *map(part, EVENTS), LAST)


class SocketServer:
    """Takes connections in a thread; `url` is its address. `_answer` serves one of them."""

    def __init__(self) -> None:
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        writer.transport.set_write_buffer_limits(0)
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the other side is gone
        except asyncio.CancelledError:
            writer.transport.abort()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        self._tasks.discard(task)

    async def _run(self, started: threading.Event) -> None:
        self._over, self._loop = asyncio.Event(), asyncio.get_running_loop()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        await self._over.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks)

    def __enter__(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(started)))
        self._thread.start()
        assert started.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


class RawUpstream(SocketServer):
    """An upstream. lines: of all requests so far; at: when they came (`time.monotonic`).

    answers: of the first request, of the second and so on; the last one of all that follow.
    looks: how often it was asked for its load; cuts_looks: instead of saying that it tells none.
    """

    cuts_looks = False

    def __init__(self, *answers: Answer) -> None:
        super().__init__()
        self._answers = answers
        self.lines: list[Line] = []
        self.at: list[float] = []
        self.looks = 0

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if head.startswith(b"get /v1/models "):
            writer.write(whole("200 OK", b'{"data": [{"id": "tiny"}]}'))
        elif head.startswith(b"get /health "):
            writer.write(whole("200 OK", b""))
        elif head.startswith(b"get /metrics ") and self.cuts_looks:
            self.looks += 1
            Line(reader, writer).reset()
        elif head.startswith(b"get "):
            writer.write(whole("404 Not Found", b""))
        else:
            await reader.readexactly(int(head.split(b"content-length:")[1].split()[0]))
            line = Line(reader, writer)
            self.lines.append(line)
            self.at.append(time.monotonic())
            await self._answers[min(len(self.lines), len(self._answers)) - 1](line)


class BadWire(SocketServer):
    """The way to another server: a part of all connections is cut before anything passes."""

    def __init__(self, url: str, part: float) -> None:
        super().__init__()
        self._port = urlsplit(url).port
        self._part = part
        self._dice = random.Random(1)
        self.cut = 0

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._dice.random() < self._part:
            self.cut += 1
            Line(reader, writer).reset()
            return
        there_reader, there = await asyncio.open_connection("127.0.0.1", self._port)
        ways = [_pass(reader, there), _pass(there_reader, writer)]
        tasks = [asyncio.ensure_future(way) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            there.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
