"""The two hosts of the door over real sockets, alike: the middleware for vLLM, and the gateway.

What is the door's is tested on both in the same words: by what a client is answered, and by whom
the host's scheduler took each request for. What only one host does is tested beside that host.
"""

import asyncio
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fairlane.dashboard.live import Live
from fairlane.door.config import Configuration
from fairlane.door.door import Door
from tests.door.town import Town
from tests.engines.identity.site import Engine, Server, running
from tests.gateway.site import SERVER, Site, ThroughSockets, gateway, port_of
from tests.loadgen.server import CompletionServer
from tests.talking import ask, bearer, until

WORK = "/v1/completions"


class Answer(NamedTuple):
    """What a client was answered. headers: in lower case."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def code(self) -> str:
        """Of an error."""
        return str(json.loads(self.text)["error"]["code"])

    @property
    def refusal(self) -> tuple[int, str]:
        """Of an error: its status, and its code."""
        return self.status, self.code


class Host(ABC):
    """A running server with the door. now: what its clock says."""

    port: int
    door: Door

    def __init__(self) -> None:
        self.now = 1000.0

    @property
    @abstractmethod
    def live(self) -> Live:
        """What its dashboard shows."""

    @abstractmethod
    def reached(self) -> Counter[str]:
        """Requests that the scheduler was given so far, by the client that it took them for."""

    @abstractmethod
    def inside(self) -> int:
        """How many requests the engine was given, so far."""

    @abstractmethod
    def hold(self) -> None:
        """From now on the engine only takes requests, ..."""

    @abstractmethod
    def release(self) -> None:
        """... until it answers them."""

    @abstractmethod
    def body(self, prompt_tokens: int) -> dict[str, Any]:
        """A request whose answer has one token."""

    def content(self) -> bytes:
        """Its bytes."""
        return json.dumps(self.body(1)).encode()

    def ask(
        self,
        method: str,
        path: str,
        headers: dict[str, str | bytes] | None = None,
        body: Any = None,
    ) -> Answer:
        """Any request."""
        status, found, text = ask(self.port, method, path, headers, body)
        return Answer(status, found, text.decode())

    def send(
        self,
        key: str | None = None,
        headers: dict[str, str | bytes] | None = None,
        *,
        path: str = WORK,
        prompt_tokens: int = 1,
        **fields: Any,
    ) -> Answer:
        """A request for work."""
        named = {**(headers or {}), **({} if key is None else bearer(key))}
        return self.ask("POST", path, named, {**self.body(prompt_tokens), **fields})

    def sender(self, *arguments: Any, **options: Any) -> str | None:
        """Whom the scheduler took a request for, that is sent as by `send`; None: nobody."""
        before = self.reached()
        status = self.send(*arguments, **options).status
        found = self.reached() - before
        assert found.total() == (status == 200)
        return next(iter(found), None)

    def left(self, key: str) -> dict[str, int]:
        """What is left of a tenant's limits, by their kind."""
        begin = "x-ratelimit-remaining-"
        headers = self.ask("GET", "/v1/models", bearer(key)).headers
        return {n.removeprefix(begin): int(v) for n, v in headers.items() if n.startswith(begin)}


class Plugin(Host):
    """The middleware, in front of an application with an engine of vLLM's shape."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.port = server.port
        self.door = server.identity._door
        self._server = server
        self.door.clock = lambda: self.now

    @property
    def live(self) -> Live:
        """As of `Host`."""
        return self._server.identity._producer

    @property
    def engine(self) -> Engine:
        """What stands for vLLM's."""
        return self._server.engine

    def reached(self) -> Counter[str]:
        """As of `Host`."""
        return Counter(str(client) for client in self._server.engine.clients)

    def inside(self) -> int:
        """As of `Host`."""
        return len(self._server.engine.clients)

    def hold(self) -> None:
        """As of `Host`."""
        self._server.engine.held = asyncio.Event()

    def release(self) -> None:
        """As of `Host`."""
        held = self._server.engine.held
        assert held is not None
        held._loop.call_soon_threadsafe(held.set)  # type: ignore[attr-defined]

    def body(self, prompt_tokens: int) -> dict[str, Any]:
        """As of `Host`."""
        return {"prompt_tokens": prompt_tokens}


class BeforeEngine(Host):
    """The gateway, before a server that answers completions."""

    def __init__(self, site: Site, upstream: CompletionServer) -> None:
        super().__init__()
        self.port = port_of(site.url)
        self.door = site.running.door
        self.door.clock = lambda: self.now
        self._site = site
        self._upstream = upstream

    @property
    def live(self) -> Live:
        """As of `Host`."""
        return self._site.running.desk.live

    def reached(self) -> Counter[str]:
        """As of `Host`."""
        until(lambda: self._site.running.live == 0)  # an answer is there before its account is
        books = self._site.running.fleet.models["tiny"].pool.books
        return Counter({name: one["arrivals"] for name, one in books.snapshot()["clients"].items()})

    def inside(self) -> int:
        """As of `Host`."""
        return len(self._upstream.seen)

    def hold(self) -> None:
        """As of `Host`."""
        self._upstream.hold = 10**9

    def release(self) -> None:
        """As of `Host`."""
        self._upstream.release()

    def body(self, prompt_tokens: int) -> dict[str, Any]:
        """As of `Host`: a stream, since that is what the server below makes wait."""
        prompt = "a " * prompt_tokens
        return {"model": "tiny", "prompt": prompt, "max_tokens": 1, "stream": True, "user": "bob"}


@contextmanager
def _plugin(town: Town | None, tables: dict[str, Any]) -> Iterator[Host]:
    document = {} if town is None else town.document(**tables)
    config = Configuration.parse(document, Path() if town is None else town.folder)
    with running(config.access, Engine(), dashboard=config.dashboard) as server:
        yield Plugin(server)


@contextmanager
def _gateway(town: Town | None, tables: dict[str, Any]) -> Iterator[Host]:
    document = {} if town is None else town.document(**tables)
    folder = None if town is None else town.folder
    with CompletionServer() as upstream, gateway(upstream.url, folder=folder, **document) as site:
        yield BeforeEngine(site, upstream)


@contextmanager
def _worker(town: Town | None, tables: dict[str, Any]) -> Iterator[Host]:
    """The gateway where one process passes bytes and another decides."""
    token = SERVER.set(ThroughSockets)
    try:
        with _gateway(town, tables) as host:
            yield host
    finally:
        SERVER.reset(token)


HOSTS = {"plugin": _plugin, "gateway": _gateway, "worker": _worker}
