"""An upstream whose answers are written byte by byte, and whose faults are those of sockets."""

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

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


class RawUpstream:
    """See the module. lines: of all requests so far; at: when they came (`time.monotonic`).

    answers: of the first request, of the second and so on; the last one of all that follow.
    """

    def __init__(self, *answers: Answer) -> None:
        self._answers = answers
        self.lines: list[Line] = []
        self.at: list[float] = []
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

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

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if head.startswith(b"get /v1/models "):
            writer.write(whole("200 OK", b'{"data": [{"id": "tiny"}]}'))
        elif head.startswith(b"get /health "):
            writer.write(whole("200 OK", b""))
        elif head.startswith(b"get "):
            writer.write(whole("404 Not Found", b""))
        else:
            await reader.readexactly(int(head.split(b"content-length:")[1].split()[0]))
            line = Line(reader, writer)
            self.lines.append(line)
            self.at.append(time.monotonic())
            await self._answers[min(len(self.lines), len(self._answers)) - 1](line)

    def run(self, started: threading.Event) -> None:
        """Serve until `stop`."""

        async def main() -> None:
            self._over, self._loop = asyncio.Event(), asyncio.get_running_loop()
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            started.set()
            await self._over.wait()
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks)

        asyncio.run(main())

    def stop(self) -> None:
        """End it, from another thread."""
        self._loop.call_soon_threadsafe(self._over.set)


@contextmanager
def raw(*answers: Answer) -> Iterator[RawUpstream]:
    """One that serves in a thread while the block runs."""
    one, started = RawUpstream(*answers), threading.Event()
    thread = threading.Thread(target=one.run, args=(started,))
    thread.start()
    assert started.wait(PATIENCE_S)
    try:
        yield one
    finally:
        one.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
