"""A gateway on a real socket, in a thread, and a client to talk to it."""

import asyncio
import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fairlane.gateway.app import Gateway
from fairlane.gateway.config import GatewayConfig
from fairlane.gateway.run import DrainingServer, Running, application
from fairlane.gateway.wire import Hatch, RemoteDesk
from fairlane.http_server import in_thread
from tests.processes import PATIENCE_S, started
from tests.talking import ask, until


class Direct:
    """A server at an address, and a client to talk to it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def connect(self) -> http.client.HTTPConnection:
        """A connection to it."""
        return http.client.HTTPConnection("127.0.0.1", port_of(self.url), timeout=PATIENCE_S)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        key: str | None = None,
        **headers: str,
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, body."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and "Content-Type" not in named:
            named["Content-Type"] = "application/json"
        if key is not None:
            named["Authorization"] = f"Bearer {key}"
        return ask(port_of(self.url), method, path, named, body)


class Site(Direct):
    """A running gateway."""

    def __init__(self, running: Running, server: DrainingServer, url: str) -> None:
        super().__init__(url)
        self.running = running
        self.server = server

    def complete(
        self, tokens: int, key: str | None = None, **fields: Any
    ) -> tuple[int, dict[str, str], bytes]:
        """A streamed completion of so many tokens."""
        body = {"model": "tiny", "prompt": "a b c", "max_tokens": tokens, "stream": True}
        return self.request("POST", "/v1/completions", {**body, "user": "u", **fields}, key)

    def clients(self, key: str | None = None) -> dict[str, Any]:
        """What it tells of its clients, once all requests are settled."""
        until(lambda: self.running.live == 0)
        found: dict[str, Any] = json.loads(self.request("GET", "/fairlane/tenants", key=key)[2])
        clients: dict[str, Any] = found["clients"]
        return clients

    def upstreams(self, key: str | None = None) -> dict[str, Any]:
        """What it tells of its upstreams, by name."""
        found = json.loads(self.request("GET", "/fairlane/upstreams", key=key)[2])["upstreams"]
        return {one["upstream"]: one for one in found}


@contextmanager
def gateway(*upstreams: str, folder: Path | None = None, **tables: Any) -> Iterator[Site]:
    """Start one with these upstreams, and these tables of its configuration.

    clock: seconds since 1970, for usage.
    """
    clock = tables.pop("clock", time.time)
    document = {"upstreams": {f"u{i}": {"url": url} for i, url in enumerate(upstreams)}}
    window = tables.pop("window", None)
    for table in document["upstreams"].values():
        if window is not None:
            table["window"] = window
    config = GatewayConfig.parse({**document, **tables}, folder or Path())
    with serving(Running(config, clock=clock)) as site:
        yield site


class ThroughSockets(DrainingServer):
    """One whose application asks its desk over a pair of sockets, as a worker does."""

    @staticmethod
    def application(running: Running) -> Gateway:
        """What it serves."""
        ends = socket.socketpair()
        nothing = Hatch(running.desk, lambda _: None)
        desk = RemoteDesk(running.door, lambda _: None, lambda: None)

        async def opens() -> None:
            await running.open()
            loop = asyncio.get_running_loop()
            for channel, end in zip((nothing.channel, desk.channel), ends, strict=True):
                await loop.create_connection(lambda it=channel: it, sock=end)  # type: ignore[misc]

        async def closes() -> None:
            desk.channel.close()
            nothing.channel.close()
            await running.close()

        upstreams = running.fleet.upstreams
        return application(
            running.config, running.door, desk, upstreams, opens, closes, running.name
        )


SERVER: ContextVar[type[DrainingServer]] = ContextVar("SERVER", default=DrainingServer)


@contextmanager
def serving(running: Running) -> Iterator[Site]:
    """Start one."""
    server: DrainingServer
    kind = SERVER.get()

    def make(ready: Callable[[], None]) -> DrainingServer:
        nonlocal server
        server = kind(running, ready)
        return server

    with in_thread(make) as url:
        yield Site(running, server, url)


@contextmanager
def command(
    *options: str, shell: tuple[str, ...] = ()
) -> "Iterator[tuple[subprocess.Popen[str], str]]":
    """`fairlane gateway` in a process of its own, with port 0, and its address.

    shell: what starts it.
    """
    words = [*shell, sys.executable, "-m", "fairlane", "gateway", "--port", "0", *options]
    with started(*words) as process:
        assert process.stderr is not None
        said = ""
        for said in process.stderr:
            if "ready at http://127.0.0.1:" in said:
                break
        yield process, said.split()[-1]


def port_of(url: str) -> int:
    """The port of an address."""
    port = urlsplit(url).port
    assert port is not None
    return port


def data_of(stream: bytes) -> list[Any]:
    """The data of a stream's events, parsed where it is JSON."""
    lines = [line[6:] for line in stream.decode().splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


__all__ = [
    "SERVER",
    "Site",
    "ThroughSockets",
    "data_of",
    "gateway",
    "port_of",
    "serving",
    "until",
]
