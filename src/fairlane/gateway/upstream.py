"""One upstream over HTTP: requests to it, what it serves, how loaded it is, whether it lives.

The HTTP client is aiohttp's: its parser is C, and a request costs it a tenth of what it costs
others. It follows no redirect, unpacks nothing and keeps no cookie. What is sent carries the
upstream's own key; a client's never gets here.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO

import aiohttp

from fairlane.core.errors import FairlaneError
from fairlane.door.tenants import name_of
from fairlane.gateway.signals import LONGEST, Load, from_loads, from_metrics

Headers = list[tuple[bytes, bytes]]
ASK_S = 5.0
CONNECT_S = 10.0
# Between two machines alone, or made anew for the next one.
_NOT_PASSED = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade host content-length expect".split()
)
# Said to us, not to the engine: who it is from, what an engine or a router before it would believe
# unseen, and how the body is to be read, which is as we have read it.
_OURS = frozenset(
    b"authorization x-api-key api-key cookie forwarded accept-encoding content-type "
    b"content-encoding x-real-ip".split()
)
_OUR_PREFIXES = (
    b"x-fairlane-", b"x-forwarded-", b"x-llm-d-", b"x-gateway-", b"x-dynamo-", b"x-data-parallel-",
    b"x-dp-", b"x-prefill", b"x-encoder-", b"x-worker-", b"x-epp-", b"x-smg-", b"x-ratelimit-",
)  # fmt: skip
# Said to us by an upstream: cookies, its time, and how much of its own limits we have left.
_ITS_OWN = (b"set-cookie", b"date", b"x-ratelimit-")
# Where engines tell their load; what told once is asked first from then on. /metrics comes last:
# SGLang's, where it has them, are renewed seldom, and trtllm-serve's are JSON, and take away the
# numbers from which the others are made.
_LOADS: tuple[tuple[str, Callable[[str], Load | None]], ...] = (
    ("/v1/loads", from_loads),
    ("/prometheus/metrics", from_metrics),
    ("/metrics", from_metrics),
)


class UpstreamError(FairlaneError):
    """An upstream that does not answer, or not to its end."""


class UpstreamUnreachable(UpstreamError):
    """An upstream to which no connection can be made: it has not seen the request."""


class UpstreamSilent(UpstreamError):
    """An upstream that took a request and says nothing: another would only wait as long."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of an answer, and its body in pieces as they come."""

    status: int
    headers: Headers
    parts: AsyncIterator[bytes]


def headers_for_upstream(headers: Iterable[tuple[bytes, bytes]], kind: bytes) -> Headers:
    """What goes on of a client's headers. kind: the content type that the body was read as."""
    passed = []
    named = _connection_names(headers)
    for name, value in headers:
        meant = name.replace(b"_", b"-")  # by some who read it
        if not (
            meant in _NOT_PASSED
            or meant in _OURS
            or name in named
            or meant.startswith(_OUR_PREFIXES)
        ):
            passed.append((name, value))
    return [*passed, (b"content-type", kind)]


