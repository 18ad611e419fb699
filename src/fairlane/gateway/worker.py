"""One of several processes that pass bytes and ask another one for turns: python -m, by workers.py.

It has the sockets that it was started with: one to listen, one to the process that decides. It ends
when that one says so, or is gone.
"""

import asyncio
import logging
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from fairlane.door.door import Door
from fairlane.gateway.config import GatewayConfig
from fairlane.gateway.run import KEEP_ALIVE_S, application, collect_seldom
from fairlane.gateway.upstream import Address, Upstream
from fairlane.gateway.wire import Message, RemoteDesk, first
from fairlane.http_server import HttpServer

_QUIET = logging.getLogger("fairlane.gateway.worker")  # the process that decides says it all once
_QUIET.addHandler(logging.NullHandler())
_QUIET.propagate = False


@dataclass(frozen=True, slots=True)
class Start:
    """What a worker is to know before it begins."""

    config: GatewayConfig
    addresses: Mapping[str, Address]
    name: str


class Worker:
    """See the module."""

    def __init__(self, start: Start, to_desk: socket.socket) -> None:
        self._socket = to_desk
        self._addresses: dict[str, Address] = {}
        self._first = start.addresses
        self._upstreams: dict[str, Upstream] = {}
        door = Door(start.config.access, log=_QUIET)
        self._desk = RemoteDesk(door, self._told, self._lost)
        self._app = application(
            start.config, door, self._desk, self._upstreams, self._open, self._close, start.name
        )
        self.server = HttpServer(
            self._app, self._ready, lifespan="on", timeout_keep_alive=KEEP_ALIVE_S
        )

    async def _open(self) -> None:
        self._change(self._first)
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self._desk.channel, sock=self._socket)

    async def _close(self) -> None:
        for upstream in self._upstreams.values():
            await upstream.close()
        self._desk.channel.close()

    def _ready(self) -> None:
        collect_seldom()
        self._desk.channel.send("ready")

    def _told(self, message: Message) -> None:
        kind, *rest = message
        if kind == "upstreams":
            self._change(*rest)
        elif kind == "drain":
            self._app.drain()
        else:  # stop
            self.server.should_exit = True

    def _lost(self) -> None:
        self.server.should_exit = self.server.force_exit = True

    def _change(self, addresses: Mapping[str, Address]) -> None:
        """From now on these are the upstreams."""
        for name in self._addresses.keys() | addresses.keys():
            if self._addresses.get(name) == addresses.get(name):
                continue
            old = self._upstreams.pop(name, None)
            if old is not None:
                old.retire()
            if name in addresses:
                self._upstreams[name] = Upstream(addresses[name])
        self._addresses = dict(addresses)


def main() -> None:
    """Serve until told to stop."""
    logging.basicConfig(format="fairlane: %(message)s", level=logging.WARNING)
    listening, to_desk = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    [start] = first(to_desk)
    Worker(start, to_desk).server.run(sockets=[listening])


if __name__ == "__main__":
    main()
