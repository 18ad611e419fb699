"""One upstream over HTTP: requests to it, what it serves, how loaded it is, whether it lives.

What is sent carries the upstream's own key; a client's never gets here. Answers are asked for
unpacked, and pass as they come.
"""

import asyncio
import json
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fairlane.door.tenants import name_of
from fairlane.gateway.http_client import Client, Connection, Headers, UpstreamError
from fairlane.gateway.signals import LONGEST, Load, from_loads, from_metrics

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


Answer = Connection  # one at a time


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
        self._client_header = address.client_header.encode()
        headers: Headers = [(b"Accept-Encoding", b"identity")]
        if address.key is not None:
            headers.append((b"Authorization", f"Bearer {address.key}".encode()))
        tls = _tls(address) if address.url.startswith("https:") else None
        self._client = Client(
            address.url, headers=headers, tls=tls, connect_s=CONNECT_S, silence_s=address.silence_s
        )
        self._loads = _LOADS

    def naming(self, client: str, headers: Headers) -> Headers:
        """The headers, and among them whose request it is, where the upstream is told."""
        if not self._client_header:
            return headers
        mine = self._client_header
        others = [(name, value) for name, value in headers if name.replace(b"_", b"-") != mine]
        return [*others, (mine, name_of(client).encode())]

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    def retire(self) -> None:
        """Close all connections once the requests that are under way have ended."""
        self._client.retire()

    async def send(self, method: str, path: str, headers: Headers, body: bytes) -> Answer:
        """Send a request and wait for the head of its answer.

        `async with` is around the answer; leaving it early hangs up on the upstream. Raises
        UpstreamError where no head came, or none that is for a client to see, and from `parts`
        where the body broke off.
        """
        answer = await self._client.request(method, path, headers, body)
        if answer.status in (401, 407):  # the client's is not the key that is wrong
            answer.release()
            raise UpstreamError("it does not take the gateway's key")
        if not 200 <= answer.status < 600:
            answer.release()
            raise UpstreamError(f"it answers with the status {answer.status}")
        return answer

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
        try:
            asked = self._client.request("GET", path, [], b"")
            async with asyncio.timeout(ASK_S), await asked as answer:
                body = b""
                async for part in answer.parts:
                    body += part
                    if len(body) > LONGEST:
                        raise UpstreamError("an endless answer")
                return answer.status, body.decode(errors="replace")
        except TimeoutError:
            raise UpstreamError(f"{self.url}{path}: no answer within {ASK_S:g} s") from None
        except UpstreamError as error:
            raise UpstreamError(f"{self.url}{path}: {error}") from error


def _tls(address: Address) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=address.ca)
    if not address.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