def headers_for_client(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """What goes on of an upstream's headers; the length is ours to say."""
    lowered = [(name.lower(), value) for name, value in headers]
    named = _connection_names(lowered)
    return [
        (name, value)
        for name, value in lowered
        if name not in _NOT_PASSED and name not in named and not name.startswith(_ITS_OWN)
    ]


def _connection_names(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """Headers that `Connection` names: they are for the next machine alone."""
    names = b",".join(value for name, value in headers if name == b"connection")
    return frozenset(name.strip().lower() for name in names.split(b","))


@dataclass(frozen=True, slots=True)
class Address:
    """How one engine's server is reached.

    url: without `/v1`. key: sent as its API key. ca: a file of certificates to trust, for https;
    verify: whether its certificate is looked at. silence_s: how long it may say nothing.
    client_header: in which it is told whose request it is; "" where it is not.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    ca: str | None = None
    verify: bool = True
    silence_s: float = 600.0
    client_header: str = ""


class Upstream:
    """One engine's server. Raises OSError (ssl.SSLError) where its certificates cannot be read."""

    def __init__(self, address: Address) -> None:
        self.url = address.url
        self._silence_s = address.silence_s
        self._client_header = address.client_header.encode()
        key, ca = address.key, address.ca
        self._authorization = {} if key is None else {"Authorization": f"Bearer {key}"}
        context: ssl.SSLContext | bool = True
        if ca is not None:
            context = ssl.create_default_context(cafile=ca)
        self._tls = context if address.verify else False
        self._loads = _LOADS
        self._session: aiohttp.ClientSession | None = None
        self._sending = 0
        self._retired = False

    def naming(self, client: str, headers: Headers) -> Headers:
        """The headers, and among them whose request it is, where the upstream is told."""
        if not self._client_header:
            return headers
        mine = self._client_header
        others = [(name, value) for name, value in headers if name.replace(b"_", b"-") != mine]
        return [*others, (mine, name_of(client).encode())]

    def open(self) -> None:
        """Make the client; in the loop that it will run in."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._tls, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_S, sock_read=self._silence_s
            ),
            headers={"Accept-Encoding": "identity", **self._authorization},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def retire(self) -> None:
        """Close all connections once the requests that are under way have ended."""
        self._retired = True
        if not self._sending:
            await self.close()

    @asynccontextmanager
    async def send(
        self, method: str, path: str, headers: Headers, body: bytes
    ) -> AsyncIterator[Answer]:
        """Send a request. Leaving the context early hangs up on the upstream.

        Raises UpstreamError where no head came, or none that is for a client to see, and from
        `parts` where the body broke off.
        """
        assert self._session is not None, "open() comes first"
        plain = [(n.decode("latin-1"), v.decode("utf-8", "replace")) for n, v in headers]
        self._sending += 1
        try:
            async with self._answer(method, path, plain, body) as answer:
                yield answer
        finally:
            self._sending -= 1
            if self._retired and not self._sending:
                await self.close()

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, headers: list[tuple[str, str]], body: bytes
    ) -> AsyncIterator[Answer]:
        assert self._session is not None
        try:
            response = await self._session.request(
                method,
                self.url + path,
                data=_in_parts(body),
                headers=headers,
                allow_redirects=False,
            )
        except aiohttp.ClientConnectorError as error:
            raise UpstreamUnreachable(f"no connection: {_reason(error)}") from error
        except aiohttp.ConnectionTimeoutError as error:
            raise UpstreamUnreachable(f"no connection within {CONNECT_S:g} s") from error
        except TimeoutError as error:
            raise self._silent() from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamError(f"no answer: {_reason(error)}") from error
        try:
            if response.status in (401, 407):  # the client's is not the key that is wrong
                raise UpstreamError("it does not take the gateway's key")
            if not 200 <= response.status < 600:
                raise UpstreamError(f"it answers with the status {response.status}")
            yield Answer(response.status, list(response.raw_headers), self._parts(response))
        finally:
            response.close()  # the connection too, unless the whole body was read

    async def _parts(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        try:
            async for part in response.content.iter_any():
                yield part
        except TimeoutError as error:
            raise self._silent() from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamError(f"broken off: {_reason(error)}") from error

    def _silent(self) -> UpstreamSilent:
        return UpstreamSilent(f"silent for {self._silence_s:g} s")

    # -- what it says of itself --------------------------------------------------------------

    async def models(self) -> list[str]:
        """The names of the models that it serves. Raises UpstreamError."""
        status, body = await self._ask("/v1/models")
        try:
            names = [model["id"] for model in json.loads(body)["data"]]
        except (ValueError, LookupError, TypeError):
            names = []
        if status != 200 or not names or not all(isinstance(name, str) for name in names):
            raise UpstreamError(f"{self.url}/v1/models lists no models (status {status})")
        return names

    async def load(self) -> Load | None:
        """How many requests run and wait in it, or None where it never tells.

        Raises UpstreamError where it cannot be asked now.
        """
        for told in self._loads:
            path, read = told
            status, body = await self._ask(path)
            found = read(body) if status == 200 else None
            if found is not None:
                self._loads = (told, *(other for other in _LOADS if other is not told))
                return found
        return None

    async def lives(self) -> bool:
        """Whether it answers."""
        try:
            status, _ = await self._ask("/health")
            if status == 404:  # not every server has it
                status, _ = await self._ask("/v1/models")
        except UpstreamError:
            return False
        return status < 500

    async def _ask(self, path: str) -> tuple[int, str]:
        assert self._session is not None, "open() comes first"
        try:
            async with asyncio.timeout(ASK_S), self._session.get(self.url + path) as response:
                body = b""
                async for part in response.content.iter_any():
                    body += part
                    if len(body) > LONGEST:
                        raise UpstreamError(f"{self.url}{path}: an endless answer")
                return response.status, body.decode(errors="replace")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise UpstreamError(f"{self.url}{path}: {_reason(error)}") from error


def _in_parts(body: bytes) -> bytes | BytesIO:
    """A large body is written piece by piece, so that nobody else's tokens wait for it."""
    return body if len(body) < 1 << 18 else BytesIO(body)


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
