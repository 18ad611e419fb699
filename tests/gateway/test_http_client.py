"""The HTTP client of upstreams, on real sockets: answers of all shapes, servers that misbehave.

Each server here follows a script: what it reads and writes on each of its connections, in turn.
"""

import asyncio
import ssl
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from fairlane.gateway.http_client import (
    LONGEST_HEAD,
    MOST_HEADERS,
    Client,
    UpstreamError,
    UpstreamSilent,
    UpstreamUnreachable,
)
from tests.certificates import self_signed
from tests.processes import PATIENCE_S

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
HI = OK + b"Content-Length: 2\r\n\r\nhi"


class Server:
    """A server by a script: one function for each connection, the last for all further ones.

    seen: the heads of requests that it read. closed: is set when a client has hung up on it.
    """

    def __init__(self, *scripts: Callable[["Server", Reader, Writer], Awaitable[None]]) -> None:
        self.scripts = list(scripts)
        self.seen: list[bytes] = []
        self.connections = 0
        self.closed = asyncio.Event()

    async def read(self, reader: Reader) -> bytes:
        """One request with its body."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.seen.append(head)
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        return await reader.readexactly(int(length or 0))

    async def serve(self, reader: Reader, writer: Writer) -> None:
        script = self.scripts[min(self.connections, len(self.scripts) - 1)]
        self.connections += 1
        try:
            await script(self, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed.set()
        finally:
            writer.close()


def answering(*pieces: bytes) -> Callable[[Server, Reader, Writer], Awaitable[None]]:
    """Answer every request with the next of these, and the last with the end of the connection."""

    async def script(server: Server, reader: Reader, writer: Writer) -> None:
        for piece in pieces:
            await server.read(reader)
            writer.write(piece)
            await writer.drain()

    return script


async def keeping_silent(server: Server, reader: Reader, writer: Writer) -> None:
    await server.read(reader)
    await reader.read()
    server.closed.set()


def run(
    use: Callable[[Client, Server], Awaitable[None]],
    *scripts: Callable[[Server, Reader, Writer], Awaitable[None]],
    silence_s: float = PATIENCE_S,
    tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
) -> None:
    """Use a client before a server; tls: the server's context and the client's."""

    async def main() -> None:
        server = Server(*scripts)
        ours, theirs = tls or (None, None)
        async with await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=ours) as listening:
            port = listening.sockets[0].getsockname()[1]
            client = Client(
                f"{'https' if tls else 'http'}://127.0.0.1:{port}", headers=[(b"X-Ours", b"1")],
                connect_s=PATIENCE_S, silence_s=silence_s, tls=theirs,
            )  # fmt: skip
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await use(client, server)
            finally:
                await client.close()

    for loop in (asyncio.run, uvloop.run):  # whichever the gateway's server takes
        loop(main())


async def fetch(client: Client, method: str = "POST", body: bytes = b"{}") -> tuple[int, bytes]:
    """Status and whole body of one request."""
    answer = await client.request(method, "/v1/x?y=z", [(b"x-more", b"2")], body)
    try:
        return answer.status, b"".join([part async for part in answer.parts])
    finally:
        answer.release()


# -- answers of all shapes --------------------------------------------------------------------


def test_requests_carry_what_they_should_and_connections_are_kept() -> None:
    async def use(client: Client, server: Server) -> None:
        for _ in range(3):
            assert await fetch(client) == (200, b"hi")
        assert server.connections == 1
        line, *headers = server.seen[0].strip().split(b"\r\n")
        assert line == b"POST /v1/x?y=z HTTP/1.1"
        assert sorted(name.split(b":")[0] for name in headers) == [
            b"Content-Length", b"Host", b"X-Ours", b"x-more",
        ]  # fmt: skip

    run(use, answering(HI, HI, HI))


@pytest.mark.parametrize(
    ("answer", "status", "body", "kept"),
    [
        (CHUNKED + b"2\r\nhi\r\n0\r\n\r\n", 200, b"hi", True),
        (CHUNKED + b"2;a=b\r\nhi\r\n0\r\nX: y\r\n\r\n", 200, b"hi", True),
        (OK + b"Content-Length: 0\r\n\r\n", 200, b"", True),
        (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi", False),
        (OK + b"\r\nuntil the end", 200, b"until the end", False),
        (b"HTTP/1.0 200 OK\r\n\r\nold", 200, b"old", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", 304, b"", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nA: b\r\n\r\n" + HI, 200, b"hi", True),
        (HI + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged", 200, b"hi", False),
        (HI + b"garbage", 200, b"hi", False),
    ],
)  # fmt: skip
def test_a_body_ends_where_it_says(answer: bytes, status: int, body: bytes, kept: bool) -> None:
    async def use(client: Client, server: Server) -> None:
        assert await fetch(client) == (status, body)
        assert await fetch(client) == (200, b"hi")
        assert server.connections == (1 if kept else 2)

    run(use, answering(answer, HI) if kept else answering(answer), answering(HI))


def test_an_answer_to_head_has_no_body() -> None:
    async def use(client: Client, server: Server) -> None:
        assert await fetch(client, "HEAD") == (200, b"")
        assert await fetch(client) == (200, b"hi")

    run(use, answering(OK + b"Content-Length: 2\r\n\r\n"), answering(HI))


def test_an_answer_that_comes_byte_by_byte_is_the_same() -> None:
    async def dribble(server: Server, reader: Reader, writer: Writer) -> None:
        await server.read(reader)
        for byte in CHUNKED + b"2\r\nhi\r\n0\r\n\r\n":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    async def use(client: Client, server: Server) -> None:
        assert await fetch(client) == (200, b"hi")

    run(use, dribble)


def test_large_bodies_pass_both_ways() -> None:
    body = bytes(range(256)) * (1 << 14)

    async def echo(server: Server, reader: Reader, writer: Writer) -> None:
        received = await server.read(reader)
        writer.write(OK + b"Content-Length: %d\r\n\r\n" % len(received) + received)
        await writer.drain()

    async def use(client: Client, server: Server) -> None:
        assert await fetch(client, body=body) == (200, body)

    run(use, echo)


# -- servers that misbehave -------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 000 No\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi!",
        OK + b"Content-Length: -1\r\n\r\nhi",
        OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nhi",
        OK + b"A: b\x00c\r\nContent-Length: 2\r\n\r\nhi",
        OK + b"A: b\r\n folded\r\nContent-Length: 2\r\n\r\nhi",
        OK + b"X: y\r\n" * (MOST_HEADERS + 1) + b"\r\n",
        OK + b"X: " + b"y" * (8 * LONGEST_HEAD),
        b"HTTP/1.1 100 Continue\r\n\r\n" * LONGEST_HEAD,
        OK,
    ],
)
def test_a_head_that_is_none_is_an_error(answer: bytes) -> None:
    async def use(client: Client, server: Server) -> None:
        with pytest.raises(UpstreamError):
            await fetch(client)
        assert await fetch(client) == (200, b"hi")  # the client is none the worse

    run(use, answering(answer), answering(HI))


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 9\r\n\r\nhi",
        CHUNKED + b"2\r\nhi\r\n",
        CHUNKED + b"2\r\nhi\r\nzz\r\n",
        CHUNKED + b"2\r\nhi\r\n0\r\nX: " + b"y" * (8 * LONGEST_HEAD),
    ],
)
def test_a_body_that_breaks_off_is_an_error(answer: bytes) -> None:
    async def use(client: Client, server: Server) -> None:
        with pytest.raises(UpstreamError, match="broken off"):
            await fetch(client)

    run(use, answering(answer))


def test_nobody_at_the_address_is_told_apart() -> None:
    async def use(client: Client, server: Server) -> None:
        lonely = Client("http://127.0.0.1:9", headers=[], connect_s=PATIENCE_S, silence_s=1)
        with pytest.raises(UpstreamUnreachable):
            await fetch(lonely)
        nowhere = Client("http://nowhere.invalid", headers=[], connect_s=PATIENCE_S, silence_s=1)
        with pytest.raises(UpstreamUnreachable):
            await fetch(nowhere)

    run(use, answering(HI))


@pytest.mark.parametrize("head", [b"", OK + b"Content-Length: 2\r\n\r\n"])
def test_silence_is_told_apart_and_ends_the_connection(head: bytes) -> None:
    async def silent(server: Server, reader: Reader, writer: Writer) -> None:
        await server.read(reader)
        writer.write(head)
        await reader.read()
        server.closed.set()

    async def use(client: Client, server: Server) -> None:
        with pytest.raises(UpstreamError) as caught:
            await fetch(client)
        told = (caught.value, caught.value.__cause__)
        assert any(isinstance(error, UpstreamSilent) for error in told)
        await server.closed.wait()

    run(use, silent, silence_s=0.05)


# -- connections that are kept ----------------------------------------------------------------


def test_a_kept_connection_that_is_cut_before_an_answer_is_replaced_once() -> None:
    async def use(client: Client, server: Server) -> None:
        assert await fetch(client) == (200, b"hi")
        assert await fetch(client) == (200, b"hi")
        assert (server.connections, len(server.seen)) == (2, 3)

    run(use, answering(HI, b""), answering(HI))


def test_a_new_connection_that_is_cut_is_an_error_and_nothing_is_sent_again() -> None:
    async def use(client: Client, server: Server) -> None:
        with pytest.raises(UpstreamError):
            await fetch(client)
        assert (server.connections, len(server.seen)) == (1, 1)

    run(use, answering(b""))


def test_after_a_byte_of_an_answer_nothing_is_sent_again() -> None:
    async def use(client: Client, server: Server) -> None:
        assert await fetch(client) == (200, b"hi")
        with pytest.raises(UpstreamError):
            await fetch(client)
        assert (server.connections, len(server.seen)) == (1, 2)

    run(use, answering(HI, b"H"), answering(HI))


def test_a_connection_that_the_server_closed_while_it_was_idle_is_not_used() -> None:
    async def use(client: Client, server: Server) -> None:
        assert await fetch(client) == (200, b"hi")
        while client.connections:
            await asyncio.sleep(0)
        assert await fetch(client) == (200, b"hi")
        assert (server.connections, len(server.seen)) == (2, 2)

    run(use, answering(HI), answering(HI))


def test_a_retired_client_closes_connections_as_soon_as_they_are_idle() -> None:
    async def use(client: Client, server: Server) -> None:
        answer = await client.request("POST", "/", [], b"")
        assert await fetch(client) == (200, b"hi")
        assert len(client.connections) == 2
        client.retire()
        while len(client.connections) > 1:
            await asyncio.sleep(0)
        assert [part async for part in answer.parts] == [b"hi"]
        answer.release()
        while client.connections:
            await asyncio.sleep(0)

    run(use, answering(HI, HI))


def test_a_server_that_hangs_up_on_a_large_body_is_an_error() -> None:
    async def hang_up(server: Server, reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")

    async def use(client: Client, server: Server) -> None:
        with pytest.raises(UpstreamError):
            await fetch(client, body=bytes(1 << 24))

    run(use, hang_up)


def test_bytes_that_nobody_asked_for_end_a_kept_connection() -> None:
    async def forge(server: Server, reader: Reader, writer: Writer) -> None:
        await server.read(reader)
        writer.write(HI)
        await writer.drain()
        await asyncio.sleep(0)
        writer.write(HI.replace(b"hi", b"no"))
        await reader.read()

    async def use(client: Client, server: Server) -> None:
        assert await fetch(client) == (200, b"hi")
        while client.connections:
            await asyncio.sleep(0)
        assert await fetch(client) == (200, b"hi")

    run(use, forge, answering(HI))


# -- the reader -------------------------------------------------------------------------------


def test_a_slow_reader_makes_the_server_wait() -> None:
    written = 0

    async def flood(server: Server, reader: Reader, writer: Writer) -> None:
        nonlocal written
        written = 0
        await server.read(reader)
        writer.write(OK + b"\r\n")
        for _ in range(1024):
            writer.write(bytes(1 << 16))
            await writer.drain()
            written += 1 << 16

    async def use(client: Client, server: Server) -> None:
        connection = await client.request("POST", "/", [], b"")
        before = -1
        while before < written:  # until it stands still
            before = written
            await asyncio.sleep(0.2)
        assert written < 1 << 25
        read = sum([len(part) async for part in connection.parts])
        assert read == 1 << 26
        connection.release()

    run(use, flood)


def test_who_is_cancelled_or_leaves_early_hangs_up() -> None:
    async def use(client: Client, server: Server) -> None:
        waiting = asyncio.create_task(fetch(client))
        while not server.seen:
            await asyncio.sleep(0)
        waiting.cancel()
        await server.closed.wait()
        server.closed.clear()
        connection = await client.request("POST", "/", [], b"")
        connection.release()
        await server.closed.wait()

    async def begin(server: Server, reader: Reader, writer: Writer) -> None:
        await server.read(reader)
        writer.write(OK + b"Content-Length: 2\r\n\r\nh")
        await reader.read()
        server.closed.set()

    run(use, keeping_silent, begin)


@pytest.mark.parametrize("value", [b"a\r\nX: y", b"a\nX: y", b"a\rb"])
def test_a_header_with_the_end_of_a_line_in_it_is_not_sent(value: bytes) -> None:
    async def use(client: Client, server: Server) -> None:
        with pytest.raises(UpstreamError):
            await client.request("POST", "/", [(b"x", value)], b"")
        with pytest.raises(UpstreamError):
            await client.request("POST", f"/?{value.decode()}", [], b"")
        assert not server.seen

    run(use, answering(HI))


# -- TLS --------------------------------------------------------------------------------------


def test_certificates_are_looked_at(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, "IP:127.0.0.1")
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(certificate, key)

    async def trusts(client: Client, server: Server) -> None:
        assert await fetch(client) == (200, b"hi")
        assert await fetch(client) == (200, b"hi")
        assert server.connections == 1

    async def does_not(client: Client, server: Server) -> None:
        with pytest.raises(UpstreamUnreachable):
            await fetch(client)
        assert not server.seen

    run(trusts, answering(HI, HI), tls=(ours, ssl.create_default_context(cafile=certificate)))
    run(does_not, answering(HI), tls=(ours, ssl.create_default_context()))
