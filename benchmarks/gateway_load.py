"""Load for a gateway over raw sockets, so that it costs little itself. Times are in seconds."""

import asyncio
import json
import random
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import cast

from benchmarks.fake_engine import MODEL
from benchmarks.gateway_peers import Gateway

_FOREVER = 1_000_000  # tokens
_LIMIT_S = 120.0  # for what takes seconds
_FLOW_S = 30.0  # for streams to begin
_AT_ONCE = 256  # connections that are being made


def request(key: str, max_tokens: int = 16, *, stream: bool = False, words: int = 9) -> bytes:
    """The bytes of a chat."""
    messages = [{"role": "user", "content": " ".join(["hello"] * words)}]
    asked = {"model": MODEL, "messages": messages, "max_tokens": max_tokens, "stream": stream}
    body = json.dumps(asked).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json"
        f"\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection(asyncio.Protocol):
    """One connection with one request at a time.

    chunks: those with a token, since it was made. first_at: when the request's first one came.
    """

    def __init__(self) -> None:
        self.chunks = 0
        self.first_at: float | None = None
        self._done: asyncio.Future[bool] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed."""
        self._ended(False)

    def ask(self, raw: bytes) -> "asyncio.Future[bool]":
        """Send a request; whether it was answered 200, to its end."""
        self._head: bytes | None = b""
        self._length: int | None = None
        self._tail = b""
        self.first_at = None
        self._done = asyncio.get_running_loop().create_future()
        if self.transport.is_closing():
            self._ended(False)
        else:
            self.transport.write(raw)
        return self._done

    def data_received(self, data: bytes) -> None:
        """Look for tokens, and for the end."""
        if self._head is not None:
            head, separator, data = (self._head + data).partition(b"\r\n\r\n")
            if not separator:
                self._head = head
                return
            self._head, head = None, head.lower()
            self._good = head.startswith(b"http/1.1 200 ")
            length = head.partition(b"content-length:")[2]
            self._length = int(length.split(b"\r\n")[0]) if length else None
        if self._length is not None:
            self._length -= len(data)
            if self._length <= 0:
                self._ended(self._good)
            return
        found = data.count(b'"content":"') + data.count(b'"content": "')
        if found and self.first_at is None:
            self.first_at = time.perf_counter()
        self.chunks += found
        self._tail = (self._tail + data[-7:])[-7:]
        if self._tail == b"\r\n0\r\n\r\n":
            self._ended(self._good)

    def _ended(self, good: bool) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(good)


async def connect(gateway: Gateway, count: int) -> list[Connection]:
    """So many connections."""
    loop, made = asyncio.get_running_loop(), []
    for begin in range(0, count, _AT_ONCE):
        some = (
            loop.create_connection(Connection, "127.0.0.1", gateway.port)
            for _ in range(min(_AT_ONCE, count - begin))
        )
        made += [connection for _, connection in await asyncio.gather(*some)]
    return made


def close(connections: Iterable[Connection]) -> None:
    """Hang up."""
    for connection in connections:
        connection.transport.abort()


async def closed_loop(gateway: Gateway, connections: int, seconds: float) -> dict[str, float]:
    """Each connection asks again as soon as it is answered: requests a second, CPU of each."""
    made = await connect(gateway, connections)
    raws = [request(key) for key in gateway.keys]
    cpu, begin = gateway.cpu_s(), time.perf_counter()
    answers: list[bool] = []

    async def one(index: int, connection: Connection) -> None:
        while time.perf_counter() < begin + seconds:
            answers.append(await connection.ask(raws[index % len(raws)]))

    async with asyncio.timeout(seconds + _LIMIT_S):
        await asyncio.gather(*(one(i, c) for i, c in enumerate(made)))
    wall, cpu = time.perf_counter() - begin, gateway.cpu_s() - cpu
    close(made)
    good = sum(answers)
    return {
        "requests_s": good / wall, "failed": len(answers) - good, "request_us": cpu / good * 1e6
    }  # fmt: skip


async def open_loop(gateway: Gateway, rate: float, seconds: float) -> dict[str, float]:
    """Requests at random times, so many a second: the median of their milliseconds."""
    rng = random.Random(1)
    idle = await connect(gateway, 4)
    raws = [request(key) for key in gateway.keys]
    took: list[float] = []

    async def one(index: int) -> None:
        connection = idle.pop() if idle else (await connect(gateway, 1))[0]
        begin = time.perf_counter()
        if await connection.ask(raws[index % len(raws)]):
            took.append(time.perf_counter() - begin)
            idle.append(connection)

    due = begin = time.perf_counter()
    tasks: list[asyncio.Task[None]] = []
    while (due := due + rng.expovariate(rate)) < begin + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(len(tasks))))
    async with asyncio.timeout(_LIMIT_S):
        await asyncio.gather(*tasks)
    close(idle)
    return {"p50_ms": quantile(took, 0.5) * 1e3, "failed": len(tasks) - len(took)}


async def streams(gateway: Gateway, count: int, seconds: float) -> dict[str, float]:
    """So many streams that flow, and then a hang-up: chunks a second, CPU of each.

    failed: those that did not flow.
    """
    made = await connect(gateway, count)
    keys = gateway.keys
    for i, connection in enumerate(made):
        connection.ask(request(keys[i % len(keys)], _FOREVER, stream=True))
    await all_flow(made)
    failed = sum(one.first_at is None for one in made)
    cpu, begin, before = gateway.cpu_s(), time.perf_counter(), sum(one.chunks for one in made)
    await asyncio.sleep(seconds)
    chunks, wall = sum(one.chunks for one in made) - before, time.perf_counter() - begin
    cpu = gateway.cpu_s() - cpu
    close(made)
    return {"chunks_s": chunks / wall, "chunk_us": cpu / chunks * 1e6, "failed": failed}


async def all_flow(made: Sequence[Connection]) -> None:
    """Wait until each has its first token, but not for ever."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_FLOW_S):
            while any(one.first_at is None for one in made):
                await asyncio.sleep(0.05)


async def calm(gateway: Gateway) -> None:
    """Wait until a gateway has done with what is over."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_FLOW_S):
            while True:
                before = gateway.cpu_s()
                await asyncio.sleep(0.5)
                if gateway.cpu_s() - before < 0.05:
                    return


def quantile(values: Sequence[float], part: float) -> float:
    """The value below which so large a part of them lies."""
    return sorted(values)[min(int(part * len(values)), len(values) - 1)]
