"""A client of one HTTP/1.1 server: bytes go out, an answer's bytes come in as they are.

It keeps connections and does little else, so that a chunk that passes costs little: no redirects,
no cookies, nothing unpacked. A reader that is slower than the server makes it wait.

A kept connection may be closed by the server in the moment that it is used again. Where it was, and
no byte of an answer came, the request goes out once more on a new connection. On a new one nothing
is sent twice.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from typing import Self, cast
from urllib.parse import urlsplit

from fairlane.core.errors import FairlaneError

try:
    import httptools
except ImportError as error:
    raise FairlaneError(
        "the gateway needs httptools, which is not installed: pip install uvicorn httptools uvloop"
    ) from error

Headers = list[tuple[bytes, bytes]]
KEPT_S = 30.0  # how long an idle connection is kept
MOST_HEADERS = 256
LONGEST_HEAD = 1 << 16  # bytes, as of all that is no body: chunks' sizes, trailers
_HIGH = 1 << 18  # bytes that wait for the reader, before the server has to
_SMALL = 1 << 16  # bytes of a body that are written in one piece with the head


class UpstreamError(FairlaneError):
    """A server that does not answer, or not to its end."""


class UpstreamUnreachable(UpstreamError):
    """A server to which no connection can be made: it has not seen the request."""


class UpstreamSilent(UpstreamError):
    """A server that took a request and says nothing: another would only wait as long."""


class _Stale(UpstreamError):
    """The connection was closed before a byte of an answer."""


class Connection(asyncio.Protocol):
    """One connection, and the answer that comes on it.

    status, headers: as they came. complete: whether all of the body has been received.
    """

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._busy = False
        self._paused = False

    # -- what the client does ----------------------------------------------------------------

    async def exchange(self, method: str, raw: Sequence[bytes | memoryview]) -> None:
        """Send a request and wait for the head of its answer. Raises UpstreamError."""
        self.status = 0
        self.headers: Headers = []
        self.complete = False
        self._bodiless = method == "HEAD"
        self._head_done = self._reusable = self._until_close = self._seen = False
        self._parts: list[bytes] = []
        self._size = 0
        self._other_bytes = 0
        self._error: UpstreamError | None = None
        self._busy = True
        self._heard = self._loop.time()
        self._timer = self._loop.call_later(self._client.silence_s, self._look)
        if self._transport.is_closing():
            raise _Stale("closed")
        for piece in raw:
            if not self._transport.is_closing():
                self._transport.write(piece)
            if len(raw) > 1:  # a large body: nobody else's tokens wait for it
                await asyncio.sleep(0)
        while not self._head_done:
            if self._error is not None:
                raise self._error
            await self._wait()

    @property
    def parts(self) -> AsyncIterator[bytes]:
        """The body, in pieces as they come. Raises UpstreamError where it breaks off."""
        return self._pieces()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *of_an_error: object) -> None:
        self.release()

    def release(self) -> None:
        """The answer is done with: keep the connection for the next, or hang up."""
        self._busy = False
        self._timer.cancel()
        transport = self._transport
        idle = not (self._paused or transport.is_closing() or transport.get_write_buffer_size())
        if self.complete and self._reusable and idle:
            self._client.keep(self)
        else:
            self.abort()

    def abort(self) -> None:
        """Hang up."""
        self._transport.abort()

    async def _pieces(self) -> AsyncIterator[bytes]:
        while True:
            if self._parts:
                parts, self._parts, self._size = self._parts, [], 0
                if self._paused:
                    self._paused = False
                    self._heard = self._loop.time()
                    if not self._transport.is_closing():
                        self._transport.resume_reading()
                yield parts[0] if len(parts) == 1 else b"".join(parts)
            elif isinstance(self._error, UpstreamSilent):
                raise self._error
            elif self._error is not None:
                raise UpstreamError(f"broken off: {self._error}") from self._error
            elif self.complete:
                return
            else:
                await self._wait()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: UpstreamError) -> None:
        if not self.complete and self._error is None:
            self._error = error
        self._wake()
        self.abort()

    def _look(self) -> None:
        """Whether the server has been silent for too long; not while it is made to wait."""
        if self._paused:
            self._heard = self._loop.time()
        left = self._heard + self._client.silence_s - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._fail(UpstreamSilent(f"silent for {self._client.silence_s:g} s"))

    # -- what the connection tells -----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast(asyncio.Transport, transport)
        self._client.made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed: the end of a body that has no other, else of the answer."""
        self._client.lost(self)
        if not self._busy or self.complete:
            return
        if exc is None and self._until_close:
            self.complete = True
            self._wake()
        elif not self._seen:
            self._fail(_Stale(f"the connection was closed{f': {exc}' if exc else ''}"))
        else:
            self._fail(UpstreamError(str(exc) if exc else "the connection was closed"))

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer."""
        if not self._busy or self.complete:  # nobody asked: what it is of cannot be known
            self._reusable = False
            self.abort()
            return
        self._seen = True
        self._heard = self._loop.time()
        before = self._size
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._reusable = False
            self._fail(UpstreamError(f"a malformed answer: {error.__context__ or error}"))
            return
        if self._size == before and not self.complete:
            self._other_bytes += len(data)
            if self._other_bytes > LONGEST_HEAD:
                self._fail(UpstreamError(f"{self._other_bytes:,} bytes that are no body"))
        else:
            self._other_bytes = 0
            if self._size > _HIGH and not self._paused and not self.complete:
                self._paused = True
                self._transport.pause_reading()
        if self._head_done:
            self._wake()

    # -- what the parser finds ---------------------------------------------------------------

    def on_message_begin(self) -> None:
        """An answer begins; a second one, unasked, makes the connection useless."""
        if self.complete:
            self._reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or one of those that follow a body."""
        if len(self.headers) >= MOST_HEADERS:
            raise UpstreamError(f"more than {MOST_HEADERS} headers")
        if not self._head_done:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is there; one of 1xx is passed over."""
        if self.complete:
            return
        self.status = self._parser.get_status_code()
        if self.status < 200:
            if self.status < 100 or self.status == 101:
                raise UpstreamError(f"status {self.status}")
            self.headers = []
            return
        self._head_done = True
        self._reusable = self._parser.should_keep_alive() and not self._bodiless
        self._until_close = not any(map(_delimits, self.headers))
        self.complete = self._bodiless

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if not self.complete:
            self._parts.append(body)
            self._size += len(body)

    def on_message_complete(self) -> None:
        """The end, where it was the answer and not one of 1xx."""
        self.complete = self._head_done


class Client:
    """A client of the server at `url`, such as http://127.0.0.1:8000 or https://host/prefix.

    headers: sent with every request. tls: for https, and for it alone. connect_s, silence_s: how
    long a connection may take, and how long the server may say nothing. Between two event loops it
    is to be closed.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Headers,
        connect_s: float,
        silence_s: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._host = parts.hostname
        self._tls = tls
        self._port = parts.port or (443 if self._tls else 80)
        self._path = parts.path.rstrip("/")
        self._always: Headers = [(b"Host", parts.netloc.encode("latin-1")), *headers]
        self._connect_s = connect_s
        self.silence_s = silence_s
        self._idle: dict[Connection, float] = {}  # since when, the longest first
        self._retired = False
        self.connections: set[Connection] = set()  # that are open

    async def request(self, method: str, path: str, headers: Headers, body: bytes) -> Connection:
        """Send a request; the connection has the head of the answer, and is to be released.

        Raises UpstreamError.
        """
        raw = self._raw(method, path, headers, body)
        kept = self._take()
        if kept is not None:
            try:
                return await self._exchange(kept, method, raw)
            except _Stale:
                pass
        return await self._exchange(await self._connect(), method, raw)

    async def close(self) -> None:
        """Close all connections."""
        for connection in list(self.connections):
            connection.abort()
        self._idle.clear()
        await asyncio.sleep(0)  # they are closed in the loop's next turn

    def retire(self) -> None:
        """Close each connection once it is idle."""
        self._retired = True
        for connection in list(self._idle):
            connection.abort()

    def made(self, connection: Connection) -> None:
        """The connection is open."""
        self.connections.add(connection)

    def keep(self, connection: Connection) -> None:
        """The connection is idle."""
        if self._retired:
            connection.abort()
            return
        now = asyncio.get_running_loop().time()
        self._idle[connection] = now
        oldest = next(iter(self._idle))
        if self._idle[oldest] < now - KEPT_S:  # one for each that comes is enough
            del self._idle[oldest]
            oldest.abort()

    def lost(self, connection: Connection) -> None:
        """The connection is closed."""
        self.connections.discard(connection)
        self._idle.pop(connection, None)

    # -- inside ------------------------------------------------------------------------------

    def _take(self) -> Connection | None:
        """The idle connection that was used last."""
        if not self._idle:
            return None
        connection, since = self._idle.popitem()
        if since < asyncio.get_running_loop().time() - KEPT_S:
            connection.abort()
            return None
        return connection

    async def _exchange(
        self, connection: Connection, method: str, raw: Sequence[bytes | memoryview]
    ) -> Connection:
        try:
            await connection.exchange(method, raw)
        except BaseException:
            connection.release()
            raise
        return connection

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(self), self._host, self._port, ssl=self._tls
                )
        except TimeoutError as error:
            raise UpstreamUnreachable(f"no connection within {self._connect_s:g} s") from error
        except (OSError, UnicodeError) as error:
            why = str(error) or type(error).__name__
            raise UpstreamUnreachable(f"no connection: {why}") from error
        return connection

    def _raw(
        self, method: str, path: str, headers: Headers, body: bytes
    ) -> Sequence[bytes | memoryview]:
        """The request's bytes. Raises UpstreamError for what would be another request."""
        lines = [f"{method} {self._path}{path} HTTP/1.1".encode("latin-1")]
        lines += [b"%b: %b" % header for header in self._always]
        lines += [b"%b: %b" % header for header in headers]
        if body or method == "POST":
            lines.append(b"Content-Length: %d" % len(body))
        head = b"\r\n".join([*lines, b"\r\n"])
        if head.count(b"\n") != len(lines) + 1 or head.count(b"\r") != len(lines) + 1:
            raise UpstreamError("a header with the end of a line in it")
        if len(body) < _SMALL:
            return (head + body,)
        whole = memoryview(body)
        return (head, *(whole[at : at + _SMALL] for at in range(0, len(body), _SMALL)))


def _delimits(header: tuple[bytes, bytes]) -> bool:
    """Whether a header says where the body ends."""
    name = header[0].lower()
    chunked = header[1].lower().rstrip().endswith(b"chunked")
    return name == b"content-length" or (name == b"transfer-encoding" and chunked)
