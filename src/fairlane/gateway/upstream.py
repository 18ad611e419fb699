"""One upstream over HTTP: requests to it, what it serves, how loaded it is, whether it lives.

What is sent carries the upstream's own key; a client's never gets here. Answers are asked for
unpacked, and pass as they come.
"""

import asyncio
import json
import ssl
from collections.abc import Iterable

from fairlane.gateway.http_client import Client, Connection, Headers, UpstreamError
from fairlane.gateway.signals import LONGEST, Load, from_loads, from_metrics

ASK_S = 5.0
CONNECT_S = 10.0
# Between two machines alone, or made anew for the next one.
_NOT_PASSED = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade host content-length expect".split()
)
# Said to us, not to the engine: who it is from, and what an engine would believe unseen.
_OURS = frozenset(b"authorization x-api-key api-key cookie forwarded accept-encoding".split())
_OUR_PREFIXES = (b"x-fairlane-", b"x-forwarded-", b"x-llm-d-", b"x-dynamo-", b"x-data-parallel-")


Answer = Connection  # one at a time


def headers_for_upstream(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """What goes on of a client's headers."""
    named = _connection_names(headers)
    return [
        (name, value)
        for name, value in headers
        if name not in _NOT_PASSED
        and name not in _OURS
        and name not in named
        and not name.startswith(_OUR_PREFIXES)
    ]


def headers_for_client(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """What goes on of an upstream's headers; the length is ours to say."""
    return [
        (name.lower(), value)
        for name, value in headers
        if name.lower() not in _NOT_PASSED and name.lower() not in (b"set-cookie", b"date")
    ]


def _connection_names(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """Headers that `Connection` names: they are for the next machine alone."""
    names = b",".join(value for name, value in headers if name == b"connection")
    return frozenset(name.strip().lower() for name in names.split(b","))


class Upstream:
    """One engine's server.

    url: without `/v1`. key: sent as its API key. ca: a file of certificates to trust, for https;
    verify: whether its certificate is looked at. silence_s: how long it may say nothing.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        ca: str | None = None,
        verify: bool = True,
        silence_s: float = 600.0,
    ) -> None:
        self.url = url
        headers: Headers = [(b"Accept-Encoding", b"identity")]
        if key is not None:
            headers.append((b"Authorization", f"Bearer {key}".encode()))
        self._client = Client(
            url, headers=headers, tls=_tls(ca, verify) if url.startswith("https:") else None,
            connect_s=CONNECT_S, silence_s=silence_s,
        )  # fmt: skip

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def send(self, method: str, path: str, headers: Headers, body: bytes) -> Answer:
        """Send a request and wait for the head of its answer.

        `async with` is around the answer; leaving it early hangs up on the upstream. Raises
        UpstreamError where no head came, and from `parts` where the body broke off.
        """
        return await self._client.request(method, path, headers, body)

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
        """How many requests run and wait in it, or None where it does not tell."""
        for path, read in (("/metrics", from_metrics), ("/v1/loads", from_loads)):
            try:
                status, body = await self._ask(path)
            except UpstreamError:
                return None
            found = read(body) if status == 200 else None
            if found is not None:
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
            async with asyncio.timeout(ASK_S), await self.send("GET", path, [], b"") as answer:
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


def _tls(ca: str | None, verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
