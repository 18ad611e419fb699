"""The simulated engine on a socket: in a process of its own, or a thread."""

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fairlane import http_server
from fairlane.addresses import url_of
from fairlane.simulated.app import SimulatedEngine

_GRACE_S = 3  # for clients to read how it ends


def serve(
    engine: SimulatedEngine, listening: socket.socket, ready: Callable[[str], None]
) -> signal.Signals | None:
    """Serve until SIGTERM or SIGINT, which cut what is under way; says which it was.

    ready: is called with the address once requests are taken.
    """
    server = _Server(engine, lambda: ready(url_of(listening)))
    server.run(sockets=[listening])
    return server.ended_by


@contextmanager
def in_thread(engine: SimulatedEngine, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve in a thread while the block runs; gives the address. Port 0: any that is free."""
    with http_server.in_thread(lambda ready: _Server(engine, ready), host, port) as url:
        yield url


class _Server(http_server.HttpServer):
    """Ends what is under way when it is told to end."""

    def __init__(self, engine: SimulatedEngine, ready: Callable[[], None]) -> None:
        super().__init__(engine, ready, lifespan="off", timeout_graceful_shutdown=_GRACE_S)
        self._engine = engine

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop the engine, then the server."""
        self._engine.close()
        await super().shutdown(sockets)
